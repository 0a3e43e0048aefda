package modeltier

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
)

// Bounds that nobody has wanted to set. A reading is good for an admission for
// fresh, and while the probe fails for stale; a model counts as in demand for
// grace after its last use.
const (
	fresh       = 100 * time.Millisecond
	stale       = 5 * time.Second
	grace       = 50 * time.Millisecond
	probeLimit  = time.Second
	planLimit   = 10 * time.Second
	observation = 5 * time.Second // for one look at what is resident

	// keepEvictions is how many of the last evictions Status tells.
	keepEvictions = 16

	// aged is how old the published view may get while nothing changes: what it
	// says of the moment is to be near the truth, for selectors that go by time.
	aged = 5 * time.Second

	// rememberEvery bounds what a crash costs of what the placement has learned.
	rememberEvery = 30 * time.Second
)

// control is what the loop's goroutine owns. Nothing else touches it while the
// loop runs.
type control struct {
	m     *Manager
	core  *core.Core
	now   time.Time
	after []func() // to be done once the new snapshot is published

	learners  []tier.Learner
	reporters []tier.Reporter
	uses      []tier.Access
	moved     []tier.Moved
	outcomes  []tier.Outcome

	moves      map[*core.Move]*moving
	tasks      []func(now time.Time) bool // orders that wait for a reading
	idle       []chan struct{}            // closed when no lease is held
	limits     []limitsReply
	stopping   bool
	planStuck  bool // a call of the placement has not returned
	probeStuck bool
	usedSince  bool // a model was asked for since the loop last looked ahead
	ahead      ahead
	remembered time.Time // when what it has learned was last kept
	waits      waitStats
	evictions  []EvictEvent // the last keepEvictions, oldest first
	governor   safety.Governor
	pressure   tier.PressureLevel // by the governor
	kept       restored
}

func (c *control) init(m *Manager, kept restored) error {
	cfg := &m.cfg
	c.m = m
	c.moves = make(map[*core.Move]*moving)
	for _, p := range []any{cfg.Placement, cfg.Selector} {
		if l, ok := p.(tier.Learner); ok {
			c.learners = append(c.learners, l)
		}
		if r, ok := p.(tier.Reporter); ok {
			c.reporters = append(c.reporters, r)
		}
	}
	opt := core.Options{
		Fairness: cfg.Fairness, Grace: grace, Loads: cfg.Loads, Fresh: fresh, Stale: stale,
		Divisible: func(*tier.Model) bool { return false },
		Leaves:    func(*tier.Model) bool { return false },
		InPlace:   func(*tier.Model) bool { return false },
		Room:      func(p core.Promise) tier.Footprint { return safety.Room(promise(p, false), p.Memory) },
		Admit: func(p core.Promise, model *tier.Model, need tier.Footprint, background bool) error {
			return safety.Admit(promise(p, background), p.Memory, model, need)
		},
	}
	if f, ok := cfg.Mover.(tier.FileBacker); ok {
		opt.FileBacked = f.FileBacked()
	}
	if d, ok := cfg.Mover.(tier.Divider); ok {
		opt.Divisible = d.Divisible
	}
	if l, ok := cfg.Mover.(tier.Leaver); ok {
		opt.Leaves = l.Leaves
	}
	if p, ok := cfg.Mover.(tier.InPlacer); ok {
		opt.InPlace = p.InPlace
	}
	c.core = core.New(cfg.Limits, opt)
	if err := c.core.Add(cfg.Models, m.newEntry, true); err != nil {
		return err
	}
	c.restore(kept)
	c.read(time.Now())
	c.publish()
	return nil
}

func promise(p core.Promise, background bool) safety.Promise {
	return safety.Promise{
		Background: background, Leaving: p.Leaving, Limits: p.Limits, Free: p.Free, Unseen: p.Unseen,
		Reclaimable: p.Reclaimable, FileBacked: p.FileBacked,
	}
}

// newEntry makes the shared half of an entry; the int is for core.Add.
func (m *Manager) newEntry(int) *core.Entry {
	e := &entry{}
	e.gate = newGate(m, e)
	e.core = &core.Entry{Gate: e.gate, Data: e}
	return e.core
}

func shared(e *core.Entry) *entry { return e.Data.(*entry) }

