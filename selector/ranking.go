package selector

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sort"
	"time"
	"weak"

	"github.com/modeltier/modeltier/tier"
)

// pick is a model with its score.
type pick struct {
	score float64
	model int32 // its index
	ready readiness
}

// compare is negative if p goes before q: the higher score, then the model that can
// be served sooner, then the one that is listed first.
func (p pick) compare(q pick) int {
	return cmp.Or(cmp.Compare(q.score, p.score), cmp.Compare(p.ready, q.ready), cmp.Compare(p.model, q.model))
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

type step struct {
	expected time.Duration
	pick
}

// answer is what is kept for a question.
type answer struct {
	// matches are the models that meet the question, with what match sets. They stay
	// the same as long as the library does.
	matches []pick
	// ranking holds the models that can win among those that can be used within any
	// time, by ascending time and rank: a model that is not in it is beaten by one that
	// can be used as soon. Without regard to time it is the best model alone.
	ranking []step
	of      uint64 // the number of the snapshot of the ranking
}

// usable is how many steps of the ranking can be used within that time, the last of
// which is the best; 0: any.
func (a *answer) usable(within time.Duration) int {
	n := len(a.ranking)
	if n > 0 && a.ranking[n-1].expected > within { // mostly not
		n = sort.Search(n, func(i int) bool { return a.ranking[i].expected > within })
	}
	return n
}

// rank makes and keeps the answer to a question, in time in proportion to the library
// or, if there was one for the same library, to its matches. It leaves deadlines to
// answer.usable.
func (q *query) rank(question []byte, before *answer) *answer {
	a := &answer{of: q.st.number}
	if before != nil {
		a.matches = before.matches
	} else {
		q.generalize()
		all := make([]pick, 0, q.v.Library.Len())
		for i := range cap(all) {
			c := q.candidate(pick{model: int32(i)})
			if q.match(&c); c.why == eligible {
				all = append(all, c.pick)
			}
		}
		a.matches = slices.Clone(all)
	}
	var all []step
	for _, p := range a.matches {
		if q.p.score != nil {
			break // scores are the function's, and good for one request
		}
		last := len(all) - 1
		if last >= 0 && !q.adaptive && q.req.Deadline == 0 {
			// The score is known and time does not count; of equals that are as ready the
			// first in the library wins, in whose order matches are.
			best := &all[last]
			if p.score < best.score || p.score == best.score && readinessOf(&q.v.States[p.model]) >= best.ready {
				continue
			}
		}
		c := q.candidate(p)
		if c.why, c.expected = q.admit(c.m, c.state, false); c.why > late {
			continue
		}
		q.rate(&c)
		switch {
		case last < 0 || all[last].expected != c.expected:
			all = append(all, step{c.expected, c.pick})
		case c.compare(all[last].pick) < 0:
			all[last].pick = c.pick
		}
	}
	slices.SortFunc(all, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.expected, b.expected), a.compare(b.pick))
	})
	for _, this := range all {
		if n := len(a.ranking); n == 0 || this.compare(a.ranking[n-1].pick) < 0 {
			a.ranking = append(a.ranking, this)
		}
	}
	q.keep(question, a, before == nil)
	return a
}

// question appends what a ranking depends on beside the snapshot, so that different
// questions differ. The order of names counts, which costs a second ranking and no
// sort.
func question(b []byte, req *tier.Request) []byte {
	b = append(b, byte(req.Priority), byte(cmp.Compare(req.Deadline, 0)))
	for _, names := range [...][]string{req.Capabilities, req.Preferences} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(names)))
		for _, s := range names {
			b = text(b, s)
		}
	}
	for i := range req.Constraints {
		c := &req.Constraints[i]
		b = text(text(text(b, c.Op), c.Label), c.Value)
	}
	return b
}

func text(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

// snapshot is one policy on one view: what scores and times depend on beside the
// request, and the rankings that were made of it. It does not change: one with
// another ranking takes its place.
type snapshot struct {
	// A View does not change, but may not be kept after a Select, so the pointer is weak;
	// nothing else ever compares equal to it.
	view weak.Pointer[tier.View]
	now  time.Time
	// What was learned; nothing, unless the policy is the adaptive one.
	adaptive bool
	stats    *stats
	*Options
	// inFlight is the seconds that what is being read for others takes: loads on one
	// device are serial. The recorded policy does not look at it.
	inFlight float64
	// latency is the seconds per GB until first use of a model that was not measured.
	latency float64

	library weak.Pointer[tier.Library]
	number  uint64             // tells the answers of this snapshot from those of earlier ones, from 1
	answers map[string]*answer // by question
	kept    int                // see maxKept
}

// snapshot returns the policy's snapshot of the view; it is the same for as long as
// the query lasts, whatever is learned meanwhile.
func (q *query) snapshot() *snapshot {
	if q.st != nil {
		return q.st
	}
	last, know := q.by.last.Load(), q.by.stats.Load()
	if q.st = last; last == nil || last.stats != know || last.view.Value() != q.v {
		q.st = &snapshot{view: weak.Make(q.v), library: weak.Make(q.v.Library), number: 1, now: q.v.Now, adaptive: q.adaptive, stats: know, Options: &q.p.options}
		if last != nil && last.library == q.st.library {
			q.st.number, q.st.answers, q.st.kept = last.number+1, last.answers, last.kept
		}
		q.st.measure(q.v)
		q.by.last.Store(q.st)
	}
	return q.st
}

// maxKept bounds what is kept: requests come from outside and may ask new questions
// without end. It counts matches, the bytes of questions, and 64 for each; a library
// adds 32 of its size. Beyond it, all are dropped.
const maxKept = 1 << 16

// keep keeps the answer to a question. If another is kept at the same time, this one
// may be lost, and is made again.
func (q *query) keep(question []byte, a *answer, fresh bool) {
	next := *q.st
	next.answers = make(map[string]*answer, len(q.st.answers)+1)
	if fresh {
		next.kept += 64 + len(question) + len(a.matches)
	}
	if next.kept <= maxKept+32*q.v.Library.Len() {
		maps.Copy(next.answers, q.st.answers)
	} else {
		next.kept = 0
	}
	next.answers[string(question)] = a
	q.by.last.CompareAndSwap(q.st, &next)
}
