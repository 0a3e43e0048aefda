package modeltier

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// operation is one parsed request of the JSON contract: one of its pointers is
// set, or query.
type operation struct {
	selection *Request
	hotLoad   *tier.Model
	moveTier  *moveRequest
	limits    *tier.Limits
	hint      *hintRequest
	query     string // one of the operations that carry at most a job's ID
	job       string
}

type moveRequest struct {
	model string
	to    tier.Tier
}

type hintRequest struct {
	model       string
	probability float64
	within      time.Duration
}

// parseRequest reads one request of the contract.
func parseRequest(raw []byte) (*operation, error) {
	op := &operation{}
	first := "" // the operation that was named
	sel := &selectionParser{}
	err := eachField("request", raw, func(key string, value json.RawMessage) (err error) {
		name := key
		switch key {
		case "hot_load":
			op.hotLoad, err = parseHotLoad(value)
		case "load_status", "tier_job_status":
			op.query = key
			op.job, err = text(key, value)
		case "move_tier":
			op.moveTier, err = parseMoveTier(value)
		case "hint":
			op.hint, err = parseHint(value)
		case "update_limits":
			op.limits, err = parseLimits(value)
		case "tier_status", "auto_optimize", "list_models":
			op.query, err = key, onlyTrue(key, value)
		default:
			name = "a selection"
			err = sel.field(key, value)
		}
		switch {
		case err != nil:
			return err
		case first != "" && first != name:
			return bad("request", fmt.Sprintf("with %s and %s", first, name), "must be one operation")
		}
		first = name
		return nil
	})
	if err != nil {
		return nil, err
	}
	if first == "" || first == "a selection" {
		op.selection, err = sel.request()
	}
	return op, err
}

// parseHotLoad reads {"model_name", "model_config"}.
func parseHotLoad(raw json.RawMessage) (*tier.Model, error) {
	m := &tier.Model{}
	var config json.RawMessage
	err := eachField("hot_load", raw, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "model_name":
			m.Name, err = text(key, value)
		case "model_config":
			config = value
		default:
			err = unknownKey("hot_load", key, "model_name, model_config")
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case m.Name == "" || config == nil:
		return nil, worded("Missing model_name or model_config", `Send {"hot_load": {"model_name": …, "model_config": {"size_gb": …, "tier": "ram", "capabilities": […]}}}.`)
	}
	var sized, tiered, capable bool
	err = eachField("model_config", config, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "size_gb":
			sized = true
			m.Size, err = size(key, value)
		case "runtime_gb":
			m.Runtime, err = size(key, value)
		case "tier":
			tiered = true
			var name string
			if name, err = text(key, value); err == nil {
				m.Home, err = parseTier(name)
			}
		case "capabilities":
			capable = true
			m.Capabilities, err = texts(key, value)
		case "path":
			m.Path, err = text(key, value)
		case "quality":
			if m.Quality, err = number(key, value); err == nil && (m.Quality < 0 || math.IsInf(m.Quality, 0)) {
				err = bad(key, excerpt(value), "must be 0 or more")
			}
		case "pinned":
			m.Pinned, err = flag(key, value)
		case "labels":
			m.Labels = make(map[string]string)
			err = eachField(key, value, func(k string, v json.RawMessage) (err error) {
				m.Labels[k], err = text("label "+strconv.Quote(excerpt([]byte(k))), v)
				return err
			})
		default:
			err = unknownKey("model_config", key, "size_gb, runtime_gb, tier, capabilities, path, quality, pinned, labels")
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !tiered || !capable || !sized && m.Path == "":
		var missing []string
		if !capable {
			missing = append(missing, "capabilities")
		}
		if !sized && m.Path == "" {
			missing = append(missing, "size_gb or path")
		}
		if !tiered {
			missing = append(missing, "tier")
		}
		return nil, worded("Invalid model configuration", fmt.Sprintf("model_config needs tier, capabilities, and size_gb or a path that can be measured; missing here: %s.", strings.Join(missing, ", ")))
	case m.Home == tier.Storage:
		return nil, worded("Cannot hot load into storage", "Name the tier ram or swap; a model that is not asked for moves to storage by itself.")
	}
	return m, nil
}

func parseTier(name string) (tier.Tier, error) {
	t, err := tier.ParseTier(name)
	if err != nil {
		return 0, worded("Unknown target tier: "+excerpt([]byte(name)), "Tiers are ram, swap and storage.")
	}
	return t, nil
}

