package selector

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on what errors name, and on what is looked through for it.
const (
	maxAble    = 3 // models
	maxNear    = 8 // capabilities
	maxValues  = 3 // of a label
	maxHolders = 8
	maxKnown   = 4096 // names or capabilities
)

// LacksError is a named model that lacks what the request requires. It unwraps
// to a *tier.NoCapableModelError.
type LacksError struct {
	Model string
	// Lacks are the capabilities and constraints that it does not meet.
	Lacks []string
	// Able are models that do, if any; at most three.
	Able []string

	who     string // begins the sentence
	general *tier.NoCapableModelError
}

func (e *LacksError) Error() string {
	return e.who + " '" + e.Model + "' lacks " + strings.Join(e.Lacks, ", ")
}

// Unwrap returns the general form of the error.
func (e *LacksError) Unwrap() error { return e.general }

// Code implements tier.Coder.
func (e *LacksError) Code() string { return e.general.Code() }

// Suggestions implements tier.Suggester.
func (e *LacksError) Suggestions() []string {
	if len(e.Able) > 0 {
		return []string{"Ask for a model that has it: " + strings.Join(e.Able, ", ") + "."}
	}
	return e.general.Suggestions()
}

// refuse returns the error of a model that was named and may not serve the request.
// A preferred model that is only fallen back from gets the sentence alone, without
// what takes the whole library to find.
func (p *Policies) refuse(req *tier.Request, v *tier.View, by string, name string, explicit bool) error {
	who := "Preferred model"
	if explicit {
		if err := req.Validate(); err != nil {
			return err
		}
		who = "Explicit model"
	}
	i, ok := v.Library.Find(name)
	if !ok {
		err := &tier.NotFoundError{What: "model", Name: name}
		if explicit {
			err.Nearby = namesLike(name, v.Library)
		}
		return err
	}
	reason := p.eligible(req, v, by, i)
	if reason == eligible && req.Deadline > 0 && !stuck(&v.States[i]) {
		reason = late // it was when the request was refused; more was learned since
	}
	switch reason {
	case lacking:
		err := &LacksError{
			Model: name, Lacks: p.unmet(req, v.Library.At(i)), who: who, general: &tier.NoCapableModelError{Capabilities: requirements(req)},
		}
		if explicit {
			err.general.Nearest = p.nearest(req, v)
			for _, other := range v.Library.All() {
				if len(err.Able) < maxAble && len(p.unmet(req, other)) == 0 {
					err.Able = append(err.Able, other.Name)
				}
			}
		}
		return err
	case late:
		return &tier.DeadlineError{Model: name, Expected: p.expected(v, by, i), Deadline: req.Deadline}
	}
	err := p.shortage(v, i, who)
	if explicit && !err.Never {
		err.Holders = holders(v)
	}
	return err
}

// namesLike looks among a bounded number of names, so that unknown names cannot keep
// the server of a large library busy.
func namesLike(name string, lib *tier.Library) []string {
	var names []string
	for _, m := range lib.All() {
		off := len(m.Name) - len(name)
		if max(off, -off) <= 1+len(name)/4 || strings.Contains(m.Name, name) || strings.Contains(name, m.Name) {
			if names = append(names, m.Name); len(names) == maxKnown {
				break
			}
		}
	}
	return tier.Nearest(name, names)
}

// unmet are the requirements that the model does not meet.
func (p *Policies) unmet(req *tier.Request, m *tier.Model) []string {
	var list []string
	for _, c := range req.Capabilities {
		if !p.taxonomy.can(m.Capabilities, c) {
			list = append(list, c)
		}
	}
	for _, c := range req.Constraints {
		if !c.Met(m) {
			list = append(list, c.String())
		}
	}
	return list
}

// requirements are the capabilities and constraints of a request, as text.
func requirements(req *tier.Request) []string {
	list := slices.Clone(req.Capabilities)
	for _, c := range req.Constraints {
		list = append(list, c.String())
	}
	return list
}

