package optimizer

import "math"

// gaps is a histogram of the times between one model's accesses, by logarithmic
// bins from one second to ten weeks. Old gaps fade: each new one leaves a little
// less of those before.
type gaps struct {
	// beyond[i] is the weight of gaps that are at least as long as bin i begins:
	// sums from the right, so that a hazard is one division.
	beyond [gapBins]float32
	count  uint32
}

const (
	gapBins  = 96
	gapRatio = 1.18
	gapKeep  = 0.98
	// gapPrior is the weight of a first guess that is flat over the bins, so that
	// an age beyond every gap seen has a hazard too.
	gapPrior = 0.5
)

// gapStart[i] is the length in seconds at which bin i begins.
var gapStart = func() (s [gapBins + 1]float64) {
	for i := 1; i <= gapBins; i++ {
		s[i] = math.Pow(gapRatio, float64(i))
	}
	return s
}()

var perLogGap = 1 / math.Log(gapRatio)

// gapBin returns the bin of a gap of that many seconds.
func gapBin(seconds float64) int {
	if !(seconds >= gapRatio) {
		return 0
	}
	return min(int(quickLog(seconds)*perLogGap), gapBins-1)
}

// add notes one gap.
func (g *gaps) add(seconds float64) {
	bin := gapBin(seconds)
	for i := range g.beyond {
		g.beyond[i] *= gapKeep
		if i <= bin {
			g.beyond[i]++
		}
	}
	if g.count < math.MaxUint32 {
		g.count++
	}
}

// hazard returns the rate at which the next access comes now that age seconds
// have passed without one, in requests a second: the share of the gaps that
// reached this age and ended in its bin, over the bin's length. 0 where too few
// gaps were seen to say.
func (g *gaps) hazard(age float64) float64 {
	if g.count < 2 {
		return 0
	}
	i := gapBin(age)
	const each = gapPrior / gapBins
	reached := float64(g.beyond[i]) + each*float64(gapBins-i)
	ended := reached
	if i+1 < gapBins {
		ended -= float64(g.beyond[i+1]) + each*float64(gapBins-i-1)
	}
	return max(ended, 0) / reached / (gapStart[i+1] - gapStart[i])
}
