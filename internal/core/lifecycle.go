package core

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// errReplaced is the cause of a load of what is to be replaced.
var errReplaced = fmt.Errorf("its model was reconfigured (%w)", errCalledOff)

// doom gives an entry a fate. One that outweighs the other stays: a replaced model
// is replaced, crashed or not.
func (c *Core) doom(e *Entry, f fate) {
	if e.fate == stays {
		c.fated = append(c.fated, e)
	}
	e.fate = max(e.fate, f)
	e.unfit = e.unfit || f == crashed || f == unverified
	e.retryAt = time.Time{}
	e.Gate.Close()
	c.mark(changed | progressed)
}

// Crash tells that the entry's weights left memory by themselves, and why. It takes
// no new leases, and goes to storage when those that are held have ended. Where it
// is moving, the move's end tells what became of it. One that crashes soon after
// each load is left alone for a while, like one that does not load.
func (c *Core) Crash(e *Entry, cause error, now time.Time) {
	switch {
	case e.phase == moving || e.phase == removed || e.tier == tier.Storage:
		return
	case e.fate != stays:
		e.unfit = true // it leaves as it is
		return
	}
	e.crash(cause, now)
	c.doom(e, crashed)
}

// Replace has the entry become another model of its name once nothing uses it, or,
// with nil, leave the library. It takes no new leases from now on; when those that
// are held have ended it goes to storage, and there it is replaced. Requests that
// wait for it, or come meanwhile, get the new one; of a model that leaves, they are
// told that it is not known, and no request that names none is led to it.
func (c *Core) Replace(e *Entry, next *tier.Model, t Traits, now time.Time) {
	if e.fate != replaced {
		c.doom(e, replaced)
	}
	switch {
	case next == nil || !t.OldStays:
		e.old = nil
	case e.old == nil:
		m := e.older()
		e.old = &m
	}
	e.successor, e.heirTraits, e.retryAt = next, t, time.Time{}
	m := e.Model
	m.Capabilities = nil
	if next != nil {
		copyDescription(&m, next)
	}
	c.describe(e, m)
	if next == nil && e.demand != nil && e.demand.order == nil {
		c.fail(e.demand, unknown(e))
	}
	if m := e.move; m != nil && m.To > m.From && m.Order == nil && (e.demand == nil || e.demand.order == nil) {
		c.CancelMove(m, errReplaced, now)
	}
}

// Amend changes what an owner may say of a model that stays the same otherwise,
// and of the one that it is about to become.
func (c *Core) Amend(e *Entry, m tier.Model) {
	c.describe(e, m)
	if e.fate == replaced && e.successor != nil {
		n := *e.successor
		copyDescription(&n, &m)
		e.successor = &n
	}
}

// exitReasons say why an entry of each fate goes to storage.
var exitReasons = [...]struct {
	reason tier.Reason
	why    string
}{
	crashed:        {tier.ReasonCrashed, "its weights left memory by themselves"},
	unverified:     {tier.ReasonUnverified, "its files are not known to be what they should be"},
	pendingRemoval: {tier.ReasonRemoved, "its hot load was given up"},
	replaced:       {tier.ReasonReconfigured, "its model was reconfigured"},
}

