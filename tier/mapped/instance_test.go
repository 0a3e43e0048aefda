package mapped

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"testing/iotest"
	"unsafe"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func TestWeights_ReadsTheFilesEndToEnd(t *testing.T) {
	mod := sharded(t, "m", 30_001, 1, 20_000)
	paths, err := findShards("m", mod.Path)
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
		r, err := m.Weights("m")
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

func TestWeights_ModelIsUnmapped_IsAnError(t *testing.T) {
	mod := model(t, "m", tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	if _, err := m.Weights("m"); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("Weights of what was never mapped: %v", err)
	}
	if _, err := m.Bytes("m"); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("Bytes of what was never mapped: %v", err)
	}
	mustMove(t, m, mod, tier.RAM, 0)
	r, err := m.Weights("m")
	must(t, err)
	mustMove(t, m, mod, tier.Storage, 0)
	if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("ReadAt after an unload: %v", err)
	}
}

// Reading and unmapping exclude each other, in any order.
func TestWeights_WhileTheModelMoves_IsSafe(t *testing.T) {
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
				if r, err := m.Weights("m"); err == nil {
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

// truncatedMapping returns a mapping of two pages whose file has become empty.
func truncatedMapping(t *testing.T) []byte {
	t.Helper()
	mod := model(t, "m", tier.Bytes(2*os.Getpagesize()))
	f, err := os.Open(mod.Path)
	must(t, err)
	defer f.Close()
	b, err := mapFile(f, int(mod.Size))
	must(t, err)
	t.Cleanup(func() { unmap(b) })
	if err := os.Truncate(mod.Path, 0); err != nil {
		t.Skip(err) // Windows does not let a mapped file be truncated
	}
	return b
}

func TestGuard_ReadBeyondTheFile_IsAnErrorNotTheEnd(t *testing.T) {
	b := truncatedMapping(t)
	for name, fn := range map[string]func(){
		"copy":    func() { copy(make([]byte, len(b)), b) },
		"compare": func() { _ = bytes.Equal(b, make([]byte, len(b))) },
		"index":   func() { _ = bytes.IndexByte(b, 'x') },
	} {
		if err := guard(b, fn); err != errFault {
			t.Errorf("%s: %v, want %v", name, err, errFault)
		}
	}
	if err := touch(b, int64(os.Getpagesize())); err != errFault {
		t.Errorf("touch: %v, want %v", err, errFault)
	}
}

// pageFault is a fault that names no more than its page.
type pageFault struct {
	error
	page uintptr
}

func (pageFault) RuntimeError()   {}
func (f pageFault) Addr() uintptr { return f.page }

func TestGuard_FaultNamesItsPageOnly_IsAnError(t *testing.T) {
	b := truncatedMapping(t)
	mem := b[1000:2000]
	fault := pageFault{errors.New("fault"), uintptr(unsafe.Pointer(&b[0]))}
	if err := guard(mem, func() { panic(fault) }); err != errFault {
		t.Errorf("guard = %v, want %v", err, errFault)
	}
}

func TestGuard_OtherPanics_GoOn(t *testing.T) {
	b, other := truncatedMapping(t), truncatedMapping(t)
	for name, fn := range map[string]func(){
		"panic":         func() { panic("mine") },
		"nil pointer":   func() { _ = *(*int)(nil) },
		"other mapping": func() { copy(make([]byte, 1), other) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: was swallowed", name)
				}
			}()
			_ = guard(b, fn)
		}()
	}
}

func TestGuard_LeavesTheGoroutineAsItWas(t *testing.T) {
	b := truncatedMapping(t)
	_ = guard(b, func() { copy(make([]byte, 1), b) })
	if debug.SetPanicOnFault(false) {
		t.Error("faults panic after guard")
	}
}

// The file is truncated after it was seen to be whole: nothing warns the reader.
func TestWeights_TruncatedBetweenTheCheckAndTheRead_Survives(t *testing.T) {
	for _, hot := range []bool{true, false} {
		mod := model(t, "m", tier.MiB)
		w, err := openWeights(newSystem(), &mod)
		must(t, err)
		if err := os.Truncate(mod.Path, 0); err != nil {
			t.Skip(err)
		}
		_, err = w.shards[0].read(make([]byte, 1000), 5000, hot)
		if ce, ok := errors.AsType[*ChangedError](err); !ok || ce.How != "truncated" {
			t.Errorf("hot %v: %v", hot, err)
		}
		w.close()
	}
}
