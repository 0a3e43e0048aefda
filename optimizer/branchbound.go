package optimizer

import "github.com/modeltier/modeltier/tier"

// Whole models make a knapsack of an arrangement, for which filling by worth alone
// can miss by far. On a small board the choices for the whole models are searched
// by branch and bound (Land and Doig 1960), starting from what the filling found.
// The bound lets every model that is not decided yet be cut to the byte. When its
// steps are used up, the best choice so far stands.
const (
	maxLumps = 14 // whole models that are searched over
	// maxSearchVisits bounds the search to some tens of microseconds: a step looks at
	// every item on the board.
	maxSearchVisits = 16_000
)

// choice is what is decided for one whole model.
type choice uint8

const (
	choiceOut choice = iota
	choiceIn         // in memory; an indivisible model: in swap
	choiceRAM        // an indivisible model in ram
)

// branchBound looks for better choices for the models that cannot be cut.
type branchBound struct {
	lumps        []int32
	now          []choice
	best         []place // by item
	decided      []bool  // by item
	worth        float64
	visits       int
	ramIn, allIn tier.Bytes // taken by the decided ones
}

// lump reports whether an item can only be in memory as a whole or not at all.
func (p *planner) lump(i int32) bool {
	it := &p.items[i]
	return !it.leaves && it.model.Size > 0 && !(it.wanted && p.to != tier.Storage)
}

// refine improves what greedy and route found, if they found something, by a search
// over the whole models. It reports whether there is an arrangement with a route to
// it.
func (p *planner) refine(found bool) bool {
	s := &p.search
	s.lumps, s.decided = s.lumps[:0], s.decided[:0]
	for range p.items {
		s.decided = append(s.decided, false)
	}
	for k := range p.cold { // most worth first
		if i := p.cold[len(p.cold)-1-k]; p.lump(i) {
			s.lumps = append(s.lumps, i)
		}
	}
	if len(s.lumps) == 0 || len(s.lumps) > maxLumps || p.maxRAM < 0 || p.maxSwap < 0 {
		return found
	}
	s.now, s.worth, s.visits, s.ramIn, s.allIn = s.now[:0], -1, 0, 0, 0
	if found {
		p.keepBest()
	}
	p.branch(0)
	if s.worth < 0 {
		return false
	}
	for i, to := range s.best {
		p.items[i].to = to
	}
	return p.route(&p.arranger)
}

// keepBest notes that the items are to be where no better places were found yet.
func (p *planner) keepBest() {
	s := &p.search
	s.worth, s.best = p.worth(), s.best[:0]
	for i := range p.items {
		s.best = append(s.best, p.items[i].to)
	}
}

// branch decides for the lumps that are left.
func (p *planner) branch(value float64) {
	s := &p.search
	k := len(s.now)
	if s.visits += len(p.items); s.visits > maxSearchVisits {
		return
	}
	if k == len(s.lumps) {
		if p.apply(s.now) && p.worth() > s.worth && p.route(&p.arranger) {
			p.keepBest()
		}
		return
	}
	if value+p.relaxed() <= s.worth*(1+1e-12) {
		return
	}
	i := s.lumps[k]
	it := &p.items[i]
	size := float64(it.model.Size)
	s.decided[i] = true
	for _, c := range [...]choice{choiceRAM, choiceIn, choiceOut} {
		ram, all, v := tier.Bytes(0), it.model.Size, it.warm*size
		allowed := true
		switch c {
		case choiceRAM:
			allowed = !it.divisible && (it.wanted || it.from.tier == tier.RAM)
			ram, v = it.model.Size, v+it.hot*size
			if !it.wanted {
				ram += it.model.Runtime
			}
		case choiceIn:
			allowed = (it.inPlace || !it.wanted) && (it.wanted || it.from.held() > 0)
		case choiceOut:
			allowed = !it.wanted
			all, v = 0, 0
		}
		if allowed && s.ramIn+ram <= p.maxRAM && s.allIn+max(all, ram) <= p.maxRAM+p.maxSwap {
			s.now = append(s.now, c)
			s.ramIn, s.allIn = s.ramIn+ram, s.allIn+max(all, ram)
			p.branch(value + v)
			s.ramIn, s.allIn = s.ramIn-ram, s.allIn-max(all, ram)
			s.now = s.now[:k]
		}
	}
	s.decided[i] = false
}

// relaxed bounds the worth of all that is not decided, as if it could be cut to
// the byte.
func (p *planner) relaxed() (sum float64) {
	s := &p.search
	ram, all := p.maxRAM-s.ramIn, p.maxRAM+p.maxSwap-s.allIn
	for _, i := range p.hot {
		it := &p.items[i]
		if ram <= 0 {
			break
		}
		if s.decided[i] && !it.divisible {
			continue
		}
		n := min(it.claim(), ram) // ram that is left over may go to what is in swap
		sum += it.hot * float64(n)
		ram -= n
	}
	for k := len(p.cold) - 1; k >= 0 && all > 0; k-- {
		i := p.cold[k]
		if s.decided[i] {
			continue
		}
		it := &p.items[i]
		n := min(it.claim(), all)
		sum += it.warm * float64(n)
		all -= n
	}
	return sum
}

// apply arranges the items by those choices for the lumps. It reports whether that
// fits.
func (p *planner) apply(choices []choice) bool {
	s := &p.search
	p.claim()
	for k, i := range s.lumps {
		it := &p.items[i]
		it.swapOnly = choices[k] == choiceIn && !it.divisible
		if choices[k] == choiceOut {
			p.quota[i] = 0
		}
	}
	if !p.cut(p.excess(), false) {
		return false
	}
	over, ok := p.fill(p.maxRAM, p.maxSwap)
	for k, i := range s.lumps {
		p.items[i].swapOnly = false
		// An indivisible model that should be in ram and is not misses its choice.
		ok = ok && (choices[k] != choiceRAM || p.items[i].to.tier == tier.RAM)
	}
	return ok && over <= 0
}
