package optimizer

import (
	"cmp"
	"slices"
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

// Shadowed plays requests to the estimator alone, with those constants, and returns
// the seconds that they wait in all if every byte is placed by its intensity and
// nothing moves up that is not asked for.
func Shadowed(lib *tier.Library, at []float64, who []int32, ram, swap float64, c Chosen) (sum float64) {
	defer func(was [len(lessonEvery)]int) { lessonEvery = was }(lessonEvery)
	lessonEvery = c.Lessons
	e := newEstimator(0)
	e.seconds(time.Unix(1_700_000_000, 0))
	e.know(lib, func(*use) {})
	up, down := make([]float64, lib.Len()), make([]float64, lib.Len())
	var in []int32
	for i, wanted := range who {
		e.now = at[i]
		e.access(e.byIndex[wanted], at[i], c.Ahead)
		size := float64(lib.At(int(wanted)).Size)
		sum += 0.1e-9*up[wanted] + 0.5e-9*down[wanted] + 1.5e-9*max(size-up[wanted]-down[wanted], 0)
		if up[wanted] == size {
			continue
		}
		if up[wanted]+down[wanted] == 0 {
			in = append(in, wanted)
		}
		slices.SortFunc(in, func(a, b int32) int {
			return cmp.Or(cmp.Compare(e.scored[b], e.scored[a]), cmp.Compare(a, b))
		})
		up[wanted], down[wanted] = size, 0
		freeRAM, freeSwap := ram, swap
		left := in[:0]
		for _, k := range in {
			x := min(up[k], freeRAM)
			y := min(up[k]+down[k]-x, freeSwap)
			freeRAM, freeSwap = freeRAM-x, freeSwap-y
			if up[k], down[k] = x, y; x+y > 0 {
				left = append(left, k)
			}
		}
		in = left
	}
	return sum
}
