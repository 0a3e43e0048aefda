package mapped

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

// cachedFile is a file of two folios in a fake page cache, all of it present.
func cachedFile(t *testing.T) (s *shard, reads *int) {
	const page, folio, pages = 4096, minFolio / 4096, 2 * minFolio / 4096
	f, err := os.Create(filepath.Join(t.TempDir(), "m"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, f.Truncate(pages*page))
	data, present := make([]byte, pages*page), make([]byte, pages)
	for i := range present {
		present[i] = 1
	}
	reads = new(int)
	sys := &system{
		page: page,
		mincore: func(b, vec []byte) error {
			from := uintptr(unsafe.Pointer(&b[0])) - uintptr(unsafe.Pointer(&data[0]))
			copy(vec, present[from/page:])
			return nil
		},
		dropMapped: func([]byte) error { return nil },
		dropCached: func(_ *os.File, off, n int64) error {
			for i := int64(0); i < pages; i += folio {
				if off <= i*page && (i+folio)*page <= off+n {
					clear(present[i : i+folio])
				}
			}
			return nil
		},
		writeBack: func(*os.File, int64, int64) error { return nil },
		setReadahead: func(_ *os.File, r readahead) { // off while the kept part is read again
			if r == readaheadOff {
				*reads++
			}
		},
	}
	info, err := f.Stat()
	must(t, err)
	return &shard{sys: sys, path: f.Name(), file: f, info: info, data: data, method: byMincore}, reads
}

// acrossTheEnd is a page in the middle of the second folio.
const acrossTheEnd = minFolio/4096 + 100

// No waiting drops a folio that lies across the end of what is kept: the kernel
// drops it only whole, so that it is split at once.
func TestUncache_FolioAcrossTheEnd_IsNotWaitedFor(t *testing.T) {
	s, reads := cachedFile(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		gone := s.uncache(t.Context(), acrossTheEnd, math.MaxInt64, began.Add(readaheadWait))
		left := span{s, acrossTheEnd, s.pages()}.cached(t.Context())
		if took := time.Since(began); left != 0 || gone != s.bytes(acrossTheEnd, s.pages()) || took > 10*pollInterval || *reads != 1 {
			t.Errorf("%d bytes are gone and %d left after %v, the kept part of the folio was read %d times", gone, left, took, *reads)
		}
	})
}

func TestUncache_FolioAcrossTheEndIsDirty_GoesWhenItIsWritten(t *testing.T) {
	s, _ := cachedFile(t)
	drop, written := s.sys.dropCached, false
	s.sys.dropCached = func(f *os.File, off, n int64) error {
		if !written {
			return nil
		}
		return drop(f, off, n)
	}
	s.sys.writeBack = func(*os.File, int64, int64) error { written = true; return nil }
	s.uncache(t.Context(), acrossTheEnd, math.MaxInt64, time.Now())
	if left := (span{s, acrossTheEnd, s.pages()}).cached(t.Context()); left != 0 {
		t.Errorf("%d bytes are left", left)
	}
}

func TestUncache_NothingIsSeen_AllIsDroppedAndNothingReadAgain(t *testing.T) {
	s, reads := cachedFile(t)
	s.method = noMethod
	s.uncache(t.Context(), acrossTheEnd, math.MaxInt64, time.Now())
	s.uncache(t.Context(), minFolio/4096, math.MaxInt64, time.Now())
	s.method = byMincore
	if left := (span{s, 0, s.pages()}).cached(t.Context()); left != minFolio || *reads != 0 {
		t.Errorf("%d bytes are left, read %d times", left, *reads)
	}
}

// What the device delivers late is waited for, if the kernel tells that it will come.
func TestUncache_PagesArriveLater_AreDroppedToo(t *testing.T) {
	s, _ := cachedFile(t)
	synctest.Test(t, func(t *testing.T) {
		mincore, began := s.sys.mincore, time.Now()
		arrived := func() bool { return time.Since(began) > 10*pollInterval }
		drop := s.sys.dropCached
		s.sys.dropCached = func(f *os.File, off, n int64) error {
			if !arrived() {
				return nil
			}
			return drop(f, off, n)
		}
		s.sys.mincore = func(b, vec []byte) error {
			err := mincore(b, vec)
			if !arrived() {
				clear(vec)
			}
			return err
		}
		s.cachestat = func(f *os.File, off, n int64) (int64, error) {
			vec := make([]byte, n/4096)
			err := mincore(s.data[off:off+n], vec)
			return int64(bytes.Count(vec, []byte{1})) * 4096, err
		}
		if gone := s.uncache(t.Context(), 0, math.MaxInt64, began.Add(readaheadWait)); gone != s.size() {
			t.Errorf("%d bytes of %d are gone", gone, s.size())
		}
	})
}

// About as much is dropped as is asked for: whole folios, from the end.
func TestUncache_APart_TheRestStays(t *testing.T) {
	s, _ := cachedFile(t)
	for i, n := range []int64{1, minFolio} {
		if gone := s.uncache(t.Context(), 0, n, time.Now()); gone != minFolio {
			t.Errorf("%d bytes are gone, want a folio", gone)
		}
		if left := (span{s, 0, s.pages()}).cached(t.Context()); left != int64(1-i)*minFolio {
			t.Errorf("%d bytes are left", left)
		}
	}
}

func TestBitset_Next_FindsWhatASearchFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bools := rapid.SliceOfN(rapid.Bool(), 1, 200).Draw(t, "pages")
		s := newBitset(len(bools))
		for i, b := range bools {
			if b {
				s.add(i)
			}
		}
		from := rapid.IntRange(0, len(bools)).Draw(t, "from")
		end := rapid.IntRange(0, len(bools)).Draw(t, "end")
		in := rapid.Bool().Draw(t, "in")
		want := from
		for want < end && bools[want] != in {
			want++
		}
		if from > end {
			want = end
		}
		if got := s.next(from, end, in); got != want {
			t.Fatalf("next(%d, %d, %v) = %d, want %d", from, end, in, got, want)
		}
	})
}
