package mapped

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"

	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sync/errgroup"
)

// weights are the mapped files of one model: its shards, end to end.
type weights struct {
	sys   *system
	path  string // as the model gave it
	parts []string
	size  int64

	// mapped is held for reading while the mapping is used, and for writing while
	// it is unmapped.
	mapped sync.RWMutex
	shards []*shard // nil once unmapped
	// locked is how many bytes are mlocked, from the first on. Only the operation
	// that runs on the model changes it.
	locked atomic.Int64
}

// shard is one mapped file. It does not change until it is closed.
type shard struct {
	sys        *system
	model      string
	path       string
	file       *os.File
	info       fs.FileInfo // when it was mapped
	data       []byte
	start      int64 // its offset in the model
	device     uint64
	deviceName string
	fs         filesystem
	method     residencyMethod
	cachestat  func(f *os.File, off, n int64) (int64, error) // system.cachestat, or nil if it is wrong for this file
}

// openWeights maps the model's files. It reads none of them.
func openWeights(sys *system, m *tier.Model) (w *weights, err error) {
	paths, err := findShards(m.Name, m.Path, m.Parts...)
	if err != nil {
		return nil, err
	}
	w = &weights{sys: sys, path: m.Path, parts: m.Parts}
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
		w.shards = append(w.shards, &shard{sys: sys, model: m.Name, path: path, file: f, info: info, start: w.size})
		w.size += info.Size()
		if info.Size() == 0 { // it cannot be mapped, and its weights are missing
			return w, badPath(m.Name, path, "must not be empty", "The file has no bytes: download it again, or move it out of the folder if it holds no weights.")
		}
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
	data, err := s.sys.mapFile(s.file, int(s.info.Size()))
	if err != nil {
		return fmt.Errorf("mapping %s (%v): %w", quote(s.path), tier.Bytes(s.info.Size()), err)
	}
	s.data = data
	if s.sys.device != nil {
		s.device, s.deviceName = s.sys.device(s.info)
	}
	if s.sys.filesystem != nil {
		s.fs = s.sys.filesystem(s.file)
	}
	if !s.fs.layered {
		s.cachestat = s.sys.cachestat
	}
	s.method = s.chooseMethod()
	return nil
}

// close unmaps everything. Pages stay in the page cache.
func (w *weights) close() error {
	w.mapped.Lock()
	defer w.mapped.Unlock()
	var errs []error
	for _, s := range w.shards {
		errs = append(errs, s.close())
	}
	w.shards = nil
	return errors.Join(errs...)
}

func (s *shard) close() error {
	var err error
	if s.data != nil {
		err = s.sys.unmap(s.data)
		s.data = nil
	}
	return errors.Join(err, s.file.Close())
}

