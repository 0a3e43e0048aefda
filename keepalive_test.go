package modeltier_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// kept returns the model with that KeepAlive.
func kept(m tier.Model, d time.Duration) tier.Model { m.KeepAlive = d; return m }

// home returns the model with that home.
func home(m tier.Model, t tier.Tier) tier.Model { m.Home = t; return m }

// standby is a configuration with 5 GiB of ram and 10 of swap. Models are served from
// ram only: a load takes 1.5 s per GB, a promotion 0.5 s, a demotion no time.
func standby(models ...tier.Model) modeltier.Config {
	cfg := onlyRAM(models...)
	cfg.Limits.Swap = 10 * tier.GiB
	return cfg
}

// wantLeaves checks that the model leaves its tier for another after that time, to the
// millisecond.
func (r *rig) wantLeaves(name string, to tier.Tier, after time.Duration) {
	r.t.Helper()
	from := r.at(name)
	if until := r.model(name).IdleUntil; !until.Equal(time.Now().Add(after)) {
		r.t.Errorf("%s is said to leave %v at %v, want in %v", name, from, until, after)
	}
	time.Sleep(after - time.Millisecond)
	r.wantAt(name, from)
	time.Sleep(2 * time.Millisecond)
	r.wantAt(name, to)
}

// wantStays checks that the model does not leave that tier by idleness.
func (r *rig) wantStays(name string, in tier.Tier) {
	r.t.Helper()
	synctest.Wait()
	if until := r.model(name).IdleUntil; !until.IsZero() {
		r.t.Errorf("%s is said to leave %v at %v, want never", name, in, until)
	}
	time.Sleep(24 * time.Hour)
	r.wantAt(name, in)
}

// getFor acquires the model with a KeepAlive of the request's own.
func (r *rig) getFor(name string, d time.Duration) *modeltier.Lease {
	r.t.Helper()
	l, err := r.Acquire(r.t.Context(), modeltier.Request{Model: name, KeepAlive: d})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func TestKeepAlive_AtOnce_LeavesWhenTheLastOfTwoLeasesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(kept(model("a", 2), tier.AtOnce), model("b", 1)))
		first := r.get("a")
		time.Sleep(time.Minute)
		second := r.get("a")
		first.Release()
		time.Sleep(time.Hour)
		r.wantAt("a", tier.RAM)
		r.use("b")
		second.Release()
		synctest.Wait()
		r.wantAt("a", tier.Swap)
		r.wantAt("b", tier.RAM)
		r.wantMoves("load a", "load b", "demote a")
		if s := r.Status(); s.Evictions != 0 || s.RAM.Used != 1*tier.GiB || s.Swap.Used != 2*tier.GiB {
			t.Errorf("%d evictions, %v in ram, %v in swap: no model needed the room", s.Evictions, s.RAM.Used, s.Swap.Used)
		}
	})
}

func TestKeepAlive_AtOnce_BroughtForNoRequest_StaysUntilItWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(home(kept(model("a", 2), tier.AtOnce), tier.RAM), kept(model("b", 1), tier.AtOnce)))
		if err := order(t)(r.MoveTier(t.Context(), "b", tier.RAM)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := order(t)(r.HotLoad(t.Context(), home(kept(model("x", 1), tier.AtOnce), tier.RAM))).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for _, name := range []string{"a", "b", "x"} {
			r.wantAt(name, tier.RAM)
			r.use(name)
			synctest.Wait()
			r.wantAt(name, tier.Swap)
		}
	})
}

// A client that leaves during the load leaves no model behind that no lease will send
// away.
func TestKeepAlive_AtOnce_RequestLeftDuringTheLoad_LeavesOnArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(kept(model("a", 2), tier.AtOnce)))
		r.begin("a").leave()
		time.Sleep(time.Minute)
		r.wantAt("a", tier.Swap)
	})
}

func TestKeepAlive_LeaseLastsLonger_CountsFromItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []time.Duration{300 * time.Millisecond, 10 * time.Second, time.Hour} {
			r := newRig(t, standby(kept(model("a", 2), d)))
			l := r.get("a")
			if until := r.model("a").IdleUntil; !until.IsZero() {
				t.Errorf("in use, it is said to leave at %v", until)
			}
			time.Sleep(5*d/2 + 1500*time.Millisecond)
			r.wantAt("a", tier.RAM)
			l.Release()
			if d > time.Second {
				time.Sleep(d / 2)
				r.use("a")
			}
			r.wantLeaves("a", tier.Swap, d)
			r.Close()
		}
	})
}

