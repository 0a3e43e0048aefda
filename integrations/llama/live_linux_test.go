package llama_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// mappedHere returns whether this process maps the file.
func mappedHere(t testing.TB, path string) bool {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), path)
}

func TestLiveEngine_ThroughAllTiers_SameTokens(t *testing.T) {
	l := llamatest.Open(t)
	path := llamatest.File(t, demo.Llama{Width: 768, Inner: 2304, Layers: 8})
	engine, err := l.Load(t.Context(), path, llama.Options{Context: 256, Threads: 1, NoRepack: true})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if !mappedHere(t, path) {
		t.Fatal("llama.cpp does not map its weights, so there is nothing to tier")
	}
	want := decode(t, engine, 24)
	if len(slices.Compact(strings.Fields(want))) < 2 {
		t.Fatalf("the model says nothing of note: %q", want)
	}

	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	model := tier.Model{Name: "live", Path: path, Size: tier.Bytes(info.Size())}
	mover, err := mapped.New(mapped.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mover.Close()
	at := tier.Storage
	for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.RAM, tier.Swap, tier.Storage, tier.RAM, tier.Storage} {
		if to < at {
			if err := engine.LetGo(); err != nil {
				t.Fatal(err)
			}
		}
		if err := mover.Move(t.Context(), tier.Move{Model: model, From: at, To: to}, nil); err != nil {
			t.Fatalf("from %v to %v under a live engine: %v", at, to, err)
		}
		present, _, err := mover.Resident(t.Context(), model.Name)
		if err != nil {
			t.Fatal(err)
		}
		if to == tier.RAM && present < model.Size {
			t.Errorf("in ram, %v of %v are present", present, model.Size)
		}
		if to == tier.Swap && present > model.Size/2 {
			t.Errorf("in swap, %v of %v are still present", present, model.Size)
		}
		if got := decode(t, engine, 24); got != want {
			t.Errorf("after a move from %v to %v it says %q and not %q", at, to, got, want)
		}
		at = to
	}
}

// BenchmarkLoad measures how long 0.5 GB of a live engine's weights take to be
// served from each tier, by tier/mapped, with one token from the engine after it.
func BenchmarkLoad(b *testing.B) {
	l := llamatest.Open(b)
	path := llamatest.File(b, demo.Llama{Width: 2048, Inner: 6144, Layers: 9})
	engine, err := l.Load(b.Context(), path, llama.Options{Context: 256, Threads: 2, NoRepack: true})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	model := sized(b, path)
	mover, err := mapped.New(mapped.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer mover.Close()
	at, took := tier.Storage, map[string]time.Duration{}
	move := func(to tier.Tier) time.Duration {
		if to < at {
			if err := engine.LetGo(); err != nil {
				b.Fatal(err)
			}
		}
		began := time.Now()
		if err := mover.Move(b.Context(), tier.Move{Model: model, From: at, To: to}, nil); err != nil {
			b.Fatal(err)
		}
		at = to
		return time.Since(began)
	}
	token := func() time.Duration {
		began := time.Now()
		decode(b, engine, 1)
		return time.Since(began)
	}
	for b.Loop() {
		move(tier.RAM)
		move(tier.Storage)
		took["storage"] += move(tier.RAM)
		took["storage-token"] += token()
		took["ram-token"] += token()
		took["demote"] += move(tier.Swap)
		took["swap"] += move(tier.RAM)
		took["swap-token"] += token()
		move(tier.Swap)
		took["not-loaded-token"] += token() // faults in what it reads
		move(tier.Storage)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(model.Size.GB(), "GiB")
	for name, d := range took {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name+"-ms")
	}
}

// Who waits for the other end of a pipe would hold up all slots.
func TestRestore_Pipe_IsRefusedAtOnce(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		_, err := m.Restore(t.Context(), 0, pipe)
		refused <- err
	}()
	select {
	case err := <-refused:
		if !errors.Is(err, llama.ErrNoRestore) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the other end")
		f, err := os.OpenFile(pipe, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		<-refused
		f.Close()
	}
}

// Of two models of one file each lets go of its own pages, and of none that it does not
// own.
func TestLetGo_TwoModelsOfOneFile_EachItsOwn(t *testing.T) {
	l := llamatest.Open(t)
	path := llamatest.File(t, small)
	var models []*llama.Model
	for range 2 {
		m, err := l.Load(t.Context(), path, llama.Options{Context: 256, Threads: 1, NoRepack: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		models = append(models, m)
	}
	for i, m := range models {
		for _, m := range models {
			decode(t, m, 1)
		}
		if err := m.LetGo(); err != nil {
			t.Fatal(err)
		}
		if mapped, present := pagesOf(t, path); mapped != 2 || present != 1 {
			t.Errorf("model %d has let go: of %d mappings, %d have pages", i, mapped, present)
		}
	}
}

// pagesOf returns how often a file is mapped here, and how many of these mappings have
// pages.
func pagesOf(t *testing.T, path string) (mapped, present int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		switch {
		case !strings.HasSuffix(f[0], ":"):
			if ours = strings.HasSuffix(strings.TrimSpace(line), " "+path); ours {
				mapped++
			}
		case ours && f[0] == "Rss:" && f[1] != "0":
			present++
		}
	}
	return mapped, present
}
