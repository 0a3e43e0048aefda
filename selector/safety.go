package selector

import (
	"math"
	"math/bits"

	"github.com/modeltier/modeltier/tier"
)

const million = 1_000_000

// fractions is a Safety in millionths, so that thresholds are exact integers and
// the same on every machine: 0.7 of 10 GiB admits 7 GiB, which in float64 it does
// not.
type fractions struct{ ram, total uint64 }

func (s Safety) fractions() fractions {
	return fractions{ram: uint64(math.Round(s.RAM * million)), total: uint64(math.Round(s.Total * million))}
}

// ceilings is the most bytes of weights that a model may have to be safe, by home
// tier.
type ceilings [tier.Count]tier.Bytes

func (f fractions) ceilings(v *tier.View) ceilings {
	if unread(&v.Memory) {
		return ceilings{tier.Unlimited, tier.Unlimited, tier.Unlimited}
	}
	var c ceilings
	c[tier.RAM] = share(v.Memory.Available, f.ram)
	c[tier.Swap] = share(v.Memory.Available.Plus(v.FreeSwap), f.total)
	c[tier.Storage] = max(c[tier.RAM], c[tier.Swap])
	return c
}

// unread reports whether there was no reading of memory yet. Then nothing is
// known against any model, and the Manager's admission decides.
func unread(m *tier.Memory) bool {
	return m.Available == 0 && m.Total == 0 && m.SwapTotal == 0 && m.SwapFree == 0 && m.At.IsZero()
}

// share returns that many millionths of b, rounded down. millionths is at most a
// million, so the quotient fits.
func share(b tier.Bytes, millionths uint64) tier.Bytes {
	hi, lo := bits.Mul64(uint64(max(b, 0)), millionths)
	q, _ := bits.Div64(hi, lo, million)
	return tier.Bytes(q)
}

// resident reports whether the model is in a memory tier, or on its way to one,
// and so needs no memory that it has not got.
func resident(s *tier.State) bool {
	return s.Tier != tier.Storage || s.Moving && s.To != tier.Storage
}

// never reports whether a model of that size fits no tier that it can be served
// from, even if everything else left; need is its size and what serving takes
// beyond. A view without limits bounds nothing.
func never(v *tier.View, size, need tier.Bytes, s *tier.State) bool {
	if v.Limits.RAM == 0 || need <= v.Limits.Of(tier.RAM) {
		return false
	}
	if s.InPlace {
		return size > v.Limits.Of(tier.Swap) && !resident(s)
	}
	return s.Tier != tier.RAM && !(s.Moving && s.To == tier.RAM)
}

// stuck reports whether a move of the model did not return, so that it can't be
// counted on.
func stuck(s *tier.State) bool { return s.Stuck && !s.Serving }
