package optimizer

import (
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// estimator learns from the accesses how soon each model is asked for again.
type estimator struct {
	without Part
	start   time.Time // the origin of the clock; zero before the first moment
	now     float64   // the latest moment, in seconds since start

	uses  map[string]*use // by the model's name
	last  *use            // of the model that was asked for last; nil: none
	count float64

	mixture mixture
	logit   logit
	// surprise is the decayed sum of the bits by which each next model was a
	// surprise, over asked, the decayed number of requests.
	surprise, asked float64

	library *tier.Library
	byIndex []*use // by the library's index
	// sample is the models that are learned on: all of them in a small library, each
	// n-th of a large one. scored is their odds by the logit at scoredAt, and scale
	// turns odds into requests a second.
	sample  []*use
	scored  []float64
	phi     []feature // scratch
	lessons [len(lessonEvery)]lesson
	odds    []float64 // scratch
	scale   float64
	// total is the requests a second that are expected of all models together.
	total float64
	// scoredAt is the moment of the last pass, negative if accesses came since.
	scoredAt float64
}

// lesson is the sample as it was some requests ago, from which the logit learns
// in what order models were asked for since.
type lesson struct {
	phi  []feature // empty: the sample is new
	open []bool    // the model was not asked for since
	age  int       // requests since
}

// lessonEvery is after how many requests each lesson starts again: one teaches
// what comes next, the other what comes soon.
var lessonEvery = [...]int{1, 8}

const (
	// maxSample bounds the work of learning from one access.
	maxSample = 256
	// surpriseKeep is what an access leaves of the sums before it.
	surpriseKeep = 0.999
	// youth is how many quiet seconds a fresh history is taken to begin with, so that
	// the first accesses do not make an enormous rate.
	youth = 600
)

func newEstimator(without Part) estimator {
	return estimator{
		without: without,
		uses:    map[string]*use{}, mixture: newMixture(), logit: newLogit(), scoredAt: -1,
	}
}

// seconds returns t on the clock of the estimator, which never runs back: if the
// clock of the caller was set back, no time has passed.
func (e *estimator) seconds(t time.Time) float64 {
	if e.start.IsZero() {
		e.start = t
	}
	s := t.Sub(e.start).Seconds()
	if s < e.now {
		e.start = t.Add(-time.Duration(e.now * float64(time.Second)))
		s = e.now
	}
	e.now = s
	return s
}

// use returns what is remembered of a model.
func (e *estimator) use(name string) *use {
	u, ok := e.uses[name]
	if !ok {
		u = &use{slot: -1}
		e.uses[name] = u
		e.library = nil
	}
	return u
}

// know makes lib the library that the sample is drawn from. Models that are no
// longer in it are forgotten; gone is told of each.
func (e *estimator) know(lib *tier.Library, gone func(*use)) {
	if e.library == lib {
		return
	}
	for name, u := range e.uses {
		if _, known := lib.Find(name); known {
			continue
		}
		delete(e.uses, name)
		gone(u)
		if e.last == u {
			e.last = nil
		}
	}
	e.byIndex = slices.Grow(e.byIndex[:0], lib.Len())
	for _, m := range lib.All() {
		e.byIndex = append(e.byIndex, e.use(m.Name))
	}
	e.library = lib
	e.draw()
}

// draw picks the models that are learned on.
func (e *estimator) draw() {
	e.sample = e.sample[:0]
	each := len(e.byIndex)/(maxSample+1) + 1
	for i, u := range e.byIndex {
		if u.slot = -1; i%each == 0 {
			u.slot = len(e.sample)
			e.sample = append(e.sample, u)
		}
	}
	e.scored = slices.Grow(e.scored[:0], len(e.sample))[:len(e.sample)]
	e.phi = slices.Grow(e.phi[:0], len(e.sample))[:len(e.sample)]
	e.scoredAt, e.lessons = -1, [len(lessonEvery)]lesson{}
}

// models is the number of models that the prior is spread over.
func (e *estimator) models() int { return max(len(e.uses), 1) }

// rate fills in the rates of a model by component at t.
func (e *estimator) rate(u *use, t float64, r *rates) {
	*r = rates{byPrior: (e.count + 1) / ((t + youth) * float64(e.models()))}
	if u.Count == 0 {
		return
	}
	age := u.age(t)
	for k, span := range spans {
		r[k] = u.Rates[k] * fade(age/span)
	}
	r[byGaps] = u.Gaps.hazard(age)
}

// score describes one model at t, and returns its odds by the logit and its
// intensity by the mixture.
func (e *estimator) score(u *use, t float64, f *feature) (odds, lambda float64) {
	var r rates
	e.rate(u, t, &r)
	lambda = e.mixture.intensity(&r)
	if e.without&Logit != 0 {
		return lambda, lambda
	}
	f.describe(u, t, &r, lambda, u == e.last)
	trust := e.count / (e.count + logitPrior)
	return math.Exp(trust*e.logit.score(f) + (1-trust)*f[featMixture]), lambda
}

// survey scores every model of the sample at t.
func (e *estimator) survey(t float64) {
	if e.scoredAt == t {
		return
	}
	odds, lambda := 0.0, 0.0
	for k, u := range e.sample {
		x, y := e.score(u, t, &e.phi[k])
		e.scored[k] = x
		odds += x
		lambda += y
	}
	e.scoredAt, e.scale = t, 0
	if n := len(e.sample); n > 0 {
		e.total = lambda * float64(e.models()) / float64(n)
	}
	if odds > 0 && !math.IsInf(odds, 0) {
		e.scale = lambda / odds
	}
}

// intensity returns the requests a second that are expected for a model at t.
func (e *estimator) intensity(u *use, t float64) float64 {
	if u.slot >= 0 && e.scoredAt == t {
		return e.scored[u.slot] * e.scale
	}
	var f feature
	odds, _ := e.score(u, t, &f)
	return odds * e.scale
}

// access learns from one request for a model at t and notes it. If the model is in
// the sample, the sample is scored as of ahead seconds later.
func (e *estimator) access(u *use, t, ahead float64) {
	if u.slot >= 0 {
		for i := range e.lessons {
			e.learn(&e.lessons[i], u.slot, i == 0)
		}
	}
	e.add(u, t)
	if u.slot >= 0 {
		e.survey(t + ahead)
		for i, every := range lessonEvery {
			e.lessons[i].begin(e.phi, every)
		}
	}
}

// add counts one request for a model at t, and teaches the mixture.
func (e *estimator) add(u *use, t float64) {
	var r rates
	e.rate(u, t, &r)
	e.mixture.learn(&r)
	u.access(t, e.without&Interarrival == 0)
	e.last = u
	e.count++
	e.scoredAt = -1
}

// note takes in one request without teaching the logit: the lessons that were begun
// before it end, as they would miss it.
func (e *estimator) note(u *use, t float64) {
	for i := range e.lessons {
		e.lessons[i].phi = e.lessons[i].phi[:0]
	}
	e.add(u, t)
}

// begin starts the lesson again if its time is over.
func (n *lesson) begin(phi []feature, every int) {
	if n.age++; len(n.phi) > 0 && n.age < every {
		return
	}
	n.age = 0
	n.phi = append(n.phi[:0], phi...)
	n.open = slices.Grow(n.open[:0], len(phi))[:len(phi)]
	for i := range n.open {
		n.open[i] = true
	}
}

// learn teaches the logit that, of the models of the sample that were not asked for
// since the lesson began, the one at k is asked for now. next: this is the first
// request since then, whose surprise counts.
func (e *estimator) learn(n *lesson, k int, next bool) {
	if len(n.phi) == 0 || !n.open[k] {
		return
	}
	sum := 0.0
	e.odds = slices.Grow(e.odds[:0], len(n.phi))[:len(n.phi)]
	for i := range n.phi {
		e.odds[i] = 0
		if n.open[i] {
			e.odds[i] = math.Exp(e.logit.score(&n.phi[i]))
			sum += e.odds[i]
		}
	}
	if !(sum > 0) || math.IsInf(sum, 0) {
		e.logit = newLogit()
		return
	}
	g := n.phi[k]
	for i, odds := range e.odds {
		if odds == 0 {
			continue
		}
		p := odds / sum
		for j, x := range n.phi[i] {
			g[j] -= p * x
		}
	}
	e.logit.learn(&g)
	n.open[k] = false
	if next {
		e.surprise = surpriseKeep*e.surprise - math.Log2(max(e.odds[k]/sum, 1e-12))
		e.asked = surpriseKeep*e.asked + 1
	}
}

// bits is the mean surprise of the last requests.
func (e *estimator) bits() float64 {
	if e.asked == 0 {
		return 0
	}
	return e.surprise / e.asked
}

// rates are the intensities of one model by component of the mixture, in requests
// a second: its decayed rates, the hazard of its own gaps, and a uniform prior that
// covers models that were never seen.
type rates [components]float64

const (
	byGaps     = scales
	byPrior    = scales + 1
	components = scales + 2
)

// weightRate is the step of the online EM.
const weightRate = 0.003

// mixture combines the components. Its weights are learned online by expectation
// maximisation on what was asked for (Cappé and Moulines, JRSS B 2009): there is
// nothing to tune, and as they sum to one, the mixture stays calibrated in requests
// a second if the components are.
type mixture struct {
	Weights [components]float64
}

func newMixture() mixture {
	var m mixture
	for k := range m.Weights {
		m.Weights[k] = 1 / float64(components)
	}
	return m
}

// intensity returns the mixture of the rates.
func (m *mixture) intensity(r *rates) (sum float64) {
	for k := range r {
		sum += m.Weights[k] * r[k]
	}
	return sum
}

// learn takes one step of EM on a request for the model with those rates.
func (m *mixture) learn(r *rates) {
	sum := m.intensity(r)
	if !(sum > 0) || math.IsInf(sum, 0) {
		return
	}
	for k, w := range m.Weights {
		m.Weights[k] += weightRate * (w*r[k]/sum - w)
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
	if u.Count > 0 {
		age = u.age(t)
	} else {
		f[featNever] = 1
	}
	f[featAge] = 0.3 * fastLog(age+1)
	f[featCount] = 0.3 * fastLog(float64(u.Count)+1)
	f[featHazard] = 0.2 * fastLog(600*r[byGaps]+0.01)
	if same {
		f[featSame] = 1
	}
	if u.Gaps.Count > 0 {
		f[featOverdue] = 0.3 * (fastLog(age+1) - float64(u.Gaps.Usual))
		f[featOdd] = f[featOverdue] * f[featOverdue]
	}
}

// logit is a conditional logit over which model is asked for next (McFadden
// 1974): the odds of a model are exp(Theta·features). It starts as the mixture
// and learns by gradient ascent on the likelihood of the order in which models
// were asked for (Plackett 1975), with the steps of AdaGrad (Duchi and others,
// JMLR 2011), which need no tuning by traffic.
type logit struct {
	Theta, Sum feature
}

const (
	logitStep = 0.05
	// logitPrior is how many requests it takes until the logit counts as much as the
	// mixture: what it learns of the first few holds for them alone.
	logitPrior = 100
	// maxTheta bounds a weight, maxScore a score. Real traffic reaches neither.
	maxTheta = 20
	maxScore = 200
)

func newLogit() logit {
	var l logit
	l.Theta[featMixture] = 1
	return l
}

// score returns the log of the odds of a model.
func (l *logit) score(f *feature) (s float64) {
	for k, x := range f {
		s += l.Theta[k] * x
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
		l.Sum[k] += x * x
		// The one makes the first steps small: the first requests tell little.
		t := l.Theta[k] + logitStep*x/math.Sqrt(l.Sum[k]+1)
		l.Theta[k] = min(max(t, -maxTheta), maxTheta)
	}
}
