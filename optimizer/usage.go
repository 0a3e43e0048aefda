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

// use is what is remembered of one model's accesses. It has the same size
// however often the model was asked for, and an access costs the same however
// long ago the last one was. Times are seconds on the clock of the history.
type use struct {
	first, last float64
	count       uint32
	// rates are accesses a second, decayed, as of last: each access adds 1/span,
	// so that the rate of a steady stream is its frequency.
	rates [scales]float64
	gaps  gaps
	// usual is the decayed mean of the logarithms of the gaps in seconds, and one.
	usual float32
	next  follows
	mix   shares
	word  word
	paces paces
	// owed is the waiting in seconds that moves which nobody waited for are to save
	// at the next request.
	owed float32
	// mixed: a move that was planned last reads from more than one tier, so that
	// its time says nothing about either.
	mixed bool
	// bias is the model's own term in the logit, and the sum of its squared
	// gradients.
	bias, biasSum float32
	// hours are decayed counts by hour of the day, UTC.
	hours [24]float32
}

// usualStep: the last ten gaps say what is usual.
const usualStep = 0.1

// hourKeep is what an access leaves of the counts by hour: the last few hundred
// accesses count.
const hourKeep = 0.997

// access notes one access at t, a time that is in hour of the day. Where a clock
// stepped back, no time has passed.
func (u *use) access(t float64, hour int) {
	age := max(t-u.last, 0)
	if u.count == 0 {
		u.first, u.last, age = t, t, 0
	} else {
		u.gaps.add(age)
		u.usual += float32((math.Log(age+1) - float64(u.usual)) * max(usualStep, 1/float64(u.count)))
	}
	for k, span := range spans {
		u.rates[k] = u.rates[k]*fade(age/span) + 1/span
	}
	for h := range u.hours {
		u.hours[h] *= hourKeep
	}
	u.hours[hour]++
	u.last = max(t, u.last)
	if u.count < math.MaxUint32 {
		u.count++
	}
}

// age is the time since the last access, never below zero.
func (u *use) age(t float64) float64 { return max(t-u.last, 0) }

// Usage is how one model is used, at the moment it was asked about.
type Usage struct {
	// Model is its name.
	Model string
	// Frequency is the expected requests per hour.
	Frequency float64
	// Trend compares the rate of the last ten minutes with that of the last six
	// hours: 1 where nothing changes, above 1 where the model is asked for more
	// than it was, down to 0 where it is asked for no more. 1 before the first
	// access.
	Trend float64
	// Accesses since the model was first seen.
	Accesses uint32
	// LastUse is when it was last asked for; zero: never.
	LastUse time.Time
}