// check returns a *ChangedError if a file is not the one that was mapped.
func (w *weights) check() error {
	for _, s := range w.shards {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *shard) size() int64 { return s.info.Size() }

func (s *shard) pages() int { return s.sys.pages(s.size()) }

// bytes returns how many bytes of the file the pages [from, to) hold.
func (s *shard) bytes(from, to int) int64 {
	return max(min(int64(to)*s.sys.page, s.size())-int64(from)*s.sys.page, 0)
}

// prefix returns how many pages of the shard lie wholly within bytes [0, end) of
// the model, so that what is kept never exceeds what was set aside for it. The
// last page of a file counts as whole.
func (s *shard) prefix(end int64) int {
	if end -= s.start; end >= s.size() {
		return s.pages()
	}
	return int(max(end, 0) / s.sys.page)
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

// read reads the pages of p into the page cache, through buf.
func (p span) read(buf []byte) error {
	for off, end := p.off(), p.off()+p.len(); off < end; {
		n, err := p.file.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil {
			return p.readError("reading", off, err)
		}
		off += int64(n)
	}
	return nil
}

// mapPages enters pages that are cached into our page tables.
func (p span) mapPages() error {
	if p.sys.populate != nil && p.sys.populate(p.mem()) == nil {
		return nil
	}
	if err := touch(p.mem(), p.sys.page); err != nil {
		return p.readError("mapping", p.off(), err)
	}
	return nil
}

// readError explains why reading failed within the size that was mapped.
func (s *shard) readError(doing string, off int64, err error) error {
	if changed := s.check(); changed != nil {
		return changed
	}
	if errors.Is(err, io.EOF) { // the file cannot end here
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s %s at %d: %w", doing, quote(s.path), off, err)
}

// residencyMethod is how the package finds out which pages of a shard are
// present. A larger value tells more.
type residencyMethod uint8

const (
	noMethod  residencyMethod = iota
	byPagemap                 // our page tables; pages cached beside them are not seen
	byMincore                 // the page cache
)

func (r residencyMethod) String() string {
	return [...]string{noMethod: "nothing", byPagemap: "pagemap", byMincore: "mincore"}[r]
}

// chooseMethod returns the best method that works for the shard.
func (s *shard) chooseMethod() residencyMethod {
	first, vec := s.data[:min(s.size(), s.sys.page)], make([]byte, 1)
	switch {
	case s.sys.mincore != nil && s.sys.mayAskMincore(s.file, s.info) && s.sys.mincore(first, vec) == nil:
		return byMincore
	case s.sys.pagemap != nil && s.sys.pagemap(first, vec) == nil:
		return byPagemap
	}
	return noMethod
}

const (
	// scanPages is how many pages one call asks for; a multiple of 64.
	scanPages = 1 << 14
	// scanWorkers calls run at once: the kernel's walk waits for memory more than
	// for a processor.
	scanWorkers = 2
)

// scan adds to set, whose first page is from, the pages of [from, to) that are
// present.
func (s *shard) scan(ctx context.Context, from, to int, set bitset) error {
	ask := s.sys.mincore
	switch s.method {
	case byPagemap:
		ask = s.sys.pagemap
	case noMethod:
		return nil
	}
	vec := make([]byte, min(scanPages, to-from))
	for page := from; page < to; page += len(vec) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		vec = vec[:min(len(vec), to-page)]
		if err := ask(span{s, page, page + len(vec)}.mem(), vec); err != nil {
			return err
		}
		for i, present := range vec {
			if present != 0 {
				set.add(page - from + i)
			}
		}
	}
	return nil
}

// present returns how many bytes of the pages [from, to) are present. It is an error
// if nothing tells that.
func (s *shard) present(ctx context.Context, from, to int) (int64, error) {
	if s.method == noMethod {
		return 0, &tier.InvalidError{
			Model: s.model, Field: "path", Value: quote(s.path), Rule: "must be a file whose cached pages can be seen",
			Help: []string{"Run the server as the owner of the model files, with /proc mounted."},
		}
	}
	set := newBitset(to - from)
	err := s.scan(ctx, from, to, set)
	var n int64
	for first, end := range set.runs(to-from, true) {
		n += s.bytes(from+first, from+end)
	}
	return n, err
}

// cached returns how many bytes of the pages [from, to) are in the page cache,
// including pages that are still being read, which only cachestat sees.
func (s *shard) cached(ctx context.Context, from, to int) (int64, error) {
	if from >= to {
		return 0, nil
	}
	if s.cachestat == nil {
		return s.present(ctx, from, to)
	}
	n, err := s.cachestat(s.file, int64(from)*s.sys.page, int64(to-from)*s.sys.page)
	if err != nil {
		return s.present(ctx, from, to)
	}
	if unused := int64(s.pages())*s.sys.page - s.size(); unused > 0 && to == s.pages() && n > 0 {
		last, err := s.cachestat(s.file, int64(to-1)*s.sys.page, s.sys.page)
		if err == nil && last > 0 {
			n -= unused
		}
	}
	return n, nil
}

// snapshot returns, by shard, which pages of bytes [0, end) are present: none if that
// cannot be seen. With guess, a stretch that is wholly in the page cache counts as
// present though some of it may still be on its way; that is fast.
func (w *weights) snapshot(ctx context.Context, end int64, guess bool) ([]bitset, error) {
	sets := make([]bitset, len(w.shards))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(scanWorkers)
	for i, s := range w.shards {
		pages := s.prefix(end)
		sets[i] = newBitset(pages)
		for from := 0; from < pages; from += scanPages {
			to := min(from+scanPages, pages)
			group.Go(func() error { return s.addPresent(ctx, from, to, guess, sets[i][from/64:(to+63)/64]) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return sets, nil
}

// markCold makes all pages the first that the kernel reclaims, those beyond the first
// end bytes before the others. It leaves out shards seen by pagemap: the kernel takes
// large folios out of our page tables on the way, and they would seem to be gone.
func (w *weights) markCold(end int64) {
	if w.sys.markCold == nil {
		return
	}
	for _, s := range w.shards {
		kept := s.prefix(end)
		for _, p := range []span{{s, kept, s.pages()}, {s, 0, kept}} {
			if p.from < p.to && s.method == byMincore {
				_ = w.sys.markCold(p.mem()) // a hint
			}
		}
	}
}

// addPresent adds to set, whose first page is from, the pages of [from, to) that
// are present.
func (s *shard) addPresent(ctx context.Context, from, to int, guess bool, set bitset) error {
	if guess && s.method == byMincore && s.cachestat != nil {
		n, err := s.cached(ctx, from, to)
		switch {
		case err == nil && n == 0:
			return nil
		case err == nil && n == s.bytes(from, to):
			set.fill()
			return nil
		}
	}
	return s.scan(ctx, from, to, set)
}

// missing returns how many bytes of [0, end) are not in sets. Shards without a
// residency method miss nothing.
func (w *weights) missing(end int64, sets []bitset) int64 {
	var n int64
	for i, s := range w.shards {
		if s.method != noMethod {
			n += s.count(sets[i], s.prefix(end), false)
		}
	}
	return n
}

// count returns the bytes of the pages [0, end) that are in the set, or, if in is
// false, of those that are not.
func (s *shard) count(set bitset, end int, in bool) int64 {
	var n int64
	for from, to := range set.runs(end, in) {
		n += s.bytes(from, to)
	}
	return n
}

// bitset is a set of pages.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) add(i int) { b[i/64] |= 1 << (i % 64) }

// fill adds all pages.
func (b bitset) fill() {
	for i := range b {
		b[i] = ^uint64(0)
	}
}

// next returns the first page of [i, end) that is in the set, or, if in is false,
// that is not; end if there is none.
func (b bitset) next(i, end int, in bool) int {
	for i < end {
		word := b[i/64]
		if !in {
			word = ^word
		}
		if word >>= i % 64; word != 0 {
			return min(i+bits.TrailingZeros64(word), end)
		}
		i = (i/64 + 1) * 64
	}
	return end
}

// runs yields the runs [from, to) of the pages [0, end) that are in the set, or,
// if in is false, that are not.
func (b bitset) runs(end int, in bool) iter.Seq2[int, int] {
	return func(yield func(from, to int) bool) {
		for from := b.next(0, end, in); from < end; {
			to := b.next(from, end, !in)
			if !yield(from, to) {
				return
			}
			from = b.next(to, end, in)
		}
	}
}
