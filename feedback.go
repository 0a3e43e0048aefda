package modeltier

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// learner is a part that learns from use, by way of its plugin, and what it has not been
// told yet, which is the loop's.
type learner struct {
	plugin   *plugin
	learner  tier.Learner  // nil: it does not learn from accesses and moves
	reporter tier.Reporter // nil: it does not learn from outcomes

	telling  atomic.Int32 // calls that tell it and have not ended
	uses     []tier.Access
	moved    []tier.Moved
	outcomes []tier.Outcome
}

const (
	// maxUses bounds the accesses that wait to be told: two calls of a part that takes
	// 2 ms for each, and the plan behind them, are within planLimit.
	maxUses = 8 * accessRingSize
	// maxOutcomes bounds the reports that wait for the loop, and those that wait to be
	// told.
	maxOutcomes = 1024
	// maxTelling is how many calls that tell a part may be out: one runs, and what
	// a plan is to know waits behind it.
	maxTelling = 2
)

// used takes note that a model was asked for.
func (c *control) used(e *entry, at time.Time) {
	c.core.Used(e.core, at, c.now)
	for _, l := range c.m.learners {
		if l.learner == nil {
			continue
		}
		if len(l.uses) == maxUses {
			c.m.accesses.dropped.Add(l.thin())
		}
		l.uses = append(l.uses, tier.Access{Model: e.core.Model.Name, At: at})
		if len(l.uses) >= 4*accessRingSize {
			l.teach(false)
		}
	}
}

// thin leaves one of every two accesses that wait, and returns how many went: the part
// takes longer to learn from one than the next takes to come. What it learns is a
// statistic: the shares of the models stay, while absolute rates come out too low for as
// long as this lasts. Which of the two stays is drawn, as models may take turns.
func (l *learner) thin() (went int64) {
	kept := l.uses[:0]
	for pair := range slices.Chunk(l.uses, 2) {
		kept = append(kept, pair[rand.IntN(len(pair))])
	}
	went = int64(len(l.uses) - len(kept))
	l.uses = kept
	return went
}

// readAccesses takes up the accesses that passed the gates.
func (c *control) readAccesses() {
	c.m.accesses.read(c.used)
}

// moved takes note of a move that succeeded.
func (c *control) moved(mv tier.Moved) {
	for _, l := range c.m.learners {
		if l.learner != nil {
			l.moved = append(l.moved, mv)
		}
	}
}

// reports reports whether some part learns from outcomes.
func (m *Manager) reports() bool {
	return slices.ContainsFunc(m.learners, func(l *learner) bool { return l.reporter != nil })
}

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
	for _, l := range c.m.learners {
		if l.reporter != nil && len(l.outcomes) < maxOutcomes {
			l.outcomes = append(l.outcomes, o)
		}
	}
}

// teach tells the parts that learn what happened since they were last told: before a
// plan all of it, else only those that have been told what came before.
func (c *control) teach(all bool) {
	for _, l := range c.m.learners {
		l.teach(all)
	}
}

// teach is that for one part. One that is stuck misses it; one that is behind by
// maxTelling calls is told later, so that neither a plan nor the next call waits for
// more than it can bear.
func (l *learner) teach(all bool) {
	switch telling := l.telling.Load(); {
	case len(l.uses) == 0 && len(l.moved) == 0 && len(l.outcomes) == 0,
		telling > 0 && !all, telling >= maxTelling:
		return
	}
	slices.SortStableFunc(l.uses, func(a, b tier.Access) int { return a.At.Compare(b.At) })
	uses, moved, outcomes := l.uses, l.moved, l.outcomes
	l.uses, l.moved, l.outcomes = nil, nil, nil
	l.telling.Add(1)
	l.plugin.mustAsk(planLimit, func(context.Context) error {
		if len(uses)+len(moved) > 0 {
			l.learner.Accessed(uses)
			l.learner.Moved(moved)
		}
		if len(outcomes) > 0 {
			l.reporter.Reported(outcomes)
		}
		return nil
	}, func(err error) {
		l.telling.Add(-1)
		if err != nil {
			l.plugin.m.log.Error("a part could not be told what it learns from", "part", l.plugin.name, "err", err)
		}
	})
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
