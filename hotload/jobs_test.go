package hotload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

var errBroken = errors.New("broken")

func TestJob_EndsExactlyOnce_FirstFinishCounts(t *testing.T) {
	jobs := NewJobs(0)
	w := jobs.Start(t.Context(), Spec{Kind: KindLoad, Model: "a"})
	w.Finish(errBroken)
	w.Finish(nil)
	w.Job().Cancel(nil)
	w.Finish(context.Canceled)
	if got := w.Job().State(); got != Failed {
		t.Errorf("state %v, want failed", got)
	}
	if err := w.Job().Err(); err != errBroken {
		t.Errorf("error %v, want that of the first Finish", err)
	}
	if got, want := jobs.Counts(KindLoad), (Counts{Started: 1, Failed: 1}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}

func TestJob_Finish_StateSaysWhy(t *testing.T) {
	gone := errors.New("the client left")
	closed := fmt.Errorf("shut down: %w", tier.ErrClosed)
	for _, tt := range []struct {
		name   string
		cancel func(j *Job, stop context.CancelCauseFunc)
		err    error
		want   JobState
	}{
		{"no error", nil, nil, Success},
		{"an error", nil, errBroken, Failed},
		{"an end of its own without a request", nil, context.Canceled, Failed},
		{"a deadline of its own", nil, context.DeadlineExceeded, Failed},
		{"cancelled, the cause comes back wrapped", func(j *Job, _ context.CancelCauseFunc) { j.Cancel(gone) }, &tier.MoveError{Model: "a", Err: gone}, Cancelled},
		{"cancelled, the bare sentinel comes back", func(j *Job, _ context.CancelCauseFunc) { j.Cancel(gone) }, context.Canceled, Cancelled},
		{"cancelled without a cause", func(j *Job, _ context.CancelCauseFunc) { j.Cancel(nil) }, context.Canceled, Cancelled},
		{"cancelled, and broken for another reason", func(j *Job, _ context.CancelCauseFunc) { j.Cancel(gone) }, errBroken, Failed},
		{"cancelled when all was done", func(j *Job, _ context.CancelCauseFunc) { j.Cancel(gone) }, nil, Success},
		{"the manager stops", func(_ *Job, stop context.CancelCauseFunc) { stop(closed) }, closed, Cancelled},
		{"cancelled twice, the first cause counts", func(j *Job, _ context.CancelCauseFunc) { j.Cancel(gone); j.Cancel(errBroken) }, gone, Cancelled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			w := NewJobs(0).Start(ctx, Spec{})
			if tt.cancel != nil {
				tt.cancel(w.Job(), stop)
				if w.Context().Err() == nil {
					t.Error("the context of the work has not ended")
				}
			}
			w.Finish(tt.err)
			if got := w.Job().State(); got != tt.want {
				t.Errorf("state %v, want %v", got, tt.want)
			}
			if got := w.Job().Err(); got != tt.err {
				t.Errorf("error %v, want %v", got, tt.err)
			}
		})
	}
}

func TestJobWait_ContextEnds_CauseComesBackAndJobRunsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewJobs(0).Start(t.Context(), Spec{})
		impatient := errors.New("impatient")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, impatient)
		defer cancel()
		if err := w.Job().Wait(ctx); err != impatient {
			t.Errorf("Wait returned %v, want the cause", err)
		}
		if w.Context().Err() != nil {
			t.Error("a waiter's end has cancelled the job")
		}
		go func() {
			time.Sleep(time.Second)
			w.Finish(errBroken)
		}()
		if err := w.Job().Wait(t.Context()); err != errBroken {
			t.Errorf("Wait returned %v, want the job's error", err)
		}
		if err := w.Job().Wait(ctx); err != errBroken {
			t.Errorf("Wait for an ended job with an ended context returned %v, want the job's error", err)
		}
		if w.Context().Err() == nil {
			t.Error("the context outlives the job")
		}
	})
}

