package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

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

// A model that keeps failing backs off and is then tried again, even if no other
// event moves the clock on.
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

func TestReportCrash_EngineKilled_LeasesAreToldAndLaterOnesServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2)))
		told := func(l *modeltier.Lease) bool {
			select {
			case <-l.Done():
				return true
			default:
				return false
			}
		}
		waited, hot, other := r.get("a"), r.get("a"), r.get("b")
		for range 2 { // also where it is told twice
			if err := r.ReportCrash("a", errors.New("signal: killed")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if !told(waited) || !told(hot) || told(other) {
			t.Errorf("told: %v, %v, and of another model %v", told(waited), told(hot), told(other))
		}
		waited.Release()
		hot.Release()
		for range 2 { // by the loop, and by the gate
			next := r.get("a")
			if told(next) {
				t.Error("a lease of the model that is loaded again is told of the last one's end")
			}
			next.Release()
		}
		other.Release()
		if told(other) {
			t.Error("a lease that was given back is told")
		}
	})
}

// A client that is told of a crash, and asks again at once, is not given what has crashed.
func TestReportCrash_HolderAsksAgainAtOnce_GetsTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		for range 500 {
			var clients sync.WaitGroup
			for range 4 {
				lease := r.get("a")
				clients.Go(func() {
					<-lease.Done()
					lease.Release()
					next, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
					if err != nil {
						t.Error(err)
						return
					}
					defer next.Release()
					select {
					case <-next.Done():
						t.Error("the lease is one of the model that crashed")
					default:
					}
				})
			}
			time.Sleep(5 * time.Minute) // else it counts as crashing again and again
			if err := r.ReportCrash("a", errors.New("signal: killed")); err != nil {
				t.Fatal(err)
			}
			if clients.Wait(); t.Failed() {
				return
			}
		}
	})
}

func TestReportCrash_EngineKilled_StatusIsRightWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended []string
		cfg := onlyRAM(model("a", 2), model("b", 2))
		cfg.Events.MoveEnded = func(ev modeltier.MoveEvent) { ended = append(ended, fmt.Sprint(ev.Model, " to ", ev.To)) }
		r := newRig(t, cfg)
		r.use("a")
		b := r.get("b")
		for _, name := range []string{"a", "b"} {
			if err := r.ReportCrash(name, errors.New("signal: killed")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		r.wantAt("a", tier.Storage)
		r.wantUsed(2 * tier.GiB)
		if m := r.model("b"); !m.Moving || m.Leases != 1 {
			t.Errorf("b, which is leased: %+v, want it on its way", m)
		}
		b.Release()
		synctest.Wait()
		r.wantAt("b", tier.Storage)
		r.wantUsed(0)
		if s := r.Status(); s.Evictions != 0 {
			t.Errorf("%d evictions, want none: no model gave way to another", s.Evictions)
		}
		if err := r.ReportCrash("unknown", nil); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("err = %v, want ErrNotFound", err)
		}
		r.use("a")
		synctest.Wait()
		if fmt.Sprint(ended) != "[a to ram b to ram a to storage b to storage a to ram]" {
			t.Errorf("moves: %v", ended)
		}
	})
}

func TestReportCrash_DuringAShutdown_LeaseIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		l := r.get("a")
		ended := make(chan error)
		go func() { ended <- r.Shutdown(t.Context()) }()
		synctest.Wait()
		if err := r.ReportCrash("a", errors.New("signal: killed")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case <-l.Done():
		default:
			t.Error("the lease was not told")
		}
		l.Release()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestReportCrash_ModelInStorage_NextLeaseIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("big", 7)}, Limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 10 * tier.GiB}})
		if err := r.ReportCrash("big", errors.New("it was said to")); err != nil {
			t.Fatal(err)
		}
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "big"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		select {
		case <-l.Done():
			t.Errorf("a fresh lease from %v is lost already", l.Tier())
		default:
		}
	})
}

// The crash is reported after the mover has returned and before the loop knows it.
func TestReportCrash_BetweenTheMoversReturnAndTheMovesEnd_IsNotForgotten(t *testing.T) {
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
			t.Error("the lease is on the restarted engine, and yet it is reported as lost")
		default:
		}
	})
}

