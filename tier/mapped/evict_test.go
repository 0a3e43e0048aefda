package mapped

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// A block of pages that lies across the end of what is kept goes only whole, so
// that it is cut at once: no waiting drops it.
func TestFinish_FolioAcrossTheEnd_IsNotWaitedFor(t *testing.T) {
	const page, folio, pages = 4096, minFolio / 4096, 2 * minFolio / 4096
	f, err := os.Create(filepath.Join(t.TempDir(), "m"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(pages*page))
	data, present := make([]byte, pages*page), make([]byte, pages)
	for i := range present {
		present[i] = 1
	}
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
	}
	info, err := f.Stat()
	must(t, err)
	s := &shard{sys: sys, path: f.Name(), file: f, was: info, data: data, sight: byCache}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		left := s.finish(t.Context(), t.Context(), folio+100, began.Add(readAhead))
		if took := time.Since(began); left != 0 || took > 10*moment {
			t.Errorf("%d bytes are left after %v", left, took)
		}
	})
}
