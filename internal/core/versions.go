package core

import (
	"maps"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// maxOlder bounds the older versions of a model that are kept in the library, but for
// those that an alias stands for. Beyond it those leave that were current the longest ago;
// their files stay.
const maxOlder = 3

// An older version is an entry of its own, in storage until it is asked for by its name.
// It comes when the model becomes another and its files stay, and leaves when it is kept
// no more and nothing uses it.

// Becoming returns the model that an entry is or, if it is being replaced, will be, as its
// owner declared it.
func (e *Entry) Becoming() tier.Model {
	if e.fate == replaced && e.successor != nil {
		return *e.successor
	}
	m := e.Model
	m.Runtime = e.declared
	return m
}

// HotAdded reports whether the model, or the one that it is about to become, came by a
// hot load, and not from the configuration.
func (c *Core) HotAdded(e *Entry) bool {
	if !e.hotAdded {
		return false
	}
	said, known := c.configured[e.Model.Name]
	next := e.Becoming()
	return !known || e.fate != replaced || OtherContent(&said, &next)
}

// older returns what the entry is as an older version of its name.
func (e *Entry) older() tier.Model {
	m := e.Model
	m.Name, m.VersionOf = tier.VersionName(e.Model.Name, e.Model.Version), e.Model.Name
	m.Runtime, m.Home, m.Pinned = e.declared, tier.Storage, false
	return m
}

// keepsOld reports whether the entry is about to become another version while its files
// stay.
func (e *Entry) keepsOld() bool {
	return e.fate == replaced && e.successor != nil && e.old != nil && e.old.Name != "" && e.successor.Version != e.old.Version
}

// servesOld reports whether the entry can serve as what it still is: it is to become
// another version, leases on this one have kept it where it is, and its files stay.
func (e *Entry) servesOld() bool {
	return e.keepsOld() && !e.unfit && e.phase != moving && (e.tier == tier.RAM || e.serving) && e.Gate.Leases() > 0
}

// Older returns the older versions of an entry that are kept, once it is what it becomes,
// the last to have been current at the end.
func (c *Core) Older(e *Entry) []tier.Model {
	var all []tier.Model
	now := e.Becoming().Version
	for _, o := range c.older[e.Model.Name] {
		if o.Model.Version != now && !o.leaving() {
			all = append(all, o.Becoming())
		}
	}
	if e.keepsOld() {
		all = append(slices.DeleteFunc(all, func(o tier.Model) bool { return o.Name == e.old.Name }), *e.old)
	}
	if len(all) <= maxOlder {
		return all
	}
	named := make(map[string]bool)
	for _, of := range c.aliases {
		named[of] = true
	}
	beyond := len(all) - maxOlder
	return slices.DeleteFunc(all, func(o tier.Model) bool {
		if beyond == 0 || named[o.Name] {
			return false
		}
		beyond--
		return true
	})
}

// keepOld puts what an entry is into the library as an older version of its name, before
// it becomes its successor. Where another has the name that it would have, it is not kept.
func (c *Core) keepOld(e *Entry, now time.Time) {
	m := *e.old
	all := c.older[m.VersionOf]
	i := slices.IndexFunc(all, func(o *Entry) bool { return o.Model.Name == m.Name })
	switch {
	case i >= 0: // it was current before, and is there still
		o := all[i]
		c.older[m.VersionOf] = append(slices.Delete(slices.Clone(all), i, i+1), o)
		if o.leaving() {
			c.Replace(o, &m, o.traits, now)
		}
	case c.Taken(m.Name) == nil:
		_ = c.Add([]tier.Model{m}, []Traits{e.traits}, false) // the name is free
	}
}

// lookAtVersions has the older versions of a name leave that are kept no more.
func (c *Core) lookAtVersions(name string) {
	if len(c.older[name]) > 0 {
		c.unsorted[name] = true
	}
}

// retireVersions takes older versions that are kept no more out of the library, when
// nothing uses them.
func (c *Core) retireVersions(now time.Time) {
	if len(c.unsorted) == 0 {
		return
	}
	var leave []*Entry
	for _, name := range slices.Sorted(maps.Keys(c.unsorted)) {
		var kept []tier.Model
		if e, there := c.byName[name]; there {
			kept = c.Older(e)
		}
		wait := false
		for _, o := range c.older[name] {
			switch {
			case slices.ContainsFunc(kept, func(m tier.Model) bool { return m.Name == o.Model.Name }):
			case o.fate != stays || o.phase != resting || o.wanted() || o.Gate.Leases() > 0:
				wait = true
			case o.tier == tier.Storage:
				o.Gate.Close()
				leave = append(leave, o)
			default:
				c.Replace(o, nil, Traits{}, now)
			}
		}
		if !wait {
			delete(c.unsorted, name)
		}
	}
	c.forget(leave...)
}

// Rollback has the entry become an older version of it, as Replace does; stays says that
// the files of what it is stay. What its owner said of it, and not of its content, stays
// as it is.
func (c *Core) Rollback(e, to *Entry, stays bool, now time.Time) error {
	switch {
	case !e.Owned():
		return leavesOrComes(e)
	case e.fate == replaced:
		return beingReplaced(e)
	}
	next := to.Becoming()
	next.Name, next.VersionOf = e.Model.Name, ""
	content := next
	copyDescription(&next, &e.Model)
	next.Capabilities, next.Digests = content.Capabilities, content.Digests
	t := to.traits
	t.OldStays = stays
	c.Replace(e, &next, t, now)
	return nil
}
