package selector

import (
	"fmt"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// quickest returns the time of one call in the quickest of many short batches,
// which is what it takes when nobody else wants the processor.
func quickest(batches, calls int, f func()) time.Duration {
	best := time.Hour
	for range batches {
		began := time.Now()
		for range calls {
			f()
		}
		best = min(best, time.Since(began)/time.Duration(calls))
	}
	return best
}

// The budgets of the design, four times over, because a test has to hold on slow
// machines too; the log has the figures.
func TestCost_WithinBudgetAndWithoutAllocation(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("times mean nothing here")
	}
	const slack = 4
	manual := 50 * time.Nanosecond
	auto := map[int]time.Duration{6: 200 * time.Nanosecond, 200: time.Microsecond, 10_000: 5 * time.Microsecond, 100_000: 10 * time.Microsecond}
	for _, n := range sizes {
		lib := benchLibrary(t, n)
		v := benchView(lib)
		s := New()
		for name, req := range benchRequests(lib) {
			for _, req.Policy = range []string{PolicyRecorded, PolicyAdaptive} {
				budget := auto[n]
				if name == "manual" {
					budget = manual
				}
				f := func() {
					if _, err := s.Select(&req, v); err != nil {
						t.Fatal(err)
					}
				}
				f()
				if a := testing.AllocsPerRun(100, f); a != 0 {
					t.Errorf("%d models, %s, %s: %v allocations", n, name, req.Policy, a)
				}
				took := quickest(400, 100, f)
				t.Logf("%7d models, %-8s %s: %v", n, name, req.Policy, took)
				if took > slack*budget {
					t.Errorf("%d models, %s, %s: %v, the budget is %v", n, name, req.Policy, took, budget)
				}
			}
		}
	}
}

func TestCost_RenewalAfterAChange_WithinAMillisecondAt10000(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("times mean nothing here")
	}
	const slack = 4
	lib := benchLibrary(t, 10_000)
	v := benchView(lib)
	s := New()
	for _, policy := range []string{PolicyRecorded, PolicyAdaptive} {
		req := tier.Request{Policy: policy}
		mustSelect(t, s, v, req)
		for _, what := range []string{"states", "library"} {
			views := make([]*tier.View, 100)
			for i := range views {
				views[i] = again(v)
				if what == "library" {
					views[i].Library = lib.With(tier.Model{Name: fmt.Sprint("new ", i), Size: tier.GiB, Capabilities: []string{"chat"}})
					views[i].States = append(views[i].States, tier.State{InPlace: true})
				}
			}
			i := 0
			took := quickest(len(views), 1, func() {
				mustSelect(t, s, views[i], req)
				i++
			})
			t.Logf("%s changed, %s: %v", what, policy, took)
			if took > slack*time.Millisecond {
				t.Errorf("%s changed, %s: %v", what, policy, took)
			}
		}
	}
}
