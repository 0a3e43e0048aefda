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
	task    bool // the work is an order's, which ends it
	began   time.Time
	urge    func()       // somebody waits for it now; nil: somebody did from the start
	touched atomic.Int64 // when progress was last made, since the Manager's start: no wall clock, which may be set
	off     time.Time    // when it was called off; the loop's
	stuck   bool         // the loop's
	// returned: the mover has; what is lost from then on, the move's end does not tell.
	returned atomic.Bool
	lost     error // the loop's: why, if it was lost since
}

// startMove hands a move to a goroutine.
func (c *control) startMove(mv *core.Move) {
	m := c.m
	g := &moving{began: c.now}
	g.touched.Store(int64(c.now.Sub(c.m.start)))
	bytes := toMove(mv)
	if t, ok := orderTask(cmp.Or(mv.Order, mv.Entry.HotLoad())); ok {
		g.work, g.task = t.work, true
		g.work.Expect(bytes)
	} else {
		kind := hotload.KindPromote
		switch {
		case mv.Idle():
			kind = hotload.KindOptimize
		case mv.To < mv.From || mv.Keep < mv.Entry.Kept():
			kind = hotload.KindDemote
		}
		g.work = m.jobs.Start(m.ctx, hotload.Spec{
			Kind: kind, Model: mv.Model.Name, From: mv.From, To: mv.To,
			Total: bytes, Estimate: c.estimate(&mv.Move, bytes),
		})
	}
	c.moves[mv] = g
	context.AfterFunc(g.work.Context(), func() { // called off by whoever: it has StuckAfter to return
		m.post(func(now time.Time) {
			if c.moves[mv] == g && g.off.IsZero() {
				g.off = now
			}
		})
	})
	ev := MoveEvent{Job: g.work.Job().ID(), Model: mv.Model.Name, From: mv.From, To: mv.To, Keep: mv.Keep, Leave: mv.Leave, Why: mv.Why}
	m.log.Info("a move starts", "job", ev.Job, "model", ev.Model, "from", ev.From, "to", ev.To, "keep", ev.Keep, "leave", ev.Leave, "bytes", bytes, "why", ev.Why)
	if fn := m.cfg.Events.MoveStarted; fn != nil {
		m.event(func() { fn(ev) })
	}
	ctx := g.work.Context()
	if !mv.Demand {
		ctx, g.urge = tier.Background(ctx)
	}
	move := mv.Move
	move.Model.Runtime = mv.Entry.Declared() // what was learned is the ledger's
	m.goroutines.Go(func() { m.carry(ctx, mv, g, move, ev, bytes) })
}

// toMove is how many bytes of weights the move has to bring or take.
func toMove(mv *core.Move) tier.Bytes {
	present := mv.Entry.Kept()
	if mv.From == tier.RAM {
		present = mv.Model.Size
	}
	switch mv.To {
	case tier.RAM:
		return mv.Model.Size - present
	case tier.Swap:
		left := mv.Entry.Left()
		if mv.From == tier.Storage {
			left = mv.Model.Size
		}
		return max((mv.Keep - present).Abs(), left-mv.Leave)
	}
	return present
}

// carry runs a move, looks at what is resident after it, and tells the loop.
func (m *Manager) carry(ctx context.Context, mv *core.Move, g *moving, move tier.Move, ev MoveEvent, bytes tier.Bytes) {
	var out core.Outcome
	out.Err = moveError(ctx, &move, m.call("mover", func() error {
		return m.cfg.Mover.Move(ctx, move, func(done tier.Bytes) {
			g.touched.Store(int64(time.Since(m.start)))
			g.work.Progressed(done)
		})
	}))
	g.returned.Store(true)
	took := time.Since(g.began)
	seen, err := m.observe(move.Model.Name, observation)
	out.Seen, out.Observed = seen, err == nil && m.resident != nil
	if err != nil {
		m.log.Warn("what is resident cannot be told", "model", move.Model.Name, "err", err)
	}
	ev.Took, ev.Err = took, out.Err
	m.count.moved(&move, bytes, took, out.Err)
	m.log.Info("a move ended", "job", ev.Job, "model", ev.Model, "from", ev.From, "to", ev.To, "took", took, "err", ev.Err)
	if fn := m.cfg.Events.MoveEnded; fn != nil {
		m.event(func() { fn(ev) })
	}
	if !m.post(func(time.Time) { m.ctl.moveEnded(mv, g, out, tier.Moved{Move: move, Bytes: bytes, Took: took}) }) {
		g.work.Finish(errors.Join(out.Err, tier.ErrClosed))
	}
}

