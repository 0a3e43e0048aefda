package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// What may be found not to work here, see Status.
const (
	lackCgroup  = "cgroup"
	lackPageOut = "process_madvise"
	lackReclaim = "memory.reclaim"
)

const (
	// thawLimit is how long a thawed engine has to say that it is ready.
	thawLimit = 30 * time.Second
	// undoLimit is how long it may take to undo a move that was called off.
	undoLimit = 5 * time.Second
	// fewLeft is how much of the weights may be left by paging out for it to be tried
	// once more.
	fewLeft = 4 * tier.MiB
	// freezeLimit is how long an engine may take to stand still.
	freezeLimit = 5 * time.Second
)

// rest puts a running engine to rest in the best way that works.
func (m *Mover) rest(ctx context.Context, s *slot, c *child, rep *report) error {
	why := "as Engine.Standby says"
	if s.engine.Standby <= StandbyFreeze {
		err := m.freeze(ctx, s, c, rep)
		if err == nil || ctx.Err() != nil || c.hasEnded() {
			return err
		}
		why = err.Error()
	}
	if s.engine.Standby != StandbyStop && s.engine.Sleeper != nil {
		err := m.sleep(ctx, s, c)
		if err == nil {
			m.note(s, "asleep: "+why)
			return nil
		}
		if ctx.Err() != nil || c.hasEnded() {
			return err
		}
		why = err.Error()
	}
	m.log.Info("an engine is stopped for the swap tier", "model", s.name, "why", why)
	if err := m.halt(ctx, s, c); err != nil {
		return err
	}
	m.note(s, "stopped: "+why)
	return nil
}

// freeze freezes an engine and pages its weights out. Where that would not free
// them it returns an error, with the engine as it was.
func (m *Mover) freeze(ctx context.Context, s *slot, c *child, rep *report) (err error) {
	if c.cage == nil && m.sys.suspend == nil {
		return errors.New("processes cannot be frozen here")
	}
	seen, err := m.look(c, s.files)
	if err != nil {
		return err
	}
	insists := s.engine.Standby == StandbyFreeze
	pageOut := m.canPageOut(c)
	switch {
	case insists:
	case !seen.maps():
		return fmt.Errorf("freezing would free nothing, as it maps %v of %v of weights", seen.mapped, seen.weights)
	case pageOut != nil && !m.opts.LeaveCached:
		return pageOut
	}
	frozen := false
	defer func() {
		if !frozen { // also where progress panicked
			err = m.unfreeze(s, c, err)
		}
	}()
	if err := m.suspend(ctx, c); err != nil {
		return err
	}
	m.is(s, Frozen, c)
	note := "frozen, its weights left to the kernel"
	if !m.opts.LeaveCached {
		if pageOut == nil {
			pageOut = m.pageOut(ctx, s, c, seen.pids, rep)
		}
		if pageOut != nil && (!insists || ctx.Err() != nil) {
			return pageOut
		}
		note = m.noteOfPageOut(s, pageOut)
	}
	m.note(s, note)
	frozen = true
	return nil
}

// again pages out what has come back of a frozen engine.
func (m *Mover) again(ctx context.Context, s *slot, c *child, rep *report) error {
	if m.opts.LeaveCached {
		return nil
	}
	err := m.pageOut(ctx, s, c, c.members(), rep)
	if ctx.Err() != nil || c.hasEnded() {
		return err
	}
	m.note(s, m.noteOfPageOut(s, err))
	return nil
}

var errNotStill = errors.New("its processes did not stand still in time")

func (m *Mover) suspend(ctx context.Context, c *child) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freezeLimit, errNotStill)
	defer cancel()
	return c.freeze(ctx)
}

// unfreeze gives an engine back its life when a freeze failed.
func (m *Mover) unfreeze(s *slot, c *child, err error) error {
	if e := c.thaw(); e != nil {
		return m.abandon(s, c, errors.Join(err, e))
	}
	m.is(s, Running, c)
	return err
}

// noteOfPageOut looks at what paging out has come to.
func (m *Mover) noteOfPageOut(s *slot, err error) string {
	if err != nil {
		return "frozen, but its weights stay: " + err.Error()
	}
	if left, sure := m.sys.cachedOf(s.files); sure && left > sizeOf(s.files)/16 {
		return fmt.Sprintf("frozen; %v of its weights would not go: somebody else maps the files, or the engine has locked them", left)
	}
	return "frozen, its weights paged out"
}

// thaw brings the weights back and lets the engine go on.
func (m *Mover) thaw(ctx context.Context, s *slot, c *child, rep *report) error {
	ahead := m.fill(ctx, s)
	defer ahead.stop()
	err := m.await(ctx, c, ahead, rep)
	ahead.stop()
	if err != nil {
		if !m.opts.LeaveCached {
			m.sys.dropAll(s.files) // nobody has mapped them again yet
		}
		return err
	}
	if err := c.thaw(); err != nil {
		return m.abandon(s, c, c.fail(Unresponsive, time.Now(), err))
	}
	m.is(s, Starting, c)
	err = m.awaitReady(ctx, c, &s.engine, min(m.opts.StartTimeout, thawLimit), Unresponsive, nil)
	switch {
	case err == nil:
		rep.at(rep.most)
		m.is(s, Running, c)
		m.note(s, "")
		return nil
	case ctx.Err() != nil && !c.hasEnded():
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if e := m.freeze(undo, s, c, &report{}); e != nil {
			return m.abandon(s, c, errors.Join(err, e))
		}
		return err
	}
	return m.abandon(s, c, err)
}

