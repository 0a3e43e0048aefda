package selector

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// adaptive is the policy of PolicyAdaptive.
type adaptive struct {
	weights  Weights
	costs    Costs
	learning Learning
	stats    atomic.Pointer[stats]
	mu       sync.Mutex // of those who change stats
}

func newAdaptive(o *Options) *adaptive {
	a := &adaptive{weights: o.Weights, costs: o.Costs, learning: o.Learning}
	a.stats.Store(new(stats))
	return a
}

// learn replaces the stats by those after some news.
func (a *adaptive) learn(outcomes []tier.Outcome, moves []tier.Moved) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stats.Store(a.stats.Load().moved(moves).reported(outcomes, &a.learning))
}

// estimates apply stats to one view. They are not changed once they are made.
type estimates struct {
	*adaptive
	records []*record // by model; nil: there are none
	now     time.Time
	// inFlight is the bytes that are being read for others: loads on one device are
	// serial.
	inFlight tier.Bytes
	// Seconds per GB of loads, and until first use of a model that was not measured.
	swap, storage, latency float64
}

func newEstimates(a *adaptive, know *stats, v *tier.View) *estimates {
	e := &estimates{adaptive: a, now: v.Now, latency: a.costs.RAM.Seconds()}
	e.swap, e.storage = know.rates(&a.costs)
	for i, m := range v.Library.All() {
		if s := &v.States[i]; s.Moving && s.To > s.Tier {
			gone, _ := missing(m.Size, s)
			e.inFlight = e.inFlight.Plus(gone)
		}
	}
	if len(know.records) == 0 {
		return e
	}
	e.records = make([]*record, v.Library.Len())
	for name, r := range know.records {
		if i, ok := v.Library.Find(name); ok {
			e.records[i] = r
		}
	}
	// What was measured of some models tells about the others; the constant counts
	// like two GB of them.
	seconds, gb := e.latency*prior, float64(prior)
	for i, r := range e.records { // in order, so that the sums are always the same
		if s := r.firstUse(); s > 0 {
			seconds += s
			gb += v.Library.At(i).Size.GB()
		}
	}
	e.latency = seconds / gb
	return e
}

// record returns what was learned of the model; nil: nothing.
func (e *estimates) record(model int32) *record {
	if e.records == nil {
		return nil
	}
	return e.records[model]
}

// avoided reports whether the model keeps failing and is not to be tried yet.
func (e *estimates) avoided(model int32) bool {
	r := e.record(model)
	return r != nil && e.now.Before(r.avoidUntil)
}

// wait returns the parts of the time until the candidate can be used, in seconds.
func (e *estimates) wait(c *candidate) (queue, load, latency float64) {
	r, size := e.record(c.model), max(c.m.Size, 0)
	if gone, from := missing(size, c.state); gone > 0 {
		rate := e.storage
		if from == tier.Swap {
			rate = e.swap
		}
		load = gone.GB() * rate
		if r != nil && from == tier.Storage {
			load = r.wait.or(load)
		}
		if !c.state.Moving {
			load += e.inFlight.GB() * e.storage
		}
	}
	latency = r.firstUse()
	if latency == 0 {
		latency = size.GB() * e.latency
	}
	served := latency
	if r != nil && r.served.count > 0 {
		served = r.served.value
	}
	if ahead := int(c.state.Leases) + int(c.state.Waiters); ahead >= e.learning.Slots {
		queue = served * float64(ahead/e.learning.Slots)
	}
	return queue, load, latency
}

func (e *estimates) seconds(c *candidate) float64 {
	queue, load, latency := e.wait(c)
	return queue + load + latency
}

func (e *estimates) expected(c *candidate) time.Duration {
	const longest = math.MaxInt64 / 2
	return time.Duration(min(e.seconds(c)*float64(time.Second), longest))
}

// avoidance is more than any score.
const avoidance = 1e6

func (e *estimates) score(p tier.Priority, c *candidate) float64 {
	r := e.record(c.model)
	reliable := r.reliability(e.now)
	worth := c.worth() * r.esteem() * reliable
	score := e.weights.Capability * float64(c.liked)
	switch p {
	case tier.Quality:
		score += e.weights.QualityPerGB * worth
	case tier.Speed:
		score -= e.seconds(c) / reliable
	default:
		wait := 1 + e.seconds(c)/reliable
		if e.learning.WaitWeight != 1 { // mostly spares the power
			wait = math.Pow(wait, e.learning.WaitWeight)
		}
		score += math.Log2((1 + worth) / wait)
	}
	if e.avoided(c.model) {
		score -= avoidance
	}
	return score
}

