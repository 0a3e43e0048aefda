package modeltier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Reconfiguration is what a Reconfigure call has found to be different. The names
// are sorted.
type Reconfiguration struct {
	// Added are models that are new, Removed those that are no more.
	Added, Removed []string
	// Replaced are models whose weights (tier.Model.Version), sizes, labels or movers are
	// others: they leave memory, by the mover that they had, and are loaded again. Changed
	// are those that only have other capabilities, another quality, home or KeepAlive, or
	// are pinned or not.
	Replaced, Changed []string
	// Limits are others.
	Limits bool
}

// Reconfigure replaces the models and limits that the Manager was made with, or was
// last given here, and carries out the difference. Models that are the same are not
// touched, neither their leases nor what is resident. What was changed while
// running stays changed where the configuration says what it said before: models
// that were hot loaded or removed, home tiers, pins, limits. Aliases stay; a new model
// whose name is one is refused (ErrExists). With Config.WatchModelDir the models of the
// folder, which is read again at once, come to those that are named.
//
// It does not wait for the models. A model that is replaced or removed takes no
// new leases, and leaves memory when those that are held have ended; requests for
// one that is replaced wait for that and get the new one. At no time are both in
// memory; bytes of the old one that are still seen there are waited for, 10 s at
// most. If the files of the old one stay, at another path, it is kept as an older version
// (tier.Model.VersionOf), the last three of a model, and those that aliases stand for; and
// a request that would fail because leases on it last for all of Config.MaxWait gets one on
// it as well. One that is removed is not found from now on. New models come home in
// the background, as far as there is room. The library keeps its order; what is
// new stands last.
//
// It does wait for the limits, which come first: where they are refused
// (ErrLimits), or anything else of the configuration is wrong, nothing has changed.
func (m *Manager) Reconfigure(ctx context.Context, models []tier.Model, limits tier.Limits) (Reconfiguration, error) {
	cfg := Config{Models: models, Limits: limits, ModelDir: m.cfg.ModelDir, Follow: m.cfg.Follow, Movers: make(map[string]tier.Mover)}
	for name, mv := range *m.movers.Load() {
		if name != "" {
			cfg.Movers[name] = mv
		}
	}
	if err := cfg.fill(); err != nil {
		return Reconfiguration{}, fmt.Errorf("modeltier: %w", err)
	}
	if m.closing.Load() {
		return Reconfiguration{}, tier.ErrClosed
	}
	release, err := m.library.take(ctx)
	if err != nil {
		return Reconfiguration{}, err
	}
	defer release()
	if w := m.library.watcher; w != nil {
		c, err := w.Scan(ctx)
		if err != nil {
			return Reconfiguration{}, fmt.Errorf("modeltier: %w", err)
		}
		m.logLeftOut(c.Skipped)
		m.library.apply(c)
	}
	return m.remake(ctx, cfg.Models, &cfg.Limits)
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

func (c *control) reconfigure(w *wanted, now time.Time, reply func(remade, error)) {
	if c.stopping {
		reply(remade{}, tier.ErrClosed)
		return
	}
	if err := c.aliased(w.models[:w.declared]); err != nil { // an alias that came meanwhile
		reply(remade{}, err)
		return
	}
	inUse := c.fit(w)
	d := c.core.Reconfigure(w.models, w.traits, now)
	r := Reconfiguration{Added: d.Added, Removed: d.Removed, Replaced: d.Replaced, Changed: d.Changed}
	for _, told := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"removed", r.Removed}, {"replaced", r.Replaced}, {"changed", r.Changed}} {
		if len(told.names) > 0 {
			c.m.log.Info("the library has changed", "how", told.what, "models", len(told.names), "first", told.names[:min(len(told.names), maxToldLeftOut)])
		}
	}
	c.keeping.found = w.names
	got := remade{r, c.core.Configured(), inUse, w.hidden}
	c.keep(func() { reply(got, nil) })
}

// aliased returns an error for every model that would come under a name that is an alias.
// One that was removed while running does not come.
func (c *control) aliased(models []tier.Model) error {
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
