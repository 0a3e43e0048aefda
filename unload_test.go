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

// Pain point 16.
func TestMoveTier_OwnerPutsAModelToSleep_ItWakesWhenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3))
		cfg.Limits.Swap = 10 * tier.GiB
		r := newRig(t, cfg)
		r.use("a")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Swap)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); s.RAM.Used != 0 || s.Swap.Used != 3*tier.GiB {
			t.Errorf("asleep it takes %v and %v, want 0 and 3 GiB", s.RAM.Used, s.Swap.Used)
		}
		r.begin("a").served(1500 * time.Millisecond).Release()
		r.wantMoves("load a", "demote a", "promote a")
	})
}

// Pain point 19.
func TestMoveTier_Pinned_ItsOwnerMayMoveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 3))))
		r.use("a")
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantAt("a", tier.Storage)
	})
}

func TestUnload_InUse_WaitsForIdlenessWhileRequestsAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		cfg.Models[0].Home = tier.RAM
		cfg.OptimizeEvery = time.Second
		r := newRig(t, cfg)
		first := r.get("a")
		job := order(t)(r.Unload(t.Context(), "a"))
		time.Sleep(time.Second)
		second := r.get("a") // as ever
		first.Release()
		synctest.Wait()
		if job.Err() != nil || r.at("a") != tier.RAM {
			t.Fatalf("under a lease: %v, in %v", job.Err(), r.at("a"))
		}
		second.Release()
		synctest.Wait()
		select {
		case <-job.Done(): // with its last lease, and not at the next look
		default:
			t.Error("idle, and not unloaded")
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := r.model("a"); s.Tier != tier.Storage || s.Home != tier.RAM || s.ChargedRAM != 0 {
			t.Errorf("unloaded it is %+v", s)
		}
		time.Sleep(time.Hour) // it is not brought home by itself
		r.wantAt("a", tier.Storage)
		if err := order(t)(r.Unload(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Errorf("in storage already: %v", err)
		}
		r.use("a")
		r.wantMoves("load a", "unload a", "load a")
	})
}

func TestUnload_GaveWayForAnOutsider_IsNotBroughtHomeWhenThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		cfg.Models[0].Home = tier.RAM
		r := newRig(t, cfg)
		r.use("a")
		room, err := r.Reserve(t.Context(), 5*tier.GiB, "a game")
		if err != nil {
			t.Fatal(err)
		}
		if err := order(t)(r.Unload(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		room.Release()
		time.Sleep(time.Minute)
		r.wantAt("a", tier.Storage)
	})
}

func TestUnload_NeverIdle_FailsWhenItsTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		cfg.MaxWait = time.Minute
		r := newRig(t, cfg)
		l := r.get("a")
		defer l.Release()
		began := time.Now()
		job := order(t)(r.Unload(t.Context(), "a"))
		err := job.Wait(t.Context())
		if in, ok := errors.AsType[*tier.InUseError](err); !ok || in.Leases != 1 || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		r.wantAt("a", tier.RAM)
	})
}

func TestUnload_CancelledOrOvertakenWhileItWaits_Ends(t *testing.T) {
	cause := errors.New("not that one")
	for name, c := range map[string]struct {
		do   func(r *rig, j *modeltier.Job)
		want error
	}{
		"cancelled": {func(_ *rig, j *modeltier.Job) { j.Cancel(cause) }, cause},
		"closed":    {func(r *rig, _ *modeltier.Job) { r.Close() }, modeltier.ErrClosed},
		"reconfigured away": {func(r *rig, _ *modeltier.Job) {
			if _, err := r.Reconfigure(r.t.Context(), nil, tier.Limits{Swap: tier.None}); err != nil {
				r.t.Error(err)
			}
		}, modeltier.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onlyRAM(model("a", 1)))
				l := r.get("a")
				job := order(t)(r.Unload(t.Context(), "a"))
				other := order(t)(r.Unload(t.Context(), "a")) // each has a job of its own
				c.do(r, job)
				synctest.Wait()
				if err := job.Err(); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				l.Release()
				other.Wait(t.Context())
				if name == "cancelled" {
					r.wantAt("a", tier.Storage)
				}
			})
		})
	}
}

func TestSetPinned_IdleModel_GivesWayNoMoreUntilItIsUnpinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		r.use("a")
		if err := r.SetPinned(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"}); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("room for b beside a pinned model: %v", err)
		}
		r.wantAt("a", tier.RAM)
		if err := r.SetPinned(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		r.use("b")
		r.wantAt("a", tier.Storage)
	})
}

