package tiertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// TestSelector checks a Selector against the contract of tier.Selector, whose
// sentences its messages cite. Run it with the race detector too. Whatever the
// selector does at random on purpose is to be switched off.
//
// Capabilities are made-up words here, so that no hierarchy of capabilities knows
// them, but for text-generation.
func TestSelector(t *testing.T, s tier.Selector) {
	for _, c := range selectorChecks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.check(s); err != nil {
				t.Error(err)
			}
		})
	}
}

var selectorChecks = []struct {
	name  string
	check func(s tier.Selector) error
}{
	{"manual", checkManual},
	{"auto", checkAuto},
	{"hybrid", checkHybrid},
	{"ties", checkTies},
	{"memory", checkMemory},
	{"bad input", checkBadInput},
	{"views follow each other", checkSequence},
	{"many goroutines", checkConcurrent},
}

// The sentences of tier.Selector's contract, as messages cite them.
const (
	ruleNamed     = "a request that names a model (Model, or Preferred without Fallback) gets that model or an error, in mode Manual"
	ruleAuto      = "a request that names no model gets any that has all its capabilities, in mode Auto"
	ruleFallback  = "a request with Preferred and Fallback gets the preferred model, or else what it would get without it, in mode Hybrid; FellBack and Why tell of the latter"
	ruleIndex     = "Index is the place of the chosen model in the library of the view"
	ruleCapable   = "the chosen model has every capability of the request; if none has, the error is ErrNoCapableModel"
	ruleUnknown   = "a named model that is not in the library is ErrNotFound"
	ruleMemory    = "a model in storage that is larger than available memory and free swap together is not chosen; named, it is ErrNoCapacity"
	ruleResident  = "a model that is in ram needs no memory"
	ruleLimits    = "a model that no limit allows, even if it were alone, is not chosen; named, it is ErrTooLarge"
	ruleTies      = "of models that differ in name only, the one that can be served soonest is chosen: Serving, then one in a memory tier or on its way to one, then the first listed"
	ruleRefusal   = "an error has a code other than \"internal\" and at least one suggestion (see tier.Code and tier.Suggestions)"
	ruleInvalid   = "a request that Validate refuses is ErrInvalid"
	ruleEmpty     = "a library without models is answered like any in which no model will do"
	ruleEqual     = "equal requests get equal choices from equal views"
	ruleUntouched = "neither the request nor the view is changed"
	ruleCurrent   = "the choice follows from the view of this call, not from an earlier one"
)

// selectorLibrary has models of 1 to 6 GiB in all home tiers.
func selectorLibrary() *tier.Library {
	lib, err := tier.NewLibrary([]tier.Model{
		{Name: "alpha", Size: 1 * tier.GiB, Home: tier.RAM, Capabilities: []string{"text-generation", "xylography"}},
		{Name: "beta", Size: 2 * tier.GiB, Home: tier.RAM, Capabilities: []string{"text-generation"}},
		{Name: "gamma", Size: 3 * tier.GiB, Home: tier.Swap, Capabilities: []string{"text-generation", "zymurgy"}},
		{Name: "delta", Size: 1 * tier.GiB, Home: tier.Storage, Capabilities: []string{"zymurgy"}},
		{Name: "epsilon", Size: 6 * tier.GiB, Home: tier.Swap, Capabilities: []string{"xylography", "zymurgy"}},
	})
	if err != nil {
		panic(err) // the models above are valid
	}
	return lib
}

// selectorView is a view of lib with every model in storage.
func selectorView(lib *tier.Library, available tier.Bytes) *tier.View {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v := &tier.View{
		Now: now, Library: lib, States: make([]tier.State, lib.Len()),
		Limits:   tier.Limits{RAM: 8 * tier.GiB, Swap: 8 * tier.GiB, Reserved: tier.GiB / 2, MaxModel: 8 * tier.GiB},
		Memory:   tier.Memory{At: now, Total: 64 * tier.GiB, Available: available},
		FreeSwap: available,
	}
	v.Room = tier.Footprint{tier.RAM: v.Limits.RAM, tier.Swap: v.Limits.Swap}
	for i := range v.States {
		v.States[i].InPlace = true
	}
	return v
}

// ruleMode is the rule about a way of choosing.
var ruleMode = [...]string{tier.Manual: ruleNamed, tier.Auto: ruleAuto, tier.Hybrid: ruleFallback}

// modeOf returns the mode in which a valid request is answered.
func modeOf(req *tier.Request) tier.Mode {
	switch {
	case req.Model == "" && req.Preferred == "":
		return tier.Auto
	case req.Fallback:
		return tier.Hybrid
	}
	return tier.Manual
}

