package optimizer

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Part is a part of a Learned placement that can be left out.
type Part uint8

const (
	// Interarrival: the histogram of the gaps between the requests of each model.
	Interarrival Part = 1 << iota
	// Logit: what ranks models by features; without it the mixture of rates does.
	Logit
	// Prefetch: moves of models that were neither asked for nor announced.
	Prefetch
)

// Options of a Learned placement. The zero value is that of New.
type Options struct {
	// Without are parts that are left out, to measure what they bring.
	Without Part
}

// Learned is the default placement. It estimates how soon each model is asked
// for again, and gives memory to the bytes that save the most waiting. The zero Learned
// is that of New.
//
// Its methods may be called from any goroutine. They wait for each other, except
// for Insight and PartStatus, which return what was known after the last call of
// another method.
type Learned struct {
	mu      sync.Mutex
	learner learner // guarded by mu
	insight atomic.Pointer[Insight]
}

var (
	_ tier.Placement    = (*Learned)(nil)
	_ tier.Learner      = (*Learned)(nil)
	_ tier.Hinter       = (*Learned)(nil)
	_ tier.Valuer       = (*Learned)(nil)
	_ tier.Expecter     = (*Learned)(nil)
	_ tier.PartStatuser = (*Learned)(nil)
)

// New returns the default placement.
func New() *Learned { return NewLearned(Options{}) }

// NewLearned returns a placement with those options.
func NewLearned(o Options) *Learned {
	l := &Learned{learner: newLearner(o)}
	l.publish()
	return l
}

// publish makes what is known by now the Insight. mu is held.
func (l *Learned) publish() { l.insight.Store(l.learner.insight()) }

// lock also makes a zero Learned that of New.
func (l *Learned) lock() {
	l.mu.Lock()
	if l.learner.est.uses == nil {
		l.learner = newLearner(Options{})
	}
}

func (l *Learned) unlock() {
	l.publish()
	l.mu.Unlock()
}

// Plan implements tier.Placement.
func (l *Learned) Plan(v *tier.View, need *tier.Need) tier.Plan {
	l.lock()
	defer l.unlock()
	return l.learner.plan(v, need)
}

// Worth implements tier.Valuer: the seconds of waiting that a byte is expected to
// save in a second of time.
func (l *Learned) Worth(v *tier.View) []float64 {
	l.lock()
	defer l.unlock()
	return l.learner.worth(v)
}

// Accessed implements tier.Learner. All uses count for the rates; in what order models
// are asked for is learned from the last 32 of them.
func (l *Learned) Accessed(uses []tier.Access) {
	l.lock()
	defer l.unlock()
	l.learner.accessed(uses)
}

// Moved implements tier.Learner.
func (l *Learned) Moved(moves []tier.Moved) {
	l.lock()
	defer l.unlock()
	for i := range moves {
		l.learner.moved(&moves[i])
	}
}

// Hint implements tier.Hinter. A probability outside (0, 1] and NaN mean 1, and
// within ≤ 0 means a minute. A hint replaces the one before for the same model; a
// model that is not known is ignored.
func (l *Learned) Hint(model string, probability float64, within time.Duration, now time.Time) {
	l.lock()
	defer l.unlock()
	l.learner.hint(model, probability, within, now)
}

// Predict returns how long moving bytes of a model between two tiers will take,
// and the bounds within which nine in ten such moves should stay. A move takes a
// fixed time, such as the start of an engine, and a time for each byte: it learns the
// two apart from moves of different sizes, from those whose bytes are cached, and from
// movers that report when all bytes are read. It knows moves of the model itself and
// of others of its mover; before any, it goes by recorded figures.
func (l *Learned) Predict(model *tier.Model, from, to tier.Tier, bytes tier.Bytes) (took, lo, hi time.Duration) {
	l.lock()
	defer l.mu.Unlock()
	own := l.learner.pacesOf(l.learner.est.uses[model.Name], model)
	return l.learner.device(model.Mover).predict(own, wayOf(from, to), bytes)
}

