package optimizer_test

import (
	"math"
	"os"
	"testing"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// development are the traces that constants may be chosen on.
var development = []string{"azure19_a50", "edge8_azure_a", "edge8_gentd_nov", "edge8_servegen", "gentd26_early", "gentd26_nov", "servegen_w1"}

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
	logs := make([][]float64, len(choices)) // of the wait over that by the constants in use, by choice and trace
	for _, name := range development {
		tr := readTrace(t, name, true)
		lib, err := tier.NewLibrary(tr.models)
		if err != nil {
			t.Fatal(err)
		}
		used := optimizer.Shadowed(lib, tr.at, tr.who, ram, swap, inUse)
		for k, c := range choices {
			logs[k] = append(logs[k], math.Log(optimizer.Shadowed(lib, tr.at, tr.who, ram, swap, c)/used))
		}
	}
	left := 0.0
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
		t.Logf("%-16s waits %.3f of that with the constants in use by %+v, the best for the others", name, math.Exp(logs[best][i]), choices[best])
		left += logs[best][i] / float64(len(development))
	}
	for k, c := range choices {
		sum := 0.0
		for _, x := range logs[k] {
			sum += x / float64(len(development))
		}
		t.Logf("%+v: %.4f in the geometric mean", c, math.Exp(sum))
	}
	t.Logf("geometric mean with each trace left out: %.4f", math.Exp(left))
	if math.Abs(left) > 0.01 {
		t.Errorf("they differ by more than 1 %%")
	}
}
