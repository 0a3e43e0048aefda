package selector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

func TestManual_UnknownName_NamesNearMisses(t *testing.T) {
	_, err := New().Select(&tier.Request{Model: "gpt2-larg"}, viewOf(newLibrary(t, recordedModels()...)))
	nf, ok := errors.AsType[*tier.NotFoundError](err)
	if !ok || !slices.Contains(nf.Nearby, "gpt2-large") || tier.Code(err) != "not_found" {
		t.Errorf("got %v with %v", err, tier.Suggestions(err))
	}
}

func TestManual_MemoryShort_RecordedWordingWithNumbers(t *testing.T) {
	lib := newLibrary(t, recordedModels()...)
	const available, swap = 3 * tier.GiB / 2, 39*tier.GiB/20 + 1
	v := remember(viewOf(lib), available, swap)
	settle(t, v, "gpt2-medium", tier.RAM)
	for name, want := range map[string]tier.CapacityError{
		"gpt2-large": {
			Tier: tier.RAM, Need: 3 * tier.GiB, Free: available, Limit: available * 7 / 10,
			Reason: "Explicit model 'gpt2-large' unsafe: Insufficient RAM: need 3.0GB, have 1.5GB",
			Detail: "Insufficient RAM: need 3.0GB, have 1.5GB",
		},
		"llama-7b": {
			Tier: tier.Swap, Need: 7 * tier.GiB, Free: available + swap, Limit: (available + swap) * 6 / 10,
			Reason: "Explicit model 'llama-7b' unsafe: Insufficient capacity: need 7.0GB, have 3.5GB",
			Detail: "Insufficient capacity: need 7.0GB, have 3.5GB",
		},
	} {
		want.Model = name
		want.Holders = []tier.Holder{{Model: "gpt2-medium", Bytes: 3 * tier.GiB / 2}}
		_, err := New().Select(&tier.Request{Model: name}, v)
		ce, ok := errors.AsType[*tier.CapacityError](err)
		if !ok || !errors.Is(err, tier.ErrNoCapacity) {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(&want, ce); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	// The same model, once it is there, needs no more memory.
	settle(t, v, "llama-7b", tier.Swap)
	mustSelect(t, New(), again(v), tier.Request{Model: "llama-7b"})
}

func TestSafety_ExactlyOnTheThreshold_IsSafe(t *testing.T) {
	lib := newLibrary(t, tier.Model{Name: "m", Size: 7 * tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}})
	s := New()
	for _, req := range []tier.Request{{Model: "m"}, {Capabilities: []string{"chat"}}} {
		v := remember(viewOf(lib), 10*tier.GiB, 0)
		mustSelect(t, s, v, req)
		if _, err := s.Select(&req, remember(again(v), 10*tier.GiB-1, 0)); !errors.Is(err, tier.ErrNoCapacity) {
			t.Errorf("one byte less of memory: %v", err)
		}
	}
}

func TestSafety_NoReadingYet_LeavesItToAdmission(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	v.Memory, v.FreeSwap = tier.Memory{}, 0
	if c := mustSelect(t, New(), v, tier.Request{Priority: tier.Quality}); c.Model != "llama-7b" {
		t.Errorf("chose %s", c.Model)
	}
}

func TestTooLarge_FitsNoTier_RefusedAndNotChosen(t *testing.T) {
	lib := newLibrary(t,
		tier.Model{Name: "huge", Size: 9 * tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}},
		tier.Model{Name: "tiny", Size: tier.GiB, Capabilities: []string{"chat"}},
	)
	v := viewOf(lib)
	v.States[0].InPlace = false
	_, err := New().Select(&tier.Request{Model: "huge"}, v)
	if !errors.Is(err, tier.ErrTooLarge) || err.Error() != "Explicit model 'huge' unsafe: Model too large: need 9.0GB, limit 5.0GB" {
		t.Errorf("got %v", err)
	}
	if c := mustSelect(t, New(), v, tier.Request{Priority: tier.Quality}); c.Model != "tiny" {
		t.Errorf("chose %s", c.Model)
	}
	v = again(v)
	v.States[0].InPlace = true
	if c := mustSelect(t, New(), v, tier.Request{Priority: tier.Quality}); c.Model != "huge" {
		t.Errorf("what can be served in place from swap was left out for %s", c.Model)
	}
}

