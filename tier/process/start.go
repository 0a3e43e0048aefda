package process

import (
	"context"
	"errors"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// startTries is how often an engine is started when somebody else took its port.
const startTries = 3

// start starts the engine of a slot and waits until it is ready and warm.
func (m *Mover) start(ctx context.Context, s *slot, rep *report) error {
	if err := m.prepare(ctx, s); err != nil {
		return err
	}
	m.note(s, "")
	for try := 1; ; try++ {
		port, err := m.newPort()
		if err != nil {
			return &EngineError{Model: s.name, Fault: CannotStart, Command: s.engine.Command, Err: err}
		}
		err = m.startOn(ctx, s, port, rep)
		if ee, ok := errors.AsType[*EngineError](err); !ok || ee.Fault != ExitedEarly || try == startTries || !portTaken(port) {
			return err
		}
		m.log.Info("an engine's port was taken, it gets another", "model", s.name, "port", port)
	}
}

// prepare finds out what there is to be started, and what is wrong with it.
func (m *Mover) prepare(ctx context.Context, s *slot) error {
	engine, err := m.opts.engineOf(ctx, s.model)
	if err != nil {
		return err
	}
	if _, _, err := engine.expand(&s.model, 0); err != nil {
		return err
	}
	files, err := weightFiles(&s.model)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.engine, s.files = engine, files
	return nil
}

func (m *Mover) startOn(ctx context.Context, s *slot, port int, rep *report) error {
	c, err := m.spawn(&s.engine, &s.model, port)
	if err != nil {
		m.givePort(port)
		return err
	}
	m.is(s, Starting, c)
	m.log.Info("an engine starts", "model", c.model, "pid", c.pid, "port", port, "command", c.command)
	var ahead *filling
	if !m.learnedOf(s).unmapped {
		ahead = m.fill(ctx, s)
		defer ahead.stop()
	}
	err = m.awaitReady(ctx, c, &s.engine, m.opts.StartTimeout, NeverReady, func() error { return m.sample(s, c, ahead, rep) })
	if err != nil {
		return m.abandon(s, c, err)
	}
	seen, err := m.look(c, s.files)
	if err != nil {
		return m.abandon(s, c, c.fail(Ended, c.began, err))
	}
	m.learn(s, &seen)
	if excess := m.checkExcess(s, c, seen.needs()); excess != nil {
		return m.abandon(s, c, excess)
	}
	// An engine that copies its weights has read them all; one that maps them may
	// have touched none yet.
	if ahead != nil && seen.maps() {
		if err := m.await(ctx, c, ahead, rep); err != nil {
			return m.abandon(s, c, err)
		}
	}
	rep.at(rep.most)
	m.is(s, Running, c)
	m.log.Info("an engine is ready", "model", s.name, "took", time.Since(c.began))
	return nil
}

// sample looks at how much an engine has taken while it starts. That costs it at
// most a twentieth of the time.
func (m *Mover) sample(s *slot, c *child, ahead *filling, rep *report) error {
	if ahead != nil {
		rep.at(tier.Bytes(ahead.bytes.Load()))
	}
	now := time.Now()
	if m.sys.usage == nil || now.Before(rep.next) {
		return nil
	}
	u, err := m.sys.usage(c.members(), false)
	cost := time.Since(now)
	rep.next = now.Add(max(20*cost, 20*time.Millisecond))
	if err != nil {
		return nil // it has ended, which is seen elsewhere
	}
	took := u.own().Plus(min(u.File, sizeOf(s.files)))
	m.mu.Lock()
	s.learned.peak = max(s.learned.peak, took)
	m.mu.Unlock()
	rep.at(took)
	return m.checkExcess(s, c, took)
}

func (m *Mover) checkExcess(s *slot, c *child, took tier.Bytes) error {
	allowed := m.opts.allowed(&s.model)
	if took <= allowed {
		return nil
	}
	err := c.fail(TookTooMuch, c.began, nil)
	err.Took, err.Allowed = took, allowed
	return err
}

// await waits for a refill, and reports how far it is. What goes wrong with it is
// not the engine's fault and does it no harm.
func (m *Mover) await(ctx context.Context, c *child, f *filling, rep *report) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		rep.at(tier.Bytes(f.bytes.Load()))
		select {
		case <-f.done:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil
		case <-c.ended:
			if err := m.kill(c); err != nil {
				return err
			}
			return c.fail(Ended, c.began, c.exited())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
