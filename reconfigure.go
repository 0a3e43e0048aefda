package modeltier

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Reconfiguration is what a Reconfigure call has found to be different. The names
// are sorted.
type Reconfiguration struct {
	// Added are models that are new, Removed those that are no more.
	Added, Removed []string
	// Replaced are models whose weights, sizes or labels are others: they leave
	// memory and are loaded anew. Changed are those that only have other
	// capabilities, another quality or home, or are pinned or not.
	Replaced, Changed []string
	// Limits are others.
	Limits bool
}

// Reconfigure has the Manager go by other models and limits than those that it was
// made with, or last given here: it does what is different. Of what is the same
// nothing is touched, neither leases nor what is resident. What was changed while
// running stays changed where the configuration says what it said before: models
// that were hot loaded or removed, home tiers, limits.
//
// It does not wait for the models. A model that is replaced or removed takes no
// new leases, and leaves memory when those that are held have ended; requests for
// one that is replaced wait for that and get the new one. At no time are both in
// memory; bytes of the old one that are still seen there are waited for, 10 s at
// most. One that is removed is not found from now on. New models come home in
// the background, as far as there is room. The library keeps its order; what is
// new stands last.
//
// It does wait for the limits, which come first: where they are refused
// (ErrLimits), or anything else of the configuration is wrong, nothing has changed.
func (m *Manager) Reconfigure(ctx context.Context, models []tier.Model, limits tier.Limits) (Reconfiguration, error) {
	cfg := Config{Models: slices.Clone(models), Limits: limits}
	if err := cfg.fill(); err != nil {
		return Reconfiguration{}, fmt.Errorf("modeltier: %w", err)
	}
	changed, err := ask(ctx, m, func(_ time.Time, reply func(bool, error)) { m.ctl.relimit(cfg.Limits, reply) })
	if err != nil {
		return Reconfiguration{}, err
	}
	r, err := ask(ctx, m, func(now time.Time, reply func(Reconfiguration, error)) {
		m.ctl.reconfigure(byName(cfg.Models), cfg.Models, now, reply)
	})
	r.Limits = changed
	return r, err
}

// byName returns the models by their names.
func byName(models []tier.Model) map[string]tier.Model {
	all := make(map[string]tier.Model, len(models))
	for _, m := range models {
		all[m.Name] = m
	}
	return all
}

// relimit sets the limits where the configuration says others than before.
func (c *control) relimit(l tier.Limits, reply func(changed bool, err error)) {
	if l == c.kept.limits {
		reply(false, nil)
		return
	}
	// To setLimits zero is what is there; here it is nothing at all.
	none := tier.Limits{RAM: tier.None, Swap: tier.None, Reserved: tier.None, MaxModel: tier.None}
	c.setLimits(l.OrElse(none), func(_, _ tier.Limits, err error) {
		if err != nil {
			reply(false, err)
			return
		}
		c.m.post(func(time.Time) {
			c.kept.limits = l
			reply(true, nil)
		})
	})
}

func (c *control) reconfigure(next map[string]tier.Model, order []tier.Model, now time.Time, reply func(Reconfiguration, error)) {
	if c.stopping {
		reply(Reconfiguration{}, tier.ErrClosed)
		return
	}
	var r Reconfiguration
	for i := range order {
		c.adopt(&order[i], &r, now)
	}
	for name := range c.kept.configured {
		if _, stays := next[name]; stays {
			continue
		}
		if e, ok := c.core.Find(name); ok {
			c.core.Replace(e, nil, now)
			r.Removed = append(r.Removed, name)
		}
	}
	c.kept.configured = next
	for _, names := range [][]string{r.Added, r.Removed, r.Replaced, r.Changed} {
		slices.Sort(names)
	}
	c.m.log.Info("configured anew", "added", r.Added, "removed", r.Removed, "replaced", r.Replaced, "changed", r.Changed)
	state := c.state()
	c.after = append(c.after, func() { c.m.save.keep(state, func() { reply(r, nil) }) })
}

// adopt takes up what the configuration says of one model.
func (c *control) adopt(next *tier.Model, r *Reconfiguration, now time.Time) {
	said, before := c.kept.configured[next.Name]
	e, known := c.core.Find(next.Name)
	switch {
	case !known && before: // it was removed while running, and stays so
		return
	case !known:
		// No other model has the name, which is all that Add could find wrong.
		if err := c.core.Add([]tier.Model{*next}, c.m.newEntry, true); err == nil {
			r.Added = append(r.Added, next.Name)
		}
		return
	case !before: // it was hot loaded, or is about to leave
		said = e.Model
		said.Runtime = e.Declared() // and not what it was seen to take
	}
	home := next.Home
	if before && said.Home == home {
		home = e.Model.Home
	}
	m := *next
	m.Home = home
	switch {
	case otherWeights(&said, next) || !before && !e.Owned():
		c.core.Replace(e, &m, now)
		r.Replaced = append(r.Replaced, m.Name)
	case otherwise(&said, next):
		was := e.Model
		was.Capabilities, was.Quality, was.Pinned, was.Home = m.Capabilities, m.Quality, m.Pinned, m.Home
		c.core.Amend(e, was)
		r.Changed = append(r.Changed, m.Name)
	}
}

// otherWeights reports whether a model has to be loaded anew to be the other.
// Labels are among it, as a mover may go by them.
func otherWeights(a, b *tier.Model) bool {
	return a.Path != b.Path || a.Size != b.Size || a.Runtime != b.Runtime || !maps.Equal(a.Labels, b.Labels)
}

// otherwise reports whether two models of the same weights differ.
func otherwise(a, b *tier.Model) bool {
	return a.Home != b.Home || a.Quality != b.Quality || a.Pinned != b.Pinned || !slices.Equal(a.Capabilities, b.Capabilities)
}