func TestAuto_OnlyUnsafeOnesAreCapable_SaysWhichAndWhy(t *testing.T) {
	v := remember(viewOf(newLibrary(t, recordedModels()...)), tier.GiB, 0)
	_, err := New().Select(&tier.Request{Capabilities: []string{"embeddings"}}, v)
	nc, ok := errors.AsType[*tier.NoCapableModelError](err)
	if !ok || tier.Code(err) != "no_capable_model" {
		t.Fatalf("got %v", err)
	}
	ce, ok := errors.AsType[*tier.CapacityError](nc.Unsafe)
	if !ok || ce.Model != "bert-large" || !strings.Contains(err.Error(), "Insufficient RAM: need 1.3GB, have 1.0GB") {
		t.Errorf("got %v", err)
	}
}

// "need 3.0GB, have 4.0GB" by itself would leave the reader wondering.
func TestManual_EnoughMemoryButNotToBePromised_SaysHowMuchMay(t *testing.T) {
	v := remember(viewOf(newLibrary(t, recordedModels()...)), 4*tier.GiB, 5*tier.GiB)
	for name, want := range map[string]string{
		"gpt2-large": "Explicit model 'gpt2-large' unsafe: Insufficient RAM: need 3.0GB, have 4.0GB, of which one model may take 2.8GB",
		"llama-7b":   "Explicit model 'llama-7b' unsafe: Insufficient capacity: need 7.0GB, have 9.0GB, of which one model may take 5.4GB",
	} {
		if _, err := New().Select(&tier.Request{Model: name}, v); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

func TestAuto_UnknownCapability_NamesTheNearest(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	for capability, near := range map[string]string{"embedings": "embeddings", "text-classify": "text-classification", "video": "fast"} {
		_, err := New().Select(&tier.Request{Capabilities: []string{capability}, Priority: tier.Speed}, v)
		nc, ok := errors.AsType[*tier.NoCapableModelError](err)
		if !ok || !slices.Contains(nc.Nearest, near) || nc.Unsafe != nil {
			t.Errorf("%s: %v, nearest %v", capability, err, nc.Nearest)
		}
	}
	_, err := New().Select(&tier.Request{Capabilities: []string{"embeddings", "fast"}}, v)
	if nc, ok := errors.AsType[*tier.NoCapableModelError](err); !ok || len(nc.Nearest) == 0 {
		t.Errorf("known ones that no model has together: %v", err)
	}
}

func TestTaxonomy_HierarchyAndAliases_SatisfyWithoutSharing(t *testing.T) {
	lib := newLibrary(t,
		tier.Model{Name: "talker", Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}},
		tier.Model{Name: "coder", Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"code"}},
	)
	v := viewOf(lib)
	for _, x := range []struct {
		asked, chosen string
		score         float64
	}{
		{"text-generation", "talker", 1.5}, // is one, and does not name it
		{"chat", "talker", 2.3},
		{"code-generation", "coder", 2.3}, // another name of the same
		{"code", "coder", 2.3},
	} {
		c := mustSelect(t, New(), v, tier.Request{Capabilities: []string{x.asked}})
		if c.Model != x.chosen || c.Score != onGrid(x.score) {
			t.Errorf("%s: chose %s with %v", x.asked, c.Model, c.Score)
		}
	}
	if _, err := New().Select(&tier.Request{Capabilities: []string{"code", "chat"}}, v); !errors.Is(err, tier.ErrNoCapableModel) {
		t.Errorf("no model has both: %v", err)
	}
	own := DefaultTaxonomy()
	own.Implies["code-generation"] = []string{"chat"}
	s, err := NewWith(Options{Taxonomy: own})
	if err != nil {
		t.Fatal(err)
	}
	if c := mustSelect(t, s, v, tier.Request{Capabilities: []string{"code", "text-generation"}}); c.Model != "coder" {
		t.Errorf("with a taxonomy of one's own: chose %s", c.Model)
	}
}

