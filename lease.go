package modeltier

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Lease is the right to use a model. While it is held the model stays where it
// is. Its methods may be called from any goroutine.
type Lease struct {
	m        *Manager
	gate     *gate
	loss     *loss
	model    *tier.Model
	at       time.Duration // when it was granted, since the Manager's start
	waited   time.Duration
	kept     tier.Bytes
	cell     uint8
	tier     tier.Tier
	moved    bool
	released atomic.Bool
}

// Model returns the model that is leased.
func (l *Lease) Model() tier.Model { return *l.model }

// Tier returns the tier that the model is served from: RAM, or Swap where it
// did not fit or was not worth the room.
func (l *Lease) Tier() tier.Tier { return l.tier }

// Kept returns how many bytes of the weights were present in memory when the
// lease was granted.
func (l *Lease) Kept() tier.Bytes { return l.kept }

// Waited returns how long Acquire waited for the model to be ready; zero where
// it was.
func (l *Lease) Waited() time.Duration { return l.waited }

// Moved reports whether weights had to move for this lease.
func (l *Lease) Moved() bool { return l.moved }

// Done is closed when the model has left memory by itself while the lease is held,
// as Manager.Lost told: what is asked of it fails, and will until the lease is
// given back, which is still to be done, and the model is acquired anew. It stays
// open otherwise, after Release too.
func (l *Lease) Done() <-chan struct{} { return l.loss.done }

// Release gives the lease back. It is idempotent and never blocks.
func (l *Lease) Release() {
	if l.released.Swap(true) {
		return
	}
	if l.gate.leave(l.cell) {
		l.m.leasesEnded(l.gate.e)
	}
}

// Report tells how the use of the model turned out, for selectors and placements
// that learn from that (tier.Reporter): an error, a latency, the caller's own
// score. The lease fills Model, At, Waited, and Served where it is zero. It may be
// called before or after Release, best when the model has just been used, as that is
// what Served is taken to end with; more than once, and never blocks; reports that
// nobody can take, or too many at once, are dropped.
func (l *Lease) Report(o tier.Outcome) {
	now := time.Since(l.m.start)
	o.Model, o.Waited, o.At = l.model.Name, l.waited, l.m.start.Add(now)
	if o.Served == 0 {
		o.Served = now - l.at
	}
	l.m.report(o)
}

// gate counts the leases of one model. Requests pass it with two atomic
// operations while it is open; the loop closes it before it moves the model.
//
// The order is what makes it safe: who enters counts first and looks second,
// who closes closes first and counts second, so that one of the two sees the
// other.
type gate struct {
	state atomic.Uint32 // gateOpen, gateWatched
	cells []cell        // a power of two of them, so that cores do not meet in one
	loss  atomic.Pointer[loss]
	e     *entry
}

// loss tells the leases of a model that it is lost. A lease takes it once it is
// counted, and the gate gets a new one when it opens again, which waits for the
// leases: so none misses its own.
type loss struct {
	done chan struct{}
	told bool // done is closed; the loop's
}

// lose tells the leases. The loop calls it.
func (g *gate) lose() {
	if l := g.loss.Load(); !l.told {
		l.told = true
		close(l.done)
	}
}

const (
	gateOpen = 1 << iota
	gateWatched
)

// cell is a part of the count, alone on its cache line.
type cell struct {
	leases atomic.Int64
	uses   atomic.Uint64
	noteAt atomic.Int64 // from then on a use is worth noting
	_      [40]byte
}

// stripes is how many cells a gate has: a power of two, more than there are
// cores at work, at most 8, so that a model costs at most 512 bytes.
func stripes() int {
	n := 1
	for n < 2*runtime.GOMAXPROCS(0) && n < 8 {
		n *= 2
	}
	return n
}

func newGate(e *entry, stripes int) *gate {
	g := &gate{cells: make([]cell, stripes), e: e}
	g.loss.Store(&loss{done: make(chan struct{})})
	return g
}

// enter takes a lease in cell i if the gate is open.
func (g *gate) enter(i uint8) bool {
	c := &g.cells[i]
	c.leases.Add(1)
	if g.state.Load()&gateOpen == 0 {
		c.leases.Add(-1)
		return false
	}
	c.uses.Add(1)
	return true
}

// noteEvery is how close uses of one model come to be noted one by one. Whoever
// learns from them gains nothing by more, and must not pay for more.
const noteEvery = time.Millisecond

// notable reports whether the use of cell i at that time is to be noted.
func (g *gate) notable(i uint8, at time.Duration) bool {
	next := &g.cells[i].noteAt
	if int64(at) < next.Load() {
		return false
	}
	next.Store(int64(at + noteEvery))
	return true
}

// leave gives a lease back, and reports whether the loop has to be told.
func (g *gate) leave(i uint8) bool {
	return g.cells[i].leases.Add(-1) == 0 && g.state.Load() != gateOpen
}

// The rest is core.Gate, called by the loop.

func (g *gate) Open() {
	g.renew()
	g.state.Or(gateOpen)
}

// renew lets the leases from now on know nothing of a loss before.
func (g *gate) renew() {
	if g.loss.Load().told {
		g.loss.Store(&loss{done: make(chan struct{})})
	}
}

func (g *gate) Close() int {
	g.state.And(^uint32(gateOpen))
	return g.Leases()
}

func (g *gate) Leases() int {
	n := int64(0)
	for i := range g.cells {
		n += g.cells[i].leases.Load()
	}
	return int(n)
}

func (g *gate) Grant() {
	g.renew()
	g.cells[0].leases.Add(1)
	g.cells[0].uses.Add(1)
}

func (g *gate) Watch(on bool) {
	if on {
		g.state.Or(gateWatched)
	} else {
		g.state.And(^uint32(gateWatched))
	}
}

func (g *gate) Uses() uint64 {
	n := uint64(0)
	for i := range g.cells {
		n += g.cells[i].uses.Load()
	}
	return n
}