func TestJobElapsed_StopsWithTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewJobs(0).Start(t.Context(), Spec{Estimate: 3 * time.Second})
		time.Sleep(2 * time.Second)
		if got := w.Job().Elapsed(); got != 2*time.Second {
			t.Errorf("elapsed %v while it runs, want 2s", got)
		}
		w.Finish(nil)
		time.Sleep(time.Hour)
		if got := w.Job().Elapsed(); got != 2*time.Second {
			t.Errorf("elapsed %v after its end, want 2s", got)
		}
		if got := w.Job().Estimate(); got != 3*time.Second {
			t.Errorf("estimate %v, want that of the start", got)
		}
	})
}

func TestJob_SaysWhatItWasStartedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		w := NewJobs(0).Start(t.Context(), Spec{Kind: KindDemote, Model: "a", From: tier.RAM, To: tier.Swap})
		j := w.Job()
		if j.Kind() != KindDemote || j.Model() != "a" || j.From() != tier.RAM || j.To() != tier.Swap || !j.Started().Equal(start) {
			t.Errorf("%v of %q from %v to %v at %v", j.Kind(), j.Model(), j.From(), j.To(), j.Started())
		}
		select {
		case <-j.Done():
			t.Error("done before its end")
		default:
		}
		w.Finish(nil)
		<-j.Done()
	})
}

func TestNames_OfKindsStatesFormatsAndRoles(t *testing.T) {
	for _, tt := range []struct {
		value fmt.Stringer
		want  string
	}{
		{KindLoad, "load"}, {KindPromote, "promote"}, {KindDemote, "demote"}, {KindOptimize, "optimize"}, {KindRemove, "remove"}, {Kind(9), "kind(9)"},
		{Running, "running"}, {Success, "success"}, {Failed, "failed"}, {Cancelled, "cancelled"}, {JobState(9), "state(9)"},
		{FormatUnknown, "unknown"}, {FormatGGUF, "gguf"}, {FormatSafetensors, "safetensors"}, {Format(9), "format(9)"},
		{RoleModel, "model"}, {RoleProjector, "projector"}, {RoleAdapter, "adapter"}, {RoleAuxiliary, "auxiliary"}, {Role(9), "role(9)"},
	} {
		if got := tt.value.String(); got != tt.want {
			t.Errorf("%T is called %q, want %q", tt.value, got, tt.want)
		}
	}
}

func TestJobs_IDs_KeepRecordedPrefixesAndModelName(t *testing.T) {
	jobs := NewJobs(0)
	for kind, prefix := range map[Kind]string{
		KindLoad: "load_", KindPromote: "tier_promote_", KindDemote: "tier_demote_",
		KindOptimize: "tier_optimize_", KindRemove: "remove_",
	} {
		for _, model := range []string{"gpt2-large", "a_1", "ü b/c", ""} {
			id := jobs.Start(t.Context(), Spec{Kind: kind, Model: model}).Job().ID()
			number, ok := strings.CutPrefix(id, prefix+model+"_")
			if !ok || number == "" || strings.Trim(number, "0123456789") != "" {
				t.Errorf("ID %q of a %v of %q", id, kind, model)
			}
		}
	}
}

func TestJobs_StartedInOneInstantAndAfterRestart_IDsDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands still
		seen := make(map[string]bool)
		start := func(jobs *Jobs, model string) {
			id := jobs.Start(t.Context(), Spec{Model: model}).Job().ID()
			if seen[id] {
				t.Fatalf("ID %q was given twice", id)
			}
			seen[id] = true
		}
		before := NewJobs(0)
		for range 1000 {
			start(before, "m")
			start(before, "m_1")
		}
		time.Sleep(10 * time.Microsecond) // no restart is faster
		after := NewJobs(0)
		for range 1000 {
			start(after, "m")
		}
	})
}

