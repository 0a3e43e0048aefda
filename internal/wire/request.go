package wire

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Operations: what Parse makes of a request.
type (
	// Select asks for a model by name, by task and priority, or for any.
	Select struct{ tier.Request }
	// HotLoad adds a model. Only its syntax was checked, and its Size may be zero
	// if it has a Path.
	HotLoad struct{ tier.Model }
	// MoveTier starts a move.
	MoveTier struct {
		Model string
		To    tier.Tier
	}
	// Remove takes a model out of the library.
	Remove struct{ Model string }
	// Unload takes a model to storage; WhenIdle: it waits for its leases to end.
	Unload struct {
		Model    string
		WhenIdle bool
	}
	// Pin changes whether a model is pinned.
	Pin struct {
		Model  string
		Pinned bool
	}
	// Alias has a name stand for a model, or, with "", for none.
	Alias struct{ Name, Model string }
	// Rollback has a model become an older version of it; "": the one before.
	Rollback struct{ Model, Version string }
	// UpdateLimits changes limits; a zero field is to keep its value.
	UpdateLimits struct{ tier.Limits }
	// Hint says that a model will be asked for with a probability within a time.
	Hint struct {
		Model       string
		Probability float64
		Within      time.Duration
	}
	// Reserve asks for room for an outsider.
	Reserve struct {
		Bytes  tier.Bytes
		Reason string
		For    time.Duration // after which it is taken back; 0: when it is held no more
		Hold   bool          // until the connection ends; see ParseReservation
	}
	// Release ends a reservation.
	Release struct{ ID string }
	// JobRef asks for the state of a hot load (Load) or of a move.
	JobRef struct {
		ID   string
		Load bool
	}
	// Query is an operation without arguments, by its key on the wire.
	Query string
)

// The queries.
const (
	TierStatus   Query = "tier_status"
	AutoOptimize Query = "auto_optimize"
	ListModels   Query = "list_models"
)

// requestKeys are the keys of a request, as the error of an unknown one lists them.
const requestKeys = "model, auto_select, preferences, constraints, deadline_ms, policy, background, explain, capabilities, priority, preferred_model, fallback, hot_load, load_status, move_tier, tier_job_status, tier_status, update_limits, auto_optimize, list_models, hint, reserve, release, remove, unload, pin, alias, rollback"

// TooLarge is the error of a request of more than max bytes.
func TooLarge(max int64) error {
	return Invalid(fmt.Sprintf("Request is larger than %d bytes", max), "Send a smaller request.")
}

