package modeltier_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

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

// slowly is a slow probe.
type slowly struct{ tier.MemoryProbe }

func (s slowly) Memory(ctx context.Context) (tier.Memory, error) {
	time.Sleep(300 * time.Millisecond)
	return s.MemoryProbe.Memory(ctx)
}

// The loop is busy with a reading. It sees the request only after its caller has
// left and the model's queue is full.
func TestAcquire_CallerLeavesBeforeItIsSeen_QueueFull_ManagerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := &tiertest.Mover{Fault: func(tier.Move) error { time.Sleep(10 * time.Second); return nil }}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 4)}, Mover: mover, MaxQueueModel: 1, Probe: slowly{tiertest.NewProbe(plenty)}})
		first := make(chan error, 1)
		go func() {
			l, err := r.Acquire(context.Background(), modeltier.Request{Model: "a"})
			if err == nil {
				l.Release()
			}
			first <- err
		}()
		time.Sleep(2 * time.Second)
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if l, err := r.Acquire(ctx, modeltier.Request{Model: "a"}); err == nil {
				l.Release()
			}
			cancel()
			time.Sleep(30 * time.Millisecond)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

// Pain point 9.
func TestAcquire_ModelIsBeingUnloaded_WaitsAndGetsAFreshLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2)), 2*time.Second))
		r.use("a")
		order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
		time.Sleep(500 * time.Millisecond)
		r.begin("a").served(1500*time.Millisecond + 3*time.Second).Release()
		r.wantMoves("load a", "unload a", "load a")
	})
}

// Pain point 9.
func TestAcquire_AtAnyMomentOfAnUnload_IsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2)), 20*time.Millisecond))
		for i := range 100 {
			r.use("a")
			done := make(chan struct{})
			go func() {
				defer close(done)
				time.Sleep(time.Duration(i%5) * time.Millisecond)
				if j, err := r.MoveTier(t.Context(), "a", tier.Storage); err == nil {
					<-j.Done()
				} else if !errors.Is(err, modeltier.ErrInUse) && !errors.Is(err, modeltier.ErrInvalid) {
					t.Errorf("MoveTier: %v", err)
				}
			}()
			time.Sleep(time.Duration(i%7) * 4 * time.Millisecond)
			l := r.get("a")
			if at := r.mover.At("a"); at != tier.RAM {
				t.Errorf("leased while it is in %v", at)
			}
			time.Sleep(time.Millisecond)
			l.Release()
			<-done
		}
	})
}

// Pain points 10 and 31: no waiter's context ends a load that others wait for.
func TestAcquire_FirstClientLeaves_LoadGoesOnForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		first := r.begin("a")
		time.Sleep(500 * time.Millisecond)
		second := r.begin("a")
		time.Sleep(500 * time.Millisecond)
		first.leave()
		first.refused(errLeft, time.Second)
		s := r.Status()
		if len(s.Moves) != 1 {
			t.Fatalf("%d moves, want the load", len(s.Moves))
		}
		job, ok := r.Job(s.Moves[0].Job)
		if !ok {
			t.Fatalf("the load's job %q cannot be asked for", s.Moves[0].Job)
		}
		time.Sleep(time.Second)
		if p := job.Progress(); p.Fraction != 0.5 {
			t.Errorf("the job's progress is %v, want half", p.Fraction)
		}
		second.served(2500 * time.Millisecond).Release()
		if err := job.Wait(t.Context()); err != nil {
			t.Errorf("the job: %v", err)
		}
		r.wantMoves("load a")
	})
}

// Pain point 10.
func TestAcquire_ClientsWithShortPatience_GetTheModelOfTheOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4)))
		for range 5 {
			c := r.begin("a")
			time.Sleep(time.Second)
			c.leave()
			c.refused(errLeft, time.Second)
			time.Sleep(100 * time.Millisecond)
		}
		r.begin("a").served(500 * time.Millisecond).Release() // of the load's 6 s
		r.wantMoves("load a")
	})
}

// Pain point 11.
func TestAcquire_WrongModelAskedForAndLeft_ItsLoadYieldsToTheRightOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4), model("b", 2)))
		wrong := r.begin("a")
		time.Sleep(time.Second)
		wrong.leave()
		time.Sleep(time.Second)
		r.begin("b").served(3 * time.Second).Release() // and not 4 s later
		r.wantMoves("load a", "load b")
		if at := r.mover.At("a"); at != tier.Storage {
			t.Errorf("a is in %v", at)
		}
		r.wantUsed(2 * tier.GiB)
	})
}

