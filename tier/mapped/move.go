package mapped

import (
	"context"
	"errors"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// undoWait is how long a load that failed waits for pages that the kernel reads
// ahead. Resident drops those that arrive later.
const undoWait = 20 * time.Millisecond

// Move implements tier.Mover. The Mover knows where the model is; mv.From is not
// used.
//
// A move to ram or swap first checks that the files are still those that were
// mapped. If not, the model is unmapped and the error is a *tier.MoveError with
// Lost set, around a *ChangedError. Bad files (missing, empty, unreadable, not
// regular, larger than Model.Size) give a *tier.InvalidError within the
// *tier.MoveError. If the pages of a model in ram do not stay in memory although
// they were read three times, the error is a *tier.CapacityError. Of those kept in
// swap, Resident tells how many stayed.
//
// Progress counts the bytes that had to move, including those that were in the
// page cache already. A cancelled load drops what it brought and leaves what it
// found. A move down, some milliseconds per GiB, is not cancelled once it has
// begun. Its error is nil even if pages did not go, because another process maps
// them: Resident goes on counting them.
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if err := checkMove(&mv); err != nil {
		return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Err: err}
	}
	ctx, e, err := m.begin(ctx, mv.Model.Name, false)
	if err != nil {
		return err
	}
	defer m.end(e)
	from := e.tier // only runs of the model change it, and this is the one
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

func checkMove(mv *tier.Move) error {
	if err := tier.CheckName("name", mv.Model.Name); err != nil {
		return err
	}
	_, err := mv.To.MarshalText()
	return err
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
		w, err := openWeights(m.sys, &mv.Model)
		if err != nil {
			return err
		}
		return m.reach(ctx, e, w, mv.To, mv.Keep, progress)
	}
	err := w.check()
	if w.path != mv.Model.Path {
		err = &ChangedError{Model: e.name, Path: w.path, How: "replaced", Was: tier.Bytes(w.size), Is: tier.Bytes(w.size)}
	}
	if err == nil {
		err = m.reach(ctx, e, w, mv.To, mv.Keep, progress)
	}
	if _, changed := errors.AsType[*ChangedError](err); changed {
		from := e.tier
		m.unload(ctx, e, nil)
		return &tier.MoveError{Model: e.name, From: from, To: mv.To, Lost: true, Err: err}
	}
	return err
}

// reach makes w what tier to asks for, and only then the entry's weights. If it
// fails, everything is as before.
func (m *Mover) reach(ctx context.Context, e *entry, w *weights, to tier.Tier, keep tier.Bytes, progress func(tier.Bytes)) (err error) {
	var before []bitset
	loaded := false
	defer func() { // also if progress panics
		if !loaded {
			m.undo(ctx, e, w, before)
		}
	}()
	if before, err = w.snapshot(ctx, true); err != nil {
		return err
	}
	end, locks := w.size, &m.locks
	if to == tier.Swap {
		end, locks = min(max(int64(keep), 0), w.size), nil
	}
	r := &report{fn: progress, base: e.held, total: max(end-e.held, e.held-end)}
	justRead := w.missing(end, before) > 0
	if err := w.fill(ctx, &m.devices, locks, end, before, r); err != nil {
		return err
	}
	if err := w.check(); err != nil { // changed during the load
		return err
	}
	loaded = true
	var stayed int64
	if to == tier.Swap {
		m.locks.unlock(w)
		stayed = w.evict(ctx, end, justRead, r)
		w.markCold(end)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.weights, e.tier, e.held, e.stayed, e.left, e.before = w, to, end, stayed, nil, nil
	e.pause, e.reread = 0, 0
	return nil
}

// undo drops what a failed load of w brought beyond before (nil: it has not
// begun). What arrives too late is left to Resident.
func (m *Mover) undo(ctx context.Context, e *entry, w *weights, before []bitset) {
	if e.tier != tier.RAM {
		m.locks.unlock(w)
	}
	if before != nil && !w.restore(ctx, before, undoWait) {
		m.mu.Lock()
		if len(e.left) == 0 { // else more is to be dropped than this load brought
			e.before = before
			if e.weights == nil {
				e.left = w.shards
			}
		}
		m.mu.Unlock()
	}
	if e.weights == nil {
		_ = w.close()
	}
}

// unload drops the model's pages and unmaps it.
func (m *Mover) unload(ctx context.Context, e *entry, progress func(tier.Bytes)) {
	w := e.weights
	if w == nil {
		return
	}
	m.locks.unlock(w)
	stayed := w.evict(ctx, 0, false, &report{fn: progress, total: e.held})
	m.mu.Lock()
	e.weights, e.tier, e.held, e.stayed, e.before = nil, tier.Storage, 0, stayed, nil
	if stayed > 0 {
		e.left, e.before = w.shards, w.noPages()
	}
	m.mu.Unlock()
	_ = w.close() // cannot fail: it is mapped and open
}

// maxPause is the most recheck intervals between checks of a model: a machine
// without room for its pages must not read them all the time.
const maxPause = 32

// scheduleRecheck has a model in ram checked later if the kernel may reclaim pages
// of it. Mover.mu is held.
func (m *Mover) scheduleRecheck(e *entry) {
	if m.recheck > 0 && !m.closed && e.tier == tier.RAM && e.weights.locked.Load() < e.weights.size {
		now := time.Since(m.began)
		due := now.Truncate(m.recheck) + m.recheck*time.Duration(max(e.pause, 1))
		e.recheck = time.AfterFunc(due-now, func() { m.recheckModel(e.name) })
	}
}

// recheckModel reads again what the kernel reclaimed of a model in ram. Leases may
// be held meanwhile: it takes nothing away.
func (m *Mover) recheckModel(name string) {
	ctx, _ := tier.Background(context.Background()) // Close and moves cancel it
	ctx, e, err := m.begin(ctx, name, true)
	if err != nil {
		return // a move has the model
	}
	defer m.end(e)
	select {
	case m.rechecking <- struct{}{}:
		defer func() { <-m.rechecking }()
	case <-ctx.Done():
		return
	}
	w := e.weights
	if w == nil || e.tier != tier.RAM || w.check() != nil {
		return // the next move or reader reports a change
	}
	sets, err := w.snapshot(ctx, false)
	if err != nil {
		return
	}
	missing := w.missing(w.size, sets)
	if missing > 0 {
		_ = w.fill(ctx, &m.devices, &m.locks, w.size, sets, &report{}) // the next recheck sees what is still missing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.pause = min(2*max(e.pause, 1), maxPause)
	if missing == 0 {
		e.pause = 1
	}
	e.reread += missing
}
