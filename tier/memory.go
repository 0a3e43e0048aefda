package tier

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits bound what the tiers may hold. In a Config, a zero field means its
// default; None means nothing at all and Unlimited means no bound.
type Limits struct {
	RAM      Bytes `json:"ram"`       // bytes in ram: models in ram, kept bytes, reservations
	Swap     Bytes `json:"swap"`      // bytes of swap-tier models that need not be present
	Reserved Bytes `json:"reserved"`  // memory that every admission leaves free on the machine
	MaxModel Bytes `json:"max_model"` // a model with more weights is never accepted
}

// The floors of the wire contract keep the limits of a running system from being
// set too low by mistake.
const (
	floorRAM      = 1 * GiB
	floorSwap     = 2 * GiB
	floorReserved = GiB / 2
)

// DefaultLimits are those of an 8 GB board with one memory for CPU and GPU: 5
// GiB of ram, 10 GiB of swap, 1 GiB reserved, no model above 10.5 GiB.
func DefaultLimits() Limits {
	return Limits{RAM: 5 * GiB, Swap: 10 * GiB, Reserved: 1 * GiB, MaxModel: 10*GiB + GiB/2}
}

// OrElse returns l with every zero field taken from other.
func (l Limits) OrElse(other Limits) Limits {
	return Limits{
		RAM:      cmp.Or(l.RAM, other.RAM),
		Swap:     cmp.Or(l.Swap, other.Swap),
		Reserved: cmp.Or(l.Reserved, other.Reserved),
		MaxModel: cmp.Or(l.MaxModel, other.MaxModel),
	}
}

// Settled returns l with None replaced by the zero bytes that it means. Limits in
// force, such as those of a View, are settled.
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

// CheckFloors returns a *LimitsError for the first limit that is below its floor: 1 GiB
// of ram, 2 of swap, half a GiB in reserve.
// base is the limits at the start: a limit that was below its floor there, on a
// scaled-down machine, has no floor.
func (l Limits) CheckFloors(base Limits) error {
	for _, f := range []struct {
		name               string
		value, base, floor Bytes
	}{
		{"RAM limit", l.RAM, base.RAM, floorRAM},
		{"Swap limit", l.Swap, base.Swap, floorSwap},
		{"RAM reserved", l.Reserved, base.Reserved, floorReserved},
	} {
		if f.value < f.floor && f.base >= f.floor {
			return &LimitsError{Field: f.name, Value: f.value, Reason: fmt.Sprintf("%s must be >= %.1fGB", f.name, f.floor.GB())}
		}
	}
	return nil
}

// Validate returns every fault at once, each a *LimitsError, or nil. It does not
// check floors.
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

// DefaultFairness is the default of Protection.Fairness.
const DefaultFairness = 3 * time.Second

const (
	defaultGrace        = 50 * time.Millisecond
	defaultMinResidency = 30 * time.Second
)

// Protection bounds how long a model is protected from eviction. Nothing else does:
// the Manager goes by it, and a View carries it to the Placement and to memory
// reclaim.
type Protection struct {
	// MinResidency is how long a model that came to ram is spared when memory is
	// reclaimed under pressure, as long as others can give way. 0: 30 s;
	// negative: it is not spared.
	MinResidency time.Duration
	// Grace is how long after its last use a model still counts as in demand. A
	// model in demand that was loaded a moment ago stays for as long as its load
	// took, Fairness at most. 0: 50 ms; negative: it counts only while it
	// is leased.
	Grace time.Duration
	// Fairness bounds starvation and thrash: a request waits at most this long
	// before busy models are drained for it, and a model in demand stays at most
	// this long after a load. 0: 3 s. It is not negative.
	Fairness time.Duration
}

// OrDefault returns p with every zero field at its default and every negative one
// at zero, which is how a View and the Manager carry it.
func (p Protection) OrDefault() Protection {
	return Protection{
		MinResidency: max(cmp.Or(p.MinResidency, defaultMinResidency), 0),
		Grace:        max(cmp.Or(p.Grace, defaultGrace), 0),
		Fairness:     max(cmp.Or(p.Fairness, DefaultFairness), 0),
	}
}

// Memory is what a probe saw at one moment.
type Memory struct {
	// At is when it was read. Zero: when the reader got it.
	At time.Time `json:"at,omitzero"`
	// Total and Available are aware of containers: each is the smaller of the
	// machine's figure and the container's. Available is what can be allocated without
	// swapping out anonymous memory; it counts clean file pages that are not locked,
	// however often they were read.
	Total     Bytes `json:"total"`
	Available Bytes `json:"available"`
	// Mapped is the part of Available that is file pages which processes map: those
	// of models, and those of other programs, to whom they are not idle.
	Mapped Bytes `json:"mapped"`
	// Dirty is file pages that are not written yet. Available does not count them; they
	// come back by themselves.
	Dirty Bytes `json:"dirty"`
	// SwapTotal and SwapFree count swap on disk only.
	SwapTotal Bytes `json:"swap_total"`
	SwapFree  Bytes `json:"swap_free"`
	// CompressedSwapTotal and CompressedSwapFree count zram and zswap. They are not
	// capacity for weights, which do not compress.
	CompressedSwapTotal Bytes `json:"compressed_swap_total"`
	CompressedSwapFree  Bytes `json:"compressed_swap_free"`
	// Pressure is how hard the machine has to work for memory.
	Pressure Pressure `json:"pressure"`
	// Source is what bounded Available: "host", or the path of a cgroup.
	Source string `json:"source,omitempty"`
	// Notes are hints for a person, such as "no PSI on this kernel".
	Notes Notes `json:"notes,omitempty"`
}

