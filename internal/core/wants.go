package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// want is one model that somebody waits for: requests, an order, or both.
type want struct {
	e       *Entry
	order   *Order // hot load
	waiters []*Waiter
	since   time.Time // when the oldest of them came
	plan    *plan

	settled bool      // the placement said to serve it where it is
	blocked bool      // no plan until progress differs from seen
	seen    uint64    // progress at the last attempt
	till    time.Time // until when what has left is waited for, at that attempt; zero: nothing is
	busy    bool      // somebody was in use when the placement was asked
	patient bool      // busy models may be drained for it
	tries   int       // plans that came to nothing
	taken   int       // plans that wanted what was in use
	denied  error     // why the last attempt did not go on
}

// errCalledOff is the cause of a move that nobody waits for any more.
var errCalledOff = errors.New("called off: nobody waits for it any more and others do")

// Join adds a request that waits for its entry. The owner has checked that the
// queue has room for it.
func (c *Core) Join(w *Waiter, now time.Time) {
	if w.Entry.removed || w.Entry.leaving() {
		c.refuse(w, unknown(w.Entry))
		return
	}
	w.Entry.ordered = false
	x := c.wantOf(w.Entry, now)
	x.waiters = append(x.waiters, w)
	if m := w.Entry.move; m != nil && m.To > m.From {
		m.Demand = true
	}
	c.progress++
}

func (c *Core) wantOf(e *Entry, now time.Time) *want {
	if e.want == nil {
		e.want = &want{e: e, since: now}
		c.wants = append(c.wants, e.want)
		c.homes = slices.DeleteFunc(c.homes, func(h *Entry) bool { return h == e })
	}
	return e.want
}

// Leave tells that the waiter has given up; it was not answered.
func (c *Core) Leave(w *Waiter) {
	x := w.Entry.want
	if x == nil {
		return
	}
	x.waiters = slices.DeleteFunc(x.waiters, func(y *Waiter) bool { return y == w })
	c.progress++
}

func (c *Core) refuse(w *Waiter, err error) {
	if w.Claim() {
		c.emit(Refused{w, err})
	}
}

// fail answers all who wait for the want's model with err, and ends the want.
func (c *Core) fail(x *want, err error) {
	if !c.hard() {
		c.settle(x.e) // it had its turn
	}
	for _, w := range x.waiters {
		c.refuse(w, err)
	}
	x.waiters = nil
	if x.order != nil {
		o := x.order
		x.order = nil
		c.endOrder(o, err)
	}
	c.drop(x)
}

// drop ends a want that nobody is left to wait for. Its move, if one runs, goes
// on; what was only planned is called off.
func (c *Core) drop(x *want) {
	if x.plan != nil {
		c.abandon(x.plan)
	}
	if x.e.want == x {
		x.e.want = nil
	}
	c.wants = slices.DeleteFunc(c.wants, func(y *want) bool { return y == x })
	if e := x.e; e.serving && e.tier == tier.Swap && e.move == nil && e.Gate.Leases() == 0 {
		c.retire(e)
	}
	c.progress++
}

// expire refuses the waiters whose time is up.
func (c *Core) expire(now time.Time) {
	for _, x := range slices.Clone(c.wants) {
		late := func(w *Waiter) bool { return !w.Deadline.IsZero() && !now.Before(w.Deadline) }
		if !slices.ContainsFunc(x.waiters, late) {
			continue
		}
		err := c.overdue(x, now)
		x.waiters = slices.DeleteFunc(x.waiters, func(w *Waiter) bool {
			if late(w) {
				c.refuse(w, err)
				return true
			}
			return false
		})
		c.progress++
	}
}

func (c *Core) overdue(x *want, now time.Time) error {
	waited := now.Sub(x.since).Round(time.Millisecond)
	why := "the load is still running"
	switch {
	case x.denied != nil:
		why = x.denied.Error()
	case x.plan != nil && x.e.move == nil:
		why = "models that have to leave for it are in use"
	}
	return &tier.BusyError{
		Model: x.e.Model.Name, Queued: len(x.waiters), RetryAfter: max(c.opt.Fairness, time.Second),
		Reason: fmt.Sprintf("Model '%s' was not ready within %v: %s", x.e.Model.Name, waited, why),
	}
}

