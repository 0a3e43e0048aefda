package optimizer

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

const (
	// maxIdleReading is the seconds of reading that one idle plan asks for at most;
	// the next plan knows better what to read.
	maxIdleReading = 30
	// maxCandidates is how many models in storage it considers.
	maxCandidates = 64
	// readWeight is what a second of idle reading counts against a second of waiting.
	// With it a byte takes the place of another when it is 5/2 times as likely to be
	// asked for: (p-q)/(p+q) is 3/7 at p/q = 5/2.
	readWeight = 3.0 / 7
)

// rebalance plans what is worth moving while no request waits.
func (l *learner) rebalance(v *tier.View, now float64) tier.Plan {
	p := &l.planner
	prefetch := l.options.Without&Prefetch == 0
	p.set(v, nil, false)
	l.est.survey(now + lead)
	if prefetch || len(l.hints.open) > 0 {
		p.candidates(func(i int) float64 {
			u := l.est.byIndex[i]
			rate, hinted := l.intensity(u, now+lead)
			switch {
			case hinted:
			case !prefetch:
				return 0
			case v.Library.At(i).Home > tier.Storage:
				rate = max(rate, homely)
			case u.Count == 0:
				return 0
			}
			return rate
		})
	}
	for i := range p.items {
		l.value(&p.items[i], now)
	}
	im := rebalancer{planner: p, prefetch: prefetch}
	im.arrange(0)
	if !p.route(&p.arranger) {
		// Models lack a little room to pass each other.
		im.arrange(p.spare())
		if !p.route(&p.arranger) {
			p.hops = p.hops[:0]
		}
	}
	l.mark()
	return tier.Plan{Steps: p.steps(explainIdle)}
}

// explainIdle says why a step is in an idle plan, and what it gains.
func explainIdle(s *tier.Step, it *item, h hop) {
	gain := it.seconds(h.to) - it.seconds(h.from)
	s.Gain = 3600 * it.rate * gain
	s.Reason, s.Why = tier.ReasonPrefetch, fmt.Sprintf("%.3g requests an hour expected", 3600*it.rate)
	switch {
	case gain < 0:
		s.Reason, s.Why = tier.ReasonRebalance, "makes room: "+s.Why
	case it.hinted:
		s.Why = "was announced"
	}
}

// rebalancer changes the places of the items on a board: byte by byte, the best of
// what is below takes the place of the worst of what is above, first between
// storage and swap, then between swap and ram, as long as that pays.
type rebalancer struct {
	*planner
	// prefetch: items without a hint may move up as well.
	prefetch bool
	// budget is the seconds of reading that are left.
	budget  float64
	free    tier.Footprint
	victims []shift
}

// arrange gives every item its place. spare is room to leave free in swap.
func (im *rebalancer) arrange(spare tier.Bytes) {
	im.sort()
	im.free = im.board.room
	im.free[tier.Swap] -= spare
	im.budget = maxIdleReading
	for i := range im.items {
		im.items[i].to = im.items[i].from
	}
	for _, i := range im.cold {
		if it := &im.items[i]; im.free[tier.Swap] < 0 && it.leaves {
			im.shift(it, tier.Swap, -min(it.to.swap, -im.free[tier.Swap]))
		}
	}
	im.raise(tier.Swap)
	im.raise(tier.RAM)
	for _, i := range im.hot {
		if it := &im.items[i]; im.free[tier.Swap] < 0 && im.free[tier.RAM] > 0 && it.divisible {
			im.shift(it, tier.RAM, min(it.to.swap, im.free[tier.RAM], -im.free[tier.Swap]))
		}
	}
	for i := range im.items {
		im.label(&im.items[i])
	}
}

// raise moves bytes up into a tier. When two models change places, the one that is
// asked for first decides what the change has brought; the odds are those of their
// rates.
func (im *rebalancer) raise(to tier.Tier) {
	order := im.cold // lowest first
	if to == tier.RAM {
		order = im.hot // highest first
	}
	at := func(k int) int32 { // highest first
		if to == tier.RAM {
			return order[k]
		}
		return order[len(order)-1-k]
	}
	last := len(order) - 1 // those beyond it have nothing left to give
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
			extra := tier.Bytes(0) // Runtime of a whole model
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
			if !im.exchange(it, to, step) {
				if len(im.victims) > 0 && it.parts(to) {
					return // it would not pay for those that are worth less either
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
func (im *rebalancer) exchange(it *item, to tier.Tier, n tier.Bytes) bool {
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
	if expected := (gain*up - loss) / (up + down); !(expected > readWeight*gain) {
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
// one below, which is also the time that it takes to bring it up.
func (it *item) gain(to tier.Tier) float64 {
	if to == tier.RAM {
		return it.saveHot
	}
	return it.saveWarm
}

// room is what is free for bytes of an item that move up into a tier. What swap
// cannot hold of a divisible one moves on into ram.
func (im *rebalancer) room(it *item, to tier.Tier) tier.Bytes {
	if to == tier.Swap && it.divisible {
		return im.free[tier.Swap] + max(im.free[tier.RAM], 0)
	}
	return im.free[to]
}

// given is what the victims give in all.
func (im *rebalancer) given() (n tier.Bytes) {
	for _, s := range im.victims {
		n += s.bytes
	}
	return n
}

// below is what of an item could move up into a tier.
func (im *rebalancer) below(it *item, to tier.Tier) tier.Bytes {
	if to == tier.RAM {
		return it.to.swap
	}
	return it.model.Size - it.to.held()
}

// above is what of an item could be displaced from a tier.
func (im *rebalancer) above(it *item, to tier.Tier) tier.Bytes {
	switch {
	case to == tier.RAM:
		return it.to.ram
	case it.leaves || it.to.ram == 0:
		return it.to.swap // of a model that has bytes in ram, the others cannot leave
	}
	return 0
}

// shift moves n bytes of an item up into a tier; negative n: down from it.
func (im *rebalancer) shift(it *item, to tier.Tier, n tier.Bytes) {
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
func (im *rebalancer) label(it *item) {
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
// asked for: those with the highest rate, if it is more than 0.
func (p *planner) candidates(rate func(i int) float64) {
	p.best = p.best[:0]
	for i := range p.view.States {
		s := &p.view.States[i]
		if s.Tier != tier.Storage || s.Moving || s.Stuck || s.Waiters > 0 {
			continue
		}
		if c := (candidate{rate(i), i}); c.rate > 0 {
			p.best = append(p.best, c)
		}
	}
	slices.SortFunc(p.best, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(a.i, b.i))
	})
	for _, c := range p.best[:min(len(p.best), maxCandidates)] {
		p.add(c.i)
	}
}

type candidate struct {
	rate float64
	i    int
}
