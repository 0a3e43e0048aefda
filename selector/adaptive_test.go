package selector

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func mustNew(t testing.TB, o Options) *Policies {
	t.Helper()
	s, err := NewWith(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// twins are two equal models, the first of which wins a tie.
func twins(t *testing.T) *tier.View {
	v := viewOf(newLibrary(t,
		tier.Model{Name: "one", Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}},
		tier.Model{Name: "two", Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}},
	))
	settle(t, v, "one", tier.RAM)
	settle(t, v, "two", tier.RAM)
	return v
}

func good(model string, latency time.Duration) tier.Outcome {
	return tier.Outcome{Model: model, At: start, Latency: latency, Served: latency}
}

func failed(model string, at time.Time) tier.Outcome {
	return tier.Outcome{Model: model, At: at, Err: errors.New("no answer")}
}

func TestAdaptive_Speed_ChoosesTheModelUsableFirst(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	s := NewAdaptive()
	req := tier.Request{Priority: tier.Speed}
	if c := mustSelect(t, s, v, req); c.Model != "gpt2-small" {
		t.Errorf("all in storage: chose %s, want the smallest", c.Model)
	}
	v = again(v)
	settle(t, v, "gpt2-large", tier.RAM)
	if c := mustSelect(t, s, v, req); c.Model != "gpt2-large" || math.Abs(c.Score+0.3) > 1e-9 {
		t.Errorf("got %+v, want the one in ram with -0.3 s", c)
	}
	v = again(v) // a queue of 16 at the one in ram: 4 × 0.3 s more
	v.States[2].Leases = 16
	if c := mustSelect(t, s, v, req); c.Model != "gpt2-small" {
		t.Errorf("with a queue: chose %s", c.Model)
	}
	v = again(v) // and another load in front of every other one
	v.States[5] = tier.State{Moving: true, To: tier.Swap, InPlace: true}
	if c := mustSelect(t, s, v, req); c.Model != "gpt2-large" {
		t.Errorf("with a load in flight: chose %s", c.Model)
	}
}

func TestAdaptive_Speed_LearnsLatencyAndLoadRate(t *testing.T) {
	s := NewAdaptive()
	v := twins(t)
	s.Reported([]tier.Outcome{good("one", 2*time.Second), good("two", time.Second)})
	if c := mustSelect(t, s, v, tier.Request{Priority: tier.Speed}); c.Model != "two" {
		t.Errorf("chose %s, the other answers faster", c.Model)
	}
	// A disk of 10 GB/s makes the faster model worth loading.
	v.States[1] = tier.State{InPlace: true}
	v = again(v)
	if c := mustSelect(t, s, v, tier.Request{Priority: tier.Speed}); c.Model != "one" {
		t.Errorf("chose %s, loading the other takes 1.4 s", c.Model)
	}
	for range 10 {
		s.Moved([]tier.Moved{{Move: tier.Move{From: tier.Storage, To: tier.RAM}, Bytes: 10 * tier.GiB, Took: time.Second}})
	}
	if c := mustSelect(t, s, v, tier.Request{Priority: tier.Speed}); c.Model != "two" {
		t.Errorf("chose %s, loading the other takes 0.1 s by now", c.Model)
	}
}

func TestAdaptive_Quality_DeclaredAndScored(t *testing.T) {
	v := twins(t)
	s := NewAdaptive()
	for range 20 {
		s.Reported([]tier.Outcome{
			{Model: "one", At: start, Scored: true, Score: 0.1}, {Model: "two", At: start, Scored: true, Score: 0.9},
		})
	}
	if c := mustSelect(t, s, v, tier.Request{Priority: tier.Quality}); c.Model != "two" {
		t.Errorf("chose %s, callers think little of it", c.Model)
	}
}

func TestAdaptive_Balanced_WaitsForTwiceTheQualityNotLonger(t *testing.T) {
	lib := newLibrary(t,
		tier.Model{Name: "small", Size: tier.GiB, Quality: 3, Capabilities: []string{"chat"}},
		tier.Model{Name: "large", Size: tier.GiB, Quality: 7, Capabilities: []string{"chat"}},
	)
	v := viewOf(lib)
	settle(t, v, "small", tier.RAM)
	settle(t, v, "large", tier.RAM)
	s := NewAdaptive()
	s.Reported([]tier.Outcome{good("small", time.Second), good("large", 3*time.Second)})
	// (1+7)/(1+3) = 2 and (1+3)/(1+1) = 2: a tie, which the first listed wins.
	if c := mustSelect(t, s, v, tier.Request{}); c.Model != "small" || math.Abs(c.Score-1) > 1e-9 {
		t.Errorf("got %+v", c)
	}
	patient := mustNew(t, Options{Policy: PolicyAdaptive, Learning: Learning{WaitWeight: 0.9}})
	patient.Reported([]tier.Outcome{good("small", time.Second), good("large", 3*time.Second)})
	if c := mustSelect(t, patient, v, tier.Request{}); c.Model != "large" {
		t.Errorf("with less weight on waiting: chose %s", c.Model)
	}
}

