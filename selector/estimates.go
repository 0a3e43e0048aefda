package selector

import (
	"math"
	"math/bits"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// measure fills in what times depend on.
func (st *snapshot) measure(v *tier.View) {
	st.latency = st.Costs.RAM.Seconds()
	if !st.adaptive {
		return
	}
	// What was measured of some models tells about the others; the constant counts
	// like two GB of them.
	seconds, gb := st.latency*prior, float64(prior)
	for i, m := range v.Library.All() {
		if s := &v.States[i]; s.Moving && s.To > s.Tier {
			gone, _ := missing(m.Size, s)
			_, storage := st.stats.rates(m.Mover, &st.Costs)
			st.inFlight += gone.GB() * storage
		}
		if first := st.stats.of(m.Name).FirstUseSeconds; first > 0 {
			seconds += first
			gb += m.Size.GB()
		}
	}
	st.latency = seconds / gb
}

// missing returns how many bytes of weights are not present in memory, and the tier
// that they have to come from. A move under way counts as its colder end: what
// leaves may be gone, and what comes is not there yet.
func missing(size tier.Bytes, s *tier.State) (gone tier.Bytes, from tier.Tier) {
	from = s.Tier
	if s.Moving {
		from = min(from, s.To)
	}
	switch from {
	case tier.RAM:
		return 0, from
	case tier.Swap:
		return size - min(max(s.Kept, 0), size), from
	}
	return size, from
}

// prospect is what is expected of a model.
type prospect struct {
	queue, load, latency float64 // the parts of the time until it can be used, in seconds
	worth                float64 // as callers judge it
	reliability          float64
	avoided              bool // it keeps failing and is not to be tried yet
}

func (st *snapshot) prospect(m *tier.Model, s *tier.State) prospect {
	r, size := st.stats.of(m.Name), max(m.Size, 0)
	x := prospect{
		latency: r.FirstUseSeconds, worth: worth(m) * r.Esteem,
		reliability: r.reliability(st.now), avoided: st.now.Before(r.AvoidUntil),
	}
	if gone, from := missing(size, s); gone > 0 {
		swap, storage := st.stats.rates(m.Mover, &st.Costs)
		if x.load = gone.GB() * swap; from != tier.Swap {
			x.load = r.wait.or(gone.GB() * storage)
		}
	}
	if x.load > 0 && !s.Moving {
		x.load += st.inFlight
	}
	if x.latency == 0 {
		x.latency = size.GB() * st.latency
	}
	if ahead := int(s.Leases) + int(s.Waiters); st.adaptive && ahead >= st.Learning.Slots {
		served := x.latency
		if r.served.count > 0 {
			served = r.served.value
		}
		x.queue = served * float64(ahead/st.Learning.Slots)
	}
	return x
}

func (x *prospect) seconds() float64 { return x.queue + x.load + x.latency }

// expected is the predicted time until the model can be used. That of the recorded
// policy is exact, rounded down: each byte costs what the tier does that it is in.
func (st *snapshot) expected(m *tier.Model, s *tier.State) time.Duration {
	const longest = math.MaxInt64 / 2
	if st.adaptive {
		x := st.prospect(m, s)
		return time.Duration(min(x.seconds()*float64(time.Second), longest))
	}
	size, rate := max(m.Size, 0), st.Costs.Storage
	gone, from := missing(size, s)
	if from == tier.Swap {
		rate = st.Costs.Swap
	}
	return perGB(size-gone, st.Costs.RAM) + perGB(gone, rate)
}

// perGB is the time for b bytes at that time per GB, rounded down, saturated.
func perGB(b tier.Bytes, rate time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(b), uint64(rate))
	if hi >= 1<<29 {
		return math.MaxInt64
	}
	return time.Duration(hi<<34 | lo>>30)
}

// avoidance is more than any score.
const avoidance = 1e6

// score is that of the adaptive policy; c has the part of it that match sets.
func (st *snapshot) score(p tier.Priority, c *candidate) float64 {
	x := st.prospect(c.m, c.state)
	score, worth, wait := c.score, x.worth*x.reliability, x.seconds()/x.reliability
	switch p {
	case tier.Quality:
		score += st.Weights.QualityPerGB * worth
	case tier.Speed:
		score -= wait
	default:
		score += math.Log2((1 + worth) / math.Pow(1+wait, st.Learning.WaitWeight))
	}
	if x.avoided {
		score -= avoidance
	}
	return score
}

// factors are the parts of the score, for a person.
func (st *snapshot) factors(p tier.Priority, c *candidate, byScore bool) (f []tier.Factor) {
	add := func(name string, value float64) { f = append(f, tier.Factor{Name: name, Value: value}) }
	if byScore {
		add(policyScore, c.score)
		return f
	}
	x := st.prospect(c.m, c.state)
	if st.adaptive {
		add("queue seconds", x.queue)
		add("load seconds", x.load)
		add("latency seconds", x.latency)
		add("worth", x.worth)
		add("reliability", x.reliability)
	} else {
		add("capabilities", st.Weights.Capability*float64(c.shared))
	}
	if c.liked > 0 {
		add("preferences", st.Weights.Capability*float64(c.liked))
	}
	if !st.adaptive {
		add(p.String(), st.Weights.bonus(p, c.m))
	} else if x.avoided {
		add("avoided after failures", -avoidance)
	}
	return f
}

// worth is the declared quality, or the size in GB.
func worth(m *tier.Model) float64 {
	if m.Quality > 0 {
		return m.Quality
	}
	return max(m.Size, 0).GB()
}

// bonus is the part of a recorded score that the priority gives. It depends on the
// model alone.
func (w *Weights) bonus(p tier.Priority, m *tier.Model) float64 {
	switch home := m.Home == tier.RAM; {
	case p == tier.Quality:
		return w.QualityPerGB * worth(m)
	case p == tier.Speed && home:
		return w.SpeedRAM
	case p == tier.Speed:
		return w.SpeedElsewhere
	case home:
		return w.BalancedRAM
	}
	return w.BalancedElsewhere + w.BalancedPerGB*worth(m)
}
