package modeltier

import (
	"cmp"
	"context"
	"time"

	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
)

// read takes a reading and tells the core.
func (c *control) read(now time.Time) {
	if c.probeStuck {
		c.core.Reading(tier.Memory{}, &tier.StuckError{What: "The memory probe", After: probeLimit}, now)
		return
	}
	got := new(tier.Memory)
	err := c.m.callFor("memory probe", probeLimit, func(ctx context.Context) (err error) {
		*got, err = c.m.cfg.Probe.Memory(ctx)
		return err
	}, func() { c.m.post(func(time.Time) { c.probeStuck = false }) })
	c.now = time.Now()
	if err != nil {
		c.probeStuck = tier.Code(err) == "stuck"
		if _, _, was := c.core.Memory(); was == nil {
			c.m.log.Warn("memory cannot be read", "err", err)
		}
		c.core.Reading(tier.Memory{}, err, c.now)
		return
	}
	mem := *got
	if fault := mem.Validate(); fault != nil {
		c.m.log.Warn("the memory probe reports what cannot be", "err", fault)
		c.core.Reading(tier.Memory{}, fault, c.now)
		return
	}
	c.govern(mem)
}

// govern takes a reading to the core, with the level of pressure that the
// governor makes of it, and does what that level asks for.
func (c *control) govern(mem tier.Memory) {
	p := promise(c.core.Promise(), false)
	// What has arrived may be in the reading already. An admission counts it twice
	// to be safe; to be safe here is not to send models away for it.
	p.Unseen -= c.core.Unread()
	for _, g := range c.moves {
		p.Unseen = max(p.Unseen-g.work.Job().Progress().Done, 0)
	}
	var d safety.Decision
	c.governor, d = c.governor.Observe(c.now, mem, p)
	mem.Pressure.Level = d.Level
	c.core.Reading(mem, nil, c.now)
	var cause error
	if !d.Admit {
		cause = &tier.CapacityError{
			Tier: tier.RAM, Free: mem.Available, Limit: mem.Total,
			Reason: "Load called off: " + cmp.Or(d.Why, "memory pressure is high"),
		}
	}
	c.core.Press(d.Background, cause, c.now)
	if d.GiveBack > 0 {
		given := c.shed(d.GiveBack)
		c.m.log.Warn("memory is short", "why", d.Why, "give back", d.GiveBack, "found", given)
	}
	if d.Changed {
		was := c.pressure
		c.m.log.Warn("memory pressure changed", "from", was, "to", d.Level, "why", d.Why)
		if fn := c.m.cfg.Events.PressureChanged; fn != nil {
			c.m.event(func() { fn(was, d.Level) })
		}
	}
	c.pressure = d.Level
}

// shed has idle models give memory back, and returns how much was found.
func (c *control) shed(bytes tier.Bytes) tier.Bytes {
	v := c.core.View(c.now)
	steps, given := safety.Reclaim(&v, bytes, c.cheaper(&v))
	c.core.Shed(steps)
	return given
}

// cheaper says who is missed less, by the placement. nil: it does not say, and
// those go first that were used least recently.
func (c *control) cheaper(v *tier.View) func(a, b int) int {
	p, ok := c.m.cfg.Placement.(tier.Valuer)
	if !ok {
		return nil
	}
	c.readAccesses()
	c.teach()
	if c.planStuck {
		return nil
	}
	told := make(chan []float64, 1) // a call that is stuck may answer much later
	err := c.m.callFor("placement", planLimit, func(context.Context) error { told <- p.Worth(v); return nil }, c.placementBack)
	c.placementFailed(err)
	if err != nil {
		return nil
	}
	worth := <-told
	if len(worth) != len(v.States) {
		return nil
	}
	return func(a, b int) int { return cmp.Compare(worth[a], worth[b]) }
}

// refresh takes a reading, unless the last is fresh, and closes done when it is
// published.
func (c *control) refresh(now time.Time, done chan struct{}) {
	if _, at, _ := c.core.Memory(); at.IsZero() || now.Sub(at) > fresh {
		c.read(now)
	}
	c.after = append(c.after, func() { close(done) })
}
