package safety

import (
	"bytes"
	"strconv"
	"time"

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

	// Alone for a kernel without pressure stall information, else what makes stalls of
	// the machine's count.
	highSwapOut = 8 * tier.MiB // a second, together with direct reclaim
	leastStalls = 1.0          // direct reclaims a second
	shortShare  = 16           // less than this share of the memory is available

	// A kill by the kernel counts as high pressure for this long.
	killMemory = time.Minute
)

// stalls is the shares of time of a file of pressure stall information.
type stalls struct {
	there                          bool
	some10, some60, full10, full60 float64
}

// readPSI reads such a file, that of the machine or of a cgroup. A kernel need not
// have it.
func readPSI(path string, buf *[]byte) (stalls, error) {
	text, err := readUpTo(path, buf, maxSmallFile)
	if missing(err) {
		return stalls{}, nil
	}
	if err != nil {
		return stalls{}, err
	}
	return parsePSI(path, text)
}

// parsePSI reads lines of a kind and then shares: avg10, avg60 and others.
func parsePSI(path string, text []byte) (psi stalls, err error) {
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		kind, rest, _ := bytes.Cut(line, []byte{' '})
		to10, to60 := &psi.some10, &psi.some60
		switch string(kind) {
		case "some":
			psi.there = true
		case "full":
			to10, to60 = &psi.full10, &psi.full60
		default:
			continue
		}
		avg10, rest, _ := bytes.Cut(rest, []byte{' '})
		avg60, _, _ := bytes.Cut(rest, []byte{' '})
		var ok1, ok2 bool
		*to10, ok1 = share(avg10, "avg10=")
		*to60, ok2 = share(avg60, "avg60=")
		if !ok1 || !ok2 {
			return stalls{}, invalid(path, line, "must give avg10 and avg60 as shares from 0 to 100")
		}
	}
	if !psi.there {
		return stalls{}, invalid(path, nil, "must hold a line of some")
	}
	return psi, nil
}

// share returns the share of time that a field of that name gives, and whether it
// is one.
func share(field []byte, name string) (float64, bool) {
	text, ok := bytes.CutPrefix(field, []byte(name))
	v, err := strconv.ParseFloat(string(text), 64)
	return v, ok && err == nil && v >= 0 && v <= 100 // nor NaN
}

// counters are what is counted since boot, by /proc/vmstat and in our own cgroup;
// refault and swapOut in pages.
type counters struct {
	refault, swapOut uint64
	stalls, scans    uint64
	kills            uint64

	ownRefaults bool       // refault is of our own cgroup
	ownSwap     tier.Bytes // what our own cgroup has on swap
}

// takeOwn takes over what our own cgroup counts: the machine's refaults are those of
// every other's limit as well. It reports whether ours are counted.
func (c *counters) takeOwn(b *bound) (refaults bool) {
	c.ownSwap = b.swapped
	if b.refaultsCounted {
		c.refault, c.ownRefaults = b.refault, true
	}
	return b.refaultsCounted
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
	ownSwapOut       tier.Bytes // a second, net
	stalls           float64    // a second
	reclaiming       bool
}

