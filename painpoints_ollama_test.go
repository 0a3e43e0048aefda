package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestScenarios_Ollama_Loads(t *testing.T) {
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
		// The fake does not lose models; this one does.
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
		scale.machine = r.probe
		scale.lingers = func(mv tier.Move) tier.Bytes { return mv.Model.Size }
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
		scale.put("a", 0)
		time.Sleep(2 * time.Second)
		if err := order(t)(r.HotLoad(t.Context(), changed)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantUsed(4*tier.GiB + tier.GiB/2)
		if scale.most() != 4*tier.GiB+tier.GiB/2 {
			t.Errorf("%v were in memory at once, want 4.5 GiB", scale.most())
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

func TestScenarios_Ollama_Expiry(t *testing.T) {
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
		if _, err := r.Remove(t.Context(), "nobody"); !errors.Is(err, modeltier.ErrNotFound) {
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
			t.Errorf("%v after %v, want the end of the lease in 1s", err, time.Since(began))
		}
	})
}

func TestScenarios_Ollama_ManyAtOnce(t *testing.T) {
	scenario(t, "ollama/concurrency_test several models at once", func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 1), model("b", 2), model("c", 3), model("d", 1.5)))
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				for n := range 20 {
					l := r.get(fmt.Sprintf("%c", 'a'+(i*7+n)%4))
					time.Sleep(time.Duration(50+i) * time.Millisecond)
					l.Release()
				}
			})
		}
		wg.Wait()
		if scale.most() > 5*tier.GiB {
			t.Errorf("%v were in memory at once", scale.most())
		}
		if s := r.Status(); s.Accesses.Total != 32*20 || s.Waiting != 0 {
			t.Errorf("%d served, %d wait; want 640 and 0", s.Accesses.Total, s.Waiting)
		}
	})
	scenario(t, "ollama/max_queue_test", func(t *testing.T) {
		cfg := onlyRAM(model("a", 2))
		cfg.MaxQueue = 10
		r := newRig(t, cfg)
		var clients []*client
		for range 50 {
			clients = append(clients, r.begin("a"))
		}
		served, busy := 0, 0
		for _, c := range clients {
			<-c.done
			switch {
			case c.err == nil:
				served++
				c.lease.Release()
			case errors.Is(c.err, modeltier.ErrBusy) && c.took == 0:
				busy++
			default:
				t.Errorf("%v after %v", c.err, c.took)
			}
		}
		if served != 10 || busy != 40 {
			t.Errorf("%d served, %d told to come back; want 10 and 40", served, busy)
		}
		r.begin("a").served(0).Release()
		if n := r.Status().Refusals["busy"]; n != 40 {
			t.Errorf("%d refusals are counted, want 40", n)
		}
	})
}