// shortage is the error of model i, which memory does not allow: in the recorded
// words where they are recorded.
func (p *Policies) shortage(v *tier.View, i int, who string) *tier.CapacityError {
	m, s := v.Library.At(i), &v.States[i]
	available, both := v.Memory.Available, v.Memory.Available.Plus(v.FreeSwap)
	err := &tier.CapacityError{Model: m.Name, Tier: tier.Swap, Need: m.Size, Free: both, Limit: p.ceiling(v, m)}
	lacks := func(format string, need, have tier.Bytes) {
		a, b := tier.Apart(need, have)
		err.Detail = fmt.Sprintf(format, a, b)
	}
	switch {
	case resident(s) || m.Size <= err.Limit:
	case m.Home == tier.RAM:
		err.Tier, err.Free = tier.RAM, available
		lacks("Insufficient RAM: need %sGB, have %sGB", m.Size, available)
	default:
		lacks("Insufficient capacity: need %sGB, have %sGB", m.Size, both)
	}
	if err.Detail != "" && m.Size <= err.Free { // there is enough, but one model may not take all of it
		err.Detail += fmt.Sprintf(", of which one model may take %.1fGB", err.Limit.GB())
	}
	switch need := m.Size.Plus(m.Runtime); {
	case tooLarge(v, m.Size, need, s):
		err.Never, err.Tier = true, tier.RAM
		if s.InPlace && v.Limits.Of(tier.Swap) > v.Limits.Of(tier.RAM) {
			err.Tier = tier.Swap
		} else {
			err.Need = need
		}
		err.Limit = v.Limits.Of(err.Tier)
		err.Free = err.Limit
		if err.Detail == "" {
			lacks("Model too large: need %sGB, limit %sGB", err.Need, err.Limit)
		}
	case stuck(s):
		err.Detail = "a move of it is stuck"
	}
	err.Reason = who + " '" + m.Name + "' unsafe: " + err.Detail
	return err
}