// carryFates takes entries with a fate to storage, and on from there.
func (c *Core) carryFates(now time.Time) {
	if len(c.fated) == 0 {
		return
	}
	var leave []*Entry
	c.fated = slices.DeleteFunc(c.fated, func(e *Entry) bool {
		hotLoad := e.demand != nil && e.demand.order != nil
		switch {
		case e.phase == removed:
			return true
		case e.phase == moving || e.tier != tier.Storage && e.exit != nil && e.exit.live:
			return false
		case e.fate == replaced && hotLoad && e.tier != tier.Storage:
			return false // its hot load ends by itself
		case e.tier != tier.Storage:
			if e.exit != nil { // it has come to nothing
				e.exit, e.retryAt = nil, later(e.retryAt, now.Add(backOffFirst))
			}
			if !now.Before(e.retryAt) {
				r := exitReasons[e.fate]
				e.exit = &plan{patient: true, exit: true, steps: []*step{c.stepOf(e, residence{}, r.reason, r.why)}}
				c.start(e.exit)
			}
			return false
		case e.phase == claimed:
			return false
		case e.fate == pendingRemoval, e.fate == replaced && e.successor == nil && !hotLoad:
			leave = append(leave, e)
			return true
		case e.fate == crashed, e.fate == unverified:
			e.fate, e.exit, e.unfit = stays, nil, false
			return true
		}
		if hotLoad { // it waits for what is not wanted any more
			c.endOrder(e.demand.order, &tier.MoveError{Model: e.Model.Name, To: e.demand.order.To, Err: errReplaced})
			if e.successor == nil {
				leave = append(leave, e)
				return true
			}
		}
		if e.Residue() > 0 && now.Sub(e.since) < residueGoes {
			e.retryAt = e.since.Add(residueGoes)
			return false // what it was is still seen in memory
		}
		c.become(e, now)
		return true
	})
	c.forget(leave...)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// become makes an entry in storage its successor.
func (c *Core) become(e *Entry, now time.Time) {
	next := *e.successor
	if e.keepsOld() {
		c.keepOld(e, now)
	}
	c.lookAtVersions(e.Model.Name)
	hotAdded := c.HotAdded(e)
	for _, x := range e.demands() {
		if x.plan != nil {
			c.abandon(x.plan) // it made room for what is not wanted any more
		}
		x.blocked, x.tries, x.denied = false, 0, nil
	}
	e.fate, e.successor, e.exit, e.old, e.unfit = stays, nil, nil, nil, false
	e.failures, e.lastErr, e.erredAt, e.coolUntil, e.sent = 0, nil, time.Time{}, time.Time{}, false
	e.declared, e.peak = next.Runtime, 0 // what was seen was of the other
	e.foreign, e.hotAdded = true, hotAdded
	e.since = now // what was looked at before was the other
	moves := next.Mover != e.Model.Mover
	if moves {
		c.leaveResidue(e)
	}
	c.renew(e, e.heirTraits)
	c.describe(e, next)
	if moves {
		c.inheritResidue(e)
	}
	c.forecast(e)
	c.bringHomeLater(e)
}

// Difference is what a Reconfigure has found to be different, by name, sorted.
type Difference struct{ Added, Removed, Replaced, Changed []string }

// Reconfigure has the core go by another configuration: it does what is different.
// What was changed while running stays changed where the configuration says what
// it said before: models that were hot loaded or removed, home tiers, and pins.
func (c *Core) Reconfigure(models []tier.Model, traits []Traits, now time.Time) Difference {
	var d Difference
	var added []tier.Model
	var addedTraits []Traits
	next := make(map[string]tier.Model, len(models))
	for i := range models {
		m := &models[i]
		next[m.Name] = *m
		said, before := c.configured[m.Name]
		e, known := c.byName[m.Name]
		switch {
		case !known && before: // it was removed while running, and stays so
		case !known:
			added, addedTraits = append(added, *m), append(addedTraits, traits[i])
			d.Added = append(d.Added, m.Name)
		default:
			c.reconfigureOne(e, said, before, *m, traits[i], &d, now)
		}
	}
	// No other model has the names, which is all that Add could find wrong.
	_ = c.Add(added, addedTraits, true)
	for name := range c.configured {
		if _, stays := next[name]; stays {
			continue
		}
		if e, ok := c.byName[name]; ok && !e.hotAdded { // that one is its owner's
			c.Replace(e, nil, Traits{}, now)
			d.Removed = append(d.Removed, name)
		}
	}
	c.configured = next
	for _, names := range [][]string{d.Added, d.Removed, d.Replaced, d.Changed} {
		slices.Sort(names)
	}
	return d
}

// reconfigureOne takes up what the configuration says of a model that is known.
// said is what it said before, if it did.
func (c *Core) reconfigureOne(e *Entry, said tier.Model, before bool, next tier.Model, t Traits, d *Difference, now time.Time) {
	if !before { // it was hot loaded, or is about to leave
		said = e.Model
		said.Runtime = e.declared // and not what it was seen to take
	}
	m := next
	if before && said.Home == next.Home {
		m.Home = e.Model.Home
	}
	if before && said.Pinned == next.Pinned {
		m.Pinned = e.Model.Pinned
	}
	if now := e.Becoming(); before && !e.hotAdded && e.Owned() && OtherContent(&said, &next) && !OtherContent(&now, &next) {
		said, next = now, m // it was rolled back to that
	}
	switch {
	case OtherContent(&said, &next) || !before && !e.Owned():
		c.Replace(e, &m, t, now)
		d.Replaced = append(d.Replaced, m.Name)
	case otherDescription(&said, &next):
		was := e.Model
		copyDescription(&was, &m)
		c.Amend(e, was)
		d.Changed = append(d.Changed, m.Name)
	}
}

// OtherContent reports whether a model has to be loaded again to be the other.
// The mover is among it, and the labels, as a mover may go by them.
func OtherContent(a, b *tier.Model) bool {
	return a.Path != b.Path || !slices.Equal(a.Parts, b.Parts) || a.Size != b.Size || a.Runtime != b.Runtime ||
		tier.OtherVersion(a.Version, b.Version) || a.Mover != b.Mover || !maps.Equal(a.Labels, b.Labels)
}

// copyDescription copies what models of the same weights may differ in.
func copyDescription(to, from *tier.Model) {
	to.Capabilities, to.Quality, to.Pinned, to.Home, to.KeepAlive = from.Capabilities, from.Quality, from.Pinned, from.Home, from.KeepAlive
	to.Digests, to.Aliases = from.Digests, from.Aliases
}

// otherDescription reports whether two models of the same weights differ.
func otherDescription(a, b *tier.Model) bool {
	return a.Home != b.Home || a.KeepAlive != b.KeepAlive || a.Quality != b.Quality || a.Pinned != b.Pinned || !slices.Equal(a.Capabilities, b.Capabilities) || !maps.Equal(a.Digests, b.Digests) || !slices.Equal(a.Aliases, b.Aliases)
}
