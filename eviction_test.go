package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestEviction_NoRoom_IdleModelGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 4)}})
		r.use("a")
		r.use("b")
		r.wantAt("b", tier.RAM)
		if r.at("a") == tier.RAM {
			t.Error("a is still in ram beside b: 7 GiB in 5")
		}
		s := r.Status()
		if s.Evictions != 1 || s.RAM.Peak > s.Limits.RAM {
			t.Errorf("evictions %d, peak %v of %v", s.Evictions, s.RAM.Peak, s.Limits.RAM)
		}
		if len(s.LastEvictions) != 1 {
			t.Fatalf("last evictions %+v, want that of a", s.LastEvictions)
		}
		if ev := s.LastEvictions[0]; ev.Model != "a" || ev.For != "b" || ev.From != tier.RAM || ev.Why == "" || ev.At.IsZero() {
			t.Errorf("last eviction %+v, want that of a from ram for b, with a reason", ev)
		}
	})
}

// Pain point 31: who finds all room in use waits in the queue, and is not told to come back.
func TestEviction_VictimLeased_WaitsForRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 4)}, Mover: &tiertest.Mover{OnlyRAM: true}})
		a := r.get("a")
		go func() {
			time.Sleep(time.Second)
			r.wantAt("a", tier.RAM)
			a.Release()
		}()
		b := r.get("b")
		if b.Waited() != time.Second+6*time.Second {
			t.Errorf("b waited %v, want 1s for the lease and 6s for the load", b.Waited())
		}
		b.Release()
	})
}

// Pain point 31: what an unload that failed did not free is promised to no other.
func TestEviction_UnloadFails_ItsBytesStayChargedAndNoOtherIsLoadedIntoThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3), model("b", 4))
		stays := false
		cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
			if stays && mv.To == tier.Storage {
				return errors.New("the engine does not stop")
			}
			return nil
		}
		r, scale := newScaleRig(t, cfg)
		r.use("a")
		stays = true
		err := r.begin("b").refused(tier.ErrMove, 0)
		if !strings.Contains(err.Error(), "does not stop") {
			t.Error(err)
		}
		r.wantUsed(3 * tier.GiB)
		r.wantAt("a", tier.RAM)
		r.use("a") // it is served where it is
		stays = false
		time.Sleep(time.Minute)
		r.use("b")
		if scale.Peak() != 4*tier.GiB {
			t.Errorf("%v were in memory at once", scale.Peak())
		}
	})
}

func TestEviction_EverythingPinned_RefusesAtOnceAndSaysWho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", 4)
		a.Pinned = true
		b := model("b", 4)
		b.Runtime = 7 * tier.GiB / 8 // too much to be served beside a from any tier
		r := newRig(t, modeltier.Config{Models: []tier.Model{a, b}, Limits: tier.Limits{Swap: tier.None}})
		r.use("a")
		began := time.Now()
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"})
		ce, ok := errors.AsType[*tier.CapacityError](err)
		if !ok || !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Fatalf("err = %v, want a CapacityError", err)
		}
		if len(ce.Holders) != 1 || ce.Holders[0].Model != "a" || !ce.Holders[0].Pinned {
			t.Errorf("holders %v, want a, pinned", ce.Holders)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("the refusal took %v", d)
		}
		r.wantAt("a", tier.RAM)
	})
}

// Pain point 1.
func TestEviction_VictimRevivedWhileDraining_BothAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		held := r.get("a")
		b := r.begin("b")
		time.Sleep(4 * time.Second) // 3 s of fairness, then a drains
		again := r.begin("a")
		time.Sleep(time.Second)
		if !again.waits() {
			t.Error("a gave a lease while it was to leave")
		}
		held.Release()
		b.served(5*time.Second + 6*time.Second).Release()
		again.served(7*time.Second + 4500*time.Millisecond).Release()
		r.wantMoves("load a", "unload a", "load b", "unload b", "load a")
	})
}

// Pain point 1.
func TestEviction_WaiterOfADrainLeaves_DrainIsCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		held := r.get("a")
		b := r.begin("b")
		time.Sleep(4 * time.Second)
		again := r.begin("a")
		time.Sleep(time.Second)
		b.leave()
		again.served(time.Second).Release()
		held.Release()
		r.use("a")
		r.wantMoves("load a")
	})
}