func TestKeepAlive_LongLease_TheLoopRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(kept(model("a", 2), tier.AtOnce), kept(model("b", 2), 10*time.Millisecond), kept(model("c", 1), time.Minute)))
		for _, name := range []string{"a", "b", "c"} {
			defer r.get(name).Release()
		}
		var wakes atomic.Int32
		r.OnWake(func() { wakes.Add(1) })
		time.Sleep(10 * time.Minute)
		if n := wakes.Load(); n > 1300 { // 600 of them are readings of memory
			t.Errorf("the loop woke %d times in ten minutes", n)
		}
	})
}

func TestKeepAlive_OfTheRequest_HoldsUntilTheNextSaysOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 2), time.Minute), model("b", 1))
		cfg.KeepAlive = time.Hour
		r := newRig(t, cfg)
		r.getFor("a", 10*time.Minute).Release()
		r.wantLeaves("a", tier.Swap, 10*time.Minute)
		r.getFor("a", 10*time.Second).Release() // it waits for the promotion
		r.getFor("a", 10*time.Second).Release()
		r.wantLeaves("a", tier.Swap, 10*time.Second)
		l := r.getFor("a", 0)
		r.getFor("a", -1).Release()
		l.Release()
		r.wantStays("a", tier.RAM)
		r.use("a")
		r.wantLeaves("a", tier.Swap, time.Minute)
		l = r.getFor("a", time.Minute)
		r.getFor("a", tier.AtOnce).Release() // the other lease is held
		synctest.Wait()
		r.wantAt("a", tier.RAM)
		l.Release()
		synctest.Wait()
		r.wantAt("a", tier.Swap)
		r.use("b") // it has no KeepAlive of its own
		r.wantLeaves("b", tier.Swap, time.Hour)
	})
}

// Where no model has a KeepAlive, the first that a request brings counts, too.
func TestKeepAlive_OfTheRequestAlone_Counts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(model("a", 2), model("b", 1)))
		r.use("b")
		r.use("a")
		time.Sleep(time.Hour)
		r.getFor("a", tier.AtOnce).Release()
		synctest.Wait()
		r.wantAt("a", tier.Swap)
		r.getFor("a", time.Minute).Release()
		r.wantLeaves("a", tier.Swap, time.Minute)
		r.use("a") // its own again: none
		r.wantStays("a", tier.RAM)
		r.wantStays("b", tier.RAM)
	})
}

func TestKeepAlive_Negative_StaysButGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 3), -1), model("b", 3))
		cfg.KeepAlive, cfg.StandbyFor = time.Minute, time.Minute
		r := newRig(t, cfg)
		r.use("a")
		r.wantStays("a", tier.RAM)
		r.begin("b").served(4500 * time.Millisecond).Release()
		r.wantStays("a", tier.Swap)
		r.wantAt("b", tier.Storage)
	})
}

func TestKeepAlive_Pinned_Stays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(pinned(kept(model("a", 1), tier.AtOnce)), pinned(kept(model("b", 1), time.Minute))))
		r.use("a")
		r.use("b")
		r.wantStays("a", tier.RAM)
		r.wantStays("b", tier.RAM)
	})
}

func TestStandbyFor_IdleInSwap_GoesToStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 2), time.Minute), home(model("b", 1), tier.Swap))
		cfg.StandbyFor = time.Hour
		r := newRig(t, cfg)
		synctest.Wait() // b is on its way home
		r.use("a")
		r.wantLeaves("a", tier.Swap, time.Minute)
		r.wantLeaves("a", tier.Storage, time.Hour-time.Millisecond)
		r.begin("a").served(3 * time.Second).Release() // it is counted as new
		r.wantLeaves("a", tier.Swap, time.Minute)
		r.wantLeaves("a", tier.Storage, time.Hour-time.Millisecond)
		r.wantAt("b", tier.Storage)
		r.wantMoves("load b", "load a", "demote a", "unload b", "unload a", "load a", "demote a", "unload a")
	})
}

func TestStandbyFor_ServedFromSwap_CountsFromTheLastLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 7)}, StandbyFor: time.Minute, OptimizeEvery: -1})
		l := r.get("a")
		if l.Tier() != tier.Swap {
			t.Fatalf("it is served from %v", l.Tier())
		}
		time.Sleep(time.Hour)
		l.Release()
		r.wantLeaves("a", tier.Storage, time.Minute)
	})
}

