package mapped

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// deviceQueue lets one load at a time read a device: two at once slow each other
// down and both end late. Turns are granted in the order of arrival, to background
// work only if nothing else waits.
type deviceQueue struct {
	mu      sync.Mutex // guards the rest; held for moments
	taken   bool
	waiters []*turn

	// steps counts the pieces that holders have read, so that waiters can tell a
	// queue that advances from one that is stuck.
	steps atomic.Int64
}

// turn is the right to read a device.
type turn struct {
	queue      *deviceQueue
	background func() bool
	granted    chan struct{} // closed when it is
}

// livenessInterval is how often a waiter checks whether its queue advances.
const livenessInterval = time.Second

// acquire waits for a turn. Meanwhile it calls alive now and then, as long as the
// queue advances.
func (q *deviceQueue) acquire(ctx context.Context, background func() bool, alive func()) (*turn, error) {
	t := &turn{queue: q, background: background, granted: make(chan struct{})}
	q.mu.Lock()
	q.waiters = append(q.waiters, t)
	q.grant()
	q.mu.Unlock()
	tick := time.NewTicker(livenessInterval)
	defer tick.Stop()
	for seen := q.steps.Load(); ; {
		select {
		case <-t.granted:
			return t, nil
		case <-ctx.Done():
			t.release()
			return nil, context.Cause(ctx)
		case <-tick.C:
			if n := q.steps.Load(); n != seen {
				seen = n
				alive()
			}
		}
	}
}

// grant gives a free device to the next waiter. deviceQueue.mu is held.
func (q *deviceQueue) grant() {
	if q.taken || len(q.waiters) == 0 {
		return
	}
	next := max(slices.IndexFunc(q.waiters, func(t *turn) bool { return !t.background() }), 0)
	t := q.waiters[next]
	q.waiters = slices.Delete(q.waiters, next, next+1)
	q.taken = true
	close(t.granted)
}

// release gives the device to the next waiter. A turn that was not granted yet
// leaves the queue.
func (t *turn) release() {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	if i := slices.Index(t.queue.waiters, t); i >= 0 {
		t.queue.waiters = slices.Delete(t.queue.waiters, i, i+1)
		return
	}
	t.queue.taken = false
	t.queue.grant()
}

// shouldYield reports whether the holder is background work and other work waits.
func (t *turn) shouldYield() bool {
	if !t.background() {
		return false
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return slices.ContainsFunc(t.queue.waiters, func(o *turn) bool { return !o.background() })
}

func (q *deviceQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiters)
}

// way is how bytes are read from a device into the page cache.
//
// Four others are no use. O_DIRECT reads past the page cache. Faults on pages that
// are not cached block a processor of the Go runtime, and with it the garbage
// collector, for as long as the device takes. WILLNEED and readahead(2) return
// before the pages are there, and ask for a few MiB at most.
type way struct {
	// populate reads through the mapping (MADV_POPULATE_READ); otherwise pread reads
	// into a scratch buffer.
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

// ways returns the candidates. Two workers are best if the kernel reads far ahead
// or seeks are expensive; eight if the device wants a deep queue and readahead is
// short.
func (s *system) ways() []way {
	if s.populate == nil {
		return []way{{false, 2}, {false, 4}, {false, 8}}
	}
	return []way{{true, 2}, {false, 2}, {true, 8}, {false, 8}}
}

const (
	// trialBytes of a load are read in a way that has no current rate. The load needs
	// them anyway, so a trial costs only what the way is slower.
	trialBytes = 64 << 20
	// minSample is the smallest read that says anything about a rate.
	minSample = 16 << 20
	// roundBytes are read in the fastest way before the rates are compared again.
	roundBytes = 256 << 20
	// smoothing is the weight of the latest sample in a rate.
	smoothing = 0.3
	// minGain is how many times faster a way with more workers than the first must
	// be. More workers break the kernel's readahead into small folios, which later
	// cost more than was saved: dropping 10^9 bytes took 5 to 11 ms of a processor
	// after 2 workers, and 36 to 68 ms after 8.
	minGain = 1.25
	// retryAfter is the picks (about 4 GiB) after which a way is tried again, since
	// other work on the device distorts a sample. Trials are one byte in twenty.
	retryAfter = 16
)

// device is what the Mover knows of one device (an st_dev).
type device struct {
	id    uint64
	name  string
	queue deviceQueue

	mu    sync.Mutex // guards the rest
	rates []rate     // one for each candidate
	picks int
}

type rate struct {
	way
	perSecond float64 // bytes; 0: not tried yet
	at        int     // the pick that it was measured at
}

func newDevice(id uint64, name string, candidates []way) *device {
	d := &device{id: id, name: name}
	for _, w := range candidates {
		d.rates = append(d.rates, rate{way: w})
	}
	return d
}

// pick returns the way to read the next of the remaining bytes, and how many to
// read before asking again. Ways without a current rate come first, then the
// fastest.
func (d *device) pick(remaining int64) (way, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if remaining < minSample {
		return d.best().way, remaining
	}
	d.picks++
	for i := range d.rates {
		if r := &d.rates[i]; r.perSecond == 0 || d.picks-r.at > retryAfter {
			r.at = d.picks // even if no sample follows
			return r.way, trialBytes
		}
	}
	return d.best().way, roundBytes
}

// best returns the fastest known way, see minGain. device.mu is held.
func (d *device) best() rate {
	worth := func(r rate) float64 {
		if r.workers > d.rates[0].workers {
			return r.perSecond / minGain
		}
		return r.perSecond
	}
	return slices.MaxFunc(d.rates, func(a, b rate) int { return cmp.Compare(worth(a), worth(b)) })
}

// record notes that reading n bytes in that way took so long.
func (d *device) record(w way, n int64, took time.Duration) {
	if n < minSample || took <= 0 {
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
			now = smoothing*now + (1-smoothing)*r.perSecond
		}
		r.perSecond, r.at = now, d.picks
	}
}

// DeviceStatus is what is known of one device that weights were read from.
type DeviceStatus struct {
	Name string `json:"name"` // "major:minor"
	// Way is how it is read now: "populate ×2" is MADV_POPULATE_READ in 2 workers,
	// "read ×8" is pread in 8.
	Way string `json:"way"`
	// BytesPerSecond is the recent throughput of that way; 0: not measured yet.
	BytesPerSecond tier.Bytes `json:"bytes_per_second"`
	// Waiting is how many loads wait for the device.
	Waiting int `json:"waiting"`
}

// devices are those that weights were read from.
type devices struct {
	candidates []way

	mu   sync.Mutex // guards byID
	byID map[uint64]*device
}

// of returns the devices that w lies on, in the order of its shards.
func (t *devices) of(w *weights) []*device {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*device
	for _, s := range w.shards {
		d := t.byID[s.device]
		if d == nil {
			d = newDevice(s.device, s.deviceName, t.candidates)
			t.byID[s.device] = d
		}
		if !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	return all
}

// status describes the devices, sorted by name.
func (t *devices) status() []DeviceStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]DeviceStatus, 0, len(t.byID))
	for _, d := range t.byID {
		d.mu.Lock()
		best := d.best()
		d.mu.Unlock()
		all = append(all, DeviceStatus{Name: d.name, Way: best.String(), BytesPerSecond: tier.Bytes(best.perSecond), Waiting: d.queue.waiting()})
	}
	slices.SortFunc(all, func(a, b DeviceStatus) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
