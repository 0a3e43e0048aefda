package modeltier_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestScenarios_LlamaSwap_Unload(t *testing.T) {
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

// closing is a mover that counts how often it is closed.
type closing struct {
	tier.Mover
	closed *int
}

// InPlace implements tier.InPlacer.
func (*closing) InPlace(*tier.Model) bool { return false }

// Close implements tier.Closer.
func (c *closing) Close() error { *c.closed++; return nil }

func TestScenarios_LlamaSwap_Groups(t *testing.T) {
	scenario(t, "llama-swap/SwapStopsPrevious SwapEvictsConflicting", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		r.use("a")
		r.use("b")
		r.wantMoves("load a", "unload a", "load b")
	})
	scenario(t, "llama-swap/NonSwapGroup_NoStop CoexistInSet", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 1)))
		for range 3 {
			r.use("a")
			r.use("b")
			r.use("c")
		}
		r.wantMoves("load a", "load b", "load c")
	})
	scenario(t, "llama-swap/CoexistingSetParallel", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 1)))
		a, b, c := r.begin("a"), r.begin("b"), r.begin("c")
		a.served(3 * time.Second)
		b.served(3 * time.Second)
		c.served(1500 * time.Millisecond)
	})
	scenario(t, "llama-swap/PersistentNotEvicted", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), model("b", 3), model("c", 3)))
		for _, name := range []string{"a", "b", "c", "b"} {
			r.use(name)
		}
		r.wantMoves("load a", "load b", "unload b", "load c", "unload c", "load b")
	})
	scenario(t, "llama-swap/SameGroupSwapSerialises IncompatibleQueues", func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 3), model("b", 3), model("c", 3)))
		a, b, c := r.begin("a"), r.begin("b"), r.begin("c")
		a.served(4500 * time.Millisecond).Release()
		b.served(9 * time.Second).Release()
		c.served(13500 * time.Millisecond).Release()
		if scale.most() != 3*tier.GiB {
			t.Errorf("%v were in memory at once, want one model", scale.most())
		}
	})
	scenario(t, "llama-swap/EvictCostsPreferred who is used most stays", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("often", 2.5), model("once", 2.5), model("new", 2.5)))
		r.use("often")
		for range 60 {
			time.Sleep(10 * time.Second)
			r.use("often")
		}
		time.Sleep(10 * time.Second)
		r.use("once")
		r.use("often")
		time.Sleep(time.Second)
		r.use("new")
		r.wantAt("often", tier.RAM)
		r.wantAt("once", tier.Storage)
	})
	t.Run("llama-swap/EvictCostsPreferred tie by definition order", func(t *testing.T) {
		var first string
		for range 5 {
			synctest.Test(t, func(t *testing.T) {
				a, b := model("a", 2), model("b", 2)
				a.Home, b.Home = tier.RAM, tier.RAM
				r := newRig(t, onlyRAM(a, b, model("c", 2)))
				time.Sleep(time.Minute)
				r.use("c")
				for _, mv := range r.mover.Moves() {
					if mv.To != tier.Storage {
						continue
					}
					if first == "" {
						first = mv.Model.Name
					}
					if mv.Model.Name != first {
						t.Errorf("%s left, and before %s", mv.Model.Name, first)
					}
				}
			})
		}
		if first == "" {
			t.Error("nobody left")
		}
	})
}