func TestKeepAlive_RequestDuringTheDemotion_IsServedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 2), time.Minute))
		cfg.Mover.(*tiertest.Mover).Time = func(mv tier.Move) time.Duration { return 4 * time.Second }
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Minute + time.Second)
		if s := r.model("a"); !s.Moving || !s.IdleUntil.IsZero() {
			t.Fatalf("it does not leave: %+v", s)
		}
		r.begin("a").served(3*time.Second + 4*time.Second).Release()
		r.wantLeaves("a", tier.RAM, time.Minute) // the demotion takes 4 s
		r.wantMoves("load a", "demote a", "promote a", "demote a")
	})
}

func TestKeepAlive_RequestsWithoutPause_Stays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(kept(model("a", 2), 3*time.Second)))
		for range 100 {
			r.use("a")
			time.Sleep(2 * time.Second)
		}
		r.wantMoves("load a")
		r.wantLeaves("a", tier.Swap, time.Second)
	})
}

func TestKeepAlive_SwapHasNoRoom_GoesToStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, cfg := range map[string]modeltier.Config{
			"no swap": onlyRAM(kept(model("a", 2), tier.AtOnce)),
			"full":    standby(kept(model("a", 2), tier.AtOnce), home(model("b", 9), tier.Swap)),
		} {
			r := newRig(t, cfg)
			time.Sleep(time.Minute)
			r.use("a")
			synctest.Wait()
			if got := r.at("a"); got != tier.Storage {
				t.Errorf("%s: it is in %v", name, got)
			}
			r.Close()
		}
	})
}

func TestKeepAlive_DemotionFails_IsTriedAgainEverLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 2), time.Minute))
		var fails atomic.Bool
		fails.Store(true)
		cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
			if mv.To < mv.From && fails.Load() {
				return errors.New("it would not")
			}
			return nil
		}
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Minute + time.Second/2)
		r.wantMoves("load a", "demote a")
		r.wantAt("a", tier.RAM)
		r.wantUsed(2 * tier.GiB)
		r.wantLeaves("a", tier.RAM, time.Second/2)
		r.wantMoves("load a", "demote a", "demote a")
		time.Sleep(time.Hour)
		if n := len(r.mover.Moves()); n < 60 || n > 70 {
			t.Errorf("%d moves in an hour, want one a minute in the end", n)
		}
		fails.Store(false)
		time.Sleep(time.Minute)
		r.wantAt("a", tier.Swap)
	})
}

// A mover that finds no room in swap after all has the model go to storage.
func TestKeepAlive_MoverFindsNoSwap_GoesToStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 2), time.Minute))
		cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
			if mv.To == tier.Swap {
				return &tier.CapacityError{Model: mv.Model.Name, Tier: tier.Swap, Reason: "no swap"}
			}
			return nil
		}
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Minute + 2*time.Second)
		r.wantAt("a", tier.Storage)
		r.wantMoves("load a", "demote a", "unload a")
	})
}

func TestKeepAlive_HomeInRAM_IsNotBroughtBackByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(home(kept(model("a", 1), 25*time.Second), tier.RAM), model("b", 1), home(model("c", 4.5), tier.RAM))
		cfg.OptimizeEvery = 0 // the default
		cfg.StandbyFor = time.Hour
		r := newRig(t, cfg)
		for range 30 {
			r.use("a")
			time.Sleep(10 * time.Second)
		}
		time.Sleep(15*time.Second + time.Millisecond)
		r.wantAt("a", tier.Swap)
		for range 100 {
			r.use("b") // so that idle plans are made
			time.Sleep(time.Minute)
		}
		r.wantAt("a", tier.Storage)
		if s := r.model("a"); s.Home != tier.RAM {
			t.Errorf("its home is %v", s.Home)
		}
		if _, err := r.Optimize(t.Context()); err != nil { // an ordered plan may
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		r.wantAt("a", tier.RAM)
	})
}

