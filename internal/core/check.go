package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Check looks through the whole structure and returns everything that is not as
// it always has to be. It is for tests, which call it after every step.
func (c *Core) Check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	var charged, reserved tier.Footprint
	for e := range c.charged {
		charged = charged.Plus(e.charge)
		if e.Overdraft() > 0 && !c.overdrawn {
			fault("%s has an overdraft of %v that is not reckoned with", e.Model.Name, e.Overdraft())
		}
	}
	for _, e := range c.entries {
		c.checkEntry(e, fault)
	}
	charged = charged.Plus(c.checkOutsiders(fault))
	for _, e := range c.residues {
		if e.phase != removed || e.demand != nil || e.charge.IsZero() && e.Overdraft() == 0 {
			fault("%s: residue of %v that is none, or with a demand", e.Model.Name, e.charge)
		}
	}
	for _, m := range c.moves {
		reserved = reserved.Plus(m.res.Held())
		if m.Entry.move != m || m.phase == moveEnded {
			fault("%s: a move in phase %d is under way that its entry does not know, or that has ended", m.Entry.Model.Name, m.phase)
		}
	}
	for _, p := range c.plans {
		reserved = reserved.Plus(p.claim.Held())
		if !p.live {
			fault("a plan is carried out that has ended")
		}
	}
	if charged != c.ledger.Charged() {
		fault("entries and outsiders charge %v, the ledger says %v", charged, c.ledger.Charged())
	}
	if reserved != c.ledger.Reserved() {
		fault("moves and plans hold %v, the ledger says %v", reserved, c.ledger.Reserved())
	}
	for a := tier.Account(tier.Swap); a < c.ledger.Accounts(); a++ {
		if held := c.used(a); held > c.ledger.Limit(a) {
			fault("%s holds %v of %v", c.AccountName(a), held, c.ledger.Limit(a))
		}
	}
	for _, x := range c.demands {
		if x.ended || x.e != nil && x.e.demand != x {
			fault("%s: a demand that it does not know, or that has ended", x.name())
		}
		for _, e := range x.members {
			if !slices.Contains(e.sets, x) {
				fault("%s: a set that %s does not know", x.name(), e.Model.Name)
			}
		}
		if x.plan != nil && !slices.Contains(c.plans, x.plan) {
			fault("%s: a demand with a plan that is not carried out", x.name())
		}
	}
	waiting := make(map[*Entry]int)
	for _, o := range c.unloads {
		waiting[o.Entry]++
	}
	for _, e := range c.entries {
		if e.unloads != waiting[e] {
			fault("%s counts %d unloads that wait, there are %d", e.Model.Name, e.unloads, waiting[e])
		}
	}
	for alias := range c.aliases {
		if _, taken := c.byName[alias]; taken {
			fault("the alias %s is a model's name", alias)
		}
	}
	for _, e := range c.entries {
		if of := e.Model.VersionOf; of != "" && (!slices.Contains(c.older[of], e) || e.Model.Home != tier.Storage || e.homeward) {
			fault("%s is an older version that is forgotten, or goes home to %v", e.Model.Name, e.Model.Home)
		}
		if e.old != nil && e.fate != replaced {
			fault("%s is to be kept as %s and stays", e.Model.Name, e.old.Name)
		}
	}
	if len(c.byName) != len(c.entries) {
		fault("%d names for %d entries", len(c.byName), len(c.entries))
	}
	if c.library != nil && c.library.Len() != len(c.entries) {
		fault("the library has %d models, there are %d entries", c.library.Len(), len(c.entries))
	}
	return errors.Join(errs...)
}

// CheckIdle returns an error if a model should have left by idleness before now. It is
// for tests, which call it when the core is at rest.
func (c *Core) CheckIdle(now time.Time) error {
	if c.stopped {
		return nil
	}
	var errs []error
	for _, e := range c.entries {
		limit := c.idleTime(e)
		if e.idle.timed != (limit > 0) || e.idle.prompt != (limit > 0 && limit < soon) {
			errs = append(errs, fmt.Errorf("%s may be idle for %v, and its gate does not know", e.Model.Name, limit))
		}
		if at := c.IdleTerm(e).Until(e.Gate.Ended()); !at.IsZero() && at.Before(now) && e.Gate.Leases() == 0 {
			errs = append(errs, fmt.Errorf("%s is in %v still, which it was to leave %v ago", e.Model.Name, e.tier, now.Sub(at)))
		}
	}
	return errors.Join(errs...)
}

