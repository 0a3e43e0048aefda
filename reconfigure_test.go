package modeltier_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// reconfigured calls Reconfigure, which has to succeed.
func (r *rig) reconfigured(limits tier.Limits, models ...tier.Model) modeltier.Reconfiguration {
	r.t.Helper()
	got, err := r.Reconfigure(r.t.Context(), models, limits)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func able(m tier.Model, to ...string) tier.Model { m.Capabilities = to; return m }

func wantReconfiguration(t *testing.T, got, want modeltier.Reconfiguration) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReconfigure_SameAgain_DoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1))
		r := newRig(t, cfg)
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.RAM)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := order(t)(r.Remove(t.Context(), "b")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 3 * tier.GiB}); err != nil {
			t.Fatal(err)
		}
		wantReconfiguration(t, r.reconfigured(cfg.Limits, cfg.Models...), modeltier.Reconfiguration{})
		// Runtime changes stay in force while the configuration is unchanged.
		if m := r.model("a"); m.Home != tier.RAM || r.Status().Limits.RAM != 3*tier.GiB {
			t.Errorf("a's home is %v, the limit %v", m.Home, r.Status().Limits.RAM)
		}
		r.begin("b").refused(modeltier.ErrNotFound, 0)
	})
}

func TestReconfigure_ModelInUse_IsReplacedWhenItIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(pinned(model("a", 1)))
		r := newRig(t, cfg)
		l := r.get("a")
		r.reconfigured(cfg.Limits, pinned(model("a", 2)))
		next := r.begin("a")
		time.Sleep(10 * time.Second)
		if !next.waits() || l.Model().Size != tier.GiB || r.mover.At("a") != tier.RAM {
			t.Error("it was taken from under a lease, or both are there")
		}
		l.Release()
		if got := next.served(10*time.Second + 3*time.Second); got.Model().Size != 2*tier.GiB {
			t.Errorf("served by a model of %v", got.Model().Size)
		}
		r.wantMoves("load a", "unload a", "load a")
	})
}

func TestReconfigure_ModelInUse_IsRemovedWhenItIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(able(model("a", 1), "text-generation"), able(model("b", 1), "text-generation"))
		r := newRig(t, cfg)
		l := r.get("a")
		r.reconfigured(cfg.Limits, cfg.Models[1])
		time.Sleep(10 * time.Second)
		r.begin("a").refused(modeltier.ErrNotFound, 0)
		auto, err := r.Acquire(t.Context(), modeltier.Request{Capabilities: []string{"text-generation"}})
		if err != nil || auto.Model().Name != "b" {
			t.Fatalf("%v, %v; want b", auto, err)
		}
		auto.Release()
		r.wantAt("a", tier.RAM)
		l.Release()
		time.Sleep(time.Second)
		r.wantMoves("load a", "load b", "unload a")
		r.wantUsed(tier.GiB)
	})
}

func TestReconfigure_WhileItLoads_WhoWaitsGetsTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4))
		r := newRig(t, cfg)
		clients := []*client{r.begin("a"), r.begin("a")}
		time.Sleep(time.Second)
		r.reconfigured(cfg.Limits, model("a", 1))
		for _, c := range clients {
			if l := c.served(time.Second + 1500*time.Millisecond); l.Model().Size != tier.GiB {
				t.Errorf("served by a model of %v", l.Model().Size)
			}
		}
	})
}

func TestReconfigure_RemovedWhileItLoads_WhoWaitsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4), model("b", 1))
		r := newRig(t, cfg)
		c := r.begin("a")
		time.Sleep(time.Second)
		r.reconfigured(cfg.Limits, model("b", 1))
		c.refused(modeltier.ErrNotFound, time.Second)
		time.Sleep(time.Minute)
		r.wantUsed(0)
	})
}

// The back-off of a model that failed to load ends when it is reconfigured.
func TestReconfigure_ModelThatFailed_IsTriedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("not a model")
		cfg := doomed(onlyRAM(model("a", 1)), map[string]error{"a": broken})
		r := newRig(t, cfg)
		for range 6 {
			<-r.begin("a").done
		}
		r.begin("a").refused(modeltier.ErrBusy, 0)
		r.reconfigured(cfg.Limits, model("a", 2))
		r.begin("a").refused(broken, 1500*time.Millisecond)
	})
}