func TestKeepAlive_Restart_HomeAndKeepAliveAreTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(home(kept(model("a", 1), time.Minute), tier.RAM))
		cfg.StateDir, cfg.StandbyFor = t.TempDir(), time.Minute
		r := newRig(t, cfg)
		hot := home(kept(model("x", 1), 2*time.Minute), tier.RAM)
		if err := order(t)(r.HotLoad(t.Context(), hot)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		r.wantAt("a", tier.Storage)
		r.wantAt("x", tier.Storage)
		r.Close()
		cfg.Mover = &tiertest.Mover{OnlyRAM: true}
		r = newRig(t, cfg)
		time.Sleep(4 * time.Second)
		now := time.Now()
		for name, d := range map[string]time.Duration{"a": time.Minute, "x": 2 * time.Minute} {
			s := r.model(name)
			if s.Home != tier.RAM || s.Tier != tier.RAM || !s.IdleUntil.Equal(s.Since.Add(d)) {
				t.Errorf("%v after the restart: %+v", now, s)
			}
		}
		time.Sleep(time.Hour)
		r.wantAt("a", tier.Storage)
		r.wantAt("x", tier.Storage)
	})
}

func TestKeepAlive_Reconfigured_TakesEffectWithoutAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(model("a", 1), kept(model("b", 1), time.Minute), kept(model("c", 1), time.Hour))
		r := newRig(t, cfg)
		for _, name := range []string{"a", "b", "c"} {
			r.use(name)
		}
		l := r.get("a")
		time.Sleep(30 * time.Second)
		got := r.reconfigured(cfg.Limits, kept(model("a", 1), tier.AtOnce), kept(model("b", 1), time.Hour), kept(model("c", 1), time.Hour))
		wantReconfiguration(t, got, modeltier.Reconfiguration{Changed: []string{"a", "b"}})
		time.Sleep(31 * time.Second)
		r.wantMoves("load a", "load b", "load c")
		if m := r.get("b").Model(); m.KeepAlive != time.Hour {
			t.Errorf("b's KeepAlive is %v", m.KeepAlive)
		}
		l.Release()
		synctest.Wait()
		r.wantAt("a", tier.Swap)
		r.wantLeaves("c", tier.Swap, time.Hour-61*time.Second)
	})
}

// What was learned of the model while it had no KeepAlive does not count as idleness.
func TestKeepAlive_ReconfiguredFromNone_CountsFromThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(model("a", 1))
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Hour)
		r.reconfigured(cfg.Limits, kept(model("a", 1), time.Minute))
		r.wantLeaves("a", tier.Swap, time.Minute)
	})
}

func TestKeepAlive_UnderPressure_LeavesAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, standby(kept(model("a", 1), time.Minute)))
		r.use("a")
		m := plenty
		m.Pressure.Level = tier.PressureMedium
		r.probe.Set(m, nil)
		r.wantLeaves("a", tier.Swap, time.Minute)
	})
}

func TestNew_StandbyForIsNegative_IsRefused(t *testing.T) {
	_, err := modeltier.New(modeltier.Config{StandbyFor: -time.Second})
	var invalid *tier.InvalidError
	if !errors.As(err, &invalid) || invalid.Field != "StandbyFor" || invalid.Value != "-1s" || invalid.Rule == "" {
		t.Errorf("err = %v", err)
	}
}

func TestKeepAlive_MoveOfIdleness_SaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 1), tier.AtOnce), kept(model("b", 1), time.Minute))
		got := make(map[string]string)
		cfg.Events.MoveEnded = func(ev modeltier.MoveEvent) {
			if ev.To == tier.Swap {
				got[ev.Model] = string(ev.Reason) + ": " + ev.Why
			}
		}
		r := newRig(t, cfg)
		r.use("a")
		r.use("b")
		time.Sleep(time.Hour)
		if err := r.Shutdown(context.Background()); err != nil { // the events are told by then
			t.Fatal(err)
		}
		if got["a"] != "idle: its last lease ended" || got["b"] != "idle: not used for 1m0s in ram" {
			t.Errorf("reasons %q", got)
		}
	})
}

// The placement would bring it back by what it has learned: it stays away, and no
// other makes room for it in vain.
func TestKeepAlive_PlacementWantsItBack_NoOtherLeavesForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := standby(kept(model("a", 3), time.Minute), model("b", 3))
		cfg.OptimizeEvery = 0
		r := newRig(t, cfg)
		for range 100 { // it is worth far more than b
			r.use("a")
			time.Sleep(30 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		r.wantAt("a", tier.Swap)
		r.use("b")
		time.Sleep(time.Hour)
		r.wantAt("b", tier.RAM)
		r.wantMoves("load a", "demote a", "load b")
	})
}
