package tiertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// TestSelector checks a Selector against the contract of tier.Selector: it
// answers the modes of a request, never with a model that is unknown, lacks a
// required capability or cannot be served safely by any measure; it refuses with
// typed errors; equal input gives equal answers; it changes neither request nor
// view, keeps no stale picture when views follow each other, and serves many
// goroutines at once. Run it with the race detector too. Whatever it does at
// random on purpose is to be switched off.
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
	{"memory", checkMemory},
	{"refusals", checkRefusals},
	{"bad input", checkBadInput},
	{"views follow each other", checkSequence},
	{"many goroutines", checkConcurrent},
}

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

// askSelector selects, and checks what holds for every answer.
func askSelector(s tier.Selector, v *tier.View, req tier.Request) (tier.Choice, error) {
	asked := req
	asked.Capabilities = slices.Clone(req.Capabilities)
	before := *v
	before.States = slices.Clone(v.States)
	c, err := s.Select(&req, v)
	switch {
	case !reflect.DeepEqual(req, asked):
		return c, selectorFault("%+v: the request was changed", asked)
	case !reflect.DeepEqual(*v, before):
		return c, selectorFault("%+v: the view was changed", asked)
	case err != nil:
		return c, err
	case c.Index < 0 || c.Index >= v.Library.Len() || v.Library.At(c.Index).Name != c.Model:
		return c, selectorFault("%+v: model %q does not stand at index %d", asked, c.Model, c.Index)
	case !v.Library.At(c.Index).Can(req.Capabilities):
		return c, selectorFault("%+v: %s lacks a required capability", asked, c.Model)
	}
	again, err := s.Select(&req, v)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
		return c, selectorFault("%+v: equal input, %+v and then %+v, %v", asked, c, again, err)
	}
	return c, nil
}

// brokenSelector is a contract that was not kept, as against an error that a selector
// rightly returns.
type brokenSelector struct{ error }

func selectorFault(format string, args ...any) error {
	return brokenSelector{fmt.Errorf(format, args...)}
}

// wantChoice checks an answer: a model's name, or a sentinel.
func wantChoice(s tier.Selector, v *tier.View, req tier.Request, model string, sentinel error) error {
	c, err := askSelector(s, v, req)
	_, isBroken := errors.AsType[brokenSelector](err)
	switch {
	case isBroken:
		return err
	case sentinel == nil && (err != nil || model != "" && c.Model != model):
		return selectorFault("%+v: got %q, %v; want %q", req, c.Model, err, model)
	case sentinel != nil && !errors.Is(err, sentinel):
		return selectorFault("%+v: got %q, %v; want an error that is %q", req, c.Model, err, sentinel)
	}
	return nil
}

func checkManual(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	var errs []error
	for _, m := range v.Library.All() {
		errs = append(errs,
			wantChoice(s, v, tier.Request{Model: m.Name}, m.Name, nil),
			wantChoice(s, v, tier.Request{Preferred: m.Name}, m.Name, nil),
			wantChoice(s, v, tier.Request{Model: m.Name, Capabilities: m.Capabilities}, m.Name, nil))
		if c, err := s.Select(&tier.Request{Model: m.Name}, v); err == nil && c.Mode != tier.Manual {
			errs = append(errs, selectorFault("%s was asked for by name, the mode is %v", m.Name, c.Mode))
		}
	}
	return errors.Join(append(errs,
		wantChoice(s, v, tier.Request{Model: "omega"}, "", tier.ErrNotFound),
		wantChoice(s, v, tier.Request{Preferred: "omega"}, "", tier.ErrNotFound),
		wantChoice(s, v, tier.Request{Model: "beta", Capabilities: []string{"zymurgy"}}, "", tier.ErrNoCapableModel))...)
}

func checkAuto(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	var errs []error
	for p := tier.Balanced; p <= tier.Quality; p++ {
		errs = append(errs,
			wantChoice(s, v, tier.Request{Priority: p}, "", nil),
			wantChoice(s, v, tier.Request{Priority: p, Capabilities: []string{"zymurgy"}}, "", nil),
			wantChoice(s, v, tier.Request{Priority: p, Capabilities: []string{"zymurgy", "text-generation"}}, "gamma", nil),
			wantChoice(s, v, tier.Request{Priority: p, Capabilities: []string{"zymurgy", "zymurgy", "xylography"}}, "epsilon", nil),
			wantChoice(s, v, tier.Request{Priority: p, Capabilities: []string{"quidditch"}}, "", tier.ErrNoCapableModel),
			wantChoice(s, v, tier.Request{Priority: p, Capabilities: []string{"text-generation", "quidditch"}}, "", tier.ErrNoCapableModel))
	}
	return errors.Join(errs...)
}

