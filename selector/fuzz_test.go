package selector

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// foreign is a request as it might come from outside, where nothing checked it.
type foreign struct {
	Model, Preferred, Policy  string
	Fallback, Explain         bool
	Capabilities, Preferences []string
	Constraints               []string
	Labels                    []tier.Constraint
	Priority                  uint8
	Deadline                  time.Duration
}

func FuzzSelect(f *testing.F) {
	for _, seed := range []string{
		`{}`,
		`{"Model":"gpt2-small"}`,
		`{"Preferred":"llama-7b","Fallback":true,"Capabilities":["embeddings"]}`,
		`{"Capabilities":["chat","code"],"Preferences":["vision"],"Priority":2,"Deadline":1000000000}`,
		`{"Constraints":["context >= 8192","vision"],"Explain":true,"Policy":"adaptive"}`,
		`{"Labels":[{"Label":"","Op":"?","Value":"\u0000"}],"Deadline":-5}`,
	} {
		f.Add([]byte(seed), uint8(3))
	}
	lib := newLibrary(f, recordedModels()...)
	selectors := []tier.Selector{New(), mustNew(f, Options{Policy: PolicyAdaptive})}
	f.Fuzz(func(t *testing.T, text []byte, where uint8) {
		var in foreign
		if json.Unmarshal(text, &in) != nil {
			t.Skip()
		}
		req := tier.Request{
			Model: in.Model, Preferred: in.Preferred, Fallback: in.Fallback, Policy: in.Policy, Explain: in.Explain,
			Capabilities: in.Capabilities, Preferences: in.Preferences, Priority: tier.Priority(in.Priority), Deadline: in.Deadline,
		}
		for _, c := range in.Constraints {
			if x, err := tier.ParseConstraint(c); err == nil {
				req.Constraints = append(req.Constraints, x)
			}
		}
		for _, c := range in.Labels { // also those that no parser would let through
			req.Constraints = append(req.Constraints, tier.Constraint{Label: c.Label, Op: [...]string{"", "=", "!=", ">=", "<=", ">", "<", "?"}[where%8], Value: c.Value})
		}
		v := remember(viewOf(lib), tier.Bytes(where)*tier.GiB/8, tier.GiB)
		v.States[where%6].Tier = tier.RAM
		for _, s := range selectors {
			c, err := s.Select(&req, v)
			if err != nil {
				if tier.Code(err) == "internal" || len(tier.Suggestions(err)) == 0 {
					t.Errorf("%+v: %v has code %s, suggestions %q", req, err, tier.Code(err), tier.Suggestions(err))
				}
				continue
			}
			n := naive{DefaultTaxonomy()}
			m := lib.At(c.Index)
			switch {
			case req.Validate() != nil:
				t.Errorf("%+v is not valid: %v", req, req.Validate())
			case c.Model != m.Name || !n.can(m, req.Capabilities) || !n.meets(m, req.Constraints) || !n.safe(v, c.Index):
				t.Errorf("%+v: got %+v", req, c)
			case req.Explain == (c.Explanation == nil) || math.IsInf(c.Score, 0):
				t.Errorf("%+v: got %+v", req, c)
			}
		}
	})
}

func FuzzParseConstraint(f *testing.F) {
	for _, seed := range []string{"vision", "context >= 8192", "language=fr", "a!=b", "a≥1.5k", "==", "x > ", "x < 1 < 2", "\xff>=1", "a = b,c", "!a", "n >= NaN", "n < 1e999"} {
		f.Add(seed, "8192")
	}
	f.Fuzz(func(t *testing.T, text, label string) {
		c, err := tier.ParseConstraint(text)
		if err != nil {
			if !errors.Is(err, tier.ErrInvalid) || len(tier.Suggestions(err)) == 0 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		d, err := tier.ParseConstraint(c.String())
		if err != nil || c != d {
			t.Errorf("%q reads as %+v, printed and read again as %+v, %v", text, c, d, err)
		}
		m := &tier.Model{Labels: map[string]string{c.Label: label}}
		other := c
		switch c.Op {
		case "=":
			other.Op = "!="
		case ">=":
			other.Op = "<"
		case ">":
			other.Op = "<="
		default:
			return
		}
		if c.Met(m) && other.Met(m) {
			t.Errorf("label %q meets both %v and %v", label, c, other)
		}
		if (&tier.Request{Constraints: []tier.Constraint{c, other}}).Validate() == nil {
			t.Errorf("%v and %v do not contradict each other", c, other)
		}
	})
}
