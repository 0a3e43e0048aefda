package tier_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// sleeper is an engine that can sleep, and counts what it is asked.
type sleeper struct {
	mu     sync.Mutex
	calls  []string
	faults map[string]error // of a call; one that is errPanics panics
}

type sleeping struct {
	name  string
	awake bool
}

var errPanics = errors.New("panics")

func (s *sleeper) call(what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
	if s.faults[what] == errPanics {
		panic(what)
	}
	return s.faults[what]
}

func (s *sleeper) loader() tier.Loader[*sleeping] {
	return tier.Loader[*sleeping]{
		Load: func(ctx context.Context, m tier.Model, progress func(tier.Bytes)) (*sleeping, error) {
			if m.Path == "bad" {
				return nil, fs.ErrNotExist
			}
			for i := range tier.Bytes(4) {
				progress(m.Size * i / 4)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
			}
			return &sleeping{m.Name, true}, s.call("load")
		},
		Unload: func(context.Context, tier.Model, *sleeping) error { return s.call("unload") },
		Sleep: func(_ context.Context, _ tier.Model, i *sleeping) error {
			err := s.call("sleep")
			i.awake = err != nil
			return err
		},
		Wake: func(ctx context.Context, m tier.Model, i *sleeping, progress func(tier.Bytes)) error {
			progress(m.Size / 2)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err := s.call("wake")
			i.awake = err == nil
			return err
		},
		Size: func(m tier.Model, i *sleeping) tier.Bytes {
			if i.awake {
				return m.Size + 100
			}
			return 100
		},
	}
}

func TestMoverFrom_AnyLoader_KeepsTheContract(t *testing.T) {
	for name, loader := range map[string]tier.Loader[*sleeping]{
		"all of them":  (&sleeper{}).loader(),
		"no Size":      func() tier.Loader[*sleeping] { l := (&sleeper{}).loader(); l.Size = nil; return l }(),
		"no Sleep":     func() tier.Loader[*sleeping] { l := (&sleeper{}).loader(); l.Sleep, l.Wake = nil, nil; return l }(),
		"cannot sleep": (&sleeper{faults: map[string]error{"sleep": fmt.Errorf("weights are copied: %w", errors.ErrUnsupported)}}).loader(),
	} {
		t.Run(name, func(t *testing.T) {
			tiertest.TestMover(t, tiertest.MoverOptions{
				New: func(testing.TB) tier.Mover { return tier.MoverFrom(loader) }, Models: exampleModels,
				Bad: func(testing.TB) []tier.Model { return []tier.Model{{Name: "bad", Path: "bad", Size: 1000}} },
			})
		})
	}
}

var tiny = tier.Model{Name: "tiny", Size: 1000}

// shift moves the tiny model.
func shift(m tier.Mover, from, to tier.Tier) error {
	return m.Move(context.Background(), tier.Move{Model: tiny, From: from, To: to}, nil)
}

func takes(m tier.Mover) tier.Bytes {
	now, _, _ := m.(tier.Footprinter).Footprint(tiny.Name)
	return now
}

// After a failure the model is where it was, and what it takes stays known: an unload
// that failed has freed nothing.
func TestMoverFrom_FunctionFails_ModelIsWhereItWas(t *testing.T) {
	fault := errors.New("no")
	for _, c := range []struct {
		call     string
		from, to tier.Tier
	}{
		{"load", tier.Storage, tier.RAM}, {"sleep", tier.RAM, tier.Swap}, {"wake", tier.Swap, tier.RAM},
		{"unload", tier.RAM, tier.Storage}, {"unload", tier.Swap, tier.Storage},
	} {
		for _, kind := range []error{fault, errPanics} {
			t.Run(fmt.Sprint(c.call, " from ", c.from, " ", kind), func(t *testing.T) {
				s := &sleeper{faults: map[string]error{}}
				m := tier.MoverFrom(s.loader())
				at := tier.Storage
				for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
					if to == c.from || c.from == tier.Swap {
						if err := shift(m, at, to); err != nil {
							t.Fatal(err)
						}
						at = to
					}
				}
				before, instance := takes(m), m.(tier.Instancer).Instance(tiny.Name)
				s.faults[c.call] = kind
				func() {
					defer func() { recover() }()
					err := shift(m, c.from, c.to)
					if me, ok := errors.AsType[*tier.MoveError](err); !errors.Is(err, fault) || !ok || me.Lost {
						t.Errorf("%v", err)
					}
				}()
				if got := takes(m); got != before || m.(tier.Instancer).Instance(tiny.Name) != instance {
					t.Errorf("afterwards it takes %v, and before %v; instance %v, %v", got, before, m.(tier.Instancer).Instance(tiny.Name), instance)
				}
				delete(s.faults, c.call)
				if err := shift(m, c.from, c.to); err != nil {
					t.Errorf("the same again: %v", err)
				}
			})
		}
	}
}

