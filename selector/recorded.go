package selector

import (
	"math/bits"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Recorded is the default policy: the scoring that the recordings of the wire
// contract show, by home tier and size, with the user's Weights. It learns
// nothing. It may be used by any number of goroutines.
type Recorded struct {
	engine  engine
	weights Weights
	costs   Costs
}

// Select implements tier.Selector.
func (s *Recorded) Select(req *tier.Request, v *tier.View) (c tier.Choice, err error) {
	err = s.engine.choose(req, v, &c)
	return c, err
}

func (s *Recorded) init(o *Options) {
	s.weights, s.costs = o.Weights, o.Costs
	s.engine.init(s, o)
}

func (s *Recorded) name() string    { return PolicyRecorded }
func (s *Recorded) stateless() bool { return true }

func (s *Recorded) score(p tier.Priority, c candidate, _ *standing) float64 {
	return s.weights.Capability*float64(c.shared+c.liked) + s.bonus(p, c)
}

// bonus is the part of the score that the priority gives.
func (s *Recorded) bonus(p tier.Priority, c candidate) float64 {
	w := &s.weights
	switch home := c.home == tier.RAM; {
	case p == tier.Quality:
		return w.QualityPerGB * c.worth
	case p == tier.Speed && home:
		return w.SpeedRAM
	case p == tier.Speed:
		return w.SpeedElsewhere
	case home:
		return w.BalancedRAM
	}
	return w.BalancedElsewhere + w.BalancedPerGB*c.worth
}

func (s *Recorded) factors(p tier.Priority, c candidate, _ *standing) []tier.Factor {
	f := []tier.Factor{{Name: "capabilities", Value: s.weights.Capability * float64(c.shared)}}
	if c.liked > 0 {
		f = append(f, tier.Factor{Name: "preferences", Value: s.weights.Capability * float64(c.liked)})
	}
	return append(f, tier.Factor{Name: p.String(), Value: s.bonus(p, c)})
}

func (s *Recorded) expected(c candidate, _ *standing) time.Duration {
	return s.costs.of(c.size, c.state)
}

// reach is the size up to which a model can be loaded from storage within d.
// Whoever is in a hotter tier needs less.
func (s *Recorded) reach(d time.Duration) (tier.Bytes, bool) {
	return s.costs.reach(d), true
}

// of returns the time until a model of that size and state can be used, rounded
// down: each byte costs what the tier does that it is in.
func (c *Costs) of(size tier.Bytes, s *tier.State) time.Duration {
	gone, from := missing(size, s)
	rate := c.Storage
	if from == tier.Swap {
		rate = c.Swap
	}
	return perGB(size-gone, c.RAM) + perGB(gone, rate)
}

// reach is the largest size that a model in storage may have to be usable within
// d. It is the exact inverse of perGB.
func (c *Costs) reach(d time.Duration) tier.Bytes {
	// size×rate/2^30 rounds down to at most d where size×rate < (d+1)×2^30.
	if c.Storage == 0 {
		return tier.Unlimited
	}
	hi, lo := bits.Mul64(uint64(d)+1, uint64(tier.GiB))
	lo, borrow := bits.Sub64(lo, 1, 0)
	hi -= borrow
	if hi >= uint64(c.Storage) {
		return tier.Unlimited
	}
	q, _ := bits.Div64(hi, lo, uint64(c.Storage))
	return tier.Bytes(min(q, uint64(tier.Unlimited)))
}

// perGB is the time for b bytes at that time per GB, rounded down, saturated.
func perGB(b tier.Bytes, rate time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(max(b, 0)), uint64(rate))
	if hi >= 1<<29 {
		return 1<<63 - 1
	}
	return time.Duration(hi<<34 | lo>>30)
}
