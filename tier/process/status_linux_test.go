package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

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

// PartStatus may be called at any time. It measures nothing, and waits neither for a
// reaper that does not read nor for a cgroup that is being made.
func TestPartStatus_WhileEverythingElseIsBusy_ReturnsACopyAtOnce(t *testing.T) {
	sys := newSystem()
	var measured atomic.Int64
	kernels := sys.usage
	sys.usage = func(pids []int, exact bool) (usage, error) { measured.Add(1); return kernels(pids, exact) }
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	before := measured.Load()
	r.reaper.mu.Lock()
	r.cgroups.making.Lock()
	var s Status
	within(t, "PartStatus", func() error { s = r.PartStatus().(Status); return nil })
	r.cgroups.making.Unlock()
	r.reaper.mu.Unlock()
	if measured.Load() != before {
		t.Error("it has measured the engine")
	}
	if e := s.Engines[0]; e.State != Running || e.Cached != m.Size || e.Anon == 0 || s.Orphans.Reaper != "runs" {
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

func TestPartStatus_DuringMovesAndCrashes_NoRace(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
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
			for range 3 {
				for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.RAM} {
					if err := r.try(m, tier.Storage, to); err != nil && !errors.Is(err, tier.ErrMove) {
						t.Error(err)
					}
				}
				if c, _, _ := r.engineOf(name); c != nil {
					c.killAll()
					<-c.done
				}
			}
		})
	}
	time.AfterFunc(patience, cancel)
	eventually(t, "both have crashed three times", func() bool { return len(r.crashed) >= 6 })
	cancel()
	all.Wait()
}
