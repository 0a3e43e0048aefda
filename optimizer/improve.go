package optimizer

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

const (
	// improveSeconds is how much reading one plan asks for at most; the next one
	// knows better what to read.
	improveSeconds = 30
	// improveChunk is how much one of its steps reads at most, so that little is
	// lost when a request comes and the step is called off.
	improveChunk = 256 * tier.MiB
	// candidatesMost is how many models in storage it considers.
	candidatesMost = 64
	// diskWeight is what a second of reading that nobody waits for counts against a
	// second of waiting. With it a byte takes another's place when it is five times
	// in two as likely to be asked for: (p-q)/(p+q) is 3/7 at p/q = 5/2.
	diskWeight = 3.0 / 7
)

// improve plans what is worth moving though nobody waits.
func (l *Learned) improve(v *tier.View, now float64) tier.Plan {
	p := &l.planner
	p.set(v, nil, false)
	l.est.survey(now + lead)
	if l.prefetches() || len(l.hints.open) > 0 {
		p.candidates(func(i int) float64 {
			id := l.est.byIndex[i]
			rate, hinted := l.intensity(byLogit, id, now+lead)
			switch {
			case hinted:
			case !l.prefetches():
				return 0
			case v.Library.At(i).Home > tier.Storage:
				rate = max(rate, homely)
			case l.est.uses[id].count == 0:
				return 0 // nothing speaks for it
			}
			return rate
		})
	}
	for i := range p.items {
		l.value(&p.items[i], byLogit, now)
	}
	l.yield.decay(now)
	im := improver{
		planner: p, prefetch: l.prefetches(), factor: l.yield.factor(),
		displaced: l.displaced.rate(float64(v.Limits.Of(tier.RAM)), now),
		dropped:   l.dropped.rate(float64(v.Limits.Of(tier.RAM))+float64(v.Limits.Of(tier.Swap)), now),
	}
	im.improve(0)
	if !p.route(&p.arranger) {
		// Models cannot pass each other for want of a little room.
		im.improve(p.spare())
		if !p.route(&p.arranger) && p.total() <= 0 {
			p.hops = p.hops[:0]
		}
	}
	p.chop(improveChunk)
	l.offer()
	return tier.Plan{Steps: p.gains()}
}

// prefetches reports whether models move up that nobody asked for or announced.
// While only recency is to be trusted, nothing tells which.
func (l *Learned) prefetches() bool {
	return !l.options.NoPrefetch && l.guard.following != byRecency
}

// offer remembers the hops of a plan that nobody waits for, so that what comes of
// them is known when they were made.
func (l *Learned) offer() {
	p := &l.planner
	l.offered = l.offered[:0]
	for _, h := range p.hops {
		it := &p.items[h.item]
		id := l.est.byIndex[it.index]
		l.est.uses[id].mixed = h.from.tier == tier.Swap && h.from.held() < it.model.Size
		o := offer{move: move(it.model, h.from, h.to), id: id, seconds: it.seconds(h.to) - it.seconds(h.from)}
		if total := it.seconds(it.to) - it.seconds(it.from); o.seconds > 0 && total > 0 {
			o.expected = it.expected * o.seconds / total
		}
		l.offered = append(l.offered, o)
	}
}

// total is the waiting that the hops are expected to save, in seconds for each
// second of time.
func (p *planner) total() (sum float64) {
	for _, h := range p.hops {
		it := &p.items[h.item]
		sum += it.rate * (it.seconds(h.to) - it.seconds(h.from))
	}
	return sum
}

// gains returns the hops as steps of a plan that nobody waits for.
func (p *planner) gains() []tier.Step {
	return p.steps(func(it *item, h hop) (string, float64) {
		gain := 3600 * it.rate * (it.seconds(h.to) - it.seconds(h.from))
		switch {
		case gain < 0:
			return fmt.Sprintf("makes room: %.3g requests an hour expected", 3600*it.rate), gain
		case it.hinted:
			return "was announced", gain
		}
		return fmt.Sprintf("%.3g requests an hour expected", 3600*it.rate), gain
	})
}

