package core

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Promise is what the guard weighs.
type Promise struct {
	Limits      tier.Limits
	Free        tier.Footprint // what the ledger leaves
	Unseen      tier.Bytes     // promised or charged, and not yet in the reading
	Leaving     tier.Bytes     // of memory, by moves under way
	Reclaimable tier.Bytes     // ours, and counted as available by the reading
	FileBacked  bool
	Memory      tier.Memory
}

// Describe returns the state of a model that is in storage, as far as the mover
// decides it.
func (c *Core) Describe(m *tier.Model) tier.State {
	return tier.State{Divisible: c.opt.Divisible(m), Leaves: c.opt.Leaves(m), InPlace: c.opt.InPlace(m)}
}

// View returns the picture of now.
func (c *Core) View(now time.Time) tier.View { return c.view(tier.Footprint{}, now) }

// view is the picture for somebody who holds own reservations already.
func (c *Core) view(own tier.Footprint, now time.Time) tier.View {
	v := tier.View{
		Now: now, Library: c.library, States: make([]tier.State, len(c.entries)),
		Limits: c.limits(), Charged: c.ledger.Charged(), Reserved: c.ledger.Reserved(),
		Memory: c.memory, FreeSwap: c.memory.SwapFree,
		Protection: tier.Protection{Grace: c.opt.Grace, Fairness: c.opt.Fairness}.OrDefault(),
	}
	p := c.promise(own)
	v.Room = c.opt.Room(p)
	if c.opt.FileBacked {
		v.FreeSwap = p.Free[tier.Swap]
	}
	for i, e := range c.entries {
		s := &v.States[i]
		*s = tier.State{
			Tier: e.tier, Kept: e.kept, Left: e.left, Stuck: e.stuck, Since: e.since, LastUse: e.LastUse,
			Leases: int32(e.Gate.Leases()), Waiters: int32(e.Waiters()),
			Divisible: c.opt.Divisible(&e.Model), Leaves: c.opt.Leaves(&e.Model), InPlace: c.opt.InPlace(&e.Model),
			Serving: e.servable(), Held: c.held(e, now),
		}
		switch {
		case e.move != nil:
			s.Moving, s.To = true, e.move.To
		case e.victim != nil || e.leaves(): // it drains
			s.Moving, s.To = true, e.tier
		}
	}
	return v
}

// servable reports whether leases can be granted where the entry is.
func (e *Entry) servable() bool {
	return e.idle() && !e.leaves() && (e.tier == tier.RAM || e.tier == tier.Swap && e.serving)
}

// limits returns the limits that admissions go by: while they are being lowered,
// the smaller of the old and the new.
func (c *Core) limits() tier.Limits {
	l := c.ledger.Limits()
	if c.limiting == nil {
		return l
	}
	n := c.limiting.now
	return tier.Limits{
		RAM: min(l.RAM, n.RAM), Swap: min(l.Swap, n.Swap),
		Reserved: max(l.Reserved, n.Reserved), MaxModel: min(l.MaxModel, n.MaxModel),
	}
}

// promise is what the guard weighs for somebody who holds own reservations
// already.
func (c *Core) promise(own tier.Footprint) Promise {
	limits := c.limits()
	free := c.ledger.Free()
	all := c.ledger.Limits()
	for _, t := range [...]tier.Tier{tier.Swap, tier.RAM} {
		free[t] -= all.Of(t) - limits.Of(t)
	}
	free[tier.RAM] -= c.Overdraft()
	for t := range free {
		free[t] = max(free[t], 0) + own[t]
	}
	p := Promise{
		Limits: limits, Free: free, FileBacked: c.opt.FileBacked, Memory: c.memory,
		Unseen: c.unseen + c.ledger.Reserved()[tier.RAM] - own[tier.RAM],
	}
	for _, e := range c.entries {
		p.Reclaimable += e.Reclaimable
	}
	for _, m := range c.Moves() {
		p.Leaving += max(m.Entry.charge[tier.RAM]-m.Footprint(false)[tier.RAM], 0)
	}
	return p
}

// Promise is what the guard weighs for somebody who holds nothing yet.
func (c *Core) Promise() Promise { return c.promise(tier.Footprint{}) }

// Unread returns the bytes of memory that were charged since the last reading:
// the next one shows them.
func (c *Core) Unread() tier.Bytes { return c.unseen }

// held reports whether the entry came a moment ago, was asked for again since,
// and may not be evicted yet for somebody who could wait: it earns its load for
// as long as the load took, Fairness at most, while requests for it keep coming.
func (c *Core) held(e *Entry, now time.Time) bool {
	return e.tier != tier.Storage && e.Gate.Uses() > e.usesAtLoad &&
		now.Sub(e.LastUse) < c.opt.Grace &&
		now.Sub(e.since) < min(e.loadTook, c.opt.Fairness)
}
