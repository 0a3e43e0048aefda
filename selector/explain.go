package selector

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// maxCandidates bounds an explanation. It lists the best of a larger library.
const maxCandidates = 1000

// considered is a model on its way into an explanation.
type considered struct {
	pick
	eligibility
	rank int // 0: chosen, 1: might have been chosen, 2: left out
}

// explained decides, and then says why. It costs time and memory in proportion to
// the library.
func (p *Policies) explained(req *tier.Request, v *tier.View, by string, c *tier.Choice) error {
	if err := req.Validate(); err != nil {
		return err
	}
	err := p.decide(req, v, by, c)
	chosen := *c
	if err != nil {
		chosen.Index = -1
	}
	var q query
	p.look(&q, req, v, by)
	q.rank(p.taxonomy)
	var about candidate
	all := make([]considered, len(q.st.entries))
	for i := range all {
		able := q.consider(int32(i), &about)
		this := considered{q.pick(&about), p.eligible(req, v, by, i), 1}
		switch {
		case i == chosen.Index:
			this.rank = 0
		case this.eligibility != eligible || stuck(&v.States[i]) || !able:
			this.rank = 2
		}
		all[i] = this
	}
	slices.SortFunc(all, func(a, b considered) int {
		switch {
		case a.rank != b.rank:
			return a.rank - b.rank
		case a.better(b.pick):
			return -1
		}
		return 1
	})
	x := &tier.Explanation{Policy: by, Priority: req.Priority, Omitted: max(0, len(all)-maxCandidates)}
	for _, this := range all[:len(all)-x.Omitted] {
		q.consider(this.model, &about)
		expected := q.scorer.expected(&about)
		x.Candidates = append(x.Candidates, tier.Candidate{
			Model: about.m.Name, Index: int(this.model), Eligible: this.rank < 2,
			Verdict: p.verdict(&q, &chosen, all[0].pick, this, expected),
			Score:   this.score, Factors: q.scorer.factors(req.Priority, &about), Expected: expected,
		})
	}
	c.Explanation = x
	return err
}

// verdict says what became of a model in the choice, of which first is the pick.
func (p *Policies) verdict(q *query, c *tier.Choice, first pick, this considered, expected time.Duration) string {
	learned, _ := q.scorer.(*estimates)
	named := c.Index >= 0 && c.Mode != tier.Auto && !c.FellBack
	winner := q.v.Library.At(int(first.model)).Name
	switch {
	case this.rank == 0 && named:
		return "chosen: asked for by name"
	case this.rank == 0:
		return "chosen"
	case this.rank == 1 && named:
		return "not asked for"
	case this.rank == 1 && this.better(first):
		return "would have won; " + winner + " was tried to learn about it"
	case this.rank == 1 && this.score == first.score && this.ready > first.ready:
		return "as good as " + winner + ", which can be served sooner"
	case this.rank == 1 && this.score == first.score:
		return "as good as " + winner + ", which is listed first"
	case this.rank == 1 && learned != nil && learned.avoided(this.model) && !learned.avoided(first.model):
		return "avoided for now: it kept failing"
	case this.rank == 1:
		return fmt.Sprintf("scored %.3g less than %s", first.score-this.score, winner)
	case this.eligibility == unsafe_ || this.eligibility == oversized:
		return "left out: " + p.shortage(q.v, int(this.model), "").Detail
	case this.eligibility == late:
		return fmt.Sprintf("left out: expected in %v, the deadline is %v", expected.Round(time.Millisecond), q.req.Deadline)
	}
	lacks := p.unmet(q.req, q.v.Library.At(int(this.model)))
	switch {
	case len(lacks) > 0:
	case stuck(&q.v.States[this.model]):
		return "left out: a move of it is stuck"
	default:
		for _, c := range q.required {
			lacks = append(lacks, c.names[0])
		}
	}
	return "left out: lacks " + strings.Join(lacks, ", ")
}
