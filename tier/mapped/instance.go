package mapped

import (
	"fmt"
	"io"

	"github.com/modeltier/modeltier/tier"
)

// Weights are those of one model in ram or swap: what the holder of a lease gets
// (modeltier.Instance). Its methods are safe for concurrent use, and return errors once
// the model is unmapped. It needs no closing.
type Weights struct {
	name  string
	w     *weights
	inRAM bool
}

var _ io.ReaderAt = (*Weights)(nil)

// Weights returns the weights of a model. The error is a *tier.InvalidError if it is not
// mapped.
func (m *Mover) Weights(name string) (*Weights, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, tier.ErrClosed
	}
	e := m.entries[name]
	if e == nil || e.weights == nil {
		return nil, notMapped(name)
	}
	return &Weights{name: name, w: e.weights, inRAM: e.tier == tier.RAM}, nil
}

// Instance implements tier.Instancer: it is a *Weights, or nil for a model in storage.
func (m *Mover) Instance(model string) any {
	if w, err := m.Weights(model); err == nil {
		return w
	}
	return nil
}

// Bytes is Weights.Bytes of a model. Its errors are those of Weights, too.
func (m *Mover) Bytes(name string) ([][]byte, error) {
	w, err := m.Weights(name)
	if err != nil {
		return nil, err
	}
	return w.Bytes()
}

// Bytes returns the mapped weights, one slice for each file in the order of their names.
// It costs one stat per file and copies nothing.
//
// The slices are read-only: writing to them ends the process. They are valid as
// long as the lease is held and the Manager is not closed; later they are unmapped memory.
// Lease.Done is closed before that, but Manager.Close does not wait for readers, as
// Shutdown does: end them first. A read may wait for the
// device in swap. It faults if a file was truncated meanwhile, which ends the process
// unless debug.SetPanicOnFault is set. ReadAt reads without that risk.
//
// The error is a *ChangedError if a file is not what was mapped.
func (r *Weights) Bytes() ([][]byte, error) {
	w := r.w
	w.mapped.RLock()
	defer w.mapped.RUnlock()
	if w.shards == nil {
		return nil, notMapped(r.name)
	}
	if err := w.check(); err != nil {
		return nil, err
	}
	all := make([][]byte, len(w.shards))
	for i, s := range w.shards {
		all[i] = s.data[:len(s.data):len(s.data)]
	}
	return all, nil
}

func notMapped(name string) error {
	return &tier.InvalidError{
		Model: name, Field: "tier", Value: "storage", Rule: "must be ram or swap while the weights are read",
		Help: []string{"Take a lease on the model first, and hold it while the weights are read."},
	}
}

// Size returns the bytes of all files.
func (r *Weights) Size() int64 { return r.w.size }

// ReadAt implements io.ReaderAt. A file that is truncated, rewritten or replaced
// meanwhile is an error, a *ChangedError if it can be seen, and never ends the
// process. From ram it copies; from swap it reads the file, which does not block
// the Go runtime as a fault does.
func (r *Weights) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &tier.InvalidError{Model: r.name, Field: "offset", Value: fmt.Sprint(off), Rule: "must not be negative"}
	}
	for n < len(p) {
		did, err := r.readSome(p[n:], off+int64(n))
		n += did
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readSome reads from one shard, and little enough that unmapping need not wait.
func (r *Weights) readSome(p []byte, off int64) (int, error) {
	const maxRead = 1 << 20
	r.w.mapped.RLock()
	defer r.w.mapped.RUnlock()
	if r.w.shards == nil {
		return 0, notMapped(r.name)
	}
	for _, s := range r.w.shards {
		if off >= s.start+s.size() {
			continue
		}
		if err := s.check(); err != nil {
			return 0, err
		}
		from := off - s.start
		p = p[:min(int64(len(p)), s.size()-from, maxRead)]
		return s.read(p, from, r.inRAM)
	}
	return 0, io.EOF
}

func (s *shard) read(p []byte, off int64, inRAM bool) (n int, err error) {
	if inRAM {
		src := s.data[off : off+int64(len(p))]
		n = len(p)
		err = guard(src, func() { copy(p, src) })
	} else {
		n, err = s.file.ReadAt(p, off)
	}
	if err != nil {
		return 0, s.readError("reading", off, err)
	}
	return n, nil
}