// Pain point 1.
func TestEviction_LeaseNeverEnds_WaiterIsRefusedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3), model("b", 4))
		cfg.MaxWait = time.Minute
		r := newRig(t, cfg)
		held := r.get("a")
		b := r.begin("b")
		time.Sleep(10 * time.Second)
		again := r.begin("a")
		b.refused(modeltier.ErrBusy, time.Minute)
		again.served(50 * time.Second).Release() // the drain has no purpose any more
		held.Release()
		r.wantMoves("load a")
	})
}

// Pain points 2 and 31: no eviction comes between getting a model and using it.
func TestEviction_ModelInUse_IsNeverTakenFromUnderALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2), model("d", 2)))
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for n := range 25 {
					l := r.get(fmt.Sprintf("%c", 'a'+(i+n*n)%4))
					for range 3 {
						if at := r.mover.At(l.Model().Name); at != tier.RAM {
							t.Errorf("%s is in %v under a lease", l.Model().Name, at)
						}
						time.Sleep(time.Duration(1+i*n%7) * 10 * time.Millisecond)
					}
					l.Release()
				}
			})
		}
		wg.Wait()
	})
}

// Pain point 4.
func TestEviction_MemoryTakenByIdleModels_TheyLeaveInsteadOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The machine has 6 GiB, a takes 4 of them: only 2 are available when b needs 3.
		r, scale := newObserverRig(t, onlyRAM(model("a", 4), model("b", 3)), false)
		r.memory(8*tier.GiB, 6*tier.GiB)
		scale.Probe = r.probe
		r.use("a")
		time.Sleep(time.Minute)
		r.wantAt("a", tier.RAM)
		r.begin("b").served(4500 * time.Millisecond).Release()
		if scale.Peak() != 4*tier.GiB {
			t.Errorf("%v were in memory at once, want 4 GiB", scale.Peak())
		}
		r.wantMoves("load a", "unload a", "load b")
		m := model("hot", 4)
		m.Home = tier.RAM
		if err := order(t)(r.HotLoad(t.Context(), m)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantAt("b", tier.Storage)
	})
}

func TestEviction_SwapIsFullOfIdleModels_LargeModelIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 3), model("b", 3), model("c", 3), model("large", 4.5)},
			Limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 6 * tier.GiB, Reserved: tier.GiB, MaxModel: tier.Unlimited},
			Mover:  &tiertest.Mover{Files: true},
			Probe:  tiertest.NewProbe(tier.Memory{Total: 6 * tier.GiB, Available: 6 * tier.GiB}),
		})
		for _, name := range []string{"a", "b", "c", "large", "a", "large"} {
			r.use(name)
		}
	})
}

// Pain point 16.
func TestEviction_ModelThatGaveWay_WakesFromSwap(t *testing.T) {
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

// Pain point 19.
func TestEviction_Pinned_IsSparedInEveryPath(t *testing.T) {
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

// Pain point 19.
func TestEviction_PlacementNamesThePinned_NothingIsTakenFromIt(t *testing.T) {
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

func TestEviction_OtherRoomComesFreeDuringADrain_ItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2.5), model("b", 2.5), model("c", 2)))
		leases := map[string]*modeltier.Lease{"a": r.get("a"), "b": r.get("b")}
		c := r.begin("c")
		time.Sleep(10 * time.Second) // one of them drains, and its lease does not end
		again := map[string]*client{"a": r.begin("a"), "b": r.begin("b")}
		drains, other := "a", "b"
		if again["b"].waits() {
			drains, other = "b", "a"
		}
		if !again[drains].waits() {
			t.Fatal("no model drains")
		}
		again[other].served(0).Release()
		time.Sleep(time.Second)
		leases[other].Release()
		c.served(11*time.Second + 3*time.Second).Release()
		again[drains].served(time.Second).Release() // its drain was called off
		leases[drains].Release()
	})
}

func TestEviction_VictimRevivedDuringDrain_ManyTimes_NoRequestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		held := r.get("a")
		b := r.begin("b")
		time.Sleep(3500 * time.Millisecond)
		var revivals []*client
		for range 20 {
			revivals = append(revivals, r.begin("a"))
			time.Sleep(100 * time.Millisecond)
		}
		for i, c := range revivals {
			if !c.waits() {
				t.Errorf("revival %d got a lease while a drains", i)
			}
		}
		held.Release()
		b.served(5500*time.Millisecond + 6*time.Second).Release()
		for i, c := range revivals {
			c.served(2*time.Second - time.Duration(i)*100*time.Millisecond + 6*time.Second + 4500*time.Millisecond).Release()
		}
		r.wantMoves("load a", "unload a", "load b", "unload b", "load a")
	})
}

