package modeltier

import (
	"context"
	"log/slog"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// maxStuckObservations caps observations of one mover that have outlived their timeout.
// With more it is not asked again until one returns: each holds a goroutine.
const maxStuckObservations = 16

// askMover has a mover asked what it sees, or told to drop what is cached, which ends
// as callFor does. It is not asked where most such calls are stuck: gaveUp is true then,
// too.
func (m *Manager) askMover(ctx context.Context, mv *mover, most int32, limit time.Duration, fn func(context.Context) error) (gaveUp bool, err error) {
	if mv.stuck.Load() >= most {
		return true, &tier.StuckError{What: "An observation of the " + mv.plugin.name}
	}
	gaveUp, err = m.callFor(ctx, mv.plugin.name, limit, fn, func() { mv.stuck.Add(-1) })
	if gaveUp {
		mv.stuck.Add(1)
	}
	return gaveUp, err
}

// look is what a mover says of a model.
type look struct {
	seen   core.Seen
	traits *core.Traits
}

// look asks a model's mover what it sees of a model, as far as it can see, and what it
// can do with it. It waits for twice limit at most. A model that was moved is
// looked at though the Manager is being closed.
func (m *Manager) look(model *tier.Model, limit time.Duration) (look, error) {
	told := make(chan look, 1) // a mover that is stuck may answer much later
	mv := m.moverOf(model)
	gaveUp, err := m.askMover(context.WithoutCancel(m.ctx), mv, maxStuckObservations, limit, func(ctx context.Context) (err error) {
		l := look{traits: mv.traitsOf(model)}
		if mv.footprinter != nil {
			l.seen.Taken, l.seen.Peak, _ = mv.footprinter.Footprint(model.Name)
		}
		if mv.resident != nil {
			if l.seen.Present, l.seen.Reclaimable, err = mv.resident.Resident(ctx, model.Name); err != nil {
				l.seen.Present, l.seen.Reclaimable = 0, 0
			}
		}
		if mv.cacher != nil {
			var fault error
			l.seen.Cached, fault = mv.cacher.Cached(ctx, model.Name)
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
func (m *mover) traitsOf(model *tier.Model) *core.Traits {
	t := core.Traits{Observed: m.resident != nil}
	if d, ok := m.Mover.(tier.Divider); ok {
		t.Divisible = d.Divisible(model)
	}
	if l, ok := m.Mover.(tier.Leaver); ok {
		t.Leaves = l.Leaves(model)
	}
	if p, ok := m.Mover.(tier.InPlacer); ok {
		t.InPlace = p.InPlace(model)
	}
	if b, ok := m.Mover.(tier.FileBacker); ok {
		t.FileBacked = b.FileBacked()
	}
	if f, ok := m.Mover.(tier.Forecaster); ok {
		t.Takes, t.Seen = f.Forecast(model)
		t.Takes, t.Seen = min(max(t.Takes, 0), core.MaxSeen), min(max(t.Seen, 0), core.MaxSeen)
	}
	return &t
}

// traits asks the movers what they can do with the models, and whether they can move them
// at all: faults are by model. A mover that does not answer is an error. It is not for
// the loop.
func (m *Manager) traits(ctx context.Context, models []tier.Model) (traits []core.Traits, faults []error, err error) {
	traits, faults = make([]core.Traits, len(models)), make([]error, len(models))
	of := make(map[*mover][]int)
	for i := range models {
		mv := m.moverOf(&models[i])
		of[mv] = append(of[mv], i)
	}
	for mv, list := range of {
		type told struct {
			traits core.Traits
			fault  error
		}
		answers := make([]told, len(list)) // the call's own: one that is stuck may write to it much later
		limit := adviceLimit + time.Duration(len(list))*10*time.Millisecond
		err := mv.plugin.wait(ctx, limit, func(context.Context) error {
			for k, i := range list {
				if c, ok := mv.Mover.(tier.ModelChecker); ok {
					answers[k].fault = seal(c.CheckModel(&models[i]))
				}
				answers[k].traits = *mv.traitsOf(&models[i])
			}
			return nil
		})
		if err != nil {
			return nil, faults, err
		}
		for k, i := range list {
			traits[i], faults[i] = answers[k].traits, answers[k].fault
		}
	}
	m.markOldStays(models, traits)
	return traits, faults, nil
}

// fileBacked reports whether the swap-tier weights of some mover need no swap device. It
// is not for the loop.
func (m *Manager) fileBacked(ctx context.Context) (bool, error) {
	for _, mv := range m.movers.Load().each() {
		b, ok := mv.Mover.(tier.FileBacker)
		if !ok {
			continue
		}
		backed := new(bool)
		err := mv.plugin.wait(ctx, adviceLimit, func(context.Context) error { *backed = b.FileBacked(); return nil })
		if err != nil || *backed {
			return err == nil, err
		}
	}
	return false, nil
}

// observeAgain looks again at models that have cached bytes, at those whose bytes were
// to be gone and were still seen, and at those that were used and may take more than
// before, as far as their movers can tell.
func (c *control) observeAgain() {
	c.observeCached()
	for _, e := range c.core.Residues() {
		if mv := c.m.moverOf(&e.Model); mv.resident != nil || mv.footprinter != nil {
			c.observe(e)
		}
	}
	for _, e := range c.core.Entries() {
		if e.Tier() != tier.RAM || c.m.moverOf(&e.Model).footprinter == nil {
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