// see takes one more reading into account. The rates are those of the last whole
// window, and zero before the first has passed.
func (r *rates) see(at time.Time, c counters, page tier.Bytes) {
	if r.at.IsZero() || r.base.ownRefaults != c.ownRefaults {
		*r = rates{at: at, base: c}
		return
	}
	span := at.Sub(r.at)
	if span < rateWindow {
		return
	}
	perSecond := func(now, before uint64, unit tier.Bytes) tier.Bytes {
		return tier.Bytes(min(rise(now, before)*float64(unit)/span.Seconds(), float64(1<<62)))
	}
	*r = rates{
		at: at, base: c,
		refault:    perSecond(c.refault, r.base.refault, page),
		swapOut:    perSecond(c.swapOut, r.base.swapOut, page),
		ownSwapOut: perSecond(uint64(c.ownSwap), uint64(r.base.ownSwap), 1),
		stalls:     rise(c.stalls, r.base.stalls) / span.Seconds(),
		reclaiming: c.stalls > r.base.stalls || c.scans > r.base.scans,
	}
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
	// reclaims counts direct reclaims of the machine's memory since boot.
	reclaims uint64
	// exhausted: a cgroup has run into its limit and has no file pages left to
	// reclaim.
	exhausted bool
	// The shares of time in which tasks stalled: on the machine, whatever they ran
	// into, and in our own cgroup.
	machine, own stalls
	// reclaiming: tasks had to reclaim memory of the machine themselves. What they
	// reclaim at a cgroup's limit is not in it.
	reclaiming bool
	// ownRefaults: the refaults are those of our own cgroup.
	ownRefaults bool
	// ownSwapOut is how fast what our own cgroup has on swap grows, in bytes a second.
	ownSwapOut tier.Bytes
	// low: less than a 16th of the memory is available.
	low bool
}

// judge holds what the level of one reading owes to the readings before. The zero
// judge has seen none.
type judge struct {
	seen     bool
	scope    string
	kills    uint64
	failures uint64
	reclaims uint64
	killed   time.Time // when kills or failures last rose; zero: never

	machine, own tier.PressureLevel // by the shares of time
	swapping     bool
	refaulting   bool

	level, stalled tier.PressureLevel
	reading        bool
}

// next returns the judge after one more reading; its level is the judgement.
//
// What our own cgroup stalls is felt here, whatever it is that is short. What the
// machine stalls may be a neighbour at a limit of its own: it counts together with a
// shortage that can be seen from here.
func (j judge) next(at time.Time, p tier.Pressure, s signs) judge {
	same := j.seen && j.scope == s.scope
	// The machine counts kills at the limits of others, too. Those for want of its own
	// memory come after direct reclaim.
	ours := s.scope != host || s.reclaiming || s.low || s.reclaims > j.reclaims
	if same && ours && (p.OOMKills > j.kills || s.failures > j.failures) {
		j.killed = at
	}
	j.seen, j.scope, j.kills, j.failures, j.reclaims = true, s.scope, p.OOMKills, s.failures, s.reclaims

	j.machine, j.own = s.machine.level(j.machine), s.own.level(j.own)
	j.swapping = s.reclaiming && over(p.SwapOut, highSwapOut, j.swapping) || over(s.ownSwapOut, highSwapOut, j.swapping)
	j.refaulting = over(p.Refault, mediumRefault, j.refaulting)
	short := s.low || j.swapping

	j.level, j.stalled = j.own, max(j.own, j.machine)
	switch {
	case !p.HasPSI && j.swapping:
		j.level = tier.PressureHigh
	case !p.HasPSI && j.refaulting:
		j.level = tier.PressureMedium
	case short, p.Stalls >= leastStalls, j.refaulting && s.ownRefaults:
		j.level = j.stalled
	}
	j.reading = j.level > tier.PressureLow && !short
	if s.exhausted || !j.killed.IsZero() && at.Sub(j.killed) < killMemory {
		j.level, j.reading = tier.PressureHigh, false
	}
	return j
}

// level is what the shares of time alone mean, after that level.
func (s *stalls) level(before tier.PressureLevel) tier.PressureLevel {
	switch {
	case over(s.full10, highFull10, before >= tier.PressureHigh), over(s.some10, highSome10, before >= tier.PressureHigh):
		return tier.PressureHigh
	case over(s.some10, mediumSome10, before >= tier.PressureMedium):
		return tier.PressureMedium
	}
	return tier.PressureLow
}

// over reports whether a figure is at its threshold, or at half of it if it was over
// before.
func over[N tier.Bytes | float64](figure, threshold N, before bool) bool {
	if before {
		threshold /= 2
	}
	return figure >= threshold
}
