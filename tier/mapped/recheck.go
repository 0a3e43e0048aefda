package mapped

import (
	"context"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// health is how well the unlocked pages of a model in ram stay there.
type health struct {
	wait  int   // ticks until the next look
	pause int   // ticks between looks, while pages are lost again and again
	again int64 // bytes that were read again, so far
}

// longest is the most ticks between looks at a model: a machine that has no room
// for its pages is not to be made to read them all the time.
const longest = 32

// watched reports whether the entry's pages are to be looked at. Mover.mu is
// held.
func (m *Mover) watched(e *entry) bool {
	return m.opts.Recheck > 0 && e.tier == tier.RAM && e.weights != nil && e.locked < e.weights.size
}

// watch sees to it that the entry is looked at, if it has to be. Mover.mu is
// held, by a move.
func (m *Mover) watch(e *entry) {
	if m.closed || m.watching || !m.watched(e) {
		return
	}
	m.watching = true
	m.running.Go(m.recheckAll)
}

// recheckAll looks at models now and then, until there is none to look at.
func (m *Mover) recheckAll() {
	tick := time.NewTicker(m.opts.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-m.closing:
			return
		case <-tick.C:
		}
		due, more := m.due()
		if !more {
			return
		}
		for _, name := range due {
			m.recheck(name)
		}
	}
}

// due returns who is to be looked at now, and whether there is anybody to be
// looked at ever.
func (m *Mover) due() (names []string, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, e := range m.entries {
		switch {
		case !m.watched(e):
			continue
		case e.run != nil:
		case e.health.wait > 0:
			e.health.wait--
		default:
			names = append(names, name)
		}
		more = true
	}
	m.watching = more
	return names, more
}

// recheck reads again what the kernel took of a model in ram. Leases may be held
// meanwhile: nothing is taken away.
func (m *Mover) recheck(name string) {
	ctx, _ := tier.Background(context.Background()) // Close and moves call it off
	ctx, e, end, err := m.begin(ctx, name, true)
	if err != nil {
		return // a move has it
	}
	defer end()
	w := e.weights
	if w == nil || e.tier != tier.RAM || w.check() != nil {
		return // the next move, or whoever reads, is told
	}
	sets, err := w.snapshot(ctx, false)
	if err != nil {
		return
	}
	missing := w.missing(w.size, sets)
	if missing > 0 {
		_ = m.fill(ctx, w, tier.RAM, w.size, sets, &report{}) // what is missing still is seen next time
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &e.health
	h.pause = min(2*h.pause, longest)
	if missing == 0 {
		h.pause = 1
	}
	h.pause = max(h.pause, 1)
	h.wait = h.pause - 1
	h.again += missing
	e.locked = w.locked
}
