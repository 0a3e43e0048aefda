package modeltier_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// slowDown takes 5 s to unload.
type slowDown struct{ *tiertest.Mover }

func (s slowDown) Move(ctx context.Context, mv tier.Move, p func(tier.Bytes)) error {
	if mv.To == tier.Storage {
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Mover.Move(ctx, mv, p)
}

func TestAcquire_ModelIsBeingRemoved_ToldThatItIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Mover: slowDown{&tiertest.Mover{}}})
		r.use("a")
		if _, err := r.Remove(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		began := time.Now()
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if took := time.Since(began); took > 10*time.Second || !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("after %v: %v, want ErrNotFound", took, err)
		}
	})
}

// hinter takes its time for each hint.
type hinter struct {
	*optimizer.Learned
	slow time.Duration
}

func (h hinter) Hint(model string, p float64, within time.Duration, now time.Time) {
	time.Sleep(h.slow)
}

func TestHint_ManyAtOnce_RequestsAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Placement: hinter{optimizer.New(), time.Millisecond}})
		for range 1000 {
			r.Hint("a", 0.5, time.Minute)
		}
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"})
		if err != nil {
			t.Errorf("%v", err)
		}
	})
}

func TestHint_ManyAtOnceWithTheDefaultPlacement_RequestsAreServed(t *testing.T) {
	r, err := modeltier.New(modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Mover: &tiertest.Mover{}, Probe: tiertest.NewProbe(plenty)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 20000 {
		r.Hint("a", 0.5, time.Minute)
	}
	_, err = r.Acquire(t.Context(), modeltier.Request{Model: "b"})
	if err != nil {
		t.Errorf("%v", err)
	}
}

// blockedPlan plans when it is let go.
type blockedPlan struct {
	*optimizer.Learned
	free chan struct{}
}

func (b blockedPlan) Plan(v *tier.View, n *tier.Need) tier.Plan {
	<-b.free
	return tier.Plan{}
}

func TestHotLoad_PlacementIsStuck_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Placement: blockedPlan{optimizer.New(), free}})
		go r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := r.HotLoad(ctx, model("c", 1))
		if took := time.Since(began); took > 5*time.Second || err == nil {
			t.Errorf("after %v: %v", took, err)
		}
		close(free)
	})
}

func TestClose_PlacementIsStuck_EndsInItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		leavesNothing(t)
		r, err := modeltier.New(modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Placement: blockedPlan{optimizer.New(), free}, StateDir: t.TempDir(), StuckAfter: time.Second, Mover: &tiertest.Mover{}, Probe: tiertest.NewProbe(plenty)})
		if err != nil {
			t.Fatal(err)
		}
		go r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		if err := r.Close(); time.Since(began) > 6*time.Second || !errors.Is(err, modeltier.ErrStuck) {
			t.Errorf("Close: %v after %v, want ErrStuck within 6 s", err, time.Since(began))
		}
		close(free)
	})
}

// deafMover does not hear that its context ends.
type deafMover struct {
	*tiertest.Mover
	free chan struct{}
}

func (d deafMover) Move(ctx context.Context, mv tier.Move, p func(tier.Bytes)) error {
	<-d.free
	return errors.New("freed")
}

func TestClose_MoverIsStuck_ItsJobEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		r, err := modeltier.New(modeltier.Config{Models: []tier.Model{model("a", 2)}, StuckAfter: time.Second, Mover: deafMover{&tiertest.Mover{}, free}, Probe: tiertest.NewProbe(plenty)})
		if err != nil {
			t.Fatal(err)
		}
		j, err := r.MoveTier(t.Context(), "a", tier.RAM)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := r.Close(); !errors.Is(err, modeltier.ErrStuck) {
			t.Errorf("Close: %v, want ErrStuck", err)
		}
		select {
		case <-j.Done():
		case <-time.After(time.Hour):
			t.Errorf("the job has not ended an hour after Close")
		}
		close(free)
	})
}

// A nil *nilErr has no text.
type nilErr struct{ s string }

func (e *nilErr) Error() string { return e.s }