// Parse returns the operation that a request of at most max bytes asks for: a
// *Select, *HotLoad, *MoveTier, *Remove, *Unload, *Pin, *Alias, *Rollback,
// *UpdateLimits, *Hint, *Reserve, *Release, *JobRef or Query. An error is a
// *tier.InvalidError that names what is wrong, or several of them, joined. Keys are
// exact: neither another case nor a duplicate is forgiven.
func Parse(raw []byte, max int64) (any, error) {
	if int64(len(raw)) > max {
		return nil, TooLarge(max)
	}
	if err := check(raw); err != nil {
		return nil, err
	}
	const selection = "a selection"
	sel := &Select{}
	var op any
	first := "" // the operation named so far
	err := eachField("request", bytes.TrimSpace(raw), func(key string, value []byte) (err error) {
		name := key
		switch key {
		case "hot_load":
			op, err = parseHotLoad(value)
		case "load_status", "tier_job_status":
			ref := &JobRef{Load: key == "load_status"}
			ref.ID, err = text(key, value)
			op = ref
		case "move_tier":
			op, err = parseMoveTier(value)
		case "remove":
			remove := &Remove{}
			remove.Model, err = nonEmpty(key, value)
			op = remove
		case "unload":
			op, err = parseUnload(value)
		case "pin":
			op, err = parsePin(value)
		case "alias":
			op, err = parseAlias(value)
		case "rollback":
			op, err = parseRollback(value)
		case "hint":
			op, err = parseHint(value)
		case "update_limits":
			op, err = parseLimits(value)
		case "reserve":
			op, err = parseReserve(key, value, false)
		case "release":
			release := &Release{}
			release.ID, err = nonEmpty(key, value)
			op = release
		case string(TierStatus), string(AutoOptimize), string(ListModels):
			op = Query(key)
			_, err = onlyTrue(key, value)
		default:
			name = selection
			err = sel.field(key, value)
		}
		if err == nil && first != "" && first != name {
			err = &tier.InvalidError{Field: "request", Value: "with " + first + " and " + name, Rule: "must be one operation"}
		}
		first = name
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case first == "" || first == selection:
		sel.Fallback = sel.Fallback && sel.Preferred != ""
		return sel, sel.Validate()
	}
	return op, nil
}

var (
	fallback = ruled(text, func(s string) bool { return s == "auto" }, `must be "auto", or be left out`)
	deadline = ruled(number, func(ms float64) bool { return ms > 0 && ms <= float64(tier.MaxDeadline/time.Millisecond) }, "must be positive, and at most a day")
	within   = ruled(number, func(s float64) bool { return s > 0 && s <= 24*3600 }, "must be positive, and a day at most")
	lifetime = ruled(number, func(s float64) bool { return s > 0 && s <= MaxLifetime.Seconds() }, "must be positive, and 30 days at most")
	reason   = ruled(text, func(s string) bool { return len(s) <= MaxReason }, fmt.Sprintf("must have %d bytes at most", MaxReason))
	quality  = ruled(number, func(q float64) bool { return q >= 0 }, "must be 0 or more")
)

func (sel *Select) field(key string, value []byte) (err error) {
	switch key {
	case "model":
		sel.Model, err = nonEmpty(key, value)
	case "preferred_model":
		sel.Preferred, err = nonEmpty(key, value)
	case "fallback":
		_, err = fallback(key, value)
		sel.Fallback = true
	case "auto_select":
		_, err = onlyTrue(key, value)
	case "capabilities":
		sel.Capabilities, err = texts(key, value)
	case "priority":
		var s string
		if s, err = text(key, value); err == nil {
			sel.Priority, err = tier.ParsePriority(s)
		}
	case "preferences":
		sel.Preferences, err = texts(key, value)
	case "constraints":
		var list []string
		list, err = texts(key, value)
		for i := 0; i < len(list) && err == nil; i++ {
			var c tier.Constraint
			c, err = tier.ParseConstraint(list[i])
			sel.Constraints = append(sel.Constraints, c)
		}
	case "deadline_ms":
		var ms float64
		ms, err = deadline(key, value)
		sel.Deadline = time.Duration(ms * float64(time.Millisecond))
	case "policy":
		sel.Policy, err = nonEmpty(key, value)
	case "background":
		sel.Background, err = flag(key, value)
	case "explain":
		sel.Explain, err = flag(key, value)
	default:
		err = unknownKey("request", key, requestKeys)
	}
	return err
}

func parseHotLoad(raw []byte) (*HotLoad, error) {
	m := &HotLoad{}
	var config []byte
	err := readObject("hot_load", raw, []field{
		{"model_name", into(&m.Name, text)},
		{"model_config", into(&config, asIs)},
	})
	switch {
	case err != nil:
		return nil, err
	case m.Name == "" || config == nil:
		return nil, Invalid("Missing model_name or model_config", `Send {"hot_load": {"model_name": …, "model_config": {"size_gb": …, "tier": "ram", "capabilities": […]}}}.`)
	}
	const unset = tier.Tier(tier.Count)
	m.Home = unset
	err = readObject("model_config", config, []field{
		{"size_gb", into(&m.Size, size)},
		{"runtime_gb", into(&m.Runtime, size)},
		{"tier", into(&m.Home, tierName)},
		{"capabilities", into(&m.Capabilities, texts)},
		{"path", into(&m.Path, text)},
		{"parts", into(&m.Parts, parts)},
		{"digests", into(&m.Digests, digests)},
		{"quality", into(&m.Quality, quality)},
		{"pinned", into(&m.Pinned, flag)},
		{"labels", into(&m.Labels, labels)},
		{"engine", into(&m.Mover, nonEmpty)},
	})
	if err != nil {
		return nil, err
	}
	var missing []string
	if m.Capabilities == nil {
		missing = append(missing, "capabilities")
	}
	if m.Size == 0 && m.Path == "" {
		missing = append(missing, "size_gb or path")
	}
	if m.Home == unset {
		missing = append(missing, "tier")
	}
	switch {
	case missing != nil:
		return nil, Invalid("Invalid model configuration", "model_config needs tier, capabilities, and size_gb or a path that can be measured; missing here: "+strings.Join(missing, ", ")+".")
	case m.Home == tier.Storage:
		return nil, Invalid("Cannot hot load into storage", "Name the tier ram or swap; a model that is not asked for moves to storage by itself.")
	}
	return m, nil
}

func parseMoveTier(raw []byte) (*MoveTier, error) {
	mv := &MoveTier{}
	target := ""
	err := readObject("move_tier", raw, []field{
		{"model_name", into(&mv.Model, text)},
		{"target_tier", into(&target, text)},
	})
	switch {
	case err != nil:
	case mv.Model == "" || target == "":
		err = Invalid("Missing model_name or target_tier", `Send {"move_tier": {"model_name": …, "target_tier": "ram"}}.`)
	default:
		mv.To, err = parseTier(target)
	}
	return mv, err
}

// templated is the error of an operation about a value that breaks a rule: it also says
// what to send.
func templated(err error, template string) error {
	if bad, ok := err.(*tier.InvalidError); ok && bad.Help == nil {
		bad.Help = append(bad.Suggestions(), template)
	}
	return err
}

func parseUnload(raw []byte) (*Unload, error) {
	u := &Unload{}
	err := readObject("unload", raw, []field{
		{"model_name", into(&u.Model, nonEmpty)},
		{"when_idle", into(&u.WhenIdle, flag)},
	})
	const template = `Send {"unload": {"model_name": …, "when_idle": true}}; when_idle may be left out.`
	if err == nil && u.Model == "" {
		err = Invalid("Missing model_name", template)
	}
	return u, templated(err, template)
}

func parsePin(raw []byte) (*Pin, error) {
	p, said := &Pin{}, false
	err := readObject("pin", raw, []field{
		{"model_name", into(&p.Model, nonEmpty)},
		{"pinned", func(key string, raw []byte) (err error) {
			said = true
			p.Pinned, err = flag(key, raw)
			return err
		}},
	})
	const template = `Send {"pin": {"model_name": …, "pinned": true}}.`
	if err == nil && (p.Model == "" || !said) {
		err = Invalid("Missing model_name or pinned", template)
	}
	return p, templated(err, template)
}

// parseAlias reads an alias, whose model may be null and not left out.
func parseAlias(raw []byte) (*Alias, error) {
	a, said := &Alias{}, false
	err := readObject("alias", raw, []field{
		{"name", into(&a.Name, nonEmpty)},
		{"model_name", func(key string, raw []byte) (err error) {
			if said = true; string(raw) != "null" {
				a.Model, err = nonEmpty(key, raw)
			}
			return err
		}},
	})
	const template = `Send {"alias": {"name": …, "model_name": …}}; null as model_name removes the alias.`
	if err == nil && (a.Name == "" || !said) {
		err = Invalid("Missing name or model_name", template)
	}
	return a, templated(err, template)
}

func parseRollback(raw []byte) (*Rollback, error) {
	r := &Rollback{}
	err := readObject("rollback", raw, []field{
		{"model_name", into(&r.Model, nonEmpty)},
		{"version", into(&r.Version, nonEmpty)},
	})
	if err == nil && r.Model == "" {
		err = Invalid("Missing model_name", `Send {"rollback": {"model_name": …, "version": …}}; without a version it is the one before.`)
	}
	return r, err
}

// parseHint reads a hint. Without a probability the request is certain, without a
// time it is expected within a minute.
func parseHint(raw []byte) (*Hint, error) {
	h := &Hint{Probability: 1, Within: time.Minute}
	seconds := h.Within.Seconds()
	err := readObject("hint", raw, []field{
		{"model_name", into(&h.Model, text)},
		{"probability", into(&h.Probability, number)},
		{"within_s", into(&seconds, within)},
	})
	h.Within = time.Duration(seconds * float64(time.Second))
	if err == nil && h.Model == "" {
		err = Invalid("Missing model_name", `Send {"hint": {"model_name": …, "probability": 0.8, "within_s": 30}}.`)
	}
	return h, err
}

// MaxReason bounds the bytes of what a reservation says it is for, MaxLifetime its time.
// DefaultLifetime is that of one that is not held and says none: its client may never have
// got the answer, and so not know what to release.
const (
	MaxReason       = 256
	MaxLifetime     = 30 * 24 * time.Hour
	DefaultLifetime = 10 * time.Minute
)

// ParseReservation reads the body of a reservation over HTTP of at most max bytes: what
// "reserve" has in a request, and "hold".
func ParseReservation(raw []byte, max int64) (*Reserve, error) {
	if int64(len(raw)) > max {
		return nil, TooLarge(max)
	}
	if err := check(raw); err != nil {
		return nil, err
	}
	return parseReserve("request", bytes.TrimSpace(raw), true)
}

func parseReserve(name string, raw []byte, hold bool) (*Reserve, error) {
	r, seconds := &Reserve{}, 0.0
	fields := []field{
		{"gb", into(&r.Bytes, size)},
		{"reason", into(&r.Reason, reason)},
		{"for_s", into(&seconds, lifetime)},
	}
	if hold {
		fields = append(fields, field{"hold", into(&r.Hold, flag)})
	}
	err := readObject(name, raw, fields)
	switch {
	case err != nil:
		return nil, err
	case r.Bytes == 0:
		return nil, Invalid("Missing gb", `Say how much: {"gb": 4, "reason": "a game", "for_s": 600}; reason and for_s may be left out.`)
	case seconds > 0:
		r.For = max(time.Duration(seconds*float64(time.Second)), 1)
	case !r.Hold:
		r.For = DefaultLifetime
	}
	return r, nil
}

func parseLimits(raw []byte) (*UpdateLimits, error) {
	l := &UpdateLimits{}
	return l, readObject("update_limits", raw, []field{
		{"ram_max_gb", into(&l.RAM, limit)},
		{"swap_max_gb", into(&l.Swap, limit)},
		{"ram_reserved_gb", into(&l.Reserved, limit)},
	})
}