// askSelector selects, and checks what holds for every answer.
func askSelector(s tier.Selector, v *tier.View, req tier.Request) (tier.Choice, error) {
	asked := req
	asked.Capabilities = slices.Clone(req.Capabilities)
	before := *v
	before.States = slices.Clone(v.States)
	c, err := s.Select(&req, v)
	mode := modeOf(&req)
	fellBack := mode == tier.Hybrid && c.Model != req.Preferred
	switch {
	case !reflect.DeepEqual(req, asked):
		return c, broken(ruleUntouched, "%s: the request is now %s", describe(asked), describe(req))
	case !reflect.DeepEqual(*v, before):
		return c, broken(ruleUntouched, "%s: the view was changed", describe(asked))
	case err != nil && tier.Code(err) == "internal":
		return c, broken(ruleRefusal, "%s: the error %q has no code", describe(asked), err)
	case err != nil && len(tier.Suggestions(err)) == 0:
		return c, broken(ruleRefusal, "%s: the error %q has no suggestion", describe(asked), err)
	case err != nil:
		return c, err
	case c.Index < 0 || c.Index >= v.Library.Len():
		return c, broken(ruleIndex, "%s: chose %q with index %d of %d models", describe(asked), c.Model, c.Index, v.Library.Len())
	case v.Library.At(c.Index).Name != c.Model:
		return c, broken(ruleIndex, "%s: chose %q with index %d, where %q stands", describe(asked), c.Model, c.Index, v.Library.At(c.Index).Name)
	case !v.Library.At(c.Index).Can(req.Capabilities):
		return c, broken(ruleCapable, "%s: chose %q, which has %q only", describe(asked), c.Model, v.Library.At(c.Index).Capabilities)
	case c.Mode != mode || c.FellBack != fellBack:
		return c, broken(ruleMode[mode], "%s: mode is %v and FellBack %v, want %v and %v", describe(asked), c.Mode, c.FellBack, mode, fellBack)
	case fellBack && c.Why == "":
		return c, broken(ruleFallback, "%s: it fell back and Why is empty", describe(asked))
	}
	again, err := s.Select(&req, v)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
		return c, broken(ruleEqual, "%s: first %+v, then %+v and error %v", describe(asked), c, again, err)
	}
	return c, nil
}

// describe names the fields of a request that are set.
func describe(req tier.Request) string {
	var parts []string
	v := reflect.ValueOf(req)
	for i := range v.NumField() {
		f, format := v.Field(i), "%+v"
		if f.Kind() == reflect.String || f.Kind() == reflect.Slice {
			format = "%q"
		}
		if !f.IsZero() {
			parts = append(parts, fmt.Sprintf("%s: %.200s", v.Type().Field(i).Name, fmt.Sprintf(format, f.Interface())))
		}
	}
	return "Request{" + strings.Join(parts, ", ") + "}"
}

// brokenRule is a sentence of the contract that was not kept, as against an error that a
// selector rightly returns.
type brokenRule struct{ rule, what string }

func (e *brokenRule) Error() string { return e.what + "\n\tcontract of tier.Selector: " + e.rule }

func broken(rule, format string, args ...any) error {
	return &brokenRule{rule, fmt.Sprintf(format, args...)}
}

// wantChoice checks an answer: a model's name ("" is any), or a sentinel.
func wantChoice(s tier.Selector, v *tier.View, req tier.Request, model string, sentinel error, rule string) error {
	c, err := askSelector(s, v, req)
	if b, ok := errors.AsType[*brokenRule](err); ok {
		return b
	}
	got := fmt.Sprintf("chose %q", c.Model)
	if err != nil {
		got = fmt.Sprintf("got the error %q", err)
	}
	switch {
	case sentinel == nil && err != nil && model == "":
		return broken(rule, "%s: %s, want a model", describe(req), got)
	case sentinel == nil && (err != nil || model != "" && c.Model != model):
		return broken(rule, "%s: %s, want %q", describe(req), got, model)
	case sentinel != nil && !errors.Is(err, sentinel):
		return broken(rule, "%s: %s, want an error that unwraps to %q", describe(req), got, sentinel)
	}
	return nil
}

func checkManual(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	var errs []error
	for _, m := range v.Library.All() {
		for _, req := range []tier.Request{{Model: m.Name}, {Preferred: m.Name}, {Model: m.Name, Capabilities: m.Capabilities}} {
			errs = append(errs, wantChoice(s, v, req, m.Name, nil, ruleNamed))
		}
	}
	return errors.Join(append(errs,
		wantChoice(s, v, tier.Request{Model: "omega"}, "", tier.ErrNotFound, ruleUnknown),
		wantChoice(s, v, tier.Request{Preferred: "omega"}, "", tier.ErrNotFound, ruleUnknown),
		wantChoice(s, v, tier.Request{Model: "beta", Capabilities: []string{"zymurgy"}}, "", tier.ErrNoCapableModel, ruleCapable))...)
}