// An instance that is lost is freed, and the next move loads another.
func TestMoverFrom_InstanceIsLost_IsUnloaded(t *testing.T) {
	gone := &tier.MoveError{Model: tiny.Name, Lost: true, Err: errors.New("its file is another")}
	s := &sleeper{faults: map[string]error{"wake": gone}}
	m := tier.MoverFrom(s.loader())
	if err := errors.Join(shift(m, tier.Storage, tier.RAM), shift(m, tier.RAM, tier.Swap)); err != nil {
		t.Fatal(err)
	}
	err := shift(m, tier.Swap, tier.RAM)
	if me, ok := errors.AsType[*tier.MoveError](err); !ok || !me.Lost || takes(m) != 0 {
		t.Errorf("%v; it takes %v", err, takes(m))
	}
	if err := shift(m, tier.Storage, tier.RAM); err != nil || fmt.Sprint(s.calls) != "[load sleep wake unload load]" {
		t.Errorf("%v: %v", s.calls, err)
	}
}

// Where the weights are copied there is no swap: the model is unloaded, and Status says so.
func TestMoverFrom_InstanceCannotSleep_IsUnloadedAndStatusSaysSo(t *testing.T) {
	s := &sleeper{faults: map[string]error{"sleep": fmt.Errorf("its weights are copied: %w", errors.ErrUnsupported)}}
	m := tier.MoverFrom(s.loader())
	if err := errors.Join(shift(m, tier.Storage, tier.RAM), shift(m, tier.RAM, tier.Swap)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.calls); got != "[load sleep unload]" || takes(m) != 0 {
		t.Errorf("it was asked %v, and takes %v", got, takes(m))
	}
	if got := fmt.Sprint(m.(tier.PartStatuser).PartStatus()); got != "map[models:[{tiny not loaded 0 B 1.1 KiB unloaded in swap: its weights are copied: unsupported operation}]]" {
		t.Errorf("its status is %v", got)
	}
	if err := errors.Join(shift(m, tier.Swap, tier.RAM), shift(m, tier.RAM, tier.Storage)); err != nil || fmt.Sprint(s.calls[3:]) != "[load unload]" {
		t.Errorf("%v: %v", s.calls, err)
	}
}

func TestMoverFrom_FunctionsMissing_ErrorNamesThem(t *testing.T) {
	all := (&sleeper{}).loader()
	for field, l := range map[string]tier.Loader[*sleeping]{
		"Loader.Load":   {},
		"Loader.Unload": {Load: all.Load},
		"Loader.Sleep":  {Load: all.Load, Unload: all.Unload, Wake: all.Wake},
		"Loader.Wake":   {Load: all.Load, Unload: all.Unload, Sleep: all.Sleep},
	} {
		m := tier.MoverFrom(l)
		for _, err := range []error{m.(tier.ModelChecker).CheckModel(&tiny), shift(m, tier.Storage, tier.RAM)} {
			if bad, ok := errors.AsType[*tier.InvalidError](err); !ok || bad.Field != field {
				t.Errorf("without %s: %v", field, err)
			}
		}
	}
}

// A function that reports what it likes is passed on as the contract wants it.
func TestMoverFrom_WildProgress_IsTamed(t *testing.T) {
	var late func(tier.Bytes)
	m := tier.MoverFrom(tier.Loader[int]{
		Load: func(_ context.Context, _ tier.Model, progress func(tier.Bytes)) (int, error) {
			for _, done := range []tier.Bytes{500, 200, 5000, -1} {
				progress(done)
			}
			late = progress
			return 1, nil
		},
		Unload: func(context.Context, tier.Model, int) error { return nil },
	})
	var heard []tier.Bytes
	err := m.Move(t.Context(), tier.Move{Model: tiny, To: tier.RAM}, func(done tier.Bytes) { heard = append(heard, done) })
	late(1000)
	if got := fmt.Sprint(heard); err != nil || got != "[500 B 500 B 1000 B 1000 B]" {
		t.Errorf("%s: %v", got, err)
	}
}

// What is known of models that are not loaded any more is kept within bounds.
func TestMoverFrom_ManyModels_AreForgotten(t *testing.T) {
	m := tier.MoverFrom((&sleeper{}).loader())
	for i := range 3000 {
		mod := tier.Model{Name: fmt.Sprint(i), Size: 10}
		for _, to := range []tier.Tier{tier.RAM, tier.Storage} {
			if err := m.Move(t.Context(), tier.Move{Model: mod, To: to}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	known := 0
	for i := range 3000 {
		if _, _, ok := m.(tier.Footprinter).Footprint(fmt.Sprint(i)); ok {
			known++
		}
	}
	if known == 0 || known > 1025 {
		t.Errorf("%d of 3000 are known", known)
	}
}

// While a model moves its instance is not asked for its size: it may be gone.
func TestMoverFrom_FootprintDuringAMove_IsAsLastSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside atomic.Bool
		l := (&sleeper{}).loader()
		l.Unload = func(context.Context, tier.Model, *sleeping) error {
			inside.Store(true)
			defer inside.Store(false)
			time.Sleep(time.Minute)
			return nil
		}
		size := l.Size
		l.Size = func(m tier.Model, i *sleeping) tier.Bytes {
			if inside.Load() {
				t.Error("an instance that is being freed is asked for its size")
			}
			return size(m, i)
		}
		m := tier.MoverFrom(l)
		if err := shift(m, tier.Storage, tier.RAM); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- shift(m, tier.RAM, tier.Storage) }()
		synctest.Wait()
		if got := takes(m); got != tiny.Size+100 {
			t.Errorf("during the unload it takes %v", got)
		}
		if err := <-done; err != nil || takes(m) != 0 {
			t.Errorf("%v, and %v", err, takes(m))
		}
	})
}