func (e *estimates) factors(p tier.Priority, c *candidate) []tier.Factor {
	queue, load, latency := e.wait(c)
	r := e.record(c.model)
	f := []tier.Factor{
		{Name: "queue seconds", Value: queue},
		{Name: "load seconds", Value: load},
		{Name: "latency seconds", Value: latency},
		{Name: "worth", Value: c.worth() * r.esteem()},
		{Name: "reliability", Value: r.reliability(e.now)},
	}
	if c.liked > 0 {
		f = append(f, tier.Factor{Name: "preferences", Value: e.weights.Capability * float64(c.liked)})
	}
	if e.avoided(c.model) {
		f = append(f, tier.Factor{Name: "avoided after failures", Value: -avoidance})
	}
	return f
}

// stats is what was learned so far. It and its records are not changed once they can
// be seen: each batch of news makes new ones.
type stats struct {
	records map[string]*record
	// fromSwap and fromStorage are the seconds per GB that moves took.
	fromSwap, fromStorage mean
}

// rates returns the seconds per GB that loads from swap and from storage are expected
// to take. Costs are times until first use, so a load takes what they are above that
// of ram.
func (k *stats) rates(c *Costs) (swap, storage float64) {
	return k.fromSwap.or((c.Swap - c.RAM).Seconds()), k.fromStorage.or((c.Storage - c.RAM).Seconds())
}

const (
	// halfLife is how fast outcomes are forgotten: a model that was mended is
	// trusted again after some of them.
	halfLife = 10 * time.Minute
	// maxRecords bounds what is remembered of models that come and go.
	maxRecords = 1 << 16
	// minMoved is how many bytes a move must have read to tell a rate.
	minMoved = tier.MiB
	// prior is how many observations a constant is worth that was there before them.
	prior = 2
	// trust is how many good outcomes a model is given in advance.
	trust = 5
)

// reported returns the stats after those outcomes; k itself if there are none.
func (k *stats) reported(outcomes []tier.Outcome, l *Learning) *stats {
	if len(outcomes) == 0 {
		return k
	}
	n := *k
	n.records = make(map[string]*record, len(k.records)+len(outcomes))
	maps.Copy(n.records, k.records)
	for i := range outcomes {
		o := &outcomes[i]
		n.records[o.Model] = n.records[o.Model].with(o, l)
	}
	if len(n.records) > maxRecords {
		names := n.newest()
		for _, name := range names[maxRecords*7/8:] {
			delete(n.records, name)
		}
	}
	return &n
}

// newest returns the names of the records, those heard of last first.
func (k *stats) newest() []string {
	return slices.SortedFunc(maps.Keys(k.records), func(a, b string) int {
		return cmp.Or(k.records[b].heard.Compare(k.records[a].heard), cmp.Compare(a, b))
	})
}

// moved returns the stats after those moves; k itself if they tell nothing.
func (k *stats) moved(moves []tier.Moved) *stats {
	n := *k
	for i := range moves {
		mv := &moves[i]
		if mv.Move.To <= mv.Move.From || mv.Bytes < minMoved || mv.Took <= 0 {
			continue
		}
		rate := mv.Took.Seconds() / mv.Bytes.GB()
		if mv.Move.From == tier.Storage {
			n.fromStorage.add(rate)
		} else {
			n.fromSwap.add(rate)
		}
	}
	if n.fromStorage == k.fromStorage && n.fromSwap == k.fromSwap {
		return k
	}
	return &n
}

// Learned is what the adaptive policy has learned, for an operator.
type Learned struct {
	// Seconds per GB that a load is expected to take.
	SwapSecondsPerGB    float64 `json:"swap_seconds_per_gb"`
	StorageSecondsPerGB float64 `json:"storage_seconds_per_gb"`
	// Known counts the models that something is known of; Models are the last hundred
	// that were heard of.
	Known  int            `json:"known"`
	Models []LearnedModel `json:"models"`
}

