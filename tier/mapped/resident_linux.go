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
	w, left, locked, before := e.weights, e.residue, e.locked, e.before
	m.mu.Unlock()
	if w == nil {
		return m.dropResidue(ctx, e, left)
	}

	w.mapped.RLock()
	defer w.mapped.RUnlock()
	if before != nil && w.restore(ctx, before, readaheadWait) {
		m.mu.Lock()
		if same(e.before, before) {
			e.before = nil
		}
		m.mu.Unlock()
	}
	var total, fixed int64
	for _, s := range w.shards {
		n, err := s.resident(ctx)
		if err != nil {
			return 0, 0, err
		}
		total += n
		if s.fs.inMemory {
			fixed += n
		}
	}
	return tier.Bytes(total), tier.Bytes(max(total-max(fixed, locked), 0)), nil
}

// resident returns how many bytes of the shard are present, by the best source:
// cachestat, which needs no page tables and also counts some files of other users,
// else mincore or pagemap.
func (s *shard) resident(ctx context.Context) (int64, error) {
	if s.method == noMethod {
		if s.cachestat == nil {
			return 0, errUnseen(s)
		}
		if _, err := s.cachestat(s.file, 0, s.sys.page); err != nil {
			return 0, errUnseen(s)
		}
	}
	return s.cached(ctx, 0, s.pages())
}

// dropResidue drops and counts what a move to storage left behind, and forgets the
// model once it is gone.
func (m *Mover) dropResidue(ctx context.Context, e *entry, left []residue) (present, reclaimable tier.Bytes, err error) {
	var total, fixed int64
	for _, r := range left {
		n, inMemory, err := r.drop(ctx, m.sys)
		if err != nil {
			return 0, 0, err
		}
		total += n
		if inMemory {
			fixed += n
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[e.name] == e && e.run == nil && same(e.residue, left) { // no move meanwhile
		e.stayed = total
		if total == 0 {
			delete(m.entries, e.name)
		}
	}
	return tier.Bytes(total), tier.Bytes(total - fixed), nil
}

// drop drops what can be dropped by now and returns what is still present. A file
// that was replaced or resized is not ours any more.
func (r *residue) drop(ctx context.Context, sys *system) (present int64, inMemory bool, err error) {
	if info, err := os.Stat(r.path); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, r.info) {
		return 0, false, nil
	}
	f, info, err := openRegular("", r.path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	if !os.SameFile(info, r.info) || info.Size() != r.info.Size() {
		return 0, false, nil
	}
	s := &shard{sys: sys, path: r.path, file: f, info: info}
	if err := s.mapIn(); err != nil {
		return 0, false, err
	}
	defer sys.unmap(s.data)
	if s.fs.inMemory {
		present, err = s.resident(ctx)
		return present, true, err
	}
	s.dropExcept(r.keep)
	deadline := time.Now()
	if s.arriving(ctx) {
		deadline = deadline.Add(readaheadWait)
	}
	return s.pollExcept(ctx, r.keep, deadline), false, nil
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

// errUnseen is the error if nothing tells which pages of a shard are in memory.
func errUnseen(s *shard) error {
	return &tier.InvalidError{
		Model: s.model, Field: "path", Value: quote(s.path), Rule: "must be a file whose cached pages can be seen",
		Help: []string{"Run the server as the owner of the model files, with /proc mounted."},
	}
}
