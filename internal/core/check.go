package core

import (
	"errors"
	"fmt"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Check looks through the whole structure and returns everything that is not as
// it always has to be. It is for tests, which call it after every step.
func (c *Core) Check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	limits := c.ledger.Limits()
	var charged, reserved tier.Footprint
	for _, e := range c.entries {
		charged = charged.Plus(e.charge)
		c.checkEntry(e, fault)
	}
	for _, e := range c.ghosts {
		charged = charged.Plus(e.charge)
		if !e.removed || e.charge.IsZero() {
			fault("%s: a leftover of %v that is none", e.Model.Name, e.charge)
		}
	}
	for _, m := range c.Moves() {
		reserved = reserved.Plus(m.res.Held())
		if m.Entry.move != m {
			fault("%s: a move is under way that its entry does not know", m.Entry.Model.Name)
		}
	}
	for _, p := range c.plans {
		reserved = reserved.Plus(p.claim.Held())
	}
	if charged != c.ledger.Charged() {
		fault("the entries charge %v, the ledger says %v", charged, c.ledger.Charged())
	}
	if reserved != c.ledger.Reserved() {
		fault("moves and plans hold %v, the ledger says %v", reserved, c.ledger.Reserved())
	}
	for _, t := range [...]tier.Tier{tier.Swap, tier.RAM} {
		if held := c.ledger.Charged()[t] + c.ledger.Reserved()[t]; held > limits.Of(t) {
			fault("%v holds %v of %v", t, held, limits.Of(t))
		}
	}
	for _, e := range slices.Concat(c.entries, c.ghosts) {
		if e.Overdraft() > 0 && !c.overdrawn {
			fault("%s has an overdraft of %v that nobody reckons with", e.Model.Name, e.Overdraft())
		}
	}
	for _, x := range c.wants {
		if x.e.want != x {
			fault("%s: a want that its entry does not know", x.e.Model.Name)
		}
		if x.plan != nil && !slices.Contains(c.plans, x.plan) {
			fault("%s: a want with a plan that is not carried out", x.e.Model.Name)
		}
	}
	return errors.Join(errs...)
}

func (c *Core) checkEntry(e *Entry, fault func(string, ...any)) {
	name := e.Model.Name
	if e.move != nil && e.Gate.Leases() > 0 {
		fault("%s moves under %d leases", name, e.Gate.Leases())
	}
	if e.move != nil && !slices.Contains(c.running, e.move) && !slices.Contains(c.queue, e.move) {
		fault("%s: its move is not under way", name)
	}
	if e.tier == tier.Storage && e.Gate.Leases() > 0 {
		fault("%s has %d leases in storage", name, e.Gate.Leases())
	}
	if e.tier == tier.Swap && e.move == nil && e.Gate.Leases() > 0 && !e.serving {
		fault("%s is leased from swap without its runtime bytes", name)
	}
	if e.left < 0 || e.kept+e.left > e.Model.Size || e.left > 0 && e.tier != tier.Swap {
		fault("%s keeps %v and has %v left in storage while in %v", name, e.kept, e.left, e.tier)
	}
	if e.victim != nil && !slices.Contains(c.plans, e.victim) {
		fault("%s waits to leave for a plan that is gone", name)
	}
	if (e.next != nil) != slices.Contains(c.replaced, e) {
		fault("%s: what it is to become is forgotten, or was never said", name)
	}
	if e.want != nil && !slices.Contains(c.wants, e.want) {
		fault("%s: its want is forgotten", name)
	}
	if e.move != nil {
		return
	}
	rest := e.rest()
	if e.charge[tier.Swap] != rest[tier.Swap] || e.Overdraft() == 0 && !rest.Within(e.charge) {
		fault("%s is charged %v, in %v it takes %v", name, e.charge, e.tier, rest)
	}
	if e.Overdraft() > 0 && e.Model.Runtime == e.declared && e.taken == 0 {
		fault("%s takes no more than was declared, and %v of it are not charged", name, e.Overdraft())
	}
}
