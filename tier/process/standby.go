package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

const (
	// thawLimit is how long a thawed engine may take to be ready.
	thawLimit = 30 * time.Second
	// undoLimit is how long it may take to undo a cancelled move.
	undoLimit = 5 * time.Second
	// ownFloor is what an engine may have of its own without weights: llama.cpp takes 20
	// to 60 MiB.
	ownFloor = 64 * tier.MiB
	// freezeLimit is how long the processes of an engine may take to stop.
	freezeLimit = 5 * time.Second
)

// standby puts a running engine into the best standby that works.
func (m *Mover) standby(ctx context.Context, s *slot) error {
	c, why := s.child, "as Engine.Standby says"
	if s.engine.Standby <= StandbyFreeze {
		err := m.freeze(ctx, s)
		if err == nil || ctx.Err() != nil || c.hasExited() {
			return err
		}
		why = err.Error()
	}
	if s.engine.Standby != StandbyStop && s.engine.Sleeper != nil {
		err := m.sleep(ctx, s)
		if err == nil {
			m.note(s, WayAsleep, why)
			return nil
		}
		if ctx.Err() != nil || c.hasExited() {
			return err
		}
		why = err.Error()
	}
	m.log.Info("an engine is stopped for the swap tier", "model", s.name, "why", why)
	if err := m.halt(ctx, s); err != nil {
		return err
	}
	m.note(s, WayStopped, why)
	return nil
}

// freeze freezes an engine and leaves its weights in the page cache, as the kernel's to
// take. If that would free little it returns an error and leaves the engine as it was.
func (m *Mover) freeze(ctx context.Context, s *slot) (err error) {
	c := s.child
	if m.sys.suspend == nil && len(s.engine.Pause) == 0 {
		return errors.New("processes cannot be frozen here")
	}
	seen, err := m.look(c, false)
	if err != nil {
		return err
	}
	if s.engine.Standby != StandbyFreeze {
		keeps := seen.usage.own().Plus(seen.usage.Locked)
		switch frees := max(seen.mapped-seen.usage.Locked, 0); {
		case seen.hidden != nil:
			return fmt.Errorf("whether freezing would free anything cannot be seen: %w", seen.hidden)
		case !seen.maps():
			return fmt.Errorf("freezing would free nothing, as it maps %v of %v of weights", seen.mapped, seen.weights)
		case keeps > frees.Plus(ownFloor):
			return fmt.Errorf("freezing would free less than it keeps: it has %v of its own or locked, beside %v of mapped weights", keeps, frees)
		}
	}
	frozen := false
	defer func() {
		if frozen {
			return
		}
		if e := c.thaw(); e != nil {
			err = m.abandon(s, errors.Join(err, e))
			return
		}
		m.set(s, Running, c)
	}()
	still, cancel := context.WithTimeoutCause(ctx, freezeLimit, errors.New("its processes did not stop in time"))
	defer cancel()
	if err := c.freeze(still); err != nil {
		return err
	}
	m.set(s, Frozen, c)
	m.note(s, WayKept, "")
	frozen = true
	return nil
}

// thaw reads the weights back and resumes the engine.
func (m *Mover) thaw(ctx context.Context, s *slot, rep *report) error {
	c := s.child
	ahead := m.fill(ctx, s)
	defer ahead.stop()
	err := m.awaitFill(ctx, c, ahead, rep)
	ahead.stop()
	if err != nil {
		return err
	}
	if err := c.thaw(); err != nil {
		return m.abandon(s, c.fail(Unresponsive, time.Now(), err))
	}
	m.set(s, Starting, c)
	return m.ready(ctx, s, thawLimit, rep, func(ctx context.Context) error { return m.freeze(ctx, s) })
}

// ready waits until an engine that was thawed or woken is ready, or checks that one is
// that is taken to run. If ctx ends before, undo makes the engine what it was; if that
// fails, or the engine does, it is killed.
func (m *Mover) ready(ctx context.Context, s *slot, limit time.Duration, rep *report, undo func(context.Context) error) error {
	err := m.awaitReady(ctx, s.child, &s.engine, min(m.opts.startTimeout(&s.engine), limit), Unresponsive, nil)
	if err == nil {
		rep.at(rep.size)
		m.set(s, Running, s.child)
		return nil
	}
	return m.undo(ctx, s, err, undo)
}

func (m *Mover) undo(ctx context.Context, s *slot, err error, undo func(context.Context) error) error {
	if ctx.Err() != nil && !s.child.hasExited() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		e := undo(ctx)
		if e == nil {
			return err
		}
		err = errors.Join(err, e)
	}
	return m.abandon(s, err)
}

