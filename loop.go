package modeltier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
)

// Fixed limits. A reading may admit loads for fresh; while the probe is failing,
// for stale.
const (
	fresh = 100 * time.Millisecond
	stale = 5 * time.Second

	// keepEvictions is how many of the last evictions Status tells.
	keepEvictions = 16

	// aged is how old the published view may get while nothing changes: what it
	// says of the moment is to be near the truth, for selectors that go by time.
	aged = 5 * time.Second

	// rememberEvery bounds what a crash costs of what the placement has learned.
	rememberEvery = 30 * time.Second
)

// control is what the loop's goroutine owns. Nothing else touches it while the
// loop runs. The loop runs no foreign code and waits for nothing: parts are asked
// through their plugins, whose answers come as mail.
type control struct {
	m       *Manager
	core    *core.Core
	now     time.Time
	after   []func() // to be done once the new snapshot is published
	shared  map[*core.Entry]*entry
	library *tier.Library // that gates is of
	gates   []*entry
	awaited []*entry // that have a standing
	spare   []*entry // for the next of these

	publication uint64 // of standings

	moves  map[*core.Move]*moving
	orders map[*core.Order]*orderJob
	// reservations are those that are held.
	reservations map[*core.Outsider]*Reservation
	tasks        []func(now time.Time) bool // orders that wait for a reading
	idle         []chan struct{}            // closed when no lease is held
	limits       []limitsReply
	optimize     map[*core.Question]func(Optimization, error)
	stopping     bool

	reading    atomic.Bool     // the probe has been asked
	readAt     atomic.Int64    // when it last answered, since the Manager's start
	tickDue    atomic.Bool     // its next answer comes with a tick
	ticker     *time.Timer     // calls every
	refreshing []chan struct{} // closed after the next reading
	reclaiming bool            // the placement has been asked what models are worth
	cacheAsked bool            // the mover has been asked what is cached
	cacheSeen  time.Time       // when
	governor   safety.Governor
	loaded     tier.Bytes         // weights that loads have read, those under way apart
	pressure   tier.PressureLevel // by the governor

	keeping    keeping
	remembered time.Time // when what the placement has learned was last kept
	waits      waitStats
	evictions  []EvictEvent // the last keepEvictions, oldest first
	calendar   calendar
}

func (c *control) init(m *Manager, kept restored) error {
	cfg := &m.cfg
	*c = control{
		m: m, now: time.Now(), shared: make(map[*core.Entry]*entry), moves: make(map[*core.Move]*moving),
		reservations: make(map[*core.Outsider]*Reservation),
		orders:       make(map[*core.Order]*orderJob), optimize: make(map[*core.Question]func(Optimization, error)),
		calendar: calendar{told: make([]time.Time, len(cfg.Schedules))},
	}
	opt := core.Options{
		Protection: cfg.protection(), Loads: cfg.Loads, MaxQueueModel: cfg.MaxQueueModel, Fresh: fresh, Stale: stale,
		StallAfter: cfg.StallAfter, StuckAfter: cfg.StuckAfter, OptimizeEvery: cfg.OptimizeEvery,
		KeepAlive: cfg.KeepAlive, StandbyFor: cfg.StandbyFor, NewGate: c.newGate,
		Room: func(p core.Promise) tier.Footprint { return safety.Room(promise(p, false), p.Memory) },
		Admit: func(p core.Promise, model *tier.Model, need tier.Footprint, background bool) error {
			return safety.Admit(promise(p, background), p.Memory, model, need)
		},
	}
	for _, a := range cfg.accounts {
		opt.Further = append(opt.Further, core.FurtherAccount{Name: a.name, Limit: a.limit, Takes: a.takes})
	}
	var err error
	if opt.FileBacked, err = m.fileBacked(m.ctx); err != nil {
		return err
	}
	traits, faults, err := m.traits(m.ctx, cfg.Models)
	if err == nil && m.leaveVersions(cfg, faults, kept) {
		traits, faults, err = m.traits(m.ctx, cfg.Models)
	}
	for i, fault := range faults {
		if fault != nil && slices.Contains(kept.hotAdded, cfg.Models[i].Name) {
			m.log.Warn("a model that was hot loaded before cannot be moved now", "model", cfg.Models[i].Name, "err", fault)
			faults[i] = nil
		}
	}
	if err != nil {
		return err
	}
	models, traits, err := m.library.sound(cfg.Models, traits, faults, m.library.hidden)
	if err != nil {
		return err
	}
	for name := range m.library.hidden {
		delete(kept.configured, name)
	}
	m.library.last = kept.configured
	c.core = core.New(cfg.Limits, opt)
	c.core.SetConfigured(kept.configured)
	if err := c.core.Add(models, traits, true); err != nil {
		return err
	}
	c.restore(kept)
	c.judgeAll()
	got := m.readMemory(m.ctx)
	c.now = time.Now()
	c.read(got)
	c.keepCalendar()
	c.publish()
	return nil
}

