package mapped

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

const (
	// dropStep is how much is dropped between two checks of the context: the kernel
	// takes a millisecond for it, or as long as the device takes to write it.
	dropStep = 8 << 20
	// A folio (a block of pages that the kernel keeps and drops as one) is at most
	// maxFolio large; minFolio is tried first.
	minFolio, maxFolio = 2 << 20, 32 << 20
	// pollInterval is how long the kernel gets before pages are counted again.
	pollInterval = 2 * time.Millisecond
	// readaheadWait is how long to wait for pages that the kernel reads ahead.
	readaheadWait = 250 * time.Millisecond
	// maxUnmapped is how many models in storage are remembered, whose files may have
	// pages in the page cache. The one that was unmapped first is forgotten.
	maxUnmapped = 1024
)

// Cached implements tier.Cacher: it asks the kernel what of the model is in the page
// cache beyond the kept part. It is 0 where the kernel does not tell (files that the
// process neither owns nor may write; outside Linux) and for files of tmpfs and the
// like, which Resident counts.
func (m *Mover) Cached(ctx context.Context, model string) (tier.Bytes, error) {
	w, held, done, err := m.look(model, false)
	if err != nil {
		return 0, err
	}
	defer done()
	n, err := w.cachedBytes(ctx, held)
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[model]; e != nil {
		e.cached = n
	}
	return tier.Bytes(n), nil
}

// Uncache implements tier.Cacher. The end of the model goes first, whole folios at a
// time. Pages that another process maps stay, which is no error.
func (m *Mover) Uncache(ctx context.Context, model string, n tier.Bytes) error {
	if n <= 0 || m.sys.dropCached == nil {
		return nil
	}
	ctx, e, err := m.begin(ctx, model, true)
	if errors.Is(err, tier.ErrInUse) {
		return nil // a move goes first
	}
	if err != nil {
		return err
	}
	defer m.end(e)
	w, held, done, err := m.look(model, false)
	if err != nil {
		return err
	}
	defer done()
	if seen, err := w.cachedBytes(ctx, held); err == nil && int64(n) >= seen {
		n = tier.Unlimited // also what is not seen
	}
	w.uncache(ctx, held, int64(n))
	if left, err := w.cachedBytes(ctx, held); err == nil {
		m.mu.Lock()
		e.cached = left
		m.mu.Unlock()
	}
	if err := context.Cause(ctx); !errors.Is(err, errPreempted) {
		return err
	}
	return nil
}

// look returns the mapping of a model to look at until done is called, and how many
// bytes of it, the first ones, are not cached bytes. For a model in storage it maps
// those of its files that are in memory as long as they exist, or the others. An
// unknown model has no files.
func (m *Mover) look(model string, inMemory bool) (w *weights, held int64, done func(), err error) {
	m.mu.Lock()
	closed, e := m.closed, m.entries[model]
	if e == nil {
		e = new(entry)
	}
	w, held, left := e.weights, e.held, e.left
	m.mu.Unlock()
	switch {
	case closed:
		return nil, 0, nil, tier.ErrClosed
	case w != nil:
		w.mapped.RLock()
		return w, held, w.mapped.RUnlock, nil
	}
	w = &weights{sys: m.sys}
	for _, s := range left {
		if s.fs.inMemory != inMemory {
			continue
		}
		if again := s.reopen(); again != nil {
			w.shards = append(w.shards, again)
		}
	}
	return w, 0, func() { _ = w.close() }, nil
}

// reopen maps the file of a closed shard again. It returns nil if the file is not
// there any more: what is cached of it can be neither seen nor dropped.
func (s *shard) reopen() *shard {
	f, info, err := openRegular(s.model, s.path)
	if err != nil {
		return nil
	}
	again := &shard{sys: s.sys, model: s.model, path: s.path, file: f, info: info}
	if !os.SameFile(info, s.info) || info.Size() != s.size() || again.mapIn() != nil {
		_ = again.close()
		return nil
	}
	return again
}

// cachedBytes returns how many bytes beyond the first held ones are seen to be cached.
func (w *weights) cachedBytes(ctx context.Context, held int64) (n int64, err error) {
	for _, s := range w.shards {
		if s.fs.inMemory || s.method != byMincore {
			continue
		}
		here, err := s.cached(ctx, s.prefix(held), s.pages())
		if err != nil {
			return 0, err
		}
		n += here
	}
	return n, nil
}