// sleep puts the engine to sleep by its Sleeper.
func (m *Mover) sleep(ctx context.Context, s *slot) error {
	c := s.child
	err := m.callSleeper(ctx, c, m.opts.startTimeout(&s.engine), s.engine.Sleeper.Sleep)
	if err == nil {
		m.set(s, Asleep, c)
		m.look(c, false) // whether it still maps its weights
		return nil
	}
	err = fmt.Errorf("its Sleeper: %w", err)
	if ctx.Err() == nil || c.hasExited() {
		return err
	}
	return m.undo(ctx, s, err, func(ctx context.Context) error {
		if err := m.callSleeper(ctx, c, undoLimit, s.engine.Sleeper.Wake); err != nil {
			return err
		}
		return m.awaitReady(ctx, c, &s.engine, undoLimit, Unresponsive, nil)
	})
}

// wake wakes the engine by its Sleeper.
func (m *Mover) wake(ctx context.Context, s *slot, rep *report) error {
	c, began := s.child, time.Now()
	sleep := func(ctx context.Context) error { return m.callSleeper(ctx, c, undoLimit, s.engine.Sleeper.Sleep) }
	err := m.callSleeper(ctx, c, m.opts.startTimeout(&s.engine), s.engine.Sleeper.Wake)
	if err == nil {
		return m.ready(ctx, s, m.opts.startTimeout(&s.engine), rep, sleep)
	}
	if ctx.Err() == nil {
		err = c.fail(Unresponsive, began, err)
	}
	return m.undo(ctx, s, err, sleep)
}

// callSleeper calls a method of a Sleeper, bounded by limit and by the engine's life.
func (m *Mover) callSleeper(ctx context.Context, c *child, limit time.Duration, call func(ctx context.Context, url, model string) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	life, end := c.while(ctx)
	defer end()
	return guarded(life, "Engine.Sleeper", func() error { return call(life, c.url, c.model) })
}

// halt stops the engine of a slot.
func (m *Mover) halt(ctx context.Context, s *slot) error {
	shutdown, was := s.shutdown(), s.state
	m.set(s, Stopping, s.child)
	return m.finish(ctx, s, was, shutdown)
}

// finish stops an engine that is Stopping by now and was in another state before.
func (m *Mover) finish(ctx context.Context, s *slot, was State, shutdown Request) error {
	if err := m.saveAndStop(ctx, s, s.child, was, shutdown); err != nil {
		return err
	}
	m.set(s, Stopped, nil)
	m.sweep(s)
	return nil
}

// stop ends an engine: it is asked to shut down if it knows how, for which it has half
// of the time, then terminated, for which it has the rest, then killed; a StopCommand has
// the time for itself. When ctx ends, it is killed at once. It returns when nothing of the engine is left, or a
// *tier.StuckError.
func (m *Mover) stop(ctx context.Context, c *child, shutdown Request) error {
	c.told.Store(true)
	limit, cancel := context.WithTimeout(ctx, m.opts.StopTimeout)
	defer cancel()
	if m.sys.terminate != nil || shutdown.Path != "" || c.foreign != nil {
		if shutdown.Path != "" {
			m.askToExit(limit, c, shutdown)
		}
		if c.foreign != nil && len(c.foreign.spec.Stop) > 0 {
			c.foreign.resume()
			own, cancel := context.WithTimeout(ctx, m.opts.StopTimeout)
			defer cancel()
			if limit = own; !c.foreign.runStopFor(limit) {
				return m.kill(c)
			}
		} else {
			// A frozen engine receives the signal when it resumes.
			c.signal(m.sys.terminate)
			c.thaw()
		}
		select {
		case <-c.done:
			return nil
		case <-limit.Done():
		}
		if !c.hasExited() {
			m.log.Warn("an engine is killed, as it did not exit when asked", "model", c.model, "pid", c.pid)
		}
	}
	return m.kill(c)
}

// askToExit sends the request. An engine that does not answer keeps the time that it
// has after it was terminated.
func (m *Mover) askToExit(ctx context.Context, c *child, shutdown Request) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StopTimeout/2)
	defer cancel()
	life, end := c.while(ctx)
	defer end()
	if err := sendAll(life, c.url, c.model, []Request{shutdown}); err != nil && !c.hasExited() {
		m.log.Info("an engine does not shut down when asked", "model", c.model, "err", err)
	}
}
