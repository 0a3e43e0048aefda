package process

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// State is what an engine does.
type State string

const (
	Stopped  State = "stopped"
	Starting State = "starting" // it runs, and its health page does not say ready yet
	Running  State = "running"
	Frozen   State = "frozen"
	Asleep   State = "asleep" // by its Sleeper
	Stopping State = "stopping"
)

// Way is what the swap tier is to an engine.
type Way string

const (
	WayKept     Way = "kept"      // frozen, its weights left in the page cache
	WayPagedOut Way = "paged out" // frozen, and all or some of its weights were dropped since
	WayAsleep   Way = "asleep"    // by its Sleeper
	WayStopped  Way = "stopped"
)

// slot is one model. Mover.mu guards it.
type slot struct {
	name     string
	model    tier.Model
	cancel   context.CancelCauseFunc // of the move under way; nil: none
	reported chan struct{}           // closed when the call of Crashed under way has returned; nil: none
	last     time.Time               // end of the last move, or of the engine

	aside chan struct{} // closed at the end of the Uncache or renewal under way, which a move ends; nil: none

	tier  tier.Tier
	state State // transition alone writes state, child and since
	child *child
	since time.Time

	// engine and files are written by the goroutine of the move under way, which
	// reads them, and state and child, without the lock.
	engine Engine
	files  []weightFile

	way      Way    // what swap is
	note     string // why
	failure  string // the last error of its engine
	renewal  string // why its engine was last renewed
	renewals int
	slowAt   time.Time // when it last was because it was slow
	talk     talk      // its conversations
	learned  *measure  // what is known of its engine with its model; measures.mu guards it
	seen     sight     // what the last look has seen of its engine
}

// transition sets what the engine does and its process, nil for none; the note was about
// what it did before. Mover.mu is held.
func (s *slot) transition(state State, c *child) {
	if s.state != state || s.child != c {
		s.since = time.Now()
	}
	s.state, s.child, s.way, s.note = state, c, "", ""
	if c == nil {
		s.seen = sight{}
	}
}

func (m *Mover) set(s *slot, state State, c *child) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.transition(state, c)
}

// note records what swap is to a slot, and why.
func (m *Mover) note(s *slot, way Way, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.way, s.note = way, why
}

// shutdown is the request that asks the engine to exit, if it can answer one.
func (s *slot) shutdown() Request {
	if s.state == Running || s.state == Asleep {
		return s.engine.Shutdown
	}
	return Request{}
}

// claim reserves a model for a move. It ends an Uncache of the model. A call of Crashed
// that is under way has callLimit to return, so that the Manager learns of things in order.
func (m *Mover) claim(ctx context.Context, model *tier.Model) (context.Context, *slot, error) {
	report, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[model.Name]
	for ; s != nil; s = m.slots[model.Name] {
		if s.aside != nil && ctx.Err() == nil {
			s.cancel(errMoves)
			m.await(ctx, s.aside)
		} else if s.reported != nil && report.Err() == nil {
			m.await(report, s.reported)
		} else {
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case m.closed:
		return nil, nil, tier.ErrClosed
	case s != nil && s.cancel != nil:
		return nil, nil, &tier.InUseError{Model: model.Name, Reason: "Model '" + model.Name + "' is moving already"}
	case s == nil:
		s = &slot{name: model.Name, state: Stopped, since: time.Now(), learned: new(measure)}
		m.slots[model.Name] = s
	}
	if s.model.Path != model.Path || !slices.Equal(s.model.Parts, model.Parts) || s.model.Size != model.Size || !maps.Equal(s.model.Labels, model.Labels) {
		s.learned = new(measure) // another model by that name, or another engine
	}
	s.model = *model
	return m.take(ctx, s), s, nil
}

// await waits without m.mu, which is held, until ch is closed or ctx ends.
func (m *Mover) await(ctx context.Context, ch <-chan struct{}) {
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-ch:
	case <-ctx.Done():
	}
}

// errMoves is the cause of an Uncache that a move ends.
var errMoves = errors.New("the model is moved")

// take marks a slot as busy until release. m.mu is held.
func (m *Mover) take(ctx context.Context, s *slot) context.Context {
	ctx, s.cancel = context.WithCancelCause(ctx)
	m.moves.Add(1)
	return ctx
}

// release gives a model back after a move or an Uncache.
func (m *Mover) release(s *slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.cancel(nil)
	s.cancel = nil
	if s.aside != nil {
		close(s.aside)
		s.aside = nil
	} else {
		s.last = time.Now()
	}
	if c := s.child; c != nil && closed(c.done) { // too late for the move to see
		m.engines.Go(func() { m.afterExit(c) })
	}
	if s.child == nil && s.tier == tier.Storage && m.measures.get(s.learned).Peak == 0 && s.failure == "" {
		delete(m.slots, s.name)
	}
	m.forgetOldest()
	m.moves.Done()
}

