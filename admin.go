package modeltier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/internal/wire"
	"github.com/modeltier/modeltier/tier"
)

// orderJob is the job that stands for an order on its way.
type orderJob struct {
	work *hotload.Work
	stop func() bool // ends the watch for the job's cancellation
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
// or cannot be served safely now (ErrNoCapacity) is a job that fails. A Mover,
// Placement or Selector that does not answer delays the call by two seconds each at
// most; then it goes on without the prediction, or fails with ErrStuck.
func (m *Manager) HotLoad(ctx context.Context, model tier.Model) (*Job, error) {
	gathered, errs := m.cfg.gather([]tier.Model{model})
	if errs[0] != nil {
		return nil, errs[0]
	}
	model, model.VersionOf = gathered[0], ""
	if err := errors.Join(model.Validate(), checkMover("mover", model.Name, model.Mover, *m.movers.Load()), inspect(&model)); err != nil {
		return nil, err
	}
	if m.closing.Load() {
		return nil, tier.ErrClosed
	}
	traits, faults, err := m.traits(ctx, []tier.Model{model})
	if err = cmp.Or(err, faults[0]); err != nil {
		return nil, err
	}
	candidate, err := ask(ctx, m, func(now time.Time, reply func(*snapshot, error)) {
		if err := m.ctl.core.Taken(model.Name); err != nil {
			reply(nil, err)
			return
		}
		v := m.ctl.core.ViewWith(model, traits[0], now)
		reply(&snapshot{view: v, entries: make([]*entry, len(v.States)), inUse: m.ctl.core.InUse(), outside: m.ctl.core.OutsideHolders()}, nil)
	})
	if err != nil {
		return nil, err
	}
	estimate := m.predict(tier.Move{Model: model, To: model.Home}, model.Size)
	unsafe := m.unsafe(ctx, &model, candidate)
	if _, stuck := errors.AsType[*tier.StuckError](unsafe); stuck {
		return nil, unsafe
	}
	spec := hotload.Spec{
		Kind: hotload.KindLoad, Model: model.Name, From: tier.Storage, To: model.Home, Total: model.Size, Estimate: estimate,
	}
	if unsafe != nil {
		work := m.jobs.Start(m.ctx, spec)
		work.Finish(unsafe)
		return work.Job(), nil
	}
	return ask(ctx, m, func(now time.Time, reply func(*Job, error)) { m.ctl.hotLoad(model, traits[0], spec, now, reply) })
}

// unsafe returns why the model could not be served now.
func (m *Manager) unsafe(ctx context.Context, model *tier.Model, candidate *snapshot) error {
	if limit := candidate.view.Limits.MaxModel; model.Size > limit {
		return wire.TooLargeToLoad(model, limit)
	}
	if model.Home == tier.Storage {
		return nil
	}
	err := m.selector.wait(ctx, adviceLimit, func(context.Context) error {
		_, err := m.chooseMakingRoom(&tier.Request{Model: model.Name}, candidate)
		return err
	})
	if ce, ok := errors.AsType[*tier.CapacityError](err); ok {
		return wire.UnsafeToLoad(model, ce, &candidate.view)
	}
	return err
}

func (c *control) hotLoad(model tier.Model, t core.Traits, spec hotload.Spec, now time.Time, reply func(*Job, error)) {
	if c.stopping {
		reply(nil, tier.ErrClosed)
		return
	}
	if err := c.core.Add([]tier.Model{model}, []core.Traits{t}, false); err != nil {
		reply(nil, err) // another took the name meanwhile
		return
	}
	work := c.m.jobs.Start(c.m.ctx, spec)
	e, _ := c.core.Find(model.Name)
	o := &core.Order{Kind: core.HotLoad, Entry: e, To: model.Home}
	c.orders[o] = &orderJob{work: work, stop: c.watchJob(o, work)}
	c.core.Load(o, now)
	c.after = append(c.after, func() { reply(work.Job(), nil) })
}

// watchJob has the order cancelled when its job is. The function that it returns
// ends that.
func (c *control) watchJob(o *core.Order, work *hotload.Work) func() bool {
	return context.AfterFunc(work.Context(), func() {
		cause := seal(context.Cause(work.Context()))
		c.m.post(func(now time.Time) { c.core.CancelOrder(o, cause, now) })
	})
}

// orderDone ends an order's job; where the order changed what is to be kept,
// once it is kept.
func (c *control) orderDone(o *core.Order, err error) {
	j := c.orders[o]
	if j == nil {
		return
	}
	delete(c.orders, o)
	j.stop()
	if err != nil {
		c.finish(j.work, err)
		return
	}
	if o.Kind == core.Remove && o.Entry.Cached() > 0 { // it was in storage, and not moved
		model := o.Entry.Model
		c.m.goroutines.Go(func() { c.m.forget(c.m.ctx, &model) })
	}
	c.keep(func() { j.work.Finish(nil) })
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
	if s, ok := m.Model(name); ok && s.Quarantine != nil && to > tier.Storage {
		if err := m.lookAgain(ctx, name); err != nil {
			return nil, err
		}
	}
	return m.order(ctx, name, func(s *ModelStatus) tier.Move {
		// By home, which is what the tiers of the contract are; by residence where
		// only that differs.
		from := s.Home
		if from == to {
			from = s.Tier
		}
		return tier.Move{From: from, To: to}
	}, core.MoveTier, func(c *control, o *core.Order, now time.Time) error { return c.core.MoveTo(o, now) })
}

// Remove starts to take a model out of memory and out of the library. A model
// that is leased, awaited or moving gives ErrInUse. With a StateDir, a model of
// Config.Models that was removed stays removed. An alias gives ErrInvalid: to take that
// away does not need the model to go.
func (m *Manager) Remove(ctx context.Context, name string) (*Job, error) {
	if s, ok := m.Model(name); ok && s.Name != name && (s.VersionOf == "" || s.isAlias(name)) {
		return nil, &tier.InvalidError{
			Field: "name", Value: strconv.Quote(name), Rule: "must be a model's own name to remove it: it is an alias of " + strconv.Quote(s.Name),
			Help: []string{
				"To remove the alias alone, set it to no model: \"alias\": {\"name\": " + strconv.Quote(name) + ", \"model_name\": null}.",
				"To remove the model, name " + strconv.Quote(s.Name) + ".",
			},
		}
	}
	return m.order(ctx, name, func(s *ModelStatus) tier.Move {
		return tier.Move{From: s.Tier, To: tier.Storage}
	}, core.Remove, func(c *control, o *core.Order, now time.Time) error { return c.core.Drop(o, now) })
}

// Unload starts to take a model to storage as soon as it is idle: no lease is held and
// no request waits. Until then its requests are served as ever, new ones too; where it
// is not idle for a moment within Config.MaxWait, the job fails with ErrInUse, and it
// may be cancelled before. A model that is in storage is done at once. Its home stays,
// but it is not brought there before a request has come, its owner orders it or the
// Manager is started again.
func (m *Manager) Unload(ctx context.Context, name string) (*Job, error) {
	return m.unload(ctx, name, true)
}

// unload is Unload, which waits for the model to be idle or gives ErrInUse if it is not.
func (m *Manager) unload(ctx context.Context, name string, whenIdle bool) (*Job, error) {
	return m.order(ctx, name, func(s *ModelStatus) tier.Move {
		return tier.Move{From: s.Tier, To: tier.Storage}
	}, core.Unload, func(c *control, o *core.Order, now time.Time) error {
		if whenIdle {
			o.Until = now.Add(m.cfg.MaxWait)
		}
		return c.core.Unload(o, now)
	})
}

// SetPinned changes whether only its owner demotes the model: with true, it stays where
// it is until MoveTier, Unload or Remove takes it away; it is not brought anywhere. A
// move that runs goes on. The pin is kept as a home tier is: across restarts with a
// StateDir, and across a Reconfigure that says of it what was said before.
func (m *Manager) SetPinned(ctx context.Context, name string, pinned bool) error {
	return m.change(ctx, func(c *control) error {
		e := c.there(name)
		if e == nil {
			return errUnknown
		}
		if model := e.Model; model.Pinned != pinned {
			model.Pinned = pinned
			c.core.Amend(e, model)
		}
		return nil
	}, name)
}

// SetAlias makes alias stand for a model, wherever a name is taken, or for none if model
// is "". What it stood for before is replaced at once: each request gets the one or the
// other. model may be an alias, and then the model is meant that it stands for now; or a
// version, and then the alias stays with that, whatever becomes current. An
// alias that is a model's name gives ErrExists, an unknown model, or an unknown alias to
// remove, ErrNotFound. Aliases are kept as limits are: across restarts with a StateDir,
// where the Config says of them what it said before.
//
// An alias stays when its model is removed: requests for it get ErrNotFound, which says
// so, until a model of that name comes or the alias is set again.
func (m *Manager) SetAlias(ctx context.Context, alias, model string) error {
	if err := tier.CheckAlias("alias", alias); err != nil {
		return err
	}
	return m.change(ctx, func(c *control) error {
		if model == "" {
			return c.core.SetAlias(alias, nil, "")
		}
		e := c.there(model)
		if e == nil {
			return errUnknown
		}
		as := c.asVersion(model, e)
		if as == "" {
			return &tier.InvalidError{
				Model: e.Model.Name, Field: "alias", Value: strconv.Quote(alias), Rule: "cannot be of a version: the model has too long a name for that",
				Help: []string{"Make it an alias of the model.", "Give the model a shorter name."},
			}
		}
		return c.core.SetAlias(alias, e, as)
	}, model)
}

// there returns the entry of that name or alias; nil if there is none, or it is about to
// leave the library.
func (c *control) there(name string) *core.Entry {
	if e, ok := c.core.Find(name); ok && (e.Owned() || e.HotLoad() != nil) {
		return e
	}
	return nil
}

// change has the loop run fn, and returns when what it has changed is kept. name is what
// errUnknown is about.
func (m *Manager) change(ctx context.Context, fn func(*control) error, name string) error {
	_, err := ask(ctx, m, func(_ time.Time, reply func(struct{}, error)) {
		c := &m.ctl
		err := tier.ErrClosed
		if !c.stopping {
			err = fn(c)
		}
		if err != nil {
			reply(struct{}{}, err)
			return
		}
		c.keep(func() { reply(struct{}{}, nil) })
	})
	if err == errUnknown { // its text takes a look at every name, which is not for the loop
		return m.unknown(name)
	}
	return err
}

// order gives an order about a model to the core, and returns the job for it. move
// says what the job is called.
func (m *Manager) order(ctx context.Context, name string, move func(*ModelStatus) tier.Move, kind core.OrderKind, give func(*control, *core.Order, time.Time) error) (*Job, error) {
	var estimate time.Duration
	if s, ok := m.Model(name); ok {
		mv := move(&s)
		mv.Model = m.snap.Load().model(name)
		estimate = m.predict(mv, toRead(&s, mv.To))
	}
	job, err := ask(ctx, m, func(_ time.Time, reply func(*Job, error)) {
		c := &m.ctl
		attempt := func(now time.Time) (done bool) {
			if ctx.Err() != nil { // its caller has left while memory was read
				reply(nil, context.Canceled)
				return true
			}
			e, ok := c.core.Find(name)
			if !ok || c.stopping {
				err := errUnknown
				if c.stopping {
					err = tier.ErrClosed
				}
				reply(nil, err)
				return true
			}
			mv := move(&ModelStatus{Home: e.Model.Home, Tier: e.Tier()})
			mv.Model = e.Model
			spec := hotload.Spec{Kind: jobKind(kind, &mv), Model: e.Model.Name, From: mv.From, To: mv.To, Estimate: cmp.Or(estimate, recordedEstimate(&mv, e.Model.Size))}
			// The job is made once the order is accepted; it may be done by then.
			o, j := &core.Order{Kind: kind, Entry: e, To: mv.To}, &orderJob{stop: func() bool { return true }}
			c.orders[o] = j
			if err := give(c, o, now); err != nil {
				delete(c.orders, o)
				if core.IsReading(err) {
					return false // it is given again after the next reading
				}
				c.after = append(c.after, func() { reply(nil, err) })
				return true
			}
			j.work = m.jobs.Start(m.ctx, spec)
			j.stop = c.watchJob(o, j.work)
			c.after = append(c.after, func() { reply(j.work.Job(), nil) })
			return true
		}
		if !attempt(c.now) {
			c.tasks = append(c.tasks, attempt)
		}
	})
	if err == errUnknown { // its text takes a look at every name, which is not for the loop
		err = m.unknown(name)
	}
	return job, err
}

// toRead returns how many bytes a move of the model there has to read or, down, to
// take out.
func toRead(s *ModelStatus, to tier.Tier) tier.Bytes {
	switch {
	case to <= s.Tier:
		return s.Size
	case s.Tier == tier.Swap:
		return max(s.Size-s.Kept-s.Cached, 0)
	}
	return max(s.Size-s.Cached, 0)
}

var errUnknown = errors.New("unknown model")

func jobKind(kind core.OrderKind, mv *tier.Move) hotload.Kind {
	switch {
	case kind == core.Remove:
		return hotload.KindRemove
	case mv.To < mv.From || kind == core.Unload:
		return hotload.KindDemote
	}
	return hotload.KindPromote
}

// unknown is the error of a name that is not known.
func (m *Manager) unknown(name string) error {
	return m.snap.Load().view.Library.Unknown(name)
}

// Job returns the job of that ID. The last 1024 jobs that ended are remembered,
// and all that run.
func (m *Manager) Job(id string) (*Job, bool) { return m.jobs.Get(id) }

// Jobs yields the jobs that are remembered, the newest last: all that run, and the
// last 1024 that ended.
func (m *Manager) Jobs() iter.Seq[*Job] { return m.jobs.All() }

type limitsReply func(old, now tier.Limits, err error)

// UpdateLimits changes the limits, all of them or none. A zero field keeps its
// value. Lowering a limit below what is resident lets idle models leave first;
// where they cannot, or a reservation holds the room, it is refused with an error
// (ErrLimits) that names who would have to. A Manager whose limits keep the
// floors of the wire contract, 1 GiB of ram, 2 of swap and half a GiB in reserve, is
// not lowered beneath them; one that was made smaller has no floor but zero. It returns the limits before and after.
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
		c.m.events.Post(func() { fn(a.Old, a.Now) })
	}
	c.keep(answer)
}

