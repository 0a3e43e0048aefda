package modeltier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// deviceRig is a Manager with a third account: a device of 4 GiB, on which a model in
// ram takes its size, unless it is the host's.
func deviceRig(t *testing.T, available *atomic.Int64) *rig {
	t.Helper()
	available.Store(int64(4 * tier.GiB))
	cfg := modeltier.Config{
		Models: []tier.Model{model("a", 3), model("b", 3), model("c", 1), model("huge", 6), model("host", 4)}, Mover: &tiertest.Mover{OnlyRAM: true},
		Limits: tier.Limits{RAM: 20 * tier.GiB, Swap: tier.None}, OptimizeEvery: -1, MaxWait: time.Minute,
	}
	cfg.AddAccount("device", 4*tier.GiB, func(m *tier.Model, at tier.Tier) tier.Bytes {
		if at == tier.RAM && m.Name != "host" {
			return m.Size
		}
		return 0
	}, func(context.Context) (tier.Bytes, error) { return tier.Bytes(available.Load()), nil })
	return newRig(t, cfg)
}

func TestAccounts_ThirdOneFull_IdleModelsLeaveForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		r.use("c")
		time.Sleep(time.Second)
		r.use("a")
		time.Sleep(time.Second)
		if s := r.Status().Accounts["device"]; s.Used != 4*tier.GiB || s.Limit != 4*tier.GiB || s.Models != 2 || s.Percent != 100 {
			t.Errorf("device: %+v, want 4 GiB of 4 used by 2 models", s)
		}
		r.use("b") // c, used longest ago, is not enough
		time.Sleep(time.Second)
		if s := r.Status(); s.Accounts["device"].Used != 3*tier.GiB || s.RAM.Used != 3*tier.GiB || s.Accounts["device"].Peak > 4*tier.GiB {
			t.Errorf("device: %+v, ram: %v, want 3 GiB in both", s.Accounts["device"], s.RAM.Used)
		}
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.RAM)
	})
}

// Pain point 31: who gives way holds what is missing, in that account.
func TestAccounts_ThirdOneFull_ModelThatHoldsNoneOfItStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		r.use("host") // larger than what is missing, and used longest ago
		time.Sleep(time.Second)
		r.use("a")
		r.use("b")
		r.wantAt("a", tier.Storage)
		r.wantAt("host", tier.RAM)
	})
}

func TestAccounts_ThirdOneLeased_RequestWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		waits := r.begin("b")
		time.Sleep(2 * time.Second)
		if !waits.waits() {
			t.Fatal("b does not wait for a's lease")
		}
		l.Release()
		waits.served(6500 * time.Millisecond).Release() // two of them behind the lease
	})
}

func TestAccounts_ThirdOneTooSmall_RefusedForGoodByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "huge"})
		if !errors.Is(err, modeltier.ErrTooLarge) || !strings.Contains(err.Error(), "device") {
			t.Errorf("err = %v, want ErrTooLarge that names the device", err)
		}
	})
}

// Only a reading shows what other processes have taken of the device.
func TestAccounts_ThirdOneTakenByOthers_NothingIsPromisedOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		available := new(atomic.Int64)
		r := deviceRig(t, available)
		available.Store(int64(2 * tier.GiB))
		time.Sleep(2 * time.Second)
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("err = %v, want ErrNoCapacity", err)
		}
		r.use("c")
	})
}

// Pain point 5.
func TestAccounts_FreeMemoryLagsBehindALoad_TheLedgerCounts(t *testing.T) {
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
		if !b.waits() || scale.Peak() != 2*tier.GiB {
			t.Errorf("%v are in memory", scale.Peak())
		}
		r.probe.Set(tier.Memory{Total: 8 * tier.GiB, Available: 3584 * tier.MiB}, nil) // when a has gone
		a.lease.Release()
		b.served(4*time.Second + 3*time.Second).Release()
		if scale.Peak() != 2*tier.GiB {
			t.Errorf("%v were in memory at once, want 2 GiB", scale.Peak())
		}
	})
}

// Pain points 7 and 31: the memory of processor and device, where it is one, is one.
func TestAccounts_SameBytesCountedOnce_WhetherMappedOrNot(t *testing.T) {
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

// Pain point 6.
func TestFootprint_LoaderTakesTwiceItsModel_OthersGiveWayBeforeTheMachineHasNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := model("b", 2)
		b.Runtime = tier.GiB / 2
		cfg := onlyRAM(model("a", 2), b)
		cfg.Limits.RAM = 6 * tier.GiB
		r, scale := newScaleRig(t, cfg)
		r.memory(8*tier.GiB, 6*tier.GiB)
		scale.Probe = r.probe
		r.use("a")
		time.Sleep(time.Minute)
		scale.Weigh = func(m tier.Model) tier.Bytes { return 2 * m.Size }
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

func TestFootprint_ModelsTakeTwiceWhatTheySay_TheMachineDoesNotRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1), model("d", 1), model("e", 1)))
		scale.Weigh = func(m tier.Model) tier.Bytes { return 2 * m.Size }
		const has = 6 * tier.GiB
		r.memory(8*tier.GiB, has)
		scale.Probe = r.probe
		for i := range 40 {
			r.use(fmt.Sprintf("%c", 'a'+(i*3)%5))
			time.Sleep(5 * time.Second)
			mem, _ := r.probe.Memory(t.Context())
			if mem.Available < tier.GiB {
				t.Errorf("request %d: %v are left, want the reserved GiB", i, mem.Available)
			}
		}
		if scale.Peak() > has {
			t.Errorf("models took %v of %v", scale.Peak(), has)
		}
		if s := r.Status(); s.Refusals["no_capacity"] != 0 {
			t.Errorf("%d refusals", s.Refusals["no_capacity"])
		}
	})
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

