package modeltier

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// moving is a move that a goroutine carries out.
type moving struct {
	work    *hotload.Work
	ordered bool // the work is an order's, which ends it
	began   time.Time
	urge    func()       // tells the mover that a request waits for it now
	read    atomic.Int64 // how long it took until all bytes were reported; 0: they were not
	touched atomic.Int64 // when progress was last made, since the Manager's start: no wall clock, which may be set
	// returned: the mover has; a crash from then on the move's end does not tell.
	returned atomic.Bool
	// looking: its files were checked as well, and it is looked at.
	looking atomic.Bool
	crash   error // the loop's: why, if it crashed since
}

// startMove hands a move to a goroutine.
func (c *control) startMove(mv *core.Move, drop core.Drop) {
	m := c.m
	g := &moving{began: c.now, urge: func() {}}
	g.touched.Store(int64(c.now.Sub(m.start)))
	bytes, reads := mv.Bytes(), mv.Reads()
	if o := c.orders[cmp.Or(mv.Order, mv.Entry.HotLoad())]; o != nil {
		g.work, g.ordered = o.work, true
		g.work.Expect(bytes)
	} else {
		kind := hotload.KindPromote
		switch {
		case mv.Idle():
			kind = hotload.KindOptimize
		case mv.Down():
			kind = hotload.KindDemote
		}
		g.work = m.jobs.Start(m.ctx, hotload.Spec{
			Kind: kind, Model: mv.Model.Name, From: mv.From, To: mv.To,
			Total: bytes,
		})
	}
	g.work.Begun(g.work.Job().Estimate()) // as was predicted for an order, or unknown
	m.predictLater(mv.Move, reads, g.work, c.now)
	c.moves[mv] = g
	job := g.work.Context()
	context.AfterFunc(job, func() { // called off, by the core or by the job's owner
		cause := seal(context.Cause(job))
		m.post(func(now time.Time) {
			if c.moves[mv] == g && !mv.CalledOff() {
				c.core.CancelMove(mv, cause, now)
			}
		})
	})
	ev := MoveEvent{
		At: c.now, Job: g.work.Job().ID(), Model: mv.Model.Name, From: mv.From, To: mv.To, Keep: mv.Keep, Leave: mv.Leave,
		Reason: mv.Reason, Why: mv.Why,
	}
	m.log.Info("a move starts", "job", ev.Job, "model", ev.Model, "from", ev.From, "to", ev.To, "keep", ev.Keep, "leave", ev.Leave, "bytes", bytes, "reason", ev.Reason, "why", ev.Why)
	if fn := m.cfg.Events.MoveStarted; fn != nil {
		m.events.Post(func() { fn(ev) })
	}
	ctx := job
	if mv.Background() {
		ctx, g.urge = tier.Background(job)
	}
	move := mv.Move
	move.Model.Runtime = mv.Entry.Declared() // what was learned is the ledger's
	var first *dropping
	if len(drop.From) > 0 {
		first = c.toDrop(drop)
	}
	m.goroutines.Go(func() {
		if first != nil {
			m.lookAtCached(ctx, first)
			m.post(func(time.Time) { c.uncached(first) })
		}
		m.carry(ctx, mv, g, move, ev, bytes, reads)
	})
}

// carry runs a move, looks at what is resident after it, and tells the loop.
func (m *Manager) carry(ctx context.Context, mv *core.Move, g *moving, move tier.Move, ev MoveEvent, bytes, reads tier.Bytes) {
	mover := m.moverOf(&move.Model)
	calledOff, began := false, time.Now() // what was dropped for it is not its own time
	out := core.Outcome{}
	check, damage := m.check(ctx, &move, func() { g.touched.Store(int64(time.Since(m.start))) })
	if damage != nil {
		out.Err = &tier.MoveError{Model: move.Model.Name, From: move.From, To: move.To, Err: damage}
	} else {
		out.Err = m.call(mover.plugin.name, func() error {
			err := mover.Move(ctx, move, func(done tier.Bytes) {
				g.touched.Store(int64(time.Since(m.start)))
				if done >= bytes {
					g.read.CompareAndSwap(0, int64(time.Since(began)))
				}
				g.work.Progressed(done)
			})
			if err == nil {
				return nil
			}
			calledOff = core.CalledOff(context.Cause(ctx))
			return moveError(ctx, &move, err)
		})
	}
	if out.Err != nil {
		me, ok := errors.AsType[*tier.MoveError](out.Err)
		if !ok { // it panicked
			me = &tier.MoveError{Model: move.Model.Name, From: move.From, To: move.To, Err: out.Err}
			out.Err = me
		}
		out.Lost, out.Short, out.CalledOff = me.Lost, errors.Is(out.Err, tier.ErrNoCapacity), calledOff
	}
	g.returned.Store(true)
	took := time.Since(began) // without what a check takes longer, which is made once
	if check != nil {
		damage = check.end(ctx, &out)
	}
	older := ""
	if damage != nil {
		older = m.intact(&move.Model)
		out.Again = older != ""
	}
	whole := time.Since(began)
	g.looking.Store(true)
	if out.Err == nil && move.To == tier.Storage && (mv.Reason == tier.ReasonOrder || mv.Reason == tier.ReasonRemoved) {
		m.forget(ctx, &move.Model)
	}
	l, err := m.look(&move.Model, observeLimit)
	out.Seen, out.Observed, out.Traits = l.seen, err == nil && mover.resident != nil, l.traits
	if err != nil {
		m.log.Warn("what is resident cannot be told", "model", move.Model.Name, "err", err)
	}
	ev.At, ev.Took, ev.Err = time.Now(), whole, out.Fault()
	m.count.moved(&move, bytes, whole, ev.Err)
	m.log.Info("a move ended", "job", ev.Job, "model", ev.Model, "from", ev.From, "to", ev.To, "took", whole, "err", ev.Err)
	if fn := m.cfg.Events.MoveEnded; fn != nil {
		m.events.Post(func() { fn(ev) })
	}
	if !m.post(func(time.Time) {
		if check != nil || damage != nil {
			m.ctl.checked(mv.Entry)
		}
		m.ctl.moveEnded(mv, g, out, tier.Moved{Move: move, Bytes: reads, Took: took, Read: time.Duration(g.read.Load())})
		if older != "" {
			m.ctl.fallBack(mv.Entry, older)
		}
	}) {
		finish(g.work, errors.Join(ev.Err, tier.ErrClosed))
	}
}

