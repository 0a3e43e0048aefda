package optimizer_test

import (
	"math"
	"os"
	"testing"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/optimizer/offline"
	"github.com/modeltier/modeltier/tier"
)

// TestEstimator_LeaveOneTraceOut_WaitsAreTheSame chooses, for each recorded trace,
// the constants that do best on all others, and wants what they come to on the one
// that was left out to be what the constants in use come to there: none is fitted
// to a trace.
func TestEstimator_LeaveOneTraceOut_WaitsAreTheSame(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes: MODELTIER_LONG=1 runs it")
	}
	inUse := optimizer.AsChosen()
	choices := []optimizer.Chosen{inUse}
	for _, ahead := range []float64{2, 10, 20} {
		choices = append(choices, optimizer.Chosen{Ahead: ahead, Lessons: inUse.Lessons})
	}
	for _, long := range []int{4, 16} {
		c := inUse
		c.Lessons[1] = long
		choices = append(choices, c)
	}
	const ram, swap = 5e9, 10e9
	logs := make([][]float64, len(choices)) // of the wait over the bound, by choice and trace
	for _, name := range development {
		tr := readTrace(t, name, true)
		lib, err := tier.NewLibrary(tr.models)
		if err != nil {
			t.Fatal(err)
		}
		sizes := make([]tier.Bytes, lib.Len())
		for i := range sizes {
			sizes[i] = lib.At(i).Size
		}
		bound := 0.0
		for f := range offline.Belady(sizes, tr.who, ram, swap) {
			bound += f.Wait(0.1e-9, 0.5e-9, 1.5e-9)
		}
		for k, c := range choices {
			logs[k] = append(logs[k], math.Log(optimizer.Shadowed(lib, tr.at, tr.who, ram, swap, c)/bound))
		}
	}
	left, used := 0.0, 0.0
	for i, name := range development {
		best, least := 0, math.Inf(1)
		for k := range choices {
			sum := 0.0
			for j, x := range logs[k] {
				if j != i {
					sum += x
				}
			}
			if sum < least {
				best, least = k, sum
			}
		}
		t.Logf("%-16s %.3f of the bound by the constants in use, %.3f by %+v, the best for the others", name, math.Exp(logs[0][i]), math.Exp(logs[best][i]), choices[best])
		left += logs[best][i] / float64(len(development))
		used += logs[0][i] / float64(len(development))
	}
	for k, c := range choices {
		sum := 0.0
		for _, x := range logs[k] {
			sum += x / float64(len(development))
		}
		t.Logf("%+v: %.4f in the geometric mean", c, math.Exp(sum))
	}
	t.Logf("geometric means: %.4f by those in use, %.4f with each trace left out", math.Exp(used), math.Exp(left))
	if math.Abs(left-used) > 0.01 {
		t.Errorf("they differ by more than 1 %%")
	}
}
