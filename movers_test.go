package modeltier_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// by returns the model with that mover.
func by(mover string, m tier.Model) tier.Model { m.Mover = mover; return m }

// verbs are the moves that a mover was given, as "load a".
func verbs(m *tiertest.Mover) (all []string) {
	for _, mv := range m.Moves() {
		all = append(all, mv.Verb()+" "+mv.Model.Name)
	}
	return all
}

func wantVerbs(t *testing.T, m *tiertest.Mover, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := verbs(m); !slices.Equal(got, want) {
		t.Errorf("moves %q, want %q", got, want)
	}
}

func TestMovers_OneAccount_ModelOfOneGivesWayForThatOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := &tiertest.Mover{OnlyRAM: true}, &tiertest.Mover{OnlyRAM: true}
		cfg := onlyRAM(model("a", 3), by("x", model("b", 4)), by("y", model("c", 1)))
		cfg.Movers = map[string]tier.Mover{"x": x, "y": y}
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Minute)
		r.use("c")
		r.wantUsed(4 * tier.GiB)
		time.Sleep(time.Minute)
		r.use("b")
		r.wantMoves("load a", "unload a")
		wantVerbs(t, x, "load b")
		wantVerbs(t, y, "load c")
		if got := r.model("b").Mover; got != "x" {
			t.Errorf("b is moved by %q", got)
		}
	})
}

// Of 7 GiB models on 5 GiB of ram, the one of files is served in place.
func TestMovers_OptionalInterfaces_CountForTheirOwnModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &tiertest.Mover{Parts: true, Cold: true, Files: true}
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("engine", 7), by("files", model("mapped", 7))},
			Mover:  &tiertest.Mover{OnlyRAM: true}, Movers: map[string]tier.Mover{"files": files},
		})
		if l := r.get("mapped"); l.Tier() != tier.Swap || l.Kept() == 0 {
			t.Errorf("served from %v with %v present", l.Tier(), l.Kept())
		} else {
			l.Release()
		}
		r.begin("engine").refused(modeltier.ErrTooLarge, 0)
	})
}

// The machine has 3 GiB and no swap on disk. Weights that are no pages of a file cannot be
// in swap there; those that are can.
func TestMovers_OneIsNoFileBacker_ItsModelsNeedMemoryInSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		anonymous, files := &tiertest.Mover{Parts: true}, &tiertest.Mover{Parts: true, Files: true}
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{by("files", able(model("mapped", 4), "vision")), able(model("heap", 4), "chat"), able(model("small", 2), "chat")},
			Mover:  anonymous, Movers: map[string]tier.Mover{"files": files},
			Probe: tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 3 * tier.GiB}),
		})
		if l := r.get("mapped"); l.Tier() != tier.Swap {
			t.Errorf("served from %v", l.Tier())
		} else {
			l.Release()
		}
		r.begin("heap").refused(modeltier.ErrNoCapacity, 0)
		auto, err := r.Acquire(t.Context(), modeltier.Request{Capabilities: []string{"chat"}, Priority: tier.Quality})
		if err != nil || auto.Model().Name != "small" {
			t.Fatalf("%v, %v; want small", auto, err)
		}
		auto.Release()
	})
}

func TestMoveTier_ToSwapWithoutADevice_OnlyForModelsOfFileBackers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("heap", 4), by("files", model("mapped", 4))},
			Mover:  &tiertest.Mover{}, Movers: map[string]tier.Mover{"files": &tiertest.Mover{Files: true}}, OptimizeEvery: -1,
			Probe: tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 3 * tier.GiB}),
		})
		if _, err := r.MoveTier(t.Context(), "heap", tier.Swap); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("%v", err)
		}
		if err := order(t)(r.MoveTier(t.Context(), "mapped", tier.Swap)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A model whose weights are no file pages gives way to storage where the machine has no
// swap for them, though the swap limit has room.
func TestMovers_VictimIsNotFileBacked_LeavesSwapOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		anonymous, files := &tiertest.Mover{}, &tiertest.Mover{OnlyRAM: true, Files: true}
		probe := tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 6 * tier.GiB})
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("heap", 4), by("files", model("mapped", 4))},
			Mover:  anonymous, Movers: map[string]tier.Mover{"files": files}, OptimizeEvery: -1,
			Probe: probe,
		})
		r.use("heap")
		r.wantAt("heap", tier.RAM)
		probe.Set(tier.Memory{Total: 8 * tier.GiB, Available: 2 * tier.GiB}, nil)
		time.Sleep(time.Minute)
		c := r.begin("mapped")
		time.Sleep(time.Minute)
		c.leave()
		wantVerbs(t, anonymous, "load heap", "unload heap")
	})
}

