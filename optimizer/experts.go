package optimizer

import (
	"cmp"
	"math"
	"slices"
)

// rates are the intensities of one model by component of the mixture, in requests
// a second: its decayed rates, the hazard of its own gaps, and a uniform prior that
// covers models that were never seen.
type rates [components]float64

const (
	byGaps     = scales
	byPrior    = scales + 1
	components = scales + 2
)

// shares are decayed counts of how often each component would have named the model
// that was asked for, by that model.
type shares struct {
	count [components]float32
	total float32
}

const (
	// sharedTrust is how many requests of its own it takes until the shares of a model
	// weigh as much as the shares of all models.
	sharedTrust = 30
	shareKeep   = 0.995
	// weightRate is the step of the online EM for the shared weights.
	weightRate = 0.003
)

// mixture combines the components. Its weights are learned online by expectation
// maximisation on what was asked for (Cappé and Moulines, JRSS B 2009): there is
// nothing to tune, and as they sum to one, the mixture stays calibrated in requests
// a second if the components are.
type mixture struct {
	weights [components]float64
}

func newMixture() mixture {
	var m mixture
	for k := range m.weights {
		m.weights[k] = 1 / float64(components)
	}
	return m
}

// weight returns the weight of component k for a model with those shares.
func (m *mixture) weight(s *shares, k int) float64 {
	return (sharedTrust*m.weights[k] + float64(s.count[k])) / (sharedTrust + float64(s.total))
}

// intensity returns the mixture of the rates.
func (m *mixture) intensity(s *shares, r *rates) float64 {
	sum := 0.0
	for k := range r {
		sum += (sharedTrust*m.weights[k] + float64(s.count[k])) * r[k]
	}
	return sum / (sharedTrust + float64(s.total))
}

// learn takes one step of EM on a request for the model with those shares and rates.
func (m *mixture) learn(s *shares, r *rates) {
	sum := m.intensity(s, r)
	if !(sum > 0) || math.IsInf(sum, 0) {
		return
	}
	var p [components]float64
	for k := range p {
		p[k] = m.weight(s, k) * r[k] / sum
	}
	s.total = 0
	for k := range p {
		m.weights[k] += weightRate * (p[k] - m.weights[k])
		s.count[k] = shareKeep*s.count[k] + float32(p[k])
		s.total += s.count[k]
	}
}

// The features of a model at a moment, from which the logit tells how much
// likelier than others it is to be asked for next.
const (
	featMixture = 0                  // log of the intensity of the mixture
	featRates   = 1                  // logs of the decayed rates
	featAge     = featRates + scales // log of the time since the last access
	featCount   = featAge + 1        // log of the number of accesses
	featHazard  = featCount + 1      // log of the hazard of its own gaps
	featSame    = featHazard + 1     // it is the last model
	featNever   = featSame + 1       // it was never asked for
	featOverdue = featNever + 1      // log of that time over what is usual for it
	featOdd     = featOverdue + 1    // how far that is from usual, either way
	features    = featOdd + 1
)

type feature [features]float64

// describe fills in the features of a model at t. r are its rates by component, and
// lambda their mixture. The constants bring the features to a common scale and keep
// logarithms away from zero.
func (f *feature) describe(u *use, t float64, r *rates, lambda float64, same bool) {
	*f = feature{}
	f[featMixture] = fastLog(600*lambda + 1e-4)
	for k, span := range spans {
		f[featRates+k] = fastLog(r[k]*span + 0.02)
	}
	age := 30 * 86400.0
	if u.count > 0 {
		age = u.age(t)
	} else {
		f[featNever] = 1
	}
	f[featAge] = 0.3 * fastLog(age+1)
	f[featCount] = 0.3 * fastLog(float64(u.count)+1)
	f[featHazard] = 0.2 * fastLog(600*r[byGaps]+0.01)
	if same {
		f[featSame] = 1
	}
	if u.count > 1 {
		f[featOverdue] = 0.3 * (fastLog(age+1) - float64(u.gaps.usual))
		f[featOdd] = f[featOverdue] * f[featOverdue]
	}
}

