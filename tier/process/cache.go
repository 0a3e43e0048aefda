package process

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Cached implements tier.Cacher: the weights of a frozen, sleeping or stopped engine
// that are in the page cache. Files that another engine of this Mover serves do not
// count.
func (m *Mover) Cached(ctx context.Context, model string) (tier.Bytes, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	m.mu.Lock()
	s := m.slots[model]
	if s == nil {
		m.mu.Unlock()
		return 0, nil
	}
	files, locked := m.spare(s), tier.Bytes(0)
	if s.state == Frozen {
		locked = s.seen.usage.Locked
	}
	m.mu.Unlock()
	n, _ := m.sys.cachedOf(files)
	return max(n-locked, 0), nil
}

// spare returns the files of a slot that no engine holds: one that is frozen does not,
// nor one that sleeps and has unmapped them. m.mu is held.
func (m *Mover) spare(s *slot) []weightFile {
	holds := func(s *slot) bool {
		return s.child != nil && s.state != Frozen && (s.state != Asleep || s.seen.maps())
	}
	if holds(s) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.files), func(f weightFile) bool {
		for _, other := range m.slots {
			if other != s && holds(other) && slices.Contains(other.files, f) {
				return true
			}
		}
		return false
	})
}

// Uncache implements tier.Cacher. The end of the weights goes first. A frozen engine
// whose weights cannot be taken from it, be it for want of a right or because another
// process maps them too, is stopped, unless its Standby is StandbyFreeze. If ctx ends
// before it has, its conversations are saved and the stop completed all the same: the next
// Uncache drops the weights.
func (m *Mover) Uncache(ctx context.Context, model string, n tier.Bytes) error {
	m.mu.Lock()
	s := m.slots[model]
	for ; s != nil && s.aside != nil && ctx.Err() == nil; s = m.slots[model] {
		m.await(ctx, s.aside)
	}
	if s == nil || m.closed || s.cancel != nil || n <= 0 || ctx.Err() != nil {
		m.mu.Unlock()
		return context.Cause(ctx)
	}
	// The caller has less time than a save may take. Only a move ends the stop, or Close.
	stop, files := m.take(context.WithoutCancel(ctx), s), m.spare(s)
	s.aside = make(chan struct{})
	m.mu.Unlock()
	drop, cancel := context.WithCancelCause(stop)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	err := m.uncache(drop, s, files, n)
	if stays := err != nil && drop.Err() == nil && s.state == Frozen && !s.child.hasExited(); !stays || s.engine.Standby == StandbyFreeze {
		if stays {
			m.note(s, WayKept, err.Error())
		}
		m.release(s)
		return err
	}
	ended := make(chan error, 1)
	go func() { // Close waits for it, as for a move
		defer m.release(s)
		ended <- m.haltToUncache(stop, drop, s, files, n, err)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// haltToUncache stops a frozen engine whose weights cannot be dropped, for which why is
// the reason, and drops them until drop ends.
func (m *Mover) haltToUncache(stop, drop context.Context, s *slot, files []weightFile, n tier.Bytes, why error) error {
	m.log.Info("a frozen engine is stopped, as its weights cannot be dropped", "model", s.name, "why", why)
	if err := m.halt(stop, s); err != nil {
		return errors.Join(why, err)
	}
	m.note(s, WayStopped, why.Error())
	return m.uncache(drop, s, files, n)
}

// uncachePiece is how much is dropped before it is measured how much went, and before a
// move may end it. Its multiples are where pieces begin: the kernel keeps the pages that
// are only in part in the range.
const uncachePiece = 64 << 20

// uncache drops about n bytes of files from the page cache, from their end.
func (m *Mover) uncache(ctx context.Context, s *slot, files []weightFile, n tier.Bytes) error {
	if m.sys.drop == nil {
		return nil
	}
	before, sure := m.sys.cachedOf(files)
	if sure && before == 0 {
		return nil
	}
	all, dropped := !sure || n >= before, tier.Bytes(0)
	var pids []int
	if s.state == Frozen {
		pids = s.child.members()
		m.note(s, WayPagedOut, "the room was needed")
	}
	for i, file := range slices.Backward(files) {
		for end := file.size; end > 0; end = (end - 1) / uncachePiece * uncachePiece {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			went, err := m.dropRange(ctx, s, pids, files, i, (end-1)/uncachePiece*uncachePiece, end)
			if err != nil {
				return err
			}
			if dropped = dropped.Plus(went); !all && dropped >= n {
				return nil
			}
		}
	}
	if s.state != Frozen || !sure {
		return nil
	}
	return m.checkGone(s, files, min(n, before), before)
}

// checkGone returns an error if most of the n bytes that were to be taken from a frozen
// engine stay: the kernel does not say so when it is asked to take them. before is what
// was cached then.
func (m *Mover) checkGone(s *slot, files []weightFile, n, before tier.Bytes) error {
	m.mu.Lock()
	n = min(n, max(before-s.seen.usage.Locked, 0)) // what it has locked is known to stay
	m.mu.Unlock()
	now, sure := m.sys.cachedOf(files)
	if stays := n - (before - now); sure && stays > max(n/2, smallRest) {
		return fmt.Errorf("%v of its weights stay: another process maps them, or they are charged to another cgroup or not written yet", stays)
	}
	return nil
}

// smallRest is how much of a range paging out may leave for a second try.
const smallRest = 4 << 20

// dropRange drops a range of one of the files, and returns how much of it went.
func (m *Mover) dropRange(ctx context.Context, s *slot, pids []int, files []weightFile, i int, from, end int64) (tier.Bytes, error) {
	f, err := m.sys.open(files[i])
	if err != nil {
		return 0, nil // it is gone, and what is cached of it with it
	}
	defer f.Close()
	before, _ := f.cached(from, end-from)
	left := before
	for range 2 {
		if len(pids) > 0 {
			if err := m.pageOut(ctx, s, pids, files, i, from, end, f.sees); err != nil {
				return 0, err
			}
		}
		m.sys.drop(f.File, from, end-from) // what stays is mapped or locked
		// The kernel passes over pages that a processor touched a moment ago and keeps on a
		// list of its own. Dropping what can be dropped makes it drain that list.
		if left, _ = f.cached(from, end-from); left == 0 || left > smallRest {
			break
		}
	}
	return tier.Bytes(before - left), nil
}

// pageOut takes a range of a file from the processes of a frozen engine. What fails is
// tried again for the next engine. Of a file that this process neither owns nor may write,
// process_madvise leaves all pages where they are, and does not say so.
func (m *Mover) pageOut(ctx context.Context, s *slot, pids []int, files []weightFile, i int, from, end int64, owned bool) error {
	c, err := s.child, errors.New("this system has no process_madvise")
	switch {
	case m.sys.pageOut != nil && !owned:
		err = errors.New("the server neither owns nor may write the file")
	case m.sys.pageOut != nil:
		err = m.advise(ctx, c, pids, files, i, from, end)
		switch {
		case ctx.Err() != nil:
			return causeOf(ctx, err)
		case err == nil:
			m.lacks.note(lackPageOut, nil)
			return nil
		case c.hasExited():
			return err
		}
		m.lacks.note(lackPageOut, err)
	}
	if c.cgroup == nil || c.foreign != nil { // what limits another's cgroup has is not ours to change
		return fmt.Errorf("weights cannot be paged out (process_madvise: %w)", err)
	}
	e := c.cgroup.reclaim(tier.Bytes(end - from))
	if !c.hasExited() { // else its cgroup is removed
		m.lacks.note(lackReclaim, e)
	}
	if e != nil {
		return fmt.Errorf("weights cannot be paged out (process_madvise: %w; memory.reclaim: %s)", err, reason(e))
	}
	return nil
}

// checkPageOut finds out whether the weights of an engine can be paged out, so that Status
// says so before the room is needed.
func (m *Mover) checkPageOut(c *child) {
	if m.sys.mayPageOut == nil {
		return
	}
	pid := c.pid
	if c.foreign != nil { // what is permitted of its client says nothing of it
		pids, _ := c.foreign.last()
		if len(pids) == 0 {
			return
		}
		pid = pids[0]
	}
	err := m.sys.mayPageOut(pid)
	if m.lacks.note(lackPageOut, err); err != nil && c.cgroup != nil && c.foreign == nil {
		m.lacks.note(lackReclaim, c.cgroup.reclaim(0))
	}
}

func (m *Mover) advise(ctx context.Context, c *child, pids []int, files []weightFile, i int, from, end int64) error {
	for _, pid := range pids {
		regions, err := m.sys.regions(pid, files)
		if err != nil {
			if c.hasExited() {
				return errExited
			}
			continue
		}
		regions = slices.DeleteFunc(regions, func(r region) bool { return r.file != i })
		for j, r := range regions {
			regions[j] = r.within(uint64(from), uint64(end))
		}
		if err := m.sys.pageOut(ctx, pid, regions); err != nil {
			return err
		}
	}
	return nil
}