// checkOutsiders returns what outsiders are charged.
func (c *Core) checkOutsiders(fault func(string, ...any)) (charged tier.Footprint) {
	for i, o := range c.outsiders {
		charged[tier.RAM] = charged[tier.RAM].Plus(o.Bytes)
		waits := slices.ContainsFunc(c.demands, func(x *demand) bool { return x.outsider == o })
		if waits || slices.Contains(c.outsiders[:i], o) {
			fault("%s holds room and waits for it, or holds it twice", o.name())
		}
	}
	if t := &c.takings; t.untaken < 0 || t.untaken > charged[tier.RAM] || t.returning < 0 {
		fault("%v of %v are not taken, and %v are to come back", t.untaken, charged[tier.RAM], t.returning)
	}
	return charged
}

func (c *Core) checkEntry(e *Entry, fault func(string, ...any)) {
	name := e.Model.Name
	if c.byName[name] != e {
		fault("%s: its name leads to another", name)
	}
	if c.library != nil {
		if i, ok := c.library.Named(name); !ok || c.entries[i] != e || c.library.At(i).Runtime != e.Model.Runtime {
			fault("%s: the library says something else", name)
		}
	}
	if (e.phase == moving) != (e.move != nil) || (e.phase == claimed) != (e.claimant != nil) || e.phase == removed {
		fault("%s is %v with move %v and plan %v", name, e.phase, e.move != nil, e.claimant != nil)
	}
	if e.move != nil && e.Gate.Leases() > 0 {
		fault("%s moves under %d leases", name, e.Gate.Leases())
	}
	if e.move != nil && !slices.Contains(c.moves, e.move) {
		fault("%s: its move is not under way", name)
	}
	if e.tier == tier.Storage && e.Gate.Leases() > 0 {
		fault("%s has %d leases in storage", name, e.Gate.Leases())
	}
	if e.tier == tier.Swap && e.move == nil && e.Gate.Leases() > 0 && !e.serving {
		fault("%s is leased from swap without its runtime bytes", name)
	}
	if e.left < 0 || e.kept+e.left > e.Model.Size || (e.left > 0 || e.kept > 0 || e.serving) && e.tier != tier.Swap {
		fault("%s keeps %v and has %v left in storage while in %v, served there: %v", name, e.kept, e.left, e.tier, e.serving)
	}
	if e.claimant != nil && !slices.Contains(c.plans, e.claimant) {
		fault("%s waits to leave for a plan that has ended", name)
	}
	if (e.fate != stays) != slices.Contains(c.fated, e) {
		fault("%s: its fate is forgotten, or was never said", name)
	}
	if e.demand != nil && !slices.Contains(c.demands, e.demand) {
		fault("%s: its demand is forgotten", name)
	}
	for _, x := range e.sets {
		if !slices.Contains(c.demands, x) {
			fault("%s: a set that it is one of is forgotten", name)
		}
	}
	if e.move != nil {
		return
	}
	rest := e.rest()
	if e.charge[tier.Swap] != rest[tier.Swap] || e.Overdraft() == 0 && !rest.Within(e.charge) {
		fault("%s is charged %v, in %v it takes %v", name, e.charge, e.tier, rest)
	}
	if e.cached < 0 || e.cached > e.Model.Size || e.cached > 0 && e.tier == tier.RAM {
		fault("%s is in %v and has %v cached of %v", name, e.tier, e.cached, e.Model.Size)
	}
	if e.Overdraft() > 0 && e.Model.Runtime == e.declared && e.taken == 0 {
		fault("%s takes no more than was declared, and %v of it are not charged", name, e.Overdraft())
	}
}
