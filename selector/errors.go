package selector

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on what errors name, and on what is looked through for it.
const (
	maxAble    = 3 // models
	maxNear    = 8 // capabilities
	maxHolders = 8
	maxKnown   = 4096 // capabilities or values of labels
)

// refusal is why the candidate may not serve. who begins the sentence.
func (q *query) refusal(c *candidate, who string) error {
	switch c.why {
	case lacking:
		return &tier.NoCapableModelError{
			Capabilities: q.requirements(), Reason: who + " '" + c.m.Name + "' " + q.lacks(c.m),
		}
	case late:
		return &tier.DeadlineError{Model: c.m.Name, Expected: c.expected, Deadline: q.req.Deadline}
	}
	if c.state.Quarantine != nil && stuck(c.state) {
		return c.state.Quarantine
	}
	return q.shortage(c, who)
}

// noModel is why no model may serve: that none has what is required, or what keeps
// the one from it that comes nearest, by the best way out: more time, more memory,
// higher limits.
func (q *query) noModel(matches []pick) error {
	q.generalize()
	err, nearest := &tier.NoCapableModelError{Capabilities: q.requirements()}, candidate{why: lacking}
	for _, p := range matches {
		c := q.candidate(p)
		c.why, c.expected = q.admit(c.m, c.state, false)
		q.rate(&c)
		if cmp.Or(cmp.Compare(c.why, nearest.why), cmp.Compare(c.expected, nearest.expected), c.compare(nearest.pick)) < 0 {
			nearest = c
		}
	}
	switch nearest.why {
	case lacking:
		return q.helpful(err)
	case unwanted:
		err.Reason = fmt.Sprintf("Of the models with capabilities [%s] that can be served now, the score function wants none", strings.Join(err.Capabilities, ", "))
		return q.helpful(err)
	}
	err.Unsafe = q.helpful(q.refusal(&nearest, "Model"))
	return err
}

// helpful adds to a refusal what takes the whole library to find. A preferred model
// that is only fallen back from gets the sentence alone.
func (q *query) helpful(err error) error {
	switch e := err.(type) {
	case *tier.NotFoundError:
		return q.v.Library.Unknown(e.Name)
	case *tier.CapacityError:
		if !e.Never {
			e.Holders = holders(q.v)
		}
	case *tier.NoCapableModelError:
		e.Nearest = q.nearest()
		for _, m := range q.v.Library.All() {
			if len(e.Able) < maxAble && m.VersionOf == "" && q.meets(m) {
				e.Able = append(e.Able, m.Name)
			}
		}
	}
	return err
}

// lacks says which requirements the model does not meet.
func (q *query) lacks(m *tier.Model) string {
	if m.VersionOf != "" && q.meets(m) {
		return "is an older version of " + m.VersionOf
	}
	return "lacks " + strings.Join(slices.Collect(q.unmet(m)), ", ")
}

// requirements are the capabilities and constraints that are required, as text.
func (q *query) requirements() []string {
	list := slices.Clone(q.asked)
	for _, c := range q.req.Constraints {
		list = append(list, c.String())
	}
	return list
}

// shortage is the error of a candidate that memory does not allow: in the recorded
// words where they are recorded.
func (q *query) shortage(c *candidate, who string) *tier.CapacityError {
	v, m := q.v, c.m
	err := &tier.CapacityError{Model: m.Name, Tier: tier.Swap, Need: m.Size, Free: v.Memory.Available.Plus(v.SwapFor(c.state)), Limit: q.ceiling(m, c.state)}
	what := "Insufficient capacity"
	if m.Home == tier.RAM {
		err.Tier, err.Free, what = tier.RAM, v.Memory.Available, "Insufficient RAM"
	}
	if !resident(c.state) && m.Size > err.Limit {
		need, have := m.Size.Apart(err.Free)
		err.Detail = fmt.Sprintf("%s: need %sGB, have %sGB", what, need, have)
		if m.Size <= err.Free { // there is enough, but one model may not take all of it
			err.Detail += fmt.Sprintf(", of which one model may take %.1fGB", err.Limit.GB())
		}
	}
	switch {
	case tooLarge(v, m, c.state):
		err.Never, err.Tier, err.Need = true, tier.RAM, m.Size.Plus(m.Runtime)
		if c.state.InPlace && v.Limits.Of(tier.Swap) > v.Limits.Of(tier.RAM) {
			err.Tier, err.Need = tier.Swap, m.Size
		}
		err.Limit = v.Limits.Of(err.Tier)
		err.Free = err.Limit
		if err.Detail == "" {
			need, limit := err.Need.Apart(err.Limit)
			err.Detail = fmt.Sprintf("Model too large: need %sGB, limit %sGB", need, limit)
		}
	case stuck(c.state):
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

// nearest names what the library has that is nearest to what is required:
// capabilities that look like the unknown ones, and values of the labels that
// constraints speak of; else any capabilities.
func (q *query) nearest() []string {
	known, near := make(map[string]bool), make(map[string]bool)
	for _, m := range q.v.Library.All() {
		if len(known)+len(near) >= maxKnown {
			break
		}
		for _, c := range m.Capabilities {
			known[c] = true
		}
		for _, c := range q.req.Constraints {
			if value, ok := m.Labels[c.Label]; ok && !c.Met(m) {
				near[c.Label+" = "+value] = true
			}
		}
	}
	for _, c := range q.req.Capabilities {
		if !known[c] {
			for _, name := range tier.Nearest(c, slices.Sorted(maps.Keys(known))) {
				near[name] = true
			}
		}
	}
	if len(near) == 0 {
		near = known
	}
	names := slices.Sorted(maps.Keys(near))
	return names[:min(len(names), maxNear)]
}
