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

// better reports whether p goes before q: the higher score, then the model that can
// be served sooner, then the one that is listed first.
func (p pick) better(q pick) bool {
	switch {
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
func (r ranking) best(within time.Duration) (best pick, ok bool) {
	n := sort.Search(len(r), func(i int) bool { return r[i].expected > within })
	if n == 0 {
		return pick{}, false
	}
	return r[n-1].pick, true
}

// rank makes the ranking of a query that was generalized, in time in proportion to
// the library. It leaves deadlines to ranking.best.
func (q *query) rank() ranking {
	var all []step
	var c candidate
	for i := range q.v.Library.Len() {
		if q.consider(i, &c).why > late {
			continue
		}
		q.rate(&c)
		switch last := len(all) - 1; {
		case last < 0 || all[last].expected != c.expected:
			all = append(all, step{c.expected, c.pick})
		case c.better(all[last].pick):
			all[last].pick = c.pick
		}
	}
	slices.SortFunc(all, func(a, b step) int {
		if a.expected == b.expected && a.better(b.pick) {
			return -1
		}
		return cmp.Or(cmp.Compare(a.expected, b.expected), 1)
	})
	r := all[:0]
	for _, this := range all {
		if len(r) == 0 || this.better(r[len(r)-1].pick) {
			r = append(r, this)
		}
	}
	return slices.Clone(r)
}

// question appends what a ranking depends on beside the snapshot, so that different
// questions differ. The order of names counts, which costs a second ranking and no
// sort.
func question(b []byte, req *tier.Request) []byte {
	timed := byte(0)
	if req.Deadline > 0 {
		timed = 1
	}
	b = append(b, byte(req.Priority), timed)
	for _, names := range [...][]string{req.Capabilities, req.Preferences} {
		b = binary.AppendUvarint(b, uint64(len(names)))
		for _, s := range names {
			b = text(b, s)
		}
	}
	for i := range req.Constraints {
		c := &req.Constraints[i]
		b = text(text(append(b, byte(c.Op)), c.Label), c.Value)
	}
	return b
}

func text(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
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
	// inFlight is the bytes that are being read for others: loads on one device are
	// serial. The recorded policy does not look at them.
	inFlight tier.Bytes
	// Seconds per GB of loads, and until first use of a model that was not measured.
	swap, storage, latency float64

	rankings map[string]ranking // by question
	kept     int                // see maxKept
}

// snapshot returns the policy's snapshot of the view; it is the same for as long as
// the query lasts, whatever is learned meanwhile.
func (q *query) snapshot() *snapshot {
	if q.st != nil {
		return q.st
	}
	know := q.p.untold
	if q.adaptive {
		know = q.p.stats.Load()
	}
	if q.st = q.slot.Load(); q.st == nil || q.st.stats != know || q.st.view.Value() != q.v {
		q.st = &snapshot{view: weak.Make(q.v), now: q.v.Now, adaptive: q.adaptive, stats: know, Options: &q.p.options}
		q.st.measure(q.v)
		q.slot.Store(q.st)
	}
	return q.st
}

// Bounds on the rankings that are kept: requests come from outside and may ask new
// questions without end. Beyond them, all are dropped.
const (
	maxRankings = 1024
	maxKept     = 1 << 16 // steps of rankings, and bytes of questions
)

// keep keeps the ranking of a question. If another is kept at the same time, this
// one may be lost, and is made again.
func (q *query) keep(question []byte, r ranking) {
	next := *q.st
	next.rankings, next.kept = make(map[string]ranking, 1), len(question)+len(r)
	if len(q.st.rankings) < maxRankings && q.st.kept+next.kept <= maxKept {
		maps.Copy(next.rankings, q.st.rankings)
		next.kept += q.st.kept
	}
	next.rankings[string(question)] = r
	q.slot.CompareAndSwap(q.st, &next)
}
