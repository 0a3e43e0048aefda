package optimizer

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// WholeModels plans as the classic placements do, by one key for each model. A
// wanted model goes to ram; whole models with the lowest keys are demoted to swap
// until it fits, and from swap to storage until those fit. It plans nothing while
// no request waits. Embed it and set Key.
type WholeModels struct {
	// Key returns how much a model deserves its place at that moment.
	Key func(model string, now time.Time) float64
	// Dropped, if not nil, is told the key of each model that leaves memory.
	Dropped func(key float64)

	planner planner
}

// Plan implements tier.Placement.
func (w *WholeModels) Plan(v *tier.View, need *tier.Need) tier.Plan {
	if need == nil {
		return tier.Plan{}
	}
	if err := unplannable(v, need); err != nil {
		return tier.Plan{Err: err}
	}
	p := &w.planner
	for _, drainable := range [...]bool{false, true} {
		if drainable && !need.Patient {
			break
		}
		p.set(v, need, drainable)
		for i := range p.items {
			it := &p.items[i]
			it.hot = finite(w.Key(it.model.Name, v.Now))
			it.warm = it.hot
		}
		p.sort()
		if !(w.arrange() && p.route(&p.arranger)) && !p.clear() {
			continue
		}
		for _, h := range p.hops {
			if h.to.tier == tier.Storage && w.Dropped != nil {
				w.Dropped(p.items[h.item].hot)
			}
		}
		return tier.Plan{Steps: p.steps(explainServing)}
	}
	return tier.Plan{Err: refusal(v, need)}
}

// arrange gives every item its place, lowest keys last.
func (w *WholeModels) arrange() bool {
	p := &w.planner
	ram, swap := p.capacity[tier.RAM], p.capacity[tier.Swap]
	for i := range p.items {
		it := &p.items[i]
		it.to = it.from
		it.to.serving = false
		if it.wanted {
			it.to = place{tier: tier.RAM, ram: it.model.Size}
			if fits := it.model.Size+it.model.Runtime <= p.capacity[tier.RAM]; p.to == tier.Swap || p.to == tier.Storage && !fits {
				if p.to == tier.Storage && !it.inPlace {
					return false
				}
				it.to = p.inSwap(it)
				it.to.ram = min(max(it.model.Size-swap, 0), it.model.Size)
				it.to.swap = it.model.Size - it.to.ram
				if it.to.ram > 0 && !it.divisible {
					return false
				}
			}
		}
		f := it.charge(it.to)
		ram, swap = ram-f[tier.RAM], swap-f[tier.Swap]
	}
	for _, t := range [...]tier.Tier{tier.RAM, tier.Swap} {
		for _, i := range p.cold {
			it := &p.items[i]
			if t == tier.RAM && ram >= 0 || t == tier.Swap && swap >= 0 {
				break
			}
			f := it.charge(it.to)
			if it.wanted || f[t] == 0 {
				continue
			}
			if ram += f[tier.RAM]; t == tier.RAM && it.model.Size <= p.capacity[tier.Swap] {
				swap -= it.model.Size - it.to.swap
				it.to = place{tier: tier.Swap, swap: it.model.Size}
			} else {
				swap += f[tier.Swap]
				it.to = place{}
			}
		}
	}
	return ram >= 0 && swap >= 0
}

// LRU keeps the models that were asked for last: what most model servers do, and
// what the learned placement is measured against. It moves whole models. The zero
// value is ready to use.
type LRU struct {
	whole WholeModels
	turn  float64
	last  map[string]float64 // turn of the last request
}

var _ tier.Learner = (*LRU)(nil)

// Accessed implements tier.Learner.
func (p *LRU) Accessed(uses []tier.Access) {
	if p.last == nil {
		p.last = make(map[string]float64)
	}
	for _, u := range uses {
		p.turn++
		p.last[u.Model] = p.turn
	}
}

// Moved implements tier.Learner.
func (p *LRU) Moved([]tier.Moved) {}

// Plan implements tier.Placement.
func (p *LRU) Plan(v *tier.View, need *tier.Need) tier.Plan {
	if len(p.last) > v.Library.Len() {
		for name := range p.last {
			if _, known := v.Library.Find(name); !known {
				delete(p.last, name)
			}
		}
	}
	p.whole.Key = func(model string, _ time.Time) float64 { return p.last[model] }
	return p.whole.Plan(v, need)
}
