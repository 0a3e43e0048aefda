package process

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// weightFile is a file of weights, by its real path.
type weightFile struct {
	path string
	size int64
}

// maxFiles bounds the files of one model, far above any real one.
const maxFiles = 1024

// weightFiles returns the files of a model: the file at its path with its parts; of a
// folder the parts or, without any, the files in it. A relative path that does not
// exist, such as a name in a hub, has none, and then nothing is paged out or refilled.
// An absolute path that does not exist is an error, which is clearer than the
// engine's.
func weightFiles(model *tier.Model) ([]weightFile, error) {
	path := model.Path
	info, err := os.Stat(path)
	switch {
	case err != nil && !filepath.IsAbs(path):
		return nil, nil
	case err != nil:
		return nil, &tier.InvalidError{
			Model: model.Name, Field: "path", Value: quote(path), Rule: "must be readable: " + reason(err),
			Help: []string{"Check the path, or let the server's user read it."},
		}
	case info.IsDir() && len(model.Parts) == 0:
		return filesIn(path)
	}
	return filesAt(append([]string{path}, model.Parts...)), nil // not the folder: it is no regular file
}

// filesIn returns the .gguf and .safetensors files of a folder, or all of its files if
// it has none of those.
func filesIn(dir string) ([]weightFile, error) {
	entries, err := regular.List(dir, maxFiles)
	if err != nil {
		return nil, err
	}
	var weights, all []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		all = append(all, path)
		if regular.Weights(path) != "" {
			weights = append(weights, path)
		}
	}
	if len(weights) == 0 {
		weights = all
	}
	return filesAt(weights), nil
}

// filesAt returns the paths that are regular files.
func filesAt(paths []string) []weightFile {
	var files []weightFile
	seen := make(map[string]bool) // a file counts once
	for _, path := range paths {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if path, err := filepath.Abs(path); err == nil {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !seen[path] {
				seen[path] = true
				files = append(files, weightFile{path, info.Size()})
			}
		}
	}
	return files
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// reason returns err without the path, which the message names already.
func reason(err error) string {
	if pe, ok := err.(*os.PathError); ok {
		err = pe.Err
	}
	return err.Error()
}

// opened is a weight file that is open to read.
type opened struct {
	*os.File
	sys  *system
	sees bool // the kernel shows what is cached of it
}

func (sys *system) open(file weightFile) (opened, error) {
	f, err := os.Open(file.path)
	if err != nil {
		return opened{}, err
	}
	return opened{f, sys, sys.cached != nil && sys.owned(f)}, nil
}

// cached returns how many bytes of a range are in the page cache, and whether the
// kernel tells the truth.
func (f opened) cached(off, n int64) (in int64, sure bool) {
	if !f.sees {
		return 0, false
	}
	in, err := f.sys.cached(f.File, off, n)
	return in, err == nil
}

// cachedOf returns how many bytes of the files are in the page cache, and whether the
// kernel tells the truth about all of them.
func (sys *system) cachedOf(files []weightFile) (n tier.Bytes, sure bool) {
	for _, file := range files {
		f, err := sys.open(file)
		if err != nil {
			return 0, false
		}
		in, sure := f.cached(0, file.size)
		f.Close()
		if !sure {
			return 0, false
		}
		n += tier.Bytes(in)
	}
	return n, sys.cached != nil
}

// Files are read into the page cache by 4 readers, each through one share of a
// file, in order and with a handle of its own. So the read-ahead of the kernel sees 4
// streams and fills large folios. Measured with 1 GB, against 8 readers that take
// small pieces in turn: read as fast, mapped in 20 ms instead of 200, paged out in 20
// ms instead of 400. The parts are small enough for a refill to end in milliseconds
// when it is cancelled.
const (
	readers   = 4
	minShare  = 64 << 20
	pieceSize = 4 << 20 // skipped if all of it is cached
	partSize  = 1 << 20
)

// filling is a refill under way.
type filling struct {
	cancel context.CancelFunc
	bytes  atomic.Int64  // that are cached
	done   chan struct{} // closed at the end
}

// fill starts to read a model's files into the page cache. The caller ends it with
// stop. An error is logged: the engine then reads what is missing itself.
func (m *Mover) fill(ctx context.Context, s *slot) *filling {
	f := &filling{done: make(chan struct{})}
	ctx, f.cancel = context.WithCancel(ctx)
	files := s.files
	go func() {
		defer close(f.done)
		if n, sure := m.sys.cachedOf(files); sure && n >= sizeOf(files) {
			f.bytes.Store(int64(n))
			return
		}
		if err := m.refill(ctx, files, func(n int64) { f.bytes.Add(n) }); err != nil && ctx.Err() == nil {
			m.log.Warn("weights could not be read ahead", "model", s.name, "err", err)
		}
	}()
	return f
}

// stop cancels the refill and waits for its end.
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

// read reads files into the page cache, one model after the other: two at once would
// share the device and both be late.
func (m *Mover) read(ctx context.Context, files []weightFile, done func(int64)) error {
	select {
	case m.reading <- struct{}{}:
		defer func() { <-m.reading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	total := int64(sizeOf(files))
	share := max((total+readers-1)/readers, minShare)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, file := range files {
		for off := int64(0); off < file.size; off += share {
			group.Go(func() error { return m.sys.readFile(ctx, file, off, min(off+share, file.size), done) })
		}
	}
	return group.Wait()
}

// readFile reads the part of a range that is not cached.
func (sys *system) readFile(ctx context.Context, file weightFile, off, end int64, done func(int64)) error {
	f, err := sys.open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// Queried before the first read: later, pages of the read-ahead would count as
	// cached, and skipping them would break the stream.
	var missing []int64
	for at := off; at < end; at += pieceSize {
		n := min(pieceSize, end-at)
		if in, sure := f.cached(at, n); sure && in >= n {
			done(n)
			continue
		}
		missing = append(missing, at)
	}
	buffer := make([]byte, min(partSize, end-off))
	for _, piece := range missing {
		for at := piece; at < min(piece+pieceSize, end); at += partSize {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(partSize, end-at)
			if _, err := f.ReadAt(buffer[:n], at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			done(n) // of a truncated file too: the bytes are not used
		}
	}
	return nil
}
