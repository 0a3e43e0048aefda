package modeltier_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// serving is a mover whose models are served by a number, another one after each move.
type serving struct {
	*tiertest.Mover
	// instead, if not nil, is what Instance does before it answers.
	instead func()

	mu    sync.Mutex // guards asked
	asked int
}

func (s *serving) Instance(model string) any {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	if s.instead != nil {
		s.instead()
	}
	if s.At(model) == tier.Storage {
		return nil
	}
	return len(s.Moves())
}

// newServing returns a rig of a and b, of which one fits, and its mover.
func newServing(t *testing.T) (*rig, *serving) {
	s := &serving{Mover: &tiertest.Mover{OnlyRAM: true}}
	cfg := onlyRAM(model("a", 3), model("b", 3))
	cfg.Mover = s
	r := newRig(t, cfg)
	r.mover = s.Mover
	return r, s
}

func wantInstance(t *testing.T, l *modeltier.Lease, want int) {
	t.Helper()
	got, ok := modeltier.Instance[int](l)
	if got != want || ok != (want != 0) {
		t.Errorf("the instance is %d, %v, want %d", got, ok, want)
	}
}

func TestInstance_WhileTheLeaseIsHeld_IsWhatTheMoverSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := newServing(t)
		var held []*modeltier.Lease
		clients := []*client{r.begin("a"), r.begin("a"), r.begin("a")} // who waited for the load
		for _, c := range clients {
			held = append(held, c.served(4500*time.Millisecond))
		}
		held = append(held, r.get("a"), r.get("a"))
		for _, l := range held {
			wantInstance(t, l, 1)
			if _, ok := modeltier.Instance[string](l); ok {
				t.Error("a number is a string")
			}
		}
		if s.asked != 1 {
			t.Errorf("the mover was asked %d times between two moves", s.asked)
		}
		for _, l := range held {
			l.Release()
			wantInstance(t, l, 0)
		}
		r.use("b") // a leaves, b comes
		l := r.get("a")
		defer l.Release()
		wantInstance(t, l, len(r.mover.Moves()))
		wantInstance(t, nil, 0)
	})
}

func TestInstance_ModelCrashes_IsGoneWithTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newServing(t)
		l := r.get("a")
		defer l.Release()
		wantInstance(t, l, 1)
		if err := r.ReportCrash("a", nil); err != nil {
			t.Fatal(err)
		}
		<-l.Done()
		wantInstance(t, l, 0)
		l.Release()
		again := r.get("a")
		defer again.Release()
		wantInstance(t, again, len(r.mover.Moves()))
	})
}

// A mover that does not answer costs its askers 2 s, together, and nothing else; when it
// answers again, so does the lease.
func TestInstance_MoverDoesNotAnswer_CallerGoesOn(t *testing.T) {
	for name, misdeed := range map[string]func(){
		"blocks": func() { time.Sleep(time.Minute) },
		"panics": func() { panic("no") },
		"exits":  func() { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, s := newServing(t)
				s.instead = misdeed
				l := r.get("a")
				defer l.Release()
				began := time.Now()
				var all sync.WaitGroup
				for range 1000 {
					all.Go(func() { wantInstance(t, l, 0) })
				}
				all.Wait()
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("1000 callers have waited %v", took)
				}
				r.use("a")
				synctest.Wait()
				time.Sleep(2 * time.Minute) // for all that blocks
				s.instead = nil
				wantInstance(t, l, 1)
			})
		})
	}
}

func TestInstance_ManagerClosed_IsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := newServing(t)
		l := r.get("a")
		defer l.Release()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		asked := s.asked
		wantInstance(t, l, 0)
		if s.asked != asked {
			t.Error("the mover is asked after Close")
		}
	})
}

func TestInstance_MoverHasNone_IsNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1)))
		l := r.get("a")
		defer l.Release()
		if v := l.Instance(); v != nil {
			t.Errorf("it is a %T", v)
		}
	})
}

