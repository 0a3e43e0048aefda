package modeltier

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// AcquireAll is Acquire for several models that are needed at the same time: it takes a
// lease for every request, in their order, or none. Each model is selected by its own
// request, as by Acquire, whose rules and errors hold otherwise, too: for the end of ctx,
// for models that crash, are removed or reconfigured meanwhile, for Progress and for
// KeepAlive. The same model twice is charged once and gives two leases. One request is
// an Acquire, none gives no leases and no error. If all models are resident it is done
// at once, without I/O.
//
// While it waits it holds nothing: no lease, and no room but that of the moves that are
// being made for it. So no two of its callers can wait for each other, whatever the
// models and their order. (A caller who holds leases and asks for more can: ask for all
// at once.) Room is made for the whole set, and set aside, before the first of its models
// is loaded; what is loaded for a set is not taken away before the set is served.
//
// Sets and other requests go by age, so that neither starves the other. A set that does
// not fit beside models in use waits for Config.Fairness at most before those are
// drained for it; from then on no model gives way for a request that came later, until
// the set has its room or its models are draining, or while nothing is on the move and
// only leases are waited for. The same holds the other way round,
// for a request that needs much room among sets. So beyond Config.Fairness either waits
// for what was there before it: moves that are under way, requests that have waited for
// longer, the leases on models that are drained, and then for its own loads.
//
// Models that could not be in memory together though all others left give ErrTooLarge
// (a *tier.CapacityError: which models, what they need, the limit). ErrNoCapacity and
// ErrBusy name the set and, as far as they are known, those who hold the room. If the
// mover serves models from swap (mapped files), the largest of a set that does not fit
// in ram are.
func (m *Manager) AcquireAll(ctx context.Context, reqs ...Request) ([]*Lease, error) {
	switch {
	case len(reqs) == 0:
		return nil, nil
	case len(reqs) == 1:
		l, err := m.Acquire(ctx, reqs[0])
		if err != nil {
			return nil, err
		}
		return []*Lease{l}, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	if leases := m.enterAll(reqs, m.snap.Load()); leases != nil {
		return leases, nil
	}
	waited := make([]wait, len(reqs))
	leases, err := m.acquireSet(ctx, reqs, waited)
	for i := range waited {
		waited[i].end()
	}
	return leases, err
}

// smallSet is up to how many requests are let in without an allocation but that of
// their leases.
const smallSet = 8

// enterAll takes all leases if every model is resident; nil: one is not, or could not be
// selected, and none was taken.
func (m *Manager) enterAll(reqs []Request, snap *snapshot) []*Lease {
	type in struct {
		e    *entry
		cell uint8
	}
	var few [smallSet]in
	ins := few[:0]
	for i := range reqs {
		choice, cell, err := m.choose(&reqs[i], snap)
		if err != nil {
			return nil
		}
		e := snap.entries[choice.Index]
		if !e.gate.open() {
			return nil // before any is counted
		}
		ins = append(ins, in{e, cell})
	}
	for i := range ins {
		if ins[i].e.gate.enter(ins[i].cell) {
			continue
		}
		for _, back := range ins[:i] {
			if back.e.gate.retreat(back.cell) {
				m.leasesEnded(back.e)
			}
		}
		return nil
	}
	all, leases := make([]Lease, len(ins)), make([]*Lease, len(ins))
	for i := range ins {
		leases[i] = &all[i]
		m.entered(leases[i], ins[i].e, ins[i].cell, reqs[i].KeepAlive)
	}
	return leases
}

// pick is the model that was chosen for a request.
type pick struct {
	entry  *entry
	chosen *tier.Model
	auto   bool // the request may get another
	named  bool // it is the one that the request names
}

func newPick(snap *snapshot, c *Choice) pick {
	return pick{snap.entries[c.Index], snap.view.Library.At(c.Index), c.Mode != tier.Manual, c.Mode != tier.Auto && !c.FellBack}
}

// pick has the model of a request chosen; again: by a fresh reading.
func (m *Manager) pick(ctx context.Context, req *Request, again bool, waited *wait) (pick, error) {
	var (
		snap   *snapshot
		choice Choice
		err    error
	)
	if again {
		snap, choice, err = m.chooseAgain(ctx, req, tier.ErrNoCapacity, waited)
	} else {
		snap, choice, _, err = m.chooseFor(ctx, req, waited)
	}
	if err != nil {
		return pick{}, m.refuse(ctx, req, choice.Model, err)
	}
	return newPick(snap, &choice), nil
}

// pickAll has the models of all requests chosen.
func (m *Manager) pickAll(ctx context.Context, reqs []Request, waited []wait) (picks []pick, err error) {
	picks = make([]pick, len(reqs))
	for i := range reqs {
		if picks[i], err = m.pick(ctx, &reqs[i], false, &waited[i]); err != nil {
			return nil, err
		}
	}
	return picks, nil
}

// awaitAllFiles is awaitFiles for each model of a set.
func (m *Manager) awaitAllFiles(ctx context.Context, picks []pick) (again bool) {
	for _, p := range picks {
		again = m.awaitFiles(ctx, p.chosen) || again
	}
	return again
}

// pickAgain has those models chosen again that no request named, by a fresh reading, and
// reports whether any is another. With renamed the others are as well: what a name stands
// for may be another.
func (m *Manager) pickAgain(ctx context.Context, reqs []Request, picks []pick, waited []wait, renamed bool) (changed bool, err error) {
	for i := range picks {
		if !picks[i].auto && !renamed {
			continue
		}
		p, err := m.pick(ctx, &reqs[i], true, &waited[i])
		if err != nil {
			return false, err
		}
		changed = changed || p.entry != picks[i].entry
		picks[i] = p
	}
	return changed, nil
}

// acquireSet waits for the leases of a set that is not resident, see acquire.
func (m *Manager) acquireSet(ctx context.Context, reqs []Request, waited []wait) ([]*Lease, error) {
	picks, err := m.pickAll(ctx, reqs, waited)
	if err != nil {
		return nil, err
	}
	leases, err := m.awaitAll(ctx, reqs, picks, waited)
	if errors.Is(err, tier.ErrMove) && m.awaitAllFiles(ctx, picks) {
		if picks, err = m.pickAll(ctx, reqs, waited); err != nil {
			return nil, err
		}
		leases, err = m.awaitAll(ctx, reqs, picks, waited)
	}
	if errors.Is(err, tier.ErrNoCapacity) && ctx.Err() == nil {
		if changed, fault := m.pickAgain(ctx, reqs, picks, waited, false); fault == nil && changed {
			leases, err = m.awaitAll(ctx, reqs, picks, waited)
		}
	}
	for try := 0; m.anyOutdated(reqs, leases, picks, err) && try < maxChoices; try++ {
		for _, l := range leases {
			l.Release()
		}
		if _, err := m.pickAgain(ctx, reqs, picks, waited, true); err != nil {
			return nil, err
		}
		leases, err = m.awaitAll(ctx, reqs, picks, waited)
	}
	if err != nil {
		err = m.refuse(ctx, &reqs[0], listed(picks), err)
	}
	return leases, err
}

// anyOutdated reports whether a model is not what it was when it was chosen.
func (m *Manager) anyOutdated(reqs []Request, leases []*Lease, picks []pick, err error) bool {
	for i, p := range picks {
		var l *Lease
		if err == nil {
			l = leases[i]
		}
		if m.outdated(&reqs[i], p, l, err) {
			return true
		}
	}
	return false
}

// listed names the models of a set.
func listed(picks []pick) string {
	names := make([]string, len(picks))
	for i, p := range picks {
		names[i] = p.entry.name
	}
	return strings.Join(names, ", ")
}

// awaitAll joins the requests that wait for all models at once.
func (m *Manager) awaitAll(ctx context.Context, reqs []Request, picks []pick, waited []wait) ([]*Lease, error) {
	w := &waiter{}
	w.Background = true
	entries := make([]*entry, len(picks))
	for i, p := range picks {
		entries[i] = p.entry
		w.Background = w.Background && reqs[i].Background
		waited[i].begin(m, &reqs[i], p.entry)
	}
	a := m.wait(ctx, w, nil, func(began time.Time) { m.ctl.joinSet(w, entries, began) }, func(a answer) {
		for _, l := range a.leases {
			l.Release()
		}
	})
	if a.err != nil {
		return nil, a.err
	}
	for i, e := range entries {
		m.keepAlive(e, reqs[i].KeepAlive)
	}
	return a.leases, nil
}