func TestCancel_CauseWithoutText_IsAnErrorOfTheJob(t *testing.T) {
	free := make(chan struct{})
	r, err := modeltier.New(modeltier.Config{Models: []tier.Model{model("a", 2)}, StuckAfter: time.Second, Mover: deafMover{&tiertest.Mover{}, free}, Probe: tiertest.NewProbe(plenty)})
	if err != nil {
		t.Fatal(err)
	}
	j, err := r.MoveTier(t.Context(), "a", tier.RAM)
	if err != nil {
		t.Fatal(err)
	}
	var cause *nilErr
	j.Cancel(cause)
	close(free)
	r.Close()
}

// stuckSayer says of a model that it is stuck.
type stuckSayer struct{ *tiertest.Mover }

func (s stuckSayer) Resident(ctx context.Context, model string) (tier.Bytes, tier.Bytes, error) {
	if model == "bad" {
		return 0, 0, &tier.StuckError{Model: model, What: "The engine"}
	}
	return 1, 0, nil
}

func TestStatus_MoverSaysThatAModelIsStuck_OthersAreLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("bad", 1), model("good", 1)}, Mover: stuckSayer{&tiertest.Mover{}}})
		r.use("bad")
		r.use("good")
		for range 20 {
			r.Status()
		}
		for _, m := range r.Status().Models {
			if m.Name == "good" && m.Present < 0 {
				t.Errorf("good is not looked at any more")
			}
		}
	})
}

// exitErr is an error whose text ends the goroutine.
type exitErr struct{}

func (exitErr) Error() string { runtime.Goexit(); return "" }

// exitMover panics with one.
type exitMover struct{ *tiertest.Mover }

func (exitMover) Move(ctx context.Context, mv tier.Move, p func(tier.Bytes)) error { panic(exitErr{}) }

func TestEvents_TextOfAPanicEndsItsGoroutine_NextAreDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Events: modeltier.Events{Granted: func(modeltier.GrantEvent) {
			n++
			if n == 1 {
				panic(exitErr{})
			}
		}}})
		for range 10 {
			r.use("a")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n < 10 {
			t.Errorf("%d events", n)
		}
	})
}

func TestAcquire_TextOfTheMoversPanicEndsItsGoroutine_IsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Mover: exitMover{&tiertest.Mover{}}})
		began := time.Now()
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if took := time.Since(began); took > time.Minute || !errors.Is(err, modeltier.ErrPanic) {
			t.Errorf("after %v: %v, want ErrPanic", took, err)
		}
	})
}

// gatedPlan plans until it is blocked.
type gatedPlan struct {
	*optimizer.Learned
	free  chan struct{}
	block atomic.Bool
}

func (b *gatedPlan) Plan(v *tier.View, n *tier.Need) tier.Plan {
	if b.block.Load() {
		<-b.free
		return tier.Plan{}
	}
	return b.Learned.Plan(v, n)
}

func TestPressure_PlacementIsStuck_IdleModelsLeaveAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		pl := &gatedPlan{Learned: optimizer.New(), free: free}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1)}, Placement: pl, MinResidency: -1})
		r.use("a")
		time.Sleep(time.Minute)
		pl.block.Store(true)
		go r.Acquire(t.Context(), modeltier.Request{Model: "b"})
		time.Sleep(100 * time.Millisecond)
		low := plenty
		low.Available = 200 * tier.MiB
		r.probe.Set(low, nil)
		began := time.Now()
		for r.at("a") == tier.RAM && time.Since(began) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if time.Since(began) > 5*time.Second {
			t.Errorf("late")
		}
		close(free)
	})
}

// isErr2 panics when it is asked for the cause of a cancelled job.
type isErr2 struct{ n *atomic.Int32 }

func (isErr2) Error() string { return "x" }

func (e isErr2) Is(t error) bool {
	if t == errUser && e.n.Add(1) > 0 {
		panic("foreign Is with the job's cause")
	}
	return false
}

// isMover2 ends with one.
type isMover2 struct {
	*tiertest.Mover
	n *atomic.Int32
}

func (d isMover2) Move(ctx context.Context, mv tier.Move, p func(tier.Bytes)) error {
	<-ctx.Done()
	return isErr2{d.n}
}

func TestCancel_MoversErrorIsAskedForTheCause_NotOnTheLoop(t *testing.T) {
	var n atomic.Int32
	r, err := modeltier.New(modeltier.Config{Models: []tier.Model{model("a", 2)}, StuckAfter: time.Second, Mover: isMover2{&tiertest.Mover{}, &n}, Probe: tiertest.NewProbe(plenty)})
	if err != nil {
		t.Fatal(err)
	}
	j, err := r.MoveTier(t.Context(), "a", tier.RAM)
	if err != nil {
		t.Fatal(err)
	}
	j.Cancel(errUser)
	r.Close()
}

