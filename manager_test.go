package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// rig is a Manager on fakes, in a synctest bubble.
type rig struct {
	*modeltier.Manager
	t     *testing.T
	mover *tiertest.Mover
	probe *tiertest.Probe
}

// plenty is a machine that is never short of memory.
var plenty = tier.Memory{Total: 64 * tier.GiB, Available: 60 * tier.GiB}

func model(name string, gb float64) tier.Model {
	size, err := tier.FromGB(gb)
	if err != nil {
		panic(err)
	}
	return tier.Model{Name: name, Size: size, Capabilities: []string{"text-generation"}}
}

// newRig starts a Manager with 5 GiB of ram and 10 of swap unless cfg says
// otherwise. The end of the test closes it and checks that nothing is left.
func newRig(t *testing.T, cfg modeltier.Config) *rig {
	t.Helper()
	leavesNothing(t)
	r := &rig{t: t, mover: &tiertest.Mover{}, probe: tiertest.NewProbe(plenty)}
	if cfg.Mover == nil {
		cfg.Mover = r.mover
	} else if m, ok := cfg.Mover.(*tiertest.Mover); ok {
		r.mover = m
	}
	if cfg.Probe == nil {
		cfg.Probe = r.probe
	}
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	r.Manager = m
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, f := range r.mover.Faults() {
			t.Errorf("the mover was told wrong: %s", f)
		}
	})
	return r
}

// get acquires the model by name.
func (r *rig) get(name string) *modeltier.Lease {
	r.t.Helper()
	l, err := r.Acquire(r.t.Context(), modeltier.Request{Model: name})
	if err != nil {
		r.t.Fatalf("Acquire(%s): %v", name, err)
	}
	if l.Model().Name != name {
		r.t.Fatalf("Acquire(%s) gave %s", name, l.Model().Name)
	}
	return l
}

// use acquires and releases.
func (r *rig) use(name string) { r.t.Helper(); r.get(name).Release() }

// at returns where the model is resident.
func (r *rig) at(name string) tier.Tier {
	r.t.Helper()
	for m := range r.Models() {
		if m.Name == name {
			return m.Tier
		}
	}
	r.t.Fatalf("%s is not known", name)
	return 0
}

func (r *rig) wantAt(name string, want tier.Tier) {
	r.t.Helper()
	if got := r.at(name); got != want {
		r.t.Errorf("%s is in %v, want %v", name, got, want)
	}
}

func TestAcquire_ModelInStorage_LoadsItAndLeasesFromRAM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		l := r.get("a")
		if l.Tier() != tier.RAM || l.Waited() != 3*time.Second || !l.Moved() {
			t.Errorf("lease from %v after %v, moved %v; want ram after 3s, moved", l.Tier(), l.Waited(), l.Moved())
		}
		l.Release()
		l.Release()
		l = r.get("a")
		if l.Waited() != 0 || l.Moved() {
			t.Errorf("second lease waited %v, moved %v; want neither", l.Waited(), l.Moved())
		}
		l.Release()
		if s := r.Status(); s.RAM.Charged != 2*tier.GiB || s.RAM.Reserved != 0 || s.Models[0].Leases != 0 || s.Models[0].Accesses != 2 {
			t.Errorf("after both: %+v %+v", s.RAM, s.Models[0])
		}
	})
}

// A model that keeps failing is left alone for a while and then tried again, also
// where nothing else happens to tell the time.
func TestAcquire_AvoidanceEndsWhileNothingChanges_ModelTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, other := model("good", 2), model("other", 1)
		r := newRig(t, modeltier.Config{Models: []tier.Model{good, other}, Selector: selector.NewAdaptive(), OptimizeEvery: -1})
		r.use("good")
		r.use("other")
		chosen := func() string {
			c, err := r.Select(modeltier.Request{Priority: modeltier.Quality})
			if err != nil {
				t.Fatal(err)
			}
			return c.Model
		}
		for range 3 {
			l := r.get("good")
			l.Report(tier.Outcome{Err: errors.New("gibberish")})
			l.Release()
		}
		time.Sleep(2 * time.Second) // the reports are told
		if got := chosen(); got != "other" {
			t.Fatalf("%s is chosen after good failed three times", got)
		}
		time.Sleep(20 * time.Second)
		if got := chosen(); got != "other" {
			t.Errorf("%s is chosen before 30 s are over", got)
		}
		time.Sleep(15 * time.Second)
		if got := chosen(); got != "good" {
			t.Errorf("%s is chosen after 37 s", got)
		}
	})
}

func TestAcquire_NoRoom_IdleModelGivesWay(t *testing.T) {
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

func TestAcquire_ManyWaiters_ShareOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() { r.use("a") })
		}
		wg.Wait()
		if n := len(r.mover.Moves()); n != 1 {
			t.Errorf("%d moves for 30 requests, want 1", n)
		}
	})
}