func TestMovers_UnknownName_ErrorNamesThoseThatThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		movers := map[string]tier.Mover{"files": &tiertest.Mover{}, "llama": &tiertest.Mover{}}
		_, err := modeltier.New(modeltier.Config{Models: []tier.Model{by("llamas", model("a", 1))}, Mover: &tiertest.Mover{}, Movers: movers})
		wantUnknownMover(t, err)
		r := newRig(t, modeltier.Config{Models: []tier.Model{by("files", model("a", 1))}, Movers: movers})
		_, err = r.HotLoad(t.Context(), by("llamas", model("b", 1)))
		wantUnknownMover(t, err)
		_, err = r.Reconfigure(t.Context(), []tier.Model{by("llamas", model("a", 1))}, tier.Limits{})
		wantUnknownMover(t, err)
		r.use("a")

		for name, v := range map[string]tier.Mover{"": &tiertest.Mover{}, "no\x00name": &tiertest.Mover{}, "nil": nil} {
			_, err := modeltier.New(modeltier.Config{Movers: map[string]tier.Mover{name: v}})
			if !errors.Is(err, modeltier.ErrInvalid) {
				t.Errorf("Movers[%q]: %v", name, err)
			}
		}
	})
}

func wantUnknownMover(t *testing.T, err error) {
	t.Helper()
	invalid, ok := errors.AsType[*tier.InvalidError](err)
	if !ok || invalid.Field != "mover" || invalid.Value != `"llamas"` || !strings.Contains(invalid.Rule, "files, llama") {
		t.Fatalf("%v", err)
	}
	if help := tier.Suggestions(err); len(help) == 0 || help[0] != "Did you mean llama?" {
		t.Errorf("suggestions %q", help)
	}
}

// stalled is a mover of which every call blocks until it is free, but for what New asks.
type stalled struct {
	*tiertest.Mover
	free chan struct{}
}

func (s stalled) Move(context.Context, tier.Move, func(tier.Bytes)) error {
	<-s.free
	return errors.New("freed")
}

func (s stalled) Resident(context.Context, string) (present, reclaimable tier.Bytes, err error) {
	<-s.free
	return 0, 0, nil
}

func (s stalled) Cached(context.Context, string) (tier.Bytes, error) { <-s.free; return 0, nil }

func (s stalled) Uncache(context.Context, string, tier.Bytes) error { <-s.free; return nil }

func (s stalled) PartStatus() any { <-s.free; return nil }

func (s stalled) Close() error { <-s.free; return nil }

func TestMovers_OneBlocks_OnlyItsModelsWaitAndCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		closed := 0
		good := &tiertest.Sticky{Mover: &tiertest.Mover{OnlyRAM: true}}
		m, err := modeltier.New(modeltier.Config{
			Models: []tier.Model{by("bad", model("a", 1)), by("good", model("b", 1)), by("good", model("c", 4))},
			Movers: map[string]tier.Mover{
				"bad": stalled{&tiertest.Mover{OnlyRAM: true}, free}, "good": good,
				"dull": &closing{Mover: &tiertest.Mover{}, closed: &closed},
			},
			Mover: &tiertest.Mover{}, Probe: tiertest.NewProbe(plenty), StuckAfter: 5 * time.Second, StallAfter: 20 * time.Second, MaxWait: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{Manager: m, t: t, mover: good.Mover}
		a := r.begin("a")
		for range 3 {
			for _, name := range []string{"b", "c"} {
				began := time.Now()
				r.use(name)
				if took := time.Since(began); took > 7*time.Second {
					t.Errorf("%s was served after %v", name, took)
				}
				time.Sleep(10 * time.Second)
			}
		}
		began := time.Now()
		s := m.Status()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("Status took %v", took)
		}
		for _, ms := range s.Models {
			if ms.Mover == "good" && ms.Tier == tier.RAM && ms.Present != ms.Size {
				t.Errorf("of %s %v are seen", ms.Name, ms.Present)
			}
		}
		a.refused(modeltier.ErrStuck, a.took)
		began = time.Now()
		if err := m.Close(); !errors.Is(err, modeltier.ErrStuck) || time.Since(began) > 11*time.Second {
			t.Errorf("Close: %v after %v", err, time.Since(began))
		}
		if closed != 1 {
			t.Errorf("the other was closed %d times", closed)
		}
		close(free)
		synctest.Wait()
	})
}

