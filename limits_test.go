package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestUpdateLimits_BelowWhatIsHeld_IdleModelsLeaveOrItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 2)}})
		r.use("a")
		r.use("b")
		if _, now, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 3 * tier.GiB}); err != nil || now.RAM != 3*tier.GiB {
			t.Fatalf("now %+v, err %v", now, err)
		}
		if s := r.Status(); s.RAM.Used > 3*tier.GiB || s.Limits.Swap != 10*tier.GiB {
			t.Errorf("%+v", s.RAM)
		}
		r.use("b")
		b := r.get("b")
		_, now, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: tier.GiB, Swap: 3 * tier.GiB})
		le, ok := errors.AsType[*tier.LimitsError](err)
		if !ok || len(le.MustLeave) == 0 || le.MustLeave[0].Model != "b" {
			t.Errorf("err = %v, want a LimitsError that names b", err)
		}
		if now.RAM != 3*tier.GiB || now.Swap != 10*tier.GiB {
			t.Errorf("limits are %+v, want the old ones", now)
		}
		b.Release()
	})
}

func TestLimits_ModelLargerThanEverything_IsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("huge", 12)}})
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "huge"})
		if !errors.Is(err, modeltier.ErrTooLarge) {
			t.Errorf("err = %v, want ErrTooLarge", err)
		}
	})
}

// Pain point 15.
func TestLimits_BudgetAndSizes_SayWhoMayBeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 0.5), model("b", 1), model("c", 1.5), model("d", 2), model("e", 0.25)))
		for _, name := range []string{"a", "b", "c", "d"} {
			r.use(name)
		}
		r.wantMoves("load a", "load b", "load c", "load d")
		r.wantUsed(5 * tier.GiB)
		r.use("e")
		if s := r.Status(); s.Evictions != 1 || s.RAM.Used > s.Limits.RAM {
			t.Errorf("%d models left for one of 0.25 GiB, %v of %v are used", s.Evictions, s.RAM.Used, s.Limits.RAM)
		}
	})
}

// Pain point 4.
func TestLimits_LoadsAtOnce_NeverMoreInMemoryThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2), model("d", 2)))
		clients := []*client{r.begin("a"), r.begin("b"), r.begin("c"), r.begin("d")}
		for _, c := range clients[:2] {
			c.served(3 * time.Second).Release()
		}
		for _, c := range clients[2:] {
			c.served(6 * time.Second).Release()
		}
		if scale.Peak() != 4*tier.GiB {
			t.Errorf("%v were in memory at once, want 4 GiB of 5", scale.Peak())
		}
		if s := r.Status(); s.RAM.Peak > s.Limits.RAM || s.Evictions != 2 {
			t.Errorf("the account's peak is %v after %d evictions, want 5 GiB at most and 2", s.RAM.Peak, s.Evictions)
		}
	})
}

func TestLimits_RandomLoadsEvictionsAndCancels_NeverMoreThanTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, budget) })
}

// budget measures what models take in memory, not what the Manager believes.
func budget(t *rapid.T) {
	names := []string{"a", "b", "c", "d", "e"}
	var models []tier.Model
	for i, name := range names {
		m := model(name, float64(1+i)*0.75)
		m.Runtime = tier.Bytes(rapid.IntRange(0, 2).Draw(t, "runtime")) * tier.GiB / 8
		models = append(models, m)
	}
	scale := &tiertest.Scale{Mover: &tiertest.Mover{OnlyRAM: true, Time: func(tier.Move) time.Duration { return time.Second }}}
	bad := rapid.SampledFrom(names).Draw(t, "bad")
	scale.Fault = func(mv tier.Move) error {
		if mv.Model.Name == bad {
			return errors.New("not this one")
		}
		return nil
	}
	limits := tier.Limits{RAM: tier.Bytes(rapid.IntRange(4, 10).Draw(t, "ram")) * tier.GiB / 2, Swap: tier.None}
	m, err := modeltier.New(modeltier.Config{
		Models: models, Mover: scale, Probe: tiertest.NewProbe(plenty), Limits: limits, Fairness: time.Second, MaxWait: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer func() {
		m.Close()
		wg.Wait()
	}()
	for range rapid.IntRange(1, 40).Draw(t, "requests") {
		name := rapid.SampledFrom(names).Draw(t, "model")
		patience := rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 1500 * time.Millisecond, time.Hour}).Draw(t, "patience")
		use := rapid.SampledFrom([]time.Duration{0, 200 * time.Millisecond, 3 * time.Second}).Draw(t, "use")
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if l, err := m.Acquire(ctx, modeltier.Request{Model: name}); err == nil {
				time.Sleep(use)
				l.Release()
			}
		})
		if rapid.IntRange(0, 3).Draw(t, "unload") == 0 {
			m.MoveTier(context.Background(), rapid.SampledFrom(names).Draw(t, "unloaded"), tier.Storage)
		}
		time.Sleep(rapid.SampledFrom([]time.Duration{0, 50 * time.Millisecond, time.Second}).Draw(t, "pause"))
		if most := scale.Peak(); most > limits.RAM {
			t.Fatalf("%v were in memory at once, the limit is %v", most, limits.RAM)
		}
		if s := m.Status(); s.RAM.Used > limits.RAM || s.RAM.Peak > limits.RAM {
			t.Fatalf("the account holds %v, and held %v, of %v", s.RAM.Used, s.RAM.Peak, limits.RAM)
		}
	}
	wg.Wait()
	if most := scale.Peak(); most > limits.RAM {
		t.Fatalf("%v were in memory at once, the limit is %v", most, limits.RAM)
	}
}