// LearnedModel is what the adaptive policy has learned of one model.
type LearnedModel struct {
	Model string    `json:"model"`
	Heard time.Time `json:"heard"`
	// Reliability is the share of good outcomes when the model was last heard of, Esteem
	// the factor that callers' scores make of its worth.
	Reliability float64 `json:"reliability"`
	Esteem      float64 `json:"esteem"`
	// Failures in a row. AvoidUntil is when a model that keeps failing is tried again;
	// zero: it is not avoided.
	Failures   int       `json:"failures"`
	AvoidUntil time.Time `json:"avoid_until,omitzero"`
	// FirstUseSeconds is the time from a lease to the first use, WaitSeconds that from
	// the request to the lease if it had to wait; 0: not measured.
	FirstUseSeconds float64 `json:"first_use_seconds"`
	WaitSeconds     float64 `json:"wait_seconds"`
}

func (k *stats) learned(c *Costs) Learned {
	const maxModels = 100
	names := k.newest()
	l := Learned{Known: len(names), Models: []LearnedModel{}}
	l.SwapSecondsPerGB, l.StorageSecondsPerGB = k.rates(c)
	for _, name := range names[:min(len(names), maxModels)] {
		r := k.records[name]
		l.Models = append(l.Models, LearnedModel{
			Model: name, Heard: r.heard, Reliability: r.reliability(r.heard), Esteem: r.esteem(),
			Failures: r.failures, AvoidUntil: r.avoidUntil, FirstUseSeconds: r.firstUse(), WaitSeconds: r.wait.value,
		})
	}
	return l
}

// record is what was learned of one model; nil: nothing.
type record struct {
	good, bad float64 // outcomes, with a half-life
	failures  int     // in a row
	heard     time.Time
	// avoidUntil is when a model that keeps failing is tried again. Zero: it is not
	// avoided.
	avoidUntil            time.Time
	wait, latency, served mean // seconds
	score                 mean // callers' judgement, 0 to 1
}

// with returns the record after one more outcome.
func (r *record) with(o *tier.Outcome, l *Learning) *record {
	n := record{}
	if r != nil {
		n = *r
		if age := o.At.Sub(r.heard); age > 0 {
			fade := math.Exp2(-float64(age) / float64(halfLife))
			n.good *= fade
			n.bad *= fade
		}
	}
	if o.At.After(n.heard) {
		n.heard = o.At
	}
	switch {
	case errors.Is(o.Err, context.Canceled):
		return &n
	case o.Err != nil:
		n.bad++
		n.failures++
		if over := n.failures - l.Patience; over >= 0 {
			n.avoidUntil = o.At.Add(l.CoolOff << min(over, 5))
		}
		return &n
	}
	n.good++
	n.failures, n.avoidUntil = 0, time.Time{}
	n.wait.addTime(o.Waited)
	n.latency.addTime(o.Latency)
	n.served.addTime(o.Served)
	if o.Scored {
		n.score.add(min(max(o.Score, 0), 1))
	}
	return &n
}

// reliability is the share of requests that the model is expected to serve well
// at that moment.
func (r *record) reliability(now time.Time) float64 {
	if r == nil {
		return 1
	}
	weight := math.Exp2(-float64(max(now.Sub(r.heard), 0) / halfLife)) // by whole half-lives
	return (r.good*weight + trust) / ((r.good+r.bad)*weight + trust)
}

// esteem is what callers' scores make of the model's quality: 0.5 to 1.5, and
// near 1 while there are few.
func (r *record) esteem() float64 {
	if r == nil {
		return 1
	}
	n := float64(r.score.count)
	return 1 + (r.score.value-0.5)*n/(n+trust)
}

// firstUse is the measured time from a lease to the first use in seconds, or the
// whole service time if callers do not report it. 0: unknown.
func (r *record) firstUse() float64 {
	switch {
	case r == nil:
		return 0
	case r.latency.count > 0:
		return r.latency.value
	}
	return r.served.value
}

// mean follows a quantity: the plain mean of the first ten values, then one that
// forgets, so that it follows a machine whose load changes.
type mean struct {
	value float64
	count int
}

func (m *mean) add(x float64) {
	const memory = 10
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return
	}
	m.count = min(m.count+1, memory)
	m.value += (x - m.value) / float64(m.count)
}

// addTime adds a time in seconds, if there is one.
func (m *mean) addTime(d time.Duration) {
	if d > 0 {
		m.add(d.Seconds())
	}
}

// or returns the mean, drawn towards what was believed before as long as there
// are few values.
func (m mean) or(before float64) float64 {
	n := float64(m.count)
	return (before*prior + m.value*n) / (prior + n)
}
