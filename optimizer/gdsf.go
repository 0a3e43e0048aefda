package optimizer

import "github.com/modeltier/modeltier/tier"

// GDSF is GreedyDual-Size-Frequency (Cherkasova, HP Labs 1998): a model's key is
// its frequency times the cost of a load per byte, plus an age that rises to the
// key of whatever was given up last. A load costs in proportion to its bytes, so
// that cost and size cancel. It moves whole models. The zero value is ready to
// use.
type GDSF struct {
	whole
	age float64
}

var _ tier.Learner = (*GDSF)(nil)

// Accessed implements tier.Learner.
func (p *GDSF) Accessed(uses []tier.Access) {
	for _, u := range uses {
		e := p.entry(u.Model)
		e.count++
		e.last = p.age + e.count
	}
}

// Moved implements tier.Learner.
func (p *GDSF) Moved([]tier.Moved) {}

// Plan implements tier.Placement.
func (p *GDSF) Plan(v *tier.View, need *tier.Need) tier.Plan {
	return p.plan(v, need, func(e *entry) float64 { return e.last }, func(key float64) { p.age = max(p.age, key) })
}
