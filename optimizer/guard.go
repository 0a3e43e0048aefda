package optimizer

import (
	"cmp"
	"math"
	"slices"
)

// estimate is a way to rank models.
type estimate int

const (
	byLogit estimate = iota
	byMixture
	byMinutes
	byHours
	byRecency
	estimates
)

var estimateNames = [estimates]string{"logit", "mixture", "rate 10 min", "rate 6 h", "recency"}

func (by estimate) String() string { return estimateNames[by] }

// intensity returns the requests a second that an estimate expects for a model,
// or, by recency, a figure in the same order. scale turns odds into intensities.
func (s *scored) intensity(by estimate, scale float64) float64 {
	recency := 1 / (1 + s.age)
	switch by {
	case byLogit:
		return s.odds * scale
	case byMixture:
		return s.lambda
	case byMinutes:
		return s.minute + 1e-9*recency
	case byHours:
		return s.hour + 1e-9*recency
	}
	return recency
}

// shadow is an account of where bytes would be if one estimate had always been
// followed. No bytes move for it.
type shadow struct {
	ram, swap []float64 // bytes by place in the sample
	cost      float64   // decayed seconds of waiting
	in        []int32   // places with bytes in memory, best first
}

// guard keeps the learner safe: each estimate places models in a shadow of its
// own, and the real placement follows the one that would have waited least
// lately. Whatever the learner gets wrong, it cannot do much worse than the plain
// estimates beside it for long.
type guard struct {
	shadows   [estimates]shadow
	following estimate
}

const (
	// guardKeep: the last thousand requests count.
	guardKeep = 0.9993
	// guardLead is by how much another estimate must be better to be followed.
	guardLead = 0.02
	// guardMove is what moving a byte counts, as a share of the wait that it can
	// save at most: enough to prefer the quieter of two equals.
	guardMove = 0.02
)

// terms are what a byte costs where, in seconds, and the bytes that the shadows
// may use.
type terms struct {
	ram, swap, storage  float64
	ramBytes, swapBytes float64
}

// resize makes room for a sample of n models and forgets where they were.
func (g *guard) resize(n int) {
	for by := range g.shadows {
		s := &g.shadows[by]
		s.ram = slices.Grow(s.ram[:0], n)[:n]
		s.swap = slices.Grow(s.swap[:0], n)[:n]
		clear(s.ram)
		clear(s.swap)
		s.in = s.in[:0]
	}
}

// request charges every shadow for a request for the model at place k of the
// sample, and lets it move what it would. rank returns what an estimate holds of
// a model after the request.
func (g *guard) request(k int, size func(k int) float64, t *terms, rank func(by estimate, k int) float64) {
	for by := range g.shadows {
		s := &g.shadows[by]
		full := size(k)
		ram, swap := s.ram[k], s.swap[k]
		s.cost = guardKeep*s.cost + t.ram*ram + t.swap*swap + t.storage*max(full-ram-swap, 0)
		if ram < full {
			s.cost += guardMove * (t.storage - t.ram) * s.fill(int32(k), full, t, func(k int32) float64 { return rank(estimate(by), int(k)) })
		}
	}
	best := g.following
	for by := range g.shadows {
		if g.shadows[by].cost < g.shadows[best].cost {
			best = estimate(by)
		}
	}
	if g.shadows[best].cost < (1-guardLead)*g.shadows[g.following].cost {
		g.following = best
	}
}

// fill lets the wanted model's bytes in and places everything by rank. It
// returns the bytes that moved.
func (s *shadow) fill(wanted int32, size float64, t *terms, rank func(k int32) float64) (moved float64) {
	if s.ram[wanted]+s.swap[wanted] == 0 {
		s.in = append(s.in, wanted)
	}
	slices.SortFunc(s.in, func(a, b int32) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(a, b))
	})
	ram, swap := t.ramBytes, t.swapBytes
	left := s.in[:0]
	for _, k := range s.in {
		up, rest := s.ram[k], s.swap[k]
		if k == wanted {
			up, rest = size, 0
		}
		x := min(up, ram)
		y := min(rest+up-x, swap)
		ram, swap = ram-x, swap-y
		moved += math.Max(x-s.ram[k], 0) + math.Max(y-s.swap[k], 0)
		if s.ram[k], s.swap[k] = x, y; x+y > 0 {
			left = append(left, k)
		}
	}
	s.in = left
	return moved
}
