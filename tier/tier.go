package tier

import "fmt"

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

var tierNames = [Count]string{"storage", "swap", "ram"}

// String returns the tier's name on the wire: "storage", "swap" or "ram".
func (t Tier) String() string {
	if !t.Valid() {
		return fmt.Sprintf("tier(%d)", uint8(t))
	}
	return tierNames[t]
}

// Valid reports whether t is one of the three tiers.
func (t Tier) Valid() bool { return t < Count }

// ParseTier returns the tier of that name. Names are lower case and exact. The
// error of an unknown name unwraps to ErrInvalid.
func ParseTier(name string) (Tier, error) {
	for t, n := range tierNames {
		if n == name {
			return Tier(t), nil
		}
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
func (t *Tier) UnmarshalText(text []byte) error {
	v, err := ParseTier(string(text))
	if err == nil {
		*t = v
	}
	return err
}