// Pain point 11.
func TestAcquire_LoadWithWaiters_IsNotCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4), model("b", 2)))
		a := r.begin("a")
		time.Sleep(time.Second)
		b := r.begin("b")
		a.served(6 * time.Second).Release()
		b.served(5*time.Second + 3*time.Second).Release()
		r.wantMoves("load a", "unload a", "load b")
	})
}

// Pain point 12.
func TestAcquire_RequestsThatDiffer_ShareOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", 2)
		a.Labels = map[string]string{"context": "32k"}
		r := newRig(t, onlyRAM(a, model("b", 2)))
		context := func(text string) []tier.Constraint {
			c, err := tier.ParseConstraint(text)
			if err != nil {
				t.Fatal(err)
			}
			return []tier.Constraint{c}
		}
		var clients []*client
		for _, req := range []modeltier.Request{
			{Model: "a"},
			{Model: "a", Capabilities: []string{"text-generation"}},
			{Model: "a", Background: true},
			{Model: "a", Priority: modeltier.Quality},
			{Model: "a", Constraints: context("context >= 4096")},
			{Model: "a", Constraints: context("context >= 8k")},
			{Model: "a", Constraints: context("context >= 32768")},
			{Preferred: "a", Fallback: true},
			{Constraints: context("context >= 16k")},
		} {
			clients = append(clients, r.beginWith(req))
		}
		for _, c := range clients {
			c.served(3 * time.Second)
		}
		for _, c := range clients {
			r.beginWith(modeltier.Request{Model: "a", Background: true}).served(0)
			c.lease.Release()
		}
		r.wantMoves("load a")
	})
}

func TestAcquire_DuringAMoveFromSwapToRAM_SharesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4))
		cfg.Limits.Swap = 10 * tier.GiB
		r := newRig(t, cfg)
		r.use("a")
		for _, to := range []tier.Tier{tier.Swap, tier.RAM} {
			job := order(t)(r.MoveTier(t.Context(), "a", to))
			if to == tier.Swap {
				if err := job.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(500 * time.Millisecond)
		r.begin("a").served(1500 * time.Millisecond).Release() // the rest of 2 s
		r.wantMoves("load a", "demote a", "promote a")
	})
}

func TestAcquire_ThirtyColdRequestsAtOnce_AllAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		var clients []*client
		for range 30 {
			clients = append(clients, r.begin("a"))
		}
		for _, c := range clients {
			c.served(3 * time.Second).Release()
		}
		r.wantMoves("load a")
	})
}

