package core

import (
	"cmp"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// footprint returns what the entry charges at rest in that residence.
func (e *Entry) footprint(r residence) tier.Footprint {
	there := tier.Move{Model: e.Model, To: r.tier, Keep: r.kept, Leave: r.left}
	f := there.Footprint(r.serving)
	for i := range e.opt.Further {
		f[int(tier.FurtherAccount)+i] = max(e.opt.Further[i].Takes(&e.Model, r.tier), 0)
	}
	return f
}

// rest returns what the entry charges where it is.
func (e *Entry) rest() tier.Footprint { return e.footprint(e.residence) }

// peakFootprint returns what a move to that residence takes at its peak.
func (e *Entry) peakFootprint(r residence) tier.Footprint {
	f := e.footprint(r)
	if r.tier == tier.RAM {
		f[tier.RAM] = max(f[tier.RAM], e.peak)
	}
	return f
}

// own is what is charged for the entry itself.
func (e *Entry) own() tier.Footprint {
	if e.foreign && e.tier == tier.Storage {
		return tier.Footprint{}
	}
	return e.charge
}

// Residue returns bytes that are charged beyond what the model's residence
// explains: they were to be gone and were still seen.
func (e *Entry) Residue() tier.Bytes {
	if e.move != nil {
		return 0
	}
	return max(e.charge[tier.RAM]-e.rest()[tier.RAM], 0)
}

// Overdraft returns bytes of memory that the model was seen to take and that are
// not charged, because the limit has no room for them.
func (e *Entry) Overdraft() tier.Bytes {
	there := e.residence
	there.serving = there.serving && e.move == nil // a move that is to serve brings its own
	return max(e.footprint(there)[tier.RAM]-e.charge[tier.RAM], e.taken-e.charge[tier.RAM], 0)
}

// mapped is the most file pages that may be mapped on behalf of the entry. What a
// move, or a model served in place, has read is not observed until later; what is cached
// may be mapped by a frozen engine.
func (e *Entry) mapped() tier.Bytes {
	inPlace := e.tier == tier.Swap && (e.Gate.Leases() > 0 || e.LastUse.After(e.since))
	if e.move != nil || inPlace || e.tier == tier.RAM && e.Reclaimable > 0 {
		return max(e.Model.Size, e.Reclaimable)
	}
	return e.Reclaimable + e.cached
}

// expected is how many bytes of weights should be present at rest.
func (e *Entry) expected() tier.Bytes {
	switch e.tier {
	case tier.RAM:
		return e.Model.Size
	case tier.Swap:
		return e.kept
	}
	return 0
}

// commit turns a reservation into the entry's charge.
func (c *Core) commit(e *Entry, res *Reservation, now tier.Footprint, at time.Time) {
	must(c.ledger.Commit(res, e.charge, now))
	if more := now.Beyond(e.charge); !more.IsZero() {
		c.unseen, c.unseenAt = c.unseen.Plus(more), at
	}
	c.takings.charged(e.charge[tier.RAM], now[tier.RAM])
	e.charge = now
	c.mark(changed | dirty | progressed)
}

// chargeMore adds to the entry's charge.
func (c *Core) chargeMore(e *Entry, more tier.Footprint, at time.Time) error {
	res, err := c.ledger.Reserve(more)
	if err != nil {
		return err
	}
	c.commit(e, res, e.charge.Plus(more), at)
	return nil
}

// discharge takes bytes that are gone off the entry's charge.
func (c *Core) discharge(e *Entry, f tier.Footprint) {
	if f.IsZero() {
		return
	}
	must(c.ledger.Discharge(f))
	c.takings.charged(f[tier.RAM], 0)
	e.charge = e.charge.Minus(f)
	c.mark(changed | dirty | progressed)
}

// refund gives back what was set aside for a move that failed.
func (c *Core) refund(r *Reservation) { c.ledger.Refund(r) }

// must panics if the ledger refuses what the core has made sure of.
func must(err error) {
	if err != nil {
		panic("core: " + err.Error())
	}
}

// MaxSeen bounds what a mover is believed to see of one model, or to foresee: 1 PiB. Beyond, sums
// over a library might not fit.
const MaxSeen = 1 << 50

// Seen is what was seen of a model in memory. Zero is nothing, or not known.
type Seen struct {
	// Present bytes of weights, and those of them that the machine counts as
	// available.
	Present, Reclaimable tier.Bytes
	// Taken is all that the model takes where it is, whatever was declared; Peak is
	// the most that it was ever seen to take.
	Taken, Peak tier.Bytes
	// Cached bytes of weights are in the page cache and not present; CachedTold: that is
	// known.
	Cached     tier.Bytes
	CachedTold bool
}

// Believable returns s with every number within bounds: movers are not ours.
func (s Seen) Believable() Seen {
	bound := func(b tier.Bytes) tier.Bytes { return min(max(b, 0), MaxSeen) }
	return Seen{
		Present: bound(s.Present), Reclaimable: bound(s.Reclaimable), Taken: bound(s.Taken), Peak: bound(s.Peak),
		Cached: bound(s.Cached), CachedTold: s.CachedTold,
	}
}

// Observed tells what was seen of an entry that is not moving. Residue that is
// gone is given back; what is taken beyond what is charged is charged, as far as
// there is room, and shows as Overdraft where there is none.
func (c *Core) Observed(e *Entry, s Seen) {
	s = s.Believable()
	e.Reclaimable = s.Reclaimable
	if e.move != nil {
		return
	}
	if s.CachedTold {
		c.ObservedCached(e, s.Cached)
	}
	c.weigh(e, s)
	left := e.Residue()
	if gone := left - max(max(s.Present, s.Taken)-e.expected(), 0); gone > 0 {
		c.discharge(e, tier.Footprint{tier.RAM: min(gone, left)})
	}
	if e.tier != tier.RAM {
		c.mark(progressed) // a demand may have waited for residue for long enough
	}
	c.residues = slices.DeleteFunc(c.residues, func(g *Entry) bool { return g.charge.IsZero() && g.Overdraft() == 0 })
}

// weigh takes up what a model was seen to take. In ram its runtime bytes become
// what was seen, where that is more than was declared: an engine that has not
// touched all of its memory yet may do so at any time, so they never fall.
func (c *Core) weigh(e *Entry, s Seen) {
	if !e.foreign || e.tier != tier.Storage { // else it is what another of its name took
		e.peak = max(e.peak, s.Peak)
	}
	before := e.Overdraft()
	if e.tier != tier.RAM {
		e.taken = s.Taken
	} else {
		e.taken = 0
		if more := s.Taken - e.Model.Size.Plus(e.Model.Runtime); more > 0 && e.phase != removed {
			m := e.Model
			m.Runtime += more
			c.describe(e, m)
		}
	}
	if over := e.Overdraft(); over != before {
		c.overdrawn = c.overdrawn || over > 0
		c.mark(changed | progressed)
	}
}

// forecast has a model that is not in ram charged, when it comes there, for what it was
// seen to take, and, if its owner declared nothing, for what the mover expects. An
// expectation does not refuse a model for good: it is charged for no more than there can
// be, and measured when it is there.
func (c *Core) forecast(e *Entry) {
	t := e.traits
	e.peak = max(e.peak, t.Seen)
	runtime := max(e.declared, t.Seen-e.Model.Size)
	if e.declared == 0 {
		runtime = max(runtime, min(t.Takes, c.mostRAM())-e.Model.Size)
	}
	if t.Takes == 0 && t.Seen == 0 || runtime == e.Model.Runtime || e.tier == tier.RAM || e.phase == removed {
		return
	}
	m := e.Model
	m.Runtime = runtime
	c.describe(e, m)
	c.overdrawn = c.overdrawn || e.Overdraft() > 0 // of one that is served from swap
}

// forecastAgain does so for all models, because mostRAM is another. Those that move are
// forecast when they arrive, those that are served from swap when they have moved.
func (c *Core) forecastAgain() {
	for _, e := range c.entries {
		if e.move == nil && !e.serving {
			c.forecast(e)
		}
	}
}

// mostRAM is the most that can ever be promised to one model.
func (c *Core) mostRAM() tier.Bytes {
	l := c.ledger.Limits()
	if c.memory.Total == 0 {
		return l.RAM // not known
	}
	return min(l.RAM, c.memory.Total-max(l.Reserved, 0))
}

// Overdraft returns the bytes that models were seen to take and that could not be
// charged yet. Bytes that are given back go to them first.
func (c *Core) Overdraft() (b tier.Bytes) {
	if c.overdrawn {
		for e := range c.charged {
			b = b.Plus(e.Overdraft())
		}
	}
	return b
}

// charged yields the entries, then the removed ones that are still charged.
func (c *Core) charged(yield func(*Entry) bool) {
	for _, list := range [...][]*Entry{c.entries, c.residues} {
		for _, e := range list {
			if !yield(e) {
				return
			}
		}
	}
}

// cover charges what was overdrawn as far as there is room now.
func (c *Core) cover(now time.Time) {
	if !c.overdrawn {
		return
	}
	for e := range c.charged {
		f := tier.Footprint{tier.RAM: min(e.Overdraft(), c.ledger.Free()[tier.RAM])}
		if f[tier.RAM] > 0 {
			must(c.chargeMore(e, f, now))
		}
	}
	c.overdrawn = c.Overdraft() > 0
}

// Residues returns the models that left memory and are still seen there, removed
// ones among them.
func (c *Core) Residues() []*Entry {
	return slices.DeleteFunc(slices.Collect(c.charged), func(e *Entry) bool {
		return e.Residue() <= 0 && (e.tier == tier.RAM || e.Overdraft() <= 0)
	})
}

// residueGoes is how long residue is expected to go. A demand that needs the room
// waits for that long.
const residueGoes = 10 * time.Second

// residueUntil returns until when residue is waited for, whether it is looked at
// meanwhile or not; zero: there is none.
func (c *Core) residueUntil(now time.Time) (until time.Time) {
	for e := range c.charged {
		if e.charge.IsZero() && e.taken == 0 {
			continue // most of a large library
		}
		if t := e.since.Add(residueGoes); t.After(now) && (e.Residue() > 0 || e.tier != tier.RAM && e.Overdraft() > 0) {
			until = later(until, t)
		}
	}
	return until
}

// Holders returns who holds room in an account, largest first.
func (c *Core) Holders(a tier.Account) []tier.Holder {
	var hs []tier.Holder
	if a == tier.Account(tier.RAM) {
		hs = c.OutsideHolders()
	}
	for e := range c.charged {
		b := e.charge[a]
		if e.move != nil {
			b += e.move.Held()[a]
		}
		if b > 0 {
			hs = append(hs, tier.Holder{
				Model: e.Model.Name, Bytes: b, Leases: e.Gate.Leases(),
				Pinned: e.Model.Pinned, Moving: e.move != nil, Stuck: e.Stuck(),
			})
		}
	}
	slices.SortStableFunc(hs, func(a, b tier.Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return hs
}