func checkHybrid(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 64*tier.GiB)
	var errs []error
	for _, x := range []struct {
		req      tier.Request
		model    string
		fellBack bool
	}{
		{tier.Request{Preferred: "beta"}, "beta", false},
		{tier.Request{Preferred: "omega"}, "", true},
		{tier.Request{Preferred: "beta", Capabilities: []string{"zymurgy", "text-generation"}}, "gamma", true},
	} {
		x.req.Fallback = true
		if err := wantChoice(s, v, x.req, x.model, nil); err != nil {
			errs = append(errs, err)
			continue
		}
		c, _ := s.Select(&x.req, v)
		if c.Mode != tier.Hybrid || c.FellBack != x.fellBack || x.fellBack && c.Why == "" {
			errs = append(errs, selectorFault("%+v: got %+v", x.req, c))
		}
	}
	return errors.Join(append(errs, wantChoice(s, v, tier.Request{Preferred: "omega", Fallback: true, Capabilities: []string{"quidditch"}}, "", tier.ErrNoCapableModel))...)
}

// checkMemory has 2 GiB and no swap: by any measure only what is resident, or has
// at most 2 GiB, can be served.
func checkMemory(s tier.Selector) error {
	v := selectorView(selectorLibrary(), 2*tier.GiB)
	v.FreeSwap = 0
	big := tier.Request{Model: "epsilon"}
	errs := []error{
		wantChoice(s, v, big, "", tier.ErrNoCapacity),
		wantChoice(s, v, tier.Request{Model: "alpha"}, "alpha", nil),
		wantChoice(s, v, tier.Request{Capabilities: []string{"zymurgy"}, Priority: tier.Quality}, "delta", nil),
		wantChoice(s, v, tier.Request{Capabilities: []string{"xylography", "zymurgy"}}, "", tier.ErrNoCapableModel),
		wantChoice(s, v, tier.Request{Preferred: "epsilon", Fallback: true, Capabilities: []string{"xylography"}}, "alpha", nil),
	}
	v = selectorView(v.Library, 2*tier.GiB)
	v.FreeSwap = 0
	v.States[4].Tier, v.States[4].Serving = tier.RAM, true
	errs = append(errs,
		wantChoice(s, v, big, "epsilon", nil),
		wantChoice(s, v, tier.Request{Capabilities: []string{"xylography", "zymurgy"}}, "epsilon", nil))
	v = selectorView(v.Library, 64*tier.GiB)
	v.Limits.RAM, v.Limits.Swap = 4*tier.GiB, 4*tier.GiB
	return errors.Join(append(errs,
		wantChoice(s, v, big, "", tier.ErrTooLarge),
		wantChoice(s, v, tier.Request{Capabilities: []string{"xylography"}, Priority: tier.Quality}, "alpha", nil))...)
}

// checkRefusals checks that every error has a code and a way out.
func checkRefusals(s tier.Selector) error {
	plenty, short := selectorView(selectorLibrary(), 64*tier.GiB), selectorView(selectorLibrary(), tier.MiB)
	var errs []error
	for _, x := range []struct {
		v   *tier.View
		req tier.Request
	}{
		{plenty, tier.Request{Model: "omega"}},
		{plenty, tier.Request{Model: "alfa"}},
		{plenty, tier.Request{Capabilities: []string{"quidditch"}}},
		{plenty, tier.Request{Priority: 99}},
		{short, tier.Request{Model: "alpha"}},
		{short, tier.Request{}},
		{short, tier.Request{Preferred: "beta", Fallback: true}},
	} {
		_, err := askSelector(s, x.v, x.req)
		if err == nil || tier.Code(err) == "internal" || len(tier.Suggestions(err)) == 0 {
			errs = append(errs, selectorFault("%+v: %v has code %q and suggestions %q", x.req, err, tier.Code(err), tier.Suggestions(err)))
		}
	}
	return errors.Join(errs...)
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
		errs = append(errs, wantChoice(s, v, req, "", tier.ErrInvalid))
	}
	empty, err := tier.NewLibrary(nil)
	return errors.Join(append(errs, err,
		wantChoice(s, selectorView(empty, 64*tier.GiB), tier.Request{}, "", tier.ErrNoCapableModel),
		wantChoice(s, selectorView(empty, 64*tier.GiB), tier.Request{Model: "alpha"}, "", tier.ErrNotFound))...)
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
		capable, there := 0, -1
		for i, m := range lib.All() {
			if m.Can(req.Capabilities) {
				capable++
				if v.States[i].Tier == tier.RAM {
					there = i
				}
			}
		}
		c, err := askSelector(s, v, req)
		_, isBroken := errors.AsType[brokenSelector](err)
		switch {
		case isBroken:
			return fmt.Errorf("step %d: %w", step, err)
		case err == nil && v.States[c.Index].Tier != tier.RAM && lib.At(c.Index).Size > v.Memory.Available+v.FreeSwap:
			return selectorFault("step %d: %s does not fit memory", step, c.Model)
		case err != nil && (there >= 0 || !errors.Is(err, tier.ErrNoCapableModel)):
			return selectorFault("step %d: %d models are capable, number %d is resident, got %v", step, capable, there, err)
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
					wantChoice(s, v, tier.Request{Model: "gamma"}, "gamma", nil),
					wantChoice(s, v, tier.Request{Capabilities: []string{"zymurgy", "text-generation"}, Priority: tier.Priority(i % 3)}, "gamma", nil),
					wantChoice(s, v, tier.Request{Capabilities: []string{"xylography", "zymurgy"}}, "epsilon", nil))
				if errs[g] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