func TestAuto_LibraryWithoutTextGenerators_AnythingGoes(t *testing.T) {
	lib := newLibrary(t,
		tier.Model{Name: "ears", Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"transcription"}},
		tier.Model{Name: "mute", Size: tier.GiB, Home: tier.RAM},
	)
	c := mustSelect(t, New(), viewOf(lib), tier.Request{})
	if c.Model != "ears" || c.Score != onGrid(1.5) {
		t.Errorf("got %+v", c)
	}
	// One that has it, however unsafe, and text generation is meant again.
	lib = lib.With(tier.Model{Name: "writer", Size: 9 * tier.GiB, Home: tier.RAM, Capabilities: []string{"text-generation"}})
	if _, err := New().Select(&tier.Request{}, remember(viewOf(lib), 2*tier.GiB, 0)); !errors.Is(err, tier.ErrNoCapableModel) {
		t.Errorf("got %v", err)
	}
}

func TestTies_FirstListedWins_WhicheverWayScoresAreSummed(t *testing.T) {
	// On paper both score 2.4 with quality: 3×0.8, and 2×0.8 + 0.2×4. In float64 the
	// sums differ.
	a := tier.Model{Name: "a", Size: 1, Capabilities: []string{"x", "y", "z"}, Quality: 1e-12}
	b := tier.Model{Name: "b", Size: 4 * tier.GiB, Capabilities: []string{"x", "y"}}
	req := tier.Request{Capabilities: []string{"x"}, Preferences: []string{"y", "z"}, Priority: tier.Quality}
	for _, lib := range []*tier.Library{newLibrary(t, a, b), newLibrary(t, b, a)} {
		if c := mustSelect(t, New(), viewOf(lib), req); c.Model != lib.At(0).Name || c.Reason() != "Intelligent selection: "+c.Model+" (score: 2.4)" {
			t.Errorf("chose %s, listed first is %s", c.Model, lib.At(0).Name)
		}
	}
	// One byte is no tie.
	b.Size++
	if c := mustSelect(t, New(), viewOf(newLibrary(t, a, b)), req); c.Model != "b" {
		t.Errorf("chose %s", c.Model)
	}
}

func TestTies_TwinThatIsServedSoonestWins_ThenTheFirstListed(t *testing.T) {
	var models []tier.Model
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		models = append(models, tier.Model{Name: name, Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}})
	}
	v := viewOf(newLibrary(t, models...))
	v.States[0] = tier.State{Tier: tier.RAM, Moving: true, To: tier.Storage} // leaves
	v.States[2] = tier.State{Moving: true, To: tier.RAM}                     // comes
	v.States[3] = tier.State{Tier: tier.Swap}
	v.States[4] = tier.State{Tier: tier.RAM, Serving: true}
	v.States[5] = tier.State{Tier: tier.Swap, Serving: true}
	for _, s := range []tier.Selector{New(), NewAdaptive()} {
		v := again(v)
		for _, want := range []string{"e", "f", "c", "d", "a", "b", "g"} {
			for _, req := range []tier.Request{
				{Priority: tier.Quality}, {Priority: tier.Quality, Deadline: time.Minute}, {Preferred: "x", Fallback: true, Priority: tier.Quality},
			} {
				if c := mustSelect(t, s, v, req); c.Model != want {
					t.Errorf("%+v: chose %s, want %s", req, c.Model, want)
				}
			}
			i, _ := v.Library.Find(want)
			v = again(v)
			v.States[i] = tier.State{Stuck: true} // out of the way
		}
	}
	c := mustSelect(t, New(), v, tier.Request{Explain: true})
	verdicts := make(map[string]string)
	for _, x := range c.Explanation.Candidates {
		verdicts[x.Model] = x.Verdict
	}
	if verdicts["a"] != "as good as e, which can be served sooner" || verdicts["f"] != "as good as e, which is listed first" {
		t.Errorf("verdicts %v", verdicts)
	}
}