// loop runs until the Manager is closed.
func (m *Manager) loop() {
	defer close(m.loopDone)
	c := &m.ctl
	timer := time.NewTimer(0)
	defer timer.Stop()
	tick := time.NewTicker(m.cfg.ProbeEvery)
	defer tick.Stop()
	var fns []func(time.Time)
	for m.ctx.Err() == nil {
		c.now = time.Now()
		fns = m.mail.take(fns)
		for _, fn := range fns {
			fn(c.now)
		}
		wake := c.step()
		if at := c.lookAhead(); !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(wake), 0))
		}
		select {
		case <-m.mail.wake:
		case <-timer.C:
		case <-tick.C:
			c.tick()
		case <-m.ctx.Done():
		}
	}
	c.end(m.mail.shut())
}

// end answers everyone who still waits for the loop.
func (c *control) end(rest []func(time.Time)) {
	c.now = time.Now()
	c.core.Stop(tier.ErrClosed, c.now)
	for _, fn := range rest {
		fn(c.now)
	}
	c.core.Stop(tier.ErrClosed, c.now) // those who joined in the rest
	c.stopping = true
	c.step()
	c.remember()
	for _, ch := range c.idle {
		close(ch)
	}
	c.idle = nil
}

// step lets the core go on as far as it can and does what it says. It returns
// when the loop has to look again.
func (c *control) step() (wake time.Time) {
	c.readAccesses()
	for {
		actions, at := c.core.Step(c.now)
		if len(actions) == 0 {
			wake = at
			break
		}
		for _, a := range actions {
			c.do(a)
		}
		if len(c.tasks) > 0 {
			c.tasks = slices.DeleteFunc(c.tasks, func(t func(time.Time) bool) bool { return t(c.now) })
		}
	}
	wake = c.watchMoves(wake)
	if c.core.Changed() {
		c.publish()
	}
	for len(c.after) > 0 {
		after := c.after
		c.after = nil
		for _, fn := range after {
			fn()
		}
	}
	c.closeIdle()
	return wake
}

// publish makes the core's picture the one that requests read.
func (c *control) publish() {
	entries := c.core.Entries()
	s := &snapshot{view: c.core.View(c.now), entries: make([]*entry, len(entries)), inUse: c.inUse()}
	for i, e := range entries {
		s.entries[i] = shared(e)
	}
	c.m.snap.Store(s)
}

// inUse is memory that models have, which the machine counts as taken and which
// could be had if they left. It takes a mover that can tell what is present.
func (c *control) inUse() (b tier.Bytes) {
	if c.m.resident == nil {
		return 0
	}
	for _, e := range c.core.Entries() {
		if !e.Model.Pinned {
			b = b.Plus(max(e.Charge()[tier.RAM]-e.Reclaimable, 0))
		}
	}
	for _, mv := range c.core.Moves() {
		b = b.Plus(mv.Held()[tier.RAM])
	}
	return b
}

// do carries out one action of the core.
func (c *control) do(a core.Action) {
	switch a := a.(type) {
	case core.Start:
		c.startMove(a.Move)
	case core.Cancel:
		c.cancelMove(a.Move, a.Cause)
	case core.Granted:
		c.granted(a.Waiter)
	case core.Refused:
		w := a.Waiter.Data.(*waiter)
		if errors.Is(a.Err, tier.ErrMove) {
			c.reported(tier.Outcome{Model: a.Waiter.Entry.Model.Name, At: c.now, Waited: c.now.Sub(a.Waiter.Since), Err: a.Err})
		}
		c.after = append(c.after, func() { w.answer <- answer{err: a.Err} })
	case core.OrderDone:
		c.orderDone(a.Order, a.Err)
	case core.Ask:
		c.plan(a.Question)
	case core.Read:
		c.read(c.now)
	case core.LimitsDone:
		c.limitsDone(a)
	case core.Evicted:
		c.evicted(a)
	}
}

// join takes up a request that has to wait for e.
func (c *control) join(w *waiter, e *entry, began time.Time) {
	w.Waiter.Entry, w.Waiter.Data, w.Waiter.Claim = e.core, w, w.claim
	if c.stopping {
		if w.claim() {
			w.answer <- answer{err: tier.ErrClosed}
		}
		return
	}
	if n := e.core.Waiters(); n >= c.m.cfg.MaxQueueModel {
		if w.claim() {
			w.answer <- answer{err: &tier.BusyError{Model: e.core.Model.Name, Queued: n, RetryAfter: c.m.cfg.Fairness}}
		}
		return
	}
	w.Since, w.Deadline = began, began.Add(c.m.cfg.MaxWait)
	c.used(e, began)
	c.core.Join(&w.Waiter, c.now)
}