// Usage is how one model is used, at the moment it was asked about.
type Usage struct {
	// Model is its name.
	Model string
	// Frequency is the expected requests per hour.
	Frequency float64
	// Trend compares the rate of the last ten minutes with that of the last six
	// hours: 1 if nothing changes, above 1 if the model is asked for more than it
	// was, down to 0 if it is asked for no more. 1 before the first access.
	Trend float64
	// Accesses since the model was first seen.
	Accesses uint32
	// LastUse is when it was last asked for; zero: never.
	LastUse time.Time
}

// Usage returns how a model is used, as of now. It reports false for a model that
// is not known.
func (l *Learned) Usage(model string, now time.Time) (Usage, bool) {
	l.lock()
	defer l.mu.Unlock()
	return l.learner.est.usage(model, now)
}

// Insight is what a Learned placement knows of its traffic and of itself.
type Insight struct {
	// Requests that it has seen.
	Requests uint64 `json:"requests"`
	// Surprise is the bits by which the next model was a surprise, averaged over the
	// last thousand requests: 0 if it can be told in advance, the logarithm to base 2
	// of the number of models if nothing can. It is the negative log-likelihood of the
	// next request, the objective that is learned.
	Surprise float64 `json:"surprise_bits"`
	// Hints is the share of the announcements that came true.
	Hints float64 `json:"hints_kept"`
}

// Insight returns what is known by now, without waiting for a Plan that runs.
func (l *Learned) Insight() Insight {
	if known := l.insight.Load(); known != nil {
		return *known
	}
	return Insight{}
}

// PartStatus implements tier.PartStatuser with an Insight.
func (l *Learned) PartStatus() any { return l.Insight() }

// learner is the state of a Learned placement.
type learner struct {
	options Options
	est     estimator
	hints   hints
	devices map[string]*paces // of all models, by mover

	planner planner
}

func newLearner(o Options) learner {
	return learner{options: o, est: newEstimator(o.Without), devices: make(map[string]*paces)}
}

// device returns what was measured of all models of a mover.
func (l *learner) device(mover string) *paces {
	d := l.devices[mover]
	if d == nil {
		d = new(paces)
		l.devices[mover] = d
	}
	return d
}

// pacesOf returns what was measured of the model; nil: nothing by the mover that it has.
func (l *learner) pacesOf(u *use, m *tier.Model) *paces {
	if u == nil || u.mover != m.Mover {
		return nil
	}
	return &u.Paces
}

// lead is how far ahead in seconds a plan looks: what it moves is of use only
// when it has arrived, and by then a burst is over more often than not.
const lead = 5

// homely is the least rate in requests a second that a model is taken to have in
// its home tier and below: once an hour.
const homely = 1.0 / 3600

// maxLessons bounds the uses of one call that teach the logit, at 70 µs each with the
// largest sample: more come only with dozens of requests a second, whose order the
// logit has seen enough of, and a plan waits until they are learned.
const maxLessons = 32

func (l *learner) accessed(uses []tier.Access) {
	early := max(len(uses)-maxLessons, 0)
	for i, a := range uses {
		u, t := l.est.use(a.Model), l.est.seconds(a.At)
		l.hints.request(u, t)
		if i < early {
			l.est.note(u, t)
		} else {
			l.est.access(u, t, lead)
		}
	}
}

func (l *learner) hint(model string, probability float64, within time.Duration, now time.Time) {
	u, known := l.est.uses[model]
	switch {
	case known:
	case l.est.library == nil && len(l.hints.open) < maxHints:
		u = l.est.use(model) // the next view tells whether there is such a model
	default:
		return
	}
	if !(probability > 0 && probability <= 1) {
		probability = 1
	}
	if within <= 0 {
		within = defaultWithin
	}
	l.hints.give(hint{use: u, p: probability, given: l.est.seconds(now), within: within.Seconds(), fresh: within < maxFresh})
}