func TestHybrid_PreferredMayNotServe_FallsBackAndSaysWhy(t *testing.T) {
	lib := newLibrary(t, recordedModels()...)
	plenty := viewOf(lib)
	short := remember(viewOf(lib), 3*tier.GiB/2, 0)
	stuck := viewOf(lib)
	stuck.States[5].Stuck = true
	for _, x := range []struct {
		name   string
		v      *tier.View
		req    tier.Request
		chosen string
		why    string
	}{
		{"safe", plenty, tier.Request{Preferred: "llama-7b"}, "llama-7b", ""},
		{"unsafe", short, tier.Request{Preferred: "llama-7b"}, "gpt2-small", "Preferred model 'llama-7b' unsafe: Insufficient capacity: need 7.0GB, have 1.5GB"},
		{"unknown", plenty, tier.Request{Preferred: "llama-8b", Priority: tier.Speed}, "gpt2-small", "Model 'llama-8b' not found"},
		{"incapable", plenty, tier.Request{Preferred: "llama-7b", Capabilities: []string{"embeddings"}}, "bert-large", "Preferred model 'llama-7b' lacks embeddings"},
		{"late", plenty, tier.Request{Preferred: "llama-7b", Deadline: 2 * time.Second}, "gpt2-small", "Model 'llama-7b' is expected to be usable in 10.5s, the deadline is 2s"},
		{"stuck", stuck, tier.Request{Preferred: "llama-7b", Priority: tier.Quality}, "gpt-j-6b", "Preferred model 'llama-7b' unsafe: a move of it is stuck"},
	} {
		x.req.Fallback = true
		c := mustSelect(t, New(), x.v, x.req)
		if c.Model != x.chosen || c.Mode != tier.Hybrid || c.FellBack != (x.why != "") || c.Why != x.why {
			t.Errorf("%s: got %+v", x.name, c)
		}
		if c.FellBack && !strings.HasSuffix(c.Reason(), "; fell back: "+x.why) {
			t.Errorf("%s: reason %q", x.name, c.Reason())
		}
	}
	c := mustSelect(t, New(), plenty, tier.Request{Preferred: "llama-7b"})
	if c.Mode != tier.Manual || c.Reason() != "Explicit model 'llama-7b' selected" {
		t.Errorf("preferred without fallback is manual, got %+v", c)
	}
	if _, err := New().Select(&tier.Request{Preferred: "llama-7b", Fallback: true, Capabilities: []string{"video"}}, plenty); !errors.Is(err, tier.ErrNoCapableModel) {
		t.Errorf("no model to fall back to: %v", err)
	}
}

func TestManual_LacksWhatIsRequired_SaysWhatAndWhichModelsHaveIt(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	_, err := New().Select(&tier.Request{Model: "llama-7b", Capabilities: []string{"embeddings"}, Constraints: []tier.Constraint{{Label: "context", Op: ">=", Value: "8192"}}}, v)
	le, ok := errors.AsType[*tier.NoCapableModelError](err)
	if !ok || !errors.Is(err, tier.ErrNoCapableModel) || tier.Code(err) != "no_capable_model" ||
		err.Error() != "Explicit model 'llama-7b' lacks embeddings, context >= 8192" || len(le.Able) > 0 {
		t.Errorf("got %v", err)
	}
	_, err = New().Select(&tier.Request{Model: "llama-7b", Capabilities: []string{"embeddings"}}, v)
	if s := tier.Suggestions(err); len(s) != 1 || s[0] != "Ask for a model that has it: bert-large." {
		t.Errorf("suggestions %q", s)
	}
}