// granted hands a lease to a waiter. The gate has counted it.
func (c *control) granted(cw *core.Waiter) {
	w := cw.Data.(*waiter)
	l := &Lease{stay: shared(cw.Entry).gate.settle(), moved: cw.Moved, waited: c.now.Sub(cw.Since), at: c.now.Sub(c.m.start)}
	c.waits.add(l, cw.From)
	c.reported(tier.Outcome{Model: l.stay.model.Name, At: c.now, Waited: l.waited})
	c.after = append(c.after, func() { w.answer <- answer{lease: l} })
}

// placementBack is called, not by the loop, when a call that was stuck returns.
func (c *control) placementBack() {
	c.m.post(func(time.Time) { c.planStuck = false })
}

func (c *control) placementFailed(err error) {
	if err == nil {
		return
	}
	c.m.log.Error("the placement failed", "err", err)
	c.planStuck = tier.Code(err) == "stuck"
}

// plan asks the placement, on behalf of the core.
func (c *control) plan(q *core.Question) {
	c.teach()
	// The answer's own memory: a call that is stuck may write to it much later.
	p := new(tier.Plan)
	err := error(&tier.StuckError{What: "The placement", After: planLimit})
	if !c.planStuck {
		need := &q.Need
		if q.Idle {
			need = nil
		}
		began := time.Now()
		err = c.m.callFor("placement", planLimit, func(context.Context) error {
			*p = c.m.cfg.Placement.Plan(&q.View, need)
			return nil
		}, c.placementBack)
		c.m.count.planning.add(time.Since(began))
		c.placementFailed(err)
	}
	c.now = time.Now()
	var answer tier.Plan
	if err == nil {
		answer = *p
	}
	steps := c.core.Planned(q, answer, err, c.now)
	if q.Idle {
		c.lookedAhead(len(steps))
	}
	if o, ok := q.Data.(*optimizing); ok {
		o.done(c, steps, err)
	}
}

// tick is what happens every ProbeEvery though nothing else does.
func (c *control) tick() {
	c.now = time.Now()
	if _, at, _ := c.core.Memory(); at.IsZero() || c.now.Sub(at) >= c.m.cfg.ProbeEvery/2 {
		c.read(c.now)
	}
	c.observeAgain()
	c.giveBack()
	c.teach()
	if !c.ahead.used.Before(c.remembered) && c.now.Sub(c.remembered) >= rememberEvery {
		c.remember()
		c.remembered = c.now
	}
	if c.now.Sub(c.m.snap.Load().view.Now) >= aged {
		c.publish()
	}
}

// stopIntake ends all that lets work in; leases that are held go on.
func (c *control) stopIntake() {
	c.stopping = true
	c.core.Stop(tier.ErrClosed, c.now)
	for _, attempt := range c.tasks {
		attempt(c.now) // each answers ErrClosed
	}
	c.tasks = nil
}

// whenIdle closes done when no lease is held. The intake has stopped.
func (c *control) whenIdle(done chan struct{}) { c.idle = append(c.idle, done) }

func (c *control) closeIdle() {
	if len(c.idle) == 0 || slices.ContainsFunc(c.core.Entries(), func(e *core.Entry) bool { return e.Gate.Leases() > 0 }) {
		return
	}
	for _, ch := range c.idle {
		close(ch)
	}
	c.idle = nil
}

func (c *control) evicted(a core.Evicted) {
	c.m.count.evicted.Add(1)
	ev := EvictEvent{At: c.now, Model: a.Entry.Model.Name, From: a.Entry.Tier(), To: a.To, For: a.For, Why: a.Why}
	if len(c.evictions) == keepEvictions {
		c.evictions = slices.Delete(c.evictions, 0, 1)
	}
	c.evictions = append(c.evictions, ev)
	c.m.log.Info("a model gives way", "model", ev.Model, "from", ev.From, "to", ev.To, "for", cmp.Or(ev.For, "no model"), "why", ev.Why)
	if fn := c.m.cfg.Events.Evicted; fn != nil {
		c.m.event(func() { fn(ev) })
	}
}
