package optimizer

import (
	"math"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// LFU keeps the models that are asked for most often, by a count that decays
// with time. It moves whole models. The zero value is ready to use.
type LFU struct {
	// Span is the time constant of the decay: an access counts 1/e after it. Zero:
	// an hour.
	Span time.Duration

	whole
	start time.Time
}

var _ tier.Learner = (*LFU)(nil)

func (p *LFU) seconds(t time.Time) float64 {
	if p.start.IsZero() {
		p.start = t
	}
	return t.Sub(p.start).Seconds()
}

func (p *LFU) span() float64 {
	if p.Span <= 0 {
		return time.Hour.Seconds()
	}
	return p.Span.Seconds()
}

// Accessed implements tier.Learner.
func (p *LFU) Accessed(uses []tier.Access) {
	for _, u := range uses {
		e, now := p.entry(u.Model), p.seconds(u.At)
		e.rate = e.rate*math.Exp(-max(now-e.last, 0)/p.span()) + 1
		e.last = max(e.last, now)
	}
}

// Moved implements tier.Learner.
func (p *LFU) Moved([]tier.Moved) {}

// Plan implements tier.Placement.
func (p *LFU) Plan(v *tier.View, need *tier.Need) tier.Plan {
	now := p.seconds(v.Now)
	return p.plan(v, need, func(e *entry) float64 {
		return e.rate * math.Exp(-max(now-e.last, 0)/p.span())
	}, nil)
}
