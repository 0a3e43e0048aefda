package modeltier

import (
	"sync/atomic"
	"time"
)

// accessLog carries "this model was asked for" from the requests to the loop
// without a lock: bounded rings, one for each stripe, many writers and one
// reader each. An access that finds its ring full is counted and dropped; what
// is learned from use is a statistic, not an account.
type accessLog struct {
	start   time.Time
	rings   []accessRing
	dropped atomic.Int64
}

const accessRingSize = 256 // a power of two

type accessRing struct {
	head  atomic.Uint64
	_     [56]byte
	tail  uint64 // the reader's
	slots [accessRingSize]accessSlot
}

// accessSlot is free for the writer of turn n when seq is n, and full for the
// reader when seq is n+1.
type accessSlot struct {
	seq atomic.Uint64
	e   *entry
	at  time.Duration // since start
}

func newAccessLog(start time.Time, stripes int) *accessLog {
	l := &accessLog{start: start, rings: make([]accessRing, stripes)}
	for i := range l.rings {
		for j := range l.rings[i].slots {
			l.rings[i].slots[j].seq.Store(uint64(j))
		}
	}
	return l
}

// add notes an access of e at that time since start. It reports whether the ring
// is half full, or full, and wants to be read.
func (l *accessLog) add(i uint8, e *entry, at time.Duration) (read bool) {
	r := &l.rings[i]
	for {
		n := r.head.Load()
		s := &r.slots[n%accessRingSize]
		switch seq := s.seq.Load(); {
		case seq == n:
			if r.head.CompareAndSwap(n, n+1) {
				s.e, s.at = e, at
				s.seq.Store(n + 1)
				return n%(accessRingSize/2) == accessRingSize/2-1
			}
		case seq < n: // the reader is a whole ring behind
			l.dropped.Add(1)
			return true
		}
	}
}

// read calls yield for every access noted, ring by ring. Only the loop calls it.
func (l *accessLog) read(yield func(e *entry, at time.Time)) {
	for i := range l.rings {
		r := &l.rings[i]
		for {
			s := &r.slots[r.tail%accessRingSize]
			if s.seq.Load() != r.tail+1 {
				break
			}
			yield(s.e, l.start.Add(s.at))
			s.e = nil
			s.seq.Store(r.tail + accessRingSize)
			r.tail++
		}
	}
}
