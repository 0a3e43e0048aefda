package core

import (
	"errors"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// hard reports whether nothing that takes memory is admitted.
func (c *Core) hard() bool { return c.memory.Pressure.Level >= tier.PressureHigh }

// takes reports whether the move takes memory, beyond what the model had.
func (c *Core) takes(m *Move) bool {
	return m.loads() && (m.res.Held()[tier.RAM] > 0 || !c.opt.FileBacked)
}

// short reports whether a load of the model has just found less memory than was
// promised.
func (e *Entry) short(now time.Time) bool { return now.Before(e.shortTill) }

// streams reports whether the model can be served with no more memory than its
// runtime bytes: its weights are read where they are.
func (c *Core) streams(e *Entry) bool {
	return c.opt.InPlace(&e.Model) && (c.opt.FileBacked || e.tier == tier.Swap)
}

// makesDo serves a want without memory for the weights, where there is none to be
// had now: under high pressure, after a load that found less than was promised,
// and while a model that is in swap already may not be tried again. Without it,
// models that are served from swap could keep up a pressure under which another
// never gets there. It reports false where the placement has to be asked.
func (c *Core) makesDo(x *want, now time.Time) bool {
	e, cooling := x.e, now.Before(x.e.coolTill)
	if x.order != nil || x.plan != nil || !c.streams(e) || !c.hard() && !e.short(now) && !(cooling && e.tier == tier.Swap) {
		return false
	}
	there := tier.Move{Model: e.Model, From: e.tier, To: tier.Swap, Keep: e.kept, Leave: e.left}
	if e.tier == tier.Storage {
		if cooling {
			return false
		}
		there.Keep = 0
		if c.opt.Leaves(&e.Model) {
			there.Leave = max(e.Model.Size-c.promise(tier.Footprint{}).Free[tier.Swap], 0)
		}
	}
	target := there.Footprint(true).Beyond(e.charge)
	if err := c.admit(&e.Model, target, tier.Footprint{}, false, now); err != nil {
		return errors.Is(err, errReading)
	}
	x.blocked, x.denied, x.settled = false, nil, true
	if e.tier == tier.Swap {
		c.serveInPlace(x, now)
		return true
	}
	own := &step{Step: tier.Step{Move: there, Why: "was asked for, and memory is short"}, e: e}
	c.pursue(x, &plan{want: x, steps: []*step{own}}, now)
	return true
}

// age is since when the want waits, or its place among the models that pressure
// keeps out: since when somebody waited when it was first refused. A load that is
// called off keeps its place, but goes to the end if it was the first to be begun
// after pressure: it may be one that no gap between two waves is long enough for.
// So each of n models is the first in line in one of n gaps.
func (x *want) age() time.Time {
	if x.e.owed.IsZero() {
		return x.since
	}
	return x.e.owed
}

// owe gives the model a place among those that pressure keeps out.
func (c *Core) owe(e *Entry, place time.Time) {
	if e.owed.IsZero() {
		c.owing = append(c.owing, e)
	}
	e.owed = place
}

// settle ends that.
func (c *Core) settle(e *Entry) {
	if !e.owed.IsZero() {
		e.owed = time.Time{}
		c.owing = slices.DeleteFunc(c.owing, func(o *Entry) bool { return o == e })
	}
}

// before returns a model that goes before the want though nobody waits for it at
// this moment: pressure keeps it out for longer, and whoever asks for it was there
// within Fairness and may be there again. Without it, those who ask most often
// would fill every gap between two waves of pressure, and one who asks now and
// then would have its loads called off for good.
func (c *Core) before(x *want, now time.Time) *Entry {
	if x.plan != nil || x.order != nil || c.hard() {
		return nil
	}
	for _, e := range c.owing {
		if e.owed.Before(x.age()) && e.want == nil && e.idle() && e.tier == tier.Storage &&
			now.Sub(e.LastUse) < c.opt.Fairness && !now.Before(e.coolTill) {
			return e
		}
	}
	return nil
}
