package modeltier_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestFairness_ResidentModelBusyWithoutPause_OtherIsServedInTime(t *testing.T) {
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

// Pain point 3.
func TestFairness_TwoModelsOneSlot_EachServesAllItsWaitersBeforeItLeaves(t *testing.T) {
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

// Pain point 13.
func TestFairness_RequestsInTurn_AreCollatedByModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4), model("b", 4), model("c", 4)))
		var clients []*client
		for i := range 12 {
			clients = append(clients, r.begin(fmt.Sprintf("%c", 'a'+i%3)))
		}
		for i := range 3 {
			for j := i; j < len(clients); j += 3 {
				clients[j].served(time.Duration(1+i) * 6 * time.Second).Release()
			}
		}
		r.wantMoves("load a", "unload a", "load b", "unload b", "load c")
	})
}

// Pain point 13.
func TestFairness_ConstantDemandForTwo_NeitherThrashNorStarvation(t *testing.T) {
	const fairness, load, use, whole = 3 * time.Second, time.Second, 50 * time.Millisecond, 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3), model("b", 3))
		cfg.Fairness = fairness
		cfg.Mover.(*tiertest.Mover).Time = func(mv tier.Move) time.Duration {
			if mv.To == tier.RAM {
				return load
			}
			return 0
		}
		r := newRig(t, cfg)
		served := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		until := time.Now().Add(whole)
		for i := range 6 {
			wg.Go(func() {
				name := fmt.Sprintf("%c", 'a'+i%2)
				for time.Now().Before(until) {
					l := r.get(name)
					if most := fairness + use + load; l.Waited() > most {
						t.Errorf("%s waited %v, want %v at most", name, l.Waited(), most)
					}
					time.Sleep(use)
					l.Release()
					mu.Lock()
					served[name]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		loads := 0
		for _, mv := range r.mover.Moves() {
			if mv.To == tier.RAM {
				loads++
			}
		}
		// A waiter is served after fairness, one lease and the load, so each model is
		// loaded once in that time and stays for the rest of it.
		if most := 2 * int(whole/(fairness+load)); loads > most {
			t.Errorf("%d loads in %v, want %d at most", loads, whole, most)
		}
		for name, n := range served {
			if n < 10_000 {
				t.Errorf("%s was served %d times", name, n)
			}
		}
	})
}

// Pain point 14.
// One that finds no room because of a long lease does not keep idle models where they are.
func TestFairness_OldestWaitsForALongLease_OthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z, big, x := model("z", 2), model("big", 4), model("x", 2)
		cfg := onlyRAM(model("leased", 1.5), z, big, x)
		r := newRig(t, cfg)
		l := r.get("leased")
		r.use("z")
		r.reconfigured(cfg.Limits, model("leased", 1.6), z, big, x) // it is to leave
		oldest := r.begin("big")
		time.Sleep(30 * time.Second)
		r.begin("x").served(3 * time.Second).Release()
		if !oldest.waits() {
			t.Error("there is room for the oldest")
		}
		l.Release()
		if <-oldest.done; oldest.err != nil {
			t.Error(oldest.err)
		}
	})
}

func TestFairness_Background_GoesBehindInteractiveAndAges(t *testing.T) {
	for _, x := range []struct {
		name        string
		interactive time.Duration // when it comes, after the other
		first       string
	}{
		{"interactive first", time.Second, "c"},
		{"one that waited longer than the fairness bound is not passed", 4 * time.Second, "b"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onlyRAM(model("a", 4), model("b", 4), model("c", 4)))
				a := r.get("a")
				b := r.beginWith(modeltier.Request{Model: "b", Background: true})
				time.Sleep(x.interactive)
				c := r.begin("c")
				time.Sleep(time.Second)
				a.Release()
				clients := map[string]*client{"b": b, "c": c}
				first := clients[x.first]
				delete(clients, x.first)
				<-first.done
				for _, other := range clients {
					if !other.waits() {
						t.Errorf("%s was served before %s", other.name, x.first)
					}
					first.lease.Release()
					<-other.done
					if other.err != nil {
						t.Error(other.err)
					}
				}
			})
		})
	}
}

// Pain point 14.
func TestFairness_ModelThatMayNotBeDisplaced_TypedRefusalAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 4)), model("b", 4)))
		r.use("a")
		err := r.beginWith(modeltier.Request{Model: "b", Background: true}).refused(modeltier.ErrNoCapacity, 0)
		ce, ok := errors.AsType[*tier.CapacityError](err)
		if !ok || len(ce.Holders) != 1 || ce.Holders[0].Model != "a" || !ce.Holders[0].Pinned || len(ce.Suggestions()) == 0 {
			t.Errorf("%#v; want an error that names a, pinned, and a way out", err)
		}
		r.wantMoves("load a")
	})
}

// Pain point 21.
func TestFairness_HotModelAmongCold_IsNotReloadedAllTheTime(t *testing.T) {
	reloads := func(p tier.Placement) (perHour [3]int) {
		synctest.Test(t, func(t *testing.T) {
			cfg := onlyRAM(model("hot", 3), model("c1", 1.5), model("c2", 1.5), model("c3", 1.5), model("c4", 1.5), model("c5", 1.5))
			cfg.Placement, cfg.OptimizeEvery = p, 0
			r := newRig(t, cfg)
			r.use("hot")
			for i := range 3 * 360 { // every minute three cold models come before the hot one
				if i%6 == 5 {
					for j := range 3 {
						r.use(fmt.Sprintf("c%d", 1+(i/6+j)%5))
					}
				}
				l := r.get("hot")
				if l.Moved() {
					perHour[i/360]++
				}
				l.Release()
				time.Sleep(10 * time.Second)
			}
		})
		return perHour
	}
	lru, got := reloads(&optimizer.LRU{}), reloads(nil)
	if lru != [3]int{60, 60, 60} {
		t.Errorf("by age alone it is loaded again %d times an hour, want 60: the test shows nothing", lru)
	}
	if got[2] > 6 || got[0]+got[1]+got[2] > 90 {
		t.Errorf("the hot model was loaded again %d times an hour, %d by age alone", got, lru)
	}
}

func TestFairness_ConstantLoadOnTheResidentModel_OtherIsServedWithinTheBound(t *testing.T) {
	const fairness, longest, load = 2 * time.Second, 700 * time.Millisecond, 6 * time.Second
	for _, clients := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(clients, " clients"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onlyRAM(model("a", 4), model("b", 4))
				cfg.Fairness = fairness
				r := newRig(t, cfg)
				r.use("a")
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
							}
							l := r.get("a")
							time.Sleep(longest - time.Duration(i)*50*time.Millisecond)
							l.Release()
						}
					})
				}
				for i := range 20 {
					time.Sleep(10*time.Second + time.Duration(i)*137*time.Millisecond)
					l := r.get("b")
					if l.Waited() > fairness+longest+load {
						t.Errorf("b waited %v, want %v at most", l.Waited(), fairness+longest+load)
					}
					l.Release()
				}
				close(stop)
				wg.Wait()
			})
		})
	}
}

func TestQueue_ScenariosOfLlamaSwap(t *testing.T) {
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
		if scale.Peak() != 4*tier.GiB {
			t.Errorf("%v were in memory at once", scale.Peak())
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

func TestMaxQueue_ScenariosOfLlamaSwap(t *testing.T) {
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
		r.begin("b").served(3 * time.Second).Release() // queues are counted for each model
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

func TestQueue_ScenariosOfOllama(t *testing.T) {
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
		if scale.Peak() > 5*tier.GiB {
			t.Errorf("%v were in memory at once", scale.Peak())
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
