package selector

import (
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// mostNearest is how many near capabilities an error names.
const mostNearest = 8

// fromNothing answers where the library is empty.
func (e *engine) fromNothing(req *tier.Request, v *tier.View) error {
	if err := req.Validate(); err != nil {
		return err
	}
	name := req.Model
	if name == "" && !req.Fallback {
		name = req.Preferred
	}
	if name != "" {
		return notFound(name, v.Library)
	}
	return &tier.NoCapableModelError{Capabilities: requirements(req)}
}

// nobody is the error of a request in auto that no model may serve: that none has
// what it requires; or why those that have may not.
func (e *engine) nobody(req *tier.Request, v *tier.View, st *standing, r *ranking) error {
	err := &tier.NoCapableModelError{Capabilities: requirements(req)}
	if len(req.Capabilities) == 0 {
		err.Capabilities = append(slices.Clone(r.required), err.Capabilities...)
	}
	if !r.able {
		err.Nearest = e.nearest(req, v)
		return err
	}
	ceiling := e.fractions.ceilings(v)
	var short, large pick
	var fastest *tier.DeadlineError
	for i := range st.index.entries {
		en, s := &st.index.entries[i], &v.States[i]
		if !r.admits(en, v.Library) {
			continue
		}
		c := st.candidate(r, en, v)
		p := e.pick(r, c, st)
		switch {
		case never(v, en.size, en.need, s):
			if p.better(large) {
				large = p
			}
		case stuck(s) || en.size > ceiling[en.home] && !resident(s):
			if p.better(short) {
				short = p
			}
		default: // it must be late
			if t := e.policy.expected(c, st); fastest == nil || t < fastest.Expected {
				fastest = &tier.DeadlineError{Model: v.Library.At(i).Name, Expected: t, Deadline: req.Deadline}
			}
		}
	}
	switch { // the best way out first: more time, more memory, higher limits
	case fastest != nil:
		err.Unsafe = fastest
	case short.found:
		err.Unsafe = e.short(v, int(short.model), anyModel)
	default:
		err.Unsafe = e.short(v, int(large.model), anyModel)
	}
	return err
}

// expected is the predicted time until model i can be used.
func (e *engine) expected(v *tier.View, i int) time.Duration {
	st := e.stand(v)
	c := candidate{entry: &st.index.entries[i], state: &v.States[i]}
	if st.records != nil {
		c.record = st.records[i]
	}
	return e.policy.expected(c, st)
}

// nearest names what the library has that is nearest to what the request
// requires: capabilities that look like the unknown ones; where each one is
// known, those of the models that have most of them; the values of labels that
// constraints speak of; else whatever the library knows.
func (e *engine) nearest(req *tier.Request, v *tier.View) []string {
	var known, near []string
	most, fullest := 0, -1
	seen := make(map[string]bool)
	for i, m := range v.Library.All() {
		for _, c := range m.Capabilities {
			if len(known) < 4096 && !seen[c] {
				seen[c] = true
				known = append(known, c)
			}
		}
		has := 0
		for _, c := range req.Capabilities {
			if e.taxonomy.can(m.Capabilities, c) {
				has++
			}
		}
		if has > most {
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
		near = append(near, e.values(req, v, &req.Constraints[i])...)
	}
	if len(near) == 0 {
		near = known
	}
	slices.Sort(near)
	near = slices.Compact(near)
	return near[:min(len(near), mostNearest)]
}

// values are a few of the values that the constraint's label has among the models
// that have the capabilities, where none of them meets it.
func (e *engine) values(req *tier.Request, v *tier.View, c *tier.Constraint) []string {
	const most = 3
	var found []string
	for _, m := range v.Library.All() {
		if !e.taxonomy.canAll(m.Capabilities, req.Capabilities) {
			continue
		}
		if c.Met(m) {
			return nil
		}
		if value, ok := m.Labels[c.Label]; ok && len(found) < most {
			if text := c.Label + " = " + value; !slices.Contains(found, text) {
				found = append(found, text)
			}
		}
	}
	return found
}
