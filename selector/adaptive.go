package selector

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Adaptive is the policy that ranks by what is expected of a model here and now,
// and learns from how requests turn out.
//
// The time t until a model can be used is the sum of
//
//   - load: the bytes that are not present, at the measured rate of the tier that
//     they come from ([Costs] until then), after the loads that are in flight on
//     the same device; for a model in storage drawn towards its own measured waits;
//   - latency: its own measured time to first use, where it is reported, else its
//     measured service time, else its size at the rate of the models measured;
//   - queue: one service time for every Learning.Slots requests that are at it.
//
// With priority speed the score is −t in seconds; with quality 0.2 (a weight) for
// each GB of worth; with balanced log2(1 + worth) − WaitWeight × log2(1 + t), by
// which a model twice as good may take twice as long. Each preference that it has
// adds Weights.Capability. Reliability r, the share of good outcomes lately (those
// of the time before a model was last heard of count half after ten minutes),
// counts as t/r and r × worth; callers' scores scale the worth by 0.5 to 1.5. A
// model that fails Learning.Patience times in a row ranks behind all others for
// Learning.CoolOff, and is then tried again.
//
// Its methods may be called from any number of goroutines. Equal requests get
// equal answers from equal views as long as nothing was learned in between and
// Learning.Explore is 0.
type Adaptive struct {
	engine   engine
	weights  Weights
	costs    Costs
	learning Learning
	asked    atomic.Uint64 // requests that might have explored
	mu       sync.Mutex    // of those who change engine.knowledge
}

var (
	_ tier.Selector = (*Adaptive)(nil)
	_ tier.Learner  = (*Adaptive)(nil)
	_ tier.Reporter = (*Adaptive)(nil)
)

// NewAdaptive returns the adaptive policy with default options, for
// Config.Selector. NewWith takes options, and lets requests name their policy.
func NewAdaptive() *Adaptive {
	o, _ := Options{}.fill() // the defaults are valid
	s := &Adaptive{}
	s.init(&o)
	return s
}

func (s *Adaptive) init(o *Options) {
	s.weights, s.costs, s.learning = o.Weights, o.Costs, o.Learning
	s.engine.init(s, o)
	s.engine.knowledge.Store(newKnowledge(s.costs))
	if o.Learning.Explore > 0 {
		s.engine.explore = s.explore
	}
}

// Select implements tier.Selector.
func (s *Adaptive) Select(req *tier.Request, v *tier.View) (c tier.Choice, err error) {
	err = s.engine.choose(req, v, &c)
	return c, err
}

// Accessed implements tier.Learner. Which model is asked for how often is the
// Placement's to learn.
func (s *Adaptive) Accessed([]tier.Access) {}

// Moved implements tier.Learner: it learns how long bytes take.
func (s *Adaptive) Moved(moves []tier.Moved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.knowledge.Store(s.engine.knowledge.Load().moved(moves))
}

// Reported implements tier.Reporter.
func (s *Adaptive) Reported(outcomes []tier.Outcome) {
	if len(outcomes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.knowledge.Store(s.engine.knowledge.Load().reported(outcomes, &s.learning))
}

func (s *Adaptive) name() string    { return PolicyAdaptive }
func (s *Adaptive) stateless() bool { return false }

// reach: sizes tell nothing, because models have latencies of their own.
func (s *Adaptive) reach(time.Duration) (tier.Bytes, bool) { return 0, false }

// estimate is the parts of an expected time, in seconds.
type estimate struct{ queue, load, latency float64 }

func (e estimate) total() float64 { return e.queue + e.load + e.latency }

func (s *Adaptive) estimate(c candidate, st *standing) estimate {
	var e estimate
	know := st.knowledge
	if gone, from := missing(c.size, c.state); gone > 0 {
		rate := know.storage
		if from == tier.Swap {
			rate = know.swap
		}
		e.load = gone.GB() * rate
		if c.record != nil && from == tier.Storage {
			e.load = c.record.wait.or(e.load)
		}
		if !c.state.Moving {
			e.load += st.inFlight.GB() * know.storage
		}
	}
	e.latency = c.record.firstUse()
	if e.latency == 0 {
		e.latency = c.size.GB() * st.latency
	}
	served := e.latency
	if c.record != nil && c.record.served.count > 0 {
		served = c.record.served.value
	}
	if ahead := int(c.state.Leases) + int(c.state.Waiters); ahead >= s.learning.Slots {
		e.queue = served * float64(ahead/s.learning.Slots)
	}
	return e
}

func (s *Adaptive) expected(c candidate, st *standing) time.Duration {
	const most = math.MaxInt64 / 2
	return time.Duration(min(s.estimate(c, st).total()*float64(time.Second), most))
}

// avoidance is more than any score.
const avoidance = 1e6

func (s *Adaptive) score(p tier.Priority, c candidate, st *standing) float64 {
	reliable := c.record.reliability(st.now)
	worth := c.worth * c.record.esteem() * reliable
	score := s.weights.Capability * float64(c.liked)
	switch p {
	case tier.Quality:
		score += s.weights.QualityPerGB * worth
	case tier.Speed:
		score -= s.estimate(c, st).total() / reliable
	default:
		wait := 1 + s.estimate(c, st).total()/reliable
		if s.learning.WaitWeight != 1 { // most do without this
			wait = math.Pow(wait, s.learning.WaitWeight)
		}
		score += math.Log2((1 + worth) / wait)
	}
	if st.avoided(c.model) {
		score -= avoidance
	}
	return score
}

func (s *Adaptive) factors(p tier.Priority, c candidate, st *standing) []tier.Factor {
	e := s.estimate(c, st)
	f := []tier.Factor{
		{Name: "queue seconds", Value: e.queue},
		{Name: "load seconds", Value: e.load},
		{Name: "latency seconds", Value: e.latency},
		{Name: "worth", Value: c.worth * c.record.esteem()},
		{Name: "reliability", Value: c.record.reliability(st.now)},
	}
	if c.liked > 0 {
		f = append(f, tier.Factor{Name: "preferences", Value: s.weights.Capability * float64(c.liked)})
	}
	if st.avoided(c.model) {
		f = append(f, tier.Factor{Name: "avoided after failures", Value: -avoidance})
	}
	return f
}

// explore sometimes takes another model than the best: one that can be leased
// where it is, so that nothing is loaded for curiosity's sake.
func (s *Adaptive) explore(req *tier.Request, v *tier.View, st *standing, r *ranking, best pick) pick {
	n := s.asked.Add(1)
	if random(s.learning.Seed, n, 0) >= s.learning.Explore {
		return best
	}
	others := 0.0
	for _, i := range st.resident {
		en := &st.index.entries[i]
		if i == best.model || !v.States[i].Serving || st.avoided(i) || !r.admits(en, v.Library) {
			continue
		}
		c := st.candidate(r, en, v)
		if req.Deadline > 0 && s.expected(c, st) > req.Deadline {
			continue
		}
		// The k-th of them replaces the one before with chance 1/k: all are as likely.
		others++
		if random(s.learning.Seed, n, uint64(others))*others < 1 {
			best = s.engine.pick(r, c, st)
		}
	}
	return best
}

// random returns a number in [0, 1) that seed, n and k decide (SplitMix64, Steele
// et al. 2014).
func random(seed, n, k uint64) float64 {
	const golden = 0x9e3779b97f4a7c15
	x := seed
	for _, y := range [...]uint64{n, k} {
		x = (x ^ y) + golden
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
	}
	return float64(x>>11) / (1 << 53)
}