func TestReconfigure_ChosenByWhatItWasAble_AnotherIsChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := able(model("a", 2), "chat"), able(model("b", 1), "chat")
		a.Quality = 9
		cfg := onlyRAM(a, b)
		r := newRig(t, cfg)
		got := make(chan string, 1)
		go func() {
			l, err := r.Acquire(t.Context(), modeltier.Request{Capabilities: []string{"chat"}, Priority: modeltier.Quality})
			if err != nil {
				t.Error(err)
				got <- ""
				return
			}
			got <- l.Model().Name
			l.Release()
		}()
		time.Sleep(time.Second)
		r.wantMoves("load a")
		a.Capabilities = []string{"embeddings"}
		wantReconfiguration(t, r.reconfigured(cfg.Limits, a, b), modeltier.Reconfiguration{Changed: []string{"a"}})
		if name := <-got; name != "b" {
			t.Errorf("served by %q, which is no chat", name)
		}
	})
}

// lateContext has ended without closing Done, as when a context and a load end at the
// same moment.
type lateContext struct {
	context.Context
	ended atomic.Bool
}

func (c *lateContext) Err() error {
	if c.ended.Load() {
		return context.Canceled
	}
	return nil
}

func TestReconfigure_ContextEndsAsTheModelIsAnother_NoLeaseOnThatOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := able(model("a", 2), "chat")
		cfg := onlyRAM(a)
		r := newRig(t, cfg)
		ctx := &lateContext{Context: context.WithoutCancel(t.Context())}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l, err := r.Acquire(ctx, modeltier.Request{Capabilities: []string{"chat"}})
			if l != nil || err == nil {
				t.Errorf("a lease: %v, error: %v; want an error alone", l != nil, err)
			}
			l.Release()
		}()
		time.Sleep(time.Second)
		a.Capabilities = []string{"embeddings"}
		r.reconfigured(cfg.Limits, a)
		ctx.ended.Store(true)
		<-ended
	})
}

func TestReconfigure_Wrong_NothingIsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3), model("b", 1))
		r := newRig(t, cfg)
		l := r.get("a")
		less := cfg.Limits
		less.RAM = 2 * tier.GiB
		for name, try := range map[string]func() error{
			"a model twice": func() error {
				_, err := r.Reconfigure(t.Context(), []tier.Model{model("c", 1), model("c", 2)}, cfg.Limits)
				return err
			},
			"a model that is none": func() error {
				_, err := r.Reconfigure(t.Context(), []tier.Model{{Name: "c", Size: -1}}, cfg.Limits)
				return err
			},
			"limits below what is leased": func() error {
				_, err := r.Reconfigure(t.Context(), []tier.Model{model("a", 3), model("c", 1)}, less)
				return err
			},
		} {
			if err := try(); err == nil {
				t.Errorf("%s: it was taken", name)
			}
			if s := r.Status(); len(s.Models) != 2 || s.Limits.RAM != 5*tier.GiB || s.Models[0].Leases != 1 {
				t.Errorf("%s: there are %d models, the limit is %v", name, len(s.Models), s.Limits.RAM)
			}
		}
		l.Release()
		if got := r.reconfigured(less, model("b", 1)); !got.Limits || r.Status().Limits.RAM != 2*tier.GiB {
			t.Errorf("%+v, the limit is %v", got, r.Status().Limits.RAM)
		}
	})
}

func TestReconfigure_Restart_TheConfigurationCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1))
		cfg.StateDir = t.TempDir()
		r := newRig(t, cfg)
		r.get("b") // so that b has not left when the Manager is closed
		r.reconfigured(cfg.Limits, model("a", 1), model("c", 1))
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		next := onlyRAM(model("a", 1)) // c was removed while no Manager ran
		next.StateDir = cfg.StateDir
		r = newRig(t, next)
		if s := r.Status(); len(s.Models) != 1 || s.Models[0].Name != "a" {
			t.Errorf("after the restart there are %+v", s.Models)
		}
	})
}

