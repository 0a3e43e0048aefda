package mapped

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/modeltier/modeltier/tier"
)

var _ tier.Resident = (*Mover)(nil)

// Resident implements tier.Resident, on Linux: it asks the kernel. For a model in
// storage it counts only what the last move could not drop, and drops it if that
// is possible by now; for a model that was never mapped, nothing.
//
// If the process neither owns nor may write the files, the kernel does not tell
// what is cached. Present is then what our own page tables hold, a lower bound:
// pages that were given up may still be cached. If not even that is known, the
// error is a *tier.InvalidError.
//
// Pages of tmpfs and the like are present but not reclaimable.
func (m *Mover) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return 0, 0, tier.ErrClosed
	}
	e := m.entries[model]
	if e == nil {
		m.mu.Unlock()
		return 0, 0, nil
	}
	w, left, before := e.weights, e.left, e.before
	m.mu.Unlock()
	if w == nil {
		return m.dropResidue(ctx, e, left, before)
	}

	w.mapped.RLock()
	defer w.mapped.RUnlock()
	if before != nil && w.restore(ctx, before, readaheadWait) == 0 {
		m.mu.Lock()
		if same(e.before, before) {
			e.before = nil
		}
		m.mu.Unlock()
	}
	var total, fixed int64
	for _, s := range w.shards {
		n, err := s.cached(ctx, 0, s.pages())
		if err != nil {
			return 0, 0, err
		}
		total += n
		if s.fs.inMemory {
			fixed += n
		}
	}
	return tier.Bytes(total), tier.Bytes(max(total-max(fixed, w.locked.Load()), 0)), nil
}

// dropResidue drops and counts what of the files in left is present, except the
// pages in keep, and forgets the model once there is none.
func (m *Mover) dropResidue(ctx context.Context, e *entry, left []*shard, keep []bitset) (present, reclaimable tier.Bytes, err error) {
	w := &weights{sys: m.sys}
	defer w.close()
	var ours []bitset
	var fixed int64
	var wait time.Duration
	for i, old := range left {
		s, err := old.reopen()
		if err != nil {
			return 0, 0, err
		}
		if s == nil {
			continue
		}
		w.shards, ours = append(w.shards, s), append(ours, keep[i])
		if s.fs.inMemory {
			n, err := s.cached(ctx, 0, s.pages())
			if err != nil {
				return 0, 0, err
			}
			fixed += n
		} else if s.arriving(ctx) {
			wait = readaheadWait
		}
	}
	total := fixed + w.restore(ctx, ours, wait)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[e.name] == e && e.run == nil && same(e.left, left) { // no move meanwhile
		e.stayed = total
		if total == 0 {
			delete(m.entries, e.name)
		}
	}
	return tier.Bytes(total), tier.Bytes(total - fixed), nil
}

// reopen maps the file of a closed shard again. It returns nil if there is another
// file at its path, or none: what is left of ours cannot be dropped any more.
func (s *shard) reopen() (*shard, error) {
	ours := func(info fs.FileInfo) bool { return os.SameFile(info, s.info) && info.Size() == s.info.Size() }
	if info, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) || err == nil && !ours(info) {
		return nil, nil
	}
	f, info, err := openRegular(s.model, s.path)
	if err != nil {
		return nil, err
	}
	again := &shard{sys: s.sys, model: s.model, path: s.path, file: f, info: info}
	if !ours(info) {
		return nil, again.close()
	}
	if err := again.mapIn(); err != nil {
		_ = again.close()
		return nil, err
	}
	return again, nil
}

// arriving reports whether the device still has to deliver pages of the shard.
func (s *shard) arriving(ctx context.Context) bool {
	present, err := s.present(ctx, 0, s.pages()) // first: what arrives in between counts
	if err != nil {
		return false
	}
	cached, err := s.cached(ctx, 0, s.pages())
	return err == nil && cached > present
}

// same reports whether a and b are the same slice, and not empty.
func same[T any](a, b []T) bool { return len(a) > 0 && len(b) > 0 && &a[0] == &b[0] }