func (l *learner) moved(m *tier.Moved) {
	u := l.est.use(m.Move.Model.Name) // may be new: an ordered move of a model never asked for
	if mover := m.Move.Model.Mover; u.mover != mover {
		u.mover, u.Paces = mover, paces{}
	}
	if from, to := m.Move.From, m.Move.To; from != to && !u.mixed {
		l.device(u.mover).note(&u.Paces, wayOf(from, to), m)
	}
}

// observe takes in what a view says of the library and the time.
func (l *learner) observe(v *tier.View) (now float64) {
	l.est.know(v.Library, l.hints.forget)
	now = l.est.seconds(v.Now)
	l.hints.expire(now)
	return now
}

// save returns the seconds of waiting that a byte of a model of that size saves at a
// request in ram instead of swap, and in swap instead of storage. cached is the share of
// what it has below ram that is in the page cache.
func (l *learner) save(device, own *paces, size tier.Bytes, cached float64) (hot, warm float64) {
	// What is in the page cache is not read. A little is left, so that such bytes still
	// have an order.
	read := max(1-cached, 1.0/20)
	each := func(w way) float64 {
		bytes := float64(max(size, 1))
		return device.expect(own, w).at(bytes*read) / bytes * 1e-9
	}
	hot = each(wayPromote)
	whole := each(wayLoad)
	// If a load is no slower than a promotion, it was measured wrongly or swap is of no
	// use. Bytes in swap are then worth a little, so that they still have an order.
	return hot, max(whole-hot, whole/20)
}

func (l *learner) plan(v *tier.View, need *tier.Need) tier.Plan {
	now := l.observe(v)
	if need == nil {
		return l.rebalance(v, now)
	}
	if l.est.scale == 0 { // nothing was asked for before
		l.est.survey(now + lead)
	}
	plan := l.planner.serve(v, need, func(it *item) { l.value(it, now) })
	if plan.Err == nil {
		l.mark()
	}
	return plan
}

func (l *learner) worth(v *tier.View) []float64 {
	now := l.observe(v)
	if l.est.scale == 0 {
		l.est.survey(now + lead)
	}
	worth := make([]float64, len(v.States))
	for i := range worth {
		it := item{index: int32(i), model: v.Library.At(i)}
		l.value(&it, now)
		worth[i] = it.hot
	}
	return worth
}

// value fills in what the bytes of an item are worth now.
func (l *learner) value(it *item, now float64) {
	u := l.est.byIndex[it.index]
	it.rate, it.hinted = l.intensity(u, now+lead)
	it.rate = finite(it.rate)
	it.saveHot, it.saveWarm = l.save(l.device(it.model.Mover), l.pacesOf(u, it.model), it.model.Size, it.cached)
	hot, warm := it.rate, it.rate
	if it.model.Home >= tier.Swap {
		warm = max(warm, homely)
	}
	if it.model.Home == tier.RAM {
		hot = max(hot, homely)
	}
	it.hot, it.warm = hot*it.saveHot, warm*it.saveWarm
}

// intensity returns the requests a second that are expected for a model at t, and
// whether hints contribute to it.
func (l *learner) intensity(u *use, t float64) (rate float64, hinted bool) {
	announced := l.hints.intensity(u, l.est.now, l.est.total)
	return l.est.intensity(u, t) + announced, announced > 0
}

// mark notes which hops read from more than one tier, so that their time tells the
// pace of neither.
func (l *learner) mark() {
	for _, h := range l.planner.hops {
		it := &l.planner.items[h.item]
		l.est.byIndex[it.index].mixed = h.from.tier == tier.Swap && h.from.held() < it.model.Size
	}
}

func (l *learner) insight() *Insight {
	return &Insight{
		Requests: uint64(l.est.count), Surprise: finite(l.est.bits()), Hints: l.hints.trust(&hintRecord{}),
	}
}
