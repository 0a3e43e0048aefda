package selector

import (
	"iter"
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// query is one request about one view. Whatever is asked of the models - which is
// best, why one may not serve, what comes nearest to an answer, how all compare -
// goes by candidates, which match, admit and rate describe in this order.
type query struct {
	p        *Policies
	req      *tier.Request
	v        *tier.View
	by       *policy
	adaptive bool
	asked    []string  // capabilities that are required
	st       *snapshot // see snapshot
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
	unwanted                       // the score function does not want it
	late                           // it is not expected to make the deadline
	unavailable                    // memory is short, or a move of it is stuck
	oversized                      // it fits no tier that it can be served from
	lacking                        // it lacks a capability, does not meet a constraint, or is an older version
)

// candidate returns a model that may serve for all that was asked so far.
func (q *query) candidate(p pick) candidate {
	return candidate{pick: p, m: q.v.Library.At(int(p.model)), state: &q.v.States[p.model], why: eligible}
}

// match sets what depends on the model and a question that was generalized alone,
// the part of the score among it: whatever changes in a library, it stays.
func (q *query) match(c *candidate) {
	if c.m.VersionOf != "" || !q.meets(c.m) {
		c.why = lacking
	}
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
	w := &q.p.options.Weights
	if c.score = w.Capability * float64(c.liked); !q.adaptive {
		c.score = onGrid(w.Capability*float64(c.shared+c.liked) + w.bonus(q.req.Priority, c.m))
	}
}

// admit says whether a model that meets the question may serve it now and, if there is
// a deadline, when. A stuck model that is asked for by name is the Manager's to refuse,
// which knows since when it is stuck. admit allocates nothing unless it makes a snapshot.
func (q *query) admit(m *tier.Model, s *tier.State, byName bool) (why eligibility, expected time.Duration) {
	switch {
	case tooLarge(q.v, m, s):
		return oversized, 0
	case !resident(s) && m.Size > q.ceiling(m, s) || stuck(s) && !byName:
		return unavailable, 0
	case q.req.Deadline > 0:
		if expected = q.snapshot().expected(m, s); expected > q.req.Deadline {
			return late, expected
		}
	}
	return eligible, expected
}

// rate completes the score.
func (q *query) rate(c *candidate) {
	c.ready = readinessOf(c.state)
	switch {
	case q.p.score != nil:
		q.rateByScore(c)
	case q.adaptive:
		c.score = onGrid(q.snapshot().score(q.req.Priority, c))
	}
}

// generalize makes the query about the whole library: one that requires no
// capability means text generation, if there is a model for it.
func (q *query) generalize() {
	if len(q.asked) == 0 {
		for _, m := range q.v.Library.All() {
			if m.VersionOf == "" && q.p.taxonomy.can(m.Capabilities, textGeneration) {
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

// ceiling is the largest size that is safe for a model like m, at home where it is;
// without bounds if memory was never read: the Manager's admission decides then.
func (q *query) ceiling(m *tier.Model, s *tier.State) tier.Bytes {
	mem := &q.v.Memory
	if mem.Available == 0 && mem.Total == 0 && mem.SwapTotal == 0 && mem.SwapFree == 0 && mem.At.IsZero() {
		return tier.Unlimited
	}
	var most tier.Bytes
	if m.Home != tier.Swap {
		most = share(mem.Available, q.p.safeRAM)
	}
	if m.Home != tier.RAM {
		most = max(most, share(mem.Available.Plus(q.v.SwapFor(s)), q.p.safeTotal))
	}
	return most
}

const million = 1_000_000

// millionths makes thresholds exact integers, the same on every machine: 0.7 of 10
// GiB admits 7 GiB, which in float64 it does not.
func millionths(fraction float64) tier.Bytes { return tier.Bytes(math.Round(fraction * million)) }

// share returns that many millionths of b, a million of them at most, rounded down.
func share(b, millionths tier.Bytes) tier.Bytes {
	b = max(b, 0)
	return b/million*millionths + b%million*millionths/million
}

// overlap reports whether two short lists have an element in common.
func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
