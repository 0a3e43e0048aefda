package modeltier_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestPain01_VictimRevivedWhileDraining_BothAreServed(t *testing.T) {
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

func TestPain01_WaiterOfADrainLeaves_DrainIsCalledOff(t *testing.T) {
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

func TestPain01_LeaseNeverEnds_WaiterIsRefusedInTime(t *testing.T) {
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

func TestPain02_ModelInUse_IsNeverTakenFromUnderALease(t *testing.T) {
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

func TestPain03_TwoModelsOneSlot_EachServesAllItsWaitersBeforeItLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		as := []*client{r.begin("a"), r.begin("a"), r.begin("a")}
		time.Sleep(time.Second) // a is loading
		bs := []*client{r.begin("b"), r.begin("b"), r.begin("b")}
		for _, a := range as {
			a.served(4500 * time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond) // b may drain a by now: it came 4 s ago
		r.wantAt("a", tier.RAM)
		for _, a := range as {
			a.lease.Release()
		}
		for _, b := range bs {
			b.served(4*time.Second + 6*time.Second).Release()
		}
		r.wantMoves("load a", "unload a", "load b")
	})
}

func TestPain04_LoadsAtOnce_NeverMoreInMemoryThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2), model("d", 2)))
		clients := []*client{r.begin("a"), r.begin("b"), r.begin("c"), r.begin("d")}
		for _, c := range clients[:2] {
			c.served(3 * time.Second).Release()
		}
		for _, c := range clients[2:] {
			c.served(6 * time.Second).Release()
		}
		if scale.most() != 4*tier.GiB {
			t.Errorf("%v were in memory at once, want 4 GiB of 5", scale.most())
		}
		if s := r.Status(); s.RAM.Peak > s.Limits.RAM || s.Evictions != 2 {
			t.Errorf("the account's peak is %v after %d evictions, want 5 GiB at most and 2", s.RAM.Peak, s.Evictions)
		}
	})
}

func TestPain04_MemoryTakenByIdleModels_TheyLeaveInsteadOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Of 6 GiB that a machine has to give, a takes 4; there is no more than 2 to be
		// seen when b wants 3.
		r, scale := newObserverRig(t, onlyRAM(model("a", 4), model("b", 3)), false)
		r.memory(8*tier.GiB, 6*tier.GiB)
		scale.machine = r.probe
		r.use("a")
		time.Sleep(time.Minute)
		r.wantAt("a", tier.RAM)
		r.begin("b").served(4500 * time.Millisecond).Release()
		if scale.most() != 4*tier.GiB {
			t.Errorf("%v were in memory at once, want 4 GiB", scale.most())
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

func TestPain05_FreeMemoryLagsBehindALoad_TheLedgerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 3.5 GiB are available, 1 of them is reserved: one model fits, and the probe
		// does not show its bytes before the load has ended.
		r, scale := newScaleRig(t, onlyRAM(model("a", 2), model("b", 2)))
		r.memory(8*tier.GiB, 3584*tier.MiB)
		a := r.begin("a")
		b := r.begin("b")
		time.Sleep(2 * time.Second)
		if s := r.Status(); s.RAM.Used != 2*tier.GiB || s.RAM.Room != tier.GiB/2 {
			t.Errorf("%v used, room for %v; want 2 GiB and what they leave of the 2.5", s.RAM.Used, s.RAM.Room)
		}
		r.probe.Set(tier.Memory{Total: 8 * tier.GiB, Available: 1536 * tier.MiB}, nil)
		a.served(3 * time.Second)
		time.Sleep(time.Second)
		if !b.waits() || scale.most() != 2*tier.GiB {
			t.Errorf("%v are in memory", scale.most())
		}
		r.probe.Set(tier.Memory{Total: 8 * tier.GiB, Available: 3584 * tier.MiB}, nil) // when a has gone
		a.lease.Release()
		b.served(4*time.Second + 3*time.Second).Release()
		if scale.most() != 2*tier.GiB {
			t.Errorf("%v were in memory at once, want 2 GiB", scale.most())
		}
	})
}

