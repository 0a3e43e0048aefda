package selector

import (
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// recordedModels is the default library of the wire contract.
func recordedModels() []tier.Model {
	gb := func(x float64) tier.Bytes {
		b, err := tier.FromGB(x)
		if err != nil {
			panic(err)
		}
		return b
	}
	return []tier.Model{
		{Name: "gpt2-small", Size: gb(0.5), Home: tier.RAM, Capabilities: []string{"text-generation", "fast"}},
		{Name: "gpt2-medium", Size: gb(1.5), Home: tier.RAM, Capabilities: []string{"text-generation", "balanced"}},
		{Name: "gpt2-large", Size: gb(3), Home: tier.RAM, Capabilities: []string{"text-generation", "quality"}},
		{Name: "bert-large", Size: gb(1.3), Home: tier.RAM, Capabilities: []string{"text-classification", "embeddings"}},
		{Name: "gpt-j-6b", Size: gb(6), Home: tier.Swap, Capabilities: []string{"text-generation", "high-quality"}},
		{Name: "llama-7b", Size: gb(7), Home: tier.Swap, Capabilities: []string{"text-generation", "instruction-following"}},
	}
}

func newLibrary(t testing.TB, models ...tier.Model) *tier.Library {
	t.Helper()
	lib, err := tier.NewLibrary(models)
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

// start is the moment that the views of the tests begin at.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// viewOf is a view in which every model is in storage and can be served in place,
// with the limits of a small board and plenty of memory.
func viewOf(lib *tier.Library) *tier.View {
	v := &tier.View{
		Now: start, Library: lib, States: make([]tier.State, lib.Len()), Limits: tier.DefaultLimits(),
		Memory:   tier.Memory{At: start, Total: 64 * tier.GiB, Available: 64 * tier.GiB},
		FreeSwap: 64 * tier.GiB,
	}
	for i := range v.States {
		v.States[i].InPlace = true
	}
	return v
}

// remember returns v with that much memory.
func remember(v *tier.View, available, swap tier.Bytes) *tier.View {
	v.Memory.Available, v.FreeSwap = available, swap
	return v
}

// settle puts the named model into a tier, ready to be leased.
func settle(t testing.TB, v *tier.View, name string, in tier.Tier) *tier.State {
	t.Helper()
	i, ok := v.Library.Find(name)
	if !ok {
		t.Fatalf("no model %q", name)
	}
	s := &v.States[i]
	s.Tier, s.Serving = in, in != tier.Storage
	return s
}

// again returns a view of the same with states of its own, as the Manager makes
// one for every change.
func again(v *tier.View) *tier.View {
	n := *v
	n.States = append([]tier.State(nil), v.States...)
	return &n
}

func mustSelect(t testing.TB, s tier.Selector, v *tier.View, req tier.Request) tier.Choice {
	t.Helper()
	c, err := s.Select(&req, v)
	if err != nil {
		t.Fatalf("%+v: %v", req, err)
	}
	if c.Index < 0 || c.Index >= v.Library.Len() || v.Library.At(c.Index).Name != c.Model {
		t.Fatalf("%+v: index %d does not fit model %q", req, c.Index, c.Model)
	}
	return c
}
