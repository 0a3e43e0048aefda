package modeltier_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestScenarios_LlamaSwap_Admission(t *testing.T) {
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
			t.Errorf("%v, want an error that knows llama", err)
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
		swap.leave() // again, when there is nothing left to leave
		other.served(time.Second + 6*time.Second).Release()
		r.wantMoves("load a", "load b") // a's load was called off
	})
}

func TestScenarios_LlamaSwap_Queue(t *testing.T) {
	scenario(t, "llama-swap/QueueOnEvictionCollision", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		a := r.begin("a")
		b := r.begin("b")
		a.served(4500 * time.Millisecond)
		time.Sleep(time.Second)
		r.wantAt("a", tier.RAM)
		a.lease.Release()
		b.served(5500*time.Millisecond + 6*time.Second).Release()
	})
	scenario(t, "llama-swap/DisjointSwapsRunInParallel", func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2.5), model("b", 2.5), model("c", 2.5), model("d", 2.5)), time.Second))
		r.use("a")
		r.use("b")
		c, d := r.begin("c"), r.begin("d")
		c.served(time.Second + 3750*time.Millisecond).Release()
		d.served(time.Second + 3750*time.Millisecond).Release()
	})
	scenario(t, "llama-swap/OverlappingEvictSetsDoNotRunInParallel", func(t *testing.T) {
		r, scale := newScaleRig(t, slowUnload(onlyRAM(model("a", 4), model("b", 3), model("c", 3)), time.Second))
		r.use("a")
		b, c := r.begin("b"), r.begin("c")
		b.served(time.Second + 4500*time.Millisecond).Release()
		c.served(5500*time.Millisecond + time.Second + 4500*time.Millisecond).Release()
		if scale.most() != 4*tier.GiB {
			t.Errorf("%v were in memory at once", scale.most())
		}
		r.wantMoves("load a", "unload a", "load b", "unload b", "load c")
	})
	scenario(t, "llama-swap/QueueDrainPromotesMultiple", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 5), model("b", 1), model("c", 1), model("d", 1)))
		a := r.get("a")
		clients := []*client{r.begin("b"), r.begin("c"), r.begin("d")}
		time.Sleep(time.Second)
		a.Release()
		for _, c := range clients {
			c.served(time.Second + 1500*time.Millisecond).Release()
		}
	})
	scenario(t, "llama-swap/QueueCollation A B C A B C", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4), model("b", 4), model("c", 4)))
		var clients []*client
		for _, name := range []string{"a", "b", "c", "a", "b", "c"} {
			clients = append(clients, r.begin(name))
			time.Sleep(100 * time.Millisecond)
		}
		for _, first := range []int{0, 1, 2} { // both of a model, then the next
			for _, i := range []int{first, first + 3} {
				came := time.Duration(i) * 100 * time.Millisecond
				clients[i].served(time.Duration(first+1)*6*time.Second - came)
			}
			clients[first].lease.Release()
			clients[first+3].lease.Release()
		}
		r.wantMoves("load a", "unload a", "load b", "unload b", "load c")
	})
	scenario(t, "llama-swap/PriorityQueueOrder", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 5), model("low", 5), model("high", 5)))
		a := r.get("a")
		low := r.beginWith(modeltier.Request{Model: "low", Background: true})
		high := r.begin("high")
		time.Sleep(time.Second)
		a.Release()
		high.served(time.Second + 7500*time.Millisecond).Release()
		low.served(8500*time.Millisecond + 7500*time.Millisecond).Release()
	})
	scenario(t, "llama-swap/NoSwapWhileServing", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		one, two := r.get("a"), r.get("a")
		b := r.begin("b")
		time.Sleep(2 * time.Second)
		one.Release()
		time.Sleep(2 * time.Second)
		r.wantMoves("load a")
		two.Release()
		b.served(4*time.Second + 6*time.Second).Release()
	})
	scenario(t, "llama-swap/queue of many models for one slot is served to the last", func(t *testing.T) {
		var models []tier.Model
		for i := range 30 {
			models = append(models, model(fmt.Sprintf("m%d", i), 3))
		}
		r := newRig(t, onlyRAM(models...))
		var clients []*client
		for _, m := range models {
			clients = append(clients, r.begin(m.Name))
			time.Sleep(time.Millisecond)
		}
		for i, c := range clients { // first come, first served
			c.served(time.Duration(i+1)*4500*time.Millisecond - time.Duration(i)*time.Millisecond).Release()
		}
	})
}

func TestScenarios_LlamaSwap_ConcurrencyLimit(t *testing.T) {
	limited := func(models ...tier.Model) modeltier.Config {
		cfg := onlyRAM(models...)
		cfg.MaxQueueModel = 2
		return cfg
	}
	scenario(t, "llama-swap/ConcurrencyLimit over the limit, before anything is loaded", func(t *testing.T) {
		r := newRig(t, limited(model("a", 2), model("b", 2)))
		r.begin("a")
		r.begin("a")
		err := r.begin("a").refused(modeltier.ErrBusy, 0)
		if busy, ok := errors.AsType[*tier.BusyError](err); !ok || busy.Model != "a" || busy.Queued != 2 || busy.RetryAfter <= 0 {
			t.Errorf("%#v, want a's queue of 2 and when to come back", err)
		}
		r.begin("b").served(3 * time.Second).Release() // another model's queue is its own
	})
	scenario(t, "llama-swap/ConcurrencyLimit default", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		var clients []*client
		for range 1024 {
			clients = append(clients, r.begin("a"))
		}
		r.begin("a").refused(modeltier.ErrBusy, 0)
		for _, c := range clients {
			c.served(3 * time.Second).Release()
		}
	})
	scenario(t, "llama-swap/ConcurrencyLimit waiters count, leases do not", func(t *testing.T) {
		r := newRig(t, limited(model("a", 2)))
		a, b := r.begin("a"), r.begin("a")
		a.served(3 * time.Second)
		b.served(3 * time.Second)
		for range 10 {
			r.begin("a").served(0)
		}
	})
	scenario(t, "llama-swap/ConcurrencyLimit cancel frees the slot", func(t *testing.T) {
		r := newRig(t, limited(model("a", 2)))
		r.begin("a")
		left := r.begin("a")
		r.begin("a").refused(modeltier.ErrBusy, 0)
		left.leave()
		r.begin("a").served(3 * time.Second).Release()
	})
	scenario(t, "llama-swap/ConcurrencyLimit queued waiters reserve capacity", func(t *testing.T) {
		r := newRig(t, limited(model("a", 3), model("b", 4)))
		a := r.get("a")
		r.begin("b")
		r.begin("b") // both in the queue: nothing of b is loading
		time.Sleep(time.Second)
		r.begin("b").refused(modeltier.ErrBusy, 0)
		r.wantMoves("load a")
		a.Release()
	})
}
