package selector

import (
	"math"
	"math/bits"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// eligibility says whether a model may serve a request, or why not.
type eligibility uint8

const (
	eligible    eligibility = iota
	lacking                 // it lacks a capability, or does not meet a constraint
	oversized               // it fits no tier that it can be served from
	memoryShort             // memory is short
	late                    // it is not expected to make the deadline
)

// eligible returns what keeps model i from serving the request, the first in the
// order above. It allocates nothing.
func (p *Policies) eligible(req *tier.Request, v *tier.View, by string, i int) eligibility {
	m, s := v.Library.At(i), &v.States[i]
	switch {
	case !p.taxonomy.canAll(m.Capabilities, req.Capabilities) || !meets(m, req.Constraints):
		return lacking
	case tooLarge(v, m.Size, m.Size.Plus(m.Runtime), s):
		return oversized
	case !resident(s) && m.Size > p.ceiling(v, m):
		return memoryShort
	case req.Deadline > 0 && p.expected(v, by, i) > req.Deadline:
		return late
	}
	return eligible
}

// expected is the predicted time until model i can be used.
func (p *Policies) expected(v *tier.View, by string, i int) time.Duration {
	c := candidate{model: int32(i), m: v.Library.At(i), state: &v.States[i]}
	if by == PolicyAdaptive {
		return p.snapshotOf(v, by).scorer.expected(&c)
	}
	return p.recorded.expected(&c) // not by way of scorer, through which c would escape
}

// meets reports whether the model meets all constraints.
func meets(m *tier.Model, constraints []tier.Constraint) bool {
	for i := range constraints {
		if !constraints[i].Met(m) {
			return false
		}
	}
	return true
}

// resident reports whether the model is in a memory tier, or on its way to one,
// and so needs no memory that it has not got.
func resident(s *tier.State) bool {
	return s.Tier != tier.Storage || s.Moving && s.To != tier.Storage
}

// stuck reports whether a move of the model did not return, so that it cannot be
// counted on.
func stuck(s *tier.State) bool { return s.Stuck && !s.Serving }

// tooLarge reports whether a model of that size fits no tier that it can be served
// from, even if everything else left; need is its size and what serving takes
// beyond. A view without limits bounds nothing.
func tooLarge(v *tier.View, size, need tier.Bytes, s *tier.State) bool {
	if v.Limits.RAM == 0 || need <= v.Limits.Of(tier.RAM) {
		return false
	}
	if s.InPlace {
		return size > v.Limits.Of(tier.Swap) && !resident(s)
	}
	return s.Tier != tier.RAM && !(s.Moving && s.To == tier.RAM)
}

const million = 1_000_000

// fractions is a Safety in millionths, so that thresholds are exact integers and
// the same on every machine: 0.7 of 10 GiB admits 7 GiB, which in float64 it does
// not.
type fractions struct{ ram, total uint64 }

func (s Safety) fractions() fractions {
	return fractions{ram: uint64(math.Round(s.RAM * million)), total: uint64(math.Round(s.Total * million))}
}

// ceilings is the largest size of a model that is safe, by home tier.
type ceilings [tier.Count]tier.Bytes

// ceilings sets c, without bounds if memory was never read: the Manager's admission
// decides then.
func (f fractions) ceilings(v *tier.View, c *ceilings) {
	m := &v.Memory
	if m.Available == 0 && m.Total == 0 && m.SwapTotal == 0 && m.SwapFree == 0 && m.At.IsZero() {
		*c = ceilings{tier.Unlimited, tier.Unlimited, tier.Unlimited}
		return
	}
	ram, swap := share(m.Available, f.ram), share(m.Available.Plus(v.FreeSwap), f.total)
	c[tier.RAM], c[tier.Swap], c[tier.Storage] = ram, swap, max(ram, swap)
}

// of is the largest size that is safe for a model at home where m is.
func (c *ceilings) of(m *tier.Model) tier.Bytes {
	if !m.Home.Valid() {
		return c[tier.Storage]
	}
	return c[m.Home]
}

// ceiling is the largest size that is safe for a model at home where m is.
func (p *Policies) ceiling(v *tier.View, m *tier.Model) tier.Bytes {
	var c ceilings
	p.fractions.ceilings(v, &c)
	return c.of(m)
}

// share returns that many millionths of b, rounded down. millionths is at most a
// million, so the quotient fits.
func share(b tier.Bytes, millionths uint64) tier.Bytes {
	hi, lo := bits.Mul64(uint64(max(b, 0)), millionths)
	if hi == 0 { // below 16 TiB; a division by a constant is a multiplication
		return tier.Bytes(lo / million)
	}
	q, _ := bits.Div64(hi, lo, million)
	return tier.Bytes(q)
}
