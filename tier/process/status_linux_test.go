package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// withManager is a Manager over a rig's Mover.
func withManager(t *testing.T, r *rig, ram tier.Bytes, models ...tier.Model) *modeltier.Manager {
	t.Helper()
	m, err := modeltier.New(modeltier.Config{
		Models: models, Mover: r.Mover, Probe: tiertest.NewProbe(tier.Memory{Total: 64 * tier.GiB, Available: 60 * tier.GiB}),
		Limits: tier.Limits{RAM: ram, Swap: tier.GiB, Reserved: tier.MiB}, ProbeEvery: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func acquired(t *testing.T, m *modeltier.Manager, name string) *modeltier.Lease {
	t.Helper()
	l, err := m.Acquire(t.Context(), modeltier.Request{Model: name})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func statusOf(m *modeltier.Manager, name string) modeltier.ModelStatus {
	for _, s := range m.Status().Models {
		if s.Name == name {
			return s
		}
	}
	return modeltier.ModelStatus{}
}

// Workers that were forked have their memory in common, which counts once: the
// engine is not killed for it, nor charged.
func TestFootprint_ForkedWorkers_WhatTheyShareCountsOnce(t *testing.T) {
	own, _ := os.ReadFile("/proc/self/smaps_rollup")
	if _, told := parseRollup(own); !told {
		t.Skip("this kernel does not tell memory of files from other memory that is shared")
	}
	for name, sys := range map[string]*system{"Cgroup": newSystem(), "SIGSTOP": withoutCgroups()} {
		t.Run(name, func(t *testing.T) {
			const size, workers = 96 << 20, 4
			r := newRig(t, sys, Options{Engine: fake{Copy: true, Forks: workers}.engine(), Excess: size})
			m := modelOf(t, "m", size)
			r.move(m, tier.Storage, tier.RAM)
			e := r.engine("m")
			if e.Others != workers || e.Anon < size || e.Anon > 2*size {
				t.Errorf("with %d workers it has %v of its own, and %v of weights", e.Others, e.Anon, m.Size)
			}
			if now, peak, ok := r.Footprint("m"); now < size || now > 2*size || peak > 2*size || !ok {
				t.Errorf("it takes %v, at most %v", now, peak)
			}
		})
	}
}

// An engine takes twice what was declared: it is charged for all of it while it runs,
// for what it keeps while it is frozen, and its peak is reserved for the next load.
func TestManager_EngineTakesDouble_IsChargedInEveryTier(t *testing.T) {
	const size, declared = 16 << 20, 128 << 20
	r := newRig(t, newSystem(), Options{Engine: fake{Eat: 2 * (size + declared), Touch: true}.engine()})
	model := modelOf(t, "a", size)
	model.Runtime = declared
	m := withManager(t, r, tier.GiB, model)
	acquired(t, m, "a").Release()
	s, seen := statusOf(m, "a"), r.engine("a")
	if s.ChargedRAM < seen.Anon+size-8<<20 || s.Runtime <= declared || s.Declared != declared || s.Taken < 2*(size+declared) || s.Overdraft != 0 {
		t.Errorf("it has %v of its own: %+v", seen.Anon, s)
	}
	j, err := m.MoveTier(t.Context(), "a", tier.Swap)
	if err == nil {
		err = j.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	s, seen = statusOf(m, "a"), r.engine("a")
	if seen.State == Frozen && (s.ChargedRAM < seen.Anon-8<<20 || s.Tier != tier.Swap) {
		t.Errorf("frozen, it has %v of its own: %+v", seen.Anon, s)
	}
	if j, err = m.MoveTier(t.Context(), "a", tier.Storage); err == nil {
		err = j.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Status(); s.RAM.Used != 0 {
		t.Errorf("stopped, %v are charged", s.RAM.Used)
	}
}

func TestManager_EngineGrowsBeyondTheLimit_ShowsAndNothingElseIsAdmitted(t *testing.T) {
	const size = 8 << 20
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	grows, other := modelOf(t, "grows", size), modelOf(t, "other", size)
	grows.Runtime, other.Runtime = 64<<20, 64<<20
	m := withManager(t, r, 200<<20, grows, other)
	acquired(t, m, "other").Release()
	lease := acquired(t, m, "grows")
	eat := func(times int) {
		for range times {
			r.get("grows", "/eat?more") // 64 MiB
		}
	}
	eat(2)
	eventually(t, "it is charged, and other gives way", func() bool {
		return statusOf(m, "grows").ChargedRAM >= 2*64<<20 && statusOf(m, "other").Tier != tier.RAM
	})
	eat(2)
	eventually(t, "it is overdrawn", func() bool { return m.Status().RAM.Overdraft > 0 })
	if s := m.Status(); s.RAM.Charged+s.RAM.Reserved > s.Limits.RAM || s.RAM.Room != 0 {
		t.Errorf("%+v", s.RAM)
	}
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := m.Acquire(soon, modeltier.Request{Model: "other"}); err == nil {
		t.Error("other was loaded into memory that is taken")
	}
	lease.Release()
	eventually(t, "nothing is overdrawn once it may leave", func() bool { return m.Status().RAM.Overdraft == 0 })
}

func TestStatus_ModelsComeAndGo_TheOldestAreForgotten(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: Engine{Command: []string{filepath.Join(t.TempDir(), "missing"), "{port}"}}})
	m := modelOf(t, "first", 1<<20)
	r.move(m, tier.Storage, tier.Swap) // which starts nothing
	for i := range maxRemembered + 10 {
		m.Name = fmt.Sprintf("m%04d", i)
		if err := r.try(m, tier.Storage, tier.RAM); err == nil {
			t.Fatal("a program that is not there has started")
		}
	}
	engines := r.Status().Engines
	if n := len(engines); n != maxRemembered || engines[0].Name != "first" || engines[1].Name != "m0011" || engines[n-1].Failure == "" {
		t.Errorf("%d are maxRemembered, from %+v and %+v to %+v", n, engines[0], engines[1], engines[n-1])
	}
}

// The Mover is not told of a model's removal: what has not been used for long is no
// longer listed, but what it took is still known.
func TestStatus_ModelUnusedForLong_NotListedButItsPeakIsKnown(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Storage)
	listed := func() int { return len(r.Status().Engines) }
	if listed() != 1 {
		t.Error("it is not listed just after its last move")
	}
	age := func() {
		r.Mover.mu.Lock()
		defer r.Mover.mu.Unlock()
		r.slots["m"].last = time.Now().Add(-listedFor - time.Second)
	}
	age()
	if listed() != 0 {
		t.Error("it is listed for longer than listedFor")
	}
	if _, peak, ok := r.Footprint("m"); peak == 0 || !ok {
		t.Errorf("its peak is %v, %v", peak, ok)
	}
	r.move(m, tier.Storage, tier.RAM)
	age()
	if listed() != 1 {
		t.Error("it is not listed while it runs")
	}
}

// PartStatus may be called at any time, and measures nothing.
func TestPartStatus_WhileEverythingElseIsBusy_ReturnsACopyAtOnce(t *testing.T) {
	sys := newSystem()
	var measured atomic.Int64
	kernels := sys.usage
	sys.usage = func(pids []int) (Memory, error) { measured.Add(1); return kernels(pids) }
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	before := measured.Load()
	var s Status
	within(t, "PartStatus", func() error { s = r.PartStatus().(Status); return nil })
	if measured.Load() != before {
		t.Error("it has measured the engine")
	}
	if e := s.Engines[0]; e.State != Running || e.Cached != m.Size || e.Anon == 0 || !s.Orphans.Reaper {
		t.Errorf("it says %+v, %+v", e, s.Orphans)
	}
	if b, err := json.Marshal(s); err != nil || !strings.Contains(string(b), `"state":"running"`) {
		t.Errorf("as JSON it is %s, %v", b, err)
	}
	s.Engines[0].Command[0] = "changed"
	if r.engine("m").Command[0] == "changed" {
		t.Error("it is not a copy")
	}
}

func TestMover_EverythingDuringMovesAndCrashes_NoRaceAndNoMoveIsRefused(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	ctx, cancel := context.WithCancel(t.Context())
	var all, moves sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := json.Marshal(r.PartStatus()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, name := range []string{"a", "b"} {
		m := modelOf(t, name, 1<<20)
		all.Go(func() {
			for ctx.Err() == nil {
				_, err := r.Cached(ctx, name)
				r.Uncache(ctx, name, tier.Bytes(rand.N(int64(2*m.Size)))) // which a move or a crash may end
				_, _, e := r.Resident(ctx, name)
				r.Footprint(name)
				r.Forecast(&m)
				if err := errors.Join(err, e); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
		moves.Go(func() {
			for range 3 {
				for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.RAM} {
					if err := r.try(m, tier.Storage, to); err != nil && !errors.Is(err, tier.ErrMove) {
						t.Error(err)
					}
				}
				if c, _ := r.engineOf(name); c != nil {
					c.killAll()
					<-c.done
				}
				for c, _ := r.engineOf(name); c != nil; c, _ = r.engineOf(name) {
					time.Sleep(time.Millisecond) // until the crash is known; a move before would return it
				}
			}
		})
	}
	crashed := make(chan struct{})
	go func() { moves.Wait(); close(crashed) }()
	select {
	case <-crashed:
	case <-time.After(10 * patience): // who looks takes all the processor that there is
		t.Error("their moves do not end")
	}
	cancel()
	all.Wait()
	eventually(t, "both have crashed three times", func() bool { return len(r.crashed) >= 6 })
}
