package modeltier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/internal/core"
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

// askMemory asks the probe, unless it has been asked already.
func (c *control) askMemory() {
	if c.reading {
		return
	}
	c.reading = true
	r := new(reading) // the call's own: one that is stuck may write to it much later
	c.m.probe.mustAsk(probeLimit, c.m.readFunc(r), func(err error) {
		got := reading{err: err}
		if err == nil {
			got = *r
		}
		c.m.post(func(time.Time) {
			c.reading = false
			c.read(got)
			c.retryOrders()
			c.memoryRead()
		})
	})
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
	var arrived tier.Bytes
	for _, g := range c.moves {
		arrived = arrived.Plus(g.work.Job().Progress().Done)
	}
	mem := r.memory
	var d safety.Decision
	c.governor, d = c.governor.Observe(c.now, mem, promise(c.core.PressurePromise(arrived), false))
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

// maxStuckObservations caps observations that have outlived their timeout. With
// more the mover is not asked again until one returns: each holds a goroutine.
const maxStuckObservations = 16

// look is what a mover says of a model.
type look struct {
	seen   core.Seen
	traits *core.Traits
}

// look asks the mover what it sees of a model, as far as it can see, and what it
// can do with it. It waits for twice limit at most. A model that was moved is
// looked at though the Manager is being closed.
func (m *Manager) look(model *tier.Model, limit time.Duration) (look, error) {
	if m.stuckLooks.Load() >= maxStuckObservations {
		return look{}, &tier.StuckError{What: "An observation of the mover's"}
	}
	told := make(chan look, 1) // a mover that is stuck may answer much later
	gaveUp, err := m.callFor(context.WithoutCancel(m.ctx), "mover", limit, func(ctx context.Context) (err error) {
		l := look{traits: m.traitsOf(model)}
		if m.footprinter != nil {
			l.seen.Taken, l.seen.Peak, _ = m.footprinter.Footprint(model.Name)
		}
		if m.resident != nil {
			if l.seen.Present, l.seen.Reclaimable, err = m.resident.Resident(ctx, model.Name); err != nil {
				l.seen.Present, l.seen.Reclaimable = 0, 0
			}
		}
		told <- l
		return err
	}, func() { m.stuckLooks.Add(-1) })
	if gaveUp {
		m.stuckLooks.Add(1)
		return look{}, err
	}
	select {
	case l := <-told:
		return l, err
	default: // it panicked
		return look{}, err
	}
}

// traitsOf asks the mover what it can do with a model. It calls foreign code.
func (m *Manager) traitsOf(model *tier.Model) *core.Traits {
	var t core.Traits
	if d, ok := m.cfg.Mover.(tier.Divider); ok {
		t.Divisible = d.Divisible(model)
	}
	if l, ok := m.cfg.Mover.(tier.Leaver); ok {
		t.Leaves = l.Leaves(model)
	}
	if p, ok := m.cfg.Mover.(tier.InPlacer); ok {
		t.InPlace = p.InPlace(model)
	}
	return &t
}

// traits asks the mover what it can do with the models, and whether it can move
// them at all. It is not for the loop.
func (m *Manager) traits(ctx context.Context, models []tier.Model, fileBacked func(bool)) ([]core.Traits, error) {
	out := make([]core.Traits, len(models))
	backed := false
	limit := adviceLimit + time.Duration(len(models))*10*time.Millisecond
	err := m.mover.wait(ctx, limit, func(context.Context) error {
		own := make([]core.Traits, len(models))
		var faults []error
		for i := range models {
			if c, ok := m.cfg.Mover.(tier.ModelChecker); ok {
				faults = append(faults, c.CheckModel(&models[i]))
			}
			own[i] = *m.traitsOf(&models[i])
		}
		if f, ok := m.cfg.Mover.(tier.FileBacker); ok {
			backed = f.FileBacked()
		}
		out = own
		return errors.Join(faults...)
	})
	if err != nil {
		return nil, err
	}
	if fileBacked != nil {
		fileBacked(backed)
	}
	return out, nil
}

// observeAgain looks again at models whose bytes were to be gone and were still
// seen, and at those that were used and may take more than before.
func (c *control) observeAgain() {
	if c.m.resident == nil && c.m.footprinter == nil {
		return
	}
	for _, e := range c.core.Residues() {
		c.observe(e)
	}
	if c.m.footprinter == nil {
		return
	}
	for _, e := range c.core.Entries() {
		if e.Tier() != tier.RAM {
			continue
		}
		s := c.shared[e]
		if uses := e.Gate.Uses(); e.Gate.Leases() > 0 || uses != s.seenUses {
			s.seenUses = uses
			c.observe(e)
		}
	}
}

// observe has one model looked at, and tells the core. What was seen of a model
// that has moved meanwhile is of no use.
func (c *control) observe(e *core.Entry) {
	s, model, since, epoch := c.shared[e], e.Model, e.Since(), e.Epoch()
	if s.observing {
		return
	}
	s.observing = true
	c.m.goroutines.Go(func() {
		l, err := c.m.look(&model, observeLimit)
		c.m.post(func(time.Time) {
			s.observing = false
			if err != nil || !e.Since().Equal(since) || e.Epoch() != epoch {
				return
			}
			runtime := e.Model.Runtime
			c.core.Observed(e, l.seen)
			c.corrected(e, runtime)
		})
	})
}

// corrected says so where a model was seen to take more than was known.
func (c *control) corrected(e *core.Entry, runtime tier.Bytes) {
	if e.Model.Runtime > runtime {
		c.m.log.Warn("a model takes more memory than was declared", "model", e.Model.Name,
			"declared", e.Model.Size.Plus(e.Declared()), "takes", e.Model.Size.Plus(e.Model.Runtime), "not charged", e.Overdraft())
	}
}