func TestSetPinned_WhileItDrainsForAnother_Stays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		l := r.get("a")
		c := r.begin("b")
		time.Sleep(4 * time.Second) // beyond the fairness bound: a drains
		if err := r.SetPinned(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
		l.Release()
		c.refused(modeltier.ErrNoCapacity, 4*time.Second)
		r.wantAt("a", tier.RAM)
		r.use("a")
		r.wantMoves("load a")
	})
}

func TestContract_Lifecycle_IsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1)))
		job := func(a map[string]any) *modeltier.Job {
			t.Helper()
			id, _ := a["job_id"].(string)
			j, ok := r.Job(id)
			if !ok || a["status"] != "tier_move_started" {
				t.Fatalf("no job was started: %v", a)
			}
			return j
		}
		l := r.get("a")
		if a := r.ask(`{"unload": {"model_name": "a"}}`); a["code"] != "in_use" {
			t.Errorf("leased: %v", a)
		}
		when := job(r.ask(`{"unload": {"model_name": "a", "when_idle": true}}`))
		l.Release()
		if err := when.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.use("a")
		if err := job(r.ask(`{"unload": {"model_name": "a", "when_idle": false}}`)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if a := r.ask(`{"pin": {"model_name": "a", "pinned": true}}`); a["status"] != "success" || a["pinned"] != true {
			t.Errorf("pin: %v", a)
		}
		if a := r.ask(`{"alias": {"name": "chat", "model_name": "a"}}`); a["status"] != "success" || a["alias"] != "chat" {
			t.Errorf("alias: %v", a)
		}
		listed := r.ask(`{"list_models": true}`)["models"].(map[string]any)
		if a := listed["a"].(map[string]any); a["pinned"] != true || len(a["aliases"].([]any)) != 1 {
			t.Errorf("listed: %v", a)
		}
		if b := listed["b"].(map[string]any); b["pinned"] != nil || b["aliases"] != nil {
			t.Errorf("listed: %v", b)
		}
		if a := r.ask(`{"model": "chat"}`); a["model"] != "a" {
			t.Errorf("by its alias: %v", a)
		}
		if a := r.ask(`{"alias": {"name": "chat", "model_name": null}}`); a["status"] != "success" {
			t.Errorf("no alias any more: %v", a)
		}
		if a := r.ask(`{"model": "chat"}`); a["code"] != "not_found" {
			t.Errorf("by what was its alias: %v", a)
		}
		if err := job(r.ask(`{"remove": "b"}`)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if a := r.ask(`{"remove": "b"}`); a["code"] != "not_found" {
			t.Errorf("removed twice: %v", a)
		}
	})
}

func TestUnload_ScenariosOfLlamaSwap(t *testing.T) {
	scenario(t, "llama-swap/Unload_StopsInParallel", func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 1.5), model("b", 1.5), model("c", 1.5)), 4*time.Second))
		for _, name := range []string{"a", "b", "c"} {
			r.use(name)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		if _, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 1 * tier.GiB}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("three models left in %v, want the 4s of one", took)
		}
		r.wantUsed(0)
	})
	scenario(t, "llama-swap/RequestDuringStop EnsureReadyDuringStop", func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2), model("b", 4)), 2*time.Second))
		r.use("a")
		b := r.begin("b") // a has to stop for it
		time.Sleep(time.Second)
		a := r.begin("a")
		b.served(2*time.Second + 6*time.Second).Release()
		a.served(7*time.Second + 2*time.Second + 3*time.Second).Release()
	})
	scenario(t, "llama-swap/EnsureReadyIsIdempotent", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		for range 5 {
			r.use("a")
		}
		if _, err := r.MoveTier(t.Context(), "a", tier.RAM); err != nil { // only its home changes
			t.Error(err)
		}
		if _, err := r.MoveTier(t.Context(), "a", tier.RAM); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("again: %v, want to be told that it is there", err)
		}
		r.wantMoves("load a")
	})
	scenario(t, "llama-swap/ContextCancel the wait ends, the others' do not", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := r.begin("a")
		if _, err := r.Acquire(ctx, modeltier.Request{Model: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the deadline", err)
		}
		other.served(3 * time.Second).Release()
	})
	scenario(t, "llama-swap/ConcurrencyLimitRejectsBeforeLoadingStream", func(t *testing.T) {
		cfg := onlyRAM(model("a", 2), model("b", 2))
		cfg.MaxQueue = 1
		r := newRig(t, cfg)
		a := r.begin("a")
		r.begin("b").refused(modeltier.ErrBusy, 0)
		a.served(3 * time.Second).Release()
		time.Sleep(time.Minute)
		r.wantMoves("load a")
	})
	scenario(t, "llama-swap/Shutdown_StopsAllProcesses", func(t *testing.T) {
		closed := 0
		cfg := onlyRAM(model("a", 1), model("b", 1))
		cfg.Mover = &closing{Mover: cfg.Mover, closed: &closed}
		r := newRig(t, cfg)
		r.use("a")
		r.use("b")
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil || closed != 1 {
			t.Errorf("%v, the mover was closed %d times; want once", err, closed)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
	})
}

