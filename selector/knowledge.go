package selector

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// knowledge is what was learned so far. It and its records are never changed once
// they can be seen: a batch of news makes a new one.
type knowledge struct {
	records map[string]*record
	// Seconds per GB that moves took, by where they came from.
	fromSwap, fromStorage mean
	// What is expected after that, in seconds per GB: of a load from swap and from
	// storage, and from the lease to the first use.
	swap, storage, latency float64
	costs                  Costs
}

// newKnowledge knows the costs only. Theirs are times until first use, so a load
// takes what they are above that of ram.
func newKnowledge(c Costs) *knowledge {
	k := &knowledge{latency: c.RAM.Seconds(), costs: c}
	k.expect()
	return k
}

func (k *knowledge) expect() {
	k.swap = k.fromSwap.or((k.costs.Swap - k.costs.RAM).Seconds())
	k.storage = k.fromStorage.or((k.costs.Storage - k.costs.RAM).Seconds())
}

// record is what was learned of one model.
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

const (
	// halfLife is how fast outcomes are forgotten: a model that was mended is
	// trusted again after some of them.
	halfLife = 10 * time.Minute
	// mostRecords bounds what is remembered of models that come and go.
	mostRecords = 1 << 16
	// leastMoved is how many bytes a move must have read to tell a rate.
	leastMoved = tier.MiB
	// prior is how many observations a constant is worth that was there before them.
	prior = 2
	// trust is how many good outcomes a model is given in advance.
	trust = 5
)

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

// or returns the mean, drawn towards what was believed before as long as there
// are few values.
func (m mean) or(before float64) float64 {
	n := float64(m.count)
	return (before*prior + m.value*n) / (prior + n)
}

// reliability is the share of requests that the model is expected to serve well
// at that moment.
func (r *record) reliability(now time.Time) float64 {
	if r == nil {
		return 1
	}
	weight := 1.0
	if r.bad > 0 {
		last, _ := r.faded(now)
		weight = math.Exp2(-float64(last.Sub(r.heard) / halfLife))
	}
	return (r.good*weight + trust) / ((r.good+r.bad)*weight + trust)
}

// faded returns the moments when outcomes last faded and will fade next. Between
// two outcomes they do so in steps of a half-life, so that a ranking holds for a
// while.
func (r *record) faded(now time.Time) (last, next time.Time) {
	steps := max(now.Sub(r.heard), 0) / halfLife
	last = r.heard.Add(steps * halfLife)
	return last, last.Add(halfLife)
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

// firstUse is the measured time from a lease to the first use in seconds; what
// stands in where callers do not report it is the whole service time. 0: unknown.
func (r *record) firstUse() float64 {
	switch {
	case r == nil:
		return 0
	case r.latency.count > 0:
		return r.latency.value
	}
	return r.served.value
}

// avoided reports whether the model is to be left alone at that moment.
func (r *record) avoided(now time.Time) bool {
	return r != nil && now.Before(r.avoidUntil)
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
	if o.Waited > 0 {
		n.wait.add(o.Waited.Seconds())
	}
	if o.Latency > 0 {
		n.latency.add(o.Latency.Seconds())
	}
	if o.Served > 0 {
		n.served.add(o.Served.Seconds())
	}
	if o.Scored {
		n.score.add(min(max(o.Score, 0), 1))
	}
	return &n
}

// reported returns the knowledge after those outcomes.
func (k *knowledge) reported(outcomes []tier.Outcome, l *Learning) *knowledge {
	n := *k
	n.records = maps.Clone(k.records)
	if n.records == nil {
		n.records = make(map[string]*record, len(outcomes))
	}
	for i := range outcomes {
		o := &outcomes[i]
		n.records[o.Model] = n.records[o.Model].with(o, l)
	}
	n.forget()
	return &n
}

// forget drops the models that were not heard of for longest, where there are too
// many.
func (k *knowledge) forget() {
	if len(k.records) <= mostRecords {
		return
	}
	names := slices.SortedFunc(maps.Keys(k.records), func(a, b string) int {
		return k.records[a].heard.Compare(k.records[b].heard)
	})
	for _, name := range names[:len(names)-mostRecords*7/8] {
		delete(k.records, name)
	}
}

// moved returns the knowledge after those moves; k itself where they tell nothing.
func (k *knowledge) moved(moves []tier.Moved) *knowledge {
	n := *k
	for i := range moves {
		mv := &moves[i]
		if mv.Move.To <= mv.Move.From || mv.Bytes < leastMoved || mv.Took <= 0 {
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
	n.expect()
	return &n
}
