package modeltier

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// cachedEvery is how often it is asked how much is cached of models that gave way. The
// kernel may take it at any time; what is believed in between is for Status and for
// predictions, and a load that needs the room asks again.
const cachedEvery = 10 * time.Second

// observeCached has all models that have cached bytes looked at, at once.
func (c *control) observeCached() {
	if c.cacheAsked || c.now.Sub(c.cacheSeen) < cachedEvery {
		return
	}
	c.cacheSeen = c.now
	if all := c.core.CachedNow(); len(all.From) > 0 {
		c.cacheAsked = true
		c.lookAtCached(all, func() { c.cacheAsked = false })
	}
}

// cached is a model whose cached bytes are asked for or dropped.
type cached struct {
	entry *core.Entry
	name  string
	mover *mover
	epoch core.Epoch
	since time.Time
	bytes tier.Bytes // that it has, as the mover says; if it does not, as it said before
}

// dropping is what is dropped, least valuable first.
type dropping struct {
	bytes tier.Bytes
	from  []*cached
	view  *tier.View // to ask the placement by; nil: the order stands
}

// toDrop takes what has to be dropped from the core.
func (c *control) toDrop(d core.Drop) *dropping {
	out := &dropping{bytes: d.Bytes, from: make([]*cached, len(d.From))}
	for i, e := range d.From {
		out.from[i] = &cached{entry: e, name: e.Model.Name, mover: c.m.moverOf(&e.Model), epoch: e.Epoch(), since: e.Since(), bytes: d.Had[i]}
	}
	if d.Bytes > 0 && len(d.From) > 1 {
		v := c.core.View(c.now)
		out.view = &v
	}
	return out
}

// lookAtCached has movers asked how much is cached of models, and drop what is to be
// dropped of it, on a goroutine of its own. The loop hears how much is left, and then
// calls done.
func (c *control) lookAtCached(d core.Drop, done func()) {
	if len(d.From) == 0 {
		return
	}
	drop := c.toDrop(d)
	c.m.goroutines.Go(func() {
		c.m.lookAtCached(c.m.ctx, drop)
		c.m.post(func(time.Time) { c.uncached(drop); done() })
	})
}

// uncached tells the core how much is cached of models now.
func (c *control) uncached(d *dropping) {
	for _, x := range d.from {
		if x.entry.Epoch() == x.epoch && x.entry.Since().Equal(x.since) {
			c.core.ObservedCached(x.entry, x.bytes)
		}
	}
}

// lookAtCached asks how much is cached of models, and drops what is to be dropped of it,
// if anything. It waits for all their movers together for a stated time; what they do not
// drop in time, the kernel takes when it has to. A mover that has not returned from such a
// call is not asked again before: others wait for the room.
func (m *Manager) lookAtCached(ctx context.Context, d *dropping) {
	m.sortByWorth(ctx, d)
	missing, began := d.bytes, time.Now()
	for _, x := range d.from {
		left := observeLimit - time.Since(began)
		if left <= 0 {
			m.log.Warn("what is cached cannot be told in time")
			return
		}
		if x.mover.cacher == nil { // the model had another
			x.bytes = 0
			continue
		}
		type told struct{ had, has tier.Bytes }
		seen := make(chan told, 1) // a mover that is stuck may answer much later
		_, err := m.askMover(ctx, x.mover, 1, left, func(ctx context.Context) error {
			had, err := x.mover.cacher.Cached(ctx, x.name)
			has := had
			if err == nil && missing > 0 && had > 0 {
				if err := x.mover.cacher.Uncache(ctx, x.name, missing); err != nil {
					m.log.Info("cached bytes stay", "model", x.name, "err", seal(err))
				}
				has, err = x.mover.cacher.Cached(ctx, x.name)
			}
			if err == nil {
				seen <- told{had, has}
			}
			return err
		})
		if err != nil {
			m.log.Warn("what is cached cannot be told", "model", x.name, "err", err)
			continue
		}
		t := <-seen
		x.bytes = t.has
		missing -= max(t.had-t.has, 0)
	}
}

// sortByWorth puts what is least valuable first, by the placement if it says so in time.
func (m *Manager) sortByWorth(ctx context.Context, d *dropping) {
	p, ok := m.cfg.Placement.(tier.Valuer)
	if !ok || d.view == nil || m.placement.isStuck() {
		return
	}
	worth := new([]float64)
	err := m.placement.wait(ctx, worthLimit, func(context.Context) error { *worth = p.Worth(d.view); return nil })
	if err != nil || len(*worth) != len(d.view.States) {
		return
	}
	of := func(x *cached) float64 {
		i, _ := d.view.Library.Find(x.name)
		return (*worth)[i]
	}
	slices.SortStableFunc(d.from, func(a, b *cached) int { return cmp.Compare(of(a), of(b)) })
}

// forget drops all that is cached of a model that its owner sent away.
func (m *Manager) forget(ctx context.Context, model *tier.Model) {
	mv := m.moverOf(model)
	if mv.cacher == nil {
		return
	}
	_, err := m.askMover(context.WithoutCancel(ctx), mv, maxStuckObservations, observeLimit, func(ctx context.Context) error {
		return mv.cacher.Uncache(ctx, model.Name, tier.Unlimited)
	})
	if err != nil {
		m.log.Warn("cached bytes of a model that was sent away stay", "model", model.Name, "err", err)
	}
}
