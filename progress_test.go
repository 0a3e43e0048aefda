package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// starter is a mover of engines: a load reads what is not cached, reports that, and
// then takes a fixed time until the engine is ready. What gives way takes unload.
type starter struct {
	*tiertest.Mover
	each          float64 // seconds for a GiB
	fixed, unload time.Duration

	mu     sync.Mutex // guards the rest
	cached map[string]tier.Bytes
}

func (s *starter) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if mv.To < mv.From {
		return s.Mover.Move(ctx, mv, progress)
	}
	s.mu.Lock()
	cached := s.cached[mv.Model.Name]
	s.mu.Unlock()
	const parts = 20
	for i := range tier.Bytes(parts) {
		s.pass(ctx, time.Duration(s.each*(mv.Model.Size-cached).GB()*float64(time.Second)/parts))
		progress(mv.Model.Size * (i + 1) / parts)
	}
	s.pass(ctx, s.fixed)
	return s.Mover.Move(ctx, mv, func(tier.Bytes) {})
}

func (s *starter) pass(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Cached implements tier.Cacher.
func (s *starter) Cached(_ context.Context, model string) (tier.Bytes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.At(model) == tier.RAM {
		return 0, nil
	}
	return s.cached[model], nil
}

// Uncache implements tier.Cacher. The test alone says what is cached.
func (s *starter) Uncache(context.Context, string, tier.Bytes) error { return nil }

func (s *starter) set(model string, b tier.Bytes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cached[model] = b
}

func (s *starter) takes(m tier.Model, cached tier.Bytes) time.Duration {
	return s.fixed + time.Duration(s.each*(m.Size-cached).GB()*float64(time.Second))
}

// newStarterRig is a rig with a starter under it.
func newStarterRig(t *testing.T, cfg modeltier.Config) (*rig, *starter) {
	t.Helper()
	s := &starter{
		each: 1, fixed: 3 * time.Second, cached: make(map[string]tier.Bytes),
		Mover: &tiertest.Mover{OnlyRAM: true},
	}
	s.Mover.Time = func(mv tier.Move) time.Duration {
		if mv.To < mv.From {
			return s.unload
		}
		return 0
	}
	cfg.Mover, cfg.Limits.Swap, cfg.OptimizeEvery = s, tier.None, -1
	r := newRig(t, cfg)
	r.mover = s.Mover
	return r, s
}

// remark is what a request was told, and when.
type remark struct {
	tier.Waiting
	at time.Time
}

// audience collects what a request is told.
type audience struct {
	mu  sync.Mutex // guards the rest
	all []remark
}

func (l *audience) hear(w tier.Waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, remark{w, time.Now()})
}

func (l *audience) told() []remark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// last is what was told last.
func (l *audience) last(t *testing.T) remark {
	t.Helper()
	synctest.Wait()
	all := l.told()
	if len(all) == 0 {
		t.Fatal("it was told nothing")
	}
	return all[len(all)-1]
}

// truthful checks the reports of a wait that ended at that time with a lease.
func truthful(t *testing.T, all []remark, ended time.Time) {
	t.Helper()
	for i, w := range all {
		if w.Phase < tier.Loading && (w.Done != 0 || w.Total != 0 || w.Job != "") || w.Phase >= tier.Loading && w.Job == "" {
			t.Errorf("%v: %+v", w.Phase, w)
		}
		if (w.Phase == tier.Queued) != (w.Position > 0) || w.Phase == tier.Queued && len(w.Behind) == 0 || w.Phase >= tier.Loading && len(w.Behind) > 0 {
			t.Errorf("%v at %d behind %q", w.Phase, w.Position, w.Behind)
		}
		if (w.Phase == tier.Starting) != (w.Total > 0 && w.Done == w.Total) {
			t.Errorf("%v with %v of %v", w.Phase, w.Done, w.Total)
		}
		if w.at.After(ended) {
			t.Errorf("it was told of %v after the end of the wait", w.Phase)
		}
		if i == 0 {
			continue
		}
		before := all[i-1]
		if gap := w.at.Sub(before.at); gap < 100*time.Millisecond || gap > 110*time.Millisecond {
			t.Errorf("a report %v after the one before", gap)
		}
		if w.Phase < before.Phase || w.Done < before.Done || w.Total < before.Total {
			t.Errorf("%+v after %+v", w, before)
		}
		if before.Left > 0 && w.Left >= before.Left {
			t.Errorf("%v left after %v", w.Left, before.Left)
		}
	}
}

func phases(all []remark) (out []tier.Phase) {
	for _, w := range all {
		out = append(out, w.Phase)
	}
	return slices.Compact(out)
}