func promise(p core.Promise, background bool) safety.Promise {
	return safety.Promise{
		Background: background, Leaving: p.Leaving, Limits: p.Limits, Free: p.Free, Unseen: p.Unseen,
		Reclaimable: p.Reclaimable, Mapped: p.Mapped, Outside: p.Outside, FileBacked: p.FileBacked,
	}
}

// newGate makes the shared half of an entry.
func (c *control) newGate(e *core.Entry) core.Gate {
	s := &entry{core: e, name: e.Model.Name}
	s.gate = newGate(c.m, s)
	c.shared[e] = s
	return s.gate
}

// loop runs until the Manager is closed. Each turn looks at the mail and at the
// Manager's context, and is bounded.
func (m *Manager) loop() {
	defer close(m.loopDone)
	c := &m.ctl
	timer := time.NewTimer(0)
	defer timer.Stop()
	c.ticker = time.AfterFunc(m.cfg.ProbeEvery, c.every)
	defer c.ticker.Stop()
	var mail []func(time.Time)
	for m.ctx.Err() == nil {
		c.now = time.Now()
		mail = m.mail.take(mail)
		for _, fn := range mail {
			fn(c.now)
		}
		if wake := c.turn(); wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(wake), 0))
		}
		select {
		case <-m.mail.wake:
		case <-timer.C:
		case <-m.ctx.Done():
		}
	}
	c.end(m.mail.shut())
}

// end answers everything that still waits for the loop.
func (c *control) end(rest []func(time.Time)) {
	c.now = time.Now()
	c.core.Stop(tier.ErrClosed, c.now)
	for _, fn := range rest {
		fn(c.now)
	}
	c.core.Stop(tier.ErrClosed, c.now) // for requests that joined in the rest
	c.stopping = true
	c.turn()
	for _, ch := range c.idle {
		close(ch)
	}
	c.idle = nil
}

// loseAll tells those who hold leases that what serves their models goes. The loop has
// ended.
func (c *control) loseAll() {
	for _, e := range c.shared {
		e.gate.Close()
		e.gate.lose()
	}
}

// endJobs ends the jobs of movers that have not returned. The loop has ended.
func (c *control) endJobs(err error) {
	for _, g := range c.moves {
		g.work.Finish(err)
	}
	for _, j := range c.orders {
		j.work.Finish(err)
	}
}

