package modeltier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// Reconfiguration is what a Reconfigure call has found to be different. The names
// are sorted.
type Reconfiguration struct {
	// Added are models that are new, Removed those that are no more.
	Added, Removed []string
	// Replaced are models whose weights (tier.Model.Version), sizes or labels are others: they leave
	// memory and are loaded again. Changed are those that only have other
	// capabilities, another quality, home or KeepAlive, or are pinned or not.
	Replaced, Changed []string
	// Limits are others.
	Limits bool
}

// Reconfigure replaces the models and limits that the Manager was made with, or was
// last given here, and carries out the difference. Models that are the same are not
// touched, neither their leases nor what is resident. What was changed while
// running stays changed where the configuration says what it said before: models
// that were hot loaded or removed, home tiers, pins, limits. Aliases stay; a new model
// whose name is one is refused (ErrExists).
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
	cfg := Config{Models: models, Limits: limits, ModelDir: m.cfg.ModelDir, Follow: m.cfg.Follow}
	if err := cfg.fill(); err != nil {
		return Reconfiguration{}, fmt.Errorf("modeltier: %w", err)
	}
	if m.closing.Load() {
		return Reconfiguration{}, tier.ErrClosed
	}
	traits, err := m.traits(ctx, cfg.Models, nil)
	if err != nil {
		return Reconfiguration{}, fmt.Errorf("modeltier: %w", err)
	}
	changed, err := ask(ctx, m, func(_ time.Time, reply func(bool, error)) {
		if err := m.ctl.hidden(cfg.Models); err != nil {
			reply(false, err)
			return
		}
		m.ctl.relimit(cfg.Limits, reply)
	})
	if err != nil {
		return Reconfiguration{}, err
	}
	r, err := ask(ctx, m, func(now time.Time, reply func(Reconfiguration, error)) {
		m.ctl.reconfigure(cfg.Models, traits, now, reply)
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
	if l == c.keeping.limits {
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
			c.keeping.limits = l
			reply(true, nil)
		})
	})
}

func (c *control) reconfigure(models []tier.Model, traits []core.Traits, now time.Time, reply func(Reconfiguration, error)) {
	if c.stopping {
		reply(Reconfiguration{}, tier.ErrClosed)
		return
	}
	if err := c.hidden(models); err != nil { // an alias that came meanwhile
		reply(Reconfiguration{}, err)
		return
	}
	d := c.core.Reconfigure(models, traits, c.newGate, now)
	r := Reconfiguration{Added: d.Added, Removed: d.Removed, Replaced: d.Replaced, Changed: d.Changed}
	c.m.log.Info("reconfigured", "added", len(r.Added), "removed", len(r.Removed), "replaced", len(r.Replaced), "changed", len(r.Changed))
	c.keep(func() { reply(r, nil) })
}

// hidden returns an error for every model that would come under a name that is an alias.
// One that was removed while running does not come.
func (c *control) hidden(models []tier.Model) error {
	var errs []error
	for i := range models {
		name := models[i].Name
		of, taken := c.core.Aliases()[name]
		if _, before := c.core.Configured()[name]; taken && !before {
			errs = append(errs, fmt.Errorf("modeltier: %w", &tier.ExistsError{Model: name, Of: of}))
		}
	}
	return errors.Join(errs...)
}