func TestEviction_ScenariosOfLlamaSwap(t *testing.T) {
	scenario(t, "llama-swap/SwapStopsPrevious SwapEvictsConflicting", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		r.use("a")
		r.use("b")
		r.wantMoves("load a", "unload a", "load b")
	})
	scenario(t, "llama-swap/NonSwapGroup_NoStop CoexistInSet", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 1)))
		for range 3 {
			r.use("a")
			r.use("b")
			r.use("c")
		}
		r.wantMoves("load a", "load b", "load c")
	})
	scenario(t, "llama-swap/CoexistingSetParallel", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 1)))
		a, b, c := r.begin("a"), r.begin("b"), r.begin("c")
		a.served(3 * time.Second)
		b.served(3 * time.Second)
		c.served(1500 * time.Millisecond)
	})
	scenario(t, "llama-swap/PersistentNotEvicted", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), model("b", 3), model("c", 3)))
		for _, name := range []string{"a", "b", "c", "b"} {
			r.use(name)
		}
		r.wantMoves("load a", "load b", "unload b", "load c", "unload c", "load b")
	})
	scenario(t, "llama-swap/SameGroupSwapSerialises IncompatibleQueues", func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 3), model("b", 3), model("c", 3)))
		a, b, c := r.begin("a"), r.begin("b"), r.begin("c")
		a.served(4500 * time.Millisecond).Release()
		b.served(9 * time.Second).Release()
		c.served(13500 * time.Millisecond).Release()
		if scale.Peak() != 3*tier.GiB {
			t.Errorf("%v were in memory at once, want one model", scale.Peak())
		}
	})
	scenario(t, "llama-swap/EvictCostsPreferred the most used model stays", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("often", 2.5), model("once", 2.5), model("new", 2.5)))
		r.use("often")
		for range 60 {
			time.Sleep(10 * time.Second)
			r.use("often")
		}
		time.Sleep(10 * time.Second)
		r.use("once")
		r.use("often")
		time.Sleep(time.Second)
		r.use("new")
		r.wantAt("often", tier.RAM)
		r.wantAt("once", tier.Storage)
	})
	t.Run("llama-swap/EvictCostsPreferred tie by definition order", func(t *testing.T) {
		var first string
		for range 5 {
			synctest.Test(t, func(t *testing.T) {
				a, b := model("a", 2), model("b", 2)
				a.Home, b.Home = tier.RAM, tier.RAM
				r := newRig(t, onlyRAM(a, b, model("c", 2)))
				time.Sleep(time.Minute)
				r.use("c")
				for _, mv := range r.mover.Moves() {
					if mv.To != tier.Storage {
						continue
					}
					if first == "" {
						first = mv.Model.Name
					}
					if mv.Model.Name != first {
						t.Errorf("%s left, and before %s", mv.Model.Name, first)
					}
				}
			})
		}
		if first == "" {
			t.Error("no model left")
		}
	})
}

