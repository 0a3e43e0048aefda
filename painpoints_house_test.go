package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestPain15_BudgetAndSizes_SayWhoMayBeTogether(t *testing.T) {
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

func TestPain16_ModelThatGaveWay_WakesFromSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3), model("b", 4))
		cfg.Limits.Swap = 10 * tier.GiB
		r := newRig(t, cfg)
		r.begin("a").served(4500 * time.Millisecond).Release()
		r.begin("b").served(6 * time.Second).Release()
		r.wantAt("a", tier.Swap)
		l := r.begin("a").served(1500 * time.Millisecond) // 0.5 s for a GB, not 1.5
		if !l.Moved() || l.Tier() != tier.RAM {
			t.Errorf("leased from %v, moved %v", l.Tier(), l.Moved())
		}
		l.Release()
	})
}

func TestPain16_OwnerPutsAModelToSleep_ItWakesWhenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3))
		cfg.Limits.Swap = 10 * tier.GiB
		r := newRig(t, cfg)
		r.use("a")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Swap)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); s.RAM.Used != 0 || s.Swap.Used != 3*tier.GiB {
			t.Errorf("asleep it takes %v and %v, want 0 and 3 GiB", s.RAM.Used, s.Swap.Used)
		}
		r.begin("a").served(1500 * time.Millisecond).Release()
		r.wantMoves("load a", "demote a", "promote a")
	})
}

func TestPain17_PagesThatStay_AreTrackedAndNotReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4), model("b", 3))
		cfg.Limits.Swap = 10 * tier.GiB
		cfg.Mover.(*tiertest.Mover).Parts = true
		r, _ := newObserverRig(t, cfg, true)
		r.use("a")
		r.use("b")
		m := r.model("a")
		if m.Tier != tier.Swap || m.Kept != 2*tier.GiB || m.Present != 2*tier.GiB || m.ChargedRAM != 2*tier.GiB || m.ChargedSwap != 2*tier.GiB {
			t.Errorf("a gave way to 3 GiB in 5: %+v, want 2 GiB kept, present and charged", m)
		}
		r.begin("a").served(time.Second).Release() // for the missing half
	})
}

func TestPain18_ModelsComeAndGo_TheOthersAreNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 1)))
		l := r.get("a")
		r.use("b")
		c := model("c", 1)
		c.Home = tier.RAM
		for _, j := range []*modeltier.Job{
			order(t)(r.Remove(t.Context(), "b")),
			order(t)(r.HotLoad(t.Context(), c)),
		} {
			if err := j.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 4 * tier.GiB}); err != nil {
			t.Error(err)
		}
		if m := r.model("a"); m.Leases != 1 || m.Tier != tier.RAM {
			t.Errorf("a has %d leases in %v, want the one in ram", m.Leases, m.Tier)
		}
		r.begin("a").served(0).Release()
		l.Release()
		r.wantMoves("load a", "load b", "unload b", "load c")
		r.wantUsed(3 * tier.GiB)
	})
}

func TestPain19_Pinned_IsSparedInEveryPath(t *testing.T) {
	for name, try := range map[string]func(t *testing.T, r *rig){
		"a request for room": func(t *testing.T, r *rig) {
			r.begin("b").refused(modeltier.ErrNoCapacity, 0)
		},
		"a request that has waited past fairness": func(t *testing.T, r *rig) {
			c := r.get("c")
			b := r.begin("b")
			time.Sleep(10 * time.Second)
			c.Release()
			<-b.done
		},
		"lower limits": func(t *testing.T, r *rig) {
			_, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 2 * tier.GiB})
			if le, ok := errors.AsType[*tier.LimitsError](err); !ok || len(le.MustLeave) == 0 || le.MustLeave[0].Model != "a" {
				t.Errorf("lower limits: %v, want an error that names a", err)
			}
		},
		"memory pressure": func(t *testing.T, r *rig) {
			high := plenty
			high.Pressure.Level = tier.PressureHigh
			r.probe.Set(high, nil)
			time.Sleep(5 * time.Minute)
		},
		"memory that is gone": func(t *testing.T, r *rig) {
			r.memory(8*tier.GiB, 0)
			time.Sleep(time.Minute)
		},
		"an optimisation": func(t *testing.T, r *rig) {
			for range 20 {
				time.Sleep(time.Minute)
				r.use("c")
				if _, err := r.Optimize(t.Context()); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onlyRAM(pinned(model("a", 3)), model("b", 4), model("c", 1)))
				r.use("a")
				try(t, r)
				r.wantAt("a", tier.RAM)
				for _, mv := range r.mover.Moves() {
					if mv.Model.Name == "a" && mv.From == tier.RAM {
						t.Errorf("a was moved from ram to %v", mv.To)
					}
				}
			})
		})
	}
}

