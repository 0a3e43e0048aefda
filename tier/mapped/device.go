package mapped

import (
	"fmt"
	"sync"
	"time"
)

// way is how bytes are brought from a device into the page cache.
//
// O_DIRECT is none: it reads past the page cache, so that it brings nothing
// there. Neither is touching pages of the mapping that are not cached: such a
// fault holds up a whole processor of the Go runtime, and the garbage collector
// with it, for as long as the device takes. Nor are WILLNEED and readahead(2):
// they return before the pages are there, and ask for a few MB at most.
type way struct {
	// populate reads through the mapping (MADV_POPULATE_READ), else into a scratch
	// buffer beside it (pread).
	populate bool
	workers  int
}

func (w way) String() string {
	if w.populate {
		return fmt.Sprintf("populate ×%d", w.workers)
	}
	return fmt.Sprintf("read ×%d", w.workers)
}

// maxWorkers is the most that a way has.
const maxWorkers = 8

// ways returns the candidates. Two workers are best where the kernel reads far
// ahead, or seeks are dear; eight where the device wants a deep queue and
// readahead is short.
func (s *system) ways() []way {
	if s.populate == nil {
		return []way{{false, 2}, {false, 4}, {false, 8}}
	}
	return []way{{true, 2}, {false, 2}, {true, 8}, {false, 8}}
}

const (
	// trial is how much of a load is read one way to see how fast that is. The bytes
	// are those that the load needs anyway: trying costs only what the lesser ways
	// are slower.
	trial = 64 << 20
	// telling is the least that says anything about a rate.
	telling = 16 << 20
	// stretch is how much is read in the fastest way before that is asked again.
	stretch = 256 << 20
	// recent is the weight of the last reading in a rate.
	recent = 0.3
	// worth is how many times faster a way has to be that has more workers than the
	// first: they break the kernel's read-ahead into small folios, which take more
	// than they save later. To drop 1 GB took 5 to 11 ms of a processor after 2
	// workers, and 36 to 68 after 8.
	worth = 1.25
	// stale is after how many picks a way is tried again, which is about 4 GB:
	// devices have other work too, and a reading taken then says little. The trials
	// are one byte in twenty.
	stale = 16
)

// device is what the Mover knows of one device (an st_dev).
type device struct {
	id   uint64
	name string
	lane lane

	mu    sync.Mutex // guards the rest
	rates []rate     // one for each candidate
	picks int
}

type rate struct {
	way
	perSecond float64 // bytes; 0: not tried yet
	at        int     // the pick that it is of
}

func newDevice(id uint64, name string, candidates []way) *device {
	d := &device{id: id, name: name}
	for _, w := range candidates {
		d.rates = append(d.rates, rate{way: w})
	}
	return d
}

// pick returns the way to read the next bytes, of which there are left, and how
// many of them to read that way before asking again. Ways that were not tried
// yet, or not for long, come first; else it is the fastest.
func (d *device) pick(left int64) (way, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if left < telling {
		return d.best(), left
	}
	d.picks++
	for i := range d.rates {
		if r := &d.rates[i]; r.perSecond == 0 || d.picks-r.at > stale {
			r.at = d.picks // whatever comes of it
			return r.way, trial
		}
	}
	return d.best(), stretch
}

// best returns the fastest way that is worth it, as far as is known. d.mu is held.
func (d *device) best() way {
	best, most := d.rates[0].way, 0.0
	for _, r := range d.rates {
		rate := r.perSecond
		if r.workers > d.rates[0].workers {
			rate /= worth
		}
		if rate > most {
			best, most = r.way, rate
		}
	}
	return best
}

// learn takes note that n bytes took that long in that way. A way whose rate
// falls below what another had is left for that one.
func (d *device) learn(w way, n int64, took time.Duration) {
	if n < telling || took <= 0 {
		return
	}
	now := float64(n) / took.Seconds()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.rates {
		r := &d.rates[i]
		if r.way != w {
			continue
		}
		if r.perSecond > 0 {
			now = recent*now + (1-recent)*r.perSecond
		}
		r.perSecond, r.at = now, d.picks
	}
}
