package modeltier_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestScenarios_LocalAI_Watchdog(t *testing.T) {
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
		if scale.most() != 3*tier.GiB {
			t.Errorf("%v were in memory at once", scale.most())
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
		if scale.most() != 3*tier.GiB || len(r.mover.Moves()) != 39 {
			t.Errorf("%v at once, %d moves; want 3 GiB and 39", scale.most(), len(r.mover.Moves()))
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
	scenario(t, "LocalAI/size-aware with LRU tie-break nobody leaves in vain", func(t *testing.T) {
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

// hanging is a mover whose moves of one model do not end before it is let go.
func hanging(cfg modeltier.Config, name string, to tier.Tier) (modeltier.Config, func()) {
	letGo := make(chan struct{})
	cfg.Probe = tiertest.NewProbe(plenty) // not the machine's memory, which others press
	cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
		if mv.Model.Name == name && mv.To == to {
			<-letGo
		}
		return nil
	}
	return cfg, sync.OnceFunc(func() { close(letGo) })
}

func TestScenarios_LocalAI_Lifecycle(t *testing.T) {
	scenario(t, "LocalAI/force shutdown passes a stuck backend and leaves the loader usable bounded graceful wait", func(t *testing.T) {
		cfg, letGo := hanging(onlyRAM(model("a", 2)), "a", tier.RAM)
		cfg.StuckAfter = 7 * time.Second
		m, err := modeltier.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		go m.Acquire(t.Context(), modeltier.Request{Model: "a"})
		time.Sleep(time.Second)
		began := time.Now()
		if err := m.Close(); !errors.Is(err, modeltier.ErrStuck) || time.Since(began) != 7*time.Second {
			t.Errorf("%v after %v; want ErrStuck after 7s", err, time.Since(began))
		}
		letGo()
		newRig(t, onlyRAM(model("a", 2))).use("a")
	})
	scenario(t, "LocalAI/other models load while one Free hangs", func(t *testing.T) {
		cfg, letGo := hanging(onlyRAM(model("a", 2), model("b", 2)), "a", tier.Storage)
		r := newRig(t, cfg)
		defer letGo()
		r.use("a")
		order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
		r.begin("b").served(3 * time.Second).Release()
		r.wantUsed(4 * tier.GiB) // a's are not free before they are
	})
	scenario(t, "LocalAI/same-model reload waits for shutdown", func(t *testing.T) {
		cfg, letGo := hanging(onlyRAM(model("a", 2)), "a", tier.Storage)
		r := newRig(t, cfg)
		r.use("a")
		order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
		a := r.begin("a")
		time.Sleep(time.Minute)
		if !a.waits() {
			t.Error("a second one was started beside the first")
		}
		letGo()
		a.served(time.Minute + 3*time.Second).Release()
	})
	scenario(t, "LocalAI/cancel while waiting for a load", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errLeft) })
		began := time.Now()
		if _, err := r.Acquire(ctx, modeltier.Request{Model: "a"}); !errors.Is(err, errLeft) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	scenario(t, "LocalAI/concurrent same-model load = 1 load", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { r.use("a") })
		}
		wg.Wait()
		r.wantMoves("load a")
	})
	scenario(t, "LocalAI/failure then retry", func(t *testing.T) {
		fail := true
		cfg := onlyRAM(model("a", 2))
		cfg.Mover.(*tiertest.Mover).Fault = func(tier.Move) error {
			if fail {
				return errors.New("not now")
			}
			return nil
		}
		r := newRig(t, cfg)
		r.begin("a").refused(modeltier.ErrMove, 1500*time.Millisecond)
		fail = false
		r.begin("a").served(3 * time.Second).Release()
	})
	scenario(t, "LocalAI/cool-down refuses grows clears on success", func(t *testing.T) {
		fail := true
		cfg := onlyRAM(model("a", 2))
		cfg.Mover.(*tiertest.Mover).Fault = func(tier.Move) error {
			if fail {
				return errors.New("not now")
			}
			return nil
		}
		r := newRig(t, cfg)
		r.begin("a").refused(modeltier.ErrMove, 1500*time.Millisecond)
		for n, cool := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
			r.begin("a").refused(modeltier.ErrMove, 1500*time.Millisecond)
			busy, _ := errors.AsType[*tier.BusyError](r.begin("a").refused(modeltier.ErrBusy, 0))
			if busy == nil || busy.RetryAfter != cool {
				t.Fatalf("after %d failures: %+v, want to be told to come back in %v", n+2, busy, cool)
			}
			time.Sleep(cool)
		}
		fail = false
		r.use("a")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		fail = true
		r.begin("a").refused(modeltier.ErrMove, 1500*time.Millisecond)
		r.begin("a").refused(modeltier.ErrMove, 1500*time.Millisecond) // and not ErrBusy: it is the first again
	})
}