func checkAuto(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	var errs []error
	for p := tier.Balanced; p <= tier.Quality; p++ {
		for _, x := range []struct {
			capabilities []string
			model        string
			err          error
			rule         string
		}{
			{nil, "", nil, ruleAuto},
			{[]string{"zymurgy"}, "", nil, ruleAuto},
			{[]string{"zymurgy", "text-generation"}, "gamma", nil, ruleAuto},
			{[]string{"zymurgy", "zymurgy", "xylography"}, "epsilon", nil, ruleAuto},
			{[]string{"quidditch"}, "", tier.ErrNoCapableModel, ruleCapable},
			{[]string{"text-generation", "quidditch"}, "", tier.ErrNoCapableModel, ruleCapable},
		} {
			req := tier.Request{Priority: p, Capabilities: x.capabilities}
			errs = append(errs, wantChoice(s, v, req, x.model, x.err, x.rule))
		}
	}
	return errors.Join(errs...)
}

func checkHybrid(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	hybrid := func(preferred, model string, err error, rule string, capabilities ...string) error {
		return wantChoice(s, v, tier.Request{Preferred: preferred, Fallback: true, Capabilities: capabilities}, model, err, rule)
	}
	return errors.Join(
		hybrid("beta", "beta", nil, ruleFallback),
		hybrid("omega", "", nil, ruleFallback),
		hybrid("beta", "gamma", nil, ruleFallback, "zymurgy", "text-generation"),
		hybrid("omega", "", tier.ErrNoCapableModel, ruleCapable, "quidditch"))
}

// checkTies asks for one of four twins.
func checkTies(s tier.Selector) error {
	var models []tier.Model
	for _, name := range []string{"one", "two", "three", "four"} {
		models = append(models, tier.Model{Name: name, Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"text-generation"}})
	}
	lib, err := tier.NewLibrary(models)
	errs := []error{err}
	serving := tier.State{Tier: tier.RAM, Serving: true, InPlace: true}
	coming := tier.State{Moving: true, To: tier.RAM, InPlace: true}
	swapped := tier.State{Tier: tier.Swap, InPlace: true}
	for _, x := range []struct {
		states map[int]tier.State
		model  string
	}{
		{nil, "one"},
		{map[int]tier.State{3: serving}, "four"},
		{map[int]tier.State{1: coming, 3: serving}, "four"},
		{map[int]tier.State{1: serving, 3: serving}, "two"},
		{map[int]tier.State{2: coming}, "three"},
		{map[int]tier.State{2: swapped}, "three"},
	} {
		v := selectorView(lib, 64*tier.GiB)
		for i, state := range x.states {
			v.States[i] = state
		}
		for p := tier.Balanced; p <= tier.Quality; p++ {
			errs = append(errs, wantChoice(s, v, tier.Request{Priority: p}, x.model, nil, ruleTies))
		}
	}
	return errors.Join(errs...)
}

// checkMemory has 2 GiB and no swap: by any measure only what is resident, or has
// at most 2 GiB, can be served.
func checkMemory(s tier.Selector) error {
	short := func() *tier.View {
		v := selectorView(selectorLibrary(), 2*tier.GiB)
		v.FreeSwap = 0
		return v
	}
	v, big := short(), tier.Request{Model: "epsilon"}
	both := tier.Request{Capabilities: []string{"xylography", "zymurgy"}}
	errs := []error{
		wantChoice(s, v, big, "", tier.ErrNoCapacity, ruleMemory),
		wantChoice(s, v, tier.Request{Model: "alpha"}, "alpha", nil, ruleNamed),
		wantChoice(s, v, tier.Request{Capabilities: []string{"zymurgy"}, Priority: tier.Quality}, "delta", nil, ruleMemory),
		wantChoice(s, v, both, "", tier.ErrNoCapableModel, ruleMemory),
		wantChoice(s, v, tier.Request{Preferred: "epsilon", Fallback: true, Capabilities: []string{"xylography"}}, "alpha", nil, ruleFallback),
	}
	v = short()
	v.States[4].Tier, v.States[4].Serving = tier.RAM, true
	errs = append(errs, wantChoice(s, v, big, "epsilon", nil, ruleResident), wantChoice(s, v, both, "epsilon", nil, ruleResident))
	v = selectorView(v.Library, 64*tier.GiB)
	v.Limits.RAM, v.Limits.Swap = 4*tier.GiB, 4*tier.GiB
	return errors.Join(append(errs,
		wantChoice(s, v, big, "", tier.ErrTooLarge, ruleLimits),
		wantChoice(s, v, tier.Request{Capabilities: []string{"xylography"}, Priority: tier.Quality}, "alpha", nil, ruleLimits))...)
}

