package optimizer

import (
	"github.com/modeltier/modeltier/tier"
)

// whole is what the classic placements have in common. A wanted model goes to
// ram; whole models of the lowest keys are demoted to swap until it fits, and
// from swap to storage until those fit. They do not plan without a need.
type whole struct {
	planner planner
	library *tier.Library
	entries []*entry
	names   map[string]*entry
}

// entry is what a classic placement remembers of a model.
type entry struct {
	last  float64
	rate  float64
	count float64
}

// entry returns what is remembered of a model, which may be nothing yet.
func (w *whole) entry(name string) *entry {
	e := w.names[name]
	if e == nil {
		if w.names == nil {
			w.names = map[string]*entry{}
		}
		e = &entry{}
		w.names[name] = e
	}
	return e
}

// resolve looks the entries of a library up, once for each library, and forgets
// models that are in it no longer.
func (w *whole) resolve(lib *tier.Library) {
	if w.library == lib {
		return
	}
	w.library, w.entries = lib, w.entries[:0]
	for _, m := range lib.All() {
		w.entries = append(w.entries, w.entry(m.Name))
	}
	if len(w.names) > lib.Len() {
		for name := range w.names {
			if _, known := lib.Find(name); !known {
				delete(w.names, name)
			}
		}
	}
}

// plan answers a need by keys. gone, if it is not nil, is told the key of each
// model that leaves memory.
func (w *whole) plan(v *tier.View, need *tier.Need, key func(e *entry) float64, gone func(key float64)) tier.Plan {
	if need == nil {
		return tier.Plan{}
	}
	if err := unplannable(v, need); err != nil {
		return tier.Plan{Err: err}
	}
	w.resolve(v.Library)
	p := &w.planner
	for _, drainable := range [...]bool{false, true} {
		if drainable && !need.Patient {
			break
		}
		p.set(v, need, drainable)
		for i := range p.items {
			it := &p.items[i]
			it.hot = finite(key(w.entries[it.index]))
			it.warm = it.hot
		}
		p.sort()
		if w.arrange() && p.route(&p.arranger) || p.clear() {
			if gone != nil {
				for _, h := range p.hops {
					if it := &p.items[h.item]; h.to.tier == tier.Storage {
						gone(it.hot)
					}
				}
			}
			return tier.Plan{Steps: p.steps(reason)}
		}
	}
	return tier.Plan{Err: refusal(v, need)}
}

// arrange gives every item its place, lowest keys last.
func (w *whole) arrange() bool {
	p := &w.planner
	ram, swap := p.capacity[tier.RAM], p.capacity[tier.Swap]
	for i := range p.items {
		it := &p.items[i]
		it.to = it.from
		it.to.serving = false
		if it.wanted {
			it.to = place{tier: tier.RAM, ram: it.model.Size}
			if fits := it.model.Size.Plus(it.model.Runtime) <= p.capacity[tier.RAM]; p.to == tier.Swap || p.to == tier.Storage && !fits {
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
