package optimizer

import "math"

// yield tells what moves that nobody waited for have brought, against what was
// expected of them. Each such move that raises bytes is owed the waiting that it
// should save at the model's next request; each that displaces bytes owes the
// waiting that this costs at theirs. A request settles the account of its model.
// Bytes that leave again before they were used have brought nothing.
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
	return min(max((y.brought+yieldPrior)/(y.expected+yieldPrior), 0), 1)
}

// account is what moves that nobody waited for did to one model.
type account struct {
	owed, owes float32 // seconds at its next request
}

// settle closes a model's account: it was asked for.
func (y *yield) settle(a *account) {
	y.brought += float64(a.owed)
	*a = account{}
}

// moving is a decayed count of the bytes that requests displaced from a tier.
type moving struct {
	bytes, at float64
}

const movingSpan = 3600

func (m *moving) note(bytes, t float64) {
	m.bytes = m.bytes*fade(max(t-m.at, 0)/movingSpan) + bytes
	m.at = max(t, m.at)
}

// rate is how often in a second a byte of a tier that holds so many is displaced.
func (m *moving) rate(held, t float64) float64 {
	if !(held > 0) {
		return 0
	}
	r := m.bytes * fade(max(t-m.at, 0)/movingSpan) / movingSpan / held
	if math.IsNaN(r) {
		return 0
	}
	return r
}
