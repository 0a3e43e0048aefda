package llama_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// newMover returns a mover of live models in the library of the tests.
func newMover(t testing.TB, o llama.MoverOptions) *llama.Mover {
	t.Helper()
	o.Library = llamatest.Open(t)
	if o.Load == nil {
		o.Load = func(tier.Model) llama.Options { return llama.Options{Context: 256, Threads: 1, NoRepack: true} }
	}
	m, err := llama.NewMover(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// random returns a model of random weights.
func random(t testing.TB, name string, shape demo.Llama) tier.Model {
	t.Helper()
	shape.Name = name
	m := sized(t, llamatest.File(t, shape))
	m.Name, m.Runtime = name, 16*tier.MiB
	return m
}

func TestMover_KeepsTheContract(t *testing.T) {
	for name, o := range map[string]llama.Options{
		"mapped": {Context: 256, Threads: 1, NoRepack: true},
		"copied": {Context: 256, Threads: 1, NoMmap: true},
	} {
		t.Run(name, func(t *testing.T) {
			models := []tier.Model{random(t, "a", demo.Llama{Width: 256, Inner: 768, Layers: 4}), random(t, "b", small)}
			noModel := filepath.Join(t.TempDir(), "not.gguf")
			if err := os.WriteFile(noModel, []byte("GGUF but not really"), 0o600); err != nil {
				t.Fatal(err)
			}
			tiertest.TestMover(t, tiertest.MoverOptions{
				New: func(t testing.TB) tier.Mover {
					m, err := llama.NewMover(llama.MoverOptions{Library: llamatest.Open(t), Load: func(tier.Model) llama.Options { return o }})
					if err != nil {
						t.Fatal(err)
					}
					return m
				},
				Models: func(testing.TB) []tier.Model { return models },
				Bad: func(testing.TB) []tier.Model {
					return []tier.Model{{Name: "no path", Size: 1}, {Name: "missing", Path: noModel + ".gone", Size: 1}, {Name: "not", Path: noModel, Size: 100}}
				},
			})
		})
	}
}

// shift moves a model, and tells how much of its files is present then.
func shift(t testing.TB, m *llama.Mover, mod tier.Model, from, to tier.Tier) {
	t.Helper()
	if err := m.Move(t.Context(), tier.Move{Model: mod, From: from, To: to}, nil); err != nil {
		t.Fatalf("from %v to %v: %v", from, to, err)
	}
}

// liveModel is what serves it.
func liveModel(t testing.TB, m *llama.Mover, mod tier.Model) *llama.Model {
	t.Helper()
	live, ok := m.Instance(mod.Name).(*llama.Model)
	if !ok {
		t.Fatalf("%s is served by %T", mod.Name, m.Instance(mod.Name))
	}
	return live
}

// The weights of a model leave memory while it lives, and it says the same afterwards; so
// it does when it was freed.
func TestMover_WeightsLeaveUnderALiveModel_SameTokens(t *testing.T) {
	m := newMover(t, llama.MoverOptions{})
	mod := random(t, "live", demo.Llama{Width: 768, Inner: 2304, Layers: 8})
	shift(t, m, mod, tier.Storage, tier.RAM)
	live := liveModel(t, m, mod)
	want := decode(t, live, 24)
	for range 2 {
		shift(t, m, mod, tier.RAM, tier.Swap)
		if err := m.Uncache(t.Context(), mod.Name, tier.Unlimited); err != nil {
			t.Fatal(err)
		}
		present, _, err := m.Resident(t.Context(), mod.Name)
		cached, err2 := m.Cached(t.Context(), mod.Name)
		takes, peak, _ := m.Footprint(mod.Name)
		if err := errors.Join(err, err2); err != nil || present+cached > mod.Size/2 || takes > mod.Size/2 || peak < mod.Size {
			t.Errorf("in swap %v of %v are present and %v cached, and it takes %v, %v at most: %v", present, mod.Size, cached, takes, peak, err)
		}
		if m.Instance(mod.Name) != nil {
			t.Error("in swap it serves")
		}
		shift(t, m, mod, tier.Swap, tier.RAM)
		if again := liveModel(t, m, mod); again != live {
			t.Error("after swap it is another")
		}
		if got := decode(t, live, 24); got != want {
			t.Errorf("after swap it says %q and not %q", got, want)
		}
	}
	shift(t, m, mod, tier.RAM, tier.Storage)
	if mappedHere(t, mod.Path) {
		t.Error("a model that is freed is still mapped")
	}
	if _, err := live.Tokenize("a", true, true); err != llama.ErrClosed {
		t.Errorf("a model that is freed answers %v", err)
	}
	shift(t, m, mod, tier.Storage, tier.RAM)
	if got := decode(t, liveModel(t, m, mod), 24); got != want {
		t.Errorf("after storage it says %q and not %q", got, want)
	}
}

// All shards of a model leave memory, not the one alone that llama.cpp was given.
func TestMover_ModelOfShards_AllOfThemLeaveMemory(t *testing.T) {
	m := newMover(t, llama.MoverOptions{})
	paths := split(t, llamatest.File(t, demo.Llama{Width: 512, Inner: 1536, Layers: 6}), t.TempDir(), 3)
	mod := tier.Model{Name: "shards", Path: paths[0], Parts: paths[1:]}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil { // dirty pages stay
			t.Fatal(err)
		}
		mod.Size += tier.Bytes(info.Size())
	}
	shift(t, m, mod, tier.Storage, tier.RAM)
	want := decode(t, liveModel(t, m, mod), 8)
	shift(t, m, mod, tier.RAM, tier.Swap)
	if err := m.Uncache(t.Context(), mod.Name, tier.Unlimited); err != nil {
		t.Fatal(err)
	}
	if cached, err := m.Cached(t.Context(), mod.Name); err != nil || cached > mod.Size/20 {
		t.Errorf("in swap %v of %v are still cached: %v", cached, mod.Size, err)
	}
	shift(t, m, mod, tier.Swap, tier.RAM)
	if got := decode(t, liveModel(t, m, mod), 8); got != want {
		t.Errorf("after swap it says %q and not %q", got, want)
	}
}

// Where weights are copied, swap would free nothing.
func TestMover_WeightsAreCopied_SwapUnloadsAndStatusSaysSo(t *testing.T) {
	m := newMover(t, llama.MoverOptions{Load: func(tier.Model) llama.Options {
		return llama.Options{Context: 256, Threads: 1, NoMmap: true}
	}})
	mod := random(t, "copied", small)
	shift(t, m, mod, tier.Storage, tier.RAM)
	live := liveModel(t, m, mod)
	shift(t, m, mod, tier.RAM, tier.Swap)
	if _, err := live.Tokenize("a", true, true); err != llama.ErrClosed {
		t.Errorf("in swap it is still there: %v", err)
	}
	status := fmt.Sprintf("%+v", m.PartStatus().(llama.Status).Live)
	if !strings.Contains(status, "copied") || !strings.Contains(status, "unloaded in swap") {
		t.Errorf("the status is %s", status)
	}
	if takes, _, _ := m.Footprint(mod.Name); takes != 0 {
		t.Errorf("in swap it takes %v", takes)
	}
}

// A conversation survives that its model was freed; one that is damaged does no harm.
func TestMover_ModelWasFreed_GoesOnWithItsConversation(t *testing.T) {
	saves := llama.Saves{Dir: t.TempDir(), Max: 16 * tier.MiB}
	m := newMover(t, llama.MoverOptions{Saves: saves})
	mod := random(t, "talks", small)
	again := func() { shift(t, m, mod, tier.RAM, tier.Storage); shift(t, m, mod, tier.Storage, tier.RAM) }
	shift(t, m, mod, tier.Storage, tier.RAM)
	r := ask(t, liveModel(t, m, mod), strings.Repeat(prompt+" ", 8), 8)
	r.Fresh = false
	want, _ := generate(t, liveModel(t, m, mod), r)
	again()
	if got, a := generate(t, liveModel(t, m, mod), r); a.Cached != len(r.Prompt)-1 || got != want {
		t.Errorf("of %d tokens it had %d, and says %q and not %q", len(r.Prompt), a.Cached, got, want)
	}
	if left, _ := os.ReadDir(saves.Dir); len(left) != 0 {
		t.Errorf("what was restored is kept: %v", left)
	}
	shift(t, m, mod, tier.RAM, tier.Storage)
	files, err := filepath.Glob(filepath.Join(saves.Dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("saved are %v: %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	shift(t, m, mod, tier.Storage, tier.RAM)
	if got, a := generate(t, liveModel(t, m, mod), r); a.Cached != 0 || got != want {
		t.Errorf("of a damaged one it had %d tokens, and says %q and not %q", a.Cached, got, want)
	}
}

func TestNewMover_BadOptions_ErrorNamesThem(t *testing.T) {
	l := llamatest.Open(t)
	for field, o := range map[string]llama.MoverOptions{
		"Library": {}, "Saves.Dir": {Library: l, Saves: llama.Saves{Dir: "/nowhere/at/all"}}, "Saves.Max": {Library: l, Saves: llama.Saves{Max: -1}},
	} {
		_, err := llama.NewMover(o)
		if bad, ok := errors.AsType[*tier.InvalidError](err); !ok || bad.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Five models take turns in the memory of two, asked by their leases.
func TestManager_FiveLiveModelsInTheMemoryOfTwo_EachItsOwnAnswer(t *testing.T) {
	mover := newMover(t, llama.MoverOptions{})
	var models []tier.Model
	for i := range 5 {
		models = append(models, random(t, fmt.Sprint("m", i), demo.Llama{Width: 256, Inner: 768, Layers: 4}))
	}
	each := models[0].Size + models[0].Runtime
	m, err := modeltier.New(modeltier.Config{
		Models: models, Mover: mover, Limits: tier.Limits{RAM: 2*each + each/2},
		Probe: tiertest.NewProbe(tier.Memory{Total: 64 * tier.GiB, Available: 60 * tier.GiB}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := map[string]string{}
	for range 3 {
		for _, mod := range models {
			lease, err := m.Acquire(t.Context(), modeltier.Request{Model: mod.Name})
			if err != nil {
				t.Fatal(err)
			}
			live, ok := modeltier.Instance[*llama.Model](lease)
			if !ok {
				t.Fatalf("%s is served by %T", mod.Name, lease.Instance())
			}
			if said := decode(t, live, 8); want[mod.Name] == "" {
				want[mod.Name] = said
			} else if said != want[mod.Name] {
				t.Errorf("%s says %q and not %q", mod.Name, said, want[mod.Name])
			}
			lease.Release()
			if s := m.Status(); s.RAM.Used > s.RAM.Limit {
				t.Errorf("ram holds %v of %v", s.RAM.Used, s.RAM.Limit)
			}
		}
	}
}

// A client that reads nothing holds the only slot, and another waits for it: the model is
// saved, unloaded and closed all the same, and both hear of it.
func TestMover_ClientBlocksItsSlot_IsUnloadedAndClosed(t *testing.T) {
	for what, end := range map[string]func(m *llama.Mover, mod tier.Model) error{
		"unload": func(m *llama.Mover, mod tier.Model) error {
			return m.Move(context.Background(), tier.Move{Model: mod, From: tier.RAM, To: tier.Storage}, nil)
		},
		"close": func(m *llama.Mover, _ tier.Model) error { return m.Close() },
	} {
		for _, dir := range []string{"", t.TempDir()} {
			m := newMover(t, llama.MoverOptions{Saves: llama.Saves{Dir: dir}})
			mod := random(t, "m", small)
			shift(t, m, mod, tier.Storage, tier.RAM)
			live := liveModel(t, m, mod)
			r := ask(t, live, prompt, 200)
			holds, let, answers := make(chan bool, 1), make(chan bool), make(chan error, 2)
			go func() {
				_, err := live.Generate(context.Background(), r, func(string) error {
					select {
					case holds <- true:
					default:
					}
					<-let
					return nil
				})
				answers <- err
			}()
			<-holds
			go func() {
				_, err := live.Generate(context.Background(), r, func(string) error { return nil })
				answers <- err
			}()
			ended := make(chan error, 1)
			go func() { ended <- end(m, mod) }()
			const long = 30 * time.Second
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			case <-time.After(long):
				t.Errorf("%s, saved in %q: it waits for the client", what, dir)
			}
			if err := <-answers; !errors.Is(err, llama.ErrClosed) {
				t.Errorf("%s: who waits for the slot hears %v", what, err)
			}
			close(let)
			if err := <-answers; !errors.Is(err, llama.ErrClosed) {
				t.Errorf("%s: who had the slot hears %v", what, err)
			}
			if saved, _ := filepath.Glob(filepath.Join(dir, "*.slot")); dir != "" && len(saved) != 1 {
				t.Errorf("%s: saved are %v", what, saved)
			}
		}
	}
}

// Two models of one file have conversations of their own.
func TestMover_TwoModelsOfOneFileWereFreed_EachGoesOnWithItsOwn(t *testing.T) {
	dir := t.TempDir()
	m := newMover(t, llama.MoverOptions{Saves: llama.Saves{Dir: dir}})
	one := random(t, "one", small)
	two := one
	two.Name = "two"
	for i, mod := range []tier.Model{one, two} {
		shift(t, m, mod, tier.Storage, tier.RAM)
		generate(t, liveModel(t, m, mod), ask(t, liveModel(t, m, mod), prompt, 4+i))
		shift(t, m, mod, tier.RAM, tier.Storage)
	}
	if saved, err := filepath.Glob(filepath.Join(dir, "*.slot")); err != nil || len(saved) != 2 {
		t.Errorf("saved are %v: %v", saved, err)
	}
}

// What was saved of a model whose later shard is another since is not taken.
func TestRestore_LaterShardIsAnother_IsRefused(t *testing.T) {
	dir := t.TempDir()
	paths, state := split(t, llamatest.File(t, small), dir, 2), filepath.Join(dir, "state")
	open := func() *llama.Model {
		m, err := llamatest.Open(t).Load(t.Context(), paths[0], llama.Options{Context: 256, Threads: 1, NoRepack: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	m := open()
	generate(t, m, ask(t, m, prompt, 4))
	if _, err := m.Save(t.Context(), 0, state, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := open().Restore(t.Context(), 0, state); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(paths[1]+".new", raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(paths[1]+".new", paths[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := open().Restore(t.Context(), 0, state); !errors.Is(err, llama.ErrNoRestore) {
		t.Error(err)
	}
}