var errUser = errors.New("user")

func TestAcquire_VictimIsInDemandForAMoment_WaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 4), model("b", 4)}, Fairness: 30 * time.Second, Mover: &tiertest.Mover{OnlyRAM: true}})
		r.use("a")
		r.use("a")
		time.Sleep(10 * time.Millisecond)
		began := time.Now()
		l := r.get("b")
		l.Release()
		if time.Since(began) > 8*time.Second {
			t.Error("late")
		}
	})
}

// oldPeak is slow to say what the old model took.
type oldPeak struct {
	*tiertest.Mover
	gone atomic.Bool // a was unloaded once
	size atomic.Int64
}

func (s *oldPeak) Move(ctx context.Context, mv tier.Move, p func(tier.Bytes)) error {
	err := s.Mover.Move(ctx, mv, p)
	s.size.Store(int64(mv.Model.Size))
	if mv.To == tier.Storage {
		s.gone.Store(true)
	}
	return err
}

func (s *oldPeak) Resident(ctx context.Context, m string) (tier.Bytes, tier.Bytes, error) {
	return tier.GiB, 0, nil
}

func (s *oldPeak) Footprint(m string) (now, peak tier.Bytes, ok bool) {
	if tier.Bytes(s.size.Load()) > 3*tier.GiB/2 { // the old one, of 2 GiB, was the last
		if s.gone.Load() {
			time.Sleep(3 * time.Second)
		}
		return 0, 4*tier.GiB + tier.GiB/2, true
	}
	return 0, 0, true
}

func TestReconfigure_LookAtTheOldModelEndsLate_NewOneKeepsItsOwnFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mv := &oldPeak{Mover: &tiertest.Mover{OnlyRAM: true}}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Mover: mv})
		r.use("a")
		next := model("a", 1)
		if _, err := r.Reconfigure(t.Context(), []tier.Model{next}, tier.Limits{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		for _, m := range r.Status().Models {
			if m.Size < 3*tier.GiB/2 && m.Peak > 2*tier.GiB {
				t.Errorf("the new model of %v, never loaded, has the old one's peak of %v", m.Size, m.Peak)
			}
		}
	})
}

type deafFor struct {
	*tiertest.Mover
	free chan struct{}
}

func (d deafFor) Move(ctx context.Context, mv tier.Move, p func(tier.Bytes)) error {
	if mv.Model.Name == "bad" {
		<-d.free
	}
	return d.Mover.Move(ctx, mv, p)
}

type partSt struct {
	*tiertest.Mover
	free chan struct{}
}

func (s partSt) PartStatus() any { <-s.free; return 1 }

type lazyLook struct{ *tiertest.Mover }

func (s lazyLook) Resident(ctx context.Context, m string) (tier.Bytes, tier.Bytes, error) {
	time.Sleep(4 * time.Second)
	return tier.GiB, 0, nil
}

func TestHome_AnotherLoadIsStuck_IsReachedAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		bad, good := model("bad", 1), model("good", 1)
		bad.Home, good.Home = tier.RAM, tier.RAM
		r := newRig(t, modeltier.Config{Models: []tier.Model{bad, good}, Mover: deafFor{&tiertest.Mover{}, free}, StallAfter: time.Second, StuckAfter: time.Second})
		time.Sleep(time.Hour)
		r.wantAt("good", tier.RAM)
		close(free)
		time.Sleep(time.Second)
	})
}

func TestStatus_PartDoesNotAnswer_AskedOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Mover: partSt{&tiertest.Mover{}, free}})
		n := runtime.NumGoroutine()
		for range 100 {
			r.Status()
		}
		if more := runtime.NumGoroutine() - n; more > 50 {
			t.Errorf("%d goroutines more after 100 calls of Status", more)
		}
		close(free)
	})
}

func TestAcquire_LookAfterTheMoveIsSlow_IsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Mover: lazyLook{&tiertest.Mover{}}, StallAfter: 2 * time.Second, StuckAfter: time.Second})
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Errorf("the load succeeded after 1.5 s and yet: %v", err)
		}
	})
}
