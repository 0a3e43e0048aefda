package modeltier

import (
	"context"
	"errors"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/internal/wire"
	"github.com/modeltier/modeltier/tier"
)

// task is an order on its way, and the job that stands for it.
type task struct {
	work *hotload.Work
	stop func() bool // ends the watch for the job's cancellation
}

func orderTask(o *core.Order) (*task, bool) {
	if o == nil {
		return nil, false
	}
	t, ok := o.Data.(*task)
	return t, ok
}

// ask has the loop run fn and waits for it to call back, with what it got or an
// error.
func ask[T any](ctx context.Context, m *Manager, fn func(now time.Time, reply func(T, error))) (T, error) {
	type result struct {
		v   T
		err error
	}
	answer := make(chan result, 1)
	var none T
	if m.closing.Load() || !m.post(func(now time.Time) {
		fn(now, func(v T, err error) { answer <- result{v, err} })
	}) {
		return none, tier.ErrClosed
	}
	select {
	case r := <-answer:
		return r.v, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	case <-m.loopDone:
	}
	select {
	case r := <-answer:
		return r.v, r.err
	default:
		return none, tier.ErrClosed
	}
}

// HotLoad adds a model while the Manager runs and brings it to its home tier;
// idle models make room for it where they must. The model is known at once and
// is served as soon as it is there. The job ends when the model is in its home
// tier and, with a StateDir, kept across restarts; when it fails, the model is
// not in the library. ctx bounds the call, not the job.
//
// What can be seen to be wrong is an error at once: an invalid model (ErrInvalid),
// a file that is empty, truncated or broken (hotload.FileError), or a name that is
// taken (ErrExists). A model that is too large (ErrTooLarge)
// or cannot be served safely now (ErrNoCapacity) is a job that fails.
func (m *Manager) HotLoad(ctx context.Context, model tier.Model) (*Job, error) {
	model, err := measure(model)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(model.Validate(), inspect(&model)); err != nil {
		return nil, err
	}
	return ask(ctx, m, func(now time.Time, reply func(*Job, error)) { m.ctl.hotLoad(model, now, reply) })
}

func (c *control) hotLoad(model tier.Model, now time.Time, reply func(*Job, error)) {
	if c.stopping {
		reply(nil, tier.ErrClosed)
		return
	}
	if _, taken := c.core.Library().Find(model.Name); taken {
		reply(nil, &tier.ExistsError{Model: model.Name})
		return
	}
	mv := tier.Move{Model: model, To: model.Home}
	work := c.m.jobs.Start(c.m.ctx, hotload.Spec{
		Kind: hotload.KindLoad, Model: model.Name, From: tier.Storage, To: model.Home,
		Total: model.Size, Estimate: c.estimate(&mv, model.Size),
	})
	if err := c.unsafe(&model); err != nil {
		work.Finish(err)
		reply(work.Job(), nil)
		return
	}
	if err := c.core.Add([]tier.Model{model}, c.m.newEntry, false); err != nil {
		work.Finish(err)
		reply(nil, err)
		return
	}
	e, _ := c.core.Find(model.Name)
	c.core.Load(c.order(core.HotLoad, e, model.Home, work), now)
	c.after = append(c.after, func() { reply(work.Job(), nil) })
}

// unsafe returns why the model could not be served now.
func (c *control) unsafe(model *tier.Model) error {
	if limit := c.core.View(c.now).Limits.MaxModel; model.Size > limit {
		return wire.TooLargeToLoad(model, limit)
	}
	if model.Home == tier.Storage {
		return nil
	}
	v := c.core.View(c.now)
	v.Library = v.Library.With(*model)
	mover := c.core.Describe(model)
	v.States = append(v.States, mover)
	snap := &snapshot{view: v, entries: make([]*entry, len(v.States)), inUse: c.inUse()}
	_, err := c.m.chooseMakingRoom(&tier.Request{Model: model.Name}, snap)
	ce, ok := errors.AsType[*tier.CapacityError](err)
	if !ok {
		return err
	}
	return wire.UnsafeToLoad(model, ce, &v)
}

