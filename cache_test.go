package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// cachingMover leaves what gives way in a page cache.
type cachingMover struct {
	*tiertest.Mover
	hang bool // Uncache does not return until its context ends

	mu     sync.Mutex // guards the rest
	cached map[string]tier.Bytes
	blind  string   // of that model it cannot tell
	log    []string // of drops and moves
}

func (m *cachingMover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	m.mu.Lock()
	m.log = append(m.log, mv.Verb()+" "+mv.Model.Name)
	m.mu.Unlock()
	err := m.Mover.Move(ctx, mv, progress)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cached == nil {
		m.cached = make(map[string]tier.Bytes)
	}
	switch {
	case err != nil:
	case mv.To == tier.RAM:
		delete(m.cached, mv.Model.Name)
	case mv.From == tier.RAM:
		m.cached[mv.Model.Name] = mv.Model.Size
	}
	return err
}

func (m *cachingMover) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	return 0, 0, nil
}

func (m *cachingMover) Cached(_ context.Context, model string) (tier.Bytes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if model == m.blind {
		return 0, errors.New("cannot be told")
	}
	return m.cached[model], nil
}

func (m *cachingMover) Uncache(ctx context.Context, model string, n tier.Bytes) error {
	if m.hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n = min(n, m.cached[model])
	m.cached[model] -= n
	m.log = append(m.log, fmt.Sprintf("drop %v of %s", n, model))
	return nil
}

func (m *cachingMover) wantLog(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.log, want) {
		t.Errorf("it was told %q, want %q", m.log, want)
	}
	m.log = nil
}

// withCache runs a test with models of 2 GiB, of which one fits, that leave their pages
// in the page cache of a machine with that much available beyond the reserve.
func withCache(t *testing.T, available tier.Bytes, test func(r *rig, m *cachingMover)) {
	synctest.Test(t, func(t *testing.T) {
		mover := &cachingMover{Mover: &tiertest.Mover{OnlyRAM: true, Files: true}}
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 2), model("b", 2), model("c", 2)},
			Limits: tier.Limits{RAM: 3 * tier.GiB, Swap: tier.None, Reserved: tier.GiB},
			Mover:  mover, Probe: tiertest.NewProbe(tier.Memory{Total: 64 * tier.GiB, Available: available + tier.GiB}),
		})
		test(r, mover)
	})
}

// The pages of one mover have to go for loads of another's models, and it does not return.
func TestCache_OneMoverNeverDropsItsPages_DelaysTheOthersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := &clinging{cachingMover: &cachingMover{Mover: &tiertest.Mover{OnlyRAM: true, Files: true}}, free: make(chan struct{})}
		available := func(beyond tier.Bytes) tier.Memory {
			return tier.Memory{Total: 64 * tier.GiB, Available: beyond + tier.GiB}
		}
		probe := tiertest.NewProbe(available(20 * tier.GiB))
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{by("bad", model("x", 2)), by("bad", model("y", 2)), by("bad", model("z", 2)), model("b", 2), model("c", 2)},
			Limits: tier.Limits{RAM: 3 * tier.GiB, Swap: tier.None, Reserved: tier.GiB},
			Mover:  &tiertest.Mover{OnlyRAM: true}, Movers: map[string]tier.Mover{"bad": bad}, Probe: probe, OptimizeEvery: -1,
		})
		for _, name := range []string{"x", "y", "z", "b"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		bad.clings.Store(true)
		for _, c := range []struct {
			name        string
			beyond      tier.Bytes
			least, most time.Duration
		}{{"c", 5 * tier.GiB, 10 * time.Second, 14 * time.Second}, {"b", 3 * tier.GiB, 0, 4 * time.Second}} {
			probe.Set(available(c.beyond), nil)
			time.Sleep(time.Second)
			began := time.Now()
			r.use(c.name)
			if took := time.Since(began); took < c.least || took > c.most {
				t.Errorf("%s was served after %v", c.name, took)
			}
		}
		close(bad.free)
		synctest.Wait()
	})
}

// clinging is a cachingMover that from some time on does not return from Cached.
type clinging struct {
	*cachingMover
	clings atomic.Bool
	free   chan struct{}
}

func (c *clinging) Cached(ctx context.Context, model string) (tier.Bytes, error) {
	if c.clings.Load() {
		<-c.free
	}
	return c.cachingMover.Cached(ctx, model)
}

