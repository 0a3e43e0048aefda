package selector

import (
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// question is the part of a request that a ranking depends on.
type question struct {
	capabilities, preferences []string
	constraints               []tier.Constraint
	priority                  tier.Priority
}

// hashOf is the key of a request's question. Collisions are told apart by is.
func hashOf(seed maphash.Seed, req *tier.Request) uint64 {
	h := hashStrings(seed, uint64(req.Priority), req.Capabilities)
	if len(req.Preferences) > 0 {
		h = hashStrings(seed, h+1, req.Preferences)
	}
	for i := range req.Constraints {
		c := &req.Constraints[i]
		h = mix(h, maphash.String(seed, c.Label))
		h = mix(h+uint64(c.Op), maphash.String(seed, c.Value))
	}
	return h
}

// is reports whether the request asks this question. The order of names counts,
// which costs a second ranking and no second sort.
func (q *question) is(req *tier.Request) bool {
	return q.priority == req.Priority && slices.Equal(q.capabilities, req.Capabilities) &&
		slices.Equal(q.preferences, req.Preferences) && slices.Equal(q.constraints, req.Constraints)
}

// questionOf copies what it keeps: a name may be a piece of a large request body.
func questionOf(req *tier.Request) question {
	clone := func(list []string) []string {
		out := make([]string, len(list))
		for i, s := range list {
			out[i] = strings.Clone(s)
		}
		return out
	}
	q := question{priority: req.Priority, capabilities: clone(req.Capabilities), preferences: clone(req.Preferences)}
	for _, c := range req.Constraints {
		q.constraints = append(q.constraints, tier.Constraint{Label: strings.Clone(c.Label), Op: c.Op, Value: strings.Clone(c.Value)})
	}
	return q
}

// candidate is what a policy may look at to score a model.
type candidate struct {
	*entry
	points
	state  *tier.State
	record *record // what was learned of it; nil: nothing
}

// policy scores models.
type policy interface {
	name() string
	// stateless: a score does not depend on states, records or the moment.
	stateless() bool
	// reach is the size up to which a model that is not resident is expected to be
	// usable within d, where a size tells.
	reach(d time.Duration) (tier.Bytes, bool)
	// score of a candidate; the higher the better. It is rounded to the grid before
	// it is compared.
	score(p tier.Priority, c candidate, st *standing) float64
	// expected is the predicted time until the candidate can be used.
	expected(c candidate, st *standing) time.Duration
	// factors are the parts of the score, for a person.
	factors(p tier.Priority, c candidate, st *standing) []tier.Factor
}

// pick is a model with its score. The zero pick is none.
type pick struct {
	score float64
	model int32
	found bool
}

// better reports whether p goes before q: the higher score, then the first
// listed.
func (p pick) better(q pick) bool {
	switch {
	case !p.found || !q.found:
		return p.found
	case p.score != q.score:
		return p.score > q.score
	}
	return p.model < q.model
}

// onGrid rounds a score to a multiple of 2^-36, so that scores that are equal on
// paper are equal in float64 whichever way they were summed, and the first listed
// model wins a tie: 3×0.8 and 2×0.8 + 4×0.2 differ by an ulp before. The grid is
// fine enough to tell models apart that differ by one byte (0.1/2^30 ≈ 6 steps),
// and a sum of tenths and tenths per GB is never halfway between two points.
func onGrid(score float64) float64 {
	const steps = 1 << 36
	return math.RoundToEven(score*steps) / steps
}

// frontier is the models that can win among those up to any value of a key, a
// size or a time, by ascending key and score: whoever is not in it is beaten by a
// model of at most its key.
type frontier struct {
	keys  []int64
	picks []pick
}

// add takes models in ascending order of their keys.
func (f *frontier) add(key int64, p pick) {
	last := len(f.picks) - 1
	switch {
	case last >= 0 && !p.better(f.picks[last]):
	case last >= 0 && f.keys[last] == key:
		f.picks[last] = p
	default:
		f.keys = append(f.keys, key)
		f.picks = append(f.picks, p)
	}
}

// best returns the best model of at most that key.
func (f *frontier) best(ceiling int64) pick {
	n := len(f.keys)
	if n == 0 {
		return pick{}
	}
	if f.keys[n-1] <= ceiling { // mostly so, and at no cost
		return f.picks[n-1]
	}
	low, high := 0, n // keys[:low] ≤ ceiling < keys[high:]
	for low < high {
		if mid := int(uint(low+high) / 2); f.keys[mid] <= ceiling {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return pick{}
	}
	return f.picks[low-1]
}

// ranking answers one question about one library.
type ranking struct {
	question
	required, preferred []string             // canonical names, each once
	points              []points             // by capability set
	bySize              [tier.Count]frontier // by home tier: what is safe is a matter of size
	able                bool                 // some model of the library has the capabilities and meets the constraints
	resident            atomic.Pointer[residentPick]
	timely              atomic.Pointer[timely]
	next                *ranking // one with the same hash
}

// residentPick is the best of the models that need no new memory.
type residentPick struct {
	of   *standing
	best pick
}

// timely is models by the time until they can be used.
type timely struct {
	of       *standing
	ceilings ceilings
	frontier frontier
}

// bestCold returns the best of the models up to those sizes by home tier.
func (r *ranking) bestCold(c ceilings) pick {
	best := r.bySize[tier.RAM].best(int64(c[tier.RAM]))
	if p := r.bySize[tier.Swap].best(int64(c[tier.Swap])); p.better(best) {
		best = p
	}
	if p := r.bySize[tier.Storage].best(int64(c[tier.Storage])); p.better(best) {
		best = p
	}
	return best
}

// newRanking takes time in proportion to the library.
func newRanking(req *tier.Request, st *standing, v *tier.View, e *engine) *ranking {
	r := &ranking{question: questionOf(req)}
	x := st.index
	r.required = e.taxonomy.canonical(r.capabilities)
	if len(r.required) == 0 {
		r.required = []string{textGeneration}
	}
	r.preferred = without(e.taxonomy.canonical(r.preferences), r.required)
	if !r.match(x) && len(r.capabilities) == 0 { // a library with no text generator: anything goes
		r.required = nil
		r.match(x)
	}
	// One pass in the order of the library, which is that of memory, and one by size,
	// which jumps about and so looks at little: a score, and the rest of a model only
	// where it wins.
	scores := make([]float64, len(x.entries))
	for i := range x.entries {
		scores[i] = math.NaN() // no score beats, nor is beaten by, that
		if en := &x.entries[i]; r.admits(en, x.lib) {
			r.able = true
			scores[i] = e.pick(r, st.candidate(r, en, v), st).score
		}
	}
	for _, i := range st.out {
		scores[i] = math.NaN()
	}
	var wins []pick // of one home tier: where worth goes by size, most models win
	for t := range r.bySize {
		best := pick{score: math.Inf(-1)}
		wins = slices.Grow(wins[:0], len(x.bySize[t]))
		for _, i := range x.bySize[t] {
			if s := scores[i]; s > best.score || s == best.score && (i < best.model || !best.found) {
				best = pick{score: s, model: i, found: true}
				wins = append(wins, best)
			}
		}
		f := &r.bySize[t]
		f.keys, f.picks = make([]int64, 0, len(wins)), make([]pick, 0, len(wins))
		for _, p := range wins {
			f.add(int64(x.entries[p.model].size), p)
		}
	}
	return r
}

// match fills the points and reports whether any model's set meets the request.
func (r *ranking) match(x *index) bool {
	any := false
	r.points = make([]points, len(x.sets))
	for i := range x.sets {
		r.points[i] = x.sets[i].match(r.required, r.preferred)
		any = any || r.points[i].able() && x.users[i] > 0
	}
	return any
}

// admits reports whether the model has the capabilities and meets the
// constraints.
func (r *ranking) admits(en *entry, lib *tier.Library) bool {
	if !r.points[en.set].able() {
		return false
	}
	return len(r.constraints) == 0 || unmet(r.constraints, lib.At(int(en.model))) == nil
}

// unmet returns the first constraint that the model does not meet.
func unmet(constraints []tier.Constraint, m *tier.Model) *tier.Constraint {
	for i := range constraints {
		if !constraints[i].Met(m) {
			return &constraints[i]
		}
	}
	return nil
}

// steps is how many entries the ranking holds, the measure of its memory.
func (r *ranking) steps() int {
	n := len(r.points)
	for t := range r.bySize {
		n += len(r.bySize[t].keys)
	}
	return n
}

// without returns the names of list that are not in other.
func without(list, other []string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return slices.Contains(other, s) })
}
