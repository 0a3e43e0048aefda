package process

import (
	"context"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// stop ends an engine: it is asked to shut down where it knows how, for which it
// has half of the time, then terminated, for which it has the rest, then killed;
// when ctx ends, killed at once. It returns when nothing of the engine is left, or
// a *tier.StuckError.
func (m *Mover) stop(ctx context.Context, c *child, shutdown Request) error {
	c.once.Do(func() { close(c.asked) })
	ctx, cancel := context.WithTimeout(ctx, m.opts.StopTimeout)
	defer cancel()
	if m.sys.terminate != nil || shutdown.Path != "" {
		if shutdown.Path != "" {
			m.askToEnd(ctx, c, shutdown)
		}
		// The signal waits for an engine that is frozen, and is the first thing it
		// meets when it goes on.
		c.signal(m.sys.terminate)
		c.thaw()
		select {
		case <-c.gone:
			return nil
		case <-ctx.Done():
		}
		if !c.hasEnded() {
			m.log.Warn("an engine is killed, as it did not end when asked", "model", c.model, "pid", c.pid)
		}
	}
	return m.kill(c)
}

// askToEnd sends the request. An engine that does not answer must not lose the
// time that it has once it is terminated.
func (m *Mover) askToEnd(ctx context.Context, c *child, shutdown Request) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StopTimeout/2)
	defer cancel()
	life, end := c.while(ctx)
	defer end()
	if err := sendAll(life, c.url, c.model, []Request{shutdown}); err != nil && !c.hasEnded() {
		m.log.Info("an engine does not shut down when asked", "model", c.model, "err", err)
	}
}

// shutdown is the request that asks the engine to end, where it can answer one.
func (s *slot) shutdown() Request {
	if s.state == Running || s.state == Asleep {
		return s.engine.Shutdown
	}
	return Request{}
}

// kill ends an engine at once.
func (m *Mover) kill(c *child) error {
	c.once.Do(func() { close(c.asked) })
	began := time.Now()
	if c.cage != nil {
		c.cage.kill() // reaches those that hide; where it fails, the signal is left
	}
	c.signal(m.sys.kill)
	limit := time.NewTimer(m.killLimit)
	defer limit.Stop()
	select {
	case <-c.gone:
		return nil
	case <-limit.C:
		return &tier.StuckError{Model: c.model, What: "The killed engine", After: time.Since(began).Round(time.Millisecond), Bytes: m.presentIn(c)}
	}
}
