package safety

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Thresholds of the probe's judgement. A level is entered at the threshold and
// left below half of it, so that a figure that hovers does not flap.
//
// The shares of time are well inside what systemd-oomd kills at by default
// (memory.pressure full above 60 % for 30 s). Reading a file six times as large
// as the memory cgroup around the reader, which is work without shortage, was
// seen to give some avg10 of 2.2 and full avg10 of 1.7 (Linux 6.18), so they are
// above that.
const (
	highFull10   = 5.0  // per cent of 10 s in which every task stalled on memory
	highSome10   = 20.0 // per cent of 10 s in which some task did
	mediumSome10 = 5.0

	// Where the kernel has no pressure stall information.
	highSwapOut   = 8 * tier.MiB  // a second, together with direct reclaim
	mediumRefault = 32 * tier.MiB // a second: models push each other out

	// A kill by the kernel counts as high pressure for this long.
	killMemory = time.Minute
)

// signs are what the probe sees beyond the figures of a tier.Pressure.
type signs struct {
	// scope names what the counters of kills belong to; they are only compared
	// within one scope.
	scope string
	// failures counts allocations that failed at a cgroup's limit.
	failures uint64
	// reclaiming: tasks had to reclaim memory themselves.
	reclaiming bool
	// exhausted: a cgroup has run into its limit and has no file pages left to give
	// way.
	exhausted bool
}

// judge holds what the level of one reading owes to those before. The zero judge
// has seen nothing.
type judge struct {
	seen     bool
	scope    string
	kills    uint64
	failures uint64
	killed   time.Time // when kills or failures last rose; zero: never
	level    tier.PressureLevel
}

// next returns the judge after one more reading; its level is the judgement.
func (j judge) next(at time.Time, p tier.Pressure, s signs) judge {
	same := j.seen && j.scope == s.scope
	if same && (p.OOMKills > j.kills || s.failures > j.failures) {
		j.killed = at
	}
	j.seen, j.scope, j.kills, j.failures = true, s.scope, p.OOMKills, s.failures

	over := func(level tier.PressureLevel, figure, threshold float64) bool {
		if j.level >= level {
			threshold /= 2
		}
		return figure >= threshold
	}
	high := s.exhausted || !j.killed.IsZero() && at.Sub(j.killed) < killMemory
	medium := false
	if p.HasPSI {
		high = high || over(tier.PressureHigh, p.Full10, highFull10) || over(tier.PressureHigh, p.Some10, highSome10)
		medium = over(tier.PressureMedium, p.Some10, mediumSome10)
	} else {
		high = high || s.reclaiming && over(tier.PressureHigh, float64(p.SwapOut), float64(highSwapOut))
		medium = over(tier.PressureMedium, float64(p.Refault), float64(mediumRefault))
	}
	switch {
	case high:
		j.level = tier.PressureHigh
	case medium:
		j.level = tier.PressureMedium
	default:
		j.level = tier.PressureLow
	}
	return j
}
