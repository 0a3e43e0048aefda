package modeltier

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

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

// bad is an error of a request that can be seen to be wrong.
func bad(field, value, rule string) error {
	return &tier.InvalidError{Field: field, Value: value, Rule: rule}
}

// worded is bad with a sentence that the contract fixes.
func worded(reason string, help ...string) error {
	return &tier.InvalidError{Reason: reason, Help: help}
}

// excerpt is a value from outside, short enough for an error.
func excerpt(raw []byte) string {
	const most = 40
	if len(raw) > most {
		return string(bytes.ToValidUTF8(raw[:most], nil)) + "…"
	}
	return string(bytes.ToValidUTF8(raw, nil))
}

// eachField calls take for the fields of a JSON object in order. A key that
// stands twice, and anything behind the object, is an error.
func eachField(name string, raw []byte, take func(key string, value json.RawMessage) error) error {
	if !json.Valid(raw) {
		return broken(raw)
	}
	// From here on the text is known to be JSON: walking it needs no more checks.
	raw = bytes.TrimSpace(raw)
	if raw[0] != '{' {
		return bad(name, excerpt(raw), "must be a JSON object")
	}
	var few [8]string // most objects have few keys: no map for them
	seen := few[:0]
	var many map[string]bool
	for rest := skipTo(raw[1:]); rest[0] != '}'; {
		n := valueLength(rest)
		key := unquote(rest[:n])
		rest = skipTo(rest[n:]) // the colon
		rest = skipTo(rest[1:]) // the value
		n = valueLength(rest)   //
		value := rest[:n:n]     //
		rest = skipTo(rest[n:]) // a comma or the end
		if rest[0] == ',' {
			rest = skipTo(rest[1:])
		}
		switch {
		case many[key] || slices.Contains(seen, key):
			return bad("key", strconv.Quote(excerpt([]byte(key))), "must not stand twice in one object")
		case len(seen) < cap(seen):
			seen = append(seen, key)
		default:
			if many == nil {
				many = make(map[string]bool)
			}
			many[key] = true
		}
		if err := take(key, value); err != nil {
			return err
		}
	}
	return nil
}

// skipTo returns s from its first byte on that is not JSON white space.
func skipTo(s []byte) []byte {
	for s[0] == ' ' || s[0] == '\t' || s[0] == '\n' || s[0] == '\r' {
		s = s[1:]
	}
	return s
}

// valueLength returns how long the value is that valid JSON begins with.
func valueLength(s []byte) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			for i++; s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // behind a number, true, false or null
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(s)
}

// unquote decodes a JSON string that is known to be one.
func unquote(s []byte) string {
	if plain := s[1 : len(s)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return string(plain)
	}
	var out string
	if err := json.Unmarshal(s, &out); err != nil {
		return string(s) // cannot be: it is valid
	}
	return out
}

// broken says what is wrong with what is not JSON.
func broken(raw []byte) error {
	var v any
	err := json.Unmarshal(raw, &v)
	if len(bytes.TrimSpace(raw)) == 0 {
		err = errors.New("it is empty")
	}
	return &tier.InvalidError{Reason: fmt.Sprintf("Request is not valid JSON: %v", err), Help: []string{"Send one JSON object, such as {\"auto_select\": true}."}}
}

func text(field string, raw json.RawMessage) (string, error) {
	if raw[0] != '"' {
		return "", bad(field, excerpt(raw), "must be a string")
	}
	return unquote(raw), nil
}

func texts(field string, raw json.RawMessage) ([]string, error) {
	if raw[0] != '[' {
		return nil, bad(field, excerpt(raw), "must be a list of strings")
	}
	out := []string{}
	for rest := skipTo(raw[1:]); rest[0] != ']'; {
		n := valueLength(rest)
		s, err := text(field, rest[:n])
		if err != nil {
			return nil, bad(field, excerpt(raw), "must be a list of strings")
		}
		if out = append(out, s); len(out) > tier.MaxCapabilities {
			return nil, bad(field, fmt.Sprint("with more than ", tier.MaxCapabilities, " names"), fmt.Sprint("must have ", tier.MaxCapabilities, " at most"))
		}
		if rest = skipTo(rest[n:]); rest[0] == ',' {
			rest = skipTo(rest[1:])
		}
	}
	return out, nil
}

func number(field string, raw json.RawMessage) (float64, error) {
	var f *float64
	if err := json.Unmarshal(raw, &f); err != nil || f == nil {
		return 0, bad(field, excerpt(raw), "must be a number")
	}
	return *f, nil
}

func flag(field string, raw json.RawMessage) (bool, error) {
	var b *bool
	if err := json.Unmarshal(raw, &b); err != nil || b == nil {
		return false, bad(field, excerpt(raw), "must be true or false")
	}
	return *b, nil
}

func onlyTrue(field string, raw json.RawMessage) error {
	if on, err := flag(field, raw); err != nil || !on {
		return bad(field, excerpt(raw), "must be true, or be left out")
	}
	return nil
}

// size reads a positive number of GB.
func size(field string, raw json.RawMessage) (tier.Bytes, error) {
	gb, err := number(field, raw)
	if err != nil {
		return 0, err
	}
	b, err := tier.FromGB(gb)
	if err != nil || b <= 0 {
		return 0, bad(field, excerpt(raw), "must be a positive number of GB")
	}
	return b, nil
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
		return nil, worded("Invalid model configuration", "model_config needs tier, capabilities, and size_gb or a path that can be measured.")
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
		if err != nil {
			return bad(key, excerpt(value), "must be a finite number of GB below 2^33")
		}
		if b == 0 {
			b = 1 // nothing at all, which a Limits cannot say with zero: the floors decide
		}
		*into = max(b, 1)
		return nil
	})
}

func unknownKey(where, key, known string) error {
	return &tier.InvalidError{
		Reason: fmt.Sprintf("Unknown key %s in %s", strconv.Quote(excerpt([]byte(key))), where),
		Help:   []string{"Keys of " + where + " are " + known + "."},
	}
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

func name(field string, raw json.RawMessage) (string, error) {
	s, err := text(field, raw)
	if err == nil && s == "" {
		err = bad(field, `""`, "must not be empty")
	}
	return s, err
}

func (p *selectionParser) request() (*Request, error) {
	p.req.Fallback = p.req.Preferred != "" && p.fallback == "auto"
	return &p.req, p.req.Validate()
}
