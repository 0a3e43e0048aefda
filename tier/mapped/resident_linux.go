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

// Resident implements tier.Resident, on Linux: it asks the kernel. Of a model in
// storage, only what its last move could not drop is looked for, and dropped if
// that is possible by now; of a model that was never mapped, nothing.
//
// Where the process neither owns nor may write the files, the kernel does not
// tell what is cached. Then what is present is what our own page tables hold,
// which is the least there is; pages that were given up may still be cached, for
// anybody to take. Where not even that is seen, the error is an *UnseenError.
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
	w, left, locked, found := e.weights, e.left, e.locked, e.found
	m.mu.Unlock()
	if w == nil {
		return m.settle(ctx, e, left)
	}

	w.use.RLock()
	defer w.use.RUnlock()
	if found != nil && w.restore(ctx, found, readAhead) {
		m.mu.Lock()
		e.found = nil
		m.mu.Unlock()
	}
	var total, fixed int64
	for _, s := range w.shards {
		n, err := s.total(ctx)
		if err != nil {
			return 0, 0, err
		}
		total += n
		if s.fs.memory {
			fixed += n
		}
	}
	return tier.Bytes(total), tier.Bytes(max(total-max(fixed, locked), 0)), nil
}

// total returns how many bytes of the shard are present, by the best witness:
// cachestat, which needs no page tables and tells also of some files that are
// not our own, or else mincore or pagemap.
func (s *shard) total(ctx context.Context) (int64, error) {
	if s.sight == blind {
		if s.census == nil {
			return 0, &UnseenError{Model: s.model, Path: s.path}
		}
		if _, err := s.census(s.file, 0, s.sys.page); err != nil {
			return 0, &UnseenError{Model: s.model, Path: s.path}
		}
	}
	return s.cached(ctx, 0, s.pages())
}

// settle looks for what a move to storage left behind, and forgets it when it
// is gone.
func (m *Mover) settle(ctx context.Context, e *entry, left []residue) (present, reclaimable tier.Bytes, err error) {
	if len(left) == 0 {
		return 0, 0, nil // also if a load failed since and left pages: those are the next call's
	}
	var total, fixed int64
	for _, r := range left {
		n, memory, err := r.drop(ctx, m.sys)
		if err != nil {
			return 0, 0, err
		}
		total += n
		if memory {
			fixed += n
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[e.name] == e && e.run == nil && len(e.left) > 0 && &e.left[0] == &left[0] { // nothing moved meanwhile
		e.stayed = total
		if total == 0 {
			delete(m.entries, e.name)
		}
	}
	return tier.Bytes(total), tier.Bytes(total - fixed), nil
}

// drop drops what has become droppable, and returns what is still present. A
// file that was replaced is none of ours any more.
func (r *residue) drop(ctx context.Context, sys *system) (present int64, memory bool, err error) {
	if info, err := os.Stat(r.path); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, r.was) {
		return 0, false, nil
	}
	f, info, err := openRegular("", r.path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	if !os.SameFile(info, r.was) || info.Size() != r.was.Size() {
		return 0, false, nil
	}
	s := &shard{sys: sys, path: r.path, file: f, was: info}
	if err := s.mapIn(); err != nil {
		return 0, false, err
	}
	defer sys.unmap(s.data)
	if s.fs.memory {
		present, err = s.total(ctx)
		return present, true, err
	}
	s.dropBut(r.found)
	until := time.Now()
	if s.arriving(ctx) {
		until = until.Add(readAhead)
	}
	return s.await(ctx, r.found, until), false, nil
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

// UnseenError says that nothing tells which pages of a file are in memory. It
// unwraps to tier.ErrInvalid.
type UnseenError struct {
	Model, Path string
}

func (e *UnseenError) Error() string {
	return "model " + quote(e.Model) + ": what is present of " + quote(e.Path) + " cannot be seen"
}

// Unwrap returns tier.ErrInvalid.
func (e *UnseenError) Unwrap() error { return tier.ErrInvalid }

// Suggestions implements tier.Suggester.
func (e *UnseenError) Suggestions() []string {
	return []string{"Run the server as the owner of the model files, with /proc mounted."}
}
