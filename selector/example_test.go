package selector_test

import (
	"fmt"
	"math"
	"strconv"

	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
)

// view is a picture of two models in storage, with 8 GiB of memory to be had.
func view() *tier.View {
	lib, err := tier.NewLibrary([]tier.Model{
		{Name: "small", Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"chat"}},
		{Name: "large", Size: 4 * tier.GiB, Home: tier.Swap, Capabilities: []string{"chat", "code"}, Labels: map[string]string{"context": "32k"}},
	})
	if err != nil {
		panic(err)
	}
	return &tier.View{
		Library: lib, States: make([]tier.State, lib.Len()), Limits: tier.DefaultLimits(),
		Memory: tier.Memory{Available: 8 * tier.GiB}, FreeSwap: 8 * tier.GiB,
	}
}

func ExampleNew() {
	s := selector.New()
	for _, req := range []tier.Request{
		{Priority: tier.Speed},
		{Priority: tier.Quality},
		{Capabilities: []string{"code-generation"}},
		{Preferred: "medium", Fallback: true},
	} {
		c, err := s.Select(&req, view())
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(c.Reason())
	}
	// Output:
	// Intelligent selection: small (score: 2.0)
	// Intelligent selection: large (score: 0.8)
	// Intelligent selection: large (score: 2.2)
	// Intelligent selection: small (score: 1.5); fell back: Model 'medium' not found
}

func ExampleNewWith() {
	weights := selector.DefaultWeights()
	weights.BalancedElsewhere = 3 // nothing against models at home in swap
	taxonomy := selector.DefaultTaxonomy()
	taxonomy.Implies["code-generation"] = []string{"refactoring"}
	s, err := selector.NewWith(selector.Options{Weights: weights, Taxonomy: taxonomy})
	if err != nil {
		fmt.Println(err)
		return
	}
	long, err := tier.ParseConstraint("context >= 8192")
	if err != nil {
		fmt.Println(err)
		return
	}
	req := tier.Request{Capabilities: []string{"refactoring"}, Constraints: []tier.Constraint{long}, Explain: true}
	c, err := s.Select(&req, view())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, x := range c.Explanation.Candidates {
		fmt.Printf("%s (%.1f): %s\n", x.Model, x.Score, x.Verdict)
	}
	// Output:
	// large (3.4): chosen
	// small (1.5): left out: lacks refactoring, context >= 8192
}

// A scoring of one's own: models that are at hand before others, and of those the
// cheapest by a label.
func ExampleByScore() {
	s := selector.ByScore(func(_ *tier.Request, m *tier.Model, state *tier.State) float64 {
		cents, err := strconv.ParseFloat(m.Labels["cents"], 64)
		if err != nil {
			return math.NaN() // without a price it is not to be chosen
		}
		if state.Tier == tier.RAM {
			return 100 - cents
		}
		return -cents
	})
	lib, err := tier.NewLibrary([]tier.Model{
		{Name: "cheap", Size: tier.GiB, Labels: map[string]string{"cents": "2"}},
		{Name: "dear", Size: tier.GiB, Labels: map[string]string{"cents": "7"}},
		{Name: "unpriced", Size: tier.GiB},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	v := view()
	v.Library, v.States = lib, make([]tier.State, lib.Len())
	c, _ := s.Select(&tier.Request{}, v)
	fmt.Println(c.Model)
	at := *v // a view does not change: this is the next one
	at.States = []tier.State{{}, {Tier: tier.RAM, Serving: true}, {}}
	c, _ = s.Select(&tier.Request{}, &at)
	fmt.Println(c.Model)
	// Output:
	// cheap
	// dear
}
