package optimizer

import (
	"math"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Options of a Learned placement. The zero value is that of New.
type Options struct {
	// Pace is what moves are expected to take before any was measured.
	Pace Pace
	// NoPrefetch: nothing is moved that nobody asked for and nobody announced.
	NoPrefetch bool
}

// Learned is the default placement. It estimates how soon each model is asked
// for again, and gives memory to the bytes that save the most waiting. Its
// methods are called from one goroutine at a time, as tier.Placement says.
type Learned struct {
	options Options
	est     estimator
	hints   hints
	guard   guard
	device  device
	yield   yield
	// displaced counts what requests pushed out of ram and out of memory.
	displaced, dropped moving

	planner planner
	terms   terms
	sampled *tier.Library
	// offered are the steps of the last plan that nobody waited for.
	offered []offer
}

// offer is a step that nobody waited for, and what it would change.
type offer struct {
	move     tier.Move
	id       int32
	seconds  float64 // of waiting that it saves at the model's next request
	expected float64 // of which are expected to come true
}

var (
	_ tier.Placement = (*Learned)(nil)
	_ tier.Learner   = (*Learned)(nil)
	_ tier.Hinter    = (*Learned)(nil)
	_ tier.Valuer    = (*Learned)(nil)
)

// New returns the default placement.
func New() *Learned { return NewLearned(Options{}) }

// NewLearned returns a placement with those options.
func NewLearned(o Options) *Learned {
	o.Pace = o.Pace.orElse(recordedPace)
	return &Learned{options: o, est: newEstimator(), device: device{start: o.Pace}}
}

// lead is how far ahead in seconds a plan looks: what it moves is of use only
// when it has arrived, and by then a burst is over more often than not.
const lead = 5

// homely is the rate in requests a second that a model is taken to have at least
// in its home tier and below: once an hour.
const homely = 1.0 / 3600

// Accessed implements tier.Learner.
func (l *Learned) Accessed(uses []tier.Access) {
	for _, a := range uses {
		l.access(a.Model, a.At)
	}
}

func (l *Learned) access(model string, at time.Time) {
	id, t := l.est.id(model), l.est.seconds(at)
	l.hints.request(id, t, l.word)
	l.est.access(id, t, lead)
	u := l.est.uses[id]
	l.yield.brought += float64(u.owed)
	u.owed = 0
	k, ok := l.est.inside[id]
	if !ok || l.est.library == nil || l.sampled != l.est.library {
		return
	}
	l.guard.request(int(k), l.size, &l.terms, func(by estimate, k int) float64 {
		return l.est.scored[k].intensity(by, 1)
	})
}

// size returns the bytes of the model at place k of the sample.
func (l *Learned) size(k int) float64 {
	return float64(l.sampled.At(int(l.est.sampleIndex[k])).Size)
}

// word returns the record of the hints for a model, nil where it is gone.
func (l *Learned) word(id int32) *word {
	if u := l.est.uses[id]; u != nil {
		return &u.word
	}
	return nil
}

// Hint implements tier.Hinter. A probability outside (0, 1] and NaN mean 1, and
// within ≤ 0 means a minute. A hint replaces the one before for the same model; a
// model that is not known is ignored.
func (l *Learned) Hint(model string, probability float64, within time.Duration, now time.Time) {
	id, known := l.est.ids[model]
	if !known {
		return
	}
	if !(probability > 0 && probability <= 1) {
		probability = 1
	}
	if within <= 0 {
		within = defaultWithin
	}
	l.hints.give(hint{id: id, p: probability, given: l.est.seconds(now), within: within.Seconds(), fresh: true}, l.word)
}

// Moved implements tier.Learner.
func (l *Learned) Moved(moves []tier.Moved) {
	for i := range moves {
		m := &moves[i]
		id := l.est.id(m.Move.Model.Name) // of a model that was only ever ordered about, too
		u := l.est.uses[id]
		if from, to := m.Move.From, m.Move.To; from != to && !u.mixed {
			l.device.note(&u.paces, wayOf(from, to), m.Bytes, m.Took)
		}
		for k := range l.offered {
			o := &l.offered[k]
			if o.id != id || !sameMove(&o.move, &m.Move) {
				continue
			}
			u.owed += float32(max(o.seconds, 0))
			l.yield.expected += o.expected
			l.offered = append(l.offered[:k], l.offered[k+1:]...)
			break
		}
	}
}

// Predict returns how long moving bytes of a model between two tiers will take,
// and the bounds within which nine in ten such moves should stay. It knows moves
// of the model itself, moves of others, and before any, Options.Pace.
func (l *Learned) Predict(model *tier.Model, from, to tier.Tier, bytes tier.Bytes) (took, lo, hi time.Duration) {
	var own *paces
	if id, known := l.est.ids[model.Name]; known {
		own = &l.est.uses[id].paces
	}
	return l.device.predict(own, wayOf(from, to), bytes)
}

// observe takes in what a view says of the library, the limits and the time.
func (l *Learned) observe(v *tier.View) float64 {
	l.est.know(v.Library)
	if l.sampled != v.Library {
		l.sampled = v.Library
		l.guard.resize(len(l.est.sample))
	}
	share := float64(len(l.est.sample)) / float64(max(v.Library.Len(), 1))
	hot, warm := l.save(nil)
	l.terms = terms{
		swap: hot, storage: hot + warm,
		ramBytes: share * float64(v.Limits.Of(tier.RAM)), swapBytes: share * float64(v.Limits.Of(tier.Swap)),
	}
	now := l.est.seconds(v.Now)
	l.hints.expire(now, l.word)
	return now
}

// save returns the seconds of waiting that a byte of a model saves at a request
// in ram instead of swap, and in swap instead of storage.
func (l *Learned) save(u *use) (hot, warm float64) {
	var own *paces
	if u != nil {
		own = &u.paces
	}
	promote, _ := l.device.pace(own, wayPromote)
	load, _ := l.device.pace(own, wayLoad)
	hot = math.Exp(promote) * 1e-9
	whole := math.Exp(load) * 1e-9
	// A load that is no slower than a promotion was measured wrongly, or swap is of
	// no use; then bytes in swap are worth a little, so that they still have an order.
	return hot, max(whole-hot, whole/20)
}

// Plan implements tier.Placement.
func (l *Learned) Plan(v *tier.View, need *tier.Need) tier.Plan {
	now := l.observe(v)
	if need == nil {
		return l.improve(v, now)
	}
	if l.est.scale == 0 { // nothing was asked for before
		l.est.survey(now + lead)
	}
	l.offered = l.offered[:0]
	plan := l.planner.serve(v, need, func(it *item) { l.value(it, l.guard.following, now) })
	if plan.Err == nil {
		l.follow(now)
	}
	return plan
}

// Worth implements tier.Valuer: the seconds of waiting that a byte is expected to
// save in a second of time.
func (l *Learned) Worth(v *tier.View) []float64 {
	now := l.observe(v)
	if l.est.scale == 0 {
		l.est.survey(now + lead)
	}
	worth := make([]float64, len(v.States))
	for i := range worth {
		it := item{index: int32(i), model: v.Library.At(i)}
		l.value(&it, l.guard.following, now)
		worth[i] = it.hot
	}
	return worth
}

// value puts on an item what its bytes are worth now.
func (l *Learned) value(it *item, by estimate, now float64) {
	u := l.est.uses[l.est.byIndex[it.index]]
	it.rate, it.hinted = l.intensity(by, l.est.byIndex[it.index], now+lead)
	it.rate = finite(it.rate)
	it.saveHot, it.saveWarm = l.save(u)
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
// whether hints have a part in it.
func (l *Learned) intensity(by estimate, id int32, t float64) (rate float64, hinted bool) {
	announced := l.hints.intensity(id, l.est.now, l.est.total, &l.est.uses[id].word)
	if k, ok := l.est.inside[id]; ok && l.est.scoredAt == t {
		return l.est.scored[k].intensity(by, l.est.scale) + announced, announced > 0
	}
	var f feature
	s := l.est.score(id, t, l.est.hourOf(t), &f)
	return s.intensity(by, l.est.scale) + announced, announced > 0
}

// follow notes what the plan on the board will change.
func (l *Learned) follow(now float64) {
	p := &l.planner
	for _, h := range p.hops {
		it := &p.items[h.item]
		u := l.est.uses[l.est.byIndex[it.index]]
		u.mixed = h.from.tier == tier.Swap && h.from.held() < it.model.Size
		was, is := it.seconds(h.from), it.seconds(h.to)
		if is >= was || it.wanted {
			continue
		}
		l.displaced.note(float64(max(h.from.ram-h.to.ram, 0)), now)
		l.dropped.note(float64(max(h.from.held()-h.to.held(), 0)), now)
		u.owed *= float32(is / was)
	}
}

func sameMove(a, b *tier.Move) bool {
	return a.From == b.From && a.To == b.To && a.Keep == b.Keep && a.Leave == b.Leave
}