// uncache drops about n bytes beyond the first held ones, from the end, until ctx ends.
func (w *weights) uncache(ctx context.Context, held, n int64) {
	deadline := time.Now().Add(readaheadWait)
	for _, s := range slices.Backward(w.shards) {
		if !s.fs.inMemory {
			n -= s.uncache(ctx, s.prefix(held), n, deadline)
		}
	}
}

// uncache drops about n bytes of the pages from page from on, and returns how many
// are seen to be gone.
func (s *shard) uncache(ctx context.Context, from int, n int64, deadline time.Time) (gone int64) {
	for to := s.pages(); to > from && gone < n && ctx.Err() == nil; {
		at := max(int64(to)*s.sys.page-min(n-gone, dropStep), 0) / minFolio * minFolio
		to = max(int(at/s.sys.page), from)
		// With a larger folio, which ends after what was dropped before.
		p := span{s, to, min(to+int(maxFolio/s.sys.page), s.pages())}
		before := p.cached(ctx)
		left := p.drop(ctx)
		if left > 0 && s.sys.writeBack != nil { // dirty pages stay
			_ = s.sys.writeBack(s.file, p.off(), p.len())
			left = p.drop(ctx)
		}
		// Once more also if the kernel had its hands on a page for a moment.
		for again := true; left > 0 && (again || p.arriving(ctx)) && time.Now().Before(deadline); again = false {
			time.Sleep(pollInterval)
			left = p.drop(ctx)
		}
		if left > 0 && 0 < to && to == from {
			s.splitFolio(ctx, from)
			left = p.cached(ctx)
		}
		gone += before - left
	}
	return gone
}

// cached returns how much of the span is cached, as far as that can be seen.
func (p span) cached(ctx context.Context) int64 {
	n, err := p.shard.cached(ctx, p.from, p.to)
	if err != nil {
		return 0
	}
	return n
}

// arriving reports whether the device still has to deliver pages of the span. Only
// cachestat counts them before.
func (p span) arriving(ctx context.Context) bool {
	present, err := p.present(ctx, p.from, p.to) // first: what arrives in between counts
	return err == nil && p.cached(ctx) > present
}

// drop drops the span from our page tables and from the page cache, and returns how
// much of it is still cached.
//
// It uses MADV_DONTNEED, which removes the pages from our page tables, and then
// fadvise, which drops what nothing maps. MADV_PAGEOUT would do both, but takes
// twice as long and silently does nothing for files that the process does not own.
func (p span) drop(ctx context.Context) (left int64) {
	p.letGo(p.from, p.to)
	_ = p.sys.dropCached(p.file, p.off(), int64(p.to-p.from)*p.sys.page) // whole pages: a part of one stays
	return p.cached(ctx)
}

// letGo takes pages [from, to) out of our page tables. They stay in the page cache.
func (s *shard) letGo(from, to int) {
	if from >= to || s.sys.dropMapped == nil {
		return
	}
	_ = s.sys.dropMapped(span{s, from, to}.mem()) // cannot fail: it is mapped
	if first := int(int64(from) * s.sys.page / minFolio * minFolio / s.sys.page); first < from && s.method == byPagemap {
		_ = span{s, first, from}.mapPages() // a huge page went whole
	}
}

// splitFolio drops a folio that lies across page from, since the kernel drops it
// only whole, and reads its part before that page again, page by page, so that no
// folio lies across any more.
func (s *shard) splitFolio(ctx context.Context, from int) {
	first := from
	for folio := int64(minFolio); folio <= maxFolio; folio *= 2 {
		if (span{s, from, from + 1}).cached(ctx) == 0 {
			break // the page is gone, and its folio with it
		}
		first = int(int64(from) * s.sys.page / folio * folio / s.sys.page)
		span{s, first, min(first+int(folio/s.sys.page), s.pages())}.drop(ctx)
	}
	if first == from {
		return
	}
	if s.sys.setReadahead != nil {
		s.sys.setReadahead(s.file, readaheadOff)
		defer s.sys.setReadahead(s.file, readaheadNormal)
	}
	p := span{s, first, from}
	if p.read(make([]byte, scratchSize)) == nil { // else it is seen to be missing
		_ = p.mapPages()
	}
}