// Optimization is what an Optimize call set going.
type Optimization struct {
	// Steps are the moves, in order. Each begins when there is room for it and
	// no request waits; a request that comes in between ends the rest.
	Steps []tier.Step
}

// Optimize asks the placement, by what is known of use, what is worth moving
// though no request waits, and starts it. It returns what it has started; nothing
// where requests wait or moves for them are under way.
func (m *Manager) Optimize(ctx context.Context) (Optimization, error) {
	return ask(ctx, m, func(now time.Time, reply func(Optimization, error)) {
		c := &m.ctl
		if q := c.askIdle(true, now); q != nil {
			c.optimize[q] = reply
			return
		}
		reply(Optimization{}, nil)
	})
}

// askIdle asks the placement what is worth moving. It returns nil where something
// goes first.
func (c *control) askIdle(ordered bool, now time.Time) *core.Question {
	if c.stopping {
		return nil
	}
	return c.core.AskIdle(ordered, now)
}

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
	i, ok := lib.Find(model)
	if !ok {
		return m.unknown(model)
	}
	model = lib.At(i).Name
	if _, ok := m.cfg.Placement.(tier.Hinter); ok {
		m.post(func(now time.Time) { m.ctl.hint([]string{model}, probability, within, now) })
	}
	return nil
}