// holders are the models that hold memory, the largest few first.
func holders(v *tier.View) []tier.Holder {
	var all []tier.Holder
	for i, m := range v.Library.All() {
		s := &v.States[i]
		if held := v.Footprint(i)[tier.RAM]; held > 0 {
			all = append(all, tier.Holder{Model: m.Name, Bytes: held, Leases: int(s.Leases), Pinned: m.Pinned, Moving: s.Moving, Stuck: s.Stuck})
		}
	}
	slices.SortStableFunc(all, func(a, b tier.Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return slices.Clone(all[:min(len(all), maxHolders)])
}

// emptyLibrary is the error of any request to a library without models.
func (p *Policies) emptyLibrary(req *tier.Request) error {
	if err := req.Validate(); err != nil {
		return err
	}
	if req.Model != "" || req.Preferred != "" && !req.Fallback {
		return &tier.NotFoundError{What: "model", Name: req.Model + req.Preferred}
	}
	return &tier.NoCapableModelError{Capabilities: requirements(req)}
}

// noModel is the error of a request in auto that no model may serve: that none has
// what it requires, or why those that have it may not serve.
func (p *Policies) noModel(q *query, by string) error {
	err := &tier.NoCapableModelError{Capabilities: requirements(q.req)}
	if len(q.req.Capabilities) == 0 {
		var names []string
		for _, c := range q.required {
			names = append(names, c.names[0])
		}
		err.Capabilities = append(names, err.Capabilities...)
	}
	var short, large pick
	var fastest *tier.DeadlineError
	var c candidate
	for i := range q.v.Library.All() {
		if !q.consider(i, &c) {
			continue
		}
		worst, this := &short, q.pick(&c)
		switch reason := p.eligible(q.req, q.v, by, i); {
		case reason == oversized:
			worst = &large
		case (reason == late || reason == eligible && q.req.Deadline > 0) && !stuck(c.state): // eligible: by what was learned since
			if t := q.st.scorer.expected(&c); fastest == nil || t < fastest.Expected {
				fastest = &tier.DeadlineError{Model: c.m.Name, Expected: t, Deadline: q.req.Deadline}
			}
			continue
		}
		if this.better(*worst) {
			*worst = this
		}
	}
	switch { // the best way out first: more time, more memory, higher limits
	case fastest != nil:
		err.Unsafe = fastest
	case short.found:
		e := p.shortage(q.v, int(short.model), "Model")
		e.Holders = holders(q.v)
		err.Unsafe = e
	case large.found:
		err.Unsafe = p.shortage(q.v, int(large.model), "Model")
	default:
		err.Nearest = p.nearest(q.req, q.v)
	}
	return err
}

// nearest names what the library has that is nearest to what the request requires:
// capabilities that look like the unknown ones; if each one is known, those of the
// model that has most of them; values of the labels that constraints speak of; else
// any capabilities.
func (p *Policies) nearest(req *tier.Request, v *tier.View) []string {
	var known, near []string
	most, fullest := 0, -1
	seen := make(map[string]bool)
	for i, m := range v.Library.All() {
		for _, c := range m.Capabilities {
			if len(known) < maxKnown && !seen[c] {
				seen[c] = true
				known = append(known, c)
			}
		}
		if has := len(req.Capabilities) - len(p.unmet(&tier.Request{Capabilities: req.Capabilities}, m)); has > most {
			most, fullest = has, i
		}
	}
	for _, c := range req.Capabilities {
		if !seen[c] {
			near = append(near, tier.Nearest(c, known)...)
		}
	}
	if len(near) == 0 && fullest >= 0 && most < len(req.Capabilities) {
		near = slices.Clone(v.Library.At(fullest).Capabilities)
	}
	for i := range req.Constraints {
		near = append(near, p.values(req, v, &req.Constraints[i])...)
	}
	if len(near) == 0 {
		near = known
	}
	slices.Sort(near)
	near = slices.Compact(near)
	return near[:min(len(near), maxNear)]
}

// values are a few of the values that the constraint's label has among the models
// that have the capabilities, if none of them meets it.
func (p *Policies) values(req *tier.Request, v *tier.View, c *tier.Constraint) []string {
	var found []string
	for _, m := range v.Library.All() {
		if !p.taxonomy.canAll(m.Capabilities, req.Capabilities) {
			continue
		}
		if c.Met(m) {
			return nil
		}
		if value, ok := m.Labels[c.Label]; ok && len(found) < maxValues {
			if text := c.Label + " = " + value; !slices.Contains(found, text) {
				found = append(found, text)
			}
		}
	}
	return found
}

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
	q := p.query(req, v, p.snapshotOf(v, by))
	var about candidate
	all := make([]considered, v.Library.Len())
	for i := range all {
		able := q.consider(i, &about)
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
		if a.rank == b.rank && a.better(b.pick) {
			return -1
		}
		return cmp.Or(a.rank-b.rank, 1)
	})
	x := &tier.Explanation{Policy: by, Priority: req.Priority, Omitted: max(0, len(all)-maxCandidates)}
	for _, this := range all[:len(all)-x.Omitted] {
		q.consider(int(this.model), &about)
		expected := q.st.scorer.expected(&about)
		x.Candidates = append(x.Candidates, tier.Candidate{
			Model: about.m.Name, Index: int(this.model), Eligible: this.rank < 2,
			Verdict: p.verdict(q, &chosen, all[0].pick, this, expected),
			Score:   this.score, Factors: q.st.scorer.factors(req.Priority, &about), Expected: expected,
		})
	}
	c.Explanation = x
	return err
}

// verdict says what became of a model in the choice, of which first is the pick.
func (p *Policies) verdict(q *query, c *tier.Choice, first pick, this considered, expected time.Duration) string {
	learned, _ := q.st.scorer.(*estimates)
	named := c.Index >= 0 && c.Mode != tier.Auto && !c.FellBack
	winner := q.v.Library.At(int(first.model)).Name
	switch {
	case this.rank == 0 && named:
		return "chosen: asked for by name"
	case this.rank == 0:
		return "chosen"
	case this.rank == 1 && named:
		return "not asked for"
	case this.rank == 1 && this.score == first.score && this.ready > first.ready:
		return "as good as " + winner + ", which can be served sooner"
	case this.rank == 1 && this.score == first.score:
		return "as good as " + winner + ", which is listed first"
	case this.rank == 1 && learned != nil && learned.avoided(this.model) && !learned.avoided(first.model):
		return "avoided for now: it kept failing"
	case this.rank == 1:
		return fmt.Sprintf("scored %.3g less than %s", first.score-this.score, winner)
	case this.eligibility == memoryShort || this.eligibility == oversized:
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
