package modeltier

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// learner is a part that learns from use, by way of its plugin.
type learner struct {
	plugin   *plugin
	learner  tier.Learner  // nil: it does not learn from accesses and moves
	reporter tier.Reporter // nil: it does not learn from outcomes
}

// learns reports whether some part learns from accesses and moves.
func (m *Manager) learns() bool {
	return slices.ContainsFunc(m.learners, func(l learner) bool { return l.learner != nil })
}

// reports reports whether some part learns from outcomes.
func (m *Manager) reports() bool {
	return slices.ContainsFunc(m.learners, func(l learner) bool { return l.reporter != nil })
}

// used takes note that a model was asked for.
func (c *control) used(e *entry, at time.Time) {
	c.core.Used(e.core, at, c.now)
	if c.m.learns() {
		c.uses = append(c.uses, tier.Access{Model: e.core.Model.Name, At: at})
		if len(c.uses) >= 4*accessRingSize {
			c.teach(false)
		}
	}
}

// readAccesses takes up the accesses that passed the gates.
func (c *control) readAccesses() {
	c.m.accesses.read(c.used)
}

// maxUses bounds the accesses that wait to be told.
const maxUses = 64 * accessRingSize

// maxOutcomes bounds the reports that wait for the loop, and those that wait to be
// told.
const maxOutcomes = 1024

// report hands an outcome to the loop.
func (m *Manager) report(o tier.Outcome) {
	if !m.reports() {
		return
	}
	if m.waitingReports.Add(1) > maxOutcomes || !m.post(func(time.Time) {
		m.waitingReports.Add(-1)
		m.ctl.reported(o)
	}) {
		m.waitingReports.Add(-1)
	}
}

func (c *control) reported(o tier.Outcome) {
	if len(c.outcomes) < maxOutcomes && c.m.reports() {
		c.outcomes = append(c.outcomes, o)
	}
}

// teach tells the parts that learn what happened since they were last told. A part
// that is stuck misses it.
//
// Before a plan it is told all; else only if it has been told what came before.
func (c *control) teach(all bool) {
	if len(c.uses) == 0 && len(c.moved) == 0 && len(c.outcomes) == 0 || !all && c.teaching.Load() > 0 && len(c.uses) < maxUses {
		return
	}
	slices.SortStableFunc(c.uses, func(a, b tier.Access) int { return a.At.Compare(b.At) })
	uses, moved, outcomes := c.uses, c.moved, c.outcomes
	c.uses, c.moved, c.outcomes = nil, nil, nil
	for _, l := range c.m.learners {
		c.teaching.Add(1)
		l.plugin.mustAsk(planLimit, func(context.Context) error {
			if l.learner != nil && len(uses)+len(moved) > 0 {
				// Copies: another part may still be reading them.
				l.learner.Accessed(slices.Clone(uses))
				l.learner.Moved(slices.Clone(moved))
			}
			if l.reporter != nil && len(outcomes) > 0 {
				l.reporter.Reported(slices.Clone(outcomes))
			}
			return nil
		}, func(err error) {
			c.teaching.Add(-1)
			if err != nil {
				c.m.log.Error("a part could not be told what it learns from", "part", l.plugin.name, "err", err)
			}
		})
	}
}

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
