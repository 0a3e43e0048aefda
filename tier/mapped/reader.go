package mapped

import (
	"errors"
	"fmt"
	"io"

	"github.com/modeltier/modeltier/tier"
)

// Bytes returns the mapped weights of a model in ram or swap, a slice for each
// file in the order of their names. It costs one stat a file and copies nothing.
//
// The slices are read-only: writing to them ends the process. They are valid for
// as long as the lease under which Bytes was called is held. Whoever keeps them
// longer reads unmapped memory. In swap, and in ram after a file was cut short
// by somebody, a read may wait for the device or fault; a fault ends the process
// unless debug.SetPanicOnFault is set. Mover.Reader reads without that risk.
//
// The error is a *ChangedError where a file is not what was mapped, and a
// *tier.InvalidError where the model is not mapped.
func (m *Mover) Bytes(name string) ([][]byte, error) {
	w, _, err := m.mapped(name)
	if err != nil {
		return nil, err
	}
	w.use.RLock()
	defer w.use.RUnlock()
	if w.shards == nil {
		return nil, notMapped(name)
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

// mapped returns what is mapped of the model, and whether it is in ram.
func (m *Mover) mapped(name string) (w *weights, hot bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, false, tier.ErrClosed
	}
	e := m.entries[name]
	if e == nil || e.weights == nil {
		return nil, false, notMapped(name)
	}
	return e.weights, e.tier == tier.RAM, nil
}

func notMapped(name string) error {
	return &tier.InvalidError{
		Model: name, Field: "tier", Value: "storage", Rule: "must be ram or swap while the weights are read",
		Help: []string{"Take a lease on the model first, and hold it while the weights are read."},
	}
}

// Reader reads the weights of one model, its files end to end. It may be used
// from many goroutines. It needs no closing, and gives an error when the model
// is unmapped.
type Reader struct {
	name string
	w    *weights
	hot  bool
}

var _ io.ReaderAt = (*Reader)(nil)

// Reader returns a Reader of a model in ram or swap. Its errors are those of
// Bytes.
func (m *Mover) Reader(name string) (*Reader, error) {
	w, hot, err := m.mapped(name)
	if err != nil {
		return nil, err
	}
	return &Reader{name: name, w: w, hot: hot}, nil
}

// Size returns the bytes of all files.
func (r *Reader) Size() int64 { return r.w.size }

// ReadAt implements io.ReaderAt. A file that is cut short, rewritten or replaced
// meanwhile is an error, a *ChangedError if that can be seen, and never the end
// of the process. From ram it copies; from swap it reads the file, which does
// not hold up the Go runtime as a fault does.
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
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

// readSome reads from one shard, and no more at a time than keeps unmapping from
// waiting.
func (r *Reader) readSome(p []byte, off int64) (int, error) {
	const most = 1 << 20
	r.w.use.RLock()
	defer r.w.use.RUnlock()
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
		p = p[:min(int64(len(p)), s.size()-from, most)]
		return s.read(p, from, r.hot)
	}
	return 0, io.EOF
}

func (s *shard) read(p []byte, off int64, hot bool) (n int, err error) {
	if hot {
		src := s.data[off : off+int64(len(p))]
		n = len(p)
		err = guard(src, func() { copy(p, src) })
	} else {
		n, err = s.file.ReadAt(p, off)
	}
	if err == nil {
		return n, nil
	}
	if changed := s.check(); changed != nil {
		return 0, changed
	}
	if errors.Is(err, io.EOF) { // it cannot end here
		err = io.ErrUnexpectedEOF
	}
	return 0, fmt.Errorf("reading %s at %d: %w", quote(s.path), off, err)
}
