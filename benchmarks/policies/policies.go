package policies

import (
	"math"
	"time"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// LFU keeps the models that are asked for most often, by a count that decays with
// a time constant of an hour. The zero value is ready to use.
type LFU struct {
	whole  optimizer.WholeModels
	counts map[string]decayed
}

// decayed is a count as of a moment.
type decayed struct {
	count float64
	at    time.Time
}

// as returns the count as of another moment.
func (d decayed) as(of time.Time) float64 {
	return d.count * math.Exp(-max(of.Sub(d.at).Hours(), 0))
}

var _ tier.Learner = (*LFU)(nil)

// Accessed implements tier.Learner.
func (p *LFU) Accessed(uses []tier.Access) {
	if p.counts == nil {
		p.counts = make(map[string]decayed)
	}
	for _, u := range uses {
		p.counts[u.Model] = decayed{p.counts[u.Model].as(u.At) + 1, u.At}
	}
}

// Moved implements tier.Learner.
func (p *LFU) Moved([]tier.Moved) {}

// Plan implements tier.Placement.
func (p *LFU) Plan(v *tier.View, need *tier.Need) tier.Plan {
	p.whole.Key = func(model string, now time.Time) float64 { return p.counts[model].as(now) }
	return p.whole.Plan(v, need)
}

// GDSF is GreedyDual-Size-Frequency (Cherkasova, HP Labs 1998): the key of a model
// is its frequency times the cost of a load per byte, plus an age that rises to the
// key of what was dropped last. A load costs in proportion to its bytes, so that
// cost and size cancel. The zero value is ready to use.
type GDSF struct {
	whole  optimizer.WholeModels
	counts map[string]float64
	keys   map[string]float64
	age    float64
}

var _ tier.Learner = (*GDSF)(nil)

// Accessed implements tier.Learner.
func (p *GDSF) Accessed(uses []tier.Access) {
	if p.counts == nil {
		p.counts, p.keys = make(map[string]float64), make(map[string]float64)
	}
	for _, u := range uses {
		p.counts[u.Model]++
		p.keys[u.Model] = p.age + p.counts[u.Model]
	}
}

// Moved implements tier.Learner.
func (p *GDSF) Moved([]tier.Moved) {}

// Plan implements tier.Placement.
func (p *GDSF) Plan(v *tier.View, need *tier.Need) tier.Plan {
	p.whole.Key = func(model string, _ time.Time) float64 { return p.keys[model] }
	p.whole.Dropped = func(key float64) { p.age = max(p.age, key) }
	return p.whole.Plan(v, need)
}
