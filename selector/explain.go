package selector

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// maxCandidates bounds an explanation. It lists the best of a larger library.
const maxCandidates = 1000

// explain says why a choice came out as it did. It costs time and memory in
// proportion to the library.
//
// A score function that panics here, and did not when the choice was made, costs the
// explanation and not the choice: it is nil then.
func (q *query) explain(by string, c *tier.Choice, err error) (x *tier.Explanation) {
	defer q.caught(new(error))
	q.generalize()
	all := make([]candidate, q.v.Library.Len())
	for i := range all {
		this := &all[i]
		*this = q.candidate(pick{model: int32(i)})
		if q.match(this); this.why == eligible {
			this.why, this.expected = q.admit(this.m, this.state, false)
		}
		this.ready = readinessOf(this.state)
		if this.why == eligible || q.p.score == nil { // a score function is asked only of what may serve
			q.rate(this)
		}
		if err == nil && i == c.Index {
			this.why = chosen
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(min(a.why, late), min(b.why, late)), a.compare(b.pick))
	})
	x = &tier.Explanation{Policy: by, Priority: q.req.Priority, Omitted: max(0, len(all)-maxCandidates)}
	named := err == nil && c.Mode != tier.Auto && !c.FellBack
	for i := range all[:len(all)-x.Omitted] {
		this := &all[i]
		this.expected = q.snapshot().expected(this.m, this.state)
		var factors []tier.Factor
		if q.p.score == nil || this.why <= eligible || this.why == unwanted {
			factors = q.st.factors(q.req.Priority, this, q.p.score != nil)
		}
		x.Candidates = append(x.Candidates, tier.Candidate{
			Model: this.m.Name, Index: int(this.model), Eligible: this.why <= eligible, Verdict: q.verdict(this, &all[0], named),
			Score: this.score, Factors: factors, Expected: this.expected,
		})
	}
	return x
}

// verdict says what became of a model in the choice. named: first was asked for by
// name.
func (q *query) verdict(c, first *candidate, named bool) string {
	switch {
	case c.why == chosen && named:
		return "chosen: asked for by name"
	case c.why == chosen:
		return "chosen"
	case c.why == lacking:
		return "left out: " + q.lacks(c.m)
	case c.why == unwanted:
		return "left out: the score function does not want it"
	case c.why == late:
		return fmt.Sprintf("left out: expected in %v, the deadline is %v", c.expected.Round(time.Millisecond), q.req.Deadline)
	case c.why != eligible:
		return "left out: " + q.shortage(c, "").Detail
	case named:
		return "not asked for"
	case c.score == first.score && c.ready > first.ready:
		return "as good as " + first.m.Name + ", which can be served sooner"
	case c.score == first.score:
		return "as good as " + first.m.Name + ", which is listed first"
	case q.st.prospect(c.m, c.state).avoided && !q.st.prospect(first.m, first.state).avoided:
		return "avoided for now: it kept failing"
	}
	return fmt.Sprintf("scored %.3g less than %s", first.score-c.score, first.m.Name)
}