// Notes are sentences for a person, one a line; "" is none. Like all of a Memory
// they compare with ==. In JSON they are an array of strings.
type Notes string

// With returns n followed by more notes. A line break within one becomes a blank.
func (n Notes) With(more ...string) Notes {
	all := n.All()
	for _, note := range more {
		all = append(all, strings.ReplaceAll(note, "\n", " "))
	}
	return Notes(strings.Join(all, "\n"))
}

// All returns the notes, one an element.
func (n Notes) All() []string {
	if n == "" {
		return nil
	}
	return strings.Split(string(n), "\n")
}

// MarshalJSON implements json.Marshaler.
func (n Notes) MarshalJSON() ([]byte, error) { return json.Marshal(n.All()) }

// UnmarshalJSON implements json.Unmarshaler.
func (n *Notes) UnmarshalJSON(text []byte) error {
	var all []string
	err := json.Unmarshal(text, &all)
	if err == nil {
		*n = Notes("").With(all...)
	}
	return err
}

// Pressure is how hard the machine works for memory. If HasPSI is false, the kernel
// has no pressure stall information and there are only the rates.
type Pressure struct {
	HasPSI bool `json:"has_psi"`
	// Per cent of time in which some or all tasks stalled on memory, over the last
	// 10 and 60 seconds, on the machine or, if that is more, in the process's own
	// cgroup. 0 to 100.
	Some10 float64 `json:"some10"`
	Some60 float64 `json:"some60"`
	Full10 float64 `json:"full10"`
	Full60 float64 `json:"full60"`
	// Rates over the last two seconds or more, in bytes a second: file pages that were
	// dropped and had to be read again, in the process's own cgroup if the kernel
	// counts them there, and pages written to swap.
	Refault Bytes `json:"refault"`
	SwapOut Bytes `json:"swap_out"`
	// Stalls is the number of direct reclaims a second.
	Stalls float64 `json:"stalls"`
	// OOMKills counts the kernel's kills since boot: of the outermost limited memory
	// cgroup that counts them, or of the machine.
	OOMKills uint64 `json:"oom_kills"`
	// Level is the probe's judgement of these figures.
	Level PressureLevel `json:"level"`
	// Stalled is what the shares of time alone would mean. It may be above Level:
	// tasks that stall at a limit of their own say nothing of the memory here. If
	// memory is seen to be short, by a reserve that is not whole, it is the level.
	Stalled PressureLevel `json:"stalled"`
	// Reading: Level is owed to nothing that reading files does not cause as well. If
	// one's own loads explain it, there is no pressure.
	Reading bool `json:"reading"`
}

// PressureLevel is a judgement of pressure, ordered.
type PressureLevel uint8

const (
	PressureLow    PressureLevel = iota
	PressureMedium               // background moves slow down
	PressureHigh                 // no admissions
)

var pressureNames = []string{"low", "medium", "high"}

func (p PressureLevel) String() string { return pressureNames[min(p, PressureHigh)] }

// MarshalText implements encoding.TextMarshaler.
func (p PressureLevel) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PressureLevel) UnmarshalText(text []byte) error {
	return setText(p, text, func(name string) (PressureLevel, error) {
		return valueOf[PressureLevel](name, "pressure", pressureNames)
	})
}

// Validate returns an *InvalidError that names the first impossible figure, or nil:
// no size is negative, and no more is free than there is, if that is known.
func (m *Memory) Validate() error {
	for _, f := range []struct {
		name         string
		total, avail Bytes
	}{
		{"memory", m.Total, m.Available},
		{"mapped memory", m.Available, m.Mapped},
		{"swap", m.SwapTotal, m.SwapFree},
		{"compressed swap", m.CompressedSwapTotal, m.CompressedSwapFree},
	} {
		switch {
		case f.total < 0 || f.avail < 0:
			return &InvalidError{Field: f.name, Value: f.avail.String() + " of " + f.total.String(), Rule: "must not be negative"}
		case f.total > 0 && f.avail > f.total:
			return &InvalidError{Field: f.name, Value: f.avail.String() + " of " + f.total.String(), Rule: "must not be freer than it is large"}
		}
	}
	return nil
}