// serveAll carries on with every want, in the order of who goes first:
// interactive before background, unless that one has waited for longer than the
// fairness bound, and then by age.
func (c *Core) serveAll(now time.Time) {
	late := func(x *want) int {
		if x.order == nil && slices.ContainsFunc(x.waiters, func(w *Waiter) bool { return !w.Background }) ||
			now.Sub(x.age()) >= c.opt.Fairness {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(c.wants, func(a, b *want) int {
		return cmp.Or(cmp.Compare(late(a), late(b)), a.age().Compare(b.age()))
	})
	for _, x := range slices.Clone(c.wants) {
		if x.e.want == x {
			c.serve(x, now)
		}
	}
}

// serve does what can be done for one want now.
func (c *Core) serve(x *want, now time.Time) {
	e := x.e
	if x.order == nil && len(x.waiters) == 0 {
		c.drop(x)
		return
	}
	switch {
	case e.stuck:
		c.fail(x, &tier.StuckError{Model: e.Model.Name, What: "A move", Bytes: e.charge[tier.RAM]})
	case e.move != nil || e.victim != nil:
		// Its own move, or one that takes it away: both end.
	case e.next != nil && e.tier == tier.Storage:
		// It becomes another first.
	case x.order != nil && e.tier == x.order.To:
		o := x.order
		x.order = nil
		c.endOrder(o, nil)
	case e.leaves() && x.order == nil:
		// It goes to storage first.
	case e.tier == tier.RAM && x.order == nil:
		e.Gate.Open()
		c.grant(x)
	case e.tier == tier.Swap && x.order == nil && (e.serving || x.settled):
		c.serveInPlace(x, now)
	case x.order == nil && c.makesDo(x, now):
		// Planned without the placement: memory is short.
	case now.Before(e.coolTill):
		c.fail(x, e.cooling(now))
	case c.asked != nil:
		// Planned carries on.
	case x.plan != nil && (!x.plan.drains() || x.seen == c.progress):
		// advanceAll carries on. While it waits for a drain, others may leave.
	case c.before(x, now) != nil:
		// It waits for its turn.
	case x.blocked && x.seen == c.progress && (x.till.IsZero() || now.Before(x.till)) && (x.patient || now.Sub(x.since) < c.opt.Fairness):
	default:
		if x.blocked && now.Sub(x.since) >= c.opt.Fairness {
			x.patient = true
		}
		c.ask(&Question{want: x, Need: c.need(x)}, now)
	}
}

// grant gives every waiter its lease. The gate counts it before anything else
// can be decided, so no eviction comes between.
func (c *Core) grant(x *want) {
	for i, w := range x.waiters {
		if i > 0 && planted(lostWaiter) {
			break
		}
		if w.Claim() {
			x.e.Gate.Grant()
			c.emit(Granted{w})
		}
	}
	x.waiters = nil
	c.settle(x.e)
	c.drop(x)
}

// serveInPlace grants leases on a swap-tier model where it is, once its runtime
// bytes are set aside.
func (c *Core) serveInPlace(x *want, now time.Time) {
	e := x.e
	if !e.serving {
		need := tier.Footprint{tier.RAM: e.Model.Runtime}
		if err := c.admit(&e.Model, need, tier.Footprint{}, false, now); err != nil {
			if !errors.Is(err, errReading) {
				x.settled = false
				c.block(x, err, now)
			}
			return
		}
		res, err := c.ledger.Reserve(need)
		if err != nil {
			x.settled = false
			c.block(x, err, now)
			return
		}
		c.commit(e, res, e.charge.Plus(need), now)
		e.serving = true
	}
	c.grant(x)
}

// need says what a plan for the want is to reach.
func (c *Core) need(x *want) tier.Need {
	n := tier.Need{Waiters: len(x.waiters), Patient: x.patient && x.plan == nil, Background: true}
	n.Model, _ = c.library.Find(x.e.Model.Name)
	n.Room[tier.RAM] = max(x.e.peak-x.e.Model.Size.Plus(x.e.Model.Runtime), 0)
	if x.order != nil {
		n.To = x.order.To
	}
	for _, w := range x.waiters {
		n.Background = n.Background && w.Background
	}
	return n
}

// block puts the want aside until something changes, or fails it where nothing
// that the core knows of could help.
func (c *Core) block(x *want, err error, now time.Time) {
	err = c.outgrown(x.e, err)
	x.denied = err
	if errors.Is(err, tier.ErrTooLarge) || !c.hope(x, now) {
		c.fail(x, c.explain(x, err))
		return
	}
	x.blocked, x.seen, x.till = true, c.progress, c.comesBack(now)
	c.readDue = c.readDue || c.dirty && c.readErr == nil // what left since may be back by now
	c.yield()
}

// comeBack is how long bytes that were to be gone, and are still seen, are
// expected to go. A want that needs them waits for that long.
const comeBack = 10 * time.Second

// comesBack returns until when such bytes are waited for, whether anybody looks for
// them meanwhile or not; zero: there are none.
func (c *Core) comesBack(now time.Time) (until time.Time) {
	for _, e := range c.Leftovers() {
		if t := e.since.Add(comeBack); t.After(now) && t.After(until) {
			until = t
		}
	}
	return until
}

// hope reports whether anything that is going on may make room for the want.
func (c *Core) hope(x *want, now time.Time) bool {
	moves := func(m *Move) bool { return !m.stuck }
	if slices.ContainsFunc(c.running, moves) || len(c.queue) > 0 || len(c.plans) > 0 {
		return true
	}
	// A reading that failed may be followed by one that does not.
	if c.dirty && (c.readErr == nil || now.Sub(c.readAt) <= c.opt.Stale) {
		return true
	}
	if !c.comesBack(now).IsZero() {
		return true
	}
	if x.patient {
		return false // draining everybody was considered
	}
	// Who was in use when the placement was asked may be so no more.
	return x.busy || slices.ContainsFunc(c.entries, func(e *Entry) bool {
		return e != x.e && e.tier != tier.Storage && !e.Model.Pinned && !e.stuck &&
			(e.Waiters() > 0 || e.Gate.Leases() > 0 || c.held(e, now))
	})
}

// explain names who holds the room, and the model that did not get it.
func (c *Core) explain(x *want, err error) error {
	ce, ok := errors.AsType[*tier.CapacityError](err)
	if !ok {
		return err
	}
	n := *ce
	n.Model = x.e.Model.Name
	if len(n.Holders) == 0 && !n.Never {
		n.Holders = c.Holders(n.Tier)
	}
	return &n
}

// Holders returns who holds room in tier t, largest first.
func (c *Core) Holders(t tier.Tier) []tier.Holder {
	var hs []tier.Holder
	for _, e := range slices.Concat(c.entries, c.ghosts) {
		b := e.charge[t]
		if e.move != nil {
			b += e.move.Held()[t]
		}
		if b > 0 {
			hs = append(hs, tier.Holder{
				Model: e.Model.Name, Bytes: b, Leases: e.Gate.Leases(),
				Pinned: e.Model.Pinned, Moving: e.move != nil, Stuck: e.stuck,
			})
		}
	}
	slices.SortStableFunc(hs, func(a, b tier.Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return hs
}