// hint gives the placement, which is a tier.Hinter, a hint for each of the models.
func (c *control) hint(models []string, probability float64, within time.Duration, now time.Time) {
	if c.stopping {
		return
	}
	c.readAccesses()
	c.teach(false)
	h := c.m.cfg.Placement.(tier.Hinter)
	c.m.placement.ask(planLimit, func(context.Context) error {
		for _, model := range models {
			h.Hint(model, probability, within, now)
		}
		return nil
	}, func(err error) {
		if errors.Is(err, tier.ErrBusy) {
			return // too many at once: it is advice
		}
		if err != nil {
			c.m.log.Error("a hint could not be given", "models", models, "err", err)
			return
		}
		c.m.post(func(now time.Time) { c.askIdle(false, now) }) // what to do about it
	})
}

// ReportCrash tells the Manager that a model has left memory though it was not
// moved: its engine crashed, or a remote one was started again. It is what a Mover's
// owner calls where the Mover notices such things, as process.Options.Crashed does.
//
// The model takes no new leases from then on, and those that are held are told
// (Lease.Done); when they have ended, the Mover moves it to storage, which tidies
// up, and the next request for it has it loaded again. From the third time in a row
// on that it crashes within 10 s of its load, requests are refused with ErrBusy for
// a while first, 1 s and twice as long each time, a minute at most. To say it twice,
// or of a model that is in storage or moving, does nothing: the move's end says what
// became of it. cause, which may be nil, is for the log and the reason of the move.
// A name that is not known gives ErrNotFound. ReportCrash does not wait for
// anything, and may be called from any goroutine, a Mover's included.
func (m *Manager) ReportCrash(model string, cause error) error {
	lib := m.snap.Load().view.Library
	i, ok := lib.Named(model) // as its mover knows it
	if !ok {
		i, ok = lib.Find(model)
	}
	if !ok {
		return m.unknown(model)
	}
	model = lib.At(i).Name // not what an alias means when the loop comes to it
	if cause == nil {
		cause = errNoCause
	}
	cause = seal(cause)
	if !m.post(func(time.Time) { m.ctl.crashed(model, cause) }) {
		return tier.ErrClosed
	}
	return nil
}

// errNoCause is the cause of a crash that was reported without one.
var errNoCause = errors.New("no cause was given")
