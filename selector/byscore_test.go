package selector

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
	"pgregory.net/rapid"
)

// bySize wants large models.
func bySize(_ *tier.Request, m *tier.Model, _ *tier.State) float64 { return float64(m.Size) }

func TestByScore_KeepsTheContract(t *testing.T) {
	tiertest.TestSelector(t, ByScore(bySize))
	t.Run("all alike", func(t *testing.T) {
		tiertest.TestSelector(t, ByScore(func(*tier.Request, *tier.Model, *tier.State) float64 { return 0 }))
	})
}

// Scores are drawn for each model, often equal, and the extremes among them.
func TestByScore_AnyLibraryAndScores_ChoosesTheBestThatTheDefaultWouldAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, scores := naive{DefaultTaxonomy()}, make(map[string]float64)
		s := ByScore(func(_ *tier.Request, m *tier.Model, _ *tier.State) float64 { return scores[m.Name] })
		v := drawView(t, drawLibrary(t))
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			for _, m := range v.Library.All() {
				scores[m.Name] = rapid.SampledFrom([]float64{0, 1, 2, -3, math.Inf(1), math.Inf(-1), math.NaN()}).Draw(t, "score")
			}
			req := drawRequest(t)
			req.Model, req.Preferred, req.Fallback, req.Explain = "", "", false, rapid.Bool().Draw(t, "explain")
			best := -1
			general := len(req.Capabilities) == 0
			asked := req
			if general {
				for i := range v.States {
					if m := v.Library.At(i); m.VersionOf == "" && n.can(m, []string{textGeneration}) {
						asked.Capabilities = []string{textGeneration}
					}
				}
			}
			for i := range v.States {
				score := scores[v.Library.At(i).Name]
				if v.Library.At(i).VersionOf != "" || !n.may(&asked, v, i) || math.IsNaN(score) || math.IsInf(score, -1) {
					continue
				}
				if best < 0 || score > scores[v.Library.At(best).Name] || score == scores[v.Library.At(best).Name] && n.steps(v, i) < n.steps(v, best) {
					best = i
				}
			}
			c, err := s.Select(&req, v)
			switch {
			case best < 0 && !errors.Is(err, tier.ErrNoCapableModel):
				t.Fatalf("%+v: got %+v, %v, want no model", req, c, err)
			case best >= 0 && (err != nil || c.Index != best || c.Score != scores[v.Library.At(best).Name]):
				t.Fatalf("%+v: got %+v, %v, want model %d", req, c, err, best)
			}
			if req.Explain && len(c.Explanation.Candidates) != v.Library.Len() {
				t.Fatalf("%d of %d models are explained", len(c.Explanation.Candidates), v.Library.Len())
			}
			v = drawChange(t, v)
		}
	})
}

func TestByScore_FunctionPanics_IsAnErrorOfThatRequest(t *testing.T) {
	s := ByScore(func(req *tier.Request, m *tier.Model, _ *tier.State) float64 {
		if req.Priority == tier.Speed && m.Name == "gpt2-large" {
			panic("out of order")
		}
		return bySize(req, m, nil)
	})
	v := viewOf(newLibrary(t, recordedModels()...))
	for _, explain := range []bool{false, true} {
		_, err := s.Select(&tier.Request{Priority: tier.Speed, Explain: explain}, v)
		if p, ok := errors.AsType[*tier.PanicError](err); !ok || p.Part != "score function" {
			t.Errorf("explain %v: %v", explain, err)
		}
		if c, err := s.Select(&tier.Request{Explain: explain}, v); err != nil || c.Model != "llama-7b" {
			t.Errorf("the next request got %+v, %v", c, err)
		}
	}
}

func TestByScore_Explained_OnlyWhatMayServeIsScored(t *testing.T) {
	lib := tier.AssembleLibrary([]tier.Model{{Name: "a", Size: 1, Capabilities: []string{"text-generation"}}, {Name: "embeds", Size: 1, Capabilities: []string{"embedding"}}})
	v := &tier.View{Library: lib, States: make([]tier.State, 2), Limits: tier.DefaultLimits(), Memory: tier.Memory{Total: 64 * tier.GiB, Available: 64 * tier.GiB}}
	calls := 0
	s := ByScore(func(_ *tier.Request, m *tier.Model, _ *tier.State) float64 {
		if calls++; m.Name != "a" || calls > 2 {
			panic("it was not to be asked")
		}
		return 1
	})
	req := &tier.Request{Capabilities: []string{"text-generation"}, Explain: true}
	c, err := s.Select(req, v)
	if err != nil || c.Model != "a" || c.Explanation == nil || len(c.Explanation.Candidates) != 2 || c.Explanation.Candidates[1].Factors != nil {
		t.Errorf("%+v, %v", c, err)
	}
	// What panics only while it explains costs the explanation.
	calls = 1
	if c, err := s.Select(req, v); err != nil || c.Model != "a" || c.Explanation != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestByScore_NoModelIsWanted_SaysSoAndWhichCouldBeNamed(t *testing.T) {
	s := ByScore(func(*tier.Request, *tier.Model, *tier.State) float64 { return math.NaN() })
	v := viewOf(newLibrary(t, recordedModels()...))
	req := tier.Request{Capabilities: []string{"embeddings"}, Explain: true}
	c, err := s.Select(&req, v)
	const want = "Of the models with capabilities [embeddings] that can be served now, the score function wants none"
	if err == nil || err.Error() != want || fmt.Sprint(tier.Suggestions(err)) != "[Ask for a model that has it: bert-large.]" {
		t.Errorf("%v %q", err, tier.Suggestions(err))
	}
	for _, x := range c.Explanation.Candidates {
		if wants := x.Model == "bert-large"; wants != (x.Verdict == "left out: the score function does not want it") || x.Eligible {
			t.Errorf("%+v", x)
		}
	}
	if c, err := s.Select(&tier.Request{Model: "bert-large"}, v); err != nil || c.Mode != tier.Manual {
		t.Errorf("by name: %+v, %v", c, err)
	}
}

func TestByScore_Nil_IsTheDefault(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	c, err := ByScore(nil).Select(&tier.Request{}, v)
	want, err2 := New().Select(&tier.Request{}, v)
	if err != nil || err2 != nil || c.Model != want.Model || c.Score != want.Score {
		t.Errorf("%+v, %v; want %+v, %v", c, err, want, err2)
	}
}

func TestByScore_AskedBefore_AllocatesNothing(t *testing.T) {
	s := ByScore(bySize)
	v := viewOf(newLibrary(t, recordedModels()...))
	for _, req := range []tier.Request{{}, {Capabilities: []string{"embeddings"}, Priority: tier.Quality}, {Model: "gpt2-small"}} {
		f := func() {
			if _, err := s.Select(&req, v); err != nil {
				t.Fatal(err)
			}
		}
		f()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%+v: %v allocations", req, n)
		}
	}
}
