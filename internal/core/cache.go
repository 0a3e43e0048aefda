package core

import (
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Models that give way leave clean pages in the page cache. Such bytes are charged to
// no model and the reading counts them as available, so admission promises them like
// free memory; what a load needs of them is dropped before it starts.

// Drop is cached bytes to be dropped.
type Drop struct {
	Bytes tier.Bytes   // in all
	From  []*Entry     // who has cached bytes, least recently used first
	Had   []tier.Bytes // what each of them has by what was last observed
}

// Cached returns the bytes of the model that are in the page cache and charged to no
// model, as last observed.
func (e *Entry) Cached() tier.Bytes { return e.cached }

// keepFreeShare of the memory, or the reserve if that is less, stays free when a load
// has come: the kernel keeps some pages free, and works to get them. The rest of the
// reserve is there as long as cached bytes are, which any program may have.
const keepFreeShare = 32

// dropFor returns what has to be dropped so that the bytes that a load has set aside
// are free.
func (c *Core) dropFor(m *Move) Drop {
	held := m.Held()[tier.RAM]
	if held == 0 || !c.caches {
		return Drop{}
	}
	p := c.promise(m.Held())
	p.Free[tier.RAM] = tier.Unlimited
	p.Limits.Reserved = min(max(p.Limits.Reserved, 0), p.Memory.Total/keepFreeShare)
	spare := c.opt.Room(p)[tier.RAM] // the load's own cached bytes need no other room: they are in both sums
	return c.dropSome(m.Entry, func(others tier.Bytes) tier.Bytes { return held - spare + others })
}

// CachedNow returns all that is cached, none of it to be dropped.
func (c *Core) CachedNow() (d Drop) {
	for _, e := range c.entries {
		if e.cached > 0 {
			d.From, d.Had = append(d.From, e), append(d.Had, e.cached)
		}
	}
	return d
}

// DropCached returns up to that many cached bytes to be dropped.
func (c *Core) DropCached(bytes tier.Bytes) Drop {
	return c.dropSome(nil, func(tier.Bytes) tier.Bytes { return bytes })
}

// dropSome takes as many cached bytes as want says of all but those of one entry.
func (c *Core) dropSome(but *Entry, want func(all tier.Bytes) tier.Bytes) (d Drop) {
	var all tier.Bytes
	for _, e := range c.entries {
		if e != but && e.cached > 0 && e.move == nil {
			all = all.Plus(e.cached)
			d.From = append(d.From, e)
		}
	}
	d.Bytes = min(max(want(all), 0), all)
	if d.Bytes == 0 {
		return Drop{}
	}
	slices.SortStableFunc(d.From, func(a, b *Entry) int { return a.LastUse.Compare(b.LastUse) })
	left := d.Bytes
	for _, e := range d.From { // until it is observed: so that two loads do not count on the same bytes
		d.Had = append(d.Had, e.cached)
		n := min(left, e.cached)
		e.cached -= n
		left -= n
	}
	c.mark(changed)
	return d
}

// ObservedCached tells what is cached of an entry that is not moving.
func (c *Core) ObservedCached(e *Entry, cached tier.Bytes) {
	if e.move == nil && e.tier != tier.RAM {
		c.setCached(e, cached)
	}
}

func (c *Core) setCached(e *Entry, cached tier.Bytes) {
	cached = min(max(cached, 0), e.Model.Size)
	if e.cached != cached {
		e.cached = cached
		c.mark(changed)
	}
	c.caches = c.caches || cached > 0
}
