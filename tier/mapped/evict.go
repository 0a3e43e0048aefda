package mapped

import (
	"context"
	"time"
)

const (
	// dropped is how much is dropped between two reports of progress: some
	// milliseconds where the kernel keeps 4 KiB pages one by one.
	dropped = 64 << 20
	// cleaned is how much is written back between two looks at the context.
	cleaned = 8 << 20
	// A folio (a block of pages that the kernel keeps and drops as one) is at most
	// that large; the smallest is tried first.
	minFolio, maxFolio = 2 << 20, 32 << 20
	// moment is how long the kernel gets before pages are looked at again.
	moment = 2 * time.Millisecond
	// readAhead is how long pages are awaited that the kernel reads ahead.
	readAhead = 250 * time.Millisecond
)

// evict drops all pages beyond the first end bytes of the model, and returns how
// many bytes would not go. Pages must not be locked. It does not stop half-way
// because ctx ends; it only stops waiting for what is being written.
//
// The way is MADV_DONTNEED, which takes the pages out of our page tables, and
// then fadvise, which drops what nobody maps. MADV_PAGEOUT would do both, but
// takes twice as long and does nothing at all, without saying so, to files that
// the process does not own.
//
// Where the model was read just before, pages that the kernel read ahead may
// still arrive; they are awaited.
func (w *weights) evict(ctx context.Context, end int64, read bool, r *report) (left int64) {
	for _, s := range w.shards {
		for page := s.prefix(end); page < s.pages(); {
			step := int(dropped / s.sys.page)
			to := min((page/step+1)*step, s.pages()) // across no folio
			s.drop(page, to)
			r.add(s.bytes(page, to))
			page = to
		}
	}
	seeing := context.WithoutCancel(ctx)
	until := time.Now()
	if read {
		until = until.Add(readAhead)
	}
	for _, s := range w.shards {
		left += s.finish(ctx, seeing, s.prefix(end), until)
	}
	return left
}

// finish deals with what did not go at once: a folio that lies across page from,
// which no waiting drops, and pages that are still being read or written.
func (s *shard) finish(ctx, seeing context.Context, from int, until time.Time) int64 {
	beyond := func() int64 { return s.beyond(seeing, from) }
	if s.fs.memory {
		return beyond()
	}
	inside := 0 < from && from < s.pages() && s.sight != blind
	if inside {
		s.split(seeing, from)
	}
	n := s.poll(until, beyond, func() { s.drop(from, s.pages()) })
	if n > 0 {
		s.clean(ctx, from)
		n = beyond()
	}
	if n > 0 && inside { // it had not arrived before, or was dirty
		s.split(seeing, from)
		n = beyond()
	}
	return n
}

// poll drops what look sees until it sees nothing or the time is over, and
// returns what it saw last. The kernel reads ahead: such pages cannot be dropped
// before they have arrived, and only cachestat sees them before.
func (s *shard) poll(until time.Time, look func() int64, drop func()) int64 {
	const looks = 3
	n := look()
	for nothing := 0; time.Now().Before(until); n = look() {
		if n == 0 {
			if nothing++; s.census != nil || nothing == looks {
				break
			}
		} else {
			nothing = 0
			drop()
		}
		time.Sleep(moment)
	}
	return n
}

// beyond returns how many bytes are cached of the pages from that one on, as far
// as is seen.
func (s *shard) beyond(ctx context.Context, from int) int64 {
	n, err := s.cached(ctx, from, s.pages())
	if err != nil {
		return 0
	}
	return n
}

// drop drops pages [from, to) from our page tables and from the page cache. The
// system's answer is worth nothing: what went is seen afterwards.
func (s *shard) drop(from, to int) {
	if from >= to || s.sys.forget == nil || s.sys.drop == nil {
		return
	}
	p := span{s, from, to}
	_ = s.sys.forget(p.mem())
	if !s.fs.memory {
		_ = s.sys.drop(s.file, p.off(), int64(to-from)*s.sys.page) // a part of a page stays
	}
}

// split drops a folio that lies across page from: the kernel drops it only whole.
// What was dropped with it before that page is read again, page by page, so that
// no folio lies there any more. Where only our page tables are seen, the kernel
// has taken a huge page out of them whole, kept part and all.
func (s *shard) split(ctx context.Context, from int) {
	first := from
	for folio := int64(minFolio); folio <= maxFolio; folio *= 2 {
		n, err := s.present(ctx, from, from+1)
		if err != nil || n == 0 && s.sight == byCache {
			break // the page is gone, and its folio with it
		}
		first = int(int64(from) * s.sys.page / folio * folio / s.sys.page)
		s.drop(first, min(first+int(folio/s.sys.page), s.pages()))
		if s.sight != byCache {
			break // no more is seen
		}
	}
	if first == from {
		return
	}
	if s.sys.ahead != nil {
		s.sys.ahead(s.file, -1)
		defer s.sys.ahead(s.file, 0)
	}
	p := span{s, first, from}
	if p.read(make([]byte, scratch)) == nil { // else it is missing, which is seen
		_ = p.enter()
	}
}

// clean writes back what was written to the file a moment ago, which keeps its
// pages from being dropped, and drops it.
func (s *shard) clean(ctx context.Context, from int) {
	if s.sys.clean == nil || s.fs.memory {
		return
	}
	for page := from; page < s.pages() && ctx.Err() == nil; {
		to := min(page+int(max(cleaned/s.sys.page, 1)), s.pages())
		p := span{s, page, to}
		if s.sys.clean(s.file, p.off(), p.len()) != nil {
			return
		}
		page = to
	}
	s.drop(from, s.pages())
}

// restore drops the pages that are present now and were not by found: those that
// a load brought which came to nothing. It takes little longer than most, and
// reports whether they are all gone: what the kernel reads ahead on a slow device
// arrives later.
func (w *weights) restore(ctx context.Context, found []bitset, most time.Duration) (gone bool) {
	ctx = context.WithoutCancel(ctx)
	until := time.Now().Add(most)
	for i, s := range w.shards {
		s.dropBut(found[i])
	}
	gone = true
	for i, s := range w.shards {
		gone = s.await(ctx, found[i], until) == 0 && gone
	}
	return gone
}

// await drops all pages but those of found, and returns how many bytes are left
// of them when the time is over.
func (s *shard) await(ctx context.Context, found bitset, until time.Time) int64 {
	if s.fs.memory || s.sys.drop == nil {
		return 0 // nothing that was brought, or nothing that can be done
	}
	look := func() (n int64) {
		s.but(found, func(from, to int) {
			if here, err := s.cached(ctx, from, to); err == nil {
				n += here
			}
		})
		return n
	}
	return s.poll(until, look, func() { s.dropBut(found) })
}

func (s *shard) dropBut(found bitset) { s.but(found, s.drop) }

// but calls do with every run of pages that are not in found.
func (s *shard) but(found bitset, do func(from, to int)) {
	for from := found.next(0, s.pages(), false); from < s.pages(); {
		to := found.next(from, s.pages(), true)
		do(from, to)
		from = found.next(to, s.pages(), false)
	}
}
