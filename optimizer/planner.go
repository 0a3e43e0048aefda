package optimizer

import (
	"cmp"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// planner answers needs. What the models are worth is told to it; how their bytes
// can be laid out and brought there is its own.
type planner struct {
	arranger
	router
	search search
	best   []candidate
	kept   []hop // scratch for meet
}

// meet finds hops that meet the need on the board that was set.
func (p *planner) meet() bool {
	if p.reach(0) {
		return true
	}
	// Models cannot pass each other for want of a little room. Either something
	// leaves for it, or the wanted model is served in swap as far as it came.
	halfway, spare := -1.0, tier.Bytes(0)
	p.kept = p.kept[:0]
	if p.greedy(0) {
		spare = p.spare()
		p.route(&p.arranger)
	}
	if spare > 0 && p.settle() {
		halfway = p.outcome()
		p.kept = append(p.kept, p.hops...)
	}
	if spare > 0 && p.reach(spare) && p.outcome() >= halfway {
		return true
	}
	if halfway >= 0 {
		p.hops = append(p.hops[:0], p.kept...)
		return true
	}
	return p.clear()
}

// reach finds the best arrangement that it can, leaving spare bytes of swap free,
// to which there is a route, and leaves its hops.
func (p *planner) reach(spare tier.Bytes) bool {
	found := p.greedy(spare) && p.route(&p.arranger)
	return p.refine(found)
}

// outcome is what the models are worth where the hops take them.
func (p *planner) outcome() (sum float64) {
	for i := range p.items {
		p.items[i].to = p.items[i].from
	}
	for _, h := range p.hops {
		p.items[h.item].to = h.to
	}
	return p.worth()
}

// spare is the room in swap that lets the models which are to move pass each
// other in parts.
func (p *planner) spare() (n tier.Bytes) {
	for i := range p.items {
		if it := &p.items[i]; it.divisible && !stays(it.from, it.to) {
			n = max(n, it.model.Size/parts+1)
		}
	}
	return n
}

// settle ends a route that did not get there with the wanted model served in
// swap as far as it came.
func (p *planner) settle() bool {
	if p.wanted < 0 {
		return false
	}
	it := &p.items[p.wanted]
	at := it.from
	for _, h := range p.hops {
		if int(h.item) == p.wanted {
			at = h.to
		}
	}
	if at.tier != tier.Swap || !it.inPlace || p.arranger.to != tier.Storage {
		return false
	}
	return at.serving || it.model.Runtime <= p.router.room[tier.RAM]
}

// clear is the plain way that is left: models go to storage, those of the least
// worth first, until the wanted one fits.
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

// enter brings the wanted model in with what is free now, in one hop.
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

// chop cuts the hops that read much into parts, so that little is lost where one
// is called off.
func (p *planner) chop(most tier.Bytes) {
	const maxParts = 128 // of one hop
	whole := p.hops
	p.hops = p.spent[:0]
	for _, h := range whole {
		it := &p.items[h.item]
		n := tier.Bytes(1)
		if read := max(h.to.ram-h.from.ram, h.to.held()-h.from.held()); it.divisible && it.leaves {
			n = min(max((read+most-1)/most, 1), maxParts)
		}
		at := h.from
		for k := tier.Bytes(1); k < n; k++ {
			to := place{
				tier: tier.Swap,
				ram:  h.from.ram + (h.to.ram-h.from.ram)/n*k,
				swap: h.from.swap + (h.to.swap-h.from.swap)/n*k,
			}
			p.hops = append(p.hops, hop{h.item, at, to})
			at = to
		}
		p.hops = append(p.hops, hop{h.item, at, h.to})
	}
	p.spent = whole
}

// steps returns the hops as steps of a plan. why tells the reason for a hop, and
// the seconds of waiting that it saves in an hour.
func (p *planner) steps(why func(it *item, h hop) (string, float64)) []tier.Step {
	if len(p.hops) == 0 {
		return nil
	}
	steps := make([]tier.Step, len(p.hops))
	for k, h := range p.hops {
		it := &p.items[h.item]
		steps[k].Move = move(it.model, h.from, h.to)
		steps[k].Why, steps[k].Gain = why(it, h)
	}
	return steps
}

// serve answers a need. value puts on an item what its bytes are worth.
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
			return tier.Plan{Steps: p.steps(reason)}
		}
	}
	return tier.Plan{Err: refusal(v, need)}
}

// reason says why a step stands in a plan for a need.
func reason(it *item, h hop) (string, float64) {
	switch {
	case it.wanted:
		return "was asked for", 0
	case h.to.held() < h.from.held():
		return "makes room: its bytes are worth the least in memory", 0
	case h.to.ram < h.from.ram:
		return "makes room: its bytes are worth the least in ram", 0
	}
	return "moves up into ram that is free", 0
}

// unplannable returns an error for a need that no arrangement can meet for a
// reason other than room.
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

// refusal says what a need lacks: for good, where it would not fit if everything
// else left, or for now, with who holds the room.
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
		if f := v.Footprint(i); i != need.Model && f[tier.RAM]+f[tier.Swap] > 0 {
			e.Holders = append(e.Holders, tier.Holder{
				Model: v.Library.At(i).Name, Bytes: f[tier.RAM] + f[tier.Swap], Leases: int(s.Leases),
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