// maxRemembered is of how many models in storage it is remembered what their engines
// took and how they failed.
const maxRemembered = 1024

// forgetOldest drops what is known of the model in storage that was not moved for
// longest, if there are too many. m.mu is held.
func (m *Mover) forgetOldest() {
	if len(m.slots) <= maxRemembered {
		return
	}
	var oldest *slot
	for _, s := range m.slots {
		if s.idle() && (oldest == nil || s.last.Before(oldest.last)) {
			oldest = s
		}
	}
	if oldest != nil {
		delete(m.slots, oldest.name)
	}
}

// idle reports whether nothing of the model is left but what was learned of it.
func (s *slot) idle() bool {
	return s.cancel == nil && s.child == nil && s.tier == tier.Storage && s.reported == nil
}

// afterExit follows the end of an engine of which nothing is left. If it was not told
// to end, and no move is under way that returns it, it has crashed.
func (m *Mover) afterExit(c *child) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ports, c.port)
	s := m.slots[c.model]
	if s == nil || s.child != c || s.cancel != nil || m.closed {
		return
	}
	s.transition(Stopped, nil)
	s.tier, s.last = tier.Storage, s.since
	if c.told.Load() { // it was stuck, and who told it has returned that
		return
	}
	err := c.fail(Crashed, c.began, c.exitError())
	s.failure = err.Error()
	m.log.Error("an engine crashed", "model", c.model, "err", err)
	m.reportCrash(s, err)
}

// reportCrash calls Options.Crashed. m.mu is held.
func (m *Mover) reportCrash(s *slot, err error) {
	if m.opts.Crashed == nil {
		return
	}
	reported := make(chan struct{})
	s.reported = reported
	m.reports.Go(func() { // nothing waits for it longer than callLimit
		e := guarded(context.Background(), "Options.Crashed", func() error { m.opts.Crashed(s.name, err); return nil })
		if e != nil {
			m.log.Error("a crash was not reported", "model", s.name, "err", e)
		}
		m.mu.Lock()
		if s.reported == reported {
			s.reported = nil
		}
		m.mu.Unlock()
		close(reported)
	})
}

// report passes progress on, in bytes that are in memory or out of it. It belongs to
// the goroutine of its move.
type report struct {
	fn   func(done tier.Bytes)
	size tier.Bytes
	done tier.Bytes
	next time.Time // when memory is sampled again
}

func (r *report) at(done tier.Bytes) {
	r.done = max(r.done, min(done, r.size))
	if r.fn != nil {
		r.fn(r.done)
	}
}

// abandon kills the engine of a slot, because it failed with err, and returns err.
func (m *Mover) abandon(s *slot, err error) error {
	if s.child == nil {
		return err // it was killed already
	}
	m.set(s, Stopping, s.child)
	if errors.Is(err, tier.ErrStuck) {
		return err // so it was, without effect
	}
	if e := m.killFor(s); e != nil {
		return errors.Join(err, e)
	}
	return err
}

// killFor kills the engine of a slot.
func (m *Mover) killFor(s *slot) error {
	if err := m.kill(s.child); err != nil {
		return err
	}
	m.set(s, Stopped, nil)
	return nil
}

// exitOf returns the error of an engine that has exited, once nothing of it is left and
// all of its output was read.
func (m *Mover) exitOf(c *child, fault Fault, since time.Time) error {
	if err := m.kill(c); err != nil {
		return err
	}
	return c.fail(fault, since, c.exitError())
}

// kill ends an engine at once. It returns when nothing of it is left, or a
// *tier.StuckError.
func (m *Mover) kill(c *child) error {
	c.told.Store(true)
	began := time.Now()
	if f := c.foreign; f != nil { // its client is not killed before the StopCommand
		f.kill()
		select {
		case <-f.stopped:
		case <-c.done:
		case <-time.After(f.limits.command + stopTries*f.limits.stop):
		}
	} else {
		c.killAll()
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(m.killLimit):
		seen, _ := m.look(c, true)
		present, _ := seen.present()
		var why error
		if f := c.foreign; f != nil && closed(f.stopped) {
			why = f.stopErr
		}
		stuck := &tier.StuckError{Model: c.model, What: "The killed engine", After: time.Since(began).Round(time.Millisecond), Bytes: present}
		if why != nil {
			return errors.Join(stuck, why)
		}
		return stuck
	}
}