func TestConstraints_OnLabels_ExcludeAndNameWhatThereIs(t *testing.T) {
	labelled := func(name, context, languages string) tier.Model {
		return tier.Model{Name: name, Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}, Labels: map[string]string{"context": context, "language": languages}}
	}
	v := viewOf(newLibrary(t, labelled("short", "4096", "en, fr"), labelled("long", "32k", "en"), tier.Model{Name: "seer", Size: 2 * tier.GiB, Capabilities: []string{"chat", "vision"}}))
	for text, want := range map[string]string{
		"context >= 8192": "long", "context≥8k": "long", "context < 8192": "short", "language = FR": "short",
		"language != fr": "long", "vision": "seer", "context = 4k": "short", "context > 4096": "long", "context<=4096": "short",
	} {
		c, err := tier.ParseConstraint(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustSelect(t, New(), v, tier.Request{Constraints: []tier.Constraint{c}}); got.Model != want {
			t.Errorf("%s: chose %s, want %s", text, got.Model, want)
		}
	}
	_, err := New().Select(&tier.Request{Constraints: []tier.Constraint{{Label: "context", Op: ">=", Value: "128k"}}}, v)
	nc, ok := errors.AsType[*tier.NoCapableModelError](err)
	if !ok || cmp.Diff([]string{"context = 32k", "context = 4096"}, nc.Nearest) != "" || cmp.Diff([]string{"text-generation", "context >= 128k"}, nc.Capabilities) != "" {
		t.Errorf("got %v, nearest %v", err, nc.Nearest)
	}
}

func TestPreferences_RaiseTheScore_AndExcludeNone(t *testing.T) {
	lib := newLibrary(t,
		tier.Model{Name: "plain", Size: 2 * tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}},
		tier.Model{Name: "seer", Size: 2 * tier.GiB, Home: tier.RAM, Capabilities: []string{"chat", "vision"}},
	)
	if c := mustSelect(t, New(), viewOf(lib), tier.Request{Preferences: []string{"vision"}}); c.Model != "seer" {
		t.Errorf("chose %s", c.Model)
	}
	if c := mustSelect(t, New(), viewOf(lib), tier.Request{Preferences: []string{"video"}}); c.Model != "plain" {
		t.Errorf("chose %s", c.Model)
	}
}

func TestDeadline_ExcludesModelsThatCannotMakeIt(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	deadline := func(ms time.Duration) tier.Request {
		return tier.Request{Priority: tier.Quality, Deadline: ms * time.Millisecond}
	}
	s := New()
	for _, x := range []struct {
		ms   time.Duration
		want string
	}{{11000, "llama-7b"}, {10500, "llama-7b"}, {10499, "gpt-j-6b"}, {4500, "gpt2-large"}, {2250, "gpt2-medium"}, {750, "gpt2-small"}} {
		if c := mustSelect(t, s, v, deadline(x.ms)); c.Model != x.want {
			t.Errorf("%d ms: chose %s, want %s", x.ms, c.Model, x.want)
		}
	}
	_, err := s.Select(&tier.Request{Deadline: 749 * time.Millisecond}, v)
	de, ok := errors.AsType[*tier.DeadlineError](err)
	if !ok || !errors.Is(err, tier.ErrNoCapableModel) || !errors.Is(err, context.DeadlineExceeded) || de.Model != "gpt2-small" || de.Expected != 750*time.Millisecond {
		t.Errorf("got %v", err)
	}
	// What is resident is soon usable: 0.1 s per GB, and from swap 0.5 for what is gone.
	v = again(v)
	settle(t, v, "gpt2-large", tier.RAM)
	settle(t, v, "llama-7b", tier.Swap).Kept = 6 * tier.GiB
	for ms, want := range map[time.Duration]string{1100: "llama-7b", 1099: "gpt2-large", 300: "gpt2-large"} {
		if c := mustSelect(t, s, v, deadline(ms)); c.Model != want {
			t.Errorf("%d ms with residents: chose %s, want %s", ms, c.Model, want)
		}
	}
	_, err = s.Select(&tier.Request{Model: "llama-7b", Deadline: time.Second}, v)
	if tier.Code(err) != "deadline_exceeded" || len(tier.Suggestions(err)) == 0 {
		t.Errorf("manual: %v", err)
	}
}