// moveError says which move it was that failed, and, where it was called off,
// why.
func moveError(ctx context.Context, mv *tier.Move, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	if _, ok := errors.AsType[*tier.MoveError](err); ok {
		return err
	}
	return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Err: err}
}

func (c *control) moveEnded(mv *core.Move, g *moving, out core.Outcome, moved tier.Moved) {
	delete(c.moves, mv)
	c.shared[mv.Entry].gate.instance = new(instance)
	if !mv.Down() {
		c.loaded = c.loaded.Plus(g.work.Job().Progress().Done)
	}
	if out.Err == nil {
		c.moved(moved)
	}
	runtime := mv.Entry.Model.Runtime
	c.core.MoveEnded(mv, out, c.now)
	if g.crash != nil && out.Err == nil {
		c.core.Crash(mv.Entry, g.crash, c.now)
		c.shared[mv.Entry].gate.lose()
	}
	c.publishFailure(mv.Entry)
	c.corrected(mv.Entry, runtime)
	if !g.ordered {
		c.finish(g.work, out.Fault())
	}
}

// finish ends a job, once what it did is published. To tell a cancelled job from
// one that failed asks the error, which may be foreign code.
func (c *control) finish(work *hotload.Work, err error) {
	c.after = append(c.after, func() {
		if err == nil {
			work.Finish(nil)
			return
		}
		c.m.goroutines.Go(func() { finish(work, err) })
	})
}

// finish ends a job with an error that may be foreign code.
func finish(work *hotload.Work, err error) {
	guarded("error", func() error { work.Finish(err); return nil }, func(panicked error) {
		if panicked != nil {
			work.Finish(panicked)
		}
	})
}

// stuck tells of a move that was called off and does not return.
func (c *control) stuck(mv *core.Move, err error) {
	c.m.log.Error("a mover does not return", "err", err)
	if g := c.moves[mv]; g != nil && !g.ordered {
		c.finish(g.work, err)
	}
}

// crashed takes up that a model left memory though it was not moved. Leases outlive
// the intake, so they are told when that has stopped, too.
func (c *control) crashed(model string, cause error) {
	e, ok := c.core.Named(model)
	if !ok {
		return
	}
	c.m.log.Warn("a model left memory by itself", "model", model, "cause", cause)
	for mv, g := range c.moves {
		if mv.Entry == e && g.returned.Load() {
			g.crash = cause
		}
	}
	// Told only now that the gate is closed: those who ask again at once must not come by it.
	c.core.Crash(e, cause, c.now)
	c.shared[e].gate.lose()
	c.publishFailure(e)
}

// recordedEstimate is how long a move took in the earlier system: 1.5 s for a GB
// from storage and 0.2 s elsewhere.
func recordedEstimate(mv *tier.Move, bytes tier.Bytes) time.Duration {
	perGB := 0.2
	if mv.From == tier.Storage {
		perGB = 1.5
	}
	return time.Duration(min(perGB*bytes.GB()*float64(time.Second), float64(maxEstimate)))
}

// maxEstimate bounds what is believed of a move.
const maxEstimate = 365 * 24 * time.Hour

// predict returns how long a move should take, by what the placement has learned;
// without that, or where it does not say so in time, as recorded. It is not for
// the loop.
func (m *Manager) predict(mv tier.Move, bytes tier.Bytes) time.Duration {
	answer := make(chan time.Duration, 1)
	m.askPrediction(mv, bytes, func(d time.Duration) { answer <- d })
	return <-answer
}

// predictLater sets the estimate of a job whose move began at that time when the
// prediction is there.
func (m *Manager) predictLater(mv tier.Move, bytes tier.Bytes, work *hotload.Work, began time.Time) {
	before := max(began.Sub(work.Job().Started()), 0)
	m.askPrediction(mv, bytes, func(d time.Duration) { work.Estimate(before + min(d, maxEstimate)) })
}

func (m *Manager) askPrediction(mv tier.Move, bytes tier.Bytes, done func(time.Duration)) {
	recorded := recordedEstimate(&mv, bytes)
	p, ok := m.cfg.Placement.(tier.Predictor)
	if !ok {
		done(recorded)
		return
	}
	got := new(time.Duration)
	m.placement.ask(adviceLimit, func(context.Context) error {
		*got, _, _ = p.Predict(&mv.Model, mv.From, mv.To, bytes)
		return nil
	}, func(err error) {
		if err != nil || *got < 0 {
			done(recorded)
			return
		}
		done(*got)
	})
}