// turn lets the core go on, does what it says, and returns when the loop has to
// look again.
func (c *control) turn() (wake time.Time) {
	c.readAccesses()
	for mv, g := range c.moves {
		at := c.m.start.Add(time.Duration(g.touched.Load()))
		if g.looking.Load() { // it is only looked at still
			at = c.now
		}
		c.core.Progressed(mv, at)
	}
	actions, wake := c.core.Step(c.now)
	for _, a := range actions {
		c.do(a)
	}
	if c.library != c.core.Library() {
		c.judgeAll() // a model is another, or an older version, by now
	}
	if c.core.Changed() {
		c.publish()
	}
	c.publishStandings()
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

// retryOrders gives orders again that waited for a reading.
func (c *control) retryOrders() {
	c.tasks = slices.DeleteFunc(c.tasks, func(t func(time.Time) bool) bool { return t(c.now) })
}

// publish makes the core's picture the one that requests read.
func (c *control) publish() {
	s := &snapshot{view: c.core.View(c.now), inUse: c.core.InUse(), limits: c.core.Limits(), reserved: c.reserved(), outside: c.core.OutsideHolders()}
	if c.library == nil || c.library != s.view.Library {
		entries := c.core.Entries()
		c.library, c.gates = s.view.Library, make([]*entry, len(entries))
		for i, e := range entries {
			c.gates[i] = c.shared[e]
			c.publishFailure(e) // it may be another model by now
		}
		if len(c.shared) > 2*len(entries)+64 { // most are removed by now
			keep := make(map[*core.Entry]*entry, len(entries))
			for _, e := range slices.Concat(entries, c.core.Residues()) {
				keep[e] = c.shared[e]
			}
			c.shared = keep
		}
	}
	s.entries = c.gates
	if c.core.KeepAlives() {
		for _, e := range s.entries {
			c.publishIdle(e)
		}
	}
	c.m.snap.Store(s)
}

// publishIdle makes known when a model leaves by idleness.
func (c *control) publishIdle(e *entry) {
	term := c.core.IdleTerm(e.core)
	if term == (core.IdleTerm{}) {
		e.idle.Store(nil)
	} else if was := e.idle.Load(); was == nil || *was != term {
		e.idle.Store(&term)
	}
}

// publishFailure makes known what last went wrong with a model.
func (c *control) publishFailure(e *core.Entry) {
	s, next := c.shared[e], failure{}
	if next.at, next.err = e.LastError(); next.err == nil {
		s.failure.Store(nil)
	} else if was := s.failure.Load(); was == nil || !was.at.Equal(next.at) {
		s.failure.Store(&next)
	}
}

// do carries out one action of the core.
func (c *control) do(a core.Action) {
	switch a := a.(type) {
	case core.Start:
		c.startMove(a.Move, a.Drop)
	case core.Urge:
		if g := c.moves[a.Move]; g != nil { // it may have ended in the same turn
			g.urge()
		}
	case core.Cancel:
		if g := c.moves[a.Move]; g != nil {
			g.work.Job().Cancel(a.Cause)
		}
	case core.Stuck:
		c.stuck(a.Move, a.Err)
	case core.Granted:
		a.Waiter.Reply(nil)
	case core.Refused:
		a.Waiter.Reply(a.Err)
	case core.OrderDone:
		c.orderDone(a.Order, a.Err)
	case core.RoomEnded:
		c.roomEnded(a)
	case core.Ask:
		c.plan(a.Question)
	case core.Read:
		c.askMemory()
	case core.LimitsDone:
		c.limitsDone(a)
	case core.Evicted:
		c.evicted(a)
	}
}

// join takes up a request that has to wait for e.
func (c *control) join(w *waiter, e *entry, began time.Time) {
	c.lookAgainFor(w, []*entry{e}, func() { c.joinAtOnce(w, e, began) })
}

// joinSet takes up a request that has to wait for all of the entries at once.
func (c *control) joinSet(w *waiter, entries []*entry, began time.Time) {
	c.lookAgainFor(w, entries, func() { c.joinSetAtOnce(w, entries, began) })
}

// lookAgainFor looks at the files of those entries that are in quarantine, and then, if the
// request has not left meanwhile, calls join.
func (c *control) lookAgainFor(w *waiter, entries []*entry, join func()) {
	for i, e := range entries {
		if e.core.Quarantine() == nil || c.stopping {
			continue
		}
		c.lookAgain(e.core, func() {
			if w.state.Load() == waits {
				c.lookAgainFor(w, entries[i+1:], join)
			}
		})
		return
	}
	join()
}

func (c *control) joinAtOnce(w *waiter, e *entry, began time.Time) {
	w.Entry, w.Claim = e.core, w.claim
	w.Reply = func(err error) { c.answer(w, e, err) }
	if c.stopping {
		if w.claim() {
			w.answer <- answer{err: tier.ErrClosed}
		}
		return
	}
	w.Since, w.Deadline = began, began.Add(c.m.cfg.MaxWait)
	c.used(e, began)
	c.core.Join(&w.Waiter, c.now)
}

func (c *control) joinSetAtOnce(w *waiter, entries []*entry, began time.Time) {
	w.Claim = w.claim
	w.Reply = func(err error) {
		a := answer{err: c.refusal(w, entries, err)}
		if err == nil {
			a.leases = make([]*Lease, len(entries))
			for i, e := range entries {
				a.leases[i] = c.grant(w, e)
			}
		}
		c.after = append(c.after, func() { w.answer <- a })
	}
	if c.stopping {
		if w.claim() {
			w.answer <- answer{err: tier.ErrClosed}
		}
		return
	}
	w.Since, w.Deadline = began, began.Add(c.m.cfg.MaxWait)
	for _, e := range entries {
		c.used(e, began)
		w.Set = append(w.Set, e.core)
	}
	c.core.JoinSet(&w.Waiter, c.now)
}

// answer hands a waiter its lease, which the gate has counted, or its error.
func (c *control) answer(w *waiter, e *entry, err error) {
	a := answer{err: c.refusal(w, []*entry{e}, err)}
	if err == nil {
		a.lease = c.grant(w, e)
	}
	c.after = append(c.after, func() { w.answer <- a })
}

// refusal takes note of a load that failed a waiter for the entries, and returns the error
// that it is told.
func (c *control) refusal(w *waiter, entries []*entry, err error) error {
	if failed, ok := errors.AsType[*tier.MoveError](err); ok {
		c.reported(tier.Outcome{Model: failed.Model, At: c.now, Waited: c.now.Sub(w.Since), Err: err})
	}
	busy, ok := err.(*tier.BusyError)
	if !ok {
		return err
	}
	// The core knows of the loads that are under way, not how long they take.
	var left time.Duration
	for _, e := range entries {
		if busy.Model == "" || busy.Model == e.name {
			left = max(left, e.standing.Load().left())
		}
	}
	if left == 0 {
		return err
	}
	later := *busy
	later.RetryAfter = left
	return &later
}

// grant makes a waiter's lease on e, which the gate has counted.
func (c *control) grant(w *waiter, e *entry) *Lease {
	from, moved := w.Moved[e.core]
	l := &Lease{stay: e.gate.settle(), moved: moved, waited: c.now.Sub(w.Since), at: c.now.Sub(c.m.start)}
	c.waits.add(l, from)
	c.reported(tier.Outcome{Model: l.stay.model.Name, At: c.now, Waited: l.waited})
	c.m.grantedEvent(l)
	return l
}

// plan asks the placement, on behalf of the core.
func (c *control) plan(q *core.Question) {
	c.teach(true)
	need := &q.Need
	if q.Idle {
		need = nil
	}
	p := new(tier.Plan) // the answer's own: a call that is stuck may write to it much later
	c.m.placement.mustAsk(planLimit, func(context.Context) error {
		began := time.Now()
		*p = c.m.cfg.Placement.Plan(&q.View, need)
		p.Err = planError(p.Err)
		p.Steps = slices.Clone(p.Steps)
		c.m.count.planning.add(time.Since(began))
		return nil
	}, func(err error) {
		var answer tier.Plan
		if err == nil {
			answer = *p
		}
		c.m.post(func(now time.Time) { c.planned(q, answer, err, now) })
	})
}

// planError returns what a placement says against a need, sealed. What is neither
// of the two errors that it may give counts as a lack of room.
func planError(err error) error {
	err = seal(err)
	if err == nil || errors.Is(err, tier.ErrNoCapacity) || errors.Is(err, tier.ErrTooLarge) {
		return err
	}
	return fmt.Errorf("%w: the placement found no plan: %v", tier.ErrNoCapacity, err)
}

func (c *control) planned(q *core.Question, p tier.Plan, err error, now time.Time) {
	if err != nil {
		c.m.log.Error("the placement failed", "err", err)
	}
	steps := c.core.Planned(q, p, err, now)
	if reply := c.optimize[q]; reply != nil {
		delete(c.optimize, q)
		c.after = append(c.after, func() { reply(Optimization{Steps: steps}, err) })
	}
}

// tick is what happens every ProbeEvery though nothing else does.
func (c *control) tick() {
	if c.m.ctx.Err() != nil {
		return
	}
	c.ticker.Reset(c.m.cfg.ProbeEvery)
	c.keepCalendar()
	c.observeAgain()
	c.lookAgainAtAll()
	if short := c.core.Shortfall(); short > 0 {
		c.reclaim(short, tier.ReasonOverdraft, "models take more than was declared")
	}
	c.teach(false)
	if !c.core.LastRequest().Before(c.remembered) && c.now.Sub(c.remembered) >= rememberEvery {
		c.remembered = c.now
		c.remember()
	}
	if c.now.Sub(c.m.snap.Load().view.Now) >= aged {
		c.publish()
	}
}

// stopIntake ends all that lets work in; leases that are held go on.
func (c *control) stopIntake() {
	c.stopping = true
	c.core.Stop(tier.ErrClosed, c.now)
	c.retryOrders() // each answers ErrClosed
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
	c.m.count.evict(a.Reason)
	ev := EvictEvent{At: c.now, Model: a.Entry.Model.Name, From: a.Entry.Tier(), To: a.To, For: a.For, Reason: a.Reason, Why: a.Why}
	if len(c.evictions) == keepEvictions {
		c.evictions = slices.Delete(c.evictions, 0, 1)
	}
	c.evictions = append(c.evictions, ev)
	c.m.log.Info("a model gives way", "model", ev.Model, "from", ev.From, "to", ev.To, "for", cmp.Or(ev.For, "no model"), "reason", ev.Reason, "why", ev.Why)
	if fn := c.m.cfg.Events.Evicted; fn != nil {
		c.m.events.Post(func() { fn(ev) })
	}
}

// mailbox takes what others want done by the loop.
type mailbox struct {
	mu     sync.Mutex // guards the rest
	fns    []func(now time.Time)
	closed bool

	wake chan struct{} // holds a token when the loop has something to look at
}

// post has the loop run fn. It reports false once the loop takes no more; fn is
// then not run.
func (m *Manager) post(fn func(now time.Time)) bool {
	b := &m.mail
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.fns = append(b.fns, fn)
	b.mu.Unlock()
	m.kick()
	return true
}

// kick wakes the loop.
func (m *Manager) kick() {
	select {
	case m.mail.wake <- struct{}{}:
	default:
	}
}

func (b *mailbox) take(into []func(time.Time)) []func(time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	into = append(into[:0], b.fns...)
	clear(b.fns)
	b.fns = b.fns[:0]
	return into
}

// shut ends the box and returns what is still in it.
func (b *mailbox) shut() []func(time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	rest := b.fns
	b.fns = nil
	return rest
}
