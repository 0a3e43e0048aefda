package selector

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sort"
	"sync/atomic"
	"time"
	"weak"

	"github.com/modeltier/modeltier/tier"
)

// pick is a model with its score. The zero pick is none.
type pick struct {
	score float64
	model int32
	ready readiness
	found bool
}

// better reports whether p goes before q: the higher score, then the model that can
// be served sooner, then the one that is listed first.
func (p pick) better(q pick) bool {
	switch {
	case !p.found || !q.found:
		return p.found
	case p.score != q.score:
		return p.score > q.score
	case p.ready != q.ready:
		return p.ready < q.ready
	}
	return p.model < q.model
}

// readiness orders models of one score.
type readiness uint8

const (
	serving readiness = iota // can be leased where it is
	near                     // in a memory tier, or on its way to one
	far                      // in storage, or on its way to it
)

func readinessOf(s *tier.State) readiness {
	switch {
	case s.Serving:
		return serving
	case s.Moving && s.To != tier.Storage, !s.Moving && s.Tier != tier.Storage:
		return near
	}
	return far
}

// onGrid rounds a score to a multiple of 2^-36, so that scores that are equal on
// paper are equal in float64 in whichever order they were summed, and tie: 3×0.8
// and 2×0.8 + 4×0.2 differ by an ulp before. The grid is fine enough to tell models
// apart that differ by one byte (0.1/2^30 ≈ 6 steps), and a sum of tenths and tenths
// per GB is never halfway between two points.
func onGrid(score float64) float64 {
	const steps = 1 << 36
	return math.RoundToEven(score*steps) / steps
}

// ranking holds the models that can win among those that can be used within any
// time, by ascending time and rank: a model that is not in it is beaten by one that
// can be used as soon. Without regard to time it is the best model alone.
type ranking []step

type step struct {
	expected time.Duration
	pick
}

// best returns the best model that can be used within that time.
func (r ranking) best(within time.Duration) pick {
	if n := len(r); n > 0 && r[n-1].expected <= within { // mostly so
		return r[n-1].pick
	}
	if n := sort.Search(len(r), func(i int) bool { return r[i].expected > within }); n > 0 {
		return r[n-1].pick
	}
	return pick{}
}

// query is one question about one snapshot.
type query struct {
	req                 *tier.Request
	v                   *tier.View
	st                  *snapshot
	required, preferred []*capability // each once
}

func (p *Policies) query(req *tier.Request, v *tier.View, st *snapshot) *query {
	q := &query{req: req, v: v, st: st, required: p.taxonomy.all(req.Capabilities)}
	if text := p.taxonomy.all([]string{textGeneration}); len(q.required) == 0 {
		for _, m := range v.Library.All() {
			if text[0].of(m.Capabilities) { // else any model will do
				q.required = text
				break
			}
		}
	}
	q.preferred = slices.DeleteFunc(p.taxonomy.all(req.Preferences), func(c *capability) bool { return c.in(q.required) })
	return q
}

// consider sets c to what is known of model i, and reports whether it meets the
// question.
func (q *query) consider(i int, c *candidate) bool {
	*c = candidate{model: int32(i), m: q.v.Library.At(i), state: &q.v.States[i]}
	for _, r := range q.required {
		switch {
		case overlap(c.m.Capabilities, r.names):
			c.shared++
		case !overlap(c.m.Capabilities, r.implied):
			c.shared = 0
			return false
		}
	}
	for _, r := range q.preferred {
		if r.of(c.m.Capabilities) {
			c.liked++
		}
	}
	return meets(c.m, q.req.Constraints)
}

func (q *query) pick(c *candidate) pick {
	return pick{score: onGrid(q.st.scorer.score(q.req.Priority, c)), model: c.model, ready: readinessOf(c.state), found: true}
}