func TestAcquire_ContextEnds_OnlyItsOwnWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("client left"))
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := r.Acquire(ctx, modeltier.Request{Model: "a"})
			if err == nil || err.Error() != "client left" {
				t.Errorf("err = %v, want the context's cause", err)
			}
		})
		wg.Go(func() {
			l := r.get("a")
			if l.Waited() != 3*time.Second {
				t.Errorf("the other waited %v, want the 3s of one load", l.Waited())
			}
			l.Release()
		})
		wg.Wait()
	})
}

func TestAcquire_VictimLeased_WaitsForRelease(t *testing.T) {
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

func TestAcquire_ResidentModelBusyWithoutPause_OtherIsServedWithinFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 4)}, Fairness: 2 * time.Second, Mover: &tiertest.Mover{OnlyRAM: true}})
		r.use("a")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { // leases that overlap for ever
				time.Sleep(time.Duration(i) * 500 * time.Millisecond)
				for {
					select {
					case <-stop:
						return
					default:
					}
					l := r.get("a")
					time.Sleep(time.Second)
					l.Release()
				}
			})
		}
		time.Sleep(5 * time.Second)
		b := r.get("b")
		if bound := 2*time.Second + time.Second + 6*time.Second; b.Waited() > bound {
			t.Errorf("b waited %v, want at most %v: fairness, one lease, the load", b.Waited(), bound)
		}
		b.Release()
		close(stop)
		wg.Wait()
	})
}

func TestAcquire_LargerThanRAM_ServedFromSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("big", 7)}})
		l := r.get("big")
		if l.Tier() != tier.Swap {
			t.Errorf("served from %v, want swap", l.Tier())
		}
		l.Release()
	})
}

func TestAcquire_LargerThanEverything_IsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("huge", 12)}})
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "huge"})
		if !errors.Is(err, modeltier.ErrTooLarge) {
			t.Errorf("err = %v, want ErrTooLarge", err)
		}
	})
}

func TestAcquire_EverythingPinned_RefusesAtOnceAndSaysWho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", 4)
		a.Pinned = true
		b := model("b", 4)
		b.Runtime = 7 * tier.GiB / 8 // too much to be served beside a, from wherever
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

func TestAcquire_LoadFails_EveryWaiterGetsTheErrorAndTheNextTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk on fire")
		fail := true
		mover := &tiertest.Mover{Fault: func(tier.Move) error {
			if fail {
				return broken
			}
			return nil
		}}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Mover: mover})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, broken) || !errors.Is(err, modeltier.ErrMove) {
					t.Errorf("err = %v, want the mover's", err)
				}
			})
		}
		wg.Wait()
		if s := r.Status(); s.RAM.Used != 0 {
			t.Errorf("%v are still used", s.RAM.Used)
		}
		fail = false
		r.use("a")
	})
}

func TestAcquire_LoadKeepsFailing_CoolsDownLongerEachTimeAndClearsOnSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, fail := errors.New("disk on fire"), true
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Mover: &tiertest.Mover{Fault: func(tier.Move) error {
			if fail {
				return broken
			}
			return nil
		}}})
		try := func() error {
			l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
			if err == nil {
				l.Release()
			}
			return err
		}
		try()
		try()
		for _, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			busy, ok := errors.AsType[*tier.BusyError](try())
			if !ok || busy.RetryAfter != wait || !errors.Is(busy, broken) {
				t.Fatalf("want ErrBusy for %v with its cause, got %v", wait, busy)
			}
			time.Sleep(wait)
			if err := try(); !errors.Is(err, modeltier.ErrMove) {
				t.Fatalf("after %v: %v, want another attempt", wait, err)
			}
		}
		time.Sleep(8 * time.Second)
		fail = false
		if err := try(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPressure_High_CallsLoadsOffAndIdleModelsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 2), model("c", 2)}})
		r.use("a")
		b := r.get("b")
		time.Sleep(time.Minute)
		high := plenty
		high.Pressure = tier.Pressure{HasPSI: true, Full10: 30, Some10: 60, Level: tier.PressureHigh}
		time.AfterFunc(time.Second, func() { r.probe.Set(high, nil) })
		began := time.Now()
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "c"}); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("a load when pressure rises: %v, want ErrNoCapacity", err)
		}
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("the load gave way after %v", took)
		}
		time.Sleep(5 * time.Second)
		if r.at("a") == tier.RAM {
			t.Error("an idle model stays in ram under high pressure")
		}
		r.wantAt("b", tier.RAM) // leased
		r.use("b")              // and still served
		b.Release()
		r.probe.Set(plenty, nil)
		time.Sleep(time.Minute)
		r.use("c")
	})
}