func TestAcquire_ScenariosOfOllama(t *testing.T) {
	scenario(t, "ollama/TestSchedLoad error reaches the caller and nothing is left", func(t *testing.T) {
		broken := errors.New("no such engine")
		r := newRig(t, doomed(onlyRAM(model("a", 2)), map[string]error{"a": broken}))
		r.begin("a").refused(broken, 1500*time.Millisecond)
		r.wantUsed(0)
		if m := r.model("a"); m.Tier != tier.Storage || m.Leases != 0 || m.Waiters != 0 || m.Moving {
			t.Errorf("%+v", m)
		}
	})
	scenario(t, "ollama/TestSchedLoad engine that fails after its start is gone and unused", func(t *testing.T) {
		lost := &tier.MoveError{Model: "a", From: tier.Swap, To: tier.RAM, Lost: true, Err: errors.New("it fell over")}
		fail := false
		cfg := onlyRAM(model("a", 2))
		cfg.Limits.Swap = 10 * tier.GiB
		// The fake never reports a crash; this mover does.
		cfg.Mover = tier.MoverFunc(func(context.Context, tier.Move, func(tier.Bytes)) error {
			if fail {
				return lost
			}
			return nil
		})
		r := newRig(t, cfg)
		r.use("a")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Swap)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		fail = true
		job := order(t)(r.MoveTier(t.Context(), "a", tier.RAM))
		if err := job.Wait(t.Context()); !errors.Is(err, modeltier.ErrMove) {
			t.Errorf("the job: %v, want ErrMove", err)
		}
		if s := r.Status(); s.Models[0].Tier != tier.Storage || s.Models[0].Leases != 0 || s.RAM.Used != 0 || s.Swap.Used != 0 {
			t.Errorf("%+v, %v and %v used; want nothing left", s.Models[0], s.RAM.Used, s.Swap.Used)
		}
		fail = false
		r.use("a")
	})
	scenario(t, "ollama/TestSchedRequestsSameModelSameRequest", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		one := r.get("a")
		two := r.begin("a").served(0)
		if m := r.model("a"); m.Leases != 2 || m.Accesses != 2 {
			t.Errorf("%d leases, %d accesses; want 2 and 2", m.Leases, m.Accesses)
		}
		one.Release()
		two.Release()
		r.wantMoves("load a")
	})
	scenario(t, "ollama/TestSchedRequestsSimpleReloadSameModel", func(t *testing.T) {
		r, scale := newObserverRig(t, onlyRAM(model("a", 4)), false)
		r.memory(8*tier.GiB, 6*tier.GiB)
		scale.Probe = r.probe
		scale.Lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
		old := r.get("a")
		changed := model("a", 4)
		changed.Runtime, changed.Home = tier.GiB/2, tier.RAM
		if _, err := r.HotLoad(t.Context(), changed); !errors.Is(err, modeltier.ErrExists) {
			t.Errorf("beside the old one: %v, want ErrExists", err)
		}
		if _, err := r.Remove(t.Context(), "a"); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("under the old one's request: %v, want ErrInUse", err)
		}
		old.Release()
		if err := order(t)(r.Remove(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		r.wantUsed(4 * tier.GiB) // it is still seen
		scale.Put("a", 0)
		time.Sleep(2 * time.Second)
		if err := order(t)(r.HotLoad(t.Context(), changed)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantUsed(4*tier.GiB + tier.GiB/2)
		if scale.Peak() != 4*tier.GiB+tier.GiB/2 {
			t.Errorf("%v were in memory at once, want 4.5 GiB", scale.Peak())
		}
	})
	scenario(t, "ollama/TestSchedRequestsMultipleLoadedModels", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 2), model("big", 4)))
		leases := map[string]*modeltier.Lease{}
		for _, name := range []string{"a", "b", "c"} {
			leases[name] = r.get(name)
		}
		big := r.begin("big")
		for _, name := range []string{"c", "b"} { // 4 GiB are free when two have left
			time.Sleep(time.Second)
			if !big.waits() {
				t.Fatalf("big came in beside %s", name)
			}
			leases[name].Release()
		}
		time.Sleep(time.Second)
		r.wantAt("a", tier.RAM)
		big.served(3*time.Second + 5*time.Second)
		leases["a"].Release()
		if r.model("a").Tier != tier.RAM {
			t.Error("a had to leave though big fits beside it")
		}
	})
	scenario(t, "ollama/TestSchedGetRunner queue of one", func(t *testing.T) {
		cfg := onlyRAM(model("a", 2), model("b", 2))
		cfg.MaxQueue = 1
		r := newRig(t, cfg)
		a := r.begin("a")
		err := r.begin("b").refused(modeltier.ErrBusy, 0)
		if busy, ok := errors.AsType[*tier.BusyError](err); !ok || busy.RetryAfter <= 0 {
			t.Errorf("%v, want to be told when to come back", err)
		}
		a.served(3 * time.Second).Release()
		r.begin("b").served(3 * time.Second).Release()
	})
	scenario(t, "ollama/TestSchedGetRunner bad path has its own error, idle model leaves meanwhile", func(t *testing.T) {
		r := newRig(t, doomed(onlyRAM(model("a", 2), model("bad", 1)), map[string]error{"bad": fs.ErrNotExist}))
		r.use("a")
		bad := r.begin("bad")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		bad.refused(fs.ErrNotExist, 750*time.Millisecond)
		r.wantUsed(0)
	})
	scenario(t, "ollama/TestSchedGetRunnerUsesDigestKey a name is a model, whatever its file", func(t *testing.T) {
		one, two := model("one", 2), model("two", 2)
		one.Path, two.Path = "/weights/same.gguf", "/weights/same.gguf"
		r := newRig(t, onlyRAM(one, two))
		r.use("one")
		r.use("two")
		r.wantMoves("load one", "load two")
		r.wantUsed(4 * tier.GiB) // on the safe side
	})
	scenario(t, "ollama/ReusesSameDigest the same model asked for in many ways is one", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("one", 2)))
		r.use("one")
		for _, req := range []modeltier.Request{{Model: "one"}, {Preferred: "one"}, {Capabilities: []string{"text-generation"}}} {
			r.beginWith(req).served(0).Release()
		}
		r.wantMoves("load one")
	})
	scenario(t, "ollama/TestSchedAlreadyCanceled", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		if l, err := r.Acquire(ctx, modeltier.Request{Model: "a"}); l != nil || !errors.Is(err, errLeft) {
			t.Errorf("%v, %v; want the context's cause", l, err)
		}
		time.Sleep(time.Minute)
		r.wantMoves()
	})
}

