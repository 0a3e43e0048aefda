package tiertest

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// plain is a selector that keeps the contract and nothing more.
func plain(req *tier.Request, v *tier.View) (tier.Choice, error) {
	if err := req.Validate(); err != nil {
		return tier.Choice{}, err
	}
	obstacle := func(i int) error {
		m, s := v.Library.At(i), &v.States[i]
		switch {
		case !m.Can(req.Capabilities):
			return &tier.NoCapableModelError{Capabilities: req.Capabilities}
		case s.Tier == tier.RAM:
			return nil
		case m.Size > v.Limits.RAM:
			return &tier.CapacityError{Model: m.Name, Never: true}
		case m.Size > v.Memory.Available:
			return &tier.CapacityError{Model: m.Name}
		}
		return nil
	}
	why := ""
	if name := req.Model + req.Preferred; name != "" {
		i, ok := v.Library.Find(name)
		err := error(&tier.NotFoundError{What: "model", Name: name})
		if ok {
			err = obstacle(i)
		}
		if !req.Fallback || err == nil {
			mode := tier.Manual
			if req.Fallback {
				mode = tier.Hybrid
			}
			return tier.Choice{Model: name, Index: i, Mode: mode, Score: math.NaN()}, err
		}
		why = err.Error()
	}
	for _, ready := range []func(s *tier.State) bool{
		func(s *tier.State) bool { return s.Serving },
		func(s *tier.State) bool { return max(s.Tier, s.To) > tier.Storage },
		func(*tier.State) bool { return true },
	} {
		for i, m := range v.Library.All() {
			if obstacle(i) == nil && ready(&v.States[i]) {
				c := tier.Choice{Model: m.Name, Index: i, Mode: tier.Auto, Score: 1, FellBack: why != "", Why: why}
				if why != "" {
					c.Mode = tier.Hybrid
				}
				return c, nil
			}
		}
	}
	return tier.Choice{}, &tier.NoCapableModelError{Capabilities: req.Capabilities}
}

func TestTestSelector_ContractKept_Passes(t *testing.T) {
	TestSelector(t, tier.SelectorFunc(plain))
}

func TestTestSelector_ContractBroken_EachFaultIsFound(t *testing.T) {
	calls := 0
	var stale *tier.View
	for name, s := range map[string]tier.SelectorFunc{
		"an index of another model": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			c.Index++
			return c, err
		},
		"capabilities are not looked at": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			r := *req
			r.Capabilities = nil
			return plain(&r, v)
		},
		"memory is not looked at": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			w := *v
			w.Memory.Available = tier.Unlimited
			return plain(req, &w)
		},
		"limits are not looked at": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			w := *v
			w.Limits.RAM = tier.Unlimited
			return plain(req, &w)
		},
		"residents count as absent": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			w := *v
			w.States = make([]tier.State, len(v.States))
			return plain(req, &w)
		},
		"equal input, other answers": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			calls++
			c.Score = float64(calls)
			return c, err
		},
		"the request is changed": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			req.Priority = tier.Speed
			return c, err
		},
		"the view is changed": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			v.States[0].Leases++
			return c, err
		},
		"an error of its own": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			if err != nil {
				err = errors.New("no")
			}
			return c, err
		},
		"bad input is served": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			r := *req
			r.Priority, r.Deadline = tier.Balanced, 0
			return plain(&r, v)
		},
		"the first view goes on": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			if stale == nil {
				stale = v
			}
			return plain(req, stale)
		},
		"twins are taken in the order of the library": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			w := *v
			w.States = slices.Clone(v.States)
			for i := range w.States {
				w.States[i].Serving, w.States[i].Tier, w.States[i].To = true, max(w.States[i].Tier, w.States[i].To), 0
			}
			return plain(req, &w)
		},
		"an error without a way out": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			if errors.Is(err, tier.ErrNotFound) {
				err = tier.ErrNotFound
			}
			return c, err
		},
		"every mode is manual": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			c.Mode = tier.Manual
			return c, err
		},
		"no word of falling back": func(req *tier.Request, v *tier.View) (tier.Choice, error) {
			c, err := plain(req, v)
			c.FellBack = false
			return c, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range selectorChecks {
				if c.name == "many goroutines" {
					continue // not safe for them, and not about them
				}
				if err := checked(c.check, s); err != nil {
					if text := err.Error(); text != "panic" && (!strings.Contains(text, "Request{") || !strings.Contains(text, "contract of tier.Selector: ")) {
						t.Errorf("the message names no request, or no rule: %s", text)
					}
					return
				}
			}
			t.Error("no check finds it")
		})
	}
}

// checked takes a panic for a fault that was found.
func checked(check func(tier.Selector) error, s tier.Selector) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errors.New("panic")
		}
	}()
	return check(s)
}
