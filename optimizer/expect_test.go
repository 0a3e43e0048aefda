package optimizer

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Models are asked for at random, each at a rate of its own that does not change. The
// requests that were expected and those that came agree in sum, from the first hour on.
func TestExpect_TrafficWhoseRateDoesNotChange_IsUnbiased(t *testing.T) {
	rates := []float64{0.2, 1, 4, 20} // an hour
	lib := gigabytes(t, len(rates))
	dice := rand.New(rand.NewPCG(3, 5))
	expected, came := make([]float64, len(rates)), make([]float64, len(rates))
	const runs, hours = 12, 40
	for range runs {
		l := New()
		v := viewOf(lib, 0, 0)
		for hour := range hours {
			v.Now = noon.Add(time.Duration(hour) * time.Hour)
			for i, x := range l.Expect(v, time.Hour) {
				if hour > 0 {
					expected[i] += x.Requests
				}
			}
			var uses []tier.Access
			for minute := range 60 {
				for i, r := range rates {
					if dice.Float64() < r/60 {
						uses = append(uses, tier.Access{Model: fmt.Sprint("m", i), At: v.Now.Add(time.Duration(minute) * time.Minute)})
						if hour > 0 {
							came[i]++
						}
					}
				}
			}
			l.Accessed(uses)
		}
	}
	for i := range rates {
		ratio := expected[i] / came[i]
		t.Logf("%4.1f an hour: %.0f expected, %.0f came, %.2f", rates[i], expected[i], came[i], ratio)
		if ratio < 0.85 || ratio > 1.15 {
			t.Errorf("%v an hour: %.1f requests were expected, %.0f came", rates[i], expected[i], came[i])
		}
	}
}

func TestExpect_BurstIsOver_ExpectationFalls(t *testing.T) {
	lib := gigabytes(t, 2)
	l := New()
	v := viewOf(lib, 0, 0)
	l.Plan(v, nil)
	for k := range 30 {
		l.Accessed([]tier.Access{{Model: "m0", At: noon.Add(time.Duration(k) * 10 * time.Second)}})
	}
	var last float64
	for k, after := range []time.Duration{5 * time.Minute, time.Hour, 6 * time.Hour, 48 * time.Hour} {
		v.Now = noon.Add(after)
		x := l.Expect(v, time.Hour)[0].Requests
		if k > 0 && x > 0.7*last {
			t.Errorf("%v later %.2f requests are expected, before that %.2f", after, x, last)
		}
		last = x
	}
}

func TestExpect_Announced_CountsByWhatIsLeftOfItsTime(t *testing.T) {
	lib := gigabytes(t, 3)
	l := New()
	v := viewOf(lib, 0, 0)
	l.Plan(v, nil)
	l.Hint("m1", 0.8, 2*time.Hour, noon)
	at := func(now time.Time, within time.Duration) tier.Expectation {
		v.Now = now
		all := l.Expect(v, within)
		if len(all) != 3 || all[0].Announced != 0 {
			t.Errorf("%+v", all)
		}
		return all[1]
	}
	trust := l.Insight().Hints
	for _, c := range []struct {
		after, within time.Duration
		want          float64
	}{{0, time.Hour, 0.4}, {time.Hour, 4 * time.Hour, 0.4}, {90 * time.Minute, time.Hour, 0.2}, {3 * time.Hour, time.Hour, 0}} {
		x := at(noon.Add(c.after), c.within)
		if got := x.Announced / trust; got < c.want-0.01 || got > c.want+0.01 || x.Requests < x.Announced {
			t.Errorf("after %v, within %v: %+v, want %v announced", c.after, c.within, x, c.want*trust)
		}
	}
}