func TestStuck_IsLeftOutOfAuto_AndTheManagersInManual(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	v.States[5].Stuck = true
	if c := mustSelect(t, New(), v, tier.Request{Priority: tier.Quality}); c.Model != "gpt-j-6b" {
		t.Errorf("chose %s", c.Model)
	}
	mustSelect(t, New(), v, tier.Request{Model: "llama-7b"})
	for i := range v.States {
		v.States[i].Stuck = true
	}
	_, err := New().Select(&tier.Request{}, again(v))
	if !errors.Is(err, tier.ErrNoCapableModel) || !errors.Is(err, tier.ErrNoCapacity) {
		t.Errorf("all stuck: %v", err)
	}
}

func TestSelect_BadInput_TypedErrorWithSuggestion(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	ge := func(v string) tier.Constraint { return tier.Constraint{Label: "context", Op: ">=", Value: v} }
	lt := func(v string) tier.Constraint { return tier.Constraint{Label: "context", Op: "<", Value: v} }
	for name, req := range map[string]tier.Request{
		"unknown priority":          {Priority: 7},
		"model and preferred":       {Model: "gpt2-small", Preferred: "gpt2-large"},
		"empty capability":          {Capabilities: []string{""}},
		"empty, manual":             {Model: "gpt2-small", Capabilities: []string{""}},
		"10 000 capabilities":       {Capabilities: make([]string, 10_000)},
		"10 000, manual":            {Model: "gpt2-small", Capabilities: make([]string, 10_000)},
		"10 000 preferences":        {Preferences: make([]string, 10_000)},
		"10 000 constraints":        {Constraints: make([]tier.Constraint, 10_000)},
		"empty preference":          {Preferences: []string{""}},
		"empty preference, manual":  {Model: "gpt2-small", Preferences: []string{""}},
		"control character":         {Capabilities: []string{"chat\x00"}},
		"not UTF-8":                 {Capabilities: []string{"\xff"}},
		"negative deadline":         {Deadline: -1},
		"a year's deadline":         {Deadline: 365 * 24 * time.Hour},
		"contradictory constraints": {Constraints: []tier.Constraint{ge("8192"), lt("4096")}},
		"contradictory, manual":     {Model: "gpt2-small", Constraints: []tier.Constraint{ge("8192"), lt("8k")}},
		"constraint without label":  {Constraints: []tier.Constraint{{Op: "=", Value: "1"}}},
		"constraint of no number":   {Constraints: []tier.Constraint{ge("long")}},
		"constraint of unknown op":  {Constraints: []tier.Constraint{{Label: "context", Op: "?", Value: "1"}}},
		"unknown policy":            {Policy: "psychic"},
		"explain what is wrong":     {Priority: 7, Explain: true},
		"explain an empty name":     {Capabilities: []string{""}, Explain: true},
	} {
		for _, s := range []tier.Selector{New(), NewAdaptive()} {
			for _, v := range []*tier.View{v, viewOf(newLibrary(t))} {
				_, err := s.Select(&req, v)
				if !errors.Is(err, tier.ErrInvalid) || len(tier.Suggestions(err)) == 0 || len(err.Error()) > 2000 {
					t.Errorf("%s: %.200v, suggestions %.200q", name, err, tier.Suggestions(err))
				}
			}
		}
	}
}