func TestPain06_LoaderTakesTwiceItsModel_OthersGiveWayBeforeTheMachineHasNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := model("b", 2)
		b.Runtime = tier.GiB / 2
		cfg := onlyRAM(model("a", 2), b)
		cfg.Limits.RAM = 6 * tier.GiB
		r, scale := newScaleRig(t, cfg)
		r.memory(8*tier.GiB, 6*tier.GiB)
		scale.machine = r.probe
		r.use("a")
		time.Sleep(time.Minute)
		scale.weigh = func(m tier.Model) tier.Bytes { return 2 * m.Size }
		l := r.begin("b").served(3 * time.Second)
		r.wantUsed(2*tier.GiB + tier.GiB/2) // the runtime bytes are of the same memory
		r.wantMoves("load a", "load b", "unload a")
		if mem, _ := r.probe.Memory(t.Context()); mem.Available != 2*tier.GiB {
			t.Errorf("%v are available, want 2 GiB", mem.Available)
		}
		r.begin("a").refused(modeltier.ErrNoCapacity, 0) // by what was measured
		l.Release()
	})
}

func TestPain07_SameBytesCountedOnce_WhetherMappedOrNot(t *testing.T) {
	for _, x := range []struct {
		name      string
		mapped    bool
		available tier.Bytes // with the 2 GiB of a in memory
	}{
		{"clean file pages are still available", true, 4 * tier.GiB},
		{"memory of a process is not", false, 2 * tier.GiB},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := newObserverRig(t, onlyRAM(model("a", 2), model("b", 1), model("c", 1.25)), x.mapped)
				r.memory(8*tier.GiB, 4*tier.GiB)
				l := r.get("a")
				defer l.Release()
				r.memory(8*tier.GiB, x.available)
				s := r.Status()
				if s.RAM.Room != tier.GiB {
					t.Errorf("room for %v, want 1 GiB: 4 less a's 2 and the reserved 1", s.RAM.Room)
				}
				if m := r.model("a"); m.ChargedRAM != 2*tier.GiB || m.Present != 2*tier.GiB || m.ChargedSwap != 0 {
					t.Errorf("a is charged %v and %v, %v are present; want 2 GiB, 0 and 2 GiB", m.ChargedRAM, m.ChargedSwap, m.Present)
				}
				c := r.begin("c")
				r.begin("b").served(1500 * time.Millisecond)
				if !c.waits() {
					t.Error("c came in beside a: there is room for 1 GiB and it takes 1.25")
				}
			})
		})
	}
}

func TestPain08_SwapIsNoRoom_AndALoadThatThrashesIsCalledOff(t *testing.T) {
	for name, swap := range map[string]tier.Memory{
		"swap on disk":    {SwapTotal: 32 * tier.GiB, SwapFree: 32 * tier.GiB},
		"compressed swap": {CompressedSwapTotal: 32 * tier.GiB, CompressedSwapFree: 32 * tier.GiB},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onlyRAM(model("a", 3)))
				swap.Total, swap.Available = 8*tier.GiB, 3584*tier.MiB
				r.probe.Set(swap, nil)
				time.Sleep(time.Second)
				r.begin("a").refused(modeltier.ErrNoCapacity, 0)
				r.wantMoves()
			})
		})
	}
	t.Run("the machine begins to swap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, onlyRAM(model("a", 3)))
			time.Sleep(500 * time.Millisecond) // between two looks at the memory
			a := r.begin("a")
			time.Sleep(2 * time.Second)
			high := plenty
			high.Pressure = tier.Pressure{SwapOut: 64 * tier.MiB, Stalls: 100, Level: tier.PressureHigh}
			r.probe.Set(high, nil)
			a.refused(modeltier.ErrNoCapacity, 2500*time.Millisecond)
			r.wantUsed(0)
			if at := r.mover.At("a"); at != tier.Storage {
				t.Errorf("a is in %v", at)
			}
		})
	})
}