func TestReconfigure_WhatItWasIsStillInMemory_TheNewOneWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 2))
		r, scale := newObserverRig(t, cfg, false)
		scale.Lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		r.use("a")
		r.reconfigured(cfg.Limits, model("a", 1))
		a := r.begin("a")
		time.Sleep(5500 * time.Millisecond)
		if m := r.model("a"); m.Tier != tier.Storage || m.ChargedRAM != 2*tier.GiB || !a.waits() {
			t.Errorf("%+v, want the old one in storage with 2 GiB still charged, and the new one waited for", m)
		}
		scale.Put("a", 0)
		if l := a.served(6*time.Second + 1500*time.Millisecond); l.Model().Size != tier.GiB {
			t.Errorf("served by a model of %v", l.Model().Size)
		}
		r.wantUsed(tier.GiB)
	})
}

func TestReconfigure_HotLoadedModelTakesMoreThanDeclared_SaidTheSame_IsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, eats := newHungryRig(t, model("b", 1))
		eats.set("a", 2)
		a := model("a", 1)
		if err := order(t)(r.HotLoad(t.Context(), a)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.use("a")
		if m := r.model("a"); m.Runtime == 0 {
			t.Fatalf("nothing was learned of a: %+v", m)
		}
		wantReconfiguration(t, r.reconfigured(tier.Limits{}, model("b", 1), a), modeltier.Reconfiguration{})
	})
}

func TestReconfigure_AgainBeforeTheModelIsFree_TheLastOneCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		r := newRig(t, cfg)
		l := r.get("a")
		r.reconfigured(cfg.Limits, model("a", 2))
		last := pinned(able(model("a", 2), "vision"))
		wantReconfiguration(t, r.reconfigured(cfg.Limits, last), modeltier.Reconfiguration{Changed: []string{"a"}})
		l.Release()
		time.Sleep(time.Minute)
		if m := r.model("a"); m.Size != 2*tier.GiB || m.Capabilities[0] != "vision" || !m.Pinned {
			t.Errorf("%+v", m)
		}
	})
}

func TestReconfigure_HomeIsMovedBeforeTheModelIsFree_NewOneComesThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		r := newRig(t, cfg)
		l := r.get("a")
		r.reconfigured(cfg.Limits, model("a", 2))
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.RAM)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.Release()
		time.Sleep(time.Minute)
		if m := r.model("a"); m.Size != 2*tier.GiB || m.Home != tier.RAM || m.Tier != tier.RAM {
			t.Errorf("%+v", m)
		}
	})
}

// Pain point 18.
func TestReconfigure_WhatIsTheSameIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1), model("c", 1))
		r := newRig(t, cfg)
		l := r.get("a")
		r.use("b")
		r.use("c")
		b, d := model("b", 2), model("d", 1)
		d.Home = tier.RAM
		wantReconfiguration(t, r.reconfigured(cfg.Limits, model("a", 1), b, d), modeltier.Reconfiguration{
			Added: []string{"d"}, Removed: []string{"c"}, Replaced: []string{"b"},
		})
		time.Sleep(time.Minute)
		if m := r.model("a"); m.Leases != 1 || m.Tier != tier.RAM {
			t.Errorf("a has %d leases in %v, want the one in ram", m.Leases, m.Tier)
		}
		r.begin("a").served(0).Release()
		r.begin("b").served(3 * time.Second).Release()
		r.begin("c").refused(modeltier.ErrNotFound, 0)
		r.begin("d").served(0).Release()
		l.Release()
		for _, mv := range r.mover.Moves()[1:] {
			if mv.Model.Name == "a" {
				t.Errorf("a was moved from %v to %v", mv.From, mv.To)
			}
		}
		r.wantUsed(4 * tier.GiB)
	})
}

func TestReconfigure_OneModelChanges_LeasesOfTheOthersLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1)))
		a, c := r.get("a"), r.get("c")
		r.use("b")
		if err := order(t)(r.Remove(t.Context(), "b")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		changed := model("b", 2)
		changed.Home = tier.RAM
		if err := order(t)(r.HotLoad(t.Context(), changed)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "c"} {
			if m := r.model(name); m.Leases != 1 || m.Tier != tier.RAM || m.Moving {
				t.Errorf("%s: %d leases in %v", name, m.Leases, m.Tier)
			}
		}
		if l := r.begin("b").served(0); l.Model().Size != 2*tier.GiB {
			t.Errorf("b has %v, want the new size", l.Model().Size)
		}
		a.Release()
		c.Release()
		r.wantMoves("load a", "load c", "load b", "unload b", "load b")
	})
}

func TestReconfigure_ScenariosOfOMLX(t *testing.T) {
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