// order makes an order of the core's that the job stands for and can cancel.
func (c *control) order(kind core.OrderKind, e *core.Entry, to tier.Tier, work *hotload.Work) *core.Order {
	o := &core.Order{Kind: kind, Entry: e, To: to}
	t := &task{work: work}
	o.Data = t
	t.stop = context.AfterFunc(work.Context(), func() {
		c.m.post(func(now time.Time) { c.core.CancelOrder(o, context.Cause(work.Context()), now) })
	})
	return o
}

// orderDone ends an order's job; where the order changed what is to be kept,
// once it is kept.
func (c *control) orderDone(o *core.Order, err error) {
	t, ok := orderTask(o)
	if !ok {
		return
	}
	t.stop()
	if err != nil {
		c.after = append(c.after, func() { t.work.Finish(err) })
		return
	}
	state := c.state()
	c.after = append(c.after, func() { c.m.save.keep(state, func() { t.work.Finish(nil) }) })
}

// MoveTier starts to move a model to another tier at its owner's wish; that tier
// is its home from the job's success on. It makes no room for itself: where the
// model does not fit beside those that are there it returns ErrNoCapacity, or
// ErrTooLarge, and where it is leased, awaited or moving, ErrInUse.
func (m *Manager) MoveTier(ctx context.Context, name string, to tier.Tier) (*Job, error) {
	if !to.Valid() {
		_, err := tier.ParseTier(to.String())
		return nil, err
	}
	return ask(ctx, m, func(_ time.Time, reply func(*Job, error)) {
		m.ctl.try(name, reply, func(e *core.Entry, now time.Time) (*Job, error) {
			// By home, which is what the tiers of the contract are; by residence where
			// only that differs.
			from := e.Model.Home
			if from == to {
				from = e.Tier()
			}
			kind := hotload.KindPromote
			if to < from {
				kind = hotload.KindDemote
			}
			mv := tier.Move{Model: e.Model, From: from, To: to}
			return m.ctl.start(e, core.MoveTier, kind, &mv, now, m.ctl.core.MoveTo)
		})
	})
}

// Remove starts to take a model out of memory and out of the library. A model
// that is leased, awaited or moving gives ErrInUse. With a StateDir, a model of
// Config.Models that was removed stays removed.
func (m *Manager) Remove(ctx context.Context, name string) (*Job, error) {
	return ask(ctx, m, func(_ time.Time, reply func(*Job, error)) {
		m.ctl.try(name, reply, func(e *core.Entry, now time.Time) (*Job, error) {
			mv := tier.Move{Model: e.Model, From: e.Tier(), To: tier.Storage}
			return m.ctl.start(e, core.Remove, hotload.KindRemove, &mv, now, m.ctl.core.Drop)
		})
	})
}

// try runs start for the entry of that name, and again after the next reading
// where it cannot decide without.
func (c *control) try(name string, reply func(*Job, error), start func(*core.Entry, time.Time) (*Job, error)) {
	attempt := func(now time.Time) (done bool) {
		e, ok := c.core.Find(name)
		if !ok || c.stopping {
			err := error(&tier.NotFoundError{What: "model", Name: name, Nearby: tier.Nearest(name, c.core.Library().Names(c.core.Library().Len()))})
			if c.stopping {
				err = tier.ErrClosed
			}
			reply(nil, err)
			return true
		}
		job, err := start(e, now)
		if core.IsReading(err) {
			return false
		}
		c.after = append(c.after, func() { reply(job, err) })
		return true
	}
	if !attempt(c.now) {
		c.tasks = append(c.tasks, attempt)
	}
}

