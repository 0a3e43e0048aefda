package selector

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// mostCandidates bounds an explanation. It lists the best of a larger library.
const mostCandidates = 1000

// explained decides, and then says why. It costs time and memory in proportion to
// the library.
func (e *engine) explained(req *tier.Request, v *tier.View, c *tier.Choice) error {
	if err := req.Validate(); err != nil {
		return err
	}
	err := e.decide(req, v, c)
	chosen := *c
	if err != nil {
		chosen.Index = -1 // nobody
	}
	c.Explanation = e.explain(req, v, chosen)
	return err
}

// shown is the candidate, scored as if it were able where it is not.
func shown(r *ranking, en *entry, v *tier.View, st *standing) candidate {
	c := st.candidate(r, en, v)
	c.shared = max(c.shared, 0)
	return c
}

// considered is a model on its way into an explanation.
type considered struct {
	pick
	obstacle obstacle
	rank     int // 0 the chosen one, 1 a model that might have been, 2 one that is left out
}

func (e *engine) explain(req *tier.Request, v *tier.View, c tier.Choice) *tier.Explanation {
	st := e.stand(v)
	r := newRanking(req, st, v, e)
	all := make([]considered, len(st.index.entries))
	for i := range all {
		en := &st.index.entries[i]
		this := considered{pick: e.pick(r, shown(r, en, v, st), st), obstacle: e.obstacle(req, v, i), rank: 1}
		switch {
		case i == c.Index:
			this.rank = 0
		case this.obstacle != none || stuck(&v.States[i]) || !r.admits(en, v.Library):
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
	x := &tier.Explanation{Policy: e.policy.name(), Priority: req.Priority, Omitted: max(0, len(all)-mostCandidates)}
	for _, this := range all[:len(all)-x.Omitted] {
		i := int(this.model)
		candidate := shown(r, &st.index.entries[i], v, st)
		x.Candidates = append(x.Candidates, tier.Candidate{
			Model: v.Library.At(i).Name, Index: i, Eligible: this.rank < 2,
			Verdict: e.verdict(req, v, st, r, c, all[0].pick, this),
			Score:   this.score, Factors: e.policy.factors(req.Priority, candidate, st),
			Expected: e.policy.expected(candidate, st),
		})
	}
	return x
}

// verdict says what became of a model in the choice, of which first is the pick.
func (e *engine) verdict(req *tier.Request, v *tier.View, st *standing, r *ranking, c tier.Choice, first pick, this considered) string {
	i := int(this.model)
	m := v.Library.At(i)
	switch {
	case this.rank == 0 && c.Mode != tier.Auto && !c.FellBack:
		return "chosen: asked for by name"
	case this.rank == 0:
		return "chosen"
	case this.rank == 1 && c.Index >= 0 && c.Mode != tier.Auto && !c.FellBack:
		return "not asked for"
	case this.rank == 1 && this.better(first):
		return "would have won; " + first.name(v) + " was tried to learn about it"
	case this.rank == 1 && this.score == first.score:
		return "as good as " + first.name(v) + ", which is listed first"
	case this.rank == 1 && st.avoided(this.model) && !st.avoided(first.model):
		return "avoided for now: it kept failing"
	case this.rank == 1:
		return fmt.Sprintf("scored %.3g less than %s", first.score-this.score, first.name(v))
	}
	switch this.obstacle {
	case unsafe, tooLarge:
		_, why := e.shortage(v, i)
		return "left out: " + why
	case late:
		return fmt.Sprintf("left out: expected in %v, the deadline is %v", e.expected(v, i).Round(time.Millisecond), req.Deadline)
	}
	if lacks := e.missing(req, m); len(lacks) > 0 {
		return "left out: lacks " + strings.Join(lacks, ", ")
	}
	if stuck(&v.States[i]) {
		return "left out: a move of it is stuck"
	}
	return "left out: lacks " + strings.Join(r.required, ", ")
}

// name is the name of the picked model.
func (p pick) name(v *tier.View) string { return v.Library.At(int(p.model)).Name }