// improver changes the places of the items on a board: byte by byte, the best of
// what is below takes the place of the worst of what is above, first between
// storage and swap, then between swap and ram, as long as that pays.
type improver struct {
	*planner
	// prefetch: items that no hint speaks for may move up as well.
	prefetch bool
	// factor is what the gain that is expected for those is worth by experience.
	factor float64
	// displaced and dropped are how often in a second a byte is displaced from ram
	// and from memory in any case.
	displaced, dropped float64
	// budget is the seconds of reading that are left.
	budget  float64
	free    tier.Footprint
	victims []shift
}

// improve gives every item its place. spare is room to leave free in swap.
func (im *improver) improve(spare tier.Bytes) {
	im.sort()
	im.free = im.board.room
	im.free[tier.Swap] -= spare
	im.budget = improveSeconds
	for i := range im.items {
		im.items[i].to, im.items[i].expected = im.items[i].from, 0
	}
	for _, i := range im.cold {
		if it := &im.items[i]; im.free[tier.Swap] < 0 && it.leaves {
			im.shift(it, tier.Swap, -min(it.to.swap, -im.free[tier.Swap]))
		}
	}
	im.raise(tier.Swap, im.dropped)
	im.raise(tier.RAM, im.displaced)
	for _, i := range im.hot {
		if it := &im.items[i]; im.free[tier.Swap] < 0 && im.free[tier.RAM] > 0 && it.divisible {
			im.shift(it, tier.RAM, min(it.to.swap, im.free[tier.RAM], -im.free[tier.Swap]))
		}
	}
	for i := range im.items {
		im.label(&im.items[i])
	}
}

// raise moves bytes up into a tier from which bytes are displaced at that rate in
// any case. Of two models that change places, the one that is asked for first
// settles what the change has brought: it is the one below with the odds of their
// rates.
func (im *improver) raise(to tier.Tier, displaced float64) {
	order := im.cold // least first
	if to == tier.RAM {
		order = im.hot // most first
	}
	at := func(k int) int32 { // most first
		if to == tier.RAM {
			return order[k]
		}
		return order[len(order)-1-k]
	}
	last := len(order) - 1 // those behind it have nothing left to give
	for k := range order {
		it := &im.items[at(k)]
		if !it.hinted && !im.prefetch {
			continue
		}
		gain := it.gain(to)
		for im.budget > 0 && gain > 0 {
			step := im.below(it, to)
			if step == 0 {
				break
			}
			extra := tier.Bytes(0) // what a whole model takes in ram beyond its weights
			if to == tier.RAM && !it.divisible {
				extra = it.model.Runtime
			}
			im.victims = im.victims[:0]
			if it.parts(to) {
				step = min(step, tier.Bytes(min(im.budget/gain, float64(maxBytes)))+1)
			}
			free := im.room(it, to) - extra
			if free > 0 && it.parts(to) {
				step = min(step, free)
			}
			for v := last; v > k && free < step; v-- {
				other := &im.items[at(v)]
				give := im.above(other, to)
				if give == 0 {
					if v == last {
						last--
					}
					continue
				}
				if it.parts(to) && other.parts(to) {
					give = min(give, step-free)
					step = free + give
				}
				free += give
				im.victims = append(im.victims, shift{at(v), give})
			}
			if free < step || to == tier.RAM && im.free[tier.Swap]+step < im.given() {
				break
			}
			if !im.exchange(it, to, step, displaced) {
				if len(im.victims) > 0 && it.parts(to) {
					return // nor would it pay for those that are worth less
				}
				break
			}
		}
	}
}

// shift is bytes that an item is to give.
type shift struct {
	item  int32
	bytes tier.Bytes
}