func TestScenarios_Lemonade(t *testing.T) {
	scenario(t, "Lemonade/pressure evicts idle downsizes request restores a downsized model", func(t *testing.T) {
		cfg := onlyRAM(model("a", 3))
		cfg.Limits.Swap = 10 * tier.GiB
		cfg.Mover.(*tiertest.Mover).Parts = true
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Minute)
		r.probe.Set(tier.Memory{Total: 8 * tier.GiB, SwapTotal: 8 * tier.GiB, SwapFree: 8 * tier.GiB}, nil)
		time.Sleep(time.Second) // 1 GiB is missing, and an eighth of it more
		m := r.model("a")
		if want := 3*tier.GiB - tier.GiB - tier.GiB/8; m.Tier != tier.Swap || m.Kept != want {
			t.Errorf("a is in %v with %v kept, want in swap with %v", m.Tier, m.Kept, want)
		}
		r.memory(8*tier.GiB, 5*tier.GiB)
		time.Sleep(time.Minute)
		r.begin("a").served(562500 * time.Microsecond).Release() // 0.5 s for each GB of 1.125
		r.wantAt("a", tier.RAM)
	})
	scenario(t, "Lemonade/weight factor protects a model that takes long to load or is used much stays", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("much", 2.5), model("little", 2.5), model("new", 2)))
		for i := range 100 {
			r.use("much")
			if i == 3 || i == 10 || i == 40 {
				r.use("little")
			}
			time.Sleep(5 * time.Second)
		}
		r.use("new")
		r.wantAt("much", tier.RAM)
		r.wantAt("little", tier.Storage)
	})
	scenario(t, "Lemonade/unload during downsize is safe", func(t *testing.T) {
		cfg := onlyRAM(model("a", 3))
		cfg.Limits.Swap = 10 * tier.GiB
		cfg.Mover.(*tiertest.Mover).Time = func(tier.Move) time.Duration { return 2 * time.Second }
		r := newRig(t, cfg)
		r.use("a")
		down := order(t)(r.MoveTier(t.Context(), "a", tier.Swap))
		time.Sleep(time.Second)
		if _, err := r.Remove(t.Context(), "a"); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("while it moves: %v, want ErrInUse", err)
		}
		if err := down.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if err := order(t)(r.Remove(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if s := r.Status(); s.RAM.Used != 0 || s.Swap.Used != 0 || len(s.Models) != 0 {
			t.Errorf("left: %v, %v, %v", s.RAM.Used, s.Swap.Used, s.Models)
		}
	})
	scenario(t, "Lemonade/pin survives LRU engine downsize and watchdog reload", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), model("b", 3)))
		r.use("a")
		r.use("b")
		r.memory(8*tier.GiB, 0)
		time.Sleep(time.Minute)
		r.wantAt("a", tier.RAM)
		r.memory(64*tier.GiB, 60*tier.GiB)
		if err := r.ReportCrash("a", errors.New("it crashed")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		r.wantAt("a", tier.Storage) // there is nothing left to pin
		r.use("a")
		if !r.model("a").Pinned {
			t.Error("the pin is lost")
		}
		r.begin("b").served(4500 * time.Millisecond).Release()
		r.wantAt("a", tier.RAM)
	})
	scenario(t, "Lemonade/idle crash is reaped and status updated next request reloads", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		r.use("a")
		if err := r.ReportCrash("a", errors.New("it crashed")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		r.wantAt("a", tier.Storage)
		r.wantUsed(0)
		r.begin("a").served(3 * time.Second).Release()
	})
	scenario(t, "Lemonade/concurrent request during reload completes", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		held := r.get("a")
		if err := r.ReportCrash("a", errors.New("it crashed")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		one := r.begin("a") // not to the dead one
		time.Sleep(time.Second)
		held.Release() // whose client was told so by the connection
		time.Sleep(time.Second)
		two := r.begin("a")
		one.served(time.Second + 3*time.Second).Release()
		two.served(2 * time.Second).Release()
		r.wantMoves("load a", "unload a", "load a")
	})
}

