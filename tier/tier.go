package tier

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Tier is where a model's weights are. Tiers are ordered from cold to hot:
// Storage < Swap < RAM.
type Tier uint8

const (
	// Storage: known, but in no memory tier.
	Storage Tier = iota
	// Swap: usable at once, but its bytes need not be present in memory.
	Swap
	// RAM: every byte is present in memory.
	RAM
)

// Count is the number of tiers. Arrays indexed by Tier have this length.
const Count = 3

var tierNames = []string{"storage", "swap", "ram"}

// String returns the tier's name on the wire: "storage", "swap" or "ram".
func (t Tier) String() string { return nameOf(t, "tier", tierNames) }

// Valid reports whether t is one of the three tiers.
func (t Tier) Valid() bool { return t < Count }

// ParseTier returns the tier of that name. Names are lower case and exact. The
// error of an unknown name unwraps to ErrInvalid.
func ParseTier(name string) (Tier, error) {
	if t := slices.Index(tierNames, name); t >= 0 {
		return Tier(t), nil
	}
	return Storage, &InvalidError{
		Field: "tier", Value: name, Rule: "must be one of ram, swap, storage",
		Reason: "Unknown target tier: " + name,
	}
}

// MarshalText implements encoding.TextMarshaler.
func (t Tier) MarshalText() ([]byte, error) {
	if !t.Valid() {
		return nil, &InvalidError{Field: "tier", Value: t.String(), Rule: "must be one of ram, swap, storage"}
	}
	return []byte(tierNames[t]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tier) UnmarshalText(text []byte) error { return setText(t, text, ParseTier) }

// nameOf returns the name of a value of an enumeration, or of what is none
// "tier(9)".
func nameOf[T ~uint8](v T, enumeration string, names []string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", enumeration, uint8(v))
}

// valueOf returns the value of that name; the error unwraps to ErrInvalid.
func valueOf[T ~uint8](name, enumeration string, names []string) (T, error) {
	if v := slices.Index(names, name); v >= 0 {
		return T(v), nil
	}
	return 0, &InvalidError{Field: enumeration, Value: shorten(name), Rule: "must be one of " + strings.Join(names, ", ")}
}

// setText sets v to the value of that name and leaves it alone if there is none.
func setText[T ~uint8](v *T, text []byte, parse func(string) (T, error)) error {
	n, err := parse(string(text))
	if err == nil {
		*v = n
	}
	return err
}

// Bytes is a number of bytes. Negative values occur as differences and as
// [None]; a size is never negative.
type Bytes int64

// Binary units. On the wire 1 GB is one GiB.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// In a field of Limits, Unlimited means no bound and None means nothing at all;
// zero means the default. Unlimited is also where sums saturate: as an amount it is
// one that cannot be counted.
const (
	Unlimited Bytes = math.MaxInt64
	None      Bytes = -1
)

// String returns b with one decimal in the largest unit that b has at least one
// of, "3.0 GiB", and without a decimal below one KiB, "17 B".
func (b Bytes) String() string {
	if b == Unlimited {
		return "unlimited"
	}
	unit, name := Bytes(1), " B"
	switch abs := b.Abs(); {
	case abs >= GiB:
		unit, name = GiB, " GiB"
	case abs >= MiB:
		unit, name = MiB, " MiB"
	case abs >= KiB:
		unit, name = KiB, " KiB"
	default:
		return strconv.FormatInt(int64(b), 10) + name
	}
	return strconv.FormatFloat(float64(b)/float64(unit), 'f', 1, 64) + name
}

// Abs returns the absolute value; for the smallest Bytes, the largest.
func (b Bytes) Abs() Bytes {
	if b == math.MinInt64 {
		return math.MaxInt64
	}
	return max(b, -b)
}

// GB returns b in units of 2^30 bytes, the unit of the wire contract.
func (b Bytes) GB() float64 { return float64(b) / float64(GiB) }

// Apart returns b and c in units of 2^30 bytes with one decimal, as the recorded
// answers of the wire contract have it, or with as many as it takes to tell them
// apart: a refusal that says 0.4 is more than 0.4 is of no help.
func (b Bytes) Apart(c Bytes) (string, string) {
	for digits := 1; ; digits++ {
		x, y := strconv.FormatFloat(b.GB(), 'f', digits, 64), strconv.FormatFloat(c.GB(), 'f', digits, 64)
		if x != y || b == c || digits == 9 { // 2^-30 is 9e-10
			return x, y
		}
	}
}

// FromGB returns gb, in units of 2^30 bytes, as Bytes, rounded to the nearest
// byte. The error of NaN, an infinity or a number that does not fit unwraps to
// ErrInvalid.
func FromGB(gb float64) (Bytes, error) {
	b := math.RoundToEven(gb * float64(GiB))
	if math.IsNaN(b) || b >= math.MaxInt64 || b <= math.MinInt64 {
		return 0, &InvalidError{
			Field: "size", Value: strconv.FormatFloat(gb, 'g', -1, 64) + " GB",
			Rule: "must be a finite number of GB below 2^33",
		}
	}
	return Bytes(b), nil
}

// Add returns b+c and whether the sum fits. If not, it returns the nearest Bytes
// that does, so that a comparison with a limit still comes out right.
func (b Bytes) Add(c Bytes) (Bytes, bool) {
	s := b + c
	switch {
	case b > 0 && c > 0 && s < 0:
		return math.MaxInt64, false
	case b < 0 && c < 0 && s >= 0:
		return math.MinInt64, false
	}
	return s, true
}

// Plus returns b+c, saturated.
func (b Bytes) Plus(c Bytes) Bytes {
	s, _ := b.Add(c)
	return s
}

// Minus returns b-c, saturated.
func (b Bytes) Minus(c Bytes) Bytes {
	switch d := b - c; {
	case b >= 0 && c < 0 && d < 0:
		return math.MaxInt64
	case b < 0 && c >= 0 && d >= 0:
		return math.MinInt64
	default:
		return d
	}
}
