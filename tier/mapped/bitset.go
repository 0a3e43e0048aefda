package mapped

import "math/bits"

// bitset says of each page whether it is in the set.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (s bitset) add(i int) { s[i/64] |= 1 << (i % 64) }

// fill adds all that there is.
func (s bitset) fill() {
	for i := range s {
		s[i] = ^uint64(0)
	}
}

// next returns the first index in [i, end) that is in the set, or, with in
// false, that is not; end where there is none.
func (s bitset) next(i, end int, in bool) int {
	for i < end {
		word := s[i/64]
		if !in {
			word = ^word
		}
		if word >>= i % 64; word != 0 {
			return min(i+bits.TrailingZeros64(word), end)
		}
		i = (i/64 + 1) * 64
	}
	return end
}
