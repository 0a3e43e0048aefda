package modeltier

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// histogram counts durations in buckets that grow by a factor of 2^(1/4), from
// nanoseconds to hours: a quantile is within 10 per cent. It is safe for
// concurrent use.
type histogram struct {
	buckets [4 * 48]atomic.Uint64
	sum     atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	h.sum.Add(int64(d))
}

// bucketOf takes the position of the highest bit and the two bits behind it.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 1))
	high := bits.Len64(v) - 1
	quarter := uint64(0)
	if high >= 2 {
		quarter = v >> (high - 2) & 3
	} else {
		quarter = v << (2 - high) & 3
	}
	return min(4*high+int(quarter), len(histogram{}.buckets)-1)
}

// Quantiles of durations. All are zero where nothing was measured.
type Quantiles struct {
	Count uint64        `json:"count"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
}

func (h *histogram) quantiles() Quantiles {
	var counts [len(h.buckets)]uint64
	var q Quantiles
	for i := range h.buckets {
		counts[i] = h.buckets[i].Load()
		q.Count += counts[i]
	}
	if q.Count == 0 {
		return q
	}
	q.Mean = time.Duration(uint64(h.sum.Load()) / q.Count)
	at := func(share float64) time.Duration {
		want, seen := uint64(share*float64(q.Count-1))+1, uint64(0)
		for i, n := range counts {
			if seen += n; seen >= want {
				return time.Duration((4 + i%4)) << (i / 4) / 4
			}
		}
		return 0
	}
	q.P50, q.P99 = at(0.50), at(0.99)
	return q
}

// counters are figures that any goroutine adds to.
type counters struct {
	selection, planning histogram
	evicted             atomic.Int64
	eventsDropped       atomic.Int64

	mu    sync.Mutex // guards the rest; held for a few instructions
	codes map[string]int64
	moves map[string]MoveStats
}

func (c *counters) refuse(code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.codes == nil {
		c.codes = make(map[string]int64)
	}
	c.codes[code]++
}

// MoveStats are the figures of the moves of one kind.
type MoveStats struct {
	Succeeded int64         `json:"succeeded"`
	Failed    int64         `json:"failed"`
	Bytes     tier.Bytes    `json:"bytes"`      // moved by those that succeeded
	Took      time.Duration `json:"took_ns"`    // by those, summed
	Longest   time.Duration `json:"longest_ns"` // of those
}

// Rate returns the bytes moved in a second of moving.
func (s MoveStats) Rate() tier.Bytes {
	if s.Took <= 0 {
		return 0
	}
	return tier.Bytes(float64(s.Bytes) / s.Took.Seconds())
}

func (c *counters) moved(mv *tier.Move, bytes tier.Bytes, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moves == nil {
		c.moves = make(map[string]MoveStats)
	}
	s := c.moves[mv.Verb()]
	if err != nil {
		s.Failed++
	} else {
		s.Succeeded++
		s.Bytes += bytes
		s.Took += took
		s.Longest = max(s.Longest, took)
	}
	c.moves[mv.Verb()] = s
}

// waitStats are how long granted requests had waited, by what for. The loop's.
type waitStats struct {
	load    histogram // for a load from storage
	promote histogram // for bytes that were missing in swap
	turn    histogram // for a lease, a place in the queue, a plan; no bytes moved
}

func (w *waitStats) add(l *Lease, from tier.Tier) {
	switch {
	case !l.moved:
		w.turn.add(l.waited)
	case from == tier.Storage:
		w.load.add(l.waited)
	default:
		w.promote.add(l.waited)
	}
}
