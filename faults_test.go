package modeltier_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestEvents_RefusalAfterClose_IsAnErrorLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Events: modeltier.Events{Refused: func(modeltier.RefuseEvent) {}}})
		if err := r.Manager.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
	})
}

// slowly is a probe that takes its time.
type slowly struct{ tier.MemoryProbe }

func (s slowly) Memory(ctx context.Context) (tier.Memory, error) {
	time.Sleep(300 * time.Millisecond)
	return s.MemoryProbe.Memory(ctx)
}

// The loop is busy with a reading, and sees the request only when its caller has
// gone and the queue of its model is full.
func TestAcquire_CallerLeavesBeforeItIsSeen_QueueFull_ManagerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := &tiertest.Mover{Fault: func(tier.Move) error { time.Sleep(10 * time.Second); return nil }}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 4)}, Mover: mover, MaxQueueModel: 1, Probe: slowly{tiertest.NewProbe(plenty)}})
		first := make(chan error, 1)
		go func() {
			l, err := r.Acquire(context.Background(), modeltier.Request{Model: "a"})
			if err == nil {
				l.Release()
			}
			first <- err
		}()
		time.Sleep(2 * time.Second)
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if l, err := r.Acquire(ctx, modeltier.Request{Model: "a"}); err == nil {
				l.Release()
			}
			cancel()
			time.Sleep(30 * time.Millisecond)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

// takesLeased is a placement that names a model in use as a victim, patient or not.
type takesLeased struct{}

func (takesLeased) Plan(v *tier.View, need *tier.Need) (p tier.Plan) {
	if need == nil || need.Model < 0 {
		return p
	}
	if me := v.Library.At(need.Model); me.Name != "a" {
		p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(0), To: tier.Storage}})
	}
	p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.RAM}})
	return p
}

func TestAcquire_PlacementNamesWhatIsLeased_LoopGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 3)}, Placement: takesLeased{}})
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			l, err := r.Acquire(context.Background(), modeltier.Request{Model: "b"})
			if err == nil {
				l.Release()
			}
			served <- err
		}()
		time.Sleep(time.Second)
		if r.Status().Stale {
			t.Error("the loop does not answer")
		}
		l.Release()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestLost_ModelInStorage_NextLeaseIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("big", 7)}, Limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 10 * tier.GiB}})
		if err := r.ReportCrash("big", errors.New("it was said to")); err != nil {
			t.Fatal(err)
		}
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "big"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		select {
		case <-l.Done():
			t.Errorf("a fresh lease from %v is lost already", l.Tier())
		default:
		}
	})
}

// Events, and whoever asks for Status, run parts on goroutines of their own until
// the very end: while Close waits for those, more may come.
func TestClose_EventsAndStatusMeanwhile_CountedWithoutRace(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, modeltier.Config{
				Models: []tier.Model{model("a", 1)}, Placement: told{},
				Events: modeltier.Events{MoveEnded: func(modeltier.MoveEvent) {}, Refused: func(modeltier.RefuseEvent) {}},
			})
			var asking sync.WaitGroup
			for range 4 {
				asking.Go(func() {
					for range 20 {
						r.Status()
						r.Acquire(t.Context(), modeltier.Request{Model: "nobody"})
					}
				})
			}
			if err := r.Manager.Close(); err != nil {
				t.Error(err)
			}
			asking.Wait()
		})
	}
}

// A hot load has no deadline, and nobody is left who could make room for this one.
func TestHotLoad_MemoryCannotBeReadAnyMore_EndsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", 4)
		a.Pinned = true
		r := newRig(t, modeltier.Config{Models: []tier.Model{a}, Limits: tier.Limits{RAM: 5 * tier.GiB, MaxModel: tier.Unlimited}})
		use := make(chan struct{})
		go func() { defer close(use); r.use("a") }()
		time.Sleep(time.Second)
		r.probe.Set(tier.Memory{}, errors.New("no such file"))
		<-use // what its load has moved, no reading shows
		h := model("h", 3)
		h.Home = tier.RAM
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := order(t)(r.HotLoad(t.Context(), h)).Wait(ctx); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("the hot load ended with %v, want ErrNoCapacity", err)
		}
	})
}

// told is a placement that has something to say in Status.
type told struct{ takesLeased }

func (told) PartStatus() any { return "here" }

// pondering is a placement whose prediction never comes, until it is let go.
type pondering struct {
	takesLeased
	let chan struct{}
}

func (p pondering) Predict(*tier.Model, tier.Tier, tier.Tier, tier.Bytes) (d, low, high time.Duration) {
	<-p.let
	return
}

func TestAcquire_PredictionThatNeverComes_LoopGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pondering{let: make(chan struct{})}
		defer close(p.let)
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Placement: p})
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		l.Release()
	})
}
