package mapped

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

const (
	// rounds is how often what the kernel took during a load is read again.
	rounds = 3
	// A load is good though a part of the weights is missing that is no larger than
	// one in tolerated: on a machine at its limit the kernel always has taken a few
	// pages again. They are read again at the next recheck.
	tolerated = 64
	// undone is how long a load that is undone waits for pages that the kernel
	// reads ahead. Those that take longer, Resident drops.
	undone = 20 * time.Millisecond
)

// Move implements tier.Mover. Where the model is, the Mover knows; mv.From is
// only for the record.
//
// To ram and swap it first sees whether the files are still those that were
// mapped. If not, the model is unmapped and the error is a *tier.MoveError with
// Lost set, around a *ChangedError. Files that are bad (missing, empty,
// unreadable, no regular files, larger than Model.Size) give a
// *tier.InvalidError within the *tier.MoveError. Where the pages of a model in
// ram do not stay in memory though they were read three times over, it is a
// *tier.CapacityError; of those kept in swap Resident tells how many stayed.
//
// Progress counts the bytes that had to move, also those that were in the page
// cache already. A load that is cancelled drops what it brought and leaves what
// it found. A move down is not cancelled once it began; it takes some
// milliseconds for a GB. It is nil also where pages would not go, because
// another process maps them: Resident goes on seeing them.
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if err := validate(&mv); err != nil {
		return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Err: err}
	}
	ctx, e, end, err := m.begin(ctx, mv.Model.Name, false)
	if err != nil {
		return err
	}
	defer end()
	from := e.tier // only moves change it, and this is the one
	err = m.move(ctx, e, &mv, progress)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		return cause
	}
	if _, ok := errors.AsType[*tier.MoveError](err); ok {
		return err
	}
	return &tier.MoveError{Model: mv.Model.Name, From: from, To: mv.To, Err: err}
}

func validate(mv *tier.Move) error {
	if err := tier.CheckName("name", mv.Model.Name); err != nil {
		return err
	}
	if !mv.To.Valid() {
		return &tier.InvalidError{Model: mv.Model.Name, Field: "tier", Value: mv.To.String(), Rule: "must be one of ram, swap, storage"}
	}
	return nil
}

func (m *Mover) move(ctx context.Context, e *entry, mv *tier.Move, progress func(tier.Bytes)) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if mv.To == tier.Storage {
		m.unload(ctx, e, progress)
		return nil
	}
	w := e.weights
	if w == nil {
		w, err := open(m.sys, &mv.Model)
		if err != nil {
			return err
		}
		return m.bring(ctx, e, w, mv.To, mv.Keep, progress)
	}
	err := w.check()
	if w.path != mv.Model.Path {
		err = &ChangedError{Model: e.name, Path: w.path, How: "replaced", Was: tier.Bytes(w.size), Is: tier.Bytes(w.size)}
	}
	if err == nil {
		err = m.bring(ctx, e, w, mv.To, mv.Keep, progress)
	}
	if _, changed := errors.AsType[*ChangedError](err); changed {
		from := e.tier
		m.unload(ctx, e, nil)
		return &tier.MoveError{Model: e.name, From: from, To: mv.To, Lost: true, Err: err}
	}
	return err
}

// bring makes w what tier to asks for, and only then the entry's. If it fails,
// everything is as before.
func (m *Mover) bring(ctx context.Context, e *entry, w *weights, to tier.Tier, keep tier.Bytes, progress func(tier.Bytes)) (err error) {
	var before []bitset
	done := false
	defer func() { // also where progress panics
		if done {
			return
		}
		if e.tier != tier.RAM {
			m.unpin(w)
		}
		if before != nil && !w.restore(ctx, before, undone) {
			m.mu.Lock()
			switch {
			case e.weights != nil:
				e.found = before
			case len(e.left) == 0: // else more is to go than this load brought
				e.left = w.residue(before)
			}
			m.mu.Unlock()
		}
		if e.weights == nil {
			_ = w.close()
		}
	}()
	if before, err = w.snapshot(ctx, true); err != nil {
		return err
	}
	end, had := w.size, int64(0)
	if to == tier.Swap {
		end = min(max(int64(keep), 0), w.size)
	}
	switch e.tier {
	case tier.RAM:
		had = w.size
	case tier.Swap:
		had = e.keep
	}
	up, down := &report{}, &report{}
	if end >= had {
		up = &report{fn: progress, base: had, most: end - had}
	} else {
		down = &report{fn: progress, most: had - end}
	}
	loaded := w.missing(end, before) > 0
	if err := m.fill(ctx, w, to, end, before, up); err != nil {
		return err
	}
	if err := w.check(); err != nil { // changed under the load
		return err
	}
	done = true
	var stayed int64
	if to == tier.Swap {
		m.unpin(w)
		stayed = w.evict(ctx, end, loaded, down)
		w.offer(end)
	}
	m.settled(e, w, to, end, stayed)
	return nil
}