// sleep has the engine sleep by its own means.
func (m *Mover) sleep(ctx context.Context, s *slot, c *child) error {
	err := m.within(ctx, c, m.opts.StartTimeout, s.engine.Sleeper.Sleep)
	if err == nil {
		m.is(s, Asleep, c)
		return nil
	}
	err = fmt.Errorf("its Sleeper: %w", err)
	if ctx.Err() == nil || c.hasEnded() {
		return err
	}
	undo := context.WithoutCancel(ctx)
	if e := m.within(undo, c, undoLimit, s.engine.Sleeper.Wake); e != nil {
		return m.abandon(s, c, errors.Join(err, e))
	}
	if e := m.awaitReady(undo, c, &s.engine, undoLimit, Unresponsive, nil); e != nil {
		return m.abandon(s, c, errors.Join(err, e))
	}
	return err
}

// wake wakes an engine that sleeps by its own means.
func (m *Mover) wake(ctx context.Context, s *slot, c *child) error {
	began := time.Now()
	err := m.within(ctx, c, m.opts.StartTimeout, s.engine.Sleeper.Wake)
	if err != nil {
		if ctx.Err() == nil {
			err = c.fail(Unresponsive, began, err)
		}
	} else {
		err = m.awaitReady(ctx, c, &s.engine, m.opts.StartTimeout, Unresponsive, nil)
	}
	switch {
	case err == nil:
		m.is(s, Running, c)
		m.note(s, "")
		return nil
	case ctx.Err() != nil && !c.hasEnded():
		if e := m.within(context.WithoutCancel(ctx), c, undoLimit, s.engine.Sleeper.Sleep); e == nil {
			return err
		}
	}
	return m.abandon(s, c, err)
}

// within calls one of a Sleeper's methods, bounded by limit and by the engine's
// life.
func (m *Mover) within(ctx context.Context, c *child, limit time.Duration, call func(ctx context.Context, url, model string) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	life, end := c.while(ctx)
	defer end()
	return guarded(life, "Engine.Sleeper", func() error { return call(life, c.url, c.model) })
}

// freeze returns when all processes of the engine stand still, or with an error
// when ctx ends.
func (c *child) freeze(ctx context.Context) error {
	if c.cage != nil {
		return c.cage.freeze(ctx)
	}
	var wait backoff
	for {
		if err := c.signal(c.sys.suspend); err != nil {
			return err
		}
		if c.sys.suspended == nil || c.sys.suspended(c.members()) {
			return nil
		}
		if c.hasEnded() {
			return errEnded
		}
		if !wait.sleep(ctx.Done()) {
			return context.Cause(ctx)
		}
	}
}

// thaw lets them go on.
func (c *child) thaw() error {
	if c.cage != nil {
		return c.cage.thaw()
	}
	return c.signal(c.sys.resume)
}

// canPageOut returns nil where paging out is not known to fail.
func (m *Mover) canPageOut(c *child) error {
	switch {
	case m.sys.pageOut != nil && !m.lacking(lackPageOut):
		return nil
	case c.cage != nil && !m.lacking(lackReclaim):
		return nil
	}
	return errors.New("weights cannot be paged out here")
}

// pageOut pushes the weights out of memory, as far as they go.
func (m *Mover) pageOut(ctx context.Context, s *slot, c *child, pids []int, rep *report) error {
	defer m.sys.dropAll(s.files) // what was read ahead and never mapped
	err := errors.New("this system has no process_madvise")
	if m.sys.pageOut != nil && !m.lacking(lackPageOut) {
		err = m.advise(ctx, s, c, pids, rep)
		if left, sure := m.sys.cachedOf(s.files); err == nil && sure && left > 0 && left <= fewLeft {
			// The kernel passes over pages that a processor has touched a moment ago and
			// keeps on a list of its own; to drop what it can makes it look through those.
			m.sys.dropAll(s.files)
			err = m.advise(ctx, s, c, pids, rep)
		}
		if err == nil || ctx.Err() != nil {
			return causeOf(ctx, err)
		}
		if lasting(err) {
			m.lack(lackPageOut, err)
		}
	}
	if c.cage == nil || m.lacking(lackReclaim) {
		return fmt.Errorf("weights cannot be paged out (process_madvise: %w)", err)
	}
	if e := c.cage.reclaim(sizeOf(s.files)); e != nil {
		if lasting(e) && !c.hasEnded() { // else its cgroup has gone with it
			m.lack(lackReclaim, e)
		}
		return fmt.Errorf("weights cannot be paged out (process_madvise: %w; memory.reclaim: %s)", err, reason(e))
	}
	return nil
}

// lasting reports whether err says that this system or this process will not do
// it the next time either.
func lasting(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
}

func (m *Mover) advise(ctx context.Context, s *slot, c *child, pids []int, rep *report) error {
	var out tier.Bytes
	for _, pid := range pids {
		regions, err := m.sys.regions(pid, s.files)
		if err != nil {
			if c.hasEnded() {
				return errEnded
			}
			continue
		}
		err = m.sys.pageOut(ctx, pid, regions, func(n tier.Bytes) {
			out = out.Plus(n)
			rep.at(out)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
