package optimizer

import (
	"math"
	"time"
)

// spans are the time constants of the decayed rates, in seconds: from a burst to
// a week.
var spans = [...]float64{30, 2 * 60, 10 * 60, 3600, 6 * 3600, 36 * 3600, 7 * 24 * 3600}

// scales is how many decayed rates each model has.
const scales = len(spans)

// use is what is remembered of one model. It has the same size however often the
// model was asked for, and an access costs the same however long ago the last one
// was. Times are seconds on the clock of the estimator.
type use struct {
	history
	mover string // that Paces are of
	slot  int    // place in the estimator's sample; -1: not in it
	// mixed: the move that was planned last reads from more than one tier.
	mixed bool
}

// history is the part of it that is saved.
type history struct {
	Last  float64
	Count uint32
	// Rates are accesses a second, decayed, as of last: each access adds 1/span,
	// so that the rate of a steady stream is its frequency.
	Rates [scales]float64
	Gaps  interarrival
	Hints hintRecord
	Paces paces
}

// access notes one access at t, and with gaps the time since the last one. If a
// clock was set back, no time has passed.
func (u *history) access(t float64, gaps bool) {
	age := u.age(t)
	if u.Count == 0 {
		u.Last, age = t, 0
	} else if gaps {
		u.Gaps.add(age)
	}
	for k, span := range spans {
		u.Rates[k] = u.Rates[k]*fade(age/span) + 1/span
	}
	u.Last = max(t, u.Last)
	if u.Count < math.MaxUint32 {
		u.Count++
	}
}

// age is the time since the last access, never below zero.
func (u *history) age(t float64) float64 { return max(t-u.Last, 0) }

// interarrival is a histogram of the times between the accesses of one model, by
// logarithmic bins from one second to ten weeks. Old gaps fade: each new one leaves
// a little less of those before.
type interarrival struct {
	// Beyond[i] is the weight of the gaps that are at least as long as bin i begins:
	// sums from the right, so that a hazard is one division.
	Beyond [gapBins]float32
	Count  uint32
	// Usual is the decayed mean of the logarithm of a gap in seconds plus one.
	Usual float32
}

const (
	gapBins  = 96
	gapRatio = 1.18
	gapKeep  = 0.98
	// gapPrior is the weight of a first guess that is flat over the bins, so that
	// an age beyond every gap seen has a hazard too.
	gapPrior = 0.5
	// usualStep: the last ten gaps say what is usual.
	usualStep = 0.1
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
	return min(int(fastLog(seconds)*perLogGap), gapBins-1)
}

// add notes one gap.
func (g *interarrival) add(seconds float64) {
	bin := gapBin(seconds)
	for i := range g.Beyond {
		g.Beyond[i] *= gapKeep
		if i <= bin {
			g.Beyond[i]++
		}
	}
	if g.Count < math.MaxUint32 {
		g.Count++
	}
	g.Usual += float32((math.Log(seconds+1) - float64(g.Usual)) * max(usualStep, 1/float64(g.Count)))
}

// hazard returns the rate at which the next access comes after age seconds without
// one, in requests a second: the share of the gaps that reached this age and ended
// in its bin, over the length of the bin. 0 if too few gaps were seen to say.
func (g *interarrival) hazard(age float64) float64 {
	if g.Count < 2 {
		return 0
	}
	i := gapBin(age)
	const each = gapPrior / gapBins
	reached := float64(g.Beyond[i]) + each*float64(gapBins-i)
	ended := reached
	if i+1 < gapBins {
		ended -= float64(g.Beyond[i+1]) + each*float64(gapBins-i-1)
	}
	return max(ended, 0) / reached / (gapStart[i+1] - gapStart[i])
}

// usage returns how a model is used, as of now.
func (e *estimator) usage(model string, now time.Time) (Usage, bool) {
	u, known := e.uses[model]
	if !known {
		return Usage{}, false
	}
	// A moment before the last access reads as that; asking does not move the clock.
	t := max(now.Sub(e.start).Seconds(), e.now)
	out := Usage{Model: model, Accesses: u.Count, Trend: 1}
	if u.Count == 0 {
		return out, true
	}
	var r rates
	e.rate(u, t, &r)
	out.Frequency = 3600 * finite(e.mixture.intensity(&r))
	if minutes, hours := r[2], r[4]; hours > 0 {
		out.Trend = minutes / hours
	}
	out.LastUse = e.start.Add(time.Duration(u.Last * float64(time.Second)))
	return out, true
}

// fastLog returns the natural logarithm of a positive, finite, normal x to within
// 1e-5, several times faster than math.Log: scoring a library takes a dozen of them
// for each model. The mantissa m, brought to between 2/3 and 4/3, goes into the
// series of artanh((m-1)/(m+1)).
func fastLog(x float64) float64 {
	const pivot = 0x3fe5555555555555 // bits of 2/3
	b := math.Float64bits(x)
	e := int64(b-pivot) >> 52
	m := math.Float64frombits(b - uint64(e)<<52)
	s := (m - 1) / (m + 1)
	q := s * s
	return float64(e)*math.Ln2 + 2*s*(1+q*(1.0/3+q*(1.0/5+q/7)))
}

// fade returns e^-x for x ≥ 0 to within 1e-8: what is left of a rate after x time
// constants.
func fade(x float64) float64 {
	switch {
	case x < 1e-3:
		return 1 - x + x*x/2
	case x > 50:
		return 0
	}
	return math.Exp(-x)
}
