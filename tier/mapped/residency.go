package mapped

import (
	"context"
	"io/fs"

	"golang.org/x/sync/errgroup"
)

// sight is how it is seen which pages of a shard are present.
type sight uint8

const (
	blind    sight = iota // not at all
	byTables              // pagemap: our page tables; what is cached beside them is not seen
	byCache               // mincore: the page cache
)

func (s sight) String() string {
	switch s {
	case byCache:
		return "mincore"
	case byTables:
		return "pagemap"
	}
	return "nothing"
}

// look finds out what may be believed about the shard's pages.
func (s *shard) look() sight {
	first, vec := s.data[:min(s.size(), s.sys.page)], make([]byte, 1)
	switch {
	case s.sys.cached != nil && s.sys.owned(s.file, s.was) && s.sys.cached(first, vec) == nil:
		return byCache
	case s.sys.entered != nil && s.sys.entered(first, vec) == nil:
		return byTables
	}
	return blind
}

// Pages are asked for so many at a time, a multiple of 64, and by that many at
// once: what the kernel walks over waits for memory more than for a processor.
const scanned, lookers = 1 << 14, 2

// scan calls visit with every page of [from, to): 1 present, 0 not.
func (s *shard) scan(ctx context.Context, from, to int, visit func(page int, present []byte)) error {
	ask := s.sys.cached
	switch s.sight {
	case byTables:
		ask = s.sys.entered
	case blind:
		return nil
	}
	vec := make([]byte, min(scanned, to-from))
	for ; from < to; from += len(vec) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		vec = vec[:min(len(vec), to-from)]
		if err := ask(span{s, from, from + len(vec)}.mem(), vec); err != nil {
			return err
		}
		visit(from, vec)
	}
	return nil
}

// cached returns how many bytes of the pages [from, to) are in the page cache,
// also those that are still being read. Without cachestat those are not seen.
func (s *shard) cached(ctx context.Context, from, to int) (int64, error) {
	if from >= to {
		return 0, nil
	}
	if s.census == nil {
		return s.present(ctx, from, to)
	}
	off := int64(from) * s.sys.page
	n, err := s.census(s.file, off, int64(to-from)*s.sys.page)
	if err != nil {
		return s.present(ctx, from, to)
	}
	if unused := int64(s.pages())*s.sys.page - s.size(); unused > 0 && to == s.pages() && n > 0 {
		last, err := s.census(s.file, int64(to-1)*s.sys.page, s.sys.page)
		if err == nil && last > 0 {
			n -= unused
		}
	}
	return n, nil
}

// snapshot returns, by shard, which pages are present. Of what cannot be seen,
// none is. With guess, a stretch that is wholly in the page cache is taken to be
// present though some of it may still be on its way; that is fast.
func (w *weights) snapshot(ctx context.Context, guess bool) ([]bitset, error) {
	sets := make([]bitset, len(w.shards))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookers)
	for i, s := range w.shards {
		sets[i] = newBitset(s.pages())
		for from := 0; from < s.pages(); from += scanned {
			to := min(from+scanned, s.pages())
			group.Go(func() error { return s.see(ctx, from, to, guess, sets[i][from/64:(to+63)/64]) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return sets, nil
}

// see enters in set, whose first page is from, which pages of [from, to) are
// present.
func (s *shard) see(ctx context.Context, from, to int, guess bool, set bitset) error {
	if guess && s.sight == byCache && s.census != nil {
		n, err := s.cached(ctx, from, to)
		switch {
		case err == nil && n == 0:
			return nil
		case err == nil && n == s.bytes(from, to):
			set.fill()
			return nil
		}
	}
	return s.scan(ctx, from, to, func(page int, present []byte) {
		for j, p := range present {
			if p != 0 {
				set.add(page + j - from)
			}
		}
	})
}

// present returns how many bytes of the pages [from, to) are present.
func (s *shard) present(ctx context.Context, from, to int) (int64, error) {
	var n int64
	err := s.scan(ctx, from, to, func(page int, present []byte) {
		for j, p := range present {
			if p != 0 {
				n += s.bytes(page+j, page+j+1)
			}
		}
	})
	return n, err
}

// residue is a file that could not wholly be dropped before it was unmapped.
type residue struct {
	path  string
	was   fs.FileInfo
	found bitset // pages that were there before and are none of ours
}

// residue returns what may be left of w; found, if not nil, is not.
func (w *weights) residue(found []bitset) []residue {
	all := make([]residue, len(w.shards))
	for i, s := range w.shards {
		all[i] = residue{path: s.path, was: s.was, found: newBitset(s.pages())}
		if found != nil {
			all[i].found = found[i]
		}
	}
	return all
}