func TestEviction_ScenariosOfModelRunnerAndRouter(t *testing.T) {
	scenario(t, "model-runner/DefunctRunnerEvictionTriggersRetry", func(t *testing.T) {
		// The victim crashes while it is unloaded: its bytes are gone all the same.
		lost := &tier.MoveError{Model: "a", From: tier.RAM, To: tier.Storage, Lost: true, Err: errors.New("it was dead")}
		cfg := onlyRAM(model("a", 3), model("b", 4))
		cfg.Mover = &closing{closed: new(int), Mover: tier.MoverFunc(func(_ context.Context, mv tier.Move, _ func(tier.Bytes)) error {
			if mv.To == tier.Storage {
				return lost
			}
			time.Sleep(time.Second)
			return nil
		})}
		r := newRig(t, cfg)
		r.use("a")
		r.begin("b").served(time.Second).Release()
		r.wantUsed(4 * tier.GiB)
	})
	scenario(t, "model-runner/UnusedRunnerEvictionTriggersRetry", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 4)))
		r.use("a")
		r.use("b")
		r.begin("c").served(6 * time.Second).Release() // both left at once, and nothing else was waited for
	})
	scenario(t, "model-runner/two models that are kept for ever are not killed for one that does not fit", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), pinned(model("b", 2)), model("idle", 0.5), model("c", 4)))
		for _, name := range []string{"a", "b", "idle"} {
			r.use(name)
		}
		r.begin("c").refused(modeltier.ErrNoCapacity, 0)
		r.wantMoves("load a", "load b", "load idle") // and no idle model left in vain
	})
	scenario(t, "llama.cpp/models_max_evicts_lru", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		for _, name := range []string{"a", "b", "a"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		r.use("c")
		r.wantMoves("load a", "load b", "unload b", "load c")
	})
	scenario(t, "llama.cpp/queue_does_not_evict_busy_model", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		a := r.get("a")
		b := r.begin("b")
		time.Sleep(time.Minute)
		if !b.waits() || r.mover.At("a") != tier.RAM {
			t.Error("a was taken away while in use")
		}
		a.Release()
		b.served(time.Minute + 4500*time.Millisecond).Release()
	})
	scenario(t, "llama.cpp/queue_coalesces_requests_for_same_model queue_two_waiters_share_one_eviction", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		r.use("a")
		clients := []*client{r.begin("b"), r.begin("b"), r.begin("b")}
		for _, c := range clients {
			c.served(4500 * time.Millisecond).Release()
		}
		r.wantMoves("load a", "unload a", "load b")
	})
	scenario(t, "llama.cpp/queue_client_disconnect_keeps_model", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		a := r.get("a")
		b := r.begin("b")
		time.Sleep(2 * time.Second)
		b.leave()
		a.Release()
		time.Sleep(time.Minute)
		r.wantMoves("load a")
		r.begin("a").served(0).Release()
	})
	scenario(t, "llama.cpp/queue_is_fifo", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3), model("c", 3), model("d", 3)))
		a := r.get("a")
		d, b, c := r.begin("d"), r.begin("b"), r.begin("c")
		time.Sleep(time.Second)
		a.Release()
		d.served(time.Second + 4500*time.Millisecond).Release()
		b.served(time.Second + 9*time.Second).Release()
		c.served(time.Second + 13500*time.Millisecond).Release()
	})
	scenario(t, "llama.cpp/fast_path_load_not_evicted_before_proxy", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		for range 20 { // a and b at once, each time
			a, b := r.begin("a"), r.begin("b")
			for _, c := range []*client{a, b} {
				<-c.done
				if c.err != nil {
					t.Fatal(c.err)
				}
				if at := r.mover.At(c.name); at != tier.RAM {
					t.Errorf("%s was leased and is in %v", c.name, at)
				}
				c.lease.Release()
			}
		}
	})
	scenario(t, "llama.cpp/does_not_proxy_into_stopping_model", func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2)), time.Second))
		for range 20 {
			r.use("a")
			order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
			time.Sleep(500 * time.Millisecond)
			l := r.begin("a").served(500*time.Millisecond + 3*time.Second)
			if at := r.mover.At("a"); at != tier.RAM {
				t.Errorf("leased and in %v", at)
			}
			l.Release()
		}
	})
	scenario(t, "llama.cpp/no_models_autoload", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		if c, err := r.Select(modeltier.Request{Model: "a"}); err != nil || c.Model != "a" {
			t.Errorf("%+v, %v", c, err)
		}
		time.Sleep(time.Hour)
		r.wantMoves()
	})
	scenario(t, "llama.cpp/reload_models", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1)))
		r.use("a")
		held := r.get("b")
		defer held.Release()
		removed := order(t)(r.Remove(t.Context(), "a"))
		added := order(t)(r.HotLoad(t.Context(), model("c", 1)))
		for _, j := range []*modeltier.Job{removed, added} {
			if err := j.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		r.begin("a").refused(modeltier.ErrNotFound, 0)
		r.begin("b").served(0).Release()
		r.begin("c").served(1500 * time.Millisecond).Release()
		r.wantMoves("load a", "load b", "unload a", "load c")
	})
}