func TestScenarios_ModelRunnerAndRouter(t *testing.T) {
	scenario(t, "model-runner/DefunctRunnerEvictionTriggersRetry", func(t *testing.T) {
		// The victim falls over while it is unloaded: its bytes are gone all the same.
		lost := &tier.MoveError{Model: "a", From: tier.RAM, To: tier.Storage, Lost: true, Err: errors.New("it was dead")}
		cfg := onlyRAM(model("a", 3), model("b", 4))
		cfg.Mover = &closing{closed: new(int), Mover: tier.MoverFunc(func(_ context.Context, mv tier.Move, _ func(tier.Bytes)) error {
			if mv.To == tier.Storage {
				return lost
			}
			time.Sleep(time.Second)
			return nil
		})}
		r := newRig(t, cfg)
		r.use("a")
		r.begin("b").served(time.Second).Release()
		r.wantUsed(4 * tier.GiB)
	})
	scenario(t, "model-runner/UnusedRunnerEvictionTriggersRetry", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 4)))
		r.use("a")
		r.use("b")
		r.begin("c").served(6 * time.Second).Release() // both left at once, and nothing else was waited for
	})
	scenario(t, "model-runner/two models that are kept for ever are not killed for one that does not fit", func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("a", 2)), pinned(model("b", 2)), model("idle", 0.5), model("c", 4)))
		for _, name := range []string{"a", "b", "idle"} {
			r.use(name)
		}
		r.begin("c").refused(modeltier.ErrNoCapacity, 0)
		r.wantMoves("load a", "load b", "load idle") // nor is anybody else sent away in vain
	})
	scenario(t, "llama.cpp/models_max_evicts_lru", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		for _, name := range []string{"a", "b", "a"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		r.use("c")
		r.wantMoves("load a", "load b", "unload b", "load c")
	})
	scenario(t, "llama.cpp/queue_does_not_evict_busy_model", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		a := r.get("a")
		b := r.begin("b")
		time.Sleep(time.Minute)
		if !b.waits() || r.mover.At("a") != tier.RAM {
			t.Error("a was taken away while in use")
		}
		a.Release()
		b.served(time.Minute + 4500*time.Millisecond).Release()
	})
	scenario(t, "llama.cpp/queue_coalesces_requests_for_same_model queue_two_waiters_share_one_eviction", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		r.use("a")
		clients := []*client{r.begin("b"), r.begin("b"), r.begin("b")}
		for _, c := range clients {
			c.served(4500 * time.Millisecond).Release()
		}
		r.wantMoves("load a", "unload a", "load b")
	})
	scenario(t, "llama.cpp/queue_client_disconnect_keeps_model", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		a := r.get("a")
		b := r.begin("b")
		time.Sleep(2 * time.Second)
		b.leave()
		a.Release()
		time.Sleep(time.Minute)
		r.wantMoves("load a")
		r.begin("a").served(0).Release()
	})
	scenario(t, "llama.cpp/queue_is_fifo", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3), model("c", 3), model("d", 3)))
		a := r.get("a")
		d, b, c := r.begin("d"), r.begin("b"), r.begin("c")
		time.Sleep(time.Second)
		a.Release()
		d.served(time.Second + 4500*time.Millisecond).Release()
		b.served(time.Second + 9*time.Second).Release()
		c.served(time.Second + 13500*time.Millisecond).Release()
	})
	scenario(t, "llama.cpp/fast_path_load_not_evicted_before_proxy", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 3)))
		for range 20 { // a and b at once, each time
			a, b := r.begin("a"), r.begin("b")
			for _, c := range []*client{a, b} {
				<-c.done
				if c.err != nil {
					t.Fatal(c.err)
				}
				if at := r.mover.At(c.name); at != tier.RAM {
					t.Errorf("%s was leased and is in %v", c.name, at)
				}
				c.lease.Release()
			}
		}
	})
	scenario(t, "llama.cpp/does_not_proxy_into_stopping_model", func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2)), time.Second))
		for range 20 {
			r.use("a")
			order(t)(r.MoveTier(t.Context(), "a", tier.Storage))
			time.Sleep(500 * time.Millisecond)
			l := r.begin("a").served(500*time.Millisecond + 3*time.Second)
			if at := r.mover.At("a"); at != tier.RAM {
				t.Errorf("leased and in %v", at)
			}
			l.Release()
		}
	})
	scenario(t, "llama.cpp/no_models_autoload", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		if c, err := r.Select(modeltier.Request{Model: "a"}); err != nil || c.Model != "a" {
			t.Errorf("%+v, %v", c, err)
		}
		time.Sleep(time.Hour)
		r.wantMoves()
	})
	scenario(t, "llama.cpp/reload_models", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1)))
		r.use("a")
		held := r.get("b")
		defer held.Release()
		removed := order(t)(r.Remove(t.Context(), "a"))
		added := order(t)(r.HotLoad(t.Context(), model("c", 1)))
		for _, j := range []*modeltier.Job{removed, added} {
			if err := j.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		r.begin("a").refused(modeltier.ErrNotFound, 0)
		r.begin("b").served(0).Release()
		r.begin("c").served(1500 * time.Millisecond).Release()
		r.wantMoves("load a", "load b", "unload a", "load c")
	})
}
