package tier

import "time"

// Memory is what a probe saw at one moment.
type Memory struct {
	// At is when it was read. Zero: the reader's clock counts.
	At time.Time `json:"at,omitzero"`
	// Total and Available are aware of containers: each is the smaller of the
	// machine's figure and the container's. Available is what may be had without
	// pushing anybody's anonymous memory out; it counts clean file pages.
	Total     Bytes `json:"total"`
	Available Bytes `json:"available"`
	// Active is the part of Available that is file pages in use, where a cgroup's
	// limit bounds it: those on the cgroup's active list. They may be our own.
	Active Bytes `json:"active"`
	// SwapTotal and SwapFree count swap on disk only.
	SwapTotal Bytes `json:"swap_total"`
	SwapFree  Bytes `json:"swap_free"`
	// CompressedSwapTotal and CompressedSwapFree count zram and zswap. They are no
	// capacity for weights, which do not compress.
	CompressedSwapTotal Bytes `json:"compressed_swap_total"`
	CompressedSwapFree  Bytes `json:"compressed_swap_free"`
	// Pressure is how hard the machine has to work for memory.
	Pressure Pressure `json:"pressure"`
	// Source says in words what bounded Available: "host", or the path of the
	// cgroup that did.
	Source string `json:"source,omitempty"`
	// Notes are plain-word hints for a person, such as "no PSI on this kernel".
	Notes []string `json:"notes,omitempty"`
}

// Pressure is how hard the machine works for memory. Where HasPSI is false the
// kernel has no pressure stall information and the rates are all there is.
type Pressure struct {
	HasPSI bool `json:"has_psi"`
	// Per cent of time in which some or all tasks stalled on memory, over the last
	// 10 and 60 seconds. 0 to 100.
	Some10 float64 `json:"some10"`
	Some60 float64 `json:"some60"`
	Full10 float64 `json:"full10"`
	Full60 float64 `json:"full60"`
	// Rates over the last two seconds or more, in bytes a second: file pages that were
	// dropped and had to be read again, and pages written to swap.
	Refault Bytes `json:"refault"`
	SwapOut Bytes `json:"swap_out"`
	// Stalls is the number of direct reclaims a second.
	Stalls float64 `json:"stalls"`
	// OOMKills counts the kernel's kills since boot in our scope.
	OOMKills uint64 `json:"oom_kills"`
	// Level is the probe's judgement of all that.
	Level PressureLevel `json:"level"`
}

// PressureLevel is a judgement of pressure, ordered.
type PressureLevel uint8

const (
	PressureLow    PressureLevel = iota
	PressureMedium               // background moves slow down
	PressureHigh                 // no admissions
)

func (p PressureLevel) String() string {
	switch p {
	case PressureLow:
		return "low"
	case PressureMedium:
		return "medium"
	}
	return "high"
}

// MarshalText implements encoding.TextMarshaler.
func (p PressureLevel) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PressureLevel) UnmarshalText(text []byte) error {
	for l := PressureLow; l <= PressureHigh; l++ {
		if l.String() == string(text) {
			*p = l
			return nil
		}
	}
	return &InvalidError{Field: "pressure", Value: shorten(string(text)), Rule: "must be one of low, medium, high"}
}

// Validate returns an *InvalidError that names the first figure that cannot be,
// or nil: sizes are not negative, and nothing is freer than it is large where its
// size is known.
func (m *Memory) Validate() error {
	for _, f := range []struct {
		name         string
		total, avail Bytes
	}{
		{"memory", m.Total, m.Available},
		{"active memory", m.Available, m.Active},
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