func TestAdaptive_KeepsFailing_AvoidedForAWhileThenTriedAgain(t *testing.T) {
	s := NewAdaptive()
	v := twins(t)
	choose := func(after time.Duration) string {
		later := *v // of the same states: only the clock has moved
		later.Now = start.Add(after)
		return mustSelect(t, s, &later, tier.Request{}).Model
	}
	report := func(o ...tier.Outcome) { s.Reported(o) }
	report(failed("one", start), tier.Outcome{Model: "one", At: start, Err: context.Canceled})
	if s.adaptive.stats.Load().of("one").Failures != 1 {
		t.Error("a caller that went away counts as a failure")
	}
	report(failed("one", start), failed("one", start))
	if got := choose(0); got != "two" {
		t.Errorf("after three failures: chose %s", got)
	}
	// It is better than nothing.
	alone := again(v)
	alone.States[1] = tier.State{Tier: tier.RAM, Stuck: true, InPlace: true}
	if c := mustSelect(t, s, alone, tier.Request{}); c.Model != "one" {
		t.Errorf("alone: chose %s", c.Model)
	}
	if got := choose(30*time.Second - 1); got != "two" {
		t.Errorf("just before the time is over: chose %s", got)
	}
	// It is tried again: being still the less reliable one it has to be the better.
	v = again(v)
	v.States[1].Leases = 100
	for i, before := range []time.Duration{1, 0, 1} { // at last a view that is older than the one before
		if got, want := choose(30*time.Second-before), []string{"two", "one", "two"}[i]; got != want {
			t.Errorf("%v before the time is over: chose %s", before, got)
		}
	}
	report(failed("one", start.Add(30*time.Second)))
	if got := choose(89 * time.Second); got != "two" {
		t.Errorf("one more failure doubles the time: chose %s", got)
	}
	report(tier.Outcome{Model: "one", At: start.Add(90 * time.Second)})
	if r := s.adaptive.stats.Load().of("one"); r.Failures != 0 || !r.AvoidUntil.IsZero() {
		t.Errorf("a success wipes the slate: %+v", r)
	}
	for range 40 {
		report(failed("one", start.Add(time.Hour)))
	}
	for after, want := range map[time.Duration]string{32*30*time.Second - 1: "two", 32 * 30 * time.Second: "one"} {
		if got := choose(time.Hour + after); got != want {
			t.Errorf("the longest time is 32-fold: after %v chose %s", after, got)
		}
	}
}

func TestAdaptive_FailedLongAgo_IsTrustedAgain(t *testing.T) {
	s := NewAdaptive()
	v := twins(t)
	s.Reported([]tier.Outcome{failed("one", start), failed("one", start), good("one", time.Second), good("two", time.Second)})
	reliability := func(after time.Duration) float64 {
		later := *v // of the same states
		later.Now = start.Add(after)
		c := mustSelect(t, s, &later, tier.Request{Explain: true})
		for _, x := range c.Explanation.Candidates {
			if x.Model == "one" {
				return x.Factors[4].Value
			}
		}
		return math.NaN()
	}
	// (good + 5) / (good + bad + 5), both halved every ten minutes
	for _, x := range []struct {
		after time.Duration
		want  float64
	}{{0, 6.0 / 8}, {10*time.Minute - 1, 6.0 / 8}, {10 * time.Minute, 5.5 / 6.5}, {20 * time.Minute, 5.25 / 5.75}, {0, 6.0 / 8}, {-time.Hour, 6.0 / 8}, {1000 * time.Hour, 1}} {
		if got := reliability(x.after); math.Abs(got-x.want) > 1e-9 {
			t.Errorf("after %v: %v, want %v", x.after, got, x.want)
		}
	}
}

func TestAdaptive_OwnWaits_TellHowLongALoadTakes(t *testing.T) {
	lib := newLibrary(t,
		tier.Model{Name: "slow engine", Size: tier.GiB, Capabilities: []string{"chat"}},
		tier.Model{Name: "quick engine", Size: tier.GiB, Capabilities: []string{"chat"}},
	)
	s := NewAdaptive()
	for range 3 {
		s.Reported([]tier.Outcome{{Model: "slow engine", At: start, Waited: 20 * time.Second, Latency: time.Second}, {Model: "quick engine", At: start, Latency: time.Second}})
	}
	if c := mustSelect(t, s, viewOf(lib), tier.Request{Priority: tier.Speed}); c.Model != "quick engine" {
		t.Errorf("chose the %s", c.Model)
	}
}

