package mapped

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// cutShort returns a mapping of two pages whose file has none any more.
func cutShort(t *testing.T) []byte {
	t.Helper()
	mod := model(t, "m", tier.Bytes(2*os.Getpagesize()))
	f, err := os.Open(mod.Path)
	must(t, err)
	defer f.Close()
	b, err := mapFile(f, int(mod.Size))
	must(t, err)
	t.Cleanup(func() { unmap(b) })
	if err := os.Truncate(mod.Path, 0); err != nil {
		t.Skip(err) // Windows does not let a mapped file be cut short
	}
	return b
}

func TestGuard_ReadBeyondTheFile_IsAnErrorNotTheEnd(t *testing.T) {
	b := cutShort(t)
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

func TestGuard_OtherPanics_GoOn(t *testing.T) {
	b, other := cutShort(t), cutShort(t)
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
	b := cutShort(t)
	_ = guard(b, func() { copy(make([]byte, 1), b) })
	if debug.SetPanicOnFault(false) {
		t.Error("faults panic after guard")
	}
}

// The file is cut short after it was seen to be whole: nothing warns the reader.
func TestReader_CutShortBetweenTheCheckAndTheRead_Survives(t *testing.T) {
	for _, hot := range []bool{true, false} {
		mod := model(t, "m", tier.MiB)
		w, err := open(newSystem(), &mod)
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