// logit is a conditional logit over which model is asked for next (McFadden
// 1974): the odds of a model are exp(theta·features). It starts as the mixture
// and learns by gradient ascent on the likelihood of the order in which models
// were asked for (Plackett 1975), with the steps of AdaGrad (Duchi and others,
// JMLR 2011), which need no tuning by traffic.
type logit struct {
	theta, sum feature
}

const (
	logitStep = 0.05
	biasStep  = 0.05
	// maxTheta bounds a weight, maxScore a score. Real traffic reaches neither.
	maxTheta = 20
	maxScore = 200
)

func newLogit() logit {
	var l logit
	l.theta[featMixture] = 1
	return l
}

// score returns the log of the odds of a model.
func (l *logit) score(f *feature, bias float64) float64 {
	s := bias
	for k, x := range f {
		s += l.theta[k] * x
	}
	if math.IsNaN(s) {
		return -maxScore
	}
	return min(max(s, -maxScore), maxScore)
}

// learn takes one step up the gradient.
func (l *logit) learn(g *feature) {
	for k, x := range g {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		l.sum[k] += x * x
		// The one makes the first steps small: the first requests tell little.
		t := l.theta[k] + logitStep*x/math.Sqrt(l.sum[k]+1)
		l.theta[k] = min(max(t, -maxTheta), maxTheta)
	}
}

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

// scored is what is known of one model at one moment.
type scored struct {
	odds    float64 // by the logit, unscaled
	lambda  float64 // by the mixture, in requests a second
	minutes float64 // decayed rates
	hours   float64
	age     float64 // seconds since the last access
}

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
		return s.minutes + 1e-9*recency
	case byHours:
		return s.hours + 1e-9*recency
	}
	return recency
}

// experts keep the learner safe: each estimate places models in a shadow of its
// own, and the real placement follows the one that would have waited least lately.
// Whatever the learner gets wrong, it cannot be much worse than the plain estimates
// beside it for long.
type experts struct {
	shadows   [estimates]shadow
	following estimate
}

// shadow is an account of where bytes would be if one estimate had always been
// followed. No bytes move for it.
type shadow struct {
	ram, swap []float64 // bytes by place in the sample
	cost      float64   // decayed seconds of waiting
	in        []int32   // places with bytes in memory, best first
}

const (
	// expertKeep: the last thousand requests count.
	expertKeep = 0.9993
	// expertLead is by how much another estimate must be better to be followed.
	expertLead = 0.02
	// expertMove is what moving a byte counts, as a share of the wait that it can save
	// at most: enough to prefer the quieter of two equals.
	expertMove = 0.02
)

// costs are the seconds that a byte costs in each tier, and the bytes that the
// shadows may use.
type costs struct {
	ram, swap, storage  float64
	ramBytes, swapBytes float64
}

// resize makes room for a sample of n models and forgets where they were.
func (x *experts) resize(n int) {
	for by := range x.shadows {
		s := &x.shadows[by]
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
func (x *experts) request(k int, size func(k int) float64, c *costs, rank func(by estimate, k int) float64) {
	for by := range x.shadows {
		s := &x.shadows[by]
		full := size(k)
		ram, swap := s.ram[k], s.swap[k]
		s.cost = expertKeep*s.cost + c.ram*ram + c.swap*swap + c.storage*max(full-ram-swap, 0)
		if ram < full {
			s.cost += expertMove * (c.storage - c.ram) * s.fill(int32(k), full, c, func(k int32) float64 { return rank(estimate(by), int(k)) })
		}
	}
	best := x.following
	for by := range x.shadows {
		if x.shadows[by].cost < x.shadows[best].cost {
			best = estimate(by)
		}
	}
	if x.shadows[best].cost < (1-expertLead)*x.shadows[x.following].cost {
		x.following = best
	}
}

// fill lets the bytes of the wanted model in and places everything by rank. It
// returns the bytes that moved.
func (s *shadow) fill(wanted int32, size float64, c *costs, rank func(k int32) float64) (moved float64) {
	if s.ram[wanted]+s.swap[wanted] == 0 {
		s.in = append(s.in, wanted)
	}
	slices.SortFunc(s.in, func(a, b int32) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(a, b))
	})
	ram, swap := c.ramBytes, c.swapBytes
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