func TestCache_MemoryToSpare_KeptAndShown(t *testing.T) {
	withCache(t, 32*tier.GiB, func(r *rig, m *cachingMover) {
		for _, name := range []string{"a", "b", "c", "a"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		m.wantLog(t, "load a", "unload a", "load b", "unload b", "load c", "unload c", "load a")
		if s := r.Status(); s.Cached != 4*tier.GiB || r.model("b").Cached != 2*tier.GiB || r.model("a").Cached != 0 || s.RAM.Charged != 2*tier.GiB {
			t.Errorf("%v are cached, of b %v, and %v charged", s.Cached, r.model("b").Cached, s.RAM.Charged)
		}
	})
}

// 5 GiB are available; a and b leave 4 in the page cache. The load of c needs 2 of
// which 1 is free.
func TestCache_RoomNeeded_DroppedBeforeTheLoadAndNoMoreThanThat(t *testing.T) {
	withCache(t, 5*tier.GiB, func(r *rig, m *cachingMover) {
		for _, name := range []string{"a", "b"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		m.wantLog(t, "load a", "unload a", "load b")
		r.use("c")
		m.wantLog(t, "unload b", "drop 1.0 GiB of a", "load c")
		synctest.Wait()
		if got := r.model("a").Cached; got != tier.GiB {
			t.Errorf("of a %v are cached", got)
		}
	})
}

func TestCache_OrderToStorage_NothingStays(t *testing.T) {
	withCache(t, 32*tier.GiB, func(r *rig, m *cachingMover) {
		r.use("a")
		j, err := r.MoveTier(r.t.Context(), "a", tier.Storage)
		if err == nil {
			err = j.Wait(r.t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		m.wantLog(t, "load a", "unload a", "drop 2.0 GiB of a")
		if got := r.model("a").Cached; got != 0 {
			t.Errorf("%v are cached", got)
		}
	})
}

func TestCache_RemovedFromStorage_NothingStays(t *testing.T) {
	withCache(t, 32*tier.GiB, func(r *rig, m *cachingMover) {
		r.use("a")
		time.Sleep(time.Minute)
		r.use("b")
		m.wantLog(t, "load a", "unload a", "load b")
		j, err := r.Remove(r.t.Context(), "a")
		if err == nil {
			err = j.Wait(r.t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		m.wantLog(t, "drop 2.0 GiB of a")
	})
}

func TestCache_KernelTakesIt_SeenWithinSeconds(t *testing.T) {
	withCache(t, 32*tier.GiB, func(r *rig, m *cachingMover) {
		r.use("a")
		time.Sleep(time.Minute)
		r.use("b")
		m.mu.Lock()
		m.cached["a"] = tier.GiB
		m.mu.Unlock()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := r.model("a").Cached; got != tier.GiB {
			t.Errorf("%v are said to be cached", got)
		}
	})
}

// What the mover cannot tell of one model is not lost, nor are those after it spared.
func TestCache_OneCannotBeTold_OthersAreDroppedAndItIsAskedAgain(t *testing.T) {
	withCache(t, 5*tier.GiB, func(r *rig, m *cachingMover) {
		for _, name := range []string{"a", "b"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		m.mu.Lock()
		m.blind, m.log = "a", nil
		m.mu.Unlock()
		r.use("c")
		m.wantLog(t, "unload b", "drop 1.0 GiB of b", "load c")
		if a, b := r.model("a").Cached, r.model("b").Cached; a != 2*tier.GiB || b != tier.GiB {
			t.Errorf("%v of a and %v of b are said to be cached", a, b)
		}
		m.mu.Lock()
		m.blind, m.cached["a"] = "", tier.GiB
		m.mu.Unlock()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := r.model("a").Cached; got != tier.GiB {
			t.Errorf("%v of a are said to be cached", got)
		}
	})
}

// A look at a model after its own move is no different.
func TestCache_CannotBeToldAfterAMove_WhatWasKnownStays(t *testing.T) {
	withCache(t, 32*tier.GiB, func(r *rig, m *cachingMover) {
		r.use("a")
		time.Sleep(time.Minute)
		r.use("b")
		m.Mover.Fault = func(mv tier.Move) error {
			if mv.Model.Name == "a" {
				return errors.New("it cannot be read")
			}
			return nil
		}
		m.mu.Lock()
		m.blind = "a"
		m.mu.Unlock()
		<-r.begin("a").done
		synctest.Wait()
		if got := r.model("a").Cached; got != 2*tier.GiB {
			t.Errorf("%v of a are said to be cached", got)
		}
	})
}

// A mover that tells what is cached, and not what is present, is asked again as well.
func TestCache_MoverIsNoResident_KernelTakesIt_SeenWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &cachingMover{Mover: &tiertest.Mover{OnlyRAM: true}}
		cfg := onlyRAM(model("a", 3), model("b", 3))
		cfg.Mover = struct {
			tier.Mover
			tier.Cacher
		}{m, m}
		r := newRig(t, cfg)
		r.use("a")
		time.Sleep(time.Minute)
		r.use("b")
		synctest.Wait()
		if got := r.model("a").Cached; got != 3*tier.GiB {
			t.Errorf("%v are said to be cached", got)
		}
		m.mu.Lock()
		m.cached["a"] = tier.GiB
		m.mu.Unlock()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := r.model("a").Cached; got != tier.GiB {
			t.Errorf("%v are said to be cached", got)
		}
	})
}

// A mover that hangs in Uncache delays the load, for a stated time.
func TestCache_UncacheHangs_LoadGoesOn(t *testing.T) {
	withCache(t, 5*tier.GiB, func(r *rig, m *cachingMover) {
		for _, name := range []string{"a", "b"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		m.hang = true
		began := time.Now()
		r.use("c")
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the load began after %v", took)
		}
	})
}