func TestJobs_ManyEnded_OldestForgottenRunningNever(t *testing.T) {
	const keep = 8
	jobs := NewJobs(keep)
	running := jobs.Start(t.Context(), Spec{Model: "long"})
	var ended []*Job
	for range 5 * keep {
		w := jobs.Start(t.Context(), Spec{Model: "short"})
		w.Finish(nil)
		ended = append(ended, w.Job())
	}
	for i, j := range ended {
		got, ok := jobs.Get(j.ID())
		if want := i >= len(ended)-keep; ok != want || ok && got != j {
			t.Errorf("job %d of %d remembered: %v, want %v", i, len(ended), ok, want)
		}
	}
	if got, ok := jobs.Get(running.Job().ID()); !ok || got != running.Job() {
		t.Error("a running job was forgotten")
	}
	want := append([]*Job{running.Job()}, ended[len(ended)-keep:]...)
	all := jobs.All()
	running.Finish(nil) // All is a snapshot of before
	jobs.Start(t.Context(), Spec{})
	if got := slices.Collect(all); !slices.Equal(got, want) {
		t.Errorf("All yields %d jobs in another order than newest last", len(got))
	}
	if got := jobs.Counts(KindLoad); got != (Counts{Started: 5*keep + 2, Running: 1, Succeeded: 5*keep + 1}) {
		t.Errorf("counts %+v", got)
	}
}

func TestJobs_UsedByManyAtOnce_EveryJobEndsOnce(t *testing.T) {
	jobs := NewJobs(16)
	var wg sync.WaitGroup
	var seen sync.Map
	jobs.OnEnd(func(j *Job) {
		if _, twice := seen.LoadOrStore(j.ID(), true); twice || j.State() == Running {
			t.Errorf("OnEnd was called for %s in state %v, called before: %v", j.ID(), j.State(), twice)
		}
	})
	for i := range 16 {
		wg.Go(func() {
			for range 100 {
				w := jobs.Start(t.Context(), Spec{Kind: Kind(i % 5), Total: 100})
				var inner sync.WaitGroup
				inner.Go(func() { w.Progressed(50); w.Estimate(time.Second); w.Job().Estimate() })
				inner.Go(func() { w.Job().Cancel(errBroken) })
				inner.Go(func() { w.Finish(context.Cause(w.Context())) })
				inner.Go(func() { w.Finish(nil) })
				inner.Go(func() { w.Job().Wait(t.Context()); jobs.Get(w.Job().ID()) })
				inner.Go(func() {
					for range jobs.All() {
						jobs.Counts(KindLoad)
					}
				})
				inner.Wait()
			}
		})
	}
	wg.Wait()
	var sum Counts
	for k := range Kind(5) {
		c := jobs.Counts(k)
		sum.Started += c.Started
		sum.Succeeded += c.Succeeded + c.Failed + c.Cancelled
		sum.Running += c.Running
	}
	if sum.Started != 1600 || sum.Succeeded != 1600 || sum.Running != 0 {
		t.Errorf("%d started, %d ended, %d running", sum.Started, sum.Succeeded, sum.Running)
	}
	calls := 0
	seen.Range(func(any, any) bool { calls++; return true })
	if calls != 1600 {
		t.Errorf("OnEnd was called %d times for 1600 jobs", calls)
	}
	if got := len(slices.Collect(jobs.All())); got != 16 {
		t.Errorf("%d jobs remembered, want 16", got)
	}
}

// What OnEnd is given has ended for all others too, and no lock is held.
func TestJobsOnEnd_JobHasEnded_JobsCanBeUsed(t *testing.T) {
	jobs := NewJobs(1)
	var seen []string
	jobs.OnEnd(func(j *Job) {
		<-j.Done()
		if _, known := jobs.Get(j.ID()); !known || j.Wait(t.Context()) != errBroken || jobs.Counts(KindLoad).Running != 0 {
			t.Errorf("%s is not known as ended", j.ID())
		}
		seen = append(seen, j.Model())
		for range jobs.All() {
			jobs.Start(t.Context(), Spec{Kind: KindRemove})
		}
	})
	w := jobs.Start(t.Context(), Spec{Model: "a"})
	w.Finish(errBroken)
	w.Finish(nil)
	if !slices.Equal(seen, []string{"a"}) {
		t.Errorf("OnEnd was called for %q, want once for a", seen)
	}
}

