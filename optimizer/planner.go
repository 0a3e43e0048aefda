package optimizer

import (
	"cmp"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// planner answers needs. It is told what the models are worth, and finds out how
// their bytes can be laid out and brought there.
type planner struct {
	arranger
	router
	search branchBound
	best   []candidate
}

// meet finds hops that meet the need on the board that was set.
func (p *planner) meet() bool {
	if p.reach(0) {
		return true
	}
	// Models lack a little room to pass each other: something leaves for it.
	if p.greedy(0) && p.reach(p.spare()) {
		return true
	}
	return p.clear()
}

// reach finds the best arrangement that it can to which there is a route, with
// spare bytes of swap left free, and leaves its hops.
func (p *planner) reach(spare tier.Bytes) bool {
	found := p.greedy(spare) && p.route(&p.arranger)
	return p.refine(found)
}

// spare is the room in swap that lets the models which are to move pass each
// other in parts.
func (p *planner) spare() (n tier.Bytes) {
	for i := range p.items {
		if it := &p.items[i]; it.divisible && !it.from.sameMove(it.to) {
			n = max(n, it.model.Size/parts+1)
		}
	}
	return n
}

// clear is the last resort: models go to storage, lowest worth first, until the
// wanted one fits.
func (p *planner) clear() bool {
	p.hops, p.router.room = p.hops[:0], p.board.room
	for i := range p.items {
		p.items[i].to = p.items[i].from
	}
	done := p.enter()
	for k := 0; !done && k < len(p.cold); k++ {
		if i := p.cold[k]; int(i) != p.wanted && p.items[i].from.held() > 0 {
			p.take(&p.arranger, i, place{})
			done = p.enter()
		}
	}
	for k := len(p.hops) - 1; k >= 0; k-- {
		p.items[p.hops[k].item].from = p.hops[k].from
	}
	return done
}

// enter brings the wanted model in, in one hop, with what is free now.
func (p *planner) enter() bool {
	room := p.router.room
	if p.wanted < 0 {
		return room[tier.RAM] >= 0 && room[tier.Swap] >= 0
	}
	it, i := &p.items[p.wanted], int32(p.wanted)
	size := it.model.Size
	if p.to != tier.Swap && p.take(&p.arranger, i, place{tier: tier.RAM, ram: size}) {
		return true
	}
	if p.to == tier.RAM || p.to == tier.Storage && !it.inPlace {
		return false
	}
	to := p.inSwap(it)
	to.swap = max(min(size-it.from.ram, it.from.swap+room[tier.Swap]), 0)
	if it.divisible {
		to.ram = size - to.swap
	} else {
		to.swap = size
	}
	return p.take(&p.arranger, i, to)
}

// steps returns the hops as steps of a plan. explain fills in everything but the
// move.
func (p *planner) steps(explain func(s *tier.Step, it *item, h hop)) []tier.Step {
	if len(p.hops) == 0 {
		return nil
	}
	steps := make([]tier.Step, len(p.hops))
	for k, h := range p.hops {
		it := &p.items[h.item]
		steps[k].Move = move(it.model, h.from, h.to)
		explain(&steps[k], it, h)
	}
	return steps
}

// serve answers a need. value fills in what the bytes of an item are worth.
func (p *planner) serve(v *tier.View, need *tier.Need, value func(it *item)) tier.Plan {
	if err := unplannable(v, need); err != nil {
		return tier.Plan{Err: err}
	}
	for _, drainable := range [...]bool{false, true} {
		if drainable && !need.Patient {
			break
		}
		p.set(v, need, drainable)
		for i := range p.items {
			value(&p.items[i])
		}
		if p.meet() {
			return tier.Plan{Steps: p.steps(explainServing)}
		}
	}
	return tier.Plan{Err: refusal(v, need)}
}

// explainServing says why a step is in a plan for a need.
func explainServing(s *tier.Step, it *item, h hop) {
	switch {
	case it.wanted:
		s.Reason, s.Why = tier.ReasonDemand, "was asked for"
	case h.to.held() < h.from.held():
		s.Reason, s.Why = tier.ReasonRoom, "makes room: its bytes are worth the least in memory"
	case h.to.ram < h.from.ram:
		s.Reason, s.Why = tier.ReasonRoom, "makes room: its bytes are worth the least in ram"
	default:
		s.Reason, s.Why = tier.ReasonRebalance, "moves up into ram that is free"
	}
}

// unplannable returns the error of a need that no arrangement can meet, whatever
// room there is.
func unplannable(v *tier.View, need *tier.Need) error {
	if need.Model < 0 {
		return nil
	}
	if need.Model >= len(v.States) {
		return &tier.NotFoundError{What: "model"}
	}
	s := &v.States[need.Model]
	m := v.Library.At(need.Model)
	if n := m.Size.Plus(m.Runtime); n > maxBytes {
		return &tier.CapacityError{Model: m.Name, Tier: tier.RAM, Need: n, Limit: maxBytes, Never: true}
	}
	if s.Stuck || s.Moving {
		return &tier.InUseError{Model: m.Name, Leases: int(s.Leases)}
	}
	return nil
}

// refusal says what a need lacks: for good, if it would not fit though everything
// else left, or for now, with the models that hold the room.
func refusal(v *tier.View, need *tier.Need) error {
	e := &tier.CapacityError{Tier: need.To, Need: need.Room[tier.RAM]}
	limits := tier.Footprint{tier.Swap: v.Limits.Of(tier.Swap), tier.RAM: v.Limits.Of(tier.RAM)}
	if need.Model >= 0 {
		m, s := v.Library.At(need.Model), &v.States[need.Model]
		e.Model = m.Name
		e.Need = m.Size.Plus(m.Runtime)
		inSwap := need.To == tier.Swap || need.To == tier.Storage && s.InPlace
		switch {
		case !inSwap:
			e.Tier = tier.RAM
			e.Need = e.Need.Plus(need.Room[tier.RAM])
		case !s.Divisible:
			e.Tier = tier.Swap
			e.Need = m.Size
			if need.To == tier.Storage && m.Size.Plus(m.Runtime) <= limits[tier.RAM] {
				e.Tier, e.Need = tier.RAM, m.Size.Plus(m.Runtime)
			}
		default:
			e.Tier = tier.Swap
			limits[tier.Swap] = limits[tier.Swap].Plus(limits[tier.RAM])
		}
		e.Never = e.Need > limits[e.Tier] || need.To != tier.Swap && m.Runtime > limits[tier.RAM]
	} else {
		e.Tier = tier.RAM
		if need.Room[tier.RAM] <= v.Room[tier.RAM] {
			e.Tier, e.Need = tier.Swap, need.Room[tier.Swap]
		}
		e.Never = e.Need > limits[e.Tier]
	}
	e.Free, e.Limit = max(v.Room[e.Tier], 0), limits[e.Tier]
	if e.Never {
		return e
	}
	for i := range v.States {
		s := &v.States[i]
		if f := v.Footprint(i); i != need.Model && f[tier.RAM].Plus(f[tier.Swap]) > 0 {
			e.Holders = append(e.Holders, tier.Holder{
				Model: v.Library.At(i).Name, Bytes: f[tier.RAM].Plus(f[tier.Swap]), Leases: int(s.Leases),
				Pinned: v.Library.At(i).Pinned, Moving: s.Moving, Stuck: s.Stuck,
			})
		}
	}
	slices.SortStableFunc(e.Holders, func(a, b tier.Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return e
}

// move returns the move of a model from one place to another.
func move(m *tier.Model, from, to place) tier.Move {
	mv := tier.Move{Model: *m, From: from.tier, To: to.tier}
	if to.tier == tier.Swap {
		mv.Keep, mv.Leave = to.ram, m.Size-to.held()
	}
	return mv
}

// hop is one step of a route: an item goes from one place to the next.
type hop struct {
	item     int32
	from, to place
}

// router finds the order in which an arrangement can be carried out. Its slices
// are scratch that lives from plan to plan.
type router struct {
	hops    []hop
	pending []int32
	room    tier.Footprint
}

// If two models change places in tiers that are nearly full, each hop moves only as
// much as is free. To keep plans short, a 24th of a model is set free for that, and
// no hop moves less than a 64th.
const (
	maxHops  = 96
	parts    = 24
	maxParts = 64
)

// route finds hops from where the items are to where they should be, such that
// what each hop reserves is free when it starts. Hops that make room come first:
// what leaves memory, then demotions, then promotions, and the wanted model last.
// If models cannot pass each other whole, divisible ones pass in parts. It reports
// whether all got there.
func (r *router) route(a *arranger) bool {
	r.hops, r.pending, r.room = r.hops[:0], r.pending[:0], a.room
	for _, i := range a.cold {
		it := &a.items[i]
		if it.from.sameMove(it.to) || it.wanted {
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
		if it := &a.items[i]; !it.wanted && !it.from.sameMove(it.to) && it.to.ram < it.from.ram {
			r.pending = append(r.pending, i)
		}
	}
	for _, i := range a.hot {
		if it := &a.items[i]; !it.wanted && !it.from.sameMove(it.to) && it.to.ram >= it.from.ram {
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
// where an item has got to.
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
	if !it.from.sameMove(to) {
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
		if x == 0 || x.Abs() < it.model.Size/maxParts {
			continue
		}
		if r.take(a, i, place{tier: tier.Swap, ram: it.from.ram - x, swap: it.from.swap + x}) {
			return true
		}
	}
	return false
}
