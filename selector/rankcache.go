package selector

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sync/atomic"

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

// frontier holds the models that can win among those up to any value of a key, a
// size or a time, by ascending key and rank: a model that is not in it is beaten by
// one of at most its key.
type frontier []step

type step struct {
	key int64
	pick
}

// add takes models in ascending order of their keys.
func (f frontier) add(s step) frontier {
	last := len(f) - 1
	switch {
	case last >= 0 && !s.better(f[last].pick):
		return f
	case last >= 0 && f[last].key == s.key:
		f[last] = s
		return f
	}
	return append(f, s)
}

// best returns the best model of at most that key.
func (f frontier) best(ceiling int64) pick {
	if n := len(f); n > 0 && f[n-1].key <= ceiling { // mostly so
		return f[n-1].pick
	}
	return f.search(ceiling)
}

func (f frontier) search(ceiling int64) pick {
	low, high := 0, len(f) // f[:low] is within the ceiling, f[high:] is not
	for low < high {
		if mid := int(uint(low+high) / 2); f[mid].key <= ceiling {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return pick{}
	}
	return f[low-1].pick
}

// ranking answers one question about one library.
type ranking struct {
	required, preferred []*capability // each once
	able                bool          // some model of the library meets the question
	static              bool          // no score depends on states
	// bySize ranks the models by home tier, because what is safe is a matter of size.
	// It is empty unless the ranking is static.
	bySize [tier.Count]frontier
	scores []float64 // by model, NaN where one cannot win; nil unless static
	soon   atomic.Pointer[soonest]
}

// soonest ranks models by the time until they can be used: those that need no new
// memory if the ranking by size covers the rest, else all that memory allows.
type soonest struct {
	st       *snapshot
	scorer   scorer
	ceilings ceilings
	timed    bool // false: without regard to time
	frontier frontier
}

// query is one request on its way.
type query struct {
	req      *tier.Request
	v        *tier.View
	st       *snapshot
	scorer   scorer
	ceilings ceilings
	*ranking
}

// consider sets c to what is known of model i, and reports whether it meets the
// question.
func (q *query) consider(i int32, c *candidate) bool {
	*c = candidate{model: i, m: q.v.Library.At(int(i)), state: &q.v.States[i]}
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
	return pick{score: onGrid(q.scorer.score(q.req.Priority, c)), model: c.model, ready: readinessOf(c.state), found: true}
}

// rank makes the ranking, in time in proportion to the library.
func (q *query) rank(t taxonomy) {
	q.ranking = &ranking{required: t.all(q.req.Capabilities)}
	if text := t.all([]string{textGeneration}); len(q.required) == 0 {
		for _, m := range q.v.Library.All() {
			if text[0].of(m.Capabilities) { // else any model will do
				q.required = text
				break
			}
		}
	}
	q.preferred = slices.DeleteFunc(t.all(q.req.Preferences), func(c *capability) bool { return c.in(q.required) })
	_, q.static = q.scorer.reach(0)
	// One pass in the order of the library, which is that of memory, then one by size,
	// which looks at little, because it jumps about in memory.
	if q.static {
		q.scores = make([]float64, len(q.st.entries))
	}
	var c candidate
	for i := range q.st.entries {
		able := q.consider(int32(i), &c)
		q.able = q.able || able
		switch {
		case !q.static && able:
			return
		case able:
			q.scores[i] = onGrid(q.scorer.score(q.req.Priority, &c))
		case q.static:
			q.scores[i] = math.NaN()
		}
	}
	if !q.static {
		return
	}
	for _, i := range q.st.out {
		q.scores[i] = math.NaN()
	}
	room := make(frontier, 0, len(q.st.bySize)/2) // one home's share, mostly
	for t := range q.bySize {
		f := room
		for i := range q.st.bySize {
			if en := &q.st.bySize[i]; en.home == tier.Tier(t) {
				if s := q.scores[en.model]; s == s {
					f = f.add(step{int64(en.size), pick{score: s, model: en.model, ready: far, found: true}})
				}
			}
		}
		q.bySize[t] = slices.Clone(f)
	}
}

// rated is consider and pick; of a static ranking, it looks up the score.
func (q *query) rated(i int32, c *candidate) pick {
	if !q.static {
		if !q.consider(i, c) {
			return pick{}
		}
		return q.pick(c)
	}
	*c = candidate{model: i, m: q.v.Library.At(int(i)), state: &q.v.States[i]}
	s := q.scores[i]
	return pick{score: s, model: i, ready: readinessOf(c.state), found: s == s}
}

// best returns the best model that may serve the request.
func (q *query) best() pick {
	deadline := int64(math.MaxInt64)
	if q.req.Deadline > 0 {
		deadline = int64(q.req.Deadline)
	}
	best := q.soonest().frontier.best(deadline)
	if !q.static {
		return best
	}
	reach := tier.Unlimited
	if q.req.Deadline > 0 {
		reach, _ = q.scorer.reach(q.req.Deadline)
	}
	for t := range q.bySize {
		if f := q.bySize[t]; len(f) > 0 {
			if p := f.best(int64(min(q.ceilings[t], reach))); p.better(best) {
				best = p
			}
		}
	}
	return best
}

// soonest returns the ranking by time.
func (q *query) soonest() *soonest {
	ceilings, timed := q.ceilings, q.req.Deadline > 0
	if q.static {
		ceilings = [tier.Count]tier.Bytes{} // what is resident needs no memory
	}
	k := q.soon.Load()
	if k != nil && k.st == q.st && k.scorer == q.scorer && k.ceilings == ceilings && (k.timed || !timed) {
		return k
	}
	k = &soonest{st: q.st, scorer: q.scorer, ceilings: ceilings, timed: timed}
	models := q.st.resident
	if !q.static {
		models = q.st.within(q.v, ceilings)
	}
	var all []step
	var c candidate
	for _, i := range models {
		p := q.rated(i, &c)
		switch {
		case !p.found:
		case timed:
			all = append(all, step{int64(q.scorer.expected(&c)), p})
		default:
			k.frontier = k.frontier.add(step{0, p})
		}
	}
	slices.SortFunc(all, func(a, b step) int { return cmp.Compare(a.key, b.key) })
	for _, s := range all {
		k.frontier = k.frontier.add(s)
	}
	q.soon.Store(k)
	return k
}

// question appends what a ranking depends on, so that different questions differ. The
// order of names counts, which costs a second ranking and no sort.
func question(b []byte, by string, req *tier.Request) []byte {
	nc, np := len(req.Capabilities), len(req.Preferences) // both of 16 bits: see suspect
	b = append(b, byte(req.Priority), by[0], byte(nc), byte(nc>>8), byte(np), byte(np>>8))
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

// Bounds on the rankings that are kept: requests come from outside and may ask new
// questions without end. Beyond them, all are dropped.
const (
	maxRankings = 1024
	baseSteps   = 1 << 16 // steps of frontiers and bytes of questions, and 8 more for each model
)

// rankcache holds the rankings made so far, by question. Readers take no lock;
// writers replace the whole table.
type rankcache struct{ table atomic.Pointer[rankTable] }

type rankTable struct {
	rankings map[string]*ranking
	steps    int
}

// find returns the ranking of a question, nil if there is none yet.
func (rc *rankcache) find(question []byte) *ranking {
	if t := rc.table.Load(); t != nil {
		return t.rankings[string(question)]
	}
	return nil
}

// add keeps the ranking of a question about a library of that many models.
func (rc *rankcache) add(question []byte, r *ranking, models int) {
	steps := len(question) + len(r.scores)/2
	for i := range r.bySize {
		steps += len(r.bySize[i])
	}
	if !r.static {
		steps += models // the most that soonest may hold
	}
	for {
		old, t := rc.table.Load(), &rankTable{rankings: make(map[string]*ranking, 1), steps: steps}
		if old != nil && len(old.rankings) < maxRankings && old.steps+steps <= baseSteps+8*models {
			t.rankings = maps.Clone(old.rankings)
			t.steps += old.steps
		}
		t.rankings[string(question)] = r
		if rc.table.CompareAndSwap(old, t) {
			return
		}
	}
}
