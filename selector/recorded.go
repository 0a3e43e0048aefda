package selector

import (
	"math/bits"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// recorded is the policy that the recordings of the wire contract show. It learns
// nothing, and its scores depend on the models alone.
type recorded struct {
	weights Weights
	costs   Costs
}

func (r *recorded) score(p tier.Priority, c *candidate) float64 {
	return r.weights.Capability*float64(c.shared+c.liked) + r.bonus(p, c)
}

// bonus is the part of the score that the priority gives.
func (r *recorded) bonus(p tier.Priority, c *candidate) float64 {
	w := &r.weights
	switch home := c.m.Home == tier.RAM; {
	case p == tier.Quality:
		return w.QualityPerGB * c.worth()
	case p == tier.Speed && home:
		return w.SpeedRAM
	case p == tier.Speed:
		return w.SpeedElsewhere
	case home:
		return w.BalancedRAM
	}
	return w.BalancedElsewhere + w.BalancedPerGB*c.worth()
}

func (r *recorded) factors(p tier.Priority, c *candidate) []tier.Factor {
	f := []tier.Factor{{Name: "capabilities", Value: r.weights.Capability * float64(c.shared)}}
	if c.liked > 0 {
		f = append(f, tier.Factor{Name: "preferences", Value: r.weights.Capability * float64(c.liked)})
	}
	return append(f, tier.Factor{Name: p.String(), Value: r.bonus(p, c)})
}

// expected is rounded down: each byte costs what the tier does that it is in.
func (r *recorded) expected(c *candidate) time.Duration {
	size := max(c.m.Size, 0)
	gone, from := missing(size, c.state)
	rate := r.costs.Storage
	if from == tier.Swap {
		rate = r.costs.Swap
	}
	return perGB(size-gone, r.costs.RAM) + perGB(gone, rate)
}

// reach is the exact inverse of perGB at the costs of storage: size×rate/2^30 rounds
// down to at most d where size×rate < (d+1)×2^30.
func (r *recorded) reach(d time.Duration) (tier.Bytes, bool) {
	hi, lo := bits.Mul64(uint64(d)+1, uint64(tier.GiB))
	lo, borrow := bits.Sub64(lo, 1, 0)
	if hi -= borrow; hi >= uint64(r.costs.Storage) {
		return tier.Unlimited, true
	}
	q, _ := bits.Div64(hi, lo, uint64(r.costs.Storage))
	return tier.Bytes(min(q, uint64(tier.Unlimited))), true
}

// perGB is the time for b bytes at that time per GB, rounded down, saturated.
func perGB(b tier.Bytes, rate time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(b), uint64(rate))
	if hi >= 1<<29 {
		return 1<<63 - 1
	}
	return time.Duration(hi<<34 | lo>>30)
}
