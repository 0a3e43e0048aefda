package modeltier

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
)

// reading is one look at the memory, as the core takes it.
type reading struct {
	memory  tier.Memory
	further []tier.Bytes // available of further accounts
	err     error
}

// readFunc returns the call of the probe, which writes into r.
func (m *Manager) readFunc(r *reading) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		if r.memory, err = m.cfg.Probe.Memory(ctx); err != nil {
			return err
		}
		if fault := r.memory.Validate(); fault != nil {
			return fmt.Errorf("the memory probe reports what cannot be: %w", fault)
		}
		for _, a := range m.cfg.accounts {
			free, err := a.available(ctx)
			if err != nil {
				return fmt.Errorf("%s cannot be read: %w", a.name, err)
			}
			r.further = append(r.further, free)
		}
		return nil
	}
}

// readMemory asks the probe and waits for it. It is not for the loop.
func (m *Manager) readMemory(ctx context.Context) reading {
	r := new(reading)
	if err := m.probe.wait(ctx, probeLimit, m.readFunc(r)); err != nil {
		return reading{err: err}
	}
	return *r
}

// askMemory asks the probe, unless it has been asked already. It may be called on any
// goroutine.
func (c *control) askMemory() {
	if c.reading.Swap(true) {
		return
	}
	r := new(reading) // the call's own: one that is stuck may write to it much later
	c.m.probe.mustAsk(probeLimit, c.m.readFunc(r), func(err error) {
		got := reading{err: err}
		if err == nil {
			got = *r
		}
		c.m.post(func(time.Time) {
			c.reading.Store(false)
			c.read(got)
			c.retryOrders()
			c.memoryRead()
			if c.tickDue.Swap(false) {
				c.tick()
			}
		})
	})
}

// every runs on a goroutine of the timer's, ProbeEvery after the last tick. It has
// the memory read, unless that was done lately, and leaves the tick to the answer:
// the loop of a Manager at rest wakes for that alone.
func (c *control) every() {
	if age := time.Since(c.m.start) - time.Duration(c.readAt.Load()); age < c.m.cfg.ProbeEvery/2 {
		c.m.post(func(time.Time) { c.tick() })
		return
	}
	c.tickDue.Store(true)
	c.askMemory()
}

// memoryRead tells those who wait for a reading, once it is published.
func (c *control) memoryRead() {
	for _, done := range c.refreshing {
		c.after = append(c.after, func() { close(done) })
	}
	c.refreshing = nil
}

// refresh closes done when a fresh reading is published.
func (c *control) refresh(now time.Time, done chan struct{}) {
	c.refreshing = append(c.refreshing, done)
	if _, at, _ := c.core.Memory(); !at.IsZero() && now.Sub(at) <= fresh {
		c.memoryRead()
		return
	}
	c.askMemory()
}

// read takes a reading to the core, with the level of pressure that the governor
// makes of it, and does what that level asks for.
func (c *control) read(r reading) {
	if r.err != nil {
		if _, _, was := c.core.Memory(); was == nil {
			c.m.log.Warn("memory cannot be read", "err", r.err)
		}
		c.core.Reading(tier.Memory{}, nil, r.err, c.now)
		return
	}
	c.readAt.Store(int64(c.now.Sub(c.m.start)))
	var arrived tier.Bytes
	loaded := c.loaded
	for mv, g := range c.moves {
		done := g.work.Job().Progress().Done
		arrived = arrived.Plus(done)
		if !mv.Down() {
			loaded = loaded.Plus(done)
		}
	}
	mem := r.memory
	var d safety.Decision
	p := promise(c.core.PressurePromise(&mem, arrived), false)
	p.Loaded = loaded
	c.governor, d = c.governor.Observe(c.now, mem, p)
	mem.Pressure.Level = d.Level
	c.core.Reading(mem, r.further, nil, c.now)
	var cause error
	if !d.Admit {
		cause = &tier.CapacityError{
			Tier: tier.RAM, Free: mem.Available, Limit: mem.Total,
			Reason: "Load called off: " + cmp.Or(d.Why, "memory pressure is high"),
		}
	}
	c.core.Press(d.Background, cause, c.now)
	if d.GiveBack > 0 {
		if d.Level > tier.PressureLow { // else nothing works for pages, and what is cached is available
			c.lookAtCached(c.core.DropCached(d.GiveBack), func() {})
		}
		c.reclaim(d.GiveBack, tier.ReasonPressure, d.Why)
	}
	if d.Changed {
		was := c.pressure
		c.m.log.Warn("memory pressure changed", "from", was, "to", d.Level, "why", d.Why)
		if fn := c.m.cfg.Events.PressureChanged; fn != nil {
			c.m.events.Post(func() { fn(was, d.Level) })
		}
	}
	c.pressure = d.Level
}

// reclaim has idle models give memory back: those that are missed least, by the
// placement, or, where it does not say so in time, those that were used least
// recently. One reclaim is under way at a time.
func (c *control) reclaim(bytes tier.Bytes, reason tier.Reason, why string) {
	if c.reclaiming {
		return
	}
	v, since := c.core.View(c.now), c.core.Epoch()
	give := func(worth []float64) {
		var cheaper func(a, b int) int
		if len(worth) == len(v.States) {
			cheaper = func(a, b int) int { return cmp.Compare(worth[a], worth[b]) }
		}
		steps, found := safety.Reclaim(&v, bytes, cheaper)
		for i := range steps {
			steps[i].Reason = reason
		}
		c.core.Reclaim(steps, &v, since)
		if found > 0 || reason == tier.ReasonPressure {
			c.m.log.Warn("memory is short, idle models give way", "reason", reason, "why", why, "give back", bytes, "found", found)
		}
	}
	p, ok := c.m.cfg.Placement.(tier.Valuer)
	if !ok || c.m.placement.isStuck() {
		give(nil)
		return
	}
	c.reclaiming = true
	c.readAccesses()
	c.teach(true)
	worth := new([]float64)
	c.m.placement.mustAsk(worthLimit, func(context.Context) error { *worth = p.Worth(&v); return nil }, func(err error) {
		var told []float64
		if err == nil {
			told = *worth
		}
		c.m.post(func(time.Time) {
			c.reclaiming = false
			if !c.stopping {
				give(told)
			}
		})
	})
}
