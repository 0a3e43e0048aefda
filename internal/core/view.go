package core

import (
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Promise is what the admission rules weigh.
type Promise struct {
	Limits      tier.Limits
	Free        tier.Footprint // what the ledger leaves, and of further accounts the last reading
	Unseen      tier.Bytes     // promised or charged, and not yet in the reading
	Outside     tier.Bytes     // given to outsiders, and not taken by what the reading shows
	Leaving     tier.Bytes     // of memory, by moves under way
	Reclaimable tier.Bytes     // ours, and counted as available by the reading
	Mapped      tier.Bytes     // file pages that may be mapped for our models, at most
	FileBacked  bool           // the weights that it is about are; for none in particular, those of some models
	Memory      tier.Memory
}

// promise is what the admission rules weigh for one that holds own reservations
// already.
func (c *Core) promise(own tier.Footprint) Promise {
	limits := c.limits()
	free := c.ledger.Free()
	all := c.ledger.Limits()
	for _, t := range [...]tier.Tier{tier.Swap, tier.RAM} {
		free[t] -= all.Of(t) - limits.Of(t)
	}
	free[tier.RAM] -= c.Overdraft()
	for a := range free {
		free[a] = max(free[a], 0).Plus(own[a])
	}
	for a := tier.FurtherAccount; a < c.ledger.Accounts(); a++ {
		free[a] = min(free[a], max(c.further[a]-c.unseen[a], 0))
	}
	p := Promise{
		Limits: limits, Free: free, FileBacked: c.opt.FileBacked, Memory: c.memory, Outside: c.takings.untaken,
		Unseen: c.unseen[tier.RAM].Plus(c.ledger.Reserved()[tier.RAM]) - own[tier.RAM],
	}
	p.Reclaimable, p.Mapped = c.pages()
	for _, m := range c.moves {
		if m.returns() {
			p.Leaving = p.Leaving.Plus(m.gives())
		}
	}
	return p
}

// pages returns the bytes of models that the reading counts as available, and the most
// file pages that may be mapped on behalf of models.
func (c *Core) pages() (reclaimable, mapped tier.Bytes) {
	for _, e := range c.entries {
		reclaimable = reclaimable.Plus(e.Reclaimable)
		mapped = mapped.Plus(e.mapped())
	}
	return reclaimable, mapped
}

// Promise is what the admission rules weigh for one that holds nothing yet.
func (c *Core) Promise() Promise { return c.promise(tier.Footprint{}) }

// PressurePromise is Promise for the judgement of pressure by a reading that has just
// come, given the bytes that moves under way have brought by now. What has arrived may
// be in the reading already: an admission counts it twice to be safe; to be safe here
// is not to send models away for it.
func (c *Core) PressurePromise(m *tier.Memory, arrived tier.Bytes) Promise {
	p := c.Promise()
	p.Unseen = max(p.Unseen-c.unseen[tier.RAM]-arrived, 0)
	p.Outside, _ = c.untakenBy(m)
	return p
}

// InUse is what could be had if models left: the memory that they have and the machine
// counts as taken, as far as movers tell, and what they charge to swap, where that is
// their own files.
func (c *Core) InUse() (b tier.Footprint) {
	for _, e := range c.entries {
		if e.Model.Pinned {
			continue
		}
		if e.traits.Observed {
			b[tier.RAM] = b[tier.RAM].Plus(max(e.charge[tier.RAM]-e.Reclaimable, 0))
		}
		b[tier.Swap] = b[tier.Swap].Plus(e.charge[tier.Swap])
	}
	for _, m := range c.moves {
		held := m.Held()
		if m.Entry.traits.Observed {
			b[tier.RAM] = b[tier.RAM].Plus(held[tier.RAM])
		}
		b[tier.Swap] = b[tier.Swap].Plus(held[tier.Swap])
	}
	if !c.opt.FileBacked {
		b[tier.Swap] = 0
	}
	return b
}

// AccountName returns the name of an account.
func (c *Core) AccountName(a tier.Account) string {
	if a >= tier.FurtherAccount && a < c.ledger.Accounts() {
		return c.opt.Further[a-tier.FurtherAccount].Name
	}
	return tier.Tier(a).String()
}

// View returns the picture of now.
func (c *Core) View(now time.Time) tier.View { return c.view(tier.Footprint{}, now) }

// ViewWith returns the picture of now with one more model, in storage.
func (c *Core) ViewWith(m tier.Model, t Traits, now time.Time) tier.View {
	v := c.View(now)
	v.Library = v.Library.With(m)
	v.States = append(slices.Clip(v.States), tier.State{Divisible: t.Divisible, Leaves: t.Leaves, InPlace: t.InPlace, Unbacked: c.opt.FileBacked && !t.FileBacked})
	return v
}

// view is the picture for one that holds own reservations already.
func (c *Core) view(own tier.Footprint, now time.Time) tier.View {
	p := c.promise(own)
	v := tier.View{
		Now: now, Library: c.Library(), States: make([]tier.State, len(c.entries)),
		Limits: p.Limits, Protection: c.opt.Protection,
		Charged: c.ledger.Charged(), Reserved: c.ledger.Reserved(),
		Memory: c.unpromised(), FreeSwap: c.memory.SwapFree, Room: c.opt.Room(p),
	}
	for a := tier.FurtherAccount; a < c.ledger.Accounts(); a++ {
		v.Room[a] = p.Free[a]
	}
	if c.opt.FileBacked {
		v.FreeSwap = p.Free[tier.Swap]
	}
	for i, e := range c.entries {
		s := &v.States[i]
		*s = tier.State{
			Tier: e.tier, Kept: e.kept, Left: e.left, Cached: e.cached, Stuck: e.Stuck() || e.quarantine != nil && e.tier == tier.Storage, Quarantine: e.quarantine, Since: e.since, LastUse: e.LastUse,
			Leases: int32(e.Gate.Leases()), Waiters: int32(e.Waiters()),
			Divisible: e.traits.Divisible, Leaves: e.traits.Leaves, InPlace: e.traits.InPlace,
			Unbacked: p.FileBacked && !e.traits.FileBacked,
			Serving:  e.servable(), Held: c.held(e, now),
		}
		switch {
		case e.phase == moving:
			s.Moving, s.To = true, e.move.To
		case e.phase == claimed || e.unloading(): // it drains
			s.Moving, s.To = true, e.tier
		}
	}
	return v
}