func TestPain19_PlacementNamesThePinned_NothingIsTakenFromIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(pinned(model("a", 3)), model("b", 4))
		asked := 0
		cfg.Placement = tier.PlacementFunc(func(v *tier.View, need *tier.Need) tier.Plan {
			asked++
			var p tier.Plan
			if need == nil {
				return p
			}
			if v.States[0].Tier == tier.RAM && need.Model == 1 {
				p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(0), To: tier.Storage}})
			}
			p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.RAM}})
			return p
		})
		r := newRig(t, cfg)
		r.use("a")
		r.begin("b").refused(modeltier.ErrNoCapacity, 0)
		r.wantMoves("load a")
		if asked > 20 {
			t.Errorf("the placement was asked %d times for one refusal", asked)
		}
	})
}

func TestPain19_Pinned_ItsOwnerMayMoveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 3))))
		r.use("a")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantAt("a", tier.Storage)
	})
}

func TestPain19_MemoryIsShort_OnePlanGivesBackWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1), model("c", 1), model("d", 1), model("e", 1))
		cfg.Placement = new(optimizer.LRU) // whom it would miss least is plain
		r, scale := newScaleRig(t, cfg)
		r.memory(8*tier.GiB, 7*tier.GiB)
		scale.machine = r.probe
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		gone := func() (names string) {
			for _, mv := range r.mover.Moves() {
				if mv.To == tier.Storage {
					names += mv.Model.Name
				}
			}
			return names
		}
		r.memory(8*tier.GiB, 256*tier.MiB) // 768 MiB are missing of the reserve
		if gone() != "a" {
			t.Errorf("%q left, want a", gone())
		}
		time.Sleep(time.Minute)
		r.memory(8*tier.GiB, 0)
		if g := gone(); g != "abc" && g != "acb" {
			t.Errorf("%q left, want a, then b and c at once", g)
		}
		time.Sleep(time.Minute)
		if g := gone(); len(g) != 3 {
			t.Errorf("%q left, though nothing was missing any more", g)
		}
	})
}

func TestPain20_ModelThatLeftIsStillThere_ItsBytesAreHeldBackUntilSeenToBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 2), model("b", 4)), false)
		scale.lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		r.use("a")
		b := r.begin("b")
		time.Sleep(5500 * time.Millisecond)
		if m := r.model("a"); m.Tier != tier.Storage || m.Leftover != 2*tier.GiB || m.ChargedRAM != 2*tier.GiB || m.Present != 2*tier.GiB {
			t.Errorf("%+v, want a in storage with 2 GiB still charged", m)
		}
		r.wantMoves("load a", "unload a")
		scale.put("a", 0)
		b.served(6*time.Second + 6*time.Second).Release() // seen at the next look, then loaded
		r.wantUsed(4 * tier.GiB)
	})
}

func TestPain20_BytesNeverComeBack_AreToldAndTheWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 2), model("b", 4), model("c", 3)), false)
		scale.lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		r.use("a")
		err := r.begin("b").refused(modeltier.ErrNoCapacity, 10*time.Second)
		if ce, ok := errors.AsType[*tier.CapacityError](err); !ok || len(ce.Holders) != 1 || ce.Holders[0].Model != "a" {
			t.Errorf("%#v, want an error that says that a holds the room", err)
		}
		r.use("c") // what is left can be used
		r.wantUsed(5 * tier.GiB)
	})
}

func TestPain20_RemovedModelStillThere_ItsBytesAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 2), model("b", 1)), false)
		scale.lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		for _, name := range []string{"a", "b"} {
			r.use(name)
			if err := order(t)(r.Remove(t.Context(), name)).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if s := r.Status(); s.RAM.Used != 3*tier.GiB || s.Leftovers["a"] != 2*tier.GiB || s.Leftovers["b"] != tier.GiB {
			t.Errorf("%v are used, left over are %v; want 3 GiB of a and b", s.RAM.Used, s.Leftovers)
		}
		scale.put("a", 0)
		time.Sleep(time.Minute)
		r.wantUsed(tier.GiB)
		order(t)(r.HotLoad(t.Context(), model("b", 2))) // another of its name answers for it
		if m := r.model("b"); m.Leftover != tier.GiB {
			t.Errorf("the new b answers for %v, want 1 GiB", m.Leftover)
		}
		r.use("b")
		r.wantUsed(2 * tier.GiB)
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	})
}