// Without a Mover of one's own, an instance is the mapping.
func TestInstance_DefaultMover_IsItsWeights(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w")
	if err := os.WriteFile(path, []byte("some weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := modeltier.New(modeltier.Config{Models: []tier.Model{{Name: "w", Path: path}}, Probe: tiertest.NewProbe(plenty)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	l, err := m.Acquire(t.Context(), modeltier.Request{Model: "w"})
	if err != nil {
		t.Fatal(err)
	}
	w, ok := modeltier.Instance[*mapped.Weights](l)
	if !ok {
		t.Fatalf("it is a %T", l.Instance())
	}
	files, err := w.Bytes()
	if err != nil || fmt.Sprintf("%s", files) != "[some weights]" {
		t.Errorf("%s, %v", files, err)
	}
	l.Release()
}

// sleepers is a Manager of five engines of 2 GiB, with a context of 1 GiB that they keep
// asleep, in 5 GiB; unloaded hears which of them are.
func sleepers(t *testing.T, unloaded func(model string)) *rig {
	var awake sync.Map // by name
	set := func(on bool) func(context.Context, tier.Model, *int) error {
		return func(_ context.Context, m tier.Model, _ *int) error { awake.Store(m.Name, on); return nil }
	}
	mover := tier.MoverFrom(tier.Loader[*int]{
		Load: func(ctx context.Context, m tier.Model, _ func(tier.Bytes)) (*int, error) {
			time.Sleep(50 * time.Millisecond)
			return new(int), set(true)(ctx, m, nil)
		},
		Unload: func(_ context.Context, m tier.Model, _ *int) error { unloaded(m.Name); return nil },
		Sleep:  set(false),
		Wake: func(ctx context.Context, m tier.Model, _ *int, _ func(tier.Bytes)) error {
			return set(true)(ctx, m, nil)
		},
		Size: func(m tier.Model, _ *int) tier.Bytes {
			if on, _ := awake.Load(m.Name); on == true {
				return m.Size + tier.GiB
			}
			return tier.GiB
		},
	})
	var models []tier.Model
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		mod := model(name, 2)
		mod.Runtime = tier.GiB
		models = append(models, mod)
	}
	return newRig(t, modeltier.Config{Models: models, Mover: mover, Limits: tier.Limits{RAM: 5 * tier.GiB}, OptimizeEvery: -1})
}

// Engines that sleep and keep memory are unloaded for it, the one first that was asked for
// longest ago, and without a wait for bytes that no sleep gives back.
func TestMoverFrom_SleepersHoldTheRoom_OldestIsUnloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // Close unloads all at once
		var unloaded []string
		r := sleepers(t, func(model string) {
			mu.Lock()
			defer mu.Unlock()
			unloaded = append(unloaded, model)
		})
		began := time.Now()
		for _, name := range []string{"a", "b", "c", "d"} { // with c, two sleep; with d they would be three
			r.use(name)
		}
		took := time.Since(began)
		mu.Lock()
		if took > time.Second || fmt.Sprint(unloaded) != "[a]" {
			t.Errorf("after %v, %v were unloaded", took, unloaded)
		}
		mu.Unlock()
		if s := r.Status(); s.RAM.Used > s.RAM.Limit {
			t.Errorf("ram holds %v of %v", s.RAM.Used, s.RAM.Limit)
		}
	})
}

// Where every engine that sleeps is waited for, one has to give way all the same.
func TestMoverFrom_SleepersAreAllWaitedFor_EachIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := sleepers(t, func(string) {})
		var clients sync.WaitGroup
		for client := range 16 {
			clients.Go(func() {
				for i := range 5 {
					l, err := r.Acquire(t.Context(), modeltier.Request{Model: string("abcde"[(client+i)%5])})
					if err != nil {
						t.Errorf("client %d: %v", client, err)
						return
					}
					time.Sleep(200 * time.Millisecond)
					l.Release()
				}
			})
		}
		clients.Wait()
	})
}

// closer is a mover that does something when it is closed.
type closer struct {
	*tiertest.Mover
	closing func()
}

func (c closer) Close() error {
	c.closing()
	return nil
}

func TestClose_LeasesHeld_AreToldBeforeTheMoverIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *modeltier.Lease
		told := false
		cfg := onlyRAM(model("a", 3))
		cfg.Mover = closer{&tiertest.Mover{OnlyRAM: true}, func() {
			select {
			case <-l.Done():
				told = true
			default:
			}
		}}
		r := newRig(t, cfg)
		l = r.get("a")
		if err := r.Close(); err != nil || !told {
			t.Errorf("%v, told %v", err, told)
		}
		l.Release()
	})
}