func TestSelect_EmptyLibrary_SaysSo(t *testing.T) {
	for _, v := range []*tier.View{{}, viewOf(newLibrary(t))} {
		for _, x := range []struct {
			req  tier.Request
			want error
		}{
			{tier.Request{}, tier.ErrNoCapableModel},
			{tier.Request{Model: "m"}, tier.ErrNotFound},
			{tier.Request{Preferred: "m"}, tier.ErrNotFound},
			{tier.Request{Preferred: "m", Fallback: true}, tier.ErrNoCapableModel},
		} {
			if _, err := New().Select(&x.req, v); !errors.Is(err, x.want) {
				t.Errorf("%+v: %v", x.req, err)
			}
		}
	}
}

func TestNewWith_BadOptions_EveryFaultAtOnce(t *testing.T) {
	nan := 0.0
	nan /= nan
	_, err := NewWith(Options{
		Policy: "psychic", Weights: Weights{SpeedRAM: nan}, Safety: Safety{RAM: 2}, Costs: Costs{RAM: 2, Swap: 1},
		Taxonomy: Taxonomy{Aliases: map[string]string{"a": "b", "b": "a"}},
		Learning: Learning{Patience: -1, CoolOff: -1, Slots: -1, WaitWeight: nan},
	})
	var faults int
	for _, field := range []string{"policy", "weight speed ram", "safety ram", "safety total", "costs", "alias", "patience", "cool-off", "slots", "wait weight"} {
		if err != nil && strings.Contains(err.Error(), field) {
			faults++
		}
	}
	if faults != 10 || !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("%d faults found: %v", faults, err)
	}
}

func TestWeights_OfOnesOwn_ZerosIncluded(t *testing.T) {
	s, err := NewWith(Options{Weights: Weights{BalancedElsewhere: 1}})
	if err != nil {
		t.Fatal(err)
	}
	c := mustSelect(t, s, viewOf(newLibrary(t, recordedModels()...)), tier.Request{})
	if c.Model != "gpt-j-6b" || c.Score != 1 {
		t.Errorf("got %+v", c)
	}
}

func TestQuality_Declared_StandsForSize(t *testing.T) {
	models := recordedModels()
	models[0].Quality = 40
	c := mustSelect(t, New(), viewOf(newLibrary(t, models...)), tier.Request{Priority: tier.Quality})
	if c.Model != "gpt2-small" || c.Score != onGrid(8.8) {
		t.Errorf("got %+v", c)
	}
}

