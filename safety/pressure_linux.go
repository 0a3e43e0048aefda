package safety

import (
	"bytes"
	"fmt"
	"time"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// Thresholds of the probe's judgement. A level is entered at the threshold and
// left below half of it, so that a figure near the threshold does not flap.
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

	// For a kernel without pressure stall information.
	highSwapOut   = 8 * tier.MiB  // a second, together with direct reclaim
	mediumRefault = 32 * tier.MiB // a second: models push each other out

	// A kill by the kernel counts as high pressure for this long.
	killMemory = time.Minute
)

// raisePSI raises the shares of p to those of a file of pressure stall
// information, that of the machine or of a cgroup. A kernel without the file raises
// nothing.
func raisePSI(dir, name string, p *tier.Pressure) error {
	path := dir + "/" + name
	psi, err := parsed(dir, name, func(tree procfs.FS) (procfs.PSIStats, error) {
		// To procfs a resource is a file in the folder pressure; it cleans the path, and
		// a cgroup's file stands beside such a folder.
		return tree.PSIStatsForResource("../" + name)
	})
	switch {
	case missing(err):
		return nil
	case err != nil:
		return err
	case psi.Some == nil:
		return invalid(path, nil, "must hold a line of some")
	}
	full := psi.Full
	if full == nil {
		full = &procfs.PSILine{}
	}
	for _, share := range [...]struct {
		to *float64
		is float64
	}{{&p.Some10, psi.Some.Avg10}, {&p.Some60, psi.Some.Avg60}, {&p.Full10, full.Avg10}, {&p.Full60, full.Avg60}} {
		if !(share.is >= 0 && share.is <= 100) { // nor NaN
			return invalid(path, fmt.Append(nil, share.is), "must be a share from 0 to 100")
		}
		*share.to = max(*share.to, share.is)
	}
	p.HasPSI = true
	return nil
}

// counters are those of /proc/vmstat that count here. They count since boot; the
// first two are pages.
type counters struct {
	refault, swapOut uint64
	stalls, scans    uint64
	kills            uint64
}

// parseVmstat reads the text of /proc/vmstat. A counter that a kernel lacks stays
// zero; kernels before 5.9 count refaults of all kinds together.
func parseVmstat(path string, text []byte) (c counters, err error) {
	err = sum(path, text, func(key []byte) *uint64 {
		switch string(key) {
		case "workingset_refault_file", "workingset_refault":
			return &c.refault
		case "pswpout":
			return &c.swapOut
		case "pgscan_direct":
			return &c.scans
		case "oom_kill":
			return &c.kills
		}
		if bytes.HasPrefix(key, []byte("allocstall")) { // one for each zone
			return &c.stalls
		}
		return nil
	})
	return c, err
}

// rateWindow is the least time over which rates are taken: shorter ones would
// judge single bursts.
const rateWindow = 2 * time.Second

// rates turns counters into rates. The zero rates has seen nothing.
type rates struct {
	at   time.Time
	base counters

	refault, swapOut tier.Bytes // a second
	stalls           float64    // a second
	reclaiming       bool
}

// see takes one more reading into account. The rates are those of the last whole
// window, and zero before the first has passed.
func (r *rates) see(at time.Time, c counters, page tier.Bytes) {
	if r.at.IsZero() {
		r.at, r.base = at, c
		return
	}
	span := at.Sub(r.at)
	if span < rateWindow {
		return
	}
	bytes := func(now, before uint64) tier.Bytes {
		perSecond := rise(now, before) * float64(page) / span.Seconds()
		return tier.Bytes(min(perSecond, float64(1<<62)))
	}
	r.refault = bytes(c.refault, r.base.refault)
	r.swapOut = bytes(c.swapOut, r.base.swapOut)
	r.stalls = rise(c.stalls, r.base.stalls) / span.Seconds()
	r.reclaiming = c.stalls > r.base.stalls || c.scans > r.base.scans
	r.at, r.base = at, c
}

// rise returns how far a counter has risen; one that fell was reset.
func rise(now, before uint64) float64 {
	if now < before {
		return 0
	}
	return float64(now - before)
}

// signs are what the probe sees beyond the figures of a tier.Pressure.
type signs struct {
	// scope names what the counters of kills belong to; they are only compared
	// within one scope.
	scope string
	// failures counts allocations that failed at a cgroup's limit.
	failures uint64
	// reclaiming: tasks had to reclaim memory themselves.
	reclaiming bool
	// exhausted: a cgroup has run into its limit and has no file pages left to
	// reclaim.
	exhausted bool
}

// judge holds what the level of one reading owes to the readings before. The zero
// judge has seen none.
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
