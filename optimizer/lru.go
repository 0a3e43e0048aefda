package optimizer

import "github.com/modeltier/modeltier/tier"

// LRU keeps the models that were asked for last: what most model servers do, and
// what the learned placement is measured against. It moves whole models. The
// zero value is ready to use.
type LRU struct {
	whole
	turn float64
}

var _ tier.Learner = (*LRU)(nil)

// Accessed implements tier.Learner.
func (p *LRU) Accessed(uses []tier.Access) {
	for _, u := range uses {
		p.turn++
		p.entry(u.Model).last = p.turn
	}
}

// Moved implements tier.Learner.
func (p *LRU) Moved([]tier.Moved) {}

// Plan implements tier.Placement.
func (p *LRU) Plan(v *tier.View, need *tier.Need) tier.Plan {
	return p.plan(v, need, func(e *entry) float64 { return e.last }, nil)
}
