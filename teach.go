package modeltier

import (
	"context"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// used notes that a model was asked for.
func (c *control) used(e *entry, at time.Time) {
	c.usedSince = true
	if at.After(e.core.LastUse) {
		e.core.LastUse = at
	}
	if len(c.learners) > 0 {
		c.uses = append(c.uses, tier.Access{Model: e.core.Model.Name, At: at})
		if len(c.uses) >= 4*accessRingSize {
			c.teach()
		}
	}
}

// readAccesses takes up the accesses that passed the gates.
func (c *control) readAccesses() {
	c.m.accesses.read(c.used)
}

// mostOutcomes bounds the reports that wait for the loop, and those that wait to be
// told.
const mostOutcomes = 1024

// report hands an outcome to the loop.
func (m *Manager) report(o tier.Outcome) {
	if len(m.ctl.reporters) == 0 { // set before the loop starts, and never again
		return
	}
	if m.reports.Add(1) > mostOutcomes || !m.post(func(time.Time) {
		m.reports.Add(-1)
		m.ctl.reported(o)
	}) {
		m.reports.Add(-1)
	}
}

func (c *control) reported(o tier.Outcome) {
	if len(c.reporters) > 0 && len(c.outcomes) < mostOutcomes {
		c.outcomes = append(c.outcomes, o)
	}
}

// teach tells those who learn what happened since they were last told. While one
// of them is stuck nobody is told, and nothing is kept for later.
func (c *control) teach() {
	if len(c.uses) == 0 && len(c.moved) == 0 && len(c.outcomes) == 0 {
		return
	}
	slices.SortStableFunc(c.uses, func(a, b tier.Access) int { return a.At.Compare(b.At) })
	uses, moved, outcomes := c.uses, c.moved, c.outcomes
	for _, l := range c.learners {
		c.tell(func() {
			l.Accessed(uses)
			l.Moved(moved)
		})
	}
	for _, r := range c.reporters {
		c.tell(func() { r.Reported(outcomes) })
	}
	if c.planStuck {
		c.uses, c.moved, c.outcomes = nil, nil, nil // they are the part's until it returns
		return
	}
	clear(moved)
	clear(outcomes)
	c.uses, c.moved, c.outcomes = uses[:0], moved[:0], outcomes[:0]
}

// tell calls a learner, unless one is stuck.
func (c *control) tell(fn func()) {
	if !c.planStuck {
		c.placementFailed(c.m.callFor("learner", planLimit, func(context.Context) error { fn(); return nil }, c.placementBack))
	}
}