func TestWorkEstimate_SetLater_ReplacesUntilTheJobEnds(t *testing.T) {
	w := NewJobs(0).Start(t.Context(), Spec{Estimate: -time.Second})
	for _, tt := range []struct{ set, want time.Duration }{{3 * time.Second, 3 * time.Second}, {time.Second, time.Second}, {-1, 0}, {time.Minute, time.Minute}} {
		if w.Estimate(tt.set); w.Job().Estimate() != tt.want {
			t.Errorf("estimate %v after %v, want %v", w.Job().Estimate(), tt.set, tt.want)
		}
	}
	w.Finish(nil)
	if w.Estimate(time.Hour); w.Job().Estimate() != time.Minute {
		t.Errorf("estimate %v of a job that has ended, want %v", w.Job().Estimate(), time.Minute)
	}
}

// TestProgress_AnyReports_NeverFalls feeds reports in any order, of any size.
func TestProgress_AnyReports_NeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.Int64Range(math.MinInt64, math.MaxInt64)
		near := rapid.Int64Range(-10, 200)
		any := rapid.OneOf(bytes, near)
		w := NewJobs(0).Start(context.Background(), Spec{Total: tier.Bytes(any.Draw(t, "total"))})
		var last Progress
		check := func() {
			p := w.Job().Progress()
			if p.Done < last.Done || p.Total < last.Total || p.Fraction < last.Fraction {
				t.Fatalf("progress fell from %+v to %+v", last, p)
			}
			if p.Done < 0 || p.Total < 0 || p.Total > 0 && p.Done > p.Total || !(p.Fraction >= 0 && p.Fraction <= 1) {
				t.Fatalf("progress is %+v", p)
			}
			last = p
		}
		check()
		t.Repeat(map[string]func(*rapid.T){
			"done":   func(t *rapid.T) { w.Progressed(tier.Bytes(any.Draw(t, "done"))) },
			"expect": func(t *rapid.T) { w.Expect(tier.Bytes(any.Draw(t, "total"))) },
			"":       func(*rapid.T) { check() },
		})
		w.Finish(nil)
		check()
		if last.Fraction != 1 || last.Done != last.Total {
			t.Fatalf("progress of a success is %+v", last)
		}
		w.Progressed(math.MaxInt64)
		w.Expect(math.MaxInt64)
		if p := w.Job().Progress(); p != last {
			t.Fatalf("progress changed after the end, to %+v", p)
		}
	})
}

func TestJob_Phases_TimeLeftIsKnownWhileBytesMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewJobs(0).Start(t.Context(), Spec{Total: 100, Estimate: 10 * time.Second})
		want := func(phase tier.Phase, left time.Duration, fraction float64) {
			t.Helper()
			if j := w.Job(); j.Phase() != phase || j.Left() != left || j.Progress().Fraction != fraction {
				t.Errorf("%v, %v left, %v done; want %v, %v, %v", j.Phase(), j.Left(), j.Progress().Fraction, phase, left, fraction)
			}
		}
		want(tier.Queued, 0, 0)
		w.Phase(tier.MakingRoom)
		time.Sleep(time.Minute)
		want(tier.MakingRoom, 0, 0)
		w.Begun(w.Job().Estimate())
		want(tier.Loading, 10*time.Second, 0)
		if got := w.Job().Estimate(); got != 70*time.Second {
			t.Errorf("with the time that it waited it takes %v, want 1m10s", got)
		}
		w.Progressed(50)
		time.Sleep(4 * time.Second)
		want(tier.Loading, 6*time.Second, 0.5)
		w.Progressed(100)
		want(tier.Starting, 6*time.Second, maxRunning)
		time.Sleep(time.Minute) // it takes longer than was expected
		want(tier.Starting, 0, maxRunning)
		w.Finish(nil)
		want(tier.Starting, 0, 1)
	})
}

func TestProgress_JobFails_StaysWhereItWas(t *testing.T) {
	w := NewJobs(0).Start(t.Context(), Spec{Total: 100})
	w.Progressed(40)
	w.Finish(errBroken)
	if got, want := w.Job().Progress(), (Progress{Done: 40, Total: 100, Fraction: 0.4}); got != want {
		t.Errorf("progress %+v, want %+v", got, want)
	}
}

func BenchmarkJob_StartProgressFinish(b *testing.B) {
	jobs := NewJobs(0)
	b.ReportAllocs()
	for b.Loop() {
		w := jobs.Start(b.Context(), Spec{Model: "llama-7b", Total: 100})
		w.Progressed(50)
		w.Finish(nil)
	}
}
