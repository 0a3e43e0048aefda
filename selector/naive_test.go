package selector

import (
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// naive is the recorded policy as the wire contract words it: one pass over the
// models, exact arithmetic in rationals, no index. It shares no code with the
// package but the taxonomy's data.
type naive struct{ taxonomy Taxonomy }

type naiveChoice struct {
	index int // -1: nobody
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
			any = any || n.can(m, required)
		}
		if !any {
			must = nil
		}
	}
	best := naiveChoice{index: -1}
	for i, m := range v.Library.All() {
		if !n.can(m, must) || !n.meets(m, req.Constraints) || !n.safe(v, i) || req.Deadline > 0 && n.expected(v, i) > req.Deadline {
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