func TestOutOfMemory_ScenariosOfOllama(t *testing.T) {
	noMemory := &tier.CapacityError{Tier: tier.RAM, Need: 2 * tier.GiB, Reason: "the device has no memory in one piece"}
	scenario(t, "ollama/TestSchedLoadCrashTriggersEvictAllAndRetry", func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1), model("c", 1))
		r := newRig(t, cfg)
		r.use("a")
		held := r.get("b")
		tries := 0
		r.mover.Fault = func(mv tier.Move) error {
			if mv.Model.Name == "c" {
				if tries++; tries == 1 {
					return noMemory
				}
			}
			return nil
		}
		r.begin("c").served(750*time.Millisecond + 1500*time.Millisecond).Release()
		r.wantMoves("load a", "load b", "load c", "unload a", "load c")
		held.Release()
	})
	scenario(t, "ollama/TestSchedLoadCrashTriggersEvictAllAndRetry once and no more", func(t *testing.T) {
		r := newRig(t, doomed(onlyRAM(model("a", 1), model("c", 1)), map[string]error{"c": noMemory}))
		r.use("a")
		r.begin("c").refused(modeltier.ErrNoCapacity, 2*750*time.Millisecond)
		r.wantMoves("load a", "load c", "unload a", "load c")
		r.wantUsed(0)
	})
	scenario(t, "ollama/NoOtherModelsFailsFast", func(t *testing.T) {
		r := newRig(t, doomed(onlyRAM(model("c", 1)), map[string]error{"c": noMemory}))
		r.begin("c").refused(modeltier.ErrNoCapacity, 750*time.Millisecond)
		r.wantMoves("load c")
	})
	scenario(t, "ollama/NonOOMWithOtherModelsFailsFast", func(t *testing.T) {
		broken := errors.New("not a model")
		r := newRig(t, doomed(onlyRAM(model("a", 1), model("c", 1)), map[string]error{"c": broken}))
		r.use("a")
		r.begin("c").refused(broken, 750*time.Millisecond)
		r.wantMoves("load a", "load c")
	})
	scenario(t, "ollama/OOMReducesAutomaticContext a smaller model answers a request that names none", func(t *testing.T) {
		for _, req := range []modeltier.Request{{Preferred: "big", Fallback: true}, {Priority: modeltier.Quality}} {
			r := newRig(t, onlyRAM(model("big", 4), model("small", 0.5)))
			time.Sleep(500 * time.Millisecond)
			// Not known before the next look: big is chosen, and refused at admission.
			r.probe.Set(tier.Memory{Total: 8 * tier.GiB, Available: 2 * tier.GiB}, nil)
			l := r.beginWith(req).served(750 * time.Millisecond)
			if l.Model().Name != "small" {
				t.Errorf("%s answers, want small", l.Model().Name)
			}
			r.wantMoves("load small")
		}
	})
	scenario(t, "ollama/KeepsExplicitContext a request that names a model gets that or an error", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("big", 4), model("small", 0.5)))
		r.memory(8*tier.GiB, 2*tier.GiB)
		r.begin("big").refused(modeltier.ErrNoCapacity, 0)
		r.wantMoves()
	})
	scenario(t, "ollama/TestSchedRuntimeOOMExpiresLoadedRunners", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1)))
		r.use("a")
		held := r.get("b")
		time.Sleep(time.Minute)
		killed := plenty
		killed.Pressure = tier.Pressure{OOMKills: 1, Level: tier.PressureHigh}
		r.probe.Set(killed, nil)
		time.Sleep(1500 * time.Millisecond)
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.RAM)
		held.Release()
		r.begin("c").refused(modeltier.ErrNoCapacity, 0)
		calm := plenty
		calm.Pressure.OOMKills = 1
		r.probe.Set(calm, nil)
		time.Sleep(time.Minute)
		r.use("c")
	})
}

// What went wrong with a model is there to be looked up though it works again, and is no
// more once the name is another model's.
func TestModel_LoadFailedAndEngineCrashed_LastErrorIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail atomic.Bool
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Mover: &tiertest.Mover{Fault: func(tier.Move) error {
			if fail.Load() {
				return errors.New("disk on fire")
			}
			return nil
		}}})
		want := func(text string, at time.Time) {
			t.Helper()
			m, _ := r.Model("a")
			if all := r.model("a"); !strings.Contains(m.LastError, text) || (m.LastError == "") != (text == "") || !m.LastErrorAt.Equal(at) || all.LastError != m.LastError {
				t.Errorf("%q at %v, in Status %q; want %q at %v", m.LastError, m.LastErrorAt, all.LastError, text, at)
			}
		}
		want("", time.Time{})
		fail.Store(true)
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); err == nil {
			t.Error("it was loaded")
		}
		failed := time.Now()
		want("disk on fire", failed)
		fail.Store(false)
		time.Sleep(time.Minute)
		r.use("a")
		want("disk on fire", failed)
		if err := r.ReportCrash("a", errors.New("signal: killed")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		crashed := time.Now()
		want("signal: killed", crashed)
		time.Sleep(time.Minute)
		other := model("a", 3)
		if _, err := r.Reconfigure(t.Context(), []tier.Model{other}, tier.Limits{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want("", time.Time{})
	})
}
