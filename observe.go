package modeltier

import (
	"context"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// mostBlind is how many looks may be on their way that did not return in time.
// With more the mover is not asked again until one does: each holds a goroutine.
const mostBlind = 16

// observe asks the mover what it sees of a model, as far as it can see, and waits
// for it for twice limit at most. What was moved is looked at though the Manager
// is being closed.
func (m *Manager) observe(name string, limit time.Duration) (core.Seen, error) {
	switch {
	case m.resident == nil && m.footprinter == nil:
		return core.Seen{}, nil
	case m.blind.Load() >= mostBlind:
		return core.Seen{}, &tier.StuckError{What: "A look of the mover's"}
	}
	type look struct {
		seen core.Seen
		err  error
	}
	told := make(chan look, 1) // a mover that is stuck may answer much later
	err := m.callIn(context.WithoutCancel(m.ctx), "mover", limit, func(ctx context.Context) error {
		var l look
		if m.footprinter != nil {
			l.seen.Taken, l.seen.Peak, _ = m.footprinter.Footprint(name)
		}
		if m.resident != nil {
			l.seen.Present, l.seen.Reclaimable, l.err = m.resident.Resident(ctx, name)
		}
		told <- l
		return nil
	}, func() { m.blind.Add(-1) })
	switch err.(type) {
	case nil:
		l := <-told
		return l.seen, l.err
	case *tier.StuckError:
		m.blind.Add(1)
	}
	return core.Seen{}, err
}

// observeAgain looks again at models whose bytes were to be gone and were still
// seen, and at those that were used and may take more than before.
func (c *control) observeAgain() {
	if c.m.resident == nil && c.m.footprinter == nil {
		return
	}
	for _, e := range c.core.Leftovers() {
		c.look(e)
	}
	if c.m.footprinter == nil {
		return
	}
	for _, e := range c.core.Entries() {
		if e.Tier() != tier.RAM {
			continue
		}
		if uses := e.Gate.Uses(); e.Gate.Leases() > 0 || uses != shared(e).seenUses {
			shared(e).seenUses = uses
			c.look(e)
		}
	}
}

// look has one model observed, and tells the core. What was seen of a model that
// has moved meanwhile is of no use.
func (c *control) look(e *core.Entry) {
	s, name, since := shared(e), e.Model.Name, e.Since()
	if s.observing {
		return
	}
	s.observing = true
	c.m.goroutines.Go(func() {
		seen, err := c.m.observe(name, observation)
		c.m.post(func(time.Time) {
			s.observing = false
			if err != nil || !e.Since().Equal(since) {
				return
			}
			runtime := e.Model.Runtime
			c.core.Observed(e, seen)
			c.corrected(e, runtime)
		})
	})
}

// corrected says so where a model was seen to take more than was known.
func (c *control) corrected(e *core.Entry, runtime tier.Bytes) {
	if e.Model.Runtime > runtime {
		c.m.log.Warn("a model takes more memory than was declared", "model", e.Model.Name,
			"declared", e.Model.Size.Plus(e.Declared()), "takes", e.Model.Size.Plus(e.Model.Runtime), "not charged", e.Overdraft())
	}
}

// giveBack has idle models leave for those that take more than was set aside for
// them.
func (c *control) giveBack() {
	over := c.core.Overdraft() - c.core.Promise().Leaving
	if over <= 0 {
		return
	}
	if given := c.shed(over); given > 0 {
		c.m.log.Warn("models take more than was declared, idle ones give way", "not charged", over, "found", given)
	}
}
