package mapped

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
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
		cached: func(b, vec []byte) error {
			from := uintptr(unsafe.Pointer(&b[0])) - uintptr(unsafe.Pointer(&data[0]))
			copy(vec, present[from/page:])
			return nil
		},
		forget: func([]byte) error { return nil },
		drop: func(_ *os.File, off, n int64) error {
			for i := int64(0); i < pages; i += folio {
				if off <= i*page && (i+folio)*page <= off+n {
					clear(present[i : i+folio])
				}
			}
			return nil
		},
		clean: func(*os.File, int64, int64) error { return nil },
		ahead: func(_ *os.File, how int) { // off while the kept part is read again
			if how < 0 {
				*reads++
			}
		},
	}
	info, err := f.Stat()
	must(t, err)
	return &shard{sys: sys, path: f.Name(), file: f, was: info, data: data, sight: byCache}, reads
}

// acrossTheEnd is a page in the midst of the second folio.
const acrossTheEnd = minFolio/4096 + 100

// A block of pages that lies across the end of what is kept goes only whole, so
// that it is cut at once: no waiting drops it.
func TestFinish_FolioAcrossTheEnd_IsNotWaitedFor(t *testing.T) {
	s, _ := cachedFile(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		left := s.finish(t.Context(), t.Context(), acrossTheEnd, began.Add(readAhead))
		if took := time.Since(began); left != 0 || took > 10*moment {
			t.Errorf("%d bytes are left after %v", left, took)
		}
	})
}

func TestFinish_FolioAcrossTheEndIsDirty_GoesWhenItIsWritten(t *testing.T) {
	s, _ := cachedFile(t)
	drop, written := s.sys.drop, false
	s.sys.drop = func(f *os.File, off, n int64) error {
		if !written {
			return nil
		}
		return drop(f, off, n)
	}
	s.sys.clean = func(*os.File, int64, int64) error { written = true; return nil }
	if left := s.finish(t.Context(), t.Context(), acrossTheEnd, time.Now()); left != 0 {
		t.Errorf("%d bytes are left", left)
	}
}

func TestFinish_WhereNothingIsSeen_NothingIsReadAgain(t *testing.T) {
	s, reads := cachedFile(t)
	s.sight = blind
	if s.finish(t.Context(), t.Context(), acrossTheEnd, time.Now()); *reads != 0 {
		t.Errorf("read %d times", *reads)
	}
}