// An Unload that panics, or ends its goroutine, keeps none of the others in memory.
func TestMoverFrom_UnloadsPanicAtClose_OthersAreUnloaded(t *testing.T) {
	var mu sync.Mutex
	freed := map[string]bool{}
	m := tier.MoverFrom(tier.Loader[int]{
		Load: func(context.Context, tier.Model, func(tier.Bytes)) (int, error) { return 1, nil },
		Unload: func(_ context.Context, mod tier.Model, _ int) error {
			switch mod.Name {
			case "panics":
				panic(mod.Name)
			case "exits":
				runtime.Goexit()
			}
			mu.Lock()
			defer mu.Unlock()
			freed[mod.Name] = true
			return nil
		},
	})
	for _, name := range []string{"a", "b", "panics", "c", "exits", "d", "e"} {
		if err := m.Move(t.Context(), tier.Move{Model: tier.Model{Name: name, Size: 1}, To: tier.RAM}, nil); err != nil {
			t.Fatal(err)
		}
	}
	err := m.(tier.Closer).Close()
	if len(freed) != 5 || !errors.Is(err, tier.ErrPanic) || !errors.Is(err, tier.ErrMove) {
		t.Errorf("only %v were unloaded: %v", freed, err)
	}
}

// An Unload that hangs at Close keeps none of the others in memory.
func TestMoverFrom_UnloadHangsAtClose_OthersAreUnloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let, freed := make(chan struct{}), atomic.Int32{}
		m := tier.MoverFrom(tier.Loader[int]{
			Load: func(context.Context, tier.Model, func(tier.Bytes)) (int, error) { return 1, nil },
			Unload: func(_ context.Context, mod tier.Model, _ int) error {
				if mod.Name == "hangs" {
					<-let
				}
				freed.Add(1)
				return nil
			},
		})
		for _, name := range []string{"a", "hangs", "b", "c", "d"} {
			if err := m.Move(t.Context(), tier.Move{Model: tier.Model{Name: name, Size: 1}, To: tier.RAM}, nil); err != nil {
				t.Fatal(err)
			}
		}
		closed := make(chan error, 1)
		go func() { closed <- m.(tier.Closer).Close() }()
		synctest.Wait()
		if freed.Load() != 4 {
			t.Errorf("%d of 4 are unloaded while one hangs", freed.Load())
		}
		close(let)
		if err := <-closed; err != nil || freed.Load() != 5 {
			t.Errorf("%d of 5 are unloaded: %v", freed.Load(), err)
		}
	})
}

// A name whose model becomes another is not held to what the model before it took.
func TestMoverFrom_NameIsOfAnotherModel_PeakIsItsOwn(t *testing.T) {
	old := tier.Model{Name: "m", Path: "/a", Version: "1", Size: 7 * tier.GiB}
	for what, now := range map[string]tier.Model{
		"path":    {Name: "m", Path: "/b", Version: "1", Size: tier.GiB},
		"version": {Name: "m", Path: "/a", Version: "2", Size: tier.GiB},
	} {
		m := tier.MoverFrom(tier.Loader[int]{
			Load:   func(context.Context, tier.Model, func(tier.Bytes)) (int, error) { return 1, nil },
			Unload: func(context.Context, tier.Model, int) error { return nil },
			Size:   func(mod tier.Model, _ int) tier.Bytes { return mod.Size },
		})
		for _, mv := range []tier.Move{{Model: old, To: tier.RAM}, {Model: old, From: tier.RAM}, {Model: now, To: tier.RAM}} {
			if err := m.Move(t.Context(), mv, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, peak, _ := m.(tier.Footprinter).Footprint("m"); peak != tier.GiB {
			t.Errorf("another %s: the peak is %v of a model that takes 1 GiB", what, peak)
		}
	}
}

// Moves that were called off before they began leave nothing behind, however many names
// they have.
func TestMoverFrom_MovesUnderAnEndedContext_LeaveNothing(t *testing.T) {
	m := tier.MoverFrom((&sleeper{}).loader())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 100 {
		mv := tier.Move{Model: tier.Model{Name: fmt.Sprint(i), Size: 1}, To: tier.RAM}
		if err := m.Move(ctx, mv, nil); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(m.(tier.PartStatuser).PartStatus()); got != "map[models:[]]" {
		t.Errorf("it knows of %s", got)
	}
}