func TestAdaptive_Deadline_GoesByTheMemoryOfTheMoment(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	s := NewAdaptive()
	req := tier.Request{Priority: tier.Quality, Deadline: 10 * time.Second}
	for available, want := range map[tier.Bytes]string{64 * tier.GiB: "gpt-j-6b", 5 * tier.GiB: "gpt2-large", 2 * tier.GiB: "gpt2-small"} {
		short := *v // with the very slice of states
		remember(&short, available, 0)
		if c := mustSelect(t, s, &short, req); c.Model != want {
			t.Errorf("with %v: chose %s, want %s", available, c.Model, want)
		}
	}
	v.States[4] = tier.State{Moving: true, To: tier.RAM, InPlace: true}
	if c := mustSelect(t, s, again(v), req); c.Model != "gpt-j-6b" {
		t.Errorf("one that is on its way: chose %s", c.Model)
	}
	if _, err := s.Select(&tier.Request{Deadline: time.Millisecond}, v); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no model makes it: %v", err)
	}
}

func TestPolicies_RequestNamesOne_ItAnswers(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	settle(t, v, "gpt-j-6b", tier.RAM)
	req := tier.Request{Priority: tier.Speed}
	for _, x := range []struct {
		s      tier.Selector
		policy string
		want   string
	}{
		{New(), "", "gpt2-small"},
		{New(), "recorded", "gpt2-small"},
		{New(), "adaptive", "gpt-j-6b"},
		{mustNew(t, Options{Policy: PolicyAdaptive}), "", "gpt-j-6b"},
		{mustNew(t, Options{Policy: PolicyAdaptive}), "recorded", "gpt2-small"},
		{NewAdaptive(), "", "gpt-j-6b"},
		{NewAdaptive(), "adaptive", "gpt-j-6b"},
	} {
		req.Policy = x.policy
		if c := mustSelect(t, x.s, v, req); c.Model != x.want {
			t.Errorf("%T with %q: chose %s", x.s, x.policy, c.Model)
		}
	}
	if _, err := NewAdaptive().Select(&tier.Request{Policy: "recorded"}, v); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("a policy that this one is not: %v", err)
	}
}

func TestStats_ModelsComeAndGo_RecordsAreBounded(t *testing.T) {
	k := newStats()
	batch := make([]tier.Outcome, 0, 1<<16)
	for i := range 3 * maxRecords {
		batch = append(batch, tier.Outcome{Model: fmt.Sprint(i), At: start.Add(time.Duration(i))})
		if len(batch) == cap(batch) {
			k = k.reported(batch, &Learning{Patience: 3})
			batch = batch[:0]
		}
	}
	if n := len(k.records); n > maxRecords || k.records[fmt.Sprint(3*maxRecords-1)] == nil {
		t.Errorf("%d records, or the newest is not among them", n)
	}
}

func TestStats_Outcomes_HalveInTenMinutes(t *testing.T) {
	l := &Learning{Patience: 3}
	r := newStats().unknown
	for i := range 3 {
		r = r.with(&tier.Outcome{At: start.Add(time.Duration(i) * halfLife)}, l)
	}
	r = r.with(&tier.Outcome{At: start.Add(2 * halfLife), Err: errors.New("failed")}, l)
	r = r.with(&tier.Outcome{At: start.Add(halfLife)}, l) // late news do not fade what is newer
	if r.good != 2.75 || r.bad != 1 || !r.Heard.Equal(start.Add(2*halfLife)) {
		t.Errorf("got %+v", r)
	}
}

func TestStats_NonsenseReports_ChangeNothingForTheWorse(t *testing.T) {
	s := NewAdaptive()
	before := s.adaptive.stats.Load()
	s.Moved([]tier.Moved{
		{Move: tier.Move{From: tier.RAM, To: tier.Storage}, Bytes: tier.GiB, Took: time.Second},
		{Move: tier.Move{From: tier.Storage, To: tier.RAM}, Bytes: 1, Took: time.Hour},
		{Move: tier.Move{From: tier.Storage, To: tier.RAM}, Bytes: tier.GiB},
	})
	s.Reported(nil)
	if s.adaptive.stats.Load() != before {
		t.Error("moves that tell nothing made everybody look again")
	}
	s.Reported([]tier.Outcome{
		{Model: "one", Waited: -1, Served: -1, Latency: -1, Scored: true, Score: math.NaN()},
		{Model: "one", Scored: true, Score: 1e300},
	})
	if c := mustSelect(t, s, twins(t), tier.Request{}); math.IsNaN(c.Score) {
		t.Errorf("got %+v", c)
	}
	if e := s.adaptive.stats.Load().of("one").Esteem; e > 1.5 {
		t.Errorf("esteem %v", e)
	}
}