// frozenMover has models that keep memory of their own while in swap, as frozen
// engines do.
type frozenMover struct {
	*tiertest.Mover
	own tier.Bytes
}

func (f frozenMover) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	switch f.At(model) {
	case tier.RAM:
		return 300 * tier.MiB, 0, nil
	case tier.Swap:
		return f.own, 0, nil
	}
	return 0, 0, nil
}

func TestFootprint_FrozenEnginesKeepMemory_RoomIsMadeAllTheSame(t *testing.T) {
	for _, own := range []tier.Bytes{14 * tier.MiB, 57 * tier.MiB, 150 * tier.MiB} { // with the last value not all fit at once
		synctest.Test(t, func(t *testing.T) {
			fake := &tiertest.Mover{OnlyRAM: true}
			var models []tier.Model
			for i := range 20 {
				models = append(models, tier.Model{Name: fmt.Sprint("m", i), Size: 300 * tier.MiB, Runtime: 64 * tier.MiB})
			}
			r := newRig(t, modeltier.Config{
				Models: models, Mover: frozenMover{fake, own},
				Limits: tier.Limits{RAM: 2_000_000_000, Swap: 32 * tier.GiB, Reserved: tier.MiB},
			})
			r.mover = fake
			dice := rand.New(rand.NewPCG(1, 2))
			zipf := rand.NewZipf(dice, 1.1, 1, 19)
			for range 300 {
				r.use(fmt.Sprint("m", zipf.Uint64()))
				time.Sleep(time.Duration(dice.IntN(3000)) * time.Millisecond)
			}
			for _, mv := range fake.Moves() {
				if mv.From == tier.Swap && mv.To == tier.Swap {
					t.Fatalf("%s moves within swap, which gives nothing back", mv.Model.Name)
				}
			}
		})
	}
}

// Pain point 17.
func TestResidue_PagesThatStay_AreTrackedAndNotReadAgain(t *testing.T) {
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

// Pain point 20.
func TestResidue_ModelThatLeftIsStillThere_ItsBytesAreHeldBackUntilSeenToBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 2), model("b", 4)), false)
		scale.Lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		r.use("a")
		b := r.begin("b")
		time.Sleep(5500 * time.Millisecond)
		if m := r.model("a"); m.Tier != tier.Storage || m.Leftover != 2*tier.GiB || m.ChargedRAM != 2*tier.GiB || m.Present != 2*tier.GiB {
			t.Errorf("%+v, want a in storage with 2 GiB still charged", m)
		}
		r.wantMoves("load a", "unload a")
		scale.Put("a", 0)
		b.served(6*time.Second + 6*time.Second).Release() // seen at the next look, then loaded
		r.wantUsed(4 * tier.GiB)
	})
}

// Pain point 20.
func TestResidue_BytesNeverComeBack_AreToldAndTheWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 2), model("b", 4), model("c", 3)), false)
		scale.Lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		r.use("a")
		err := r.begin("b").refused(modeltier.ErrNoCapacity, 10*time.Second)
		if ce, ok := errors.AsType[*tier.CapacityError](err); !ok || len(ce.Holders) != 1 || ce.Holders[0].Model != "a" {
			t.Errorf("%#v, want an error that says that a holds the room", err)
		}
		r.use("c") // what is left can be used
		r.wantUsed(5 * tier.GiB)
	})
}

// Pain point 20.
func TestResidue_RemovedModelStillThere_ItsBytesAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 2), model("b", 1)), false)
		scale.Lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		for _, name := range []string{"a", "b"} {
			r.use(name)
			if err := order(t)(r.Remove(t.Context(), name)).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if s := r.Status(); s.RAM.Used != 3*tier.GiB || s.Leftovers["a"] != 2*tier.GiB || s.Leftovers["b"] != tier.GiB {
			t.Errorf("%v are used, left over are %v; want 3 GiB of a and b", s.RAM.Used, s.Leftovers)
		}
		scale.Put("a", 0)
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

// If another process maps the file, weights stay in memory though the model is in
// storage. They block other models, but not their own.
//
// Pain point 20.
func TestResidue_WeightsStayInMemory_TheirOwnModelFitsAllTheSame(t *testing.T) {
	start := map[string]func(r *rig, s *tiertest.Scale){
		"after a load that failed": func(r *rig, s *tiertest.Scale) {
			s.Put("a", 3*tier.GiB)
			r.mover.Fault = func(tier.Move) error { return errors.New("bad weights") }
			if _, err := r.Acquire(r.t.Context(), modeltier.Request{Model: "a"}); err == nil {
				r.t.Fatal("the load did not fail")
			}
			r.mover.Fault = nil
		},
		"after a move to storage": func(r *rig, s *tiertest.Scale) {
			s.Lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
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

// A model that grows bit by bit is told of once, until it has grown by a share.
func TestFootprint_ModelGrowsBitByBit_ToldOnce(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		var takes atomic.Int64
		takes.Store(int64(2 * tier.GiB))
		m := tier.Model{Name: "a", Size: tier.GiB, Runtime: tier.MiB}
		mover := hungryMover{&tiertest.Mover{OnlyRAM: true}, func(string) (now, peak tier.Bytes, ok bool) {
			now = tier.Bytes(takes.Add(int64(tier.KiB)))
			return now, now, true
		}}
		r := newRig(t, modeltier.Config{Models: []tier.Model{m}, Mover: mover, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for range 20 {
			r.use("a")
			time.Sleep(5 * time.Second)
		}
		takes.Store(int64(3 * tier.GiB))
		r.use("a")
		time.Sleep(5 * time.Second)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if n := strings.Count(log.String(), "takes more memory than was declared"); n != 2 {
		t.Errorf("it was told %d times, want 2:\n%s", n, log.String())
	}
}