func checkBadInput(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	var errs []error
	for _, req := range []tier.Request{
		{Priority: tier.Quality + 1},
		{Model: "alpha", Preferred: "beta"},
		{Capabilities: make([]string, 10_000)},
		{Capabilities: []string{""}},
		{Deadline: -1},
	} {
		errs = append(errs, wantChoice(s, v, req, "", tier.ErrInvalid, ruleInvalid))
	}
	empty, err := tier.NewLibrary(nil)
	return errors.Join(append(errs, err,
		wantChoice(s, selectorView(empty, 64*tier.GiB), tier.Request{}, "", tier.ErrNoCapableModel, ruleEmpty),
		wantChoice(s, selectorView(empty, 64*tier.GiB), tier.Request{Model: "alpha"}, "", tier.ErrNotFound, ruleEmpty))...)
}

// checkSequence shows the selector one library after the other, and memory and
// residents that change, and asks each time for what only one model can answer.
func checkSequence(s tier.Selector) error {
	r := rand.New(rand.NewPCG(1, 2))
	lib := selectorLibrary()
	for step := range 300 {
		switch r.IntN(3) {
		case 0:
			lib = lib.With(tier.Model{
				Name: fmt.Sprint("model-", r.IntN(20)), Size: tier.Bytes(1+r.IntN(8)) * tier.GiB, Home: tier.Tier(r.IntN(3)),
				Capabilities: []string{"text-generation", fmt.Sprint("trade-", r.IntN(8))},
			})
		case 1:
			if lib.Len() > 1 {
				lib = lib.Without(lib.At(r.IntN(lib.Len())).Name)
			}
		}
		v := selectorView(lib, tier.Bytes(r.IntN(16))*tier.GiB)
		for i := range v.States {
			if r.IntN(3) == 0 {
				v.States[i].Tier, v.States[i].Serving = tier.RAM, true
			}
		}
		req := tier.Request{Priority: tier.Priority(r.IntN(3)), Capabilities: []string{fmt.Sprint("trade-", r.IntN(8))}}
		there := -1
		for i, m := range lib.All() {
			if m.Can(req.Capabilities) && v.States[i].Tier == tier.RAM {
				there = i
			}
		}
		c, err := askSelector(s, v, req)
		if _, ok := errors.AsType[*brokenRule](err); ok {
			return fmt.Errorf("step %d: %w", step, err)
		}
		at := fmt.Sprintf("step %d, %s", step, describe(req))
		switch {
		case err == nil && v.States[c.Index].Tier != tier.RAM && lib.At(c.Index).Size > v.Memory.Available+v.FreeSwap:
			return broken(ruleMemory, "%s: chose %q, which is in storage and larger than memory", at, c.Model)
		case err != nil && there >= 0:
			return broken(ruleCurrent, "%s: got the error %q, though %q is capable and in ram in this view", at, err, lib.At(there).Name)
		case err != nil && !errors.Is(err, tier.ErrNoCapableModel):
			return broken(ruleCapable, "%s: got the error %q, want one that unwraps to %q", at, err, tier.ErrNoCapableModel)
		}
	}
	return nil
}

func checkConcurrent(s tier.Selector) error {
	lib := selectorLibrary()
	views := []*tier.View{
		selectorView(lib, 64*tier.GiB), selectorView(lib, 64*tier.GiB),
		selectorView(lib.Without("alpha"), 64*tier.GiB), selectorView(selectorLibrary(), 64*tier.GiB),
	}
	views[1].States[4].Tier = tier.RAM
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for g := range errs {
		wg.Go(func() {
			for i := range 200 {
				v := views[(g+i)%len(views)]
				errs[g] = errors.Join(
					wantChoice(s, v, tier.Request{Model: "gamma"}, "gamma", nil, ruleCurrent),
					wantChoice(s, v, tier.Request{Capabilities: []string{"zymurgy", "text-generation"}, Priority: tier.Priority(i % 3)}, "gamma", nil, ruleCurrent),
					wantChoice(s, v, tier.Request{Capabilities: []string{"xylography", "zymurgy"}}, "epsilon", nil, ruleCurrent))
				if errs[g] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
