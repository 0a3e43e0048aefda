package selector

import (
	"math"
	"math/big"
	"slices"
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

// naive is the recorded policy as the wire contract words it: one pass over the
// models, exact arithmetic in rationals, no index. It shares no code with the
// package but the taxonomy's data.
type naive struct{ taxonomy Taxonomy }

type naiveChoice struct {
	index int // -1: none
	score *big.Rat
}

func rat(x float64) *big.Rat { r, _ := new(big.Rat).SetString(big.NewFloat(x).Text('g', 12)); return r }

func gbOf(b tier.Bytes) *big.Rat { return big.NewRat(int64(b), 1<<30) }

func sum(xs ...*big.Rat) *big.Rat {
	s := new(big.Rat)
	for _, x := range xs {
		s.Add(s, x)
	}
	return s
}

func times(x float64, y *big.Rat) *big.Rat { return new(big.Rat).Mul(rat(x), y) }

func (n naive) name(c string) string {
	for n.taxonomy.Aliases[c] != "" {
		c = n.taxonomy.Aliases[c]
	}
	return c
}

// implies reports whether having c means having wanted.
func (n naive) implies(c, wanted string) bool {
	if n.name(c) == n.name(wanted) {
		return true
	}
	for _, also := range n.taxonomy.Implies[n.name(c)] {
		if n.implies(also, wanted) {
			return true
		}
	}
	return false
}

func (n naive) can(m *tier.Model, wanted []string) bool {
	for _, w := range wanted {
		if !slices.ContainsFunc(m.Capabilities, func(c string) bool { return n.implies(c, w) }) {
			return false
		}
	}
	return true
}

func (n naive) meets(m *tier.Model, constraints []tier.Constraint) bool {
	for _, c := range constraints {
		if !c.Met(m) {
			return false
		}
	}
	return true
}

func (n naive) resident(s *tier.State) bool {
	return s.Tier != tier.Storage || s.Moving && s.To != tier.Storage
}

// steps until the model can be served: none, one within memory, or one from storage.
func (n naive) steps(v *tier.View, i int) int {
	s := &v.States[i]
	at := s.Tier
	if s.Moving {
		at = s.To
	}
	switch {
	case s.Serving:
		return 0
	case at != tier.Storage:
		return 1
	}
	return 2
}

func (n naive) safe(v *tier.View, i int) bool {
	m, s := v.Library.At(i), &v.States[i]
	if s.Stuck && !s.Serving {
		return false
	}
	inRAM := s.Tier == tier.RAM || s.Moving && s.To == tier.RAM
	if m.Size+m.Runtime > v.Limits.RAM {
		inPlace := s.InPlace && (m.Size <= v.Limits.Swap || n.resident(s))
		if !inPlace && (!inRAM || s.InPlace) {
			return false
		}
	}
	if n.resident(s) || v.Memory.At.IsZero() {
		return true
	}
	size := gbOf(m.Size)
	ram := size.Cmp(times(0.7, gbOf(v.Memory.Available))) <= 0
	swap := size.Cmp(times(0.6, gbOf(v.Memory.Available+v.FreeSwap))) <= 0
	switch m.Home {
	case tier.RAM:
		return ram
	case tier.Swap:
		return swap
	}
	return ram || swap
}

// seconds until the model can be used.
func (n naive) expected(v *tier.View, i int) time.Duration {
	m, s := v.Library.At(i), &v.States[i]
	perGB := func(b tier.Bytes, ms int64) *big.Int {
		x := big.NewInt(int64(b))
		x.Mul(x, big.NewInt(ms*1e6))
		return x.Rsh(x, 30)
	}
	at := s.Tier
	if s.Moving && s.To < at {
		at = s.To
	}
	kept := min(max(s.Kept, 0), m.Size)
	total := new(big.Int)
	switch at {
	case tier.RAM:
		total = perGB(m.Size, 100)
	case tier.Swap:
		total.Add(perGB(kept, 100), perGB(m.Size-kept, 500))
	default:
		total = perGB(m.Size, 1500)
	}
	return time.Duration(total.Int64())
}

func (n naive) score(m *tier.Model, required, preferred []string, p tier.Priority) *big.Rat {
	names := make(map[string]bool)
	for _, c := range m.Capabilities {
		names[n.name(c)] = true
	}
	shared, counted := 0, make(map[string]bool)
	for _, r := range required {
		if r = n.name(r); names[r] && !counted[r] {
			shared++
		}
		counted[r] = true
	}
	for _, r := range preferred {
		if r = n.name(r); !counted[r] && n.can(m, []string{r}) {
			shared++
		}
		counted[r] = true
	}
	worth := gbOf(m.Size)
	if m.Quality > 0 {
		worth = rat(m.Quality)
	}
	score := times(0.8, big.NewRat(int64(shared), 1))
	home := m.Home == tier.RAM
	switch {
	case p == tier.Speed && home:
		return sum(score, rat(2))
	case p == tier.Speed:
		return sum(score, rat(0.5))
	case p == tier.Quality:
		return sum(score, times(0.2, worth))
	case home:
		return sum(score, rat(1.5))
	}
	return sum(score, rat(1), times(0.1, worth))
}

// auto answers a request in auto.
func (n naive) auto(req *tier.Request, v *tier.View) naiveChoice {
	required := req.Capabilities
	if len(required) == 0 {
		required = []string{"text-generation"}
	}
	must := required
	if len(req.Capabilities) == 0 {
		any := false
		for _, m := range v.Library.All() {
			any = any || m.VersionOf == "" && n.can(m, required)
		}
		if !any {
			must = nil
		}
	}
	best := naiveChoice{index: -1}
	for i, m := range v.Library.All() {
		if m.VersionOf != "" || !n.can(m, must) || !n.meets(m, req.Constraints) || !n.safe(v, i) || req.Deadline > 0 && n.expected(v, i) > req.Deadline {
			continue
		}
		score := n.score(m, must, req.Preferences, req.Priority)
		if best.index < 0 || score.Cmp(best.score) > 0 || score.Cmp(best.score) == 0 && n.steps(v, i) < n.steps(v, best.index) {
			best = naiveChoice{i, score}
		}
	}
	return best
}

// may reports whether a named model may serve the request.
func (n naive) may(req *tier.Request, v *tier.View, i int) bool {
	m := v.Library.At(i)
	return n.can(m, req.Capabilities) && n.meets(m, req.Constraints) && n.safe(v, i) &&
		(req.Deadline == 0 || n.expected(v, i) <= req.Deadline)
}

func close64(a float64, b *big.Rat) bool {
	f, _ := b.Float64()
	return math.Abs(a-f) <= 1e-9*max(1, math.Abs(f))
}
