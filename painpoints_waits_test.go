package modeltier_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// slowUnload makes models take that long to leave.
func slowUnload(cfg modeltier.Config, d time.Duration) modeltier.Config {
	cfg.Mover.(*tiertest.Mover).Time = func(mv tier.Move) time.Duration {
		if mv.To == tier.Storage {
			return d
		}
		return time.Duration(1.5 * mv.Model.Size.GB() * float64(time.Second))
	}
	return cfg
}

// order starts what must be startable, and returns its job.
func order(t *testing.T) func(*modeltier.Job, error) *modeltier.Job {
	return func(j *modeltier.Job, err error) *modeltier.Job {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
}

func TestPain09_RequestWhileItsModelIsUnloaded_WaitsAndGetsAFreshLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2)), 2*time.Second))
		r.use("a")
		order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
		time.Sleep(500 * time.Millisecond)
		r.begin("a").served(1500*time.Millisecond + 3*time.Second).Release()
		r.wantMoves("load a", "unload a", "load a")
	})
}

func TestPain09_RequestAtAnyMomentOfAnUnload_IsServed(t *testing.T) {
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

func TestPain10_FirstClientLeaves_LoadGoesOnForTheOthers(t *testing.T) {
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

func TestPain10_ClientsWithShortPatience_GetTheModelOfTheOneLoad(t *testing.T) {
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

func TestPain11_WrongModelAskedForAndLeft_ItsLoadYieldsToTheRightOne(t *testing.T) {
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

func TestPain11_LoadThatSomebodyWaitsFor_IsNotCalledOff(t *testing.T) {
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

func TestPain12_RequestsThatDiffer_ShareOneLoad(t *testing.T) {
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

func TestPain13_RequestsInTurn_AreCollatedByModel(t *testing.T) {
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

func TestPain13_ConstantDemandForTwo_NeitherThrashNorStarvation(t *testing.T) {
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
		// Who waits is served after fairness, one lease and the load, so each model
		// comes once in that time, and is there for what is left of it.
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

func TestPain14_Background_GoesBehindInteractiveAndAges(t *testing.T) {
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

func TestPain14_ModelThatMayNotBeDisplaced_TypedRefusalAtOnce(t *testing.T) {
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
