package safety

import (
	"bytes"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// counters are what we use of /proc/vmstat. They count since boot; the first two
// are pages.
type counters struct {
	refault, swapOut uint64
	stalls, scans    uint64
	kills            uint64
}

// parseVmstat reads the text of /proc/vmstat. A counter that a kernel does not
// have stays zero; kernels before 5.9 do not part refaults by kind.
func parseVmstat(path string, text []byte) (counters, error) {
	var c counters
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			return c, nil
		}
		key, rest := word(line)
		var to *uint64
		switch string(key) {
		case "workingset_refault_file", "workingset_refault":
			to = &c.refault
		case "pswpout":
			to = &c.swapOut
		case "pgscan_direct":
			to = &c.scans
		case "oom_kill":
			to = &c.kills
		default:
			if !bytes.HasPrefix(key, []byte("allocstall")) {
				continue
			}
			to = &c.stalls // one counter for each zone
		}
		value, _ := word(rest)
		n, ok := number(value)
		if !ok {
			return counters{}, invalid(path, line, "must be a counter")
		}
		*to += n
	}
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

// rise is how far a counter has risen; one that fell was started anew.
func rise(now, before uint64) float64 {
	if now < before {
		return 0
	}
	return float64(now - before)
}