// rank makes the ranking, in time in proportion to the library. It leaves deadlines
// to ranking.best.
func (q *query) rank() ranking {
	timed := q.req.Deadline > 0
	var all []step
	var c candidate
	for i, m := range q.v.Library.All() {
		s := &q.v.States[i]
		if !resident(s) && m.Size > q.st.ceilings.of(m) || stuck(s) || tooLarge(q.v, m.Size, m.Size.Plus(m.Runtime), s) || !q.consider(i, &c) {
			continue
		}
		this := step{pick: q.pick(&c)}
		switch {
		case timed:
			this.expected = q.st.scorer.expected(&c)
			all = append(all, this)
		case len(all) == 0:
			all = append(all, this)
		case this.better(all[0].pick):
			all[0] = this
		}
	}
	slices.SortFunc(all, func(a, b step) int { return cmp.Compare(a.expected, b.expected) })
	r := all[:0]
	for _, this := range all {
		switch last := len(r) - 1; {
		case last >= 0 && !this.better(r[last].pick):
		case last >= 0 && this.expected == r[last].expected:
			r[last] = this
		default:
			r = append(r, this)
		}
	}
	return slices.Clone(r)
}

// question appends what a ranking depends on beside the snapshot, so that different
// questions differ. The order of names counts, which costs a second ranking and no
// sort.
func question(b []byte, req *tier.Request) []byte {
	nc, np := len(req.Capabilities), len(req.Preferences) // both of 16 bits: see suspect
	b = append(b, byte(req.Priority), byte(nc), byte(nc>>8), byte(np), byte(np>>8), 0)
	if req.Deadline > 0 {
		b[len(b)-1] = 1
	}
	for _, s := range req.Capabilities {
		b = text(b, s)
	}
	for _, s := range req.Preferences {
		b = text(b, s)
	}
	for i := range req.Constraints {
		c := &req.Constraints[i]
		b = text(text(append(b, byte(c.Op)), c.Label), c.Value)
	}
	return b
}

func text(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

// snapshot is what scores and times depend on beside the request, and the rankings
// that were made of it. All but the rankings does not change.
type snapshot struct {
	library  *tier.Library
	limits   tier.Limits
	ceilings ceilings
	// states identifies the slice by its first element. A View may not be kept after a
	// Select, so the pointer is weak; nothing else ever compares equal to it.
	states weak.Pointer[tier.State]
	count  int
	// Of the adaptive policy: what was learned, and the moment. Else zero.
	stats *stats
	now   time.Time

	scorer   scorer
	rankings rankcache
}

// snapshotOf returns the policy's snapshot of v, whose library is not empty.
func (p *Policies) snapshotOf(v *tier.View, by string) *snapshot {
	slot, know, now := &p.byRecorded, (*stats)(nil), time.Time{}
	if by == PolicyAdaptive {
		slot, know, now = &p.byAdaptive, p.adaptive.stats.Load(), v.Now
	}
	var c ceilings
	p.fractions.ceilings(v, &c)
	last := slot.Load()
	if last != nil && last.library == v.Library && last.limits == v.Limits && last.ceilings == c &&
		last.count == len(v.States) && last.states.Value() == &v.States[0] && last.stats == know && last.now == now {
		return last
	}
	st := &snapshot{
		library: v.Library, limits: v.Limits, ceilings: c, states: weak.Make(&v.States[0]), count: len(v.States),
		stats: know, now: now, scorer: p.recorded,
	}
	if by == PolicyAdaptive {
		st.scorer = newEstimates(p.adaptive, know, v)
	}
	slot.Store(st)
	return st
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

// Bounds on the rankings that are kept: requests come from outside and may ask new
// questions without end. Beyond them, all are dropped.
const (
	maxRankings = 1024
	maxSteps    = 1 << 16 // of rankings, and bytes of questions
)

// rankcache holds the rankings made so far, by question. Readers take no lock;
// writers replace the whole table.
type rankcache struct{ table atomic.Pointer[rankTable] }

type rankTable struct {
	rankings map[string]ranking
	steps    int
}

// find returns the ranking of a question, nil if there is none yet.
func (rc *rankcache) find(question []byte) ranking {
	if t := rc.table.Load(); t != nil {
		return t.rankings[string(question)]
	}
	return nil
}

// add keeps the ranking of a question.
func (rc *rankcache) add(question []byte, r ranking) {
	for {
		old, t := rc.table.Load(), &rankTable{rankings: make(map[string]ranking, 1), steps: len(question) + len(r)}
		if old != nil && len(old.rankings) < maxRankings && old.steps+t.steps <= maxSteps {
			t.rankings = maps.Clone(old.rankings)
			t.steps += old.steps
		}
		t.rankings[string(question)] = r
		if rc.table.CompareAndSwap(old, t) {
			return
		}
	}
}
