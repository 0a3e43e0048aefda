package core

import (
	"errors"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Press says whether moves that no request waits for may start. With a cause,
// loads that are under way, whatever for, are called off if they take memory.
// Requests for them go on waiting: what can be had without memory is tried next.
func (c *Core) Press(background bool, cause error, now time.Time) {
	if c.background != background {
		c.mark(progressed)
	}
	c.background = background
	if cause == nil {
		return
	}
	for _, m := range c.Moves() {
		if c.takes(m) && m.calledOff == notCalledOff {
			c.callOff(m, forPressure, cause, now)
		}
	}
}

// SetQuietHours says whether moves that no request waits for are to rest, whatever the
// pressure is. What a request waits for, and what gives way for it, moves all the same.
func (c *Core) SetQuietHours(on bool) {
	if c.quietHours != on {
		c.quietHours = on
		c.mark(progressed)
	}
}

// rests reports whether moves that no request waits for may not start.
func (c *Core) rests() bool { return !c.background || c.quietHours }

// pressureHigh reports whether nothing that takes memory is admitted.
func (c *Core) pressureHigh() bool { return c.memory.Pressure.Level >= tier.PressureHigh }

// takes reports whether the move takes memory, beyond what the model had.
func (c *Core) takes(m *Move) bool {
	return m.loads() && (m.res.Held()[tier.RAM] > 0 || !m.Entry.traits.FileBacked)
}

// short reports whether a load of the model has just found less memory than was
// promised.
func (e *Entry) short(now time.Time) bool { return now.Before(e.shortUntil) }

// servableInPlace reports whether the model can be served with no more memory than
// its runtime bytes: its weights are read where they are.
func (c *Core) servableInPlace(e *Entry) bool {
	return e.traits.InPlace && (e.traits.FileBacked || e.tier == tier.Swap)
}

// serveUnderPressure serves a demand without memory for the weights, where there
// is none to be had now: under high pressure, after a load that found less than
// was promised, and while a model that is in swap already may not be tried again.
// Without it, models that are served from swap could keep up a pressure under
// which another never gets there. It reports false where the placement has to be
// asked.
func (c *Core) serveUnderPressure(x *demand, now time.Time) bool {
	e, cooling := x.e, now.Before(x.e.coolUntil)
	if x.order != nil || x.plan != nil || x.tries >= maxTries || !c.servableInPlace(e) || !c.pressureHigh() && !e.short(now) && !(cooling && e.tier == tier.Swap) {
		return false
	}
	there := residence{tier: tier.Swap, kept: e.kept, left: e.left, serving: true}
	if e.tier == tier.Storage {
		if cooling {
			return false
		}
		there.kept = 0
		if e.traits.Leaves {
			there.left = max(e.Model.Size-c.promise(tier.Footprint{}).Free[tier.Swap], 0)
		}
	}
	if err := c.admit(e, e.footprint(there).Beyond(e.own()), tier.Footprint{}, false, now); err != nil {
		return errors.Is(err, errReading)
	}
	x.blocked, x.denied, x.settled = false, nil, true
	if e.tier == tier.Swap {
		c.serveInPlace(x, now)
		return true
	}
	c.attempt(x, now)
	c.pursue(x, &plan{demand: x, steps: []*step{c.stepOf(e, there, tier.ReasonDemand, "was asked for, and memory is short")}}, now)
	return true
}

// giveTurn gives the model a place among those that pressure keeps out.
func (c *Core) giveTurn(e *Entry, place time.Time) {
	if e.turn.IsZero() {
		c.turns = append(c.turns, e)
	}
	e.turn = place
}

// endTurn ends that.
func (c *Core) endTurn(e *Entry) {
	if !e.turn.IsZero() {
		e.turn = time.Time{}
		c.turns = slices.DeleteFunc(c.turns, func(o *Entry) bool { return o == e })
	}
}

// goesFirst returns a model that goes before the demand though no request waits
// for it at this moment: pressure keeps it out for longer, and a request for it
// came within Fairness and may come again. Without it, those who ask most often
// would fill every gap between two waves of pressure, and one who asks now and
// then would have its loads called off for good.
func (c *Core) goesFirst(x *demand, now time.Time) *Entry {
	if len(c.turns) == 0 || x.plan != nil || x.order != nil || c.pressureHigh() {
		return nil
	}
	for _, e := range c.turns {
		if e.turn.Before(x.age()) && !e.wanted() && e.free() && e.tier == tier.Storage &&
			now.Sub(e.LastUse) < c.opt.Protection.Fairness && !now.Before(e.coolUntil) {
			return e
		}
	}
	return nil
}

// Reclaim carries out steps that give back memory that the machine is short of.
// v is the view that they were made from, and since its epoch. A model that gave
// nothing the last time goes to storage, or it would be asked again for as long as
// memory is short, and requests would go on waiting for it in vain.
func (c *Core) Reclaim(steps []tier.Step, v *tier.View, since Epoch) {
	for i := range steps {
		s := &steps[i]
		if e, ok := c.Named(s.Model.Name); ok && e.sticky && s.To == tier.Swap {
			s.To, s.Keep, s.Leave = tier.Storage, 0, 0
			s.Why += "; what it was to give back before stayed"
		}
	}
	c.carryOut(&Question{View: *v, epoch: since}, steps)
}

// Shortfall returns the bytes by which models take more than could be charged,
// beyond what is leaving already: idle ones have to give way for that.
func (c *Core) Shortfall() tier.Bytes {
	if !c.overdrawn {
		return 0
	}
	return max(c.Overdraft()-c.Promise().Leaving, 0)
}