func TestScenarios_OMLX(t *testing.T) {
	scenario(t, "oMLX/re-discovery keeps loaded and loading entries", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 2)))
		r.use("a")
		b := r.begin("b")
		for _, name := range []string{"a", "b"} { // they are found again
			if _, err := r.HotLoad(t.Context(), model(name, 1)); !errors.Is(err, modeltier.ErrExists) {
				t.Errorf("%s: %v, want ErrExists", name, err)
			}
		}
		b.served(3 * time.Second).Release()
		r.begin("a").served(0).Release()
		r.wantMoves("load a", "load b")
	})
	t.Run("oMLX/re-discovery updates pins", func(t *testing.T) {
		dir := t.TempDir()
		start := func(t *testing.T, pin bool) *rig {
			cfg := onlyRAM(model("a", 1), model("b", 5))
			cfg.StateDir = dir
			cfg.Models[0].Pinned = pin
			return newRig(t, cfg)
		}
		synctest.Test(t, func(t *testing.T) {
			r := start(t, true)
			r.use("a")
			r.begin("b").refused(modeltier.ErrNoCapacity, 0)
		})
		synctest.Test(t, func(t *testing.T) {
			r := start(t, false)
			r.use("a")
			r.use("b")
			r.wantAt("a", tier.Storage)
		})
	})
	scenario(t, "oMLX/entry replaced mid-load is stopped and leaves nothing", func(t *testing.T) {
		r := newRig(t, onlyRAM())
		m := model("a", 4)
		m.Home = tier.RAM
		first := order(t)(r.HotLoad(t.Context(), m))
		time.Sleep(time.Second)
		first.Cancel(errors.New("there is a newer one"))
		if err := first.Wait(t.Context()); err == nil {
			t.Error("the first succeeded")
		}
		r.wantUsed(0)
		m.Size = 2 * tier.GiB
		if err := order(t)(r.HotLoad(t.Context(), m)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantUsed(2 * tier.GiB)
		r.wantMoves("load a", "load a")
	})
	scenario(t, "oMLX/too-large vs insufficient errors distinct", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 3)), model("b", 4), model("huge", 6)))
		r.use("a")
		now, never := r.begin("b").refused(modeltier.ErrNoCapacity, 0), r.begin("huge").refused(modeltier.ErrTooLarge, 0)
		if errors.Is(now, modeltier.ErrTooLarge) || errors.Is(never, modeltier.ErrNoCapacity) || tier.Code(now) == tier.Code(never) {
			t.Errorf("%v and %v are the same kind", now, never)
		}
	})
	scenario(t, "oMLX/disabled limit never refuses", func(t *testing.T) {
		cfg := onlyRAM(model("a", 20), model("b", 20), model("c", 10))
		cfg.Limits = tier.Limits{RAM: tier.Unlimited, Swap: tier.None, Reserved: tier.None, MaxModel: tier.Unlimited}
		r := newRig(t, cfg)
		for _, name := range []string{"a", "b", "c"} {
			r.use(name)
		}
		r.wantMoves("load a", "load b", "load c")
	})
}