func TestLimits_ThreeModelsOnAMachineForTwo_NoneIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 0.3), model("b", 0.3), model("c", 0.3))
		cfg.Limits = tier.Limits{RAM: tier.GiB, Swap: tier.None, Reserved: 128 * tier.MiB}
		r, scale := newScaleRig(t, cfg)
		const has = 850 * tier.MiB
		r.memory(900*tier.MiB, has)
		scale.Probe = r.probe
		for i := range 30 {
			r.use(fmt.Sprintf("%c", 'a'+i%3))
		}
		if scale.Peak() > has-128*tier.MiB {
			t.Errorf("%v of %v were taken", scale.Peak(), has)
		}
	})
}

func TestLimits_ScenariosOfOllama(t *testing.T) {
	scenario(t, "ollama/TestSchedUpdateFreeSpace", func(t *testing.T) {
		a := model("a", 1)
		a.Runtime = tier.GiB / 4
		r := newRig(t, onlyRAM(a, model("b", 2)))
		r.use("a")
		r.use("b")
		s := r.Status()
		if used := tier.GiB + tier.GiB/4 + 2*tier.GiB; s.RAM.Charged != used || s.RAM.Room != 5*tier.GiB-used || s.RAM.Models != 2 {
			t.Errorf("%+v, want %v charged and the rest of 5 GiB free", s.RAM, used)
		}
		r.memory(8*tier.GiB, 2*tier.GiB) // other processes take memory
		if s := r.Status(); s.RAM.Room != tier.GiB {
			t.Errorf("room for %v, want 1 GiB: 2 less the reserved one", s.RAM.Room)
		}
	})
	scenario(t, "ollama/TestSchedFindRunnerToUnload idle before busy", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		r.use("b")
		a := r.get("a") // later, and busy
		r.begin("c").served(3 * time.Second).Release()
		a.Release()
		r.wantMoves("load b", "load a", "unload b", "load c")
	})
	scenario(t, "ollama/TestSchedFindRunnerToUnload all busy: the first that ends", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		a, b := r.get("a"), r.get("b")
		c := r.begin("c")
		time.Sleep(2 * time.Second)
		b.Release()
		c.served(2*time.Second + 3*time.Second).Release()
		a.Release()
		r.wantMoves("load a", "load b", "unload b", "load c")
	})
	scenario(t, "ollama/TestSchedNeedsReload nothing that a request says makes a model be loaded again", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		for p := modeltier.Balanced; p <= modeltier.Quality; p++ {
			for _, background := range []bool{false, true} {
				r.beginWith(modeltier.Request{Model: "a", Priority: p, Background: background, Deadline: time.Minute, Explain: true})
			}
		}
		time.Sleep(time.Minute)
		r.wantMoves("load a")
	})
	scenario(t, "ollama/TestSchedLlamaServerEvictsWhenVRAMInsufficient", func(t *testing.T) {
		r, scale := newScaleRig(t, slowUnload(onlyRAM(model("a", 3), model("b", 3)), 2*time.Second))
		r.use("a")
		r.begin("b").served(2*time.Second + 4500*time.Millisecond).Release() // one after the other
		if scale.Peak() != 3*tier.GiB {
			t.Errorf("%v were in memory at once", scale.Peak())
		}
	})
	scenario(t, "ollama/FitsAlongside", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 2)))
		r.use("a")
		r.begin("b").served(3 * time.Second).Release()
		r.wantMoves("load a", "load b")
	})
	scenario(t, "ollama/PredictionUsesTotalParallelContext runtime bytes count", func(t *testing.T) {
		b := model("b", 2)
		b.Runtime = tier.MiB
		r := newRig(t, onlyRAM(model("a", 3), b))
		r.use("a")
		r.use("b")
		r.wantMoves("load a", "unload a", "load b")
	})
	scenario(t, "ollama/ExplicitPartialNumGPUSkips no request bypasses admission", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3)))
		r.memory(8*tier.GiB, 3*tier.GiB)
		if _, err := r.MoveTier(t.Context(), "a", tier.RAM); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("its owner's order: %v, want ErrNoCapacity", err)
		}
		r.wantMoves()
	})
	for i, x := range []struct {
		machine, container tier.Bytes // available
		fits               bool
	}{
		{6, 6, true}, {6, 3, false}, {3, 6, false}, {4, 4, true}, {8, 4, true}, {0, 8, false},
	} {
		scenario(t, fmt.Sprintf("ollama/TestAvailableMemoryForLoadUsesWorstSharedMemoryMeasurement case %d", i+1), func(t *testing.T) {
			r := newRig(t, onlyRAM(model("a", 2.25)))
			r.memory(8*tier.GiB, min(x.machine, x.container)*tier.GiB) // a probe reports the smaller
			if x.fits {
				r.begin("a").served(3375 * time.Millisecond).Release()
			} else {
				r.begin("a").refused(modeltier.ErrNoCapacity, 0)
			}
		})
	}
}

// A mover that works in pages keeps up to a page less of a model than it may, so that
// swap takes up to a page more than was planned.
func TestUpdateLimits_MoverKeepsAPageLess_IdleModelLeavesAllTheSame(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.gguf")
	if err := os.WriteFile(path, make([]byte, 8*tier.MiB), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "a", Path: path}}, OptimizeEvery: -1,
		Limits: tier.Limits{RAM: 16 * tier.MiB, Swap: 5*tier.MiB - 1000, Reserved: 1, MaxModel: tier.Unlimited},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	l, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"})
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
	if _, now, err := m.UpdateLimits(t.Context(), tier.Limits{RAM: 3*tier.MiB + 1000}); err != nil {
		t.Errorf("with nothing leased the limits are refused: %v (now %v)", err, now)
	}
	if n := m.Status().EvictionsBy[tier.ReasonLimits]; n == 0 {
		t.Error("no eviction is counted for lowered limits")
	}
}
