package optimizer

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Chosen are the constants of the estimator that were chosen by looking at traces:
// how many seconds ahead a plan looks, and how many requests each lesson lasts.
type Chosen struct {
	Ahead   float64
	Lessons [len(lessonEvery)]int
}

// AsChosen are those in use.
func AsChosen() Chosen { return Chosen{lead, lessonEvery} }

// Shadowed plays requests to the estimator alone, with those constants, and
// returns the seconds that they wait in all if the logit places every byte and
// nothing moves up that is not asked for.
func Shadowed(lib *tier.Library, at []float64, who []int32, ram, swap float64, c Chosen) (sum float64) {
	defer func(was [len(lessonEvery)]int) { lessonEvery = was }(lessonEvery)
	lessonEvery = c.Lessons
	e := newEstimator()
	e.seconds(time.Unix(1_700_000_000, 0))
	e.know(lib)
	costs := costs{ram: 0.1e-9, swap: 0.5e-9, storage: 1.5e-9, ramBytes: ram, swapBytes: swap}
	s := shadow{ram: make([]float64, lib.Len()), swap: make([]float64, lib.Len())}
	rank := func(k int32) float64 { return e.scored[k].intensity(byLogit, 1) }
	for i, k := range who {
		e.now = at[i]
		e.access(e.byIndex[k], at[i], c.Ahead)
		size := float64(lib.At(int(k)).Size)
		sum += costs.ram*s.ram[k] + costs.swap*s.swap[k] + costs.storage*max(size-s.ram[k]-s.swap[k], 0)
		if s.ram[k] < size {
			s.fill(k, size, &costs, rank)
		}
	}
	return sum
}