func TestAcquire_MoverPanicsOrExits_IsAnErrorOfTheRequest(t *testing.T) {
	for name, fault := range map[string]func(){"panic": func() { panic("boom") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, modeltier.Config{
					Models: []tier.Model{model("a", 2), model("b", 1)},
					Mover: &tiertest.Mover{Fault: func(mv tier.Move) error {
						if mv.Model.Name == "a" {
							fault()
						}
						return nil
					}},
				})
				if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrPanic) {
					t.Errorf("err = %v, want ErrPanic", err)
				}
				r.use("b")
				if s := r.Status(); s.RAM.Used != tier.GiB {
					t.Errorf("%v are used, want b's GiB", s.RAM.Used)
				}
			})
		})
	}
}

func TestAcquire_MoverHangs_IsReportedStuckAndItsBytesStayCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		mover := tier.MoverFunc(func(ctx context.Context, mv tier.Move, _ func(tier.Bytes)) error {
			if mv.Model.Name == "a" {
				<-release
				return context.Canceled
			}
			return nil
		})
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Mover: mover, StallAfter: time.Minute})
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrStuck) {
			t.Errorf("err = %v, want ErrStuck", err)
		}
		s := r.Status()
		if s.RAM.Reserved != 2*tier.GiB || !s.Models[0].Stuck {
			t.Errorf("reserved %v, stuck %v; want the 2 GiB and true", s.RAM.Reserved, s.Models[0].Stuck)
		}
		r.use("b")
		close(release)
		synctest.Wait()
		if s := r.Status(); s.RAM.Used != tier.GiB || s.Models[0].Stuck {
			t.Errorf("after the mover came back: used %v, stuck %v", s.RAM.Used, s.Models[0].Stuck)
		}
	})
}

func TestNew_HomesInRAMAndSwap_AreBroughtThereAsFarAsThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		homes := func(name string, gb float64, home tier.Tier) tier.Model {
			m := model(name, gb)
			m.Home = home
			return m
		}
		r := newRig(t, modeltier.Config{Models: []tier.Model{
			homes("gpt2-small", 0.5, tier.RAM), homes("gpt2-medium", 1.5, tier.RAM), homes("gpt2-large", 3, tier.RAM),
			homes("bert-large", 1.3, tier.RAM), homes("gpt-j-6b", 6, tier.Swap), homes("llama-7b", 7, tier.Swap),
		}})
		time.Sleep(time.Minute)
		for name, want := range map[string]tier.Tier{
			"gpt2-small": tier.RAM, "gpt2-medium": tier.RAM, "gpt2-large": tier.RAM,
			"bert-large": tier.Storage, "gpt-j-6b": tier.Swap, "llama-7b": tier.Storage,
		} {
			r.wantAt(name, want)
		}
	})
}

func TestMoveTier_LeasedModel_IsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		l := r.get("a")
		if _, err := r.MoveTier(t.Context(), "a", tier.Storage); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("err = %v, want ErrInUse", err)
		}
		if _, err := r.Remove(t.Context(), "a"); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("err = %v, want ErrInUse", err)
		}
		l.Release()
		job, err := r.MoveTier(t.Context(), "a", tier.Swap)
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantAt("a", tier.Swap)
		if s := r.Status(); s.Models[0].Home != tier.Swap || s.Swap.Charged != 2*tier.GiB || s.RAM.Charged != 0 {
			t.Errorf("%+v %+v %+v", s.Models[0], s.RAM, s.Swap)
		}
	})
}

func TestHotLoad_NewModel_IsServedAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 4)}})
		r.use("a")
		m := model("new", 2)
		m.Home = tier.RAM
		job, err := r.HotLoad(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.HotLoad(t.Context(), m); !errors.Is(err, modeltier.ErrExists) {
			t.Errorf("second: err = %v, want ErrExists", err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantAt("new", tier.RAM)
		r.use("new")
		job, err = r.Remove(t.Context(), "new")
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "new"}); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("err = %v, want ErrNotFound", err)
		}
	})
}

func TestHotLoad_BrokenFile_IsRefusedAtOnceAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		for name, content := range map[string]string{"truncated.gguf": "GGUF\x03\x00\x00", "page.gguf": "<html>not found</html>", "empty.bin": "", "short.safetensors": "\x10"} {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := r.HotLoad(t.Context(), tier.Model{Name: name, Path: path, Size: tier.GiB})
			if _, ok := errors.AsType[*hotload.FileError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			if len(tier.Suggestions(err)) == 0 {
				t.Errorf("%s: nothing is suggested", name)
			}
		}
		for s := range r.Models() {
			t.Errorf("%s is in the library", s.Name)
		}
	})
}

