package mapped

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/modeltier/modeltier/tier"
)

// weights are the mapped files of one model: its shards, end to end.
type weights struct {
	sys  *system
	path string // as the model gave it
	size int64

	// use is held to read while somebody touches the mapping, and locked to unmap
	// it.
	use    sync.RWMutex
	shards []*shard // nil when unmapped
	// locked is how many bytes are locked, from the first on. Only the move that
	// runs on the model touches it.
	locked int64
}

// shard is one mapped file. Nothing in it changes until it is closed.
type shard struct {
	sys    *system
	model  string
	path   string
	file   *os.File
	was    fs.FileInfo // as it was mapped
	data   []byte
	start  int64 // where it begins in the model
	device uint64
	where  string // the device's name
	fs     filesystem
	sight  sight
	census func(f *os.File, off, n int64) (int64, error) // system.census, where it can be believed
}

// open maps the model's files. It reads none of them.
func open(sys *system, m *tier.Model) (w *weights, err error) {
	paths, err := find(m.Name, m.Path)
	if err != nil {
		return nil, err
	}
	if len(paths) > maxShards {
		return nil, badPath(m.Name, m.Path, fmt.Sprintf("must hold %d files of weights at most, has %d", maxShards, len(paths)))
	}
	w = &weights{sys: sys, path: m.Path}
	defer func() {
		if err != nil {
			w.close()
			w = nil
		}
	}()
	for _, path := range paths {
		f, info, err := openRegular(m.Name, path)
		if err != nil {
			return w, err
		}
		if info.Size() == 0 { // it cannot be mapped, and its weights are missing
			f.Close()
			return w, badPath(m.Name, path, "must not be empty", "The file has no bytes: download it again, or move it out of the folder if it holds no weights.")
		}
		w.shards = append(w.shards, &shard{sys: sys, model: m.Name, path: path, file: f, was: info, start: w.size})
		w.size += info.Size()
	}
	if m.Size > 0 && w.size > int64(m.Size) {
		return w, &tier.InvalidError{
			Model: m.Name, Field: "size", Value: fmt.Sprintf("%d bytes", int64(m.Size)),
			Rule: fmt.Sprintf("must not be less than what %s has, %d bytes", quote(m.Path), w.size),
			Help: []string{"The file grew or the size was declared too small: declare the size again, so that what it takes can be set aside."},
		}
	}
	for _, s := range w.shards {
		if err := s.mapIn(); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (s *shard) mapIn() error {
	data, err := s.sys.mapFile(s.file, int(s.was.Size()))
	if err != nil {
		return fmt.Errorf("mapping %s (%v): %w", quote(s.path), tier.Bytes(s.was.Size()), err)
	}
	s.data = data
	if s.sys.device != nil {
		s.device, s.where = s.sys.device(s.was)
	}
	if s.sys.filesystem != nil {
		s.fs = s.sys.filesystem(s.file)
	}
	if !s.fs.layered {
		s.census = s.sys.census
	}
	s.sight = s.look()
	return nil
}

// close unmaps everything. Pages stay in the page cache.
func (w *weights) close() error {
	w.use.Lock()
	defer w.use.Unlock()
	var errs []error
	for _, s := range w.shards {
		if s.data != nil {
			errs = append(errs, w.sys.unmap(s.data))
			s.data = nil
		}
		errs = append(errs, s.file.Close())
	}
	w.shards = nil
	return errors.Join(errs...)
}

// check returns an error where the files are not those that were mapped.
func (w *weights) check() error {
	for _, s := range w.shards {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *shard) size() int64 { return s.was.Size() }

func (s *shard) pages() int { return s.sys.pages(s.size()) }

// bytes returns how many bytes of the file the pages [from, to) hold.
func (s *shard) bytes(from, to int) int64 {
	return max(min(int64(to)*s.sys.page, s.size())-int64(from)*s.sys.page, 0)
}

// span is a run of whole pages of a shard; the last may end early.
type span struct {
	*shard
	from, to int // pages
}

func (p span) off() int64 { return int64(p.from) * p.sys.page }
func (p span) len() int64 { return p.bytes(p.from, p.to) }

// mem is the span in the mapping.
func (p span) mem() []byte { return p.data[p.off() : p.off()+p.len()] }

// prefix returns how many whole pages of the shard lie within bytes [0, end) of
// the model: never more than end bytes, so that what is kept is no more than what
// was set aside for it. The last page of a file is whole where the file ends.
func (s *shard) prefix(end int64) int {
	if end -= s.start; end >= s.size() {
		return s.pages()
	}
	return int(max(end, 0) / s.sys.page)
}