// moveError says which move it was that failed, and, where it was called off,
// by whom.
func moveError(ctx context.Context, mv *tier.Move, err error) error {
	if err == nil {
		return nil
	}
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
	if out.Err == nil {
		c.moved = append(c.moved, moved)
	}
	runtime := mv.Entry.Model.Runtime
	c.core.MoveEnded(mv, out, c.now)
	if g.lost != nil && out.Err == nil {
		shared(mv.Entry).gate.lose()
		c.core.Lose(mv.Entry, g.lost, c.now)
	}
	c.corrected(mv.Entry, runtime)
	if !g.task || g.stuck {
		g.work.Finish(out.Err)
	}
}

func (c *control) cancelMove(mv *core.Move, cause error) {
	if g := c.moves[mv]; g != nil {
		g.work.Job().Cancel(cause)
	}
}

var errStalled = errors.New("called off: it made no progress")

// watchMoves tells movers that somebody waits now, calls off moves that make no progress, and reports those as stuck
// that were called off and do not return. It returns wake, or an earlier moment
// at which it has to look again.
func (c *control) watchMoves(wake time.Time) time.Time {
	cfg := &c.m.cfg
	for mv, g := range c.moves {
		if mv.Demand && g.urge != nil {
			g.urge()
			g.urge = nil
		}
		at := c.m.start.Add(time.Duration(g.touched.Load())).Add(cfg.StallAfter)
		if !g.off.IsZero() {
			at = g.off.Add(cfg.StuckAfter)
		}
		switch {
		case g.stuck:
			continue
		case c.now.Before(at):
		case g.off.IsZero():
			g.off = c.now
			g.work.Job().Cancel(errStalled)
			at = g.off.Add(cfg.StuckAfter)
		default:
			g.stuck = true
			err := &tier.StuckError{Model: mv.Model.Name, What: "The " + mv.Verb(), After: c.now.Sub(g.began).Round(time.Millisecond), Bytes: mv.Entry.Charge()[tier.RAM] + mv.Held()[tier.RAM]}
			c.m.log.Error("a mover does not return", "err", err)
			c.core.MoveStuck(mv, err)
			if !g.task {
				g.work.Finish(err)
			}
			c.m.kick()
			continue
		}
		if wake.IsZero() || at.Before(wake) {
			wake = at
		}
	}
	return wake
}

// predictor is what a Placement offers that predicts how long moves take.
type predictor interface {
	Predict(m *tier.Model, from, to tier.Tier, bytes tier.Bytes) (d, low, high time.Duration)
}

// estimate predicts how long a move of that many bytes takes: by what the
// placement has learned, else by the recorded figure of 1.5 s for a GB from
// storage and 0.2 s elsewhere.
func (c *control) estimate(mv *tier.Move, bytes tier.Bytes) time.Duration {
	if p, ok := c.m.cfg.Placement.(predictor); ok && !c.planStuck {
		predicted := make(chan time.Duration, 1) // a call that is stuck may answer much later
		err := c.m.callFor("placement", planLimit, func(context.Context) error {
			d, _, _ := p.Predict(&mv.Model, mv.From, mv.To, bytes)
			predicted <- d
			return nil
		}, c.placementBack)
		if err == nil {
			return <-predicted
		}
		c.placementFailed(err)
	}
	perGB := 0.2
	if mv.From == tier.Storage {
		perGB = 1.5
	}
	return time.Duration(perGB * bytes.GB() * float64(time.Second))
}
