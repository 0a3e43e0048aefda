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
	log   [sampled]float32
	count uint8
	next  uint8
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
	s.log[s.next] = float32(x)
	s.next = (s.next + 1) % sampled
	s.count = min(s.count+1, sampled)
}

// middle returns the median of the samples, and the median distance from it.
func (s *samples) middle() (median, spread float64) {
	var a [sampled]float32
	v := a[:copy(a[:], s.log[:s.count])]
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

// paces are measurements by way.
type paces [ways]samples

// device is the pace of the machine: what is expected of a model before it was
// moved itself.
type device struct {
	recent [ways]trend
}

// startPace is what moving weights takes until moves were measured, in seconds for
// each GB of 10^9 bytes: the recorded waits of a request, 1.5, 0.5 and 0.1 s for
// each GB in storage, swap and ram, less what it pays in any case. A demotion drops
// clean pages.
var startPace = [ways]float64{wayLoad: 1.4, wayRefill: 1, wayPromote: 0.4, wayDemote: 0.02}

// trend follows the measurements of all models on one way: where they are, and
// how far from there.
type trend struct {
	log, spread float64
	count       uint32
}

// note pulls the trend towards a measurement, by a doubling at most, so that one
// wrong measurement cannot carry it away.
func (r *trend) note(x float64) {
	if r.count == 0 {
		r.log, r.spread = x, math.Ln2/2
	}
	step := max(1/float64(r.count+1), 0.1)
	d := min(max(x-r.log, -math.Ln2), math.Ln2)
	r.log += step * d
	r.spread += step * (math.Abs(d) - r.spread)
	r.count++
}

// note takes in one measured move.
func (d *device) note(own *paces, w way, bytes tier.Bytes, took time.Duration) {
	if bytes < minMeasured || took <= 0 {
		return
	}
	x := math.Log(float64(took) / float64(bytes))
	d.recent[w].note(x)
	if own != nil {
		own[w].add(x)
	}
}

// pace returns the logarithm of the nanoseconds for each byte that are expected
// on a way, and by how much, in logarithms, nine in ten will differ from it at
// most. own may be nil.
func (d *device) pace(own *paces, w way) (log, within float64) {
	r := &d.recent[w]
	log, spread, n := math.Log(startPace[w]), math.Ln2, 0.0 // s/GB are ns/byte
	if r.count > 0 {
		log, spread, n = r.log, r.spread, min(float64(r.count), 4)
	}
	if own != nil && own[w].count > 0 {
		m, s := own[w].middle()
		k := float64(own[w].count)
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
func (d *device) predict(own *paces, w way, bytes tier.Bytes) (took, lo, hi time.Duration) {
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
