package modeltier

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// Acquire selects the model for req, makes it ready and takes a lease on it. For
// a resident model that is a matter of well under a microsecond, without lock or
// I/O; else it waits for the load, which it shares with everyone who waits for
// the same model. The end of ctx ends this wait, with context.Cause(ctx), and
// nothing else. Other errors unwrap to the sentinels of this package. The caller
// releases the lease. While it waits, req.Progress is told how far that is.
//
// Under high memory pressure nothing is loaded that takes memory. If the mover can
// serve without it (mapped files), the lease is one from swap; else the error is
// ErrNoCapacity. A model that is asked for again within Config.Fairness keeps its
// place: when pressure falls, models are loaded in the order in which requests for
// them were first refused.
func (m *Manager) Acquire(ctx context.Context, req Request) (*Lease, error) {
	var waited wait
	lease, _, err := m.acquire(ctx, &req, &waited)
	waited.end()
	return lease, err
}

// acquire also returns the choice, where one was made, and adds to waited what was
// neither choosing nor leasing: waiting for a reading, or for the model. The caller
// ends the wait.
func (m *Manager) acquire(ctx context.Context, req *Request, waited *wait) (*Lease, Choice, error) {
	if ctx.Err() != nil {
		return nil, Choice{}, context.Cause(ctx)
	}
	snap, choice, cell, err := m.chooseFor(ctx, req, waited)
	if err != nil {
		return nil, choice, m.refuse(ctx, req, choice.Model, err)
	}
	lease, err := m.take(ctx, req, snap, &choice, cell, waited)
	if errors.Is(err, tier.ErrMove) && m.awaitFiles(ctx, snap.view.Library.At(choice.Index)) {
		if snap, choice, cell, err = m.chooseFor(ctx, req, waited); err != nil {
			return nil, choice, m.refuse(ctx, req, choice.Model, err)
		}
		lease, err = m.take(ctx, req, snap, &choice, cell, waited)
	}
	if choice.Mode != tier.Manual && errors.Is(err, tier.ErrNoCapacity) && ctx.Err() == nil {
		// It was chosen by a reading that is out of date; by a fresh one another may
		// be.
		if fresh, other, fault := m.chooseAgain(ctx, req, err, waited); fault == nil && other.Model != choice.Model {
			snap, choice = fresh, other
			lease, err = m.take(ctx, req, snap, &choice, cell, waited)
		}
	}
	for try := 0; try < maxChoices && m.outdated(req, newPick(snap, &choice), lease, err); try++ {
		lease.Release()
		lease = nil
		if snap, choice, err = m.chooseAgain(ctx, req, tier.ErrNoCapacity, waited); err != nil {
			break
		}
		lease, err = m.take(ctx, req, snap, &choice, cell, waited)
	}
	if err != nil {
		err = m.refuse(ctx, req, choice.Model, err)
	}
	return lease, choice, err
}

// refuse returns the error of a request that gets no lease, and tells of it unless its caller has left.
func (m *Manager) refuse(ctx context.Context, req *Request, model string, err error) error {
	if ctx.Err() == nil {
		err = m.whenRoom(err)
		m.refused(req, model, err)
	}
	return err
}

// maxChoices bounds how often a request is led elsewhere because the model that
// was chosen for it is another by then.
const maxChoices = 100

// outdated reports whether a model is not what it was when it was chosen: while
// the request waited its configuration changed, or it was removed, or it became another
// version than the request names.
func (m *Manager) outdated(req *Request, p pick, l *Lease, err error) bool {
	switch {
	case l == nil:
		return p.auto && errors.Is(err, tier.ErrNotFound)
	case p.auto && !slices.Equal(l.stay.model.Capabilities, p.chosen.Capabilities):
		return true
	case !p.named || l.stay.model.Version == p.chosen.Version:
		return false
	}
	snap := m.snap.Load()
	i, ok := snap.view.Library.Find(cmp.Or(req.Model, req.Preferred))
	return !ok || snap.entries[i] != p.entry
}

// take takes a lease on the model that was chosen, at once or when it is ready.
func (m *Manager) take(ctx context.Context, req *Request, snap *snapshot, choice *Choice, cell uint8, waited *wait) (*Lease, error) {
	e := snap.entries[choice.Index]
	if !e.gate.enter(cell) {
		began := time.Now()
		waited.begin(m, req, e)
		lease, err := m.await(ctx, req, e)
		waited.took += time.Since(began)
		if lease != nil {
			m.keepAlive(e, req.KeepAlive)
		}
		return lease, err
	}
	l := new(Lease)
	m.entered(l, e, cell, req.KeepAlive)
	return l, nil
}

// entered makes a lease of one that the gate of e has counted in a cell.
func (m *Manager) entered(l *Lease, e *entry, cell uint8, keepAlive time.Duration) {
	m.keepAlive(e, keepAlive)
	at := time.Since(m.start)
	if e.gate.notable(cell, at) && m.accesses.add(cell, e, at) {
		m.kick()
	}
	l.stay, l.at, l.cell = e.gate.stay.Load(), at, cell
	if m.cfg.Events.Granted != nil {
		m.grantedEvent(l)
	}
}

// Select says which model would answer req, by what is known now. It moves
// nothing and takes no lease.
func (m *Manager) Select(req Request) (Choice, error) {
	choice, _, err := m.choose(&req, m.snap.Load())
	if err != nil {
		req.Progress = nil
		_, choice, err = m.chooseAgain(m.ctx, &req, err, new(wait))
	}
	return choice, err
}

// ticket is what a request borrows while it is let in. They come from a pool that
// keeps them by processor, so that processors that work at once do so in cells of
// their own.
type ticket struct {
	req  Request // what goes to an interface escapes: this is where it may
	cell uint8
	uses uint8
}

