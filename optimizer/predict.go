package optimizer

import (
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// way is a pair of tiers that weights move between.
type way uint8

const (
	wayLoad    way = iota // storage to ram
	wayRefill             // storage to swap
	wayPromote            // up into ram from swap
	wayDemote             // down from ram
	ways
)

// wayOf returns the way of a move. A change of kept bytes counts as a promotion:
// what it reads goes up.
func wayOf(from, to tier.Tier) way {
	switch {
	case to == tier.Storage || from == tier.RAM:
		return wayDemote
	case from == tier.Storage && to == tier.RAM:
		return wayLoad
	case from == tier.Storage:
		return wayRefill
	}
	return wayPromote
}

// samples are the last few measurements of one way: logarithms of nanoseconds for
// each byte.
type samples struct {
	Log   [sampled]float32
	Count uint8
	Next  uint8
}

const (
	// sampled is how many measurements are kept: their median withstands two that went
	// wrong.
	sampled = 5
	// minMeasured is the smallest move whose time tells about its bytes rather than
	// about the cost of starting it.
	minMeasured = 1 * tier.MiB
	// devicePrior is how many of its own measurements make the pace of a model weigh as
	// much as that of the device.
	devicePrior = 1
)

func (s *samples) add(x float64) {
	s.Log[s.Next] = float32(x)
	s.Next = (s.Next + 1) % sampled
	s.Count = min(s.Count+1, sampled)
}

// middle returns the median of the samples, and the median distance from it.
func (s *samples) middle() (median, spread float64) {
	var a [sampled]float32
	v := a[:copy(a[:], s.Log[:s.Count])]
	median = middleOf(v)
	for i := range v {
		v[i] = float32(math.Abs(float64(v[i]) - median))
	}
	return median, middleOf(v)
}

func middleOf(v []float32) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (float64(v[(len(v)-1)/2]) + float64(v[len(v)/2])) / 2
}

// paces are measurements by way, of one model or of all models on the device.
type paces [ways]samples

// startPace is what moving weights takes until moves were measured, in seconds for
// each GB of 10^9 bytes: the recorded waits of a request, 1.5, 0.5 and 0.1 s for
// each GB in storage, swap and ram, less what it pays in any case. A demotion drops
// clean pages.
var startPace = [ways]float64{wayLoad: 1.4, wayRefill: 1, wayPromote: 0.4, wayDemote: 0.02}

// note takes in one measured move, of the device and of the model itself.
func (d *paces) note(own *paces, w way, bytes tier.Bytes, took time.Duration) {
	if bytes < minMeasured || took <= 0 {
		return
	}
	x := math.Log(float64(took) / float64(bytes))
	d[w].add(x)
	own[w].add(x)
}

// pace returns the logarithm of the nanoseconds for each byte that are expected
// on a way, and by how much, in logarithms, nine in ten will differ from it at
// most. d is the pace of the device, own that of the model, which may be nil.
func (d *paces) pace(own *paces, w way) (log, within float64) {
	log, spread, n := math.Log(startPace[w]), math.Ln2, 0.0 // s/GB are ns/byte
	if d[w].Count > 0 {
		log, spread = d[w].middle()
		if n = float64(d[w].Count); n < 3 {
			spread = max(spread, math.Ln2/2)
		}
	}
	if own != nil && own[w].Count > 0 {
		m, s := own[w].middle()
		k := float64(own[w].Count)
		log = (k*m + devicePrior*log) / (k + devicePrior)
		if k < 3 {
			s = max(s, spread)
		}
		spread, n = s, k
	}
	// 2.44 median distances hold nine in ten of a normal distribution; few samples
	// know less than that.
	return log, 2.44*max(spread, 0.03)*(1+2/(n+1)) + 0.02
}

// predict returns the time that moving bytes takes, and the bounds within which
// nine in ten moves should stay.
func (d *paces) predict(own *paces, w way, bytes tier.Bytes) (took, lo, hi time.Duration) {
	log, within := d.pace(own, w)
	at := func(log float64) time.Duration {
		ns := float64(max(bytes, 0)) * math.Exp(log)
		if ns >= math.MaxInt64 {
			return math.MaxInt64
		}
		return time.Duration(ns)
	}
	return at(log), at(log - within), at(log + within)
}