// parseMoveTier reads {"model_name", "target_tier"}.
func parseMoveTier(raw json.RawMessage) (*moveRequest, error) {
	mv := &moveRequest{}
	target := ""
	err := eachField("move_tier", raw, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "model_name":
			mv.model, err = text(key, value)
		case "target_tier":
			target, err = text(key, value)
		default:
			err = unknownKey("move_tier", key, "model_name, target_tier")
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case mv.model == "" || target == "":
		return nil, worded("Missing model_name or target_tier", `Send {"move_tier": {"model_name": …, "target_tier": "ram"}}.`)
	}
	mv.to, err = parseTier(target)
	return mv, err
}

// parseHint reads a hint: that a model is asked for with a probability (left out:
// surely) within some seconds (left out: a minute).
func parseHint(raw json.RawMessage) (*hintRequest, error) {
	h := &hintRequest{probability: 1, within: time.Minute}
	err := eachField("hint", raw, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "model_name":
			h.model, err = text(key, value)
		case "probability":
			h.probability, err = number(key, value)
		case "within_s":
			var s float64
			if s, err = number(key, value); err == nil && !(s > 0 && s <= 24*3600) {
				err = bad(key, excerpt(value), "must be positive, and a day at most")
			}
			h.within = time.Duration(s * float64(time.Second))
		default:
			err = unknownKey("hint", key, "model_name, probability, within_s")
		}
		return err
	})
	if err == nil && h.model == "" {
		err = worded("Missing model_name", `Send {"hint": {"model_name": …, "probability": 0.8, "within_s": 30}}.`)
	}
	return h, err
}

// parseLimits reads the fields of update_limits; those left out stay zero.
func parseLimits(raw json.RawMessage) (*tier.Limits, error) {
	l := &tier.Limits{}
	return l, eachField("update_limits", raw, func(key string, value json.RawMessage) error {
		into := map[string]*tier.Bytes{"ram_max_gb": &l.RAM, "swap_max_gb": &l.Swap, "ram_reserved_gb": &l.Reserved}[key]
		if into == nil {
			return unknownKey("update_limits", key, "ram_max_gb, swap_max_gb, ram_reserved_gb")
		}
		gb, err := number(key, value)
		if err != nil {
			return err
		}
		b, err := tier.FromGB(gb)
		switch {
		case err != nil:
			return bad(key, excerpt(value), "must be a finite number of GB below 2^33")
		case gb < 0:
			return bad(key, excerpt(value), "must not be negative")
		}
		*into = max(b, 1) // nothing at all is what a Limits cannot say with zero: the floors decide
		return nil
	})
}

// selectionParser gathers the fields of a selection.
type selectionParser struct {
	req      Request
	fallback string
}

func (p *selectionParser) field(key string, value json.RawMessage) (err error) {
	switch key {
	case "model":
		p.req.Model, err = name(key, value)
	case "preferred_model":
		p.req.Preferred, err = name(key, value)
	case "fallback":
		if p.fallback, err = text(key, value); err == nil && p.fallback != "auto" {
			err = bad(key, excerpt(value), `must be "auto", or be left out`)
		}
	case "auto_select":
		err = onlyTrue(key, value)
	case "capabilities":
		p.req.Capabilities, err = texts(key, value)
	case "priority":
		var s string
		if s, err = text(key, value); err == nil {
			p.req.Priority, err = tier.ParsePriority(s)
		}
	case "preferences":
		p.req.Preferences, err = texts(key, value)
	case "constraints":
		var list []string
		if list, err = texts(key, value); err == nil {
			p.req.Constraints, err = constraints(list)
		}
	case "deadline_ms":
		var ms float64
		if ms, err = number(key, value); err == nil {
			if !(ms > 0 && ms <= float64(tier.MaxDeadline/time.Millisecond)) {
				return bad(key, excerpt(value), "must be positive, and at most a day")
			}
			p.req.Deadline = time.Duration(ms * float64(time.Millisecond))
		}
	case "policy":
		p.req.Policy, err = name(key, value)
	case "background":
		p.req.Background, err = flag(key, value)
	case "explain":
		p.req.Explain, err = flag(key, value)
	default:
		err = unknownKey("request", key, "model, auto_select, preferences, constraints, deadline_ms, policy, background, explain, capabilities, priority, preferred_model, fallback, hot_load, load_status, move_tier, tier_job_status, tier_status, update_limits, auto_optimize, list_models, hint")
	}
	return err
}

func constraints(texts []string) ([]tier.Constraint, error) {
	out := make([]tier.Constraint, len(texts))
	for i, text := range texts {
		c, err := tier.ParseConstraint(text)
		if err != nil {
			return nil, err
		}
		out[i] = c
	}
	return out, nil
}

func (p *selectionParser) request() (*Request, error) {
	p.req.Fallback = p.req.Preferred != "" && p.fallback == "auto"
	return &p.req, p.req.Validate()
}
