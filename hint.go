package modeltier

import (
	"context"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Hint tells the placement that, with that probability, model will be asked for
// within that time: a caller that knows what comes next (a pipeline, an agent, an
// open page) saves others the wait. It is advice: the placement weighs it by how
// often hints came true, and one that does not listen (tier.Hinter) ignores it.
// probability is above 0 and 1 at most, within is positive and a day at most; a
// model that is not known gives ErrNotFound. Hint does not wait for anything.
func (m *Manager) Hint(model string, probability float64, within time.Duration) error {
	switch {
	case m.closing.Load():
		return tier.ErrClosed
	case !(probability > 0 && probability <= 1):
		return &tier.InvalidError{Model: model, Field: "probability", Value: fmt.Sprint(probability), Rule: "must be above 0, and 1 at most"}
	case within <= 0 || within > 24*time.Hour:
		return &tier.InvalidError{Model: model, Field: "within", Value: within.String(), Rule: "must be positive, and a day at most"}
	}
	lib := m.snap.Load().view.Library
	if _, ok := lib.Find(model); !ok {
		return &tier.NotFoundError{What: "model", Name: model, Nearby: tier.Nearest(model, lib.Names(lib.Len()))}
	}
	m.post(func(now time.Time) { m.ctl.hint(model, probability, within, now) })
	return nil
}

// hint tells the placement, and asks it what to do about it.
func (c *control) hint(model string, probability float64, within time.Duration, now time.Time) {
	h, ok := c.m.cfg.Placement.(tier.Hinter)
	if !ok || c.planStuck || c.stopping {
		return
	}
	c.readAccesses()
	c.teach()
	c.placementFailed(c.m.callFor("placement", planLimit, func(context.Context) error {
		h.Hint(model, probability, within, now)
		return nil
	}, c.placementBack))
	c.core.AskIdle(nil, c.now)
}