// timedOf is the share of selections that are timed: one in so many.
const timedOf = 64

// choose asks the selector, and says in which cell of a gate to count.
func (m *Manager) choose(req *Request, snap *snapshot) (choice Choice, cell uint8, err error) {
	if m.closing.Load() {
		return Choice{}, 0, tier.ErrClosed
	}
	defer func() {
		if v := recover(); v != nil {
			err = &tier.PanicError{Part: "selector", Value: v, Stack: debug.Stack()}
		}
	}()
	t := m.tickets.Get().(*ticket)
	cell = t.cell
	t.req = *req
	if t.uses++; t.uses%timedOf != 1 {
		choice, err = m.cfg.Selector.Select(&t.req, &snap.view)
	} else {
		began := time.Now()
		choice, err = m.cfg.Selector.Select(&t.req, &snap.view)
		m.count.selection.add(time.Since(began))
	}
	t.req = Request{}
	m.tickets.Put(t)
	if err == nil && (choice.Index < 0 || choice.Index >= len(snap.entries)) {
		err = &tier.PanicError{Part: "selector", Value: errors.New("it chose an index that is not in the library")}
	}
	return choice, cell, err
}

// chooseFor is choose on the newest snapshot, and chooseAgain where that is of help.
func (m *Manager) chooseFor(ctx context.Context, req *Request, waited *wait) (snap *snapshot, choice Choice, cell uint8, err error) {
	snap = m.snap.Load()
	if choice, cell, err = m.choose(req, snap); err != nil {
		snap, choice, err = m.chooseAgain(ctx, req, err, waited)
	}
	return snap, choice, cell, err
}

// chooseAgain asks a second time, with a fresh reading, where the answer was that
// memory is short: it may have been so at the last reading only. If it is so
// still, models may leave for it. The wait for the reading is added to waited.
func (m *Manager) chooseAgain(ctx context.Context, req *Request, err error, waited *wait) (*snapshot, Choice, error) {
	if !errors.Is(err, tier.ErrNoCapacity) {
		return nil, Choice{}, err
	}
	fresh, began := make(chan struct{}), time.Now()
	waited.begin(m, req, nil)
	if m.post(func(now time.Time) { m.ctl.refresh(now, fresh) }) {
		select {
		case <-fresh:
		case <-m.loopDone:
			return nil, Choice{}, tier.ErrClosed
		case <-ctx.Done():
			waited.took += time.Since(began)
			return nil, Choice{}, context.Cause(ctx)
		}
	}
	waited.took += time.Since(began)
	snap := m.snap.Load()
	choice, err := m.chooseMakingRoom(req, snap)
	return snap, choice, err
}

// chooseMakingRoom asks the selector, and where memory or swap is short once more, as
// if the models that have it had left: whether they will is the placement's decision
// and the guard's.
func (m *Manager) chooseMakingRoom(req *Request, snap *snapshot) (Choice, error) {
	choice, _, err := m.choose(req, snap)
	if snap.inUse != (tier.Footprint{}) && errors.Is(err, tier.ErrNoCapacity) {
		if other, _, fault := m.choose(req, snap.emptied()); fault == nil {
			return other, nil
		}
	}
	return choice, core.HeldBy(err, snap.outside)
}

// waiter is a request on its way through the loop. The first to set the state
// decides: the request, that it has gone, or the loop, that it is answered.
type waiter struct {
	core.Waiter
	state  atomic.Uint32
	answer chan answer // holds one
}

const (
	waits uint32 = iota
	gone
	answered
)

type answer struct {
	lease  *Lease
	leases []*Lease // on a set
	err    error
}

// await joins the requests that wait for e.
func (m *Manager) await(ctx context.Context, req *Request, e *entry) (*Lease, error) {
	w := &waiter{}
	w.Background = req.Background
	a := m.wait(ctx, w, e.standing.Load(), func(began time.Time) { m.ctl.join(w, e, began) }, func(a answer) { a.lease.Release() })
	return a.lease, a.err
}

// wait has a waiter join those that wait, on the loop, and returns its answer. undo gives
// back what an answer without error came with that the caller has not waited for. at is
// what it would wait for; nil: that is not known.
func (m *Manager) wait(ctx context.Context, w *waiter, at *standing, join func(began time.Time), undo func(answer)) answer {
	w.answer = make(chan answer, 1)
	if n := m.waiting.Add(1); n > int64(m.cfg.MaxQueue) {
		m.waiting.Add(-1)
		m.kick() // for a moment the gate counted this one: a look at it then is repeated
		return answer{err: &tier.BusyError{Queued: int(n - 1), RetryAfter: cmp.Or(at.left(), m.cfg.Fairness)}}
	}
	defer m.waiting.Add(-1)
	began := time.Now()
	if !m.post(func(time.Time) { join(began) }) {
		return answer{err: tier.ErrClosed}
	}
	select {
	case a := <-w.answer:
		return a
	case <-ctx.Done():
	case <-m.loopDone:
		if !w.state.CompareAndSwap(waits, gone) {
			return <-w.answer
		}
		return answer{err: tier.ErrClosed}
	}
	if !w.state.CompareAndSwap(waits, gone) {
		if a := <-w.answer; a.err == nil { // the answer came as the caller left
			undo(a)
		}
	} else {
		m.post(func(time.Time) { m.ctl.core.Leave(&w.Waiter) })
	}
	return answer{err: context.Cause(ctx)}
}

// claim decides for the loop: true means that the answer follows.
func (w *waiter) claim() bool { return w.state.CompareAndSwap(waits, answered) }