// start gives an order to the core and makes the job for it.
func (c *control) start(e *core.Entry, kind core.OrderKind, job hotload.Kind, mv *tier.Move, now time.Time, give func(*core.Order, time.Time) error) (*Job, error) {
	// The job is made once the order is accepted; it may be done by then.
	o := &core.Order{Kind: kind, Entry: e, To: mv.To}
	t := &task{stop: func() bool { return true }}
	o.Data = t
	spec := hotload.Spec{Kind: job, Model: mv.Model.Name, From: mv.From, To: mv.To}
	spec.Estimate = c.estimate(mv, mv.Model.Size)
	if err := give(o, now); err != nil {
		return nil, err
	}
	t.work = c.m.jobs.Start(c.m.ctx, spec)
	t.stop = context.AfterFunc(t.work.Context(), func() {
		c.m.post(func(now time.Time) { c.core.CancelOrder(o, context.Cause(t.work.Context()), now) })
	})
	return t.work.Job(), nil
}

// Job returns the job of that ID. The last 1024 jobs that ended are remembered,
// and all that run.
func (m *Manager) Job(id string) (*Job, bool) { return m.jobs.Get(id) }

type limitsReply func(old, now tier.Limits, err error)

// UpdateLimits changes the limits, all of them or none. A zero field keeps its
// value. Lowering a limit below what is resident lets idle models leave first;
// where they cannot, it is refused with an error (ErrLimits) that names who
// would have to. A Manager whose limits keep the floors of tier.FloorRAM,
// FloorSwap and FloorReserved is not lowered beneath them; one that was made
// smaller has no floor but zero. It returns the limits before and after.
func (m *Manager) UpdateLimits(ctx context.Context, l tier.Limits) (old, now tier.Limits, err error) {
	type pair struct{ old, now tier.Limits }
	p, err := ask(ctx, m, func(_ time.Time, reply func(pair, error)) {
		m.ctl.setLimits(l, func(old, now tier.Limits, err error) { reply(pair{old, now}, err) })
	})
	return p.old, p.now, err
}

func (c *control) setLimits(l tier.Limits, reply limitsReply) {
	ledger := c.core.Ledger()
	old := ledger.Limits()
	l = l.OrElse(old)
	err := l.Validate()
	if err == nil {
		err = l.CheckFloors(c.m.cfg.Limits)
	}
	if err == nil && c.stopping {
		err = tier.ErrClosed
	}
	if err == nil {
		err = c.core.SetLimits(l.Settled())
	}
	if err != nil {
		reply(old, old, err)
		return
	}
	c.limits = append(c.limits, reply)
}

func (c *control) limitsDone(a core.LimitsDone) {
	replies := c.limits
	c.limits = nil
	answer := func() {
		for _, reply := range replies {
			if a.Err != nil {
				reply(a.Old, a.Old, a.Err)
			} else {
				reply(a.Old, a.Now, nil)
			}
		}
	}
	if a.Err != nil {
		c.after = append(c.after, answer)
		return
	}
	c.m.log.Info("limits changed", "old", a.Old, "now", a.Now)
	if fn := c.m.cfg.Events.LimitsChanged; fn != nil {
		c.m.event(func() { fn(a.Old, a.Now) })
	}
	state := c.state()
	c.after = append(c.after, func() { c.m.save.keep(state, answer) })
}

// Optimization is what an Optimize call set going.
type Optimization struct {
	// Steps are the moves, in order. Each begins when there is room for it and
	// nobody waits; a request that comes in between ends the rest.
	Steps []tier.Step
}

// Optimize asks the placement, by what is known of use, what is worth moving
// though nobody waits, and starts it. It returns what it has started; nothing
// where requests wait or moves for them are under way.
func (m *Manager) Optimize(ctx context.Context) (Optimization, error) {
	return ask(ctx, m, func(now time.Time, reply func(Optimization, error)) {
		o := &optimizing{reply: reply}
		if m.ctl.stopping || !m.ctl.core.AskIdle(o, now) {
			reply(Optimization{}, nil)
		}
	})
}

type optimizing struct{ reply func(Optimization, error) }

func (o *optimizing) done(c *control, steps []tier.Step, err error) {
	c.after = append(c.after, func() { o.reply(Optimization{Steps: steps}, err) })
}
