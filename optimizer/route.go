package optimizer

import (
	"github.com/modeltier/modeltier/tier"
)

// hop is one step of a route: an item goes from one place to the next.
type hop struct {
	item     int32
	from, to place
}

// router finds the order in which an arrangement can be carried out. Its slices
// are scratch that lives from plan to plan.
type router struct {
	hops    []hop
	spent   []hop // scratch for chop
	pending []int32
	room    tier.Footprint
}

// Where two models change places in tiers that are nearly full, each hop moves
// only as much as is free. So that a plan stays short, that is made to be a 24th
// of a model, and a 64th at least.
const (
	maxHops   = 96
	parts     = 24
	mostParts = 64
)

// route finds hops from where the items are to where they should be, such that
// what each hop reserves is free when it starts. Room comes first: what leaves
// memory, then demotions, then promotions, and the wanted model last. Where
// models cannot pass each other whole, divisible ones pass in parts. It reports
// whether it got there.
func (r *router) route(a *arranger) bool {
	r.hops, r.pending, r.room = r.hops[:0], r.pending[:0], a.room
	for _, i := range a.cold {
		it := &a.items[i]
		if stays(it.from, it.to) || it.wanted {
			continue
		}
		if gone := it.from.held() - it.to.held(); gone > 0 && it.to.held() > 0 && it.to.swap > it.from.swap {
			// What is to be left in storage goes at once, so that the rest can pass.
			r.take(a, i, place{tier: tier.Swap, ram: it.from.ram - gone, swap: it.from.swap})
		} else if it.to.held() == 0 || it.to.ram <= it.from.ram && it.to.swap <= it.from.swap {
			r.take(a, i, it.to)
		}
	}
	for _, i := range a.cold {
		if it := &a.items[i]; !it.wanted && !stays(it.from, it.to) && it.to.ram < it.from.ram {
			r.pending = append(r.pending, i)
		}
	}
	for _, i := range a.hot {
		if it := &a.items[i]; !it.wanted && !stays(it.from, it.to) && it.to.ram >= it.from.ram {
			r.pending = append(r.pending, i)
		}
	}
	if a.wanted >= 0 {
		r.pending = append(r.pending, int32(a.wanted))
	}
	ok := r.pass(a)
	for k := len(r.hops) - 1; k >= 0; k-- {
		a.items[r.hops[k].item].from = r.hops[k].from
	}
	return ok
}

// pass takes the pending items where they should be. While it runs, item.from is
// where an item has come to.
func (r *router) pass(a *arranger) bool {
	for len(r.pending) > 0 {
		left := r.pending[:0]
		for _, i := range r.pending {
			it := &a.items[i]
			if it.wanted && len(left) > 0 || !r.take(a, i, it.to) {
				left = append(left, i)
			}
		}
		moved := len(left) < len(r.pending)
		if r.pending = left; !moved && (len(r.hops) >= maxHops || !r.part(a)) {
			return false
		}
	}
	return true
}

// take makes one hop, if what it reserves is free.
func (r *router) take(a *arranger, i int32, to place) bool {
	it := &a.items[i]
	before, after := it.charge(it.from), it.charge(to)
	for t, more := range after.Beyond(before) {
		if more > 0 && more > r.room[t] {
			return false
		}
	}
	r.room = r.room.Plus(before).Minus(after)
	if !stays(it.from, to) {
		r.hops = append(r.hops, hop{i, it.from, to})
	}
	it.from = to
	return true
}

// part moves a part of the first pending model that there is room for.
func (r *router) part(a *arranger) bool {
	for _, i := range r.pending {
		it := &a.items[i]
		if !it.divisible || it.from.tier == tier.Storage {
			continue
		}
		x := min(it.from.ram-it.to.ram, it.to.swap-it.from.swap, r.room[tier.Swap])
		if x <= 0 {
			x = -min(it.to.ram-it.from.ram, it.from.swap-it.to.swap, r.room[tier.RAM])
		}
		if x == 0 || x.Abs() < it.model.Size/mostParts {
			continue
		}
		if r.take(a, i, place{tier: tier.Swap, ram: it.from.ram - x, swap: it.from.swap + x}) {
			return true
		}
	}
	return false
}