func TestAcquire_ScenariosOfLlamaSwap(t *testing.T) {
	scenario(t, "llama-swap/SendAdmission_CancelledContextWins GrantServeFalseDoesNotLeakInFlight", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		for range 50 {
			c := r.begin("a")
			time.AfterFunc(3*time.Second, func() { c.cancel(errLeft) }) // as the load ends
			<-c.done
			time.Sleep(time.Millisecond)
			switch {
			case c.err == nil:
				c.lease.Release()
			case !errors.Is(c.err, errLeft) || c.lease != nil:
				t.Errorf("%v, %v; want a lease or the context's cause", c.lease, c.err)
			}
			if m := r.model("a"); m.Leases != 0 || m.Waiters != 0 {
				t.Fatalf("%d leases and %d waiters are left", m.Leases, m.Waiters)
			}
			if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
	scenario(t, "llama-swap/FastPath OnDemandStartThenServe GrantSetsPriorityMetadata", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		l := r.begin("a").served(3 * time.Second)
		if l.Tier() != tier.RAM || !l.Moved() || l.Waited() != 3*time.Second || l.Kept() != 2*tier.GiB {
			t.Errorf("from %v, moved %v, waited %v, %v present", l.Tier(), l.Moved(), l.Waited(), l.Kept())
		}
		l.Release()
		l = r.begin("a").served(0)
		if l.Tier() != tier.RAM || l.Moved() || l.Waited() != 0 || l.Kept() != 2*tier.GiB {
			t.Errorf("from %v, moved %v, waited %v, %v present", l.Tier(), l.Moved(), l.Waited(), l.Kept())
		}
		l.Release()
	})
	scenario(t, "llama-swap/ModelNotFound", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("llama", 2)))
		err := r.begin("lama").refused(modeltier.ErrNotFound, 0)
		if nf, ok := errors.AsType[*tier.NotFoundError](err); !ok || !slices.Contains(nf.Nearby, "llama") {
			t.Errorf("%v, want an error that names llama", err)
		}
	})
	scenario(t, "llama-swap/JoinInFlightSwap", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		var clients []*client
		for range 3 {
			clients = append(clients, r.begin("a"))
			time.Sleep(time.Second / 2)
		}
		for i, c := range clients {
			c.served(3*time.Second - time.Duration(i)*time.Second/2)
		}
		r.wantMoves("load a")
	})
	scenario(t, "llama-swap/SwapDoneError_FailsAllWaiters", func(t *testing.T) {
		broken := errors.New("not a model")
		r := newRig(t, doomed(onlyRAM(model("a", 2)), map[string]error{"a": broken}))
		clients := []*client{r.begin("a"), r.begin("a"), r.begin("a")}
		for _, c := range clients {
			c.refused(broken, 1500*time.Millisecond)
		}
		r.wantMoves("load a")
	})
	scenario(t, "llama-swap/OnUnload_ReleasesActiveWaiters OnUnload_DropsQueuedRequests they are served, the owner is told", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		a, b := r.begin("a"), r.begin("b")
		for _, name := range []string{"a", "b"} {
			if _, err := r.Remove(t.Context(), name); !errors.Is(err, modeltier.ErrInUse) {
				t.Errorf("%s: %v, want ErrInUse", name, err)
			}
			if _, err := r.MoveTier(t.Context(), name, tier.Swap); !errors.Is(err, modeltier.ErrInUse) {
				t.Errorf("%s: %v, want ErrInUse", name, err)
			}
		}
		a.served(4500 * time.Millisecond).Release()
		b.served(10500 * time.Millisecond).Release()
	})
	scenario(t, "llama-swap/OnShutdown_FailsAllWaiters", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		clients := []*client{r.begin("a"), r.begin("a"), r.begin("b")}
		time.Sleep(time.Second)
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		for _, c := range clients {
			c.refused(modeltier.ErrClosed, time.Second)
		}
	})
	scenario(t, "llama-swap/OnCancel_QueuedRequest OnCancel_SwapWaiter OnCancel_NotPresent", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		swap, queued := r.begin("a"), r.begin("b")
		other := r.begin("b")
		time.Sleep(time.Second)
		queued.leave()
		queued.refused(errLeft, time.Second)
		swap.leave()
		swap.refused(errLeft, time.Second)
		swap.leave() // a second time, after the wait has ended
		other.served(time.Second + 6*time.Second).Release()
		r.wantMoves("load a", "load b") // a's load was called off
	})
}
