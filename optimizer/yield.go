package optimizer

import "math"

// yield tells what moves up that nobody waited for have brought, against what was
// expected of them. Each is owed the waiting that it should save at the model's
// next request, expected with the odds that this comes in time; the request
// settles the account, and bytes that leave again before it have brought nothing.
type yield struct {
	expected, brought float64 // seconds, decayed
	at                float64 // as of when
}

const (
	// yieldPrior is how many seconds of waiting are taken to have come out as
	// expected beforehand.
	yieldPrior = 60
	// yieldSpan is the time constant in seconds of the decay: after days a guess
	// that went wrong is tried again.
	yieldSpan = 2 * 24 * 3600
)

func (y *yield) decay(t float64) {
	f := fade(max(t-y.at, 0) / yieldSpan)
	y.expected, y.brought, y.at = y.expected*f, y.brought*f, max(t, y.at)
}

// factor is what an expected second is worth by experience, from 0 to 1.
func (y *yield) factor() float64 {
	return min((y.brought+yieldPrior)/(y.expected+yieldPrior), 1)
}

// moving is a decayed count of the bytes that requests displaced from a tier.
type moving struct {
	bytes, at float64
}

const movingSpan = 3600 // seconds

func (m *moving) note(bytes, t float64) {
	m.bytes = m.bytes*fade(max(t-m.at, 0)/movingSpan) + bytes
	m.at = max(t, m.at)
}

// rate is how often in a second a byte of a tier that holds so many is displaced.
func (m *moving) rate(held, t float64) float64 {
	r := m.bytes * fade(max(t-m.at, 0)/movingSpan) / movingSpan / held
	if math.IsNaN(r) || math.IsInf(r, 0) {
		return 0
	}
	return r
}