func TestMovers_OnePanics_OnlyItsMoveFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{by("bad", model("a", 1)), model("b", 1)},
			Movers: map[string]tier.Mover{"bad": tier.MoverFunc(func(context.Context, tier.Move, func(tier.Bytes)) error { panic("boom") })},
		})
		err := r.begin("a").refused(modeltier.ErrPanic, 0)
		if !strings.Contains(err.Error(), `mover "bad"`) {
			t.Errorf("%v does not say which mover", err)
		}
		r.use("b")
	})
}

func TestReconfigure_OtherMover_LeavesByTheOldAndComesByTheNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := &tiertest.Mover{OnlyRAM: true}, &tiertest.Mover{OnlyRAM: true}
		cfg := onlyRAM(by("x", model("a", 2)))
		cfg.Movers = map[string]tier.Mover{"x": x, "y": y}
		r := newRig(t, cfg)
		l := r.get("a")
		wantReconfiguration(t, r.reconfigured(cfg.Limits, by("y", model("a", 2))), modeltier.Reconfiguration{Replaced: []string{"a"}})
		next := r.begin("a")
		time.Sleep(time.Second)
		l.Release()
		next.served(4 * time.Second)
		wantVerbs(t, x, "load a", "unload a")
		wantVerbs(t, y, "load a")
		r.wantUsed(2 * tier.GiB)
	})
}

// The old mover's bytes stay in memory for a minute. The new one knows nothing of them.
func TestReconfigure_OtherMoverAndResidue_StaysChargedUntilTheOldSeesItGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &tiertest.Sticky{Mover: &tiertest.Mover{OnlyRAM: true}, Linger: func(tier.Move) time.Duration { return time.Minute }}
		y := &tiertest.Sticky{Mover: &tiertest.Mover{OnlyRAM: true}}
		cfg := onlyRAM(by("x", model("a", 2)))
		cfg.Movers = map[string]tier.Mover{"x": x, "y": y}
		r := newRig(t, cfg)
		r.use("a")
		r.reconfigured(cfg.Limits, by("y", model("a", 2)))
		time.Sleep(15 * time.Second)
		if c := r.begin("a"); c.served(3*time.Second) == nil {
			t.Fatal("not served")
		}
		r.wantUsed(4 * tier.GiB)
		if s := r.Status(); s.Leftovers["a"] != 2*tier.GiB || r.model("a").Leftover != 0 {
			t.Errorf("left over are %v, of the new one %v", s.Leftovers, r.model("a").Leftover)
		}
		time.Sleep(2 * time.Minute)
		r.wantUsed(2 * tier.GiB)

		// Back again while what the second left is there still.
		y.Linger = x.Linger
		x.Linger = nil
		r.reconfigured(cfg.Limits, by("x", model("a", 2)))
		time.Sleep(15 * time.Second)
		r.wantUsed(2 * tier.GiB)
	})
}

func TestRestart_MoverIsConfiguredNoMore_ModelIsKeptAndItsErrorSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var log strings.Builder
		start := func(names ...string) *modeltier.Manager {
			t.Helper()
			movers := map[string]tier.Mover{}
			for _, name := range names {
				movers[name] = &tiertest.Mover{OnlyRAM: true}
			}
			m, err := modeltier.New(modeltier.Config{
				Mover: &tiertest.Mover{}, Movers: movers, StateDir: dir, Probe: tiertest.NewProbe(plenty),
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := start("x", "y")
		if err := order(t)(m.HotLoad(t.Context(), by("x", pinned(model("a", 1))))).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.Close()
		m = start("y")
		_, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if !errors.Is(err, modeltier.ErrInvalid) || !strings.Contains(err.Error(), `mover "x"`) {
			t.Errorf("%v", err)
		}
		if m.Close(); !strings.Contains(log.String(), `level=WARN`) || !strings.Contains(log.String(), "model=a") {
			t.Errorf("it does not say so at the start: %s", &log)
		}
		m = start("x")
		l, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil || l.Model().Mover != "x" {
			t.Fatalf("%v, %v", l, err)
		}
		l.Release()
		m.Close()
	})
}

