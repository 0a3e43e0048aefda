package modeltier

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// gate counts the leases of one model. Requests pass it with two atomic
// operations while it is open; the loop closes it before it moves the model.
//
// The order makes it safe: to enter is to count first and look second, to close is
// to close first and count second, so that one of the two sees the other.
type gate struct {
	state atomic.Uint32 // gateOpen, gateWatched, gateTimed
	cells []cell        // a power of two of them, so that cores do not meet in one
	// stay is that of the leases which enter. A lease takes it once it is counted,
	// and it changes only while no request can enter, or for one of the same loss.
	stay atomic.Pointer[stay]
	// The loop's, of the leases from now on.
	loss     *loss
	instance *instance
	e        *entry
	m        *Manager
}

// loss tells the leases of a model that it crashed. The gate gets a new one when
// it opens again, which waits for the leases: so none misses its own.
type loss struct {
	done chan struct{}
	told bool // done is closed; the loop's
}

// lose tells the leases. The loop calls it.
func (g *gate) lose() {
	if !g.loss.told {
		g.loss.told = true
		close(g.loss.done)
	}
}

const (
	gateOpen = 1 << iota
	gateWatched
	gateTimed
)

// cell is a part of the count, alone on its cache line.
type cell struct {
	leases atomic.Int64
	uses   atomic.Uint64
	noteAt atomic.Int64 // from then on a use is worth noting
	ended  atomic.Int64 // when a lease last ended, while that is timed
	_      [32]byte
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

func newGate(m *Manager, e *entry) *gate {
	return &gate{cells: make([]cell, m.stripes), e: e, m: m, loss: newLoss(), instance: new(instance)}
}

func newLoss() *loss { return &loss{done: make(chan struct{})} }

// settle makes the stay of leases from now on, with a loss that was not told yet.
func (g *gate) settle() *stay {
	if g.loss.told {
		g.loss = newLoss()
	}
	e := g.e.core
	s := &stay{m: g.m, gate: g, loss: g.loss, instance: g.instance, model: e.Model, tier: e.Tier(), kept: e.Kept()}
	if s.tier == tier.RAM {
		s.kept = s.model.Size
	}
	return s
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

// open reports whether a lease could be taken now.
func (g *gate) open() bool { return g.state.Load()&gateOpen != 0 }

// retreat is leave for a lease that was taken and is of no use. It was none.
func (g *gate) retreat(i uint8) bool {
	g.cells[i].uses.Add(^uint64(0))
	return g.leave(i)
}

// noteEvery is the least time between two noted uses of one model. Learners gain
// nothing from more, and must not cost more.
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
	c := &g.cells[i]
	if g.state.Load()&gateTimed != 0 { // before the count falls: see core.Gate
		c.ended.Store(int64(time.Since(g.m.start)))
	}
	return c.leases.Add(-1) == 0 && g.state.Load()&(gateOpen|gateWatched) != gateOpen
}

// The rest is core.Gate, called by the loop.

func (g *gate) Open() {
	g.stay.Store(g.settle())
	g.state.Or(gateOpen)
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
	g.cells[0].leases.Add(1)
	g.cells[0].uses.Add(1)
}

func (g *gate) Watch(on bool) { g.set(gateWatched, on) }

func (g *gate) Time(on bool) { g.set(gateTimed, on) }

func (g *gate) set(bit uint32, on bool) {
	if on {
		g.state.Or(bit)
	} else {
		g.state.And(^bit)
	}
}

// Ended may be called by any goroutine.
func (g *gate) Ended() time.Time {
	last := int64(0)
	for i := range g.cells {
		last = max(last, g.cells[i].ended.Load())
	}
	if last == 0 {
		return time.Time{}
	}
	return g.m.start.Add(time.Duration(last))
}

func (g *gate) Uses() uint64 {
	n := uint64(0)
	for i := range g.cells {
		n += g.cells[i].uses.Load()
	}
	return n
}

// keepAlive takes note of the KeepAlive of a request that got a lease, and tells the
// loop if it is another than before.
func (m *Manager) keepAlive(e *entry, d time.Duration) {
	if e.keepAlive.Load() == int64(d) {
		return
	}
	e.keepAlive.Store(int64(d))
	if !e.keepAliveTold.Swap(true) {
		m.post(func(now time.Time) {
			e.keepAliveTold.Store(false)
			m.ctl.core.Wish(e.core, time.Duration(e.keepAlive.Load()), now)
			m.ctl.publishIdle(e)
		})
	}
}

// leasesEnded tells the loop that the last lease of a cell of e's gate ended
// while it is waited for. It is cheap however often it is called.
func (m *Manager) leasesEnded(e *entry) {
	if !e.told.Swap(true) {
		m.post(func(time.Time) {
			e.told.Store(false)
			m.ctl.core.Released(e.core)
		})
	}
}
