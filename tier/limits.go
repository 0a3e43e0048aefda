package tier

import (
	"errors"
	"fmt"
)

// Limits bound what the tiers may hold. In a Config, a zero field means its
// default; None means nothing at all and Unlimited means no bound.
type Limits struct {
	RAM      Bytes `json:"ram"`       // bytes in ram: models in ram, kept bytes, reservations
	Swap     Bytes `json:"swap"`      // bytes of swap-tier models that need not be present
	Reserved Bytes `json:"reserved"`  // memory that every admission leaves free on the machine
	MaxModel Bytes `json:"max_model"` // a model with more weights than this is never accepted
}

// The floors of the wire contract: a running system's limits are not lowered
// beneath them by mistake.
const (
	FloorRAM      = 1 * GiB
	FloorSwap     = 2 * GiB
	FloorReserved = GiB / 2
)

// DefaultLimits are those of an 8 GB board with one memory for CPU and GPU: 5
// GiB of ram, 10 GiB of swap, 1 GiB reserved, no model above 10.5 GiB.
func DefaultLimits() Limits {
	return Limits{RAM: 5 * GiB, Swap: 10 * GiB, Reserved: 1 * GiB, MaxModel: 10*GiB + GiB/2}
}

// OrElse returns l with every zero field taken from other.
func (l Limits) OrElse(other Limits) Limits {
	pick := func(b, other Bytes) Bytes {
		if b == 0 {
			return other
		}
		return b
	}
	return Limits{
		RAM:      pick(l.RAM, other.RAM),
		Swap:     pick(l.Swap, other.Swap),
		Reserved: pick(l.Reserved, other.Reserved),
		MaxModel: pick(l.MaxModel, other.MaxModel),
	}
}

// Settled returns l with None as the zero bytes that it means. Limits in force,
// such as those of a View, are settled.
func (l Limits) Settled() Limits {
	return Limits{RAM: max(l.RAM, 0), Swap: max(l.Swap, 0), Reserved: max(l.Reserved, 0), MaxModel: max(l.MaxModel, 0)}
}

// Of returns the limit of tier t, settled. Storage has none.
func (l Limits) Of(t Tier) Bytes {
	switch t {
	case RAM:
		return max(l.RAM, 0)
	case Swap:
		return max(l.Swap, 0)
	}
	return Unlimited
}

// CheckFloors returns a *LimitsError for the first limit that is beneath its
// floor. base is what the limits were made with: a limit that was beneath its
// floor there, on a scaled-down machine, has none.
func (l Limits) CheckFloors(base Limits) error {
	for _, f := range []struct {
		name               string
		value, base, floor Bytes
	}{
		{"RAM limit", l.RAM, base.RAM, FloorRAM},
		{"Swap limit", l.Swap, base.Swap, FloorSwap},
		{"RAM reserved", l.Reserved, base.Reserved, FloorReserved},
	} {
		if f.value < f.floor && f.base >= f.floor {
			return &LimitsError{Field: f.name, Value: f.value, Reason: fmt.Sprintf("%s must be >= %.1fGB", f.name, f.floor.GB())}
		}
	}
	return nil
}

// Validate returns every fault at once, each a *LimitsError, or nil. Floors are
// not its business.
func (l Limits) Validate() error {
	var errs []error
	check := func(field string, v Bytes, none bool) {
		if v > 0 || none && (v == None || v == 0) {
			return
		}
		errs = append(errs, &LimitsError{Field: field, Value: v, Reason: fmt.Sprintf("%s limit must be positive, is %d bytes", field, int64(v))})
	}
	check("ram", l.RAM, false)
	check("swap", l.Swap, true)
	check("reserved", l.Reserved, true)
	check("max model", l.MaxModel, false)
	return errors.Join(errs...)
}