// fill loads bytes [0, end) and for ram locks them, until they are all seen to be
// there. In swap they are on offer to the kernel, and those that it took at once
// are not read again: who needs the model can use it without.
func (m *Mover) fill(ctx context.Context, w *weights, to tier.Tier, end int64, sets []bitset, r *report) error {
	for round := 1; ; round++ {
		if err := m.load(ctx, w, end, sets, r); err != nil {
			return err
		}
		if to == tier.RAM {
			if err := m.pin(ctx, w); err != nil {
				return err
			}
		}
		var err error
		if sets, err = w.snapshot(ctx, false); err != nil {
			return err
		}
		missing := w.missing(end, sets)
		if missing == 0 || to == tier.Swap || round == rounds && missing <= end/tolerated {
			return nil
		}
		if round == rounds {
			return &tier.CapacityError{
				Model: w.shards[0].model, Tier: to, Need: tier.Bytes(end), Free: tier.Bytes(end - missing), Limit: tier.Bytes(end),
				Reason: fmt.Sprintf("Of %v of weights %v were gone from memory when the last were read: there is less room than was promised", tier.Bytes(end), tier.Bytes(missing)),
			}
		}
	}
}

// missing returns how many bytes of [0, end) are not in sets. Shards that cannot
// be seen miss nothing.
func (w *weights) missing(end int64, sets []bitset) int64 {
	var n int64
	for i, s := range w.shards {
		if s.sight == blind {
			continue
		}
		for page, to := 0, s.prefix(end); page < to; {
			from := sets[i].next(page, to, false)
			page = sets[i].next(from, to, true)
			n += s.bytes(from, page)
		}
	}
	return n
}

// offer makes the kept pages the first that the kernel takes. Where only our page
// tables are seen it does not: the kernel takes large folios out of them on the
// way, and they would seem to be gone.
func (w *weights) offer(end int64) {
	if w.sys.offer == nil {
		return
	}
	for _, s := range w.shards {
		if n := s.prefix(end); n > 0 && s.sight == byCache {
			_ = w.sys.offer(span{s, 0, n}.mem()) // a hint
		}
	}
}

// settled makes w the entry's, in that tier.
func (m *Mover) settled(e *entry, w *weights, to tier.Tier, keep, stayed int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.weights, e.tier, e.keep, e.locked, e.stayed, e.left, e.found = w, to, keep, w.locked, stayed, nil, nil
	if to == tier.RAM {
		e.keep = 0
	}
	e.health = health{}
	m.watch(e)
}

// unload drops the model's pages and unmaps it.
func (m *Mover) unload(ctx context.Context, e *entry, progress func(tier.Bytes)) {
	w := e.weights
	if w == nil {
		return
	}
	m.unpin(w)
	most := w.size
	if e.tier == tier.Swap {
		most = e.keep
	}
	stayed := w.evict(ctx, 0, false, &report{fn: progress, most: most})
	var left []residue
	if stayed > 0 {
		left = w.residue(nil)
	}
	m.mu.Lock()
	e.weights, e.tier, e.keep, e.locked, e.stayed, e.left, e.found = nil, tier.Storage, 0, 0, stayed, left, nil
	m.mu.Unlock()
	_ = w.close() // nothing that can fail: it is mapped and open
}