// exchange moves n bytes of an item up into a tier, in the place of what the
// victims give, if that pays.
func (im *improver) exchange(it *item, to tier.Tier, n tier.Bytes, displaced float64) bool {
	up, down, loss := it.rate, 0.0, 0.0
	if to == tier.RAM && it.model.Home == tier.RAM || to == tier.Swap && it.model.Home > tier.Storage {
		up = max(up, homely)
	}
	for _, s := range im.victims {
		v := &im.items[s.item]
		share := float64(s.bytes) / float64(n)
		down += v.rate * share
		loss += v.rate * v.gain(to) * share
	}
	gain := it.gain(to)
	expected := (gain*up - loss) / (up + down + displaced)
	worth := expected
	if !it.hinted {
		worth *= im.factor
	}
	if !(worth > diskWeight*gain) {
		return false
	}
	for _, s := range im.victims {
		im.shift(&im.items[s.item], to, -s.bytes)
	}
	im.shift(it, to, n)
	if to == tier.RAM && !it.divisible {
		it.to.tier = tier.RAM
		im.free[tier.RAM] -= it.model.Runtime
	}
	it.expected += gain * up / (up + down + displaced) * float64(n)
	im.budget -= gain * float64(n)
	return true
}

// parts reports whether a part of the item can move between a tier and the one
// below.
func (it *item) parts(to tier.Tier) bool {
	if to == tier.RAM {
		return it.divisible
	}
	return it.leaves
}

// gain is the seconds of waiting that a byte of the item saves in a tier over the
// one below, which is also what bringing it up takes.
func (it *item) gain(to tier.Tier) float64 {
	if to == tier.RAM {
		return it.saveHot
	}
	return it.saveWarm
}

// room is what is free for bytes of an item that move up into a tier; what swap
// cannot hold of a divisible one moves on into ram.
func (im *improver) room(it *item, to tier.Tier) tier.Bytes {
	if to == tier.Swap && it.divisible {
		return im.free[tier.Swap] + max(im.free[tier.RAM], 0)
	}
	return im.free[to]
}

// given is what the victims give together.
func (im *improver) given() (n tier.Bytes) {
	for _, s := range im.victims {
		n += s.bytes
	}
	return n
}

// below is what of an item could move up into a tier.
func (im *improver) below(it *item, to tier.Tier) tier.Bytes {
	if to == tier.RAM {
		return it.to.swap
	}
	return it.model.Size - it.to.held()
}

// above is what of an item could be displaced from a tier.
func (im *improver) above(it *item, to tier.Tier) tier.Bytes {
	switch {
	case to == tier.RAM:
		return it.to.ram
	case it.leaves || it.to.ram == 0:
		return it.to.swap // of a model that has bytes in ram, the others cannot leave
	}
	return 0
}

// shift moves n bytes of an item up into a tier, or down from it where n is
// negative.
func (im *improver) shift(it *item, to tier.Tier, n tier.Bytes) {
	if to == tier.RAM {
		it.to.ram += n
		it.to.swap -= n
		im.free[tier.RAM] -= n
		im.free[tier.Swap] += n
		return
	}
	it.to.swap += n
	im.free[tier.Swap] -= n
}

// label gives an item the tier that goes with its bytes.
func (im *improver) label(it *item) {
	it.to.serving = false
	switch {
	case it.to.ram == it.from.ram && it.to.swap == it.from.swap:
		it.to = it.from
	case it.to.held() == 0:
		it.to = place{}
	case it.to.tier == tier.RAM && it.from.tier != tier.RAM:
	case it.to.ram == it.model.Size && (it.from.tier == tier.RAM || it.model.Runtime <= im.free[tier.RAM]):
		it.to.tier = tier.RAM
		if it.from.tier != tier.RAM {
			im.free[tier.RAM] -= it.model.Runtime
		}
	default:
		it.to.tier = tier.Swap
	}
}

// candidates puts the models in storage on the board that are likeliest to be
// asked for: those for which rate returns the most, and more than 0.
func (p *planner) candidates(rate func(i int) float64) {
	p.best = p.best[:0]
	for i := range p.view.States {
		s := &p.view.States[i]
		if s.Tier != tier.Storage || s.Moving || s.Stuck || s.Waiters > 0 {
			continue
		}
		c := candidate{rate(i), i}
		if !(c.rate > 0) || len(p.best) == candidatesMost && c.rate <= p.best[candidatesMost-1].rate {
			continue
		}
		k, _ := slices.BinarySearchFunc(p.best, c, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(a.i, b.i))
		})
		p.best = slices.Insert(p.best, k, c)
		p.best = p.best[:min(len(p.best), candidatesMost)]
	}
	for _, c := range p.best {
		p.add(c.i)
	}
}

type candidate struct {
	rate float64
	i    int
}