// Weights that stay in memory though the model is in storage, as where another
// process maps their file, stand in the way of others, and not of itself.
func TestPain20_WeightsStayInMemory_TheirOwnModelFitsAllTheSame(t *testing.T) {
	start := map[string]func(r *rig, s *scale){
		"after a load that failed": func(r *rig, s *scale) {
			s.put("a", 3*tier.GiB)
			r.mover.Fault = func(tier.Move) error { return errors.New("bad weights") }
			if _, err := r.Acquire(r.t.Context(), modeltier.Request{Model: "a"}); err == nil {
				r.t.Fatal("the load did not fail")
			}
			r.mover.Fault = nil
		},
		"after a move to storage": func(r *rig, s *scale) {
			s.lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
			r.use("a")
			if err := order(r.t)(r.MoveTier(r.t.Context(), "a", tier.Storage)).Wait(r.t.Context()); err != nil {
				r.t.Fatal(err)
			}
		},
	}
	for name, start := range start {
		scenario(t, name, func(t *testing.T) {
			r, scale := newObserverRig(t, onlyRAM(model("a", 3), model("b", 3)), false)
			start(r, scale)
			time.Sleep(time.Minute)
			if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"}); !errors.Is(err, modeltier.ErrNoCapacity) {
				t.Errorf("another model of 3 GiB beside it: %v", err)
			}
			r.use("a")
			r.wantUsed(3 * tier.GiB)
		})
	}
}

func TestPain21_HotModelAmongCold_IsNotReloadedAllTheTime(t *testing.T) {
	reloads := func(p tier.Placement) (perHour [3]int) {
		synctest.Test(t, func(t *testing.T) {
			cfg := onlyRAM(model("hot", 3), model("c1", 1.5), model("c2", 1.5), model("c3", 1.5), model("c4", 1.5), model("c5", 1.5))
			cfg.Placement, cfg.OptimizeEvery = p, 0
			r := newRig(t, cfg)
			r.use("hot")
			for i := range 3 * 360 { // every minute three cold models come before the hot one
				if i%6 == 5 {
					for j := range 3 {
						r.use(fmt.Sprintf("c%d", 1+(i/6+j)%5))
					}
				}
				l := r.get("hot")
				if l.Moved() {
					perHour[i/360]++
				}
				l.Release()
				time.Sleep(10 * time.Second)
			}
		})
		return perHour
	}
	lru, got := reloads(&optimizer.LRU{}), reloads(nil)
	if lru != [3]int{60, 60, 60} {
		t.Errorf("by age alone it is loaded again %d times an hour, want 60: the test shows nothing", lru)
	}
	if got[2] > 6 || got[0]+got[1]+got[2] > 90 {
		t.Errorf("the hot model was loaded again %d times an hour, %d by age alone", got, lru)
	}
}

func TestPain22_TwoManagersInOneProcess_ShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newRig(t, onlyRAM(model("a", 2)))
		small := onlyRAM(model("a", 2), model("b", 1))
		small.Limits.RAM = 2 * tier.GiB
		two := newRig(t, small)
		one.use("a")
		two.wantAt("a", tier.Storage)
		two.use("a")
		two.use("b")
		one.wantAt("a", tier.RAM)
		if err := two.Close(); err != nil {
			t.Error(err)
		}
		one.begin("a").served(0).Release()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		if _, err := one.Acquire(ctx, modeltier.Request{Model: "a"}); !errors.Is(err, errLeft) {
			t.Errorf("err = %v, want the context's cause", err)
		}
	})
}

func TestPain22_Import_DoesNothing(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "examples" || d.Name() == "benchmarks" || d.Name() == "integrations" || path != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		for _, spec := range file.Imports {
			if p := spec.Path.Value; p == `"os/signal"` || p == `"expvar"` || p == `"net/http/pprof"` {
				t.Errorf("%s imports %s", path, p)
			}
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s does something when it is imported", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("only %d files were looked at", files)
	}
}
