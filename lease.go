package modeltier

import (
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Lease is the right to use a model. While it is held the model stays where it
// is. Its methods may be called from any goroutine.
//
// One is made for every request, so what leases share is in the stay: the
// collector has half as much to do.
type Lease struct {
	stay     *stay
	at       time.Duration // when it was granted, since the Manager's start
	waited   time.Duration
	cell     uint8
	moved    bool
	released atomic.Bool
}

// stay is what the leases share that a model gives while it stays where it is.
// It is never changed once a lease has it.
type stay struct {
	m        *Manager
	gate     *gate
	loss     *loss
	instance *instance
	model    tier.Model
	tier     tier.Tier
	kept     tier.Bytes // of the weights, present in memory
}

// shared returns the stay of the lease; of a zero Lease, an empty one.
func (l *Lease) shared() *stay {
	if l.stay == nil {
		return &stay{loss: &loss{}}
	}
	return l.stay
}

// Model returns the model that is leased.
func (l *Lease) Model() tier.Model { return l.shared().model }

// Tier returns the tier that the model is served from: RAM, or Swap where it
// did not fit or was not worth the room.
func (l *Lease) Tier() tier.Tier { return l.shared().tier }

// Kept returns how many bytes of the weights were present in memory when the
// lease was granted.
func (l *Lease) Kept() tier.Bytes { return l.shared().kept }

// Waited returns how long Acquire waited for the model to be ready; zero where
// it was.
func (l *Lease) Waited() time.Duration { return l.waited }

// Moved reports whether weights had to move for this lease.
func (l *Lease) Moved() bool { return l.moved }

// Done is closed when the model has left memory by itself while the lease is held,
// as Manager.ReportCrash told: what is asked of it fails, and will until the lease is
// given back, which is still to be done, and the model is acquired again. Manager.Close
// closes it as well, before it frees what serves the model. It stays open otherwise, after
// Release too.
func (l *Lease) Done() <-chan struct{} { return l.shared().loss.done }

// Release gives the lease back. It is idempotent and never blocks; a nil Lease
// and a zero one have nothing to give.
func (l *Lease) Release() {
	if l == nil || l.stay == nil || l.released.Swap(true) {
		return
	}
	s := l.stay
	if s.gate.leave(l.cell) {
		s.m.leasesEnded(s.gate.e)
	}
	if s.m.cfg.Events.Released != nil {
		s.m.releasedEvent(l)
	}
}

// Report tells how the use of the model turned out, for selectors and placements
// that learn from that (tier.Reporter): an error, a latency, the caller's own
// score. The lease fills Model, At, Waited, and Served where it is zero. It may be
// called before or after Release, best when the model has just been used, as that is
// what Served is taken to end with; more than once, and never blocks; reports that
// no part takes, or too many at once, are dropped.
func (l *Lease) Report(o tier.Outcome) {
	if l.stay == nil {
		return
	}
	m := l.stay.m
	now := time.Since(m.start)
	o.Model, o.Waited, o.At = l.stay.model.Name, l.waited, m.start.Add(now)
	if o.Served == 0 {
		o.Served = now - l.at
	}
	m.report(o)
}
