package selector

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// stats is what was learned so far. It and its records are not changed once they can
// be seen: each batch of news makes new ones.
type stats struct {
	records map[string]*record
	unknown *record         // of a model of which nothing was learned
	paces   map[string]pace // by mover
}

// pace is the seconds per GB that moves of one mover took.
type pace struct{ fromSwap, fromStorage mean }

func newStats() *stats {
	return &stats{unknown: &record{LearnedModel: LearnedModel{Reliability: 1, Esteem: 1}}}
}

// of returns what was learned of the model of that name.
func (k *stats) of(model string) *record { return cmp.Or(k.records[model], k.unknown) }

// rates returns the seconds per GB that loads by a mover from swap and from storage are
// expected to take. Costs are times until first use, so a load takes what they are above
// that of ram.
func (k *stats) rates(mover string, c *Costs) (swap, storage float64) {
	p := k.paces[mover]
	return p.fromSwap.or((c.Swap - c.RAM).Seconds()), p.fromStorage.or((c.Storage - c.RAM).Seconds())
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
		n.records[o.Model] = n.of(o.Model).with(o, l)
	}
	if len(n.records) > maxRecords {
		for _, name := range n.newest()[maxRecords*7/8:] {
			delete(n.records, name)
		}
	}
	return &n
}

// newest returns the names of the records, those heard of last first.
func (k *stats) newest() []string {
	return slices.SortedFunc(maps.Keys(k.records), func(a, b string) int {
		return cmp.Or(k.records[b].Heard.Compare(k.records[a].Heard), cmp.Compare(a, b))
	})
}

// moved returns the stats after those moves; k itself if they tell nothing.
func (k *stats) moved(moves []tier.Moved) *stats {
	n := *k
	n.paces = maps.Clone(k.paces)
	news := false
	for i := range moves {
		mv := &moves[i]
		if mv.Move.To <= mv.Move.From || mv.Bytes < minMoved || mv.Took <= 0 {
			continue
		}
		rate, mover := mv.Took.Seconds()/mv.Bytes.GB(), mv.Move.Model.Mover
		p := n.paces[mover]
		if mv.Move.From == tier.Storage {
			p.fromStorage.add(rate)
		} else {
			p.fromSwap.add(rate)
		}
		if n.paces == nil {
			n.paces = make(map[string]pace)
		}
		n.paces[mover], news = p, true
	}
	if !news {
		return k
	}
	return &n
}

// Learned is what the adaptive policy has learned, for an operator.
type Learned struct {
	// Seconds per GB that a load by Config.Mover is expected to take.
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
	// the factor that callers' scores make of its worth: 0.5 to 1.5, and near 1 while
	// there are few.
	Reliability float64 `json:"reliability"`
	Esteem      float64 `json:"esteem"`
	// Failures in a row. AvoidUntil is when a model that keeps failing is tried again;
	// zero: it is not avoided.
	Failures   int       `json:"failures"`
	AvoidUntil time.Time `json:"avoid_until,omitzero"`
	// FirstUseSeconds is the time from a lease to the first use, or the whole service
	// time if callers do not report it; WaitSeconds is that from the request to the
	// lease if it had to wait; 0: not measured.
	FirstUseSeconds float64 `json:"first_use_seconds"`
	WaitSeconds     float64 `json:"wait_seconds"`
}

func (k *stats) learned(c *Costs) Learned {
	const maxModels = 100
	names := k.newest()
	l := Learned{Known: len(names), Models: []LearnedModel{}}
	l.SwapSecondsPerGB, l.StorageSecondsPerGB = k.rates("", c)
	for _, name := range names[:min(len(names), maxModels)] {
		l.Models = append(l.Models, k.records[name].LearnedModel)
	}
	return l
}

// record is what was learned of one model, and what that follows from.
type record struct {
	LearnedModel
	good, bad             float64 // outcomes, with a half-life
	wait, latency, served mean    // seconds
	score                 mean    // callers' judgement, 0 to 1
}

// with returns the record after one more outcome.
func (r *record) with(o *tier.Outcome, l *Learning) *record {
	n := *r
	n.Model = o.Model
	if age := o.At.Sub(n.Heard); age > 0 {
		fade := math.Exp2(-float64(age) / float64(halfLife))
		n.good *= fade
		n.bad *= fade
		n.Heard = o.At
	}
	switch {
	case errors.Is(o.Err, context.Canceled):
	case o.Err != nil:
		n.bad++
		n.Failures++
		if over := n.Failures - l.Patience; over >= 0 {
			n.AvoidUntil = o.At.Add(l.CoolOff << min(over, 5))
		}
	default:
		n.good++
		n.Failures, n.AvoidUntil = 0, time.Time{}
		n.wait.addTime(o.Waited)
		n.latency.addTime(o.Latency)
		n.served.addTime(o.Served)
		if o.Scored {
			n.score.add(min(max(o.Score, 0), 1))
		}
	}
	scores := float64(n.score.count)
	n.Reliability, n.Esteem = n.reliability(n.Heard), 1+(n.score.value-0.5)*scores/(scores+trust)
	n.WaitSeconds, n.FirstUseSeconds = n.wait.value, n.latency.value
	if n.latency.count == 0 {
		n.FirstUseSeconds = n.served.value
	}
	return &n
}

// reliability is the share of requests that the model is expected to serve well
// at that moment.
func (r *record) reliability(now time.Time) float64 {
	weight := math.Exp2(-float64(max(now.Sub(r.Heard), 0) / halfLife)) // by whole half-lives
	return (r.good*weight + trust) / ((r.good+r.bad)*weight + trust)
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
