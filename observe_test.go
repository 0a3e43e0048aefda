package modeltier_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// appetite is what models are seen to take in ram.
type appetite struct {
	mu    sync.Mutex
	takes map[string]tier.Bytes
}

func (a *appetite) set(model string, gb float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.takes[model] = tier.Bytes(gb * float64(tier.GiB))
}

// newHungryRig is a rig whose models are whole, served from ram alone, and take
// what they are told to.
func newHungryRig(t *testing.T, models ...tier.Model) (*rig, *appetite) {
	fake, eats := &tiertest.Mover{OnlyRAM: true}, &appetite{takes: make(map[string]tier.Bytes)}
	most := make(map[string]tier.Bytes)
	r := newRig(t, modeltier.Config{Models: models, Mover: hungryMover{fake, func(model string) (now, peak tier.Bytes, ok bool) {
		eats.mu.Lock()
		defer eats.mu.Unlock()
		if fake.At(model) == tier.RAM {
			now = eats.takes[model]
		}
		most[model] = max(most[model], now)
		return now, most[model], true
	}}})
	r.mover = fake
	return r, eats
}

func TestFootprint_ModelTakesDouble_IsChargedAndTheNextLoadReservesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, eats := newHungryRig(t, model("a", 1), model("b", 3.5))
		eats.set("a", 2)
		eats.set("b", 3.5)
		r.use("b")
		r.use("a") // 1 GiB is declared and fits beside b; 2 do not
		s := r.Status()
		if a := s.Models[0]; a.ChargedRAM != 3*tier.GiB/2 || a.Overdraft != tier.GiB/2 || a.Taken != 2*tier.GiB || a.Runtime != tier.GiB || a.Declared != 0 {
			t.Errorf("%+v", a)
		}
		if s.RAM.Charged != 5*tier.GiB || s.RAM.Overdraft != tier.GiB/2 || s.RAM.Room != 0 {
			t.Errorf("%+v", s.RAM)
		}
		time.Sleep(20 * time.Second) // b is idle: it leaves for what a takes
		s = r.Status()
		if s.RAM.Overdraft != 0 || s.RAM.Charged != 2*tier.GiB || s.Models[1].Tier == tier.RAM {
			t.Errorf("%+v, b in %v", s.RAM, s.Models[1].Tier)
		}
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		a := r.begin("a")
		time.Sleep(time.Second)
		if s := r.Status(); s.RAM.Reserved != 2*tier.GiB {
			t.Errorf("%v are set aside for a load that takes 2 GiB", s.RAM.Reserved)
		}
		a.served(1500 * time.Millisecond).Release()
		for _, mv := range r.mover.Moves() {
			if mv.Model.Runtime != 0 {
				t.Errorf("the mover is told of a runtime of %v, none is declared", mv.Model.Runtime)
			}
		}
	})
}

func TestFootprint_ModelGrowsUnderALease_NothingMoreIsAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, eats := newHungryRig(t, model("a", 2), model("b", 2))
		eats.set("a", 2)
		eats.set("b", 2)
		held := r.get("a")
		eats.set("a", 4)
		time.Sleep(5 * time.Second)
		if s := r.Status(); s.RAM.Charged != 4*tier.GiB || s.Models[0].Peak != 4*tier.GiB {
			t.Errorf("%+v %+v", s.RAM, s.Models[0])
		}
		b := r.begin("b")
		time.Sleep(10 * time.Second)
		if !b.waits() {
			t.Error("b was loaded into memory that a has taken")
		}
		held.Release()
		b.served(13 * time.Second).Release()
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	})
}

func TestFootprint_HotLoadedModelTakesMore_WhatWasDeclaredIsKept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake := &tiertest.Mover{OnlyRAM: true}
		start := func() *modeltier.Manager {
			m, err := modeltier.New(modeltier.Config{StateDir: dir, Probe: tiertest.NewProbe(plenty), Mover: hungryMover{fake, func(string) (now, peak tier.Bytes, ok bool) {
				return 3 * tier.GiB, 3 * tier.GiB, true
			}}})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := start()
		hot := model("hot", 1)
		hot.Runtime, hot.Home = tier.GiB/2, tier.RAM
		if err := order(t)(m.HotLoad(t.Context(), hot)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := m.Status().Models[0]; s.ChargedRAM != 3*tier.GiB || s.Declared != tier.GiB/2 {
			t.Errorf("%+v", s)
		}
		m.Close()
		fake = &tiertest.Mover{OnlyRAM: true}
		m = start()
		defer m.Close()
		if s := m.Status().Models[0]; s.Declared != tier.GiB/2 {
			t.Errorf("after a restart %v are declared", s.Declared)
		}
	})
}

// A crash is told when the mover has returned, and the loop does not know that yet.
func TestLost_BetweenTheMoversReturnAndTheMovesEnd_IsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &tiertest.Mover{OnlyRAM: true}
		var r *rig
		var crashed atomic.Bool
		r = newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Mover: hungryMover{fake, func(name string) (now, peak tier.Bytes, ok bool) {
			if fake.At(name) == tier.RAM && !crashed.Swap(true) {
				r.ReportCrash("a", errors.New("OOM kill"))
			}
			return 0, 0, false
		}}})
		r.mover = fake
		l := r.get("a")
		defer l.Release()
		r.wantMoves("load a", "unload a", "load a")
		select {
		case <-l.Done():
			t.Error("the lease is on the engine that was started anew, and is told that it is lost")
		default:
		}
	})
}

// speechless is a mover that does not tell what is resident, whatever its context
// says, until it is let.
type speechless struct {
	*tiertest.Mover
	let chan struct{}
}

func (s speechless) Resident(context.Context, string) (present, reclaimable tier.Bytes, err error) {
	<-s.let
	return 0, 0, nil
}

func TestResident_DoesNotReturn_HoldsUpNeitherMovesNorStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := speechless{&tiertest.Mover{}, make(chan struct{})}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1), model("b", 1)}, Mover: mover})
		r.mover = mover.Mover
		defer close(mover.let)
		r.begin("a").served(1500*time.Millisecond + 10*time.Second).Release()
		r.use("b")
		for range 50 {
			began := time.Now()
			if s := r.Status(); s.Stale || s.Models[0].Present != -1 || s.Models[1].Present != -1 {
				t.Errorf("%+v", s.Models)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Fatalf("Status took %v", took)
			}
		}
		// It is not asked without end.
		began := time.Now()
		if r.Status(); time.Since(began) > 0 {
			t.Errorf("it is still asked, for %v", time.Since(began))
		}
	})
}

func TestResident_ReturnsAfterAll_IsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := speechless{&tiertest.Mover{}, make(chan struct{})}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Mover: mover})
		r.mover = mover.Mover
		r.use("a")
		for range 50 {
			r.Status()
		}
		close(mover.let)
		synctest.Wait()
		if a := r.Status().Models[0]; a.Present != 0 {
			t.Errorf("%v are present, the mover says 0", a.Present)
		}
	})
}
