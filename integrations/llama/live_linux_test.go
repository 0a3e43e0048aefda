package llama

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/examples/server/demo"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// fetched returns the folder of the libraries, or skips the test.
func fetched(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	libs, err := Fetch(ctx, filepath.Join(cache, "modeltier", "llama"))
	if err != nil {
		t.Skip("llama.cpp cannot be had here: ", err)
	}
	return libs
}

func opened(t testing.TB) *Library {
	t.Helper()
	l, err := Open(fetched(t))
	if err != nil {
		t.Skip(err)
	}
	return l
}

func random(t testing.TB, shape demo.Llama) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "random.gguf")
	write(t, shape, path)
	return path
}

// write writes a model of random weights.
func write(t testing.TB, shape demo.Llama, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(shape.Write(t.Context(), f, nil), f.Sync()); err != nil { // dirty pages cannot be paged out
		t.Fatal(err)
	}
}

const prompt = "the people of the water"

func decode(t testing.TB, m *Model, n int) (tokens []int32, text string) {
	t.Helper()
	var b strings.Builder
	err := m.Generate(t.Context(), prompt, n, func(token int32, piece string) error {
		tokens = append(tokens, token)
		b.WriteString(piece)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tokens, b.String()
}

// mappedHere returns whether this process maps the file.
func mappedHere(t testing.TB, path string) bool {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), path)
}

func TestLiveEngine_ThroughAllTiers_SameTokens(t *testing.T) {
	l := opened(t)
	path := random(t, demo.Llama{Width: 768, Inner: 2304, Layers: 8})
	engine, err := l.Load(path, 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if !mappedHere(t, path) {
		t.Fatal("llama.cpp does not map its weights, so there is nothing to tier")
	}
	want, text := decode(t, engine, 24)
	if len(slices.Compact(slices.Clone(want))) < 2 {
		t.Fatalf("the model says nothing of note: %v %q", want, text)
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
		if got, _ := decode(t, engine, 24); !slices.Equal(got, want) {
			t.Errorf("after a move from %v to %v it says %v and not %v", at, to, got, want)
		}
		at = to
	}
}

func TestLoad_NoModel_ErrorWithWhatLlamaSaid(t *testing.T) {
	l := opened(t)
	path := filepath.Join(t.TempDir(), "not.gguf")
	if err := os.WriteFile(path, []byte("GGUF but not really"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, path + ".missing"} {
		if m, err := l.Load(path, 64, 1); err == nil {
			m.Close()
			t.Errorf("%s is loaded", path)
		} else if !strings.Contains(err.Error(), " / ") && !strings.Contains(err.Error(), "llama_model_load") {
			t.Errorf("the error has no reason: %v", err)
		}
	}
}

func TestDemoModel_SaysWords_AndKnowsTextsApart(t *testing.T) {
	m, err := opened(t).Load(random(t, demo.Llama{Name: "x", Width: 512, Inner: 1536, Layers: 3}), 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tokens, text := decode(t, m, 32)
	if words := strings.Fields(text); len(words) != len(tokens) || strings.ContainsFunc(text, func(r rune) bool { return r != ' ' && (r < 'a' || r > 'z') }) {
		t.Errorf("32 tokens are %q", text)
	}
	embed := func(text string) []float32 {
		v, err := m.Embed(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	dot := func(a, b []float32) (sum float32) {
		for i := range a {
			sum += a[i] * b[i]
		}
		return sum
	}
	a, again, b := embed("the water"), embed("the water"), embed("a small house")
	if len(a) != 512 || dot(a, again) < 0.999 || dot(a, a) > 1.001 || dot(a, b) > 0.99 {
		t.Errorf("%d numbers; a text and itself are %v alike, and %v with another", len(a), dot(a, again), dot(a, b))
	}
	if after, _ := decode(t, m, 32); !slices.Equal(after, tokens) {
		t.Errorf("after an embedding it says %v and not %v", after, tokens)
	}
	if _, err := m.Embed(strings.Repeat("water ", 300)); !errors.Is(err, ErrTooLong) {
		t.Errorf("a text of 300 tokens: %v", err)
	}
}

func TestGenerate_CalledOff_EndsWithItsCause(t *testing.T) {
	l := opened(t)
	m, err := l.Load(random(t, demo.Llama{Width: 256, Inner: 768, Layers: 1}), 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	why := fmt.Errorf("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	err = m.Generate(ctx, prompt, 100, func(int32, string) error {
		if n++; n == 3 {
			cancel(why)
		}
		return nil
	})
	if err != why || n != 3 {
		t.Errorf("after %d tokens: %v", n, err)
	}
	m.Close()
	if err := m.Generate(t.Context(), prompt, 1, nil); err != ErrClosed {
		t.Errorf("a closed model says %v", err)
	}
}

// BenchmarkLoad measures how long 0.5 GB of a live engine's weights take to be
// served from each tier, by tier/mapped, with one token from the engine after it.
func BenchmarkLoad(b *testing.B) {
	l := opened(b)
	path := random(b, demo.Llama{Width: 2048, Inner: 6144, Layers: 9})
	engine, err := l.Load(path, 256, 2)
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
