package process

import (
	"context"
	"errors"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Move implements tier.Mover. What it does follows from where the model is to be
// and what its engine does now:
//
//   - to ram: the engine is started; or its weights are read back and it is thawed
//     or woken. Its health page is asked before Move returns.
//   - to swap: a running engine is put to rest, see Standby. One that does not run
//     is started and put to rest where Options.Prestart says so, and else left for
//     its first promote to start.
//   - to storage: the engine is stopped. A stop that has begun is completed, and
//     when ctx ends, at once.
//
// Models are not divided: Move.Keep is ignored. Errors are *EngineError,
// *tier.InvalidError, *tier.InUseError or *tier.StuckError, within a
// *tier.MoveError where the engine is lost.
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if err := errors.Join(tier.CheckName("name", mv.Model.Name), checkTier(mv.From), checkTier(mv.To)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, s, err := m.begin(ctx, &mv.Model)
	if err != nil {
		return err
	}
	defer m.end(s)
	had, returned := s.child != nil, false
	defer func() {
		if !returned {
			m.breakOff(s, had)
		}
	}()
	err = m.move(ctx, s, &mv, had, progress)
	returned = true
	return err
}

// move carries out a move of a model that was claimed for it.
func (m *Mover) move(ctx context.Context, s *slot, mv *tier.Move, had bool, progress func(done tier.Bytes)) (err error) {
	if err := m.clearAway(s); err != nil {
		return m.settle(s, mv, had, err)
	}
	rep := &report{fn: progress, most: mv.Model.Size}
	switch mv.To {
	case tier.RAM:
		err = m.toRAM(ctx, s, rep)
	case tier.Swap:
		err = m.toSwap(ctx, s, mv.From, rep)
	default:
		err = m.toStorage(ctx, s)
	}
	return m.settle(s, mv, had, err)
}

// breakOff follows a move that did not return, as somebody's code panicked or
// ended the goroutine. An engine that it has started, or that does not answer yet,
// is killed: nobody knows of it.
func (m *Mover) breakOff(s *slot, had bool) {
	c := s.child
	if c == nil || had && s.state != Starting {
		return
	}
	err := m.abandon(s, c, nil)
	m.mu.Lock()
	s.tier = tier.Storage
	m.mu.Unlock()
	m.log.Error("an engine was killed, as its move was broken off", "model", s.name, "pid", c.pid, "err", err)
}

func checkTier(t tier.Tier) error {
	if !t.Valid() {
		return &tier.InvalidError{Field: "tier", Value: t.String(), Rule: "must be one of ram, swap, storage"}
	}
	return nil
}

// settle books how a move ended.
func (m *Mover) settle(s *slot, mv *tier.Move, had bool, err error) error {
	if c := s.child; c != nil && c.hasEnded() {
		if e := m.kill(c); e == nil { // it has nothing left
			if err == nil && mv.To != tier.Storage {
				err = c.fail(Ended, c.began, c.exited())
			}
			m.is(s, Stopped, nil)
		} else if !errors.Is(err, tier.ErrStuck) {
			err = errors.Join(err, e)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		s.tier, s.failure = mv.To, ""
		return nil
	}
	if _, ok := errors.AsType[*EngineError](err); ok {
		s.failure = err.Error()
	}
	_, stuck := errors.AsType[*tier.StuckError](err)
	if stuck || had && s.child == nil {
		s.tier = tier.Storage
		return &tier.MoveError{Model: s.name, From: mv.From, To: mv.To, Lost: true, Err: err}
	}
	return err
}

func (m *Mover) toRAM(ctx context.Context, s *slot, rep *report) error {
	c := s.child
	switch s.state {
	case Running:
		return m.recheck(ctx, s, c)
	case Frozen:
		return m.thaw(ctx, s, c, rep)
	case Asleep:
		return m.wake(ctx, s, c)
	}
	return m.start(ctx, s, rep)
}

func (m *Mover) toSwap(ctx context.Context, s *slot, from tier.Tier, rep *report) error {
	switch s.state {
	case Running:
		return m.rest(ctx, s, s.child, rep)
	case Frozen:
		return m.again(ctx, s, s.child, rep)
	case Asleep:
		return nil
	}
	switch {
	case from == tier.RAM: // it has ended, and the Manager does not know yet
		return &tier.MoveError{Model: s.name, From: from, To: tier.Swap, Lost: true, Err: errors.New(s.lastWords())}
	case !m.opts.Prestart:
		m.note(s, "not started yet: its first promote does that")
		return m.prepare(ctx, s)
	}
	if err := m.start(ctx, s, rep); err != nil {
		return err
	}
	if err := m.rest(ctx, s, s.child, rep); err != nil {
		return m.abandon(s, s.child, err)
	}
	return nil
}

func (m *Mover) toStorage(ctx context.Context, s *slot) error {
	m.note(s, "")
	if s.child == nil {
		return nil
	}
	return m.halt(ctx, s, s.child)
}

// halt stops the engine of a slot.
func (m *Mover) halt(ctx context.Context, s *slot, c *child) error {
	shutdown := s.shutdown()
	m.is(s, Stopping, c)
	if err := m.stop(ctx, c, shutdown); err != nil {
		return err
	}
	m.is(s, Stopped, nil)
	return nil
}

// clearAway ends what an earlier stop could not.
func (m *Mover) clearAway(s *slot) error {
	if s.state != Stopping {
		return nil
	}
	if err := m.kill(s.child); err != nil {
		return err
	}
	m.is(s, Stopped, nil)
	return nil
}

// abandon kills an engine that failed, and returns err.
func (m *Mover) abandon(s *slot, c *child, err error) error {
	m.is(s, Stopping, c)
	if errors.Is(err, tier.ErrStuck) {
		return err // it was killed, in vain
	}
	if e := m.kill(c); e != nil {
		return errors.Join(err, e)
	}
	m.is(s, Stopped, nil)
	return err
}

// recheck asks an engine that is said to run.
func (m *Mover) recheck(ctx context.Context, s *slot, c *child) error {
	err := m.awaitReady(ctx, c, &s.engine, min(m.opts.StartTimeout, thawLimit), Unresponsive, nil)
	if err != nil && ctx.Err() == nil {
		return m.abandon(s, c, err)
	}
	return err
}

// note keeps why a slot is as it is.
func (m *Mover) note(s *slot, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.note = why
}

func (s *slot) lastWords() string {
	if s.failure != "" {
		return s.failure
	}
	return "the engine of '" + s.name + "' does not run"
}

// report passes progress on, in bytes that are there or gone. It belongs to the
// goroutine of its move.
type report struct {
	fn   func(done tier.Bytes)
	most tier.Bytes
	done tier.Bytes
	next time.Time // when memory is sampled again
}

func (r *report) at(done tier.Bytes) {
	r.done = max(r.done, min(done, r.most))
	if r.fn != nil {
		r.fn(r.done)
	}
}
