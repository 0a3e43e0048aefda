package mapped

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func TestReader_ReadsTheFilesEndToEnd(t *testing.T) {
	mod := sharded(t, "m", 30_001, 1, 20_000)
	paths, err := find("m", mod.Path)
	must(t, err)
	var want []byte
	for _, path := range paths {
		b, err := os.ReadFile(path)
		must(t, err)
		want = append(want, b...)
	}
	for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
		m := newTestMover(t, newSystem(), Options{})
		mustMove(t, m, mod, to, 0)
		r, err := m.Reader("m")
		must(t, err)
		if r.Size() != int64(len(want)) {
			t.Fatalf("Size is %d, want %d", r.Size(), len(want))
		}
		if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), want); err != nil {
			t.Error(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			off := rapid.Int64Range(0, int64(len(want))+10).Draw(t, "off")
			p := make([]byte, rapid.IntRange(0, len(want)).Draw(t, "len"))
			n, err := r.ReadAt(p, off)
			rest := want[min(off, int64(len(want))):]
			if n != min(len(rest), len(p)) || !bytes.Equal(p[:n], rest[:n]) {
				t.Fatalf("read %d bytes at %d, or others", n, off)
			}
			if (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
				t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
			}
		})
		if _, err := r.ReadAt(make([]byte, 1), -1); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("before the start: %v", err)
		}
	}
}

func TestReader_ModelIsUnmapped_IsAnError(t *testing.T) {
	mod := model(t, "m", tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	if _, err := m.Reader("m"); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("Reader of what was never mapped: %v", err)
	}
	if _, err := m.Bytes("m"); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("Bytes of what was never mapped: %v", err)
	}
	mustMove(t, m, mod, tier.RAM, 0)
	r, err := m.Reader("m")
	must(t, err)
	mustMove(t, m, mod, tier.Storage, 0)
	if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("ReadAt after an unload: %v", err)
	}
}

// Reading and unmapping do not meet, whatever comes first.
func TestReader_WhileTheModelMoves_IsSafe(t *testing.T) {
	mod := model(t, "m", 4*tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			buf := make([]byte, 3<<20)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r, err := m.Reader("m"); err == nil {
					_, _ = r.ReadAt(buf, 1000)
				}
				if _, err := json.Marshal(m.PartStatus()); err != nil {
					t.Error(err)
				}
				if r, ok := any(m).(tier.Resident); ok {
					_, _, _ = r.Resident(t.Context(), "m")
				}
			}
		})
	}
	for range 10 {
		for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.Storage} {
			mustMove(t, m, mod, to, tier.MiB)
		}
	}
	must(t, m.Close())
	close(stop)
	group.Wait()
}
