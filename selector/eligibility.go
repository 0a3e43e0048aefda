package selector

import (
	"iter"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// query is one request about one view. Whatever is asked of the models - which is
// best, why one may not serve, what comes nearest to an answer, how all compare -
// goes by the candidates that consider makes of them.
type query struct {
	p        *Policies
	req      *tier.Request
	v        *tier.View
	adaptive bool
	slot     *atomic.Pointer[snapshot] // the last one of the policy
	manual   bool                      // the model is asked for by name, without another to fall back to
	asked    []string                  // capabilities that are required
	st       *snapshot                 // see snapshot
	// Each capability once; set by generalize.
	required, preferred []*capability
}

// candidate is what a query knows of one model.
type candidate struct {
	pick
	m      *tier.Model
	state  *tier.State
	shared int32 // required capabilities that it names itself
	liked  int32 // preferences that it has beyond those
	why    eligibility
	// expected is the predicted time until it can be used, if it is wanted and what
	// memory allows; 0: not asked.
	expected time.Duration
}

// eligibility says whether a model may serve a request, or why not. What comes
// earlier is nearer to serving it.
type eligibility uint8

const (
	chosen      eligibility = iota // in an explanation
	eligible                       //
	late                           // it is not expected to make the deadline
	unavailable                    // memory is short, or a move of it is stuck
	oversized                      // it fits no tier that it can be served from
	lacking                        // it lacks a capability, or does not meet a constraint
)

// consider sets c to model i without its score, and returns it. It allocates nothing
// unless it makes a snapshot.
func (q *query) consider(i int, c *candidate) *candidate {
	m, s := q.v.Library.At(i), &q.v.States[i]
	*c = candidate{pick: pick{model: int32(i)}, m: m, state: s, why: eligible}
	switch {
	case !q.meets(m):
		c.why = lacking
	case tooLarge(q.v, m, s):
		c.why = oversized
	case !resident(s) && m.Size > q.ceiling(m) || stuck(s) && !q.manual:
		c.why = unavailable
	case q.req.Deadline > 0:
		if c.expected = q.snapshot().expected(c); c.expected > q.req.Deadline {
			c.why = late
		}
	}
	return c
}

// rate adds the score, in a query that was generalized.
func (q *query) rate(c *candidate) {
	for _, r := range q.required {
		if overlap(c.m.Capabilities, r.names) {
			c.shared++
		}
	}
	for _, r := range q.preferred {
		if r.of(c.m.Capabilities) {
			c.liked++
		}
	}
	c.score, c.ready = onGrid(q.snapshot().score(q.req.Priority, c)), readinessOf(c.state)
}

// generalize makes the query about the whole library: one that requires no
// capability means text generation, if there is a model for it.
func (q *query) generalize() {
	if len(q.asked) == 0 {
		for _, m := range q.v.Library.All() {
			if q.p.taxonomy.can(m.Capabilities, textGeneration) {
				q.asked = []string{textGeneration}
				break
			}
		}
	}
	q.required = q.p.taxonomy.add(nil, q.asked)
	q.preferred = q.p.taxonomy.add(q.required, q.req.Preferences)[len(q.required):]
}

// unmet yields the requirements that the model does not meet, as text.
func (q *query) unmet(m *tier.Model) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range q.asked {
			if !q.p.taxonomy.can(m.Capabilities, name) && !yield(name) {
				return
			}
		}
		for i := range q.req.Constraints {
			if c := &q.req.Constraints[i]; !c.Met(m) && !yield(c.String()) {
				return
			}
		}
	}
}

func (q *query) meets(m *tier.Model) bool {
	for range q.unmet(m) {
		return false
	}
	return true
}

// resident reports whether the model is in a memory tier, or on its way to one,
// and so needs no memory that it has not got.
func resident(s *tier.State) bool {
	return s.Tier != tier.Storage || s.Moving && s.To != tier.Storage
}

// stuck reports whether a move of the model did not return, so that it cannot be
// counted on.
func stuck(s *tier.State) bool { return s.Stuck && !s.Serving }

// tooLarge reports whether a model fits no tier that it can be served from, even if
// everything else left. A view without limits bounds nothing.
func tooLarge(v *tier.View, m *tier.Model, s *tier.State) bool {
	if v.Limits.RAM == 0 || m.Size.Plus(m.Runtime) <= v.Limits.Of(tier.RAM) {
		return false
	}
	if s.InPlace {
		return m.Size > v.Limits.Of(tier.Swap) && !resident(s)
	}
	return s.Tier != tier.RAM && !(s.Moving && s.To == tier.RAM)
}

// ceiling is the largest size that is safe for a model at home where m is; without
// bounds if memory was never read: the Manager's admission decides then.
func (q *query) ceiling(m *tier.Model) tier.Bytes {
	mem := &q.v.Memory
	if mem.Available == 0 && mem.Total == 0 && mem.SwapTotal == 0 && mem.SwapFree == 0 && mem.At.IsZero() {
		return tier.Unlimited
	}
	ram, total := share(mem.Available, q.p.safeRAM), share(mem.Available.Plus(q.v.FreeSwap), q.p.safeTotal)
	switch m.Home {
	case tier.RAM:
		return ram
	case tier.Swap:
		return total
	}
	return max(ram, total)
}

const million = 1_000_000

// millionths makes thresholds exact integers, the same on every machine: 0.7 of 10
// GiB admits 7 GiB, which in float64 it does not.
func millionths(fraction float64) uint64 { return uint64(math.Round(fraction * million)) }

// share returns that many millionths of b, rounded down.
func share(b tier.Bytes, millionths uint64) tier.Bytes {
	hi, lo := bits.Mul64(uint64(max(b, 0)), millionths)
	q, _ := bits.Div64(hi, lo, million) // fits: there are a million of them at most
	return tier.Bytes(q)
}

// overlap reports whether two short lists have an element in common.
func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