func TestProgress_RoomIsMadeAndEngineStarts_EachPhaseIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 4)}})
		r.use("a")
		mover.unload = 2 * time.Second
		time.Sleep(time.Minute)
		var l audience
		c := r.beginWith(modeltier.Request{Model: "b", Progress: l.hear})
		time.Sleep(1050 * time.Millisecond) // between two reports
		if w := l.last(t); w.Model != "b" || w.Phase != tier.MakingRoom || !slices.Equal(w.Behind, []string{"a"}) || w.Left != 0 {
			t.Errorf("while room is made: %+v", w)
		}
		if s := r.model("b"); s.Waiting == nil || s.Waiting.Phase != tier.MakingRoom {
			t.Errorf("Status while room is made: %+v", s.Waiting)
		}
		time.Sleep(3100 * time.Millisecond)
		w := l.last(t)
		if w.Phase != tier.Loading || w.Done != 2*tier.GiB || w.Total != 4*tier.GiB {
			t.Errorf("half way: %+v", w)
		}
		job, ok := r.Job(w.Job)
		if !ok || job.Model() != "b" || job.Phase() != tier.Loading {
			t.Errorf("the job is %+v", job)
		}
		time.Sleep(3 * time.Second)
		if w := l.last(t); w.Phase != tier.Starting || w.Done != w.Total {
			t.Errorf("when all is read: %+v", w)
		}
		if p := job.Progress(); job.Phase() != tier.Starting || p.Done != p.Total || p.Fraction >= 1 {
			t.Errorf("the job of an engine that starts is in %v at %+v", job.Phase(), p)
		}
		if s := r.Status(); len(s.Moves) != 1 || s.Moves[0].Phase != tier.Starting {
			t.Errorf("moves %+v", s.Moves)
		}
		c.served(9 * time.Second).Release()
		truthful(t, l.told(), time.Now())
		if got, want := phases(l.told()), []tier.Phase{tier.MakingRoom, tier.Loading, tier.Starting}; !slices.Equal(got, want) {
			t.Errorf("phases %v, want %v", got, want)
		}
		if s := r.model("b"); s.Waiting != nil {
			t.Errorf("Status of a model that is ready: %+v", s.Waiting)
		}
		if p := job.Progress(); p.Fraction != 1 || job.Left() != 0 {
			t.Errorf("the job that has ended is at %+v with %v left", p, job.Left())
		}
	})
}

func TestProgress_OneLoadAtATime_QueueIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 1), model("b", 1), model("c", 1)}, Loads: 1})
		var audiences [3]audience
		var clients [3]*client
		for i := range clients {
			clients[i] = r.beginWith(modeltier.Request{Model: string("abc"[i]), Progress: audiences[i].hear})
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		for i, behind := range [][]string{nil, {"a"}, {"a", "b"}} {
			if w := audiences[i].last(t); w.Position != i || !slices.Equal(w.Behind, behind) {
				t.Errorf("%s is %v at %d behind %q, want %d behind %q", w.Model, w.Phase, w.Position, w.Behind, i, behind)
			}
		}
		time.Sleep(4 * time.Second)
		if w := audiences[2].last(t); w.Phase != tier.Queued || w.Position != 1 || !slices.Equal(w.Behind, []string{"b"}) {
			t.Errorf("c is %v at %d behind %q", w.Phase, w.Position, w.Behind)
		}
		for i, c := range clients {
			<-c.done
			truthful(t, audiences[i].told(), time.Now())
		}
	})
}

func TestProgress_RoomIsInUse_WhoHasItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 4)}, Fairness: 10 * time.Second})
		lease := r.get("a")
		var l audience
		c := r.beginWith(modeltier.Request{Model: "b", Progress: l.hear})
		for range 2 { // before its turn, and when models in use drain for it
			time.Sleep(8 * time.Second)
			if w := l.last(t); w.Phase > tier.MakingRoom || !slices.Equal(w.Behind, []string{"a"}) {
				t.Errorf("%+v", w)
			}
		}
		lease.Release()
		<-c.done
		truthful(t, l.told(), time.Now())
	})
}

func TestProgress_ServedAtOnceOrSoon_NotCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}})
		mover.each, mover.fixed = 0, 99*time.Millisecond
		var l audience
		req := modeltier.Request{Model: "a", Progress: l.hear}
		for range 2 {
			lease, err := r.Acquire(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			lease.Release()
			time.Sleep(time.Second)
		}
		if all := l.told(); len(all) > 0 {
			t.Errorf("it was told of %+v", all)
		}
		if n := testing.AllocsPerRun(1000, func() {
			lease, _ := r.Acquire(t.Context(), req)
			lease.Release()
		}); n > 1 {
			t.Errorf("a request served at once takes %v allocations", n)
		}
	})
}

func TestProgress_ClientLeaves_NoCallBeginsAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 4)}})
		mover.each = 100
		var l audience
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(95+i)*time.Millisecond)
			if _, err := r.Acquire(ctx, modeltier.Request{Model: "a", Progress: l.hear}); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
			n := len(l.told())
			time.Sleep(time.Second)
			if got := len(l.told()); got != n {
				t.Errorf("%d calls after Acquire has returned", got-n)
			}
			if i > 5 && n == 0 {
				t.Errorf("no call in %v", time.Duration(95+i)*time.Millisecond)
			}
		}
	})
}

