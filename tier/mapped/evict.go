package mapped

import (
	"context"
	"iter"
	"time"
)

const (
	// dropStep is how much is dropped between two reports of progress: some
	// milliseconds if the kernel keeps single 4 KiB pages.
	dropStep = 64 << 20
	// writeBackStep is how much is written back between two checks of the context.
	writeBackStep = 8 << 20
	// A folio (a block of pages that the kernel keeps and drops as one) is at most
	// maxFolio large; minFolio is tried first.
	minFolio, maxFolio = 2 << 20, 32 << 20
	// pollInterval is how long the kernel gets before pages are counted again.
	pollInterval = 2 * time.Millisecond
	// readaheadWait is how long to wait for pages that the kernel reads ahead.
	readaheadWait = 250 * time.Millisecond
)

// evict drops all pages beyond the first end bytes of the model and returns how
// many bytes stayed. Pages must not be mlocked. If ctx ends, evict does not stop
// half-way; it only stops waiting for write-back.
//
// It uses MADV_DONTNEED, which removes the pages from our page tables, and then
// fadvise, which drops what nothing maps. MADV_PAGEOUT would do both, but takes
// twice as long and silently does nothing for files that the process does not own.
//
// If the model was read just before, evict waits for pages that the kernel read
// ahead and that may still arrive.
func (w *weights) evict(ctx context.Context, end int64, justRead bool, r *report) (stayed int64) {
	step := int(dropStep / w.sys.page)
	for _, s := range w.shards {
		for page := s.prefix(end); page < s.pages(); {
			to := min((page/step+1)*step, s.pages()) // aligned, so that no folio lies across
			s.drop(page, to)
			r.add(s.bytes(page, to))
			page = to
		}
	}
	deadline := time.Now()
	if justRead {
		deadline = deadline.Add(readaheadWait)
	}
	for _, s := range w.shards {
		stayed += s.finishDrop(ctx, s.prefix(end), deadline)
	}
	return stayed
}

// finishDrop drops what did not go at once: a folio that lies across page from,
// which no waiting drops, and pages that are still being read or written.
func (s *shard) finishDrop(ctx context.Context, from int, deadline time.Time) int64 {
	seeing := context.WithoutCancel(ctx)
	beyond := func(yield func(from, to int) bool) { yield(from, s.pages()) }
	if s.fs.inMemory {
		return s.cachedIn(seeing, beyond)
	}
	inside := 0 < from && from < s.pages() && s.method != noMethod
	if inside {
		s.splitFolio(seeing, from)
	}
	n := s.dropUntil(seeing, beyond, deadline)
	if n > 0 {
		s.writeBack(ctx, from)
		n = s.cachedIn(seeing, beyond)
	}
	if n > 0 && inside { // the folio had not arrived before, or was dirty
		s.splitFolio(seeing, from)
		n = s.cachedIn(seeing, beyond)
	}
	return n
}

// dropUntil drops the runs of pages until none is seen any more or the deadline
// passes, and returns how many bytes were seen last. Pages that the kernel reads
// ahead cannot be dropped before they arrive, and only cachestat counts them before.
func (s *shard) dropUntil(ctx context.Context, runs iter.Seq2[int, int], deadline time.Time) int64 {
	const zeros = 3 // in a row, without cachestat
	n := s.cachedIn(ctx, runs)
	for zero := 0; time.Now().Before(deadline); n = s.cachedIn(ctx, runs) {
		if n == 0 {
			if zero++; s.cachestat != nil || zero == zeros {
				break
			}
		} else {
			zero = 0
			s.dropIn(runs)
		}
		time.Sleep(pollInterval)
	}
	return n
}

// cachedIn adds up what is cached of the runs, as far as that can be seen.
func (s *shard) cachedIn(ctx context.Context, runs iter.Seq2[int, int]) (n int64) {
	for from, to := range runs {
		if here, err := s.cached(ctx, from, to); err == nil {
			n += here
		}
	}
	return n
}

func (s *shard) dropIn(runs iter.Seq2[int, int]) {
	for from, to := range runs {
		s.drop(from, to)
	}
}

// drop drops pages [from, to) from our page tables and from the page cache. Errors
// tell nothing: what went is counted afterwards.
func (s *shard) drop(from, to int) {
	if from >= to || s.sys.dropMapped == nil || s.sys.dropCached == nil {
		return
	}
	p := span{s, from, to}
	_ = s.sys.dropMapped(p.mem())
	if !s.fs.inMemory {
		_ = s.sys.dropCached(s.file, p.off(), int64(to-from)*s.sys.page) // whole pages: a part of one stays
	}
}

// splitFolio drops a folio that lies across page from, since the kernel drops it
// only whole, and reads its part before that page again, page by page, so that no
// folio lies across any more. With pagemap the kernel has removed a huge page from
// our page tables whole, the kept part included.
func (s *shard) splitFolio(ctx context.Context, from int) {
	first := from
	for folio := int64(minFolio); folio <= maxFolio; folio *= 2 {
		n, err := s.present(ctx, from, from+1)
		if err != nil || n == 0 && s.method == byMincore {
			break // the page is gone, and its folio with it
		}
		first = int(int64(from) * s.sys.page / folio * folio / s.sys.page)
		s.drop(first, min(first+int(folio/s.sys.page), s.pages()))
		if s.method != byMincore {
			break // dropping more would show nothing
		}
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

// writeBack writes the pages from page from on to the device, since dirty pages
// cannot be dropped, and drops them.
func (s *shard) writeBack(ctx context.Context, from int) {
	if s.sys.writeBack == nil || s.fs.inMemory {
		return
	}
	for page := from; page < s.pages() && ctx.Err() == nil; {
		to := min(page+int(max(writeBackStep/s.sys.page, 1)), s.pages())
		p := span{s, page, to}
		if s.sys.writeBack(s.file, p.off(), p.len()) != nil {
			return
		}
		page = to
	}
	s.drop(from, s.pages())
}

// markCold makes the first end bytes the first that the kernel reclaims. It leaves
// out shards seen by pagemap: the kernel takes large folios out of our page tables
// on the way, and they would seem to be gone.
func (w *weights) markCold(end int64) {
	if w.sys.markCold == nil {
		return
	}
	for _, s := range w.shards {
		if n := s.prefix(end); n > 0 && s.method == byMincore {
			_ = w.sys.markCold(span{s, 0, n}.mem()) // a hint
		}
	}
}

// restore drops the pages that are present but not in before: those that a failed
// load brought. It takes little longer than wait and returns how many bytes stayed; on
// a slow device, what the kernel reads ahead arrives later.
func (w *weights) restore(ctx context.Context, before []bitset, wait time.Duration) (stayed int64) {
	ctx = context.WithoutCancel(ctx)
	deadline := time.Now().Add(wait)
	for i, s := range w.shards {
		s.dropIn(before[i].runs(s.pages(), false))
	}
	for i, s := range w.shards {
		// In memory nothing was brought, and on other systems nothing can be dropped.
		if !s.fs.inMemory && s.sys.dropCached != nil {
			stayed += s.dropUntil(ctx, before[i].runs(s.pages(), false), deadline)
		}
	}
	return stayed
}