// What an owner sends down stays there while nobody asks for it, however much was
// learned before.
func TestMoveTier_Down_IsNotUndoneByTheIdlePlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1), model("b", 1)}})
		for range 20 {
			r.use("a")
			time.Sleep(10 * time.Second)
		}
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			r.use("b") // so that the idle plan has a reason to look
			time.Sleep(time.Minute)
		}
		r.wantAt("a", tier.Storage)
		order, err := r.Optimize(t.Context()) // whoever asks for it has it
		if err != nil || !slices.ContainsFunc(order.Steps, func(s tier.Step) bool { return s.Model.Name == "a" }) {
			t.Errorf("Optimize = %v, %v: a is worth moving", order, err)
		}
	})
}

// overlay is a probe that takes its bytes from another.
type overlay struct {
	tier.MemoryProbe
	under tier.MemoryProbe
}

func (o *overlay) Over(bytes tier.MemoryProbe) bool {
	if o.under != nil {
		return false
	}
	o.under = bytes
	return true
}

func TestNew_ProbeThatIsAnOverlay_LiesOverOneThatKnowsContainers(t *testing.T) {
	o := &overlay{MemoryProbe: tiertest.NewProbe(plenty)}
	for range 2 { // the second time it has one
		m, err := modeltier.New(modeltier.Config{Probe: o})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, ok := o.under.(*safety.Probe); !ok {
			t.Fatalf("it lies over %T", o.under)
		}
	}
}

func TestHotLoad_Cancelled_LeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		m := model("new", 2)
		m.Home = tier.RAM
		job, err := r.HotLoad(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		job.Cancel(errors.New("changed my mind"))
		if err := job.Wait(t.Context()); err == nil {
			t.Error("the job succeeded")
		}
		if s := r.Status(); len(s.Models) != 0 || s.RAM.Used != 0 {
			t.Errorf("left: %+v %+v", s.Models, s.RAM)
		}
	})
}

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

func TestShutdown_LeaseHeld_WaitsForItsEndAndRefusesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 4)}})
		l := r.get("a")
		var wg sync.WaitGroup
		wg.Go(func() { // waits for room that a holds
			if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"}); !errors.Is(err, modeltier.ErrClosed) {
				t.Errorf("the one that waits: err = %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown under a lease: %v, want the deadline", err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
		go func() {
			time.Sleep(time.Second)
			l.Release()
		}()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

func TestClose_InTheMiddleOfEverything_EndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 4)}})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				l, err := r.Acquire(t.Context(), modeltier.Request{Model: fmt.Sprintf("%c", 'a'+i%2)})
				if err == nil {
					l.Release()
				} else if !errors.Is(err, modeltier.ErrClosed) {
					t.Errorf("err = %v, want ErrClosed", err)
				}
			})
		}
		time.Sleep(time.Second)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if _, err := r.HotLoad(t.Context(), model("c", 1)); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
	})
}

// A model that is where it is sent to only changes its home, and whoever uses it
// meanwhile goes on doing so.
func TestMoveTier_HomeChangesInPlace_NextLeaseShowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Limits: tier.Limits{RAM: 4 * tier.GiB}})
		held := r.get("a")
		if held.Tier() != tier.RAM || held.Model().Home != tier.Storage {
			t.Fatalf("a is in %v, its home is %v", held.Tier(), held.Model().Home)
		}
		job, err := r.MoveTier(t.Context(), "a", tier.RAM)
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		later := r.get("a")
		if got := later.Model().Home; got != tier.RAM {
			t.Errorf("the next lease says that its home is %v", got)
		}
		if got := held.Model().Home; got != tier.Storage {
			t.Errorf("the lease that was held says now that its home is %v", got)
		}
		later.Release()
		held.Release()
	})
}

func TestNew_CallerChangesItsModelsLater_ManagerKeepsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := model("a", 1)
		mine.Capabilities, mine.Labels = []string{"embeddings"}, map[string]string{"language": "fr"}
		hot := mine
		hot.Name = "b"
		r := newRig(t, modeltier.Config{Models: []tier.Model{mine}})
		if _, err := r.HotLoad(t.Context(), hot); err != nil {
			t.Fatal(err)
		}
		mine.Capabilities[0] = "nothing"
		mine.Labels["language"] = "none"
		req := modeltier.Request{Capabilities: []string{"embeddings"}, Constraints: []tier.Constraint{{Label: "language", Op: tier.OpEqual, Value: "fr"}}}
		for _, name := range []string{"a", "b"} {
			l := r.get(name)
			if m := l.Model(); m.Capabilities[0] != "embeddings" || m.Labels["language"] != "fr" {
				t.Errorf("%s is now %q, %q", name, m.Capabilities, m.Labels)
			}
			l.Release()
		}
		if _, err := r.Select(req); err != nil {
			t.Error(err)
		}
	})
}
