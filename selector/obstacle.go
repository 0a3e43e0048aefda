package selector

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// obstacle is why a model may not serve a request.
type obstacle uint8

const (
	none     obstacle = iota
	lacking           // it lacks a capability, or does not meet a constraint
	tooLarge          // it fits no tier that it can be served from
	unsafe            // memory is short
	late              // it is not expected to make the deadline
)

// obstacle returns what keeps model i from serving the request, the first of
// them in the order above. It allocates nothing.
func (e *engine) obstacle(req *tier.Request, v *tier.View, i int) obstacle {
	m, s := v.Library.At(i), &v.States[i]
	switch {
	case len(req.Capabilities) > 0 && !e.taxonomy.canAll(m.Capabilities, req.Capabilities),
		len(req.Constraints) > 0 && unmet(req.Constraints, m) != nil:
		return lacking
	case never(v, m.Size, m.Size.Plus(m.Runtime), s):
		return tooLarge
	case !resident(s) && m.Size > e.fractions.ceilings(v)[m.Home]:
		return unsafe
	case req.Deadline > 0 && e.expected(v, i) > req.Deadline:
		return late
	}
	return none
}

// refuse returns the error of a model that was asked for by name and may not
// serve the request.
func (e *engine) refuse(req *tier.Request, v *tier.View, name string) error {
	if err := req.Validate(); err != nil {
		return err
	}
	i, ok := v.Library.Find(name)
	if !ok {
		return notFound(name, v.Library)
	}
	switch e.obstacle(req, v, i) {
	case lacking:
		return e.lacks(req, v, i)
	case late:
		return &tier.DeadlineError{Model: name, Expected: e.expected(v, i), Deadline: req.Deadline}
	}
	return e.short(v, i, explicit)
}

// Beginnings of the sentences about a model.
const (
	explicit  = "Explicit model "
	preferred = "Preferred model "
	anyModel  = "Model "
)

// why is what refuse says, less what it takes the whole library to find out. who
// begins the sentence.
func (e *engine) why(req *tier.Request, v *tier.View, name, who string) string {
	i, ok := v.Library.Find(name)
	if !ok {
		return (&tier.NotFoundError{What: "model", Name: name}).Error()
	}
	switch e.obstacle(req, v, i) {
	case lacking:
		return lacksText(who, name, e.missing(req, v.Library.At(i)))
	case late:
		return (&tier.DeadlineError{Model: name, Expected: e.expected(v, i), Deadline: req.Deadline}).Error()
	}
	_, short := e.shortage(v, i)
	return unsafeText(who, name, short)
}

func lacksText(who, name string, lacks []string) string {
	return who + "'" + name + "' lacks " + strings.Join(lacks, ", ")
}

func unsafeText(who, name, why string) string { return who + "'" + name + "' unsafe: " + why }

// notFound looks for near misses among a bounded number of names, so that
// unknown names can't keep a big library's server busy.
func notFound(name string, lib *tier.Library) error {
	const most = 4096
	var names []string
	if lib != nil {
		for _, m := range lib.All() {
			off := len(m.Name) - len(name)
			if max(off, -off) <= 1+len(name)/4 || strings.Contains(m.Name, name) || strings.Contains(name, m.Name) {
				if names = append(names, m.Name); len(names) == most {
					break
				}
			}
		}
	}
	return &tier.NotFoundError{What: "model", Name: name, Nearby: tier.Nearest(name, names)}
}

// short is the error of a model that memory does not allow. who begins its
// sentence.
func (e *engine) short(v *tier.View, i int, who string) *tier.CapacityError {
	err, why := e.shortage(v, i)
	err.Reason = unsafeText(who, err.Model, why)
	if !err.Never {
		err.Holders = holders(v)
	}
	return err
}

// lacks words a need and what there is for it.
func lacks(format string, need, have tier.Bytes) string {
	a, b := tier.Apart(need, have)
	return fmt.Sprintf(format, a, b)
}

// shortage is what memory lacks for model i, and the same in words: the recorded
// ones where it is recorded.
func (e *engine) shortage(v *tier.View, i int) (err *tier.CapacityError, why string) {
	m, s := v.Library.At(i), &v.States[i]
	available, both := v.Memory.Available, v.Memory.Available.Plus(v.FreeSwap)
	err = &tier.CapacityError{Model: m.Name, Tier: tier.Swap, Need: m.Size, Free: both, Limit: e.fractions.ceilings(v)[m.Home]}
	switch {
	case resident(s) || m.Size <= err.Limit:
	case m.Home == tier.RAM:
		err.Tier, err.Free = tier.RAM, available
		why = lacks("Insufficient RAM: need %sGB, have %sGB", m.Size, available)
	default:
		why = lacks("Insufficient capacity: need %sGB, have %sGB", m.Size, both)
	}
	if why != "" && m.Size <= err.Free { // there is enough, but not all of it may be taken
		why += fmt.Sprintf(", of which one model may take %.1fGB", err.Limit.GB())
	}
	switch {
	case never(v, m.Size, m.Size.Plus(m.Runtime), s):
		err.Never, err.Tier = true, tier.RAM
		if s.InPlace && v.Limits.Of(tier.Swap) > v.Limits.Of(tier.RAM) {
			err.Tier = tier.Swap
		} else {
			err.Need = m.Size.Plus(m.Runtime)
		}
		err.Limit = v.Limits.Of(err.Tier)
		err.Free = err.Limit
		if why == "" {
			why = lacks("Model too large: need %sGB, limit %sGB", err.Need, err.Limit)
		}
	case stuck(s):
		why = "a move of it is stuck"
	}
	return err, why
}

// holders are the models that hold memory, the largest few first.
func holders(v *tier.View) []tier.Holder {
	const most = 8
	var all []tier.Holder
	for i, m := range v.Library.All() {
		s := &v.States[i]
		if held := v.Footprint(i)[tier.RAM]; held > 0 {
			all = append(all, tier.Holder{Model: m.Name, Bytes: held, Leases: int(s.Leases), Pinned: m.Pinned, Moving: s.Moving, Stuck: s.Stuck})
		}
	}
	slices.SortStableFunc(all, func(a, b tier.Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return slices.Clone(all[:min(len(all), most)])
}

// LacksError is a named model that lacks what the request requires. It unwraps
// to a *tier.NoCapableModelError.
type LacksError struct {
	Model string
	// Lacks are the capabilities and constraints that it does not meet.
	Lacks []string
	// Able are models that do, if any; at most three.
	Able []string

	reason  string
	general *tier.NoCapableModelError
}

func (e *LacksError) Error() string { return e.reason }

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

// lacks says what model i lacks of the request, and who has it.
func (e *engine) lacks(req *tier.Request, v *tier.View, i int) error {
	const most = 3
	m := v.Library.At(i)
	err := &LacksError{Model: m.Name, Lacks: e.missing(req, m)}
	for _, other := range v.Library.All() {
		if len(err.Able) < most && len(e.missing(req, other)) == 0 {
			err.Able = append(err.Able, other.Name)
		}
	}
	err.general = &tier.NoCapableModelError{Capabilities: requirements(req), Nearest: e.nearest(req, v)}
	err.reason = lacksText(explicit, m.Name, err.Lacks)
	return err
}

// missing are the requirements that the model does not meet.
func (e *engine) missing(req *tier.Request, m *tier.Model) []string {
	var list []string
	for _, c := range req.Capabilities {
		if !e.taxonomy.can(m.Capabilities, c) {
			list = append(list, c)
		}
	}
	for i := range req.Constraints {
		if c := &req.Constraints[i]; !c.Met(m) {
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