func TestEviction_ScenariosOfLocalAI(t *testing.T) {
	scenario(t, "LocalAI/busy until every parallel request completes", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		var leases []*modeltier.Lease
		for range 5 {
			leases = append(leases, r.get("a"))
		}
		for i, l := range leases {
			if _, err := r.MoveTier(t.Context(), "a", tier.Storage); !errors.Is(err, modeltier.ErrInUse) {
				t.Errorf("with %d leases: %v, want ErrInUse", len(leases)-i, err)
			}
			l.Release()
		}
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
	scenario(t, "LocalAI/LRU order", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1), model("d", 3), model("e", 3)))
		for _, name := range []string{"a", "b", "c", "a"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		r.use("d") // one has to leave
		r.wantMoves("load a", "load b", "load c", "unload b", "load d")
	})
	scenario(t, "LocalAI/pending loads counted", func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 3), model("b", 3)))
		a := r.begin("a")
		time.Sleep(time.Second)
		b := r.begin("b")
		time.Sleep(time.Second)
		if s := r.Status(); s.RAM.Reserved < 3*tier.GiB || s.RAM.Used > s.Limits.RAM || len(s.Moves) != 1 {
			t.Errorf("%v reserved, %v used, %d moves; want a's 3 GiB to count", s.RAM.Reserved, s.RAM.Used, len(s.Moves))
		}
		a.served(4500 * time.Millisecond).Release()
		b.served(3500*time.Millisecond + 4500*time.Millisecond).Release()
		if scale.Peak() != 3*tier.GiB {
			t.Errorf("%v were in memory at once", scale.Peak())
		}
	})
	scenario(t, "LocalAI/several evictions at once", func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 1), model("b", 1), model("c", 1), model("d", 5)), time.Second))
		for _, name := range []string{"a", "b", "c"} {
			r.use(name)
		}
		r.begin("d").served(time.Second + 7500*time.Millisecond).Release()
		if n := r.Status().Evictions; n != 3 {
			t.Errorf("%d left, want 3", n)
		}
	})
	scenario(t, "LocalAI/LRU=1 rapid switches", func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 3), model("b", 3)))
		for i := range 20 {
			r.begin([]string{"a", "b"}[i%2]).served(4500 * time.Millisecond).Release()
		}
		if scale.Peak() != 3*tier.GiB || len(r.mover.Moves()) != 39 {
			t.Errorf("%v at once, %d moves; want 3 GiB and 39", scale.Peak(), len(r.mover.Moves()))
		}
	})
	scenario(t, "LocalAI/busy skipped and next LRU taken", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		a := r.get("a") // the oldest, in use
		time.Sleep(time.Minute)
		r.use("b")
		time.Sleep(time.Minute)
		r.begin("c").served(3 * time.Second).Release()
		a.Release()
		r.wantMoves("load a", "load b", "unload b", "load c")
	})
	scenario(t, "LocalAI/NeedMore when all busy", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 2), model("c", 2)))
		a, b := r.get("a"), r.get("b")
		c := r.begin("c")
		time.Sleep(time.Minute)
		if !c.waits() {
			t.Error("c came in")
		}
		r.wantMoves("load a", "load b")
		b.Release()
		c.served(time.Minute + 3*time.Second).Release()
		a.Release()
	})
	scenario(t, "LocalAI/pinned skipped in LRU and idle", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), model("b", 2), model("c", 2)))
		r.use("a")
		time.Sleep(time.Hour)
		r.use("b")
		r.use("c")
		r.wantMoves("load a", "load b", "unload b", "load c")
	})
	scenario(t, "LocalAI/all pinned nothing evicted pinned/busy conflict", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), model("b", 2), model("c", 3)))
		r.use("a")
		b := r.get("b")
		c := r.begin("c")
		time.Sleep(time.Minute)
		r.wantMoves("load a", "load b")
		if !c.waits() {
			t.Error("c does not wait for b, which may leave")
		}
		b.Release()
		c.served(time.Minute + 4500*time.Millisecond).Release()
		r.wantAt("a", tier.RAM)
	})
	scenario(t, "LocalAI/size-aware with LRU tie-break no model leaves in vain", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("big", 3), model("small", 1), model("new", 2)))
		r.use("big")
		time.Sleep(time.Minute)
		r.use("small")
		time.Sleep(time.Minute)
		r.use("new") // small alone would make room
		if n := r.Status().Evictions; n != 1 {
			t.Errorf("%d models left, want one", n)
		}
	})
	scenario(t, "LocalAI/size record cleared on eviction", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3)))
		for range 5 {
			r.use("a")
			if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.wantUsed(0)
		}
	})
	scenario(t, "LocalAI/groups overlap evicts", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 4)))
		r.use("a")
		r.use("b")
		r.use("c") // it cannot be beside either
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.Storage)
	})
}
