package process

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/modeltier/modeltier/tier"
)

// How files are read into the page cache: 4 readers, each through one share of
// the whole, in order and with a handle of its own. So the kernel's read-ahead
// sees 4 streams and fills large folios: 1 GB was read as fast as with 8 readers
// that take small pieces in turn, was mapped in 20 ms where their small folios
// took 200, and paged out in 20 ms where theirs took 400. The parts are small
// enough for a refill that is called off to end in milliseconds.
const (
	readers   = 4
	minShare  = 64 << 20
	pieceSize = 4 << 20 // not read again where all of it is cached
	partSize  = 1 << 20
)

// filling is a refill under way.
type filling struct {
	cancel context.CancelFunc
	bytes  atomic.Int64  // that are there
	done   chan struct{} // closed at the end
}

// fill starts to bring a model's files into the page cache. The caller ends it
// with stop. What goes wrong is logged: the engine then reads for itself.
func (m *Mover) fill(ctx context.Context, s *slot) *filling {
	f := &filling{done: make(chan struct{})}
	ctx, f.cancel = context.WithCancel(ctx)
	path, files := s.model.Path, s.files
	go func() {
		defer close(f.done)
		if n, sure := m.sys.cachedOf(files); sure && n >= sizeOf(files) {
			f.bytes.Store(int64(n))
			return
		}
		var err error
		if m.opts.Refill != nil && len(files) > 0 {
			err = guarded(ctx, "Options.Refill", func() error {
				return m.opts.Refill(ctx, path, func(done tier.Bytes) { f.bytes.Store(int64(done)) })
			})
		} else {
			err = m.read(ctx, files, func(n int64) { f.bytes.Add(n) })
		}
		if err != nil && (ctx.Err() == nil || errors.Is(err, tier.ErrPanic)) {
			m.log.Warn("weights could not be read ahead", "model", s.name, "err", err)
		}
	}()
	return f
}

// stop calls the refill off and waits for it.
func (f *filling) stop() {
	f.cancel()
	<-f.done
}

func sizeOf(files []weightFile) (n tier.Bytes) {
	for _, f := range files {
		n += tier.Bytes(f.size)
	}
	return n
}

// read reads files into the page cache. One model is read after the other: two at
// once would share the device and both be late.
func (m *Mover) read(ctx context.Context, files []weightFile, there func(int64)) error {
	select {
	case m.lane <- struct{}{}:
		defer func() { <-m.lane }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	total := int64(sizeOf(files))
	share := max((total+readers-1)/readers, minShare)
	group, ctx := errgroup.WithContext(ctx)
	for from := int64(0); from < total; from += share {
		group.Go(func() error {
			buffer := make([]byte, partSize)
			at := int64(0) // where the file begins in the whole
			for _, file := range files {
				begin, end := max(from-at, 0), min(from+share-at, file.size)
				if begin < end {
					if err := m.sys.readFile(ctx, file, begin, end, buffer, there); err != nil {
						return err
					}
				}
				at += file.size
			}
			return nil
		})
	}
	return group.Wait()
}

// readFile reads what is not cached of a range.
func (sys *system) readFile(ctx context.Context, file weightFile, off, end int64, buffer []byte, there func(int64)) error {
	f, sees, err := sys.open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// Looked at before the first read: later, what the kernel has begun to read
	// ahead would count as cached, and to skip that would break the stream.
	var skip []bool
	for at := off; at < end && sees; at += pieceSize {
		n := min(pieceSize, end-at)
		in, err := sys.cached(f, at, n)
		skip = append(skip, err == nil && in >= n)
	}
	for i := 0; off < end; i, off = i+1, off+pieceSize {
		piece := min(off+pieceSize, end)
		if sees && skip[i] {
			there(piece - off)
			continue
		}
		for at := off; at < piece; at += partSize {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(partSize, piece-at)
			if _, err := f.ReadAt(buffer[:n], at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			there(n) // of a file that was cut short too: nobody looks at the bytes
		}
	}
	return nil
}
