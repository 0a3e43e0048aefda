package modeltier

import (
	"context"
	"log/slog"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// maxStuckObservations caps observations that have outlived their timeout. With
// more the mover is not asked again until one returns: each holds a goroutine.
const maxStuckObservations = 16

// askMover has the mover asked what it sees, or told to drop what is cached, which ends
// as callFor does. It is not asked where maxStuckObservations are stuck: gaveUp is true
// then, too.
func (m *Manager) askMover(ctx context.Context, limit time.Duration, fn func(context.Context) error) (gaveUp bool, err error) {
	if m.stuckLooks.Load() >= maxStuckObservations {
		return true, &tier.StuckError{What: "An observation of the mover's"}
	}
	gaveUp, err = m.callFor(ctx, "mover", limit, fn, func() { m.stuckLooks.Add(-1) })
	if gaveUp {
		m.stuckLooks.Add(1)
	}
	return gaveUp, err
}

// look is what a mover says of a model.
type look struct {
	seen   core.Seen
	traits *core.Traits
}

// look asks the mover what it sees of a model, as far as it can see, and what it
// can do with it. It waits for twice limit at most. A model that was moved is
// looked at though the Manager is being closed.
func (m *Manager) look(model *tier.Model, limit time.Duration) (look, error) {
	told := make(chan look, 1) // a mover that is stuck may answer much later
	gaveUp, err := m.askMover(context.WithoutCancel(m.ctx), limit, func(ctx context.Context) (err error) {
		l := look{traits: m.traitsOf(model)}
		if m.footprinter != nil {
			l.seen.Taken, l.seen.Peak, _ = m.footprinter.Footprint(model.Name)
		}
		if m.resident != nil {
			if l.seen.Present, l.seen.Reclaimable, err = m.resident.Resident(ctx, model.Name); err != nil {
				l.seen.Present, l.seen.Reclaimable = 0, 0
			}
		}
		if m.cacher != nil {
			var fault error
			l.seen.Cached, fault = m.cacher.Cached(ctx, model.Name)
			l.seen.CachedTold = fault == nil
		}
		told <- l
		return err
	})
	if gaveUp {
		return look{}, err
	}
	select {
	case l := <-told:
		return l, err
	default: // it panicked
		return look{}, err
	}
}

// traitsOf asks the mover what it can do with a model. It calls foreign code.
func (m *Manager) traitsOf(model *tier.Model) *core.Traits {
	var t core.Traits
	if d, ok := m.cfg.Mover.(tier.Divider); ok {
		t.Divisible = d.Divisible(model)
	}
	if l, ok := m.cfg.Mover.(tier.Leaver); ok {
		t.Leaves = l.Leaves(model)
	}
	if p, ok := m.cfg.Mover.(tier.InPlacer); ok {
		t.InPlace = p.InPlace(model)
	}
	if f, ok := m.cfg.Mover.(tier.Forecaster); ok {
		t.Takes, t.Seen = f.Forecast(model)
		t.Takes, t.Seen = min(max(t.Takes, 0), core.MaxSeen), min(max(t.Seen, 0), core.MaxSeen)
	}
	return &t
}

// traits asks the mover what it can do with the models. faults has why it cannot move
// them at all, nil for each that it can. It is not for the loop.
func (m *Manager) traits(ctx context.Context, models []tier.Model, fileBacked func(bool)) (out []core.Traits, faults []error, err error) {
	backed := false
	limit := adviceLimit + time.Duration(len(models))*10*time.Millisecond
	err = m.mover.wait(ctx, limit, func(context.Context) error {
		own, wrong := make([]core.Traits, len(models)), make([]error, len(models))
		for i := range models {
			if c, ok := m.cfg.Mover.(tier.ModelChecker); ok {
				wrong[i] = c.CheckModel(&models[i])
			}
			own[i] = *m.traitsOf(&models[i])
		}
		if f, ok := m.cfg.Mover.(tier.FileBacker); ok {
			backed = f.FileBacked()
		}
		out, faults = own, wrong
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if fileBacked != nil {
		fileBacked(backed)
	}
	return out, faults, nil
}

// observeAgain looks again at models that have cached bytes, at those whose bytes were
// to be gone and were still seen, and at those that were used and may take more than
// before.
func (c *control) observeAgain() {
	c.observeCached()
	if c.m.resident == nil && c.m.footprinter == nil {
		return
	}
	for _, e := range c.core.Residues() {
		c.observe(e)
	}
	if c.m.footprinter == nil {
		return
	}
	for _, e := range c.core.Entries() {
		if e.Tier() != tier.RAM {
			continue
		}
		s := c.shared[e]
		if uses := e.Gate.Uses(); e.Gate.Leases() > 0 || uses != s.seenUses {
			s.seenUses = uses
			c.observe(e)
		}
	}
}

// observe has one model looked at, and tells the core. What was seen of a model
// that has moved meanwhile is of no use.
func (c *control) observe(e *core.Entry) {
	s, model, since, epoch := c.shared[e], e.Model, e.Since(), e.Epoch()
	if s.observing {
		return
	}
	s.observing = true
	c.m.goroutines.Go(func() {
		l, err := c.m.look(&model, observeLimit)
		c.m.post(func(time.Time) {
			s.observing = false
			if err != nil || !e.Since().Equal(since) || e.Epoch() != epoch {
				return
			}
			runtime := e.Model.Runtime
			c.core.Observed(e, l.seen)
			c.corrected(e, runtime)
		})
	})
}

// grownShare is the share of what was last told by which a model has to take more before
// that is told again.
const grownShare = 16

// corrected says so where a model was seen to take more than was declared, or expected of
// one whose owner declared nothing.
func (c *control) corrected(e *core.Entry, runtime tier.Bytes) {
	s, takes := c.shared[e], e.Model.Size.Plus(e.Model.Runtime)
	if e.Model.Runtime <= runtime || takes <= s.warned.Plus(s.warned/grownShare) {
		return
	}
	s.warned = takes
	level, message, known := slog.LevelWarn, "a model takes more memory than was declared", e.Declared()
	if known == 0 {
		level, message, known = slog.LevelInfo, "a model takes more memory than was expected", runtime
	}
	c.m.log.Log(context.Background(), level, message, "model", e.Model.Name,
		"known", e.Model.Size.Plus(known), "takes", takes, "not charged", e.Overdraft())
}