func TestUnload_ScenariosOfOllama(t *testing.T) {
	scenario(t, "ollama/TestSchedExpireRunner a busy model is not taken away, its owner is told", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		l := r.get("a")
		_, err := r.MoveTier(t.Context(), "a", tier.Storage)
		if in, ok := errors.AsType[*tier.InUseError](err); !ok || in.Leases != 1 {
			t.Errorf("%v, want ErrInUse by one lease", err)
		}
		r.begin("a").served(0).Release()
		l.Release()
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantUsed(0)
	})
	scenario(t, "ollama/TestSchedPrematureExpired events without a purpose do no harm", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		l := r.get("a")
		for range 3 {
			l.Release()
		}
		if _, err := r.Remove(t.Context(), "unknown"); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("err = %v, want ErrNotFound", err)
		}
		job := order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
		if err := job.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		job.Cancel(errLeft)
		job.Cancel(errLeft)
		if _, err := r.MoveTier(t.Context(), "a", tier.Storage); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("to where it is: %v, want ErrInvalid", err)
		}
		if m := r.model("a"); m.Leases != 0 {
			t.Errorf("%d leases", m.Leases)
		}
		r.use("a")
		r.wantMoves("load a", "unload a", "load a")
	})
	scenario(t, "ollama/TestSchedUseLoadedRunner", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		r.use("a")
		time.Sleep(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		l, err := r.Acquire(ctx, modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if m := r.model("a"); m.Leases != 1 || time.Since(m.LastUse) != 0 {
			t.Errorf("%d leases, last used %v ago; want 1, now", m.Leases, time.Since(m.LastUse))
		}
		cancel() // the wait is over: the lease is its holder's until released
		synctest.Wait()
		if m := r.model("a"); m.Leases != 1 {
			t.Errorf("%d leases after the wait's context, want 1", m.Leases)
		}
		l.Release()
		if m := r.model("a"); m.Leases != 0 {
			t.Errorf("%d leases after the release, want 0", m.Leases)
		}
	})
	scenario(t, "ollama/TestSchedUnloadAllRunners the one that is loading too", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2)))
		r.use("a")
		b := r.begin("b")
		time.Sleep(time.Second)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		b.refused(modeltier.ErrClosed, time.Second)
		if at := r.mover.At("b"); at != tier.Storage {
			t.Errorf("b is in %v", at)
		}
	})
	scenario(t, "ollama/TestSchedUnload everything is closed in order", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2)))
		r.use("a")
		l := r.get("b")
		time.AfterFunc(time.Second, l.Release)
		began := time.Now()
		if err := r.Shutdown(t.Context()); err != nil || time.Since(began) != time.Second {
			t.Errorf("%v after %v, want the end of the lease after 1s", err, time.Since(began))
		}
	})
}

// hanging is a mover whose moves of one model block until it is released.
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

func TestUnload_ScenariosOfLocalAI(t *testing.T) {
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
		r.wantUsed(4 * tier.GiB) // a's bytes stay charged until they are gone
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
		r.begin("a").refused(modeltier.ErrMove, 1500*time.Millisecond) // and not ErrBusy: the count of failures was reset
	})
}

func TestUnload_ScenariosOfLemonade(t *testing.T) {
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
			t.Error("the model is not pinned any more")
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
		one := r.begin("a") // it is not served by the crashed engine
		time.Sleep(time.Second)
		held.Release() // whose client was told so by the connection
		time.Sleep(time.Second)
		two := r.begin("a")
		one.served(time.Second + 3*time.Second).Release()
		two.served(2 * time.Second).Release()
		r.wantMoves("load a", "unload a", "load a")
	})
}
