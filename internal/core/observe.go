package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Seen is what was seen of a model in memory. Zero is nothing, or not known.
type Seen struct {
	// Present bytes of weights, and those of them that the machine counts as
	// available.
	Present, Reclaimable tier.Bytes
	// Taken is all that the model takes where it is, whatever was declared; Peak is
	// the most that it was ever seen to take.
	Taken, Peak tier.Bytes
}

// Observed tells what was seen of an entry that is not moving. Leftovers that are
// gone are given back; what is taken beyond what is charged is charged, as far as
// there is room, and shows as Overdraft where there is none.
func (c *Core) Observed(e *Entry, s Seen) {
	e.Reclaimable = s.Reclaimable
	if e.move != nil {
		return
	}
	c.weigh(e, s)
	left := e.Leftover()
	if gone := left - max(max(s.Present, s.Taken)-e.expected(), 0); gone > 0 {
		c.discharge(e, tier.Footprint{tier.RAM: min(gone, left)})
	}
	if e.tier != tier.RAM {
		c.progress++ // who waits for leftovers may have waited for long enough
	}
	c.ghosts = slices.DeleteFunc(c.ghosts, func(g *Entry) bool { return g.charge.IsZero() && g.Overdraft() == 0 })
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

// weigh takes up what a model was seen to take. In ram its runtime bytes become
// what was seen, where that is more than was declared: an engine that has not
// touched all of its memory yet may do so at any time, so they never fall.
func (c *Core) weigh(e *Entry, s Seen) {
	e.peak = max(e.peak, s.Peak)
	before := e.Overdraft()
	if e.tier != tier.RAM {
		e.taken = max(s.Taken, 0)
	} else {
		e.taken = 0
		if more := s.Taken - e.Model.Size.Plus(e.Model.Runtime); more > 0 && !e.removed {
			m := e.Model
			m.Runtime += more
			c.Remodel(e, m)
		}
	}
	if over := e.Overdraft(); over != before {
		c.overdrawn = c.overdrawn || over > 0
		c.changed = true
		c.progress++
	}
}

// outgrown adds to a lack of room that the model was seen to take more than was
// declared, where it was; and that it will never fit, where that is beyond the
// limit.
func (c *Core) outgrown(e *Entry, err error) error {
	ce, ok := errors.AsType[*tier.CapacityError](err)
	most, declared := max(e.peak, e.Model.Size.Plus(e.Model.Runtime)), e.Model.Size.Plus(e.declared)
	if !ok || most <= declared {
		return err
	}
	n := *ce
	n.Never = n.Never || most > c.limits().RAM && !c.opt.InPlace(&e.Model)
	n.Reason = fmt.Sprintf("%v; '%s' was seen to take %v, %v are declared", ce, e.Model.Name, most, declared)
	return &n
}

// Overdraft returns the bytes that models were seen to take and that could not be
// charged yet. Whatever is given back goes to them first.
func (c *Core) Overdraft() (b tier.Bytes) {
	if !c.overdrawn {
		return 0
	}
	for _, e := range c.entries {
		b = b.Plus(e.Overdraft())
	}
	for _, e := range c.ghosts {
		b = b.Plus(e.Overdraft())
	}
	return b
}

// cover charges what was overdrawn as far as there is room now.
func (c *Core) cover(now time.Time) {
	if !c.overdrawn {
		return
	}
	for _, e := range slices.Concat(c.entries, c.ghosts) {
		f := tier.Footprint{tier.RAM: min(e.Overdraft(), c.ledger.Free()[tier.RAM])}
		if f[tier.RAM] <= 0 {
			continue
		}
		res, err := c.ledger.Reserve(f)
		if err != nil {
			panic("core: " + err.Error())
		}
		c.commit(e, res, e.charge.Plus(f), now)
	}
	c.overdrawn = c.Overdraft() > 0
}

// Leftovers returns who left memory and is still seen there, removed models
// among them.
func (c *Core) Leftovers() []*Entry {
	return slices.DeleteFunc(slices.Concat(c.entries, c.ghosts), func(e *Entry) bool {
		return e.Leftover() <= 0 && (e.tier == tier.RAM || e.Overdraft() <= 0)
	})
}
