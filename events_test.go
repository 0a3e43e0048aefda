package modeltier_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// recorder keeps the events that it is told of.
type recorder struct {
	mu       sync.Mutex // guards the rest
	moves    []modeltier.MoveEvent
	evicted  []modeltier.EvictEvent
	refused  []modeltier.RefuseEvent
	granted  []modeltier.GrantEvent
	released []modeltier.ReleaseEvent
	jobs     []modeltier.JobEvent
}

func record[T any](r *recorder, into *[]T) func(T) {
	return func(ev T) {
		r.mu.Lock()
		defer r.mu.Unlock()
		*into = append(*into, ev)
	}
}

func (r *recorder) events() modeltier.Events {
	return modeltier.Events{
		MoveStarted: record(r, &r.moves), Evicted: record(r, &r.evicted), Refused: record(r, &r.refused),
		Granted: record(r, &r.granted), Released: record(r, &r.released), JobEnded: record(r, &r.jobs),
	}
}

func TestEvents_LeasesJobsAndReasons_AreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 3), model("b", 4)}, Mover: &tiertest.Mover{OnlyRAM: true}, Events: rec.events(), OptimizeEvery: -1,
		})
		for _, name := range []string{"a", "a", "b"} { // a loads, a is there, b takes its place
			l, err := r.Acquire(t.Context(), modeltier.Request{Model: name})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			l.Release()
			l.Release()
		}
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "c", Background: true})
		if !errors.Is(err, modeltier.ErrNotFound) {
			t.Fatal(err)
		}
		if err := order(t)(r.MoveTier(t.Context(), "b", tier.Storage)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		rec.mu.Lock()
		defer rec.mu.Unlock()

		var granted, reasons []string
		for _, ev := range rec.granted {
			granted = append(granted, ev.Model)
			if ev.Tier != tier.RAM || ev.Moved != (ev.Waited > 0) {
				t.Errorf("granted: %+v", ev)
			}
		}
		if want := []string{"a", "a", "b"}; !slices.Equal(granted, want) {
			t.Errorf("granted %v, want %v", granted, want)
		}
		if len(rec.released) != 3 || rec.released[2].Model != "b" || rec.released[2].Held != 2*time.Second {
			t.Errorf("released %+v, want three, the last of b after 2 s", rec.released)
		}
		for _, ev := range rec.moves {
			reasons = append(reasons, ev.Model+" "+string(ev.Reason))
		}
		if want := []string{"a demand", "a room", "b demand", "b order"}; !slices.Equal(reasons, want) {
			t.Errorf("moves for %v, want %v", reasons, want)
		}
		if len(rec.evicted) != 1 || rec.evicted[0].Reason != tier.ReasonRoom || rec.evicted[0].For != "b" || rec.evicted[0].Why == "" {
			t.Errorf("evicted %+v, want a for b", rec.evicted)
		}
		if n := r.Status().EvictionsBy[tier.ReasonRoom]; n != 1 {
			t.Errorf("%d evictions for room are counted, want 1", n)
		}
		if len(rec.refused) != 1 {
			t.Fatalf("refused %+v, want one", rec.refused)
		}
		if ev := rec.refused[0]; ev.Code != "not_found" || ev.Request.Model != "c" || !ev.Request.Background || ev.At.IsZero() || len(ev.Suggestions) == 0 {
			t.Errorf("refused %+v", ev)
		}
		last := rec.jobs[len(rec.jobs)-1]
		if len(rec.jobs) != 4 || last.Kind != hotload.KindDemote || last.Model != "b" || last.Err != nil || !strings.HasPrefix(last.Job, "tier_demote_b_") {
			t.Errorf("%d jobs ended, the last %+v; want 4, the last b's demotion", len(rec.jobs), last)
		}
		var ids []string
		for j := range r.Jobs() {
			ids = append(ids, j.ID())
		}
		if len(ids) != 4 || ids[3] != last.Job {
			t.Errorf("Jobs yields %v, want 4 with %s last", ids, last.Job)
		}
		if s, ok := r.Model("b"); !ok || s.Tier != tier.Storage || s.Accesses != 1 {
			t.Errorf("Model: %+v, %v", s, ok)
		}
		if _, ok := r.Model("c"); ok {
			t.Error("Model knows a model that is not there")
		}
	})
}

// A logger that takes its time delays no request, and what does not fit is counted.
func TestLogger_Slow_DelaysNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &villain{free: make(chan struct{}), misdeed: func(m string) misdeed {
			if m == "logger.Handle" {
				return blocks
			}
			return behaves
		}}
		cfg := hostileConfig(v, "")
		cfg.Mover = &tiertest.Mover{OnlyRAM: true}
		m, err := modeltier.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3000 {
			l, err := m.Acquire(t.Context(), modeltier.Request{Model: []string{"c", "d"}[i%2]})
			if err != nil {
				t.Fatal(err)
			}
			l.Release()
		}
		s := m.Status()
		if s.LogDropped == 0 || s.Stale {
			t.Errorf("%d records dropped, stale %v; want some, and an answer", s.LogDropped, s.Stale)
		}
		began := time.Now()
		if err := m.Close(); err != nil || time.Since(began) > time.Second {
			t.Errorf("Close: %v after %v, want nil within 1 s", err, time.Since(began))
		}
		close(v.free)
	})
}

func TestNew_MappedModelWithoutPath_IsAnErrorThatSaysSo(t *testing.T) {
	_, err := modeltier.New(modeltier.Config{Models: []tier.Model{{Name: "a", Size: tier.GiB}}})
	ie, ok := errors.AsType[*tier.InvalidError](err)
	if !ok || ie.Field != "path" || ie.Model != "a" {
		t.Errorf("err = %v, want an InvalidError about a's path", err)
	}
}

// Lower limits are not in force before the models have left.
func TestStatus_LimitsBeingLowered_ShowsThoseInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 3)}, Limits: tier.Limits{RAM: 4 * tier.GiB, Swap: 4 * tier.GiB}, OptimizeEvery: -1,
			Mover: &tiertest.Mover{OnlyRAM: true, Time: func(tier.Move) time.Duration { return time.Second }},
		})
		r.use("a")
		time.Sleep(10 * time.Second)
		done := make(chan error, 1)
		go func() {
			_, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 2 * tier.GiB})
			done <- err
		}()
		time.Sleep(300 * time.Millisecond)
		if s := r.Status(); s.RAM.Used != 3*tier.GiB || s.RAM.Limit != 4*tier.GiB || s.Limits.RAM != 4*tier.GiB {
			t.Errorf("while a leaves: used %v of %v, want 3 GiB of 4", s.RAM.Used, s.RAM.Limit)
		}
		if tiers := r.ask(`{"tier_status": true}`)["tiers"].(map[string]any)["ram"].(map[string]any); tiers["limit_gb"] != 4.0 {
			t.Errorf("the contract says %v, want a limit of 4", tiers)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); s.RAM.Used != 0 || s.RAM.Limit != 2*tier.GiB {
			t.Errorf("when a has left: used %v of %v, want none of 2 GiB", s.RAM.Used, s.RAM.Limit)
		}
	})
}
