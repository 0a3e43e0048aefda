package mapped

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

func TestMove_Progress_EndsAtWhatHadToMove(t *testing.T) {
	mod := sharded(t, "m", 3<<20+odd, 1<<20)
	m := newTestMover(t, newSystem(), Options{})
	for _, step := range []struct {
		to         tier.Tier
		keep, want tier.Bytes
	}{
		{tier.Swap, tier.MiB, tier.MiB},
		{tier.RAM, 0, mod.Size - tier.MiB},
		{tier.RAM, 0, 0},
		{tier.Swap, 3 * tier.MiB, mod.Size - 3*tier.MiB},
		{tier.Swap, tier.MiB, 2 * tier.MiB},
		{tier.Swap, 2 * tier.MiB, tier.MiB},
		{tier.Storage, 0, 2 * tier.MiB},
		{tier.RAM, 0, mod.Size},
		{tier.Storage, 0, mod.Size},
		{tier.Storage, 0, 0},
	} {
		var last tier.Bytes
		err := m.Move(t.Context(), tier.Move{Model: mod, To: step.to, Keep: step.keep}, func(done tier.Bytes) { last = done })
		if err != nil {
			t.Fatal(err)
		}
		if last != step.want {
			t.Errorf("to %v, keep %d: progress ended at %d, want %d", step.to, step.keep, last, step.want)
		}
	}
}

func TestMove_BadMove_IsInvalid(t *testing.T) {
	m := newTestMover(t, newSystem(), Options{})
	for _, mv := range []tier.Move{
		{To: tier.RAM, Model: tier.Model{Path: "x"}},
		{To: tier.RAM, Model: tier.Model{Name: strings.Repeat("n", 300), Path: "x"}},
		{To: 7, Model: tier.Model{Name: "m", Path: "x"}},
		{To: tier.Swap, Model: tier.Model{Name: "m"}},
	} {
		err := m.Move(t.Context(), mv, nil)
		if _, ok := errors.AsType[*tier.MoveError](err); !ok || !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("Move(%v to %v) = %v", mv.Model.Name, mv.To, err)
		}
	}
}

func TestMove_SecondMoveOfTheModel_IsRefused(t *testing.T) {
	mod := model(t, "m", 4*tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	asked := false
	err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, func(tier.Bytes) {
		if !asked {
			asked = true
			if err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.Swap}, nil); !errors.Is(err, tier.ErrInUse) {
				t.Errorf("the second move: %v", err)
			}
		}
	})
	must(t, err)
}

func TestClose_WhileALoadRuns_CallsItOff(t *testing.T) {
	mod := model(t, "m", 16*tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	closed := make(chan error, 1)
	once := false
	err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, func(tier.Bytes) {
		if !once {
			once = true
			go func() { closed <- m.Close() }()
			for closing := false; !closing; runtime.Gosched() {
				_, err := m.Bytes("m")
				closing = errors.Is(err, tier.ErrClosed)
			}
		}
	})
	if !errors.Is(err, tier.ErrClosed) {
		t.Errorf("Move = %v, want %v", err, tier.ErrClosed)
	}
	must(t, <-closed)
	must(t, m.Close())
	if err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, nil); !errors.Is(err, tier.ErrClosed) {
		t.Errorf("Move after Close = %v", err)
	}
	if _, err := m.Bytes("m"); !errors.Is(err, tier.ErrClosed) {
		t.Errorf("Bytes after Close = %v", err)
	}
}

func TestNew_BadOptions_AreRefused(t *testing.T) {
	if _, err := New(Options{Lock: -7}); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("New = %v", err)
	}
}

// Offsets beyond what 32 bits hold, in a file and in a model of several.
func TestMove_FilesBeyond4GiB_AreReadAtTheirEnd(t *testing.T) {
	if ^uint(0)>>32 == 0 {
		t.Skip("a 32-bit system cannot map them")
	}
	dir := onDisk(t)
	want := []byte("the end")
	size := int64(5) << 30
	for _, name := range []string{"a.gguf", "b.gguf"} {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		if _, err := f.WriteAt(want, size-int64(len(want))); err != nil { // sparse
			t.Skip(err)
		}
		must(t, errors.Join(f.Sync(), f.Close()))
	}
	m := newTestMover(t, newSystem(), Options{})
	mod := tier.Model{Name: "m", Path: dir, Size: tier.Bytes(2 * size)}
	mustMove(t, m, mod, tier.Swap, tier.MiB)
	r, err := m.Weights("m")
	must(t, err)
	for _, end := range []int64{size, 2 * size} {
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, end-int64(len(want))); err != nil || string(got) != string(want) {
			t.Errorf("at %d: %q, %v", end, got, err)
		}
	}
	all, err := m.Bytes("m")
	must(t, err)
	if got := all[1][size-int64(len(want)):]; string(got) != string(want) {
		t.Errorf("mapped at the end: %q", got)
	}
	mustMove(t, m, mod, tier.Storage, 0)
	mod.Size--
	if err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.Swap}, nil); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("a model that is larger than declared: %v", err)
	}
}

func TestStatus_TellsTheWaysInUse_AsJSON(t *testing.T) {
	mod := model(t, "m", 65*tier.MiB)
	sys := newSystem()
	sys.populate, sys.cachestat = nil, nil
	m := newTestMover(t, sys, Options{Lock: tier.None, Recheck: -1})
	mustMove(t, m, mod, tier.RAM, 0)
	s := m.Status()
	if len(s.Devices) != 1 || s.Devices[0].Way != "read ×2" || s.Devices[0].BytesPerSecond == 0 {
		t.Errorf("devices are %+v, want one that was read in the first way that is left", s.Devices)
	}
	for _, missing := range []string{"MADV_POPULATE_READ", "cachestat"} {
		if !strings.Contains(strings.Join(s.Missing, " "), missing) {
			t.Errorf("%v are missing, want %s among them", s.Missing, missing)
		}
	}
	if part, ok := m.PartStatus().(Status); !ok || !cmp.Equal(part, s) {
		t.Errorf("PartStatus is %+v, want Status", part)
	}
	b, err := json.Marshal(s)
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(b, &got))
	want := map[string]any{
		"name": "m", "tier": "ram", "size": float64(mod.Size), "keep": 0.0, "locked": 0.0, "shards": 1.0,
	}
	for key, v := range got["models"].([]any)[0].(map[string]any) {
		if w, ok := want[key]; ok && !cmp.Equal(v, w) {
			t.Errorf("%s is %v, want %v", key, v, w)
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("the JSON lacks %v", want)
	}
}