// A selector keeps nothing of a view but the library: contract of tier.Selector.
func TestSelect_ViewIsLetGo(t *testing.T) {
	s := New()
	lib := newLibrary(t, recordedModels()...)
	gone := make(chan struct{})
	func() {
		v := viewOf(lib)
		settle(t, v, "llama-7b", tier.Swap)
		runtime.AddCleanup(&v.States[0], func(struct{}) { close(gone) }, struct{}{})
		mustSelect(t, s, v, tier.Request{})
		mustSelect(t, s, v, tier.Request{Policy: PolicyAdaptive})
	}()
	for range 10 {
		runtime.GC()
		select {
		case <-gone:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Error("the states of a view that is no more are still held")
	runtime.KeepAlive(s)
}

func TestRankcache_QuestionsWithoutEnd_IsBounded(t *testing.T) {
	s := New()
	v := viewOf(newLibrary(t, recordedModels()...))
	for i := range 3 * maxKept / 64 {
		mustSelect(t, s, v, tier.Request{Preferences: []string{fmt.Sprint("p", i)}})
		if i%10 == 0 {
			if _, err := s.Select(&tier.Request{Capabilities: []string{fmt.Sprint("c", i)}}, v); err == nil {
				t.Fatal("an unknown capability was served")
			}
		}
	}
	if n := len(s.recorded.last.Load().answers); n > maxKept/64 {
		t.Errorf("%d rankings are kept", n)
	}
}

func TestQuestion_DifferentRequests_Differ(t *testing.T) {
	c := tier.Constraint{Label: "context", Op: ">=", Value: "8k"}
	seen := make(map[string]string)
	for _, req := range []tier.Request{
		{}, {Priority: tier.Speed}, {Deadline: 1}, {Capabilities: []string{"a"}}, {Capabilities: []string{"a", "b"}}, {Capabilities: []string{"a\x01b"}},
		{Capabilities: []string{"ab"}}, {Preferences: []string{"a"}}, {Capabilities: []string{"b"}, Preferences: []string{"a"}},
		{Constraints: []tier.Constraint{c}}, {Constraints: []tier.Constraint{c, c}}, {Constraints: []tier.Constraint{{Label: "context"}}},
		{Constraints: []tier.Constraint{{Label: "context", Op: "<=", Value: "8k"}}},
	} {
		q, text := string(question(nil, &req)), fmt.Sprintf("%+v", req)
		if other, ok := seen[q]; ok {
			t.Errorf("%s and %s are one question", text, other)
		}
		seen[q] = text
	}
}

func TestSelect_LibraryChangesUnderTheSameStates_IsNoticed(t *testing.T) {
	s := New()
	v := viewOf(newLibrary(t, recordedModels()...))
	for _, home := range []tier.Tier{tier.RAM, tier.Swap, tier.RAM} {
		m := *v.Library.At(0)
		m.Home = home
		next := *v // with the very slice of states
		next.Library = v.Library.With(m)
		want := map[tier.Tier]string{tier.RAM: "gpt2-small", tier.Swap: "gpt2-medium"}[home]
		if c := mustSelect(t, s, &next, tier.Request{Priority: tier.Speed}); c.Model != want {
			t.Errorf("at home in %v: chose %s, want %s", home, c.Model, want)
		}
	}
}

func TestSelect_FewerStatesThanModels_IsAnError(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	v.States = v.States[:3]
	if _, err := New().Select(&tier.Request{}, v); err == nil {
		t.Error("no error")
	}
}

func TestPartStatus_CountsAndWhatWasLearned_MarshalsWhileAsked(t *testing.T) {
	s := New()
	v := viewOf(newLibrary(t, recordedModels()...))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 250 {
				for _, req := range []tier.Request{
					{Model: "gpt2-small"}, {}, {Policy: PolicyAdaptive}, {Preferred: "llama-7b", Fallback: true}, {Model: "nope"}, {Capabilities: []string{"nope"}},
				} {
					s.Select(&req, v)
				}
				if _, err := json.Marshal(s.PartStatus()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.Moved([]tier.Moved{{Move: tier.Move{To: tier.RAM}, Bytes: tier.GiB, Took: 11 * time.Second}})
	s.Reported([]tier.Outcome{good("gpt2-small", time.Second), failed("llama-7b", start.Add(time.Hour)), failed("llama-7b", start.Add(time.Hour)), failed("llama-7b", start.Add(time.Hour))})
	_, storage := s.adaptive.stats.Load().rates("", &s.options.Costs)
	want := Status{
		Policy:  PolicyRecorded,
		Refused: map[string]uint64{"not_found": 1000, "no_capable_model": 1000},
		Learned: Learned{
			SwapSecondsPerGB: 0.4, StorageSecondsPerGB: storage, Known: 2,
			Models: []LearnedModel{
				{Model: "llama-7b", Heard: start.Add(time.Hour), Reliability: 5.0 / 8, Esteem: 1, Failures: 3, AvoidUntil: start.Add(time.Hour + 30*time.Second)},
				{Model: "gpt2-small", Heard: start, Reliability: 1, Esteem: 1, FirstUseSeconds: 1},
			},
		},
	}
	if diff := cmp.Diff(want, s.PartStatus()); diff != "" {
		t.Error(diff)
	}
	got := s.PartStatus().(Status)
	clear(got.Refused)
	if diff := cmp.Diff(want, s.PartStatus()); diff != "" {
		t.Errorf("what was returned is not a copy:\n%s", diff)
	}
}