func TestMovers_OneUnderSeveralNames_IsOneMover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := 0
		v := &closing{Mover: &tiertest.Mover{OnlyRAM: true}, closed: &closed}
		m, err := modeltier.New(modeltier.Config{
			Models: []tier.Model{by("x", model("a", 1))}, Mover: v, Movers: map[string]tier.Mover{"x": v, "y": v}, Probe: tiertest.NewProbe(plenty),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.AddMover("z", v); err != nil {
			t.Error(err)
		}
		if err := m.AddMover("x", v); !errors.Is(err, modeltier.ErrExists) {
			t.Errorf("a name that is taken: %v", err)
		}
		if err := order(t)(m.HotLoad(t.Context(), by("z", model("b", 1)))).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil || closed != 1 {
			t.Errorf("%v, closed %d times", err, closed)
		}
		if err := m.AddMover("late", v); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// speaking is a mover that says something of itself.
type speaking struct {
	*tiertest.Mover
	says string
}

func (s speaking) PartStatus() any { return s.says }

func TestStatus_SeveralMovers_EachSaysItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Mover:  speaking{&tiertest.Mover{}, "one"},
			Movers: map[string]tier.Mover{"b": speaking{&tiertest.Mover{}, "two"}, "c": &tiertest.Mover{}},
		})
		parts := r.Status().Parts
		if parts["mover"] != "one" || parts["mover b"] != "two" || parts["mover c"] != nil {
			t.Errorf("%v", parts)
		}
	})
}

func TestWire_Engine_IsTheMoverAndIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Movers: map[string]tier.Mover{"llama": &tiertest.Mover{}, "whisper": &tiertest.Mover{}}})
		ask := func(request string) (a struct {
			Status, Code, Reason string
			Suggestions          []string
			Models               map[string]struct{ Engine string }
		}) {
			t.Helper()
			if err := json.Unmarshal(r.HandleRequest(t.Context(), []byte(request)), &a); err != nil {
				t.Fatal(err)
			}
			return a
		}
		load := func(name, engine string) string {
			return `{"hot_load": {"model_name": "` + name + `", "model_config": {"size_gb": 1, "tier": "ram", "capabilities": [], "engine": ` + engine + `}}}`
		}
		if a := ask(load("a", `"whisper"`)); a.Status != "hot_load_started" {
			t.Fatalf("%+v", a)
		}
		if a := ask(load("b", `"wisper"`)); a.Code != "invalid_request" || !strings.Contains(a.Reason, `engine "wisper" must be one of llama, whisper`) || !slices.Contains(a.Suggestions, "Did you mean whisper?") {
			t.Errorf("%+v", a)
		}
		if a := ask(load("b", `7`)); a.Code != "invalid_request" || !strings.Contains(a.Reason, "engine") {
			t.Errorf("%+v", a)
		}
		if a := ask(`{"list_models": true}`); a.Models["a"].Engine != "whisper" {
			t.Errorf("%+v", a)
		}
	})
}

// speaker is a mover whose instances are its name.
type speaker struct {
	*tiertest.Mover
	name string
}

func (s speaker) Instance(model string) any { return s.name + ":" + model }

func TestInstance_SeveralMovers_IsThatOfTheModelsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 1), by("x", model("b", 1)), by("y", model("c", 1))},
			Mover:  speaker{&tiertest.Mover{}, "own"}, Movers: map[string]tier.Mover{"x": speaker{&tiertest.Mover{}, "x"}, "y": &tiertest.Mover{}},
		})
		for name, want := range map[string]string{"a": "own:a", "b": "x:b", "c": ""} {
			l := r.get(name)
			if got, _ := modeltier.Instance[string](l); got != want {
				t.Errorf("%s is served by %q, want %q", name, got, want)
			}
			l.Release()
		}
	})
}
