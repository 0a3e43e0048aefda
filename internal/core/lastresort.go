package core

import (
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// What is done for a demand where a placement finds no room, or a mover no memory where
// there is room by all that is known.

// roomComes reports whether models are on their way out of memory, or stay only for a
// moment longer.
func (c *Core) roomComes(now time.Time) bool {
	leaves := func(m *Move) bool { return m.To < m.From && m.returns() }
	return slices.ContainsFunc(c.moves, leaves) || !c.heldUntil(now).IsZero()
}

// stopOneFrozen stops the frozen engine that was used least recently, for the
// memory that it has, where a placement finds no room without, and there would be
// room if all idle models left. Starting it again costs far more than its thaw, so a
// demand that is not patient yet waits for room that comes anyway.
func (c *Core) stopOneFrozen(x *demand, now time.Time) {
	var victim *Entry
	wanted := x.e
	room := c.promise(tier.Footprint{}).Free[tier.RAM]
	for _, e := range c.entries {
		// Who waits for one that is frozen waits for its move anyway, and this demand goes
		// first: where all that are frozen are waited for, none would leave otherwise.
		awaited := e.tier == tier.Swap && !e.serving && e.free() && !e.Model.Pinned && e.Gate.Leases() == 0 && e.demand != nil && e.demand.plan == nil
		if e == wanted || !c.mayLeave(e) && !awaited {
			continue
		}
		room = room.Plus(e.charge[tier.RAM])
		if e.tier == tier.Swap && e.kept > 0 && !e.traits.Divisible && !now.Before(e.retryAt) && (victim == nil || e.LastUse.Before(victim.LastUse)) {
			victim = e
		}
	}
	var need tier.Bytes
	if wanted != nil {
		need = max(wanted.Model.Size.Plus(wanted.Model.Runtime), wanted.peak) - wanted.charge[tier.RAM]
	} else {
		need = c.need(x).Room[tier.RAM]
	}
	if victim != nil && need <= room {
		c.start(&plan{steps: []*step{c.stepOf(victim, residence{}, tier.ReasonRoom, "its memory is needed, and no other can be had")}})
	}
}

// retryAlone answers a load for which the mover found no memory though there was
// room by all that is known, as happens where a device wants it in one piece: all
// idle models leave, and the load is tried once more. It reports false where none
// could leave or that has been tried.
func (c *Core) retryAlone(m *Move, out Outcome) bool {
	e := m.Entry
	if e.demand == nil || e.failures != 1 || m.calledOff != notCalledOff || m.To <= m.From || !out.Short {
		return false
	}
	p := &plan{demand: e.demand, alone: true}
	for _, other := range c.entries {
		if other != e && c.mayLeave(other) {
			p.steps = append(p.steps, c.stepOf(other, residence{}, tier.ReasonDevice, "the device found no memory for another"))
		}
	}
	if len(p.steps) == 0 {
		return false
	}
	if m.plan != nil {
		c.abandon(m.plan)
	}
	p.steps = append(p.steps, c.stepOf(e, m.goal(), m.Reason, m.Why))
	e.demand.plan = p
	c.start(p)
	return true
}