// A function that is called at the moment at which the wait ends has been called when
// Acquire returns.
func TestProgress_CallAsTheWaitEnds_HasBegunBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 1), model("b", 1)}})
		mover.each, mover.fixed = 0, time.Second
		for _, name := range []string{"a", "b"} {
			var mu sync.Mutex
			returned, late := false, false
			_, err := r.Acquire(t.Context(), modeltier.Request{Model: name, Progress: func(tier.Waiting) {
				mu.Lock()
				late = late || returned
				mu.Unlock()
				runtime.Gosched()
			}})
			mu.Lock()
			returned = true
			mu.Unlock()
			time.Sleep(time.Second)
			if err != nil || late {
				t.Errorf("a call began after Acquire had returned (%v)", err)
			}
		}
	})
}

func near(got, want time.Duration) bool {
	return math.Abs(got.Seconds()-want.Seconds()) <= 0.2*want.Seconds()
}

// What is told of the time that a load takes, after three starts of an engine.
func TestEstimates_AfterThreeStarts_WithinAFifth(t *testing.T) {
	a, b, c := model("a", 3), model("b", 1), model("c", 2)
	for name, starts := range map[string][]tier.Bytes{ // cached bytes at each
		"all cold":          {0, 0, 0},
		"cold, then cached": {0, a.Size, a.Size},
		"cached in between": {0, a.Size, 0},
	} {
		for _, m := range []tier.Model{a, b, c} {
			for _, cached := range []tier.Bytes{0, m.Size} {
				t.Run(fmt.Sprintf("%s, %s with %v cached", name, m.Name, cached), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{a, b, c}, MaxQueueModel: 1})
						down := func(name string, cached tier.Bytes) {
							mover.set(name, cached) // it is looked at when the move has ended
							if err := order(t)(r.MoveTier(t.Context(), name, tier.Storage)).Wait(t.Context()); err != nil {
								t.Fatal(err)
							}
						}
						for i, cached := range starts {
							if i > 0 {
								down("a", cached)
							}
							r.use("a")
						}
						if m.Name != "a" && cached > 0 { // else it is not known that it is cached
							r.use(m.Name)
						}
						if r.at(m.Name) == tier.RAM {
							down(m.Name, cached)
						}
						want := mover.takes(m, cached)

						job := order(t)(r.MoveTier(t.Context(), m.Name, tier.RAM))
						if got := job.Estimate(); !near(got, want) {
							t.Errorf("an order is expected to take %v, want %v", got, want)
						}
						if err := job.Wait(t.Context()); err != nil || !near(job.Estimate(), job.Elapsed()) {
							t.Errorf("%v; it took %v, and was expected to take %v", err, job.Elapsed(), job.Estimate())
						}
						down(m.Name, cached)

						var l audience
						waits := r.beginWith(modeltier.Request{Model: m.Name, Progress: l.hear})
						time.Sleep(time.Second)
						_, err := r.Acquire(t.Context(), modeltier.Request{Model: m.Name})
						busy, ok := errors.AsType[*tier.BusyError](err)
						if !ok || !near(busy.RetryAfter, want-time.Second) {
							t.Errorf("it may come back as %+v, want in %v", busy, want-time.Second)
						}
						waits.served(want).Release()
						all := l.told()
						truthful(t, all, time.Now())
						if w := all[0]; !near(w.Left, want-100*time.Millisecond) {
							t.Errorf("%v are left, want %v", w.Left, want)
						}
					})
				})
			}
		}
	}
}

// An order that waits for its turn counts that as its own time, and a hot load whose
// room is made says so.
func TestProgress_HotLoad_TellsItsPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 4)}})
		r.use("a")
		mover.unload = 2 * time.Second
		time.Sleep(time.Minute)
		h := model("h", 3)
		h.Home = tier.RAM
		job := order(t)(r.HotLoad(t.Context(), h))
		seen := make(map[tier.Phase]time.Duration)
		for last := (modeltier.Progress{}); job.State().String() == "running"; time.Sleep(100 * time.Millisecond) {
			if synctest.Wait(); job.State().String() != "running" {
				break
			}
			p := job.Progress()
			if p.Fraction >= 1 || p.Fraction < last.Fraction {
				t.Errorf("it runs, and its progress is %+v after %+v", p, last)
			}
			last = p
			seen[job.Phase()] += 100 * time.Millisecond
		}
		want := map[tier.Phase]time.Duration{tier.MakingRoom: 2 * time.Second, tier.Loading: 3 * time.Second, tier.Starting: 3 * time.Second}
		if !maps.Equal(seen, want) {
			t.Errorf("phases %v, want %v", seen, want)
		}
		if err := job.Err(); err != nil || !near(job.Estimate(), 8*time.Second) {
			t.Errorf("%v; it is expected to take %v", err, job.Estimate())
		}
	})
}
