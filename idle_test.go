package modeltier_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
)

// asks is a placement that records when it is asked for an idle plan.
type asks struct {
	mu sync.Mutex // guards at
	at []time.Time
}

// taken returns the recorded times and clears them.
func (a *asks) taken() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.at
	a.at = nil
	return at
}

// Plan implements tier.Placement.
func (a *asks) Plan(v *tier.View, need *tier.Need) tier.Plan {
	if need == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.at = append(a.at, v.Now)
		return tier.Plan{}
	}
	return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.RAM}}}}
}

func TestOptimizeEvery_AfterARequest_AsksSoonThenSeldomThenNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asks{}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Placement: a})
		use := func() {
			l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
			if err != nil {
				t.Fatal(err)
			}
			l.Release()
		}
		use()
		time.Sleep(25 * time.Second)
		if len(a.taken()) > 0 {
			t.Error("it was asked before anything could be learned from use")
		}
		time.Sleep(time.Hour)
		a.taken()
		use()
		used := time.Now()
		time.Sleep(6 * time.Hour)
		at := a.taken()
		switch {
		case len(at) < 200 || len(at) > 300:
			t.Fatalf("asked %d times in six hours", len(at))
		case at[0].Sub(used) > 3*time.Second:
			t.Errorf("first asked %v after a request", at[0].Sub(used))
		case at[len(at)-1].Sub(used) > 2*time.Hour+time.Minute:
			t.Errorf("asked %v after the last request still", at[len(at)-1].Sub(used))
		}
		for k := 1; k < len(at); k++ {
			if d := at[k].Sub(at[k-1]); d > 31*time.Second {
				t.Errorf("not asked for %v", d)
			}
		}
	})
}

// insists is a placement whose idle plan is never empty.
type insists struct{ asks }

// Plan implements tier.Placement.
func (p *insists) Plan(v *tier.View, need *tier.Need) tier.Plan {
	plan := p.asks.Plan(v, need)
	if need == nil {
		plan.Steps = []tier.Step{{Move: tier.Move{Model: *v.Library.At(1), To: tier.RAM}, Why: "it would pay"}}
	}
	return plan
}

func TestOptimizeEvery_MovesThatKeepFailing_AreNotPlannedWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &insists{}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Placement: p})
		r.mover.Fault = func(mv tier.Move) error {
			if mv.Model.Name == "b" {
				return errors.New("the disk said no")
			}
			return nil
		}
		r.use("a")
		time.Sleep(time.Hour)
		r.use("a")
		p.taken()
		time.Sleep(2 * time.Hour)
		if n := len(p.taken()); n < 10 || n > 500 {
			t.Errorf("%d plans in two hours after one request", n)
		}
	})
}

func TestManager_AtRest_LooksOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asks{}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Placement: a, StateDir: t.TempDir()})
		r.use("a")
		time.Sleep(3*time.Hour + 500*time.Millisecond) // until idle planning has ended, and between two readings
		a.taken()
		reads, moves := r.probe.Reads(), len(r.mover.Moves())
		time.Sleep(10 * time.Minute)
		if n := r.probe.Reads() - reads; n > 600 || n < 300 {
			t.Errorf("memory was read %d times in ten minutes, want once a second at most, and not given up", n)
		}
		if plans, began := len(a.taken()), len(r.mover.Moves())-moves; plans > 0 || began > 0 {
			t.Errorf("at rest it asked for %d plans and began %d moves", plans, began)
		}
	})
}

func TestManager_AtRest_WakesOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The reading takes its time, so that an answer that wakes the loop once more shows.
		probe := tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) {
			time.Sleep(30 * time.Millisecond)
			return tier.Memory{Total: 64 * tier.GiB, Available: 64 * tier.GiB}, nil
		})
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Probe: probe})
		r.use("a")
		time.Sleep(3 * time.Hour) // until idle planning has ended
		var wakes atomic.Int32
		r.OnWake(func() { wakes.Add(1) })
		time.Sleep(10 * time.Minute)
		if n := wakes.Load(); n > 600 || n < 300 {
			t.Errorf("the loop woke %d times in ten minutes", n)
		}
	})
}

// A model that its owner demotes stays there until a request for it comes, whatever
// was learned before.
func TestMoveTier_Down_IsNotUndoneByTheIdlePlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1), model("b", 1)}})
		for range 20 {
			r.use("a")
			time.Sleep(10 * time.Second)
		}
		if err := order(t)(r.MoveTier(t.Context(), "a", tier.Storage)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			r.use("b") // so that an idle plan is made
			time.Sleep(time.Minute)
		}
		r.wantAt("a", tier.Storage)
		order, err := r.Optimize(t.Context()) // an ordered plan may move it
		if err != nil || !slices.ContainsFunc(order.Steps, func(s tier.Step) bool { return s.Model.Name == "a" }) {
			t.Errorf("Optimize = %v, %v: a is worth moving", order, err)
		}
	})
}

// tally is a selector that counts what is reported to it.
type tally struct {
	tier.Selector
	reports atomic.Int64
}

func (t *tally) Reported(outcomes []tier.Outcome) { t.reports.Add(int64(len(outcomes))) }

func TestReport_LoopIsBusy_TooManyAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &tally{Selector: selector.New()}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Selector: told})
		l := r.get("a")
		defer l.Release()
		let := r.Hold()
		synctest.Wait()
		other := r.Mail()
		for range 5000 {
			l.Report(tier.Outcome{})
		}
		if n := r.Mail() - other; n != 1024 {
			t.Errorf("%d reports wait for the loop, want 1024", n)
		}
		let()
		time.Sleep(10 * time.Second)
		before := told.reports.Load()
		if before < 1024 {
			t.Errorf("%d reports were told, want those that waited", before)
		}
		l.Report(tier.Outcome{})
		time.Sleep(10 * time.Second)
		if n := told.reports.Load() - before; n != 1 {
			t.Errorf("of one report when it is quiet again, %d were told", n)
		}
	})
}
