package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// errReading: the admission needs a fresh reading first, which was asked for.
var errReading = errors.New("memory is being read")

// admit asks the guard whether need may be promised, to somebody who holds own
// reservations already.
func (c *Core) admit(m *tier.Model, need, own tier.Footprint, background bool, now time.Time) error {
	old := c.readAt.IsZero() || now.Sub(c.readAt) > c.opt.Fresh
	switch {
	case need[tier.RAM] <= 0:
	case old && (c.triedAt.IsZero() || now.Sub(c.triedAt) > c.opt.Fresh):
		c.readDue = true
		return errReading
	case c.readErr != nil && (c.readAt.IsZero() || now.Sub(c.readAt) > c.opt.Stale):
		return &tier.CapacityError{
			Model: m.Name, Tier: tier.RAM, Need: need[tier.RAM], Limit: c.limits().RAM,
			Reason: fmt.Sprintf("Memory cannot be read, so none is promised: %v", c.readErr),
		}
	}
	err := c.opt.Admit(c.promise(own), m, need, background)
	if err != nil && c.dirty && c.readErr == nil {
		c.readDue = true // what left since may be back by now
		return errReading
	}
	return err
}

// begin sets the move's bytes aside and queues it. The entry's gate is closed
// and nobody holds a lease. claim, if not nil, is room set aside before.
func (c *Core) begin(m *Move, claim *tier.Reservation, serve bool, now time.Time) error {
	e := m.Entry
	need := e.peaked(m.Footprint(serve && m.To == tier.Swap), m.To).Beyond(e.own())
	if claim == nil {
		claim, _ = c.ledger.Reserve(tier.Footprint{})
	}
	if m.To > m.From || need[tier.RAM] > 0 {
		if err := c.admit(&e.Model, need, claim.Held(), !m.Demand, now); err != nil {
			return err
		}
	} else if free := c.promise(claim.Held()).Free; need[tier.Swap] > free[tier.Swap] {
		return &tier.CapacityError{Model: e.Model.Name, Tier: tier.Swap, Need: need[tier.Swap], Free: free[tier.Swap], Limit: c.limits().Swap}
	}
	if err := c.ledger.Grow(claim, need.Beyond(claim.Held())); err != nil {
		return err
	}
	m.res = claim
	e.move, e.victim = m, nil
	e.serving = serve && m.To == tier.Swap
	if c.takes(m) {
		m.first, c.begun = !c.begun, true
	}
	c.queue = append(c.queue, m)
	c.changed = true
	c.progress++
	return nil
}

func (c *Core) commit(e *Entry, res *tier.Reservation, now tier.Footprint, at time.Time) {
	if err := c.ledger.Commit(res, e.charge, now); err != nil {
		panic("core: " + err.Error())
	}
	if planted(doubleCommit) {
		if again, err := c.ledger.Reserve(now.Beyond(e.charge)); err == nil {
			c.ledger.Commit(again, tier.Footprint{}, again.Held())
		}
	}
	if more := now[tier.RAM] - e.charge[tier.RAM]; more > 0 {
		c.unseen, c.unseenAt = c.unseen+more, at
	}
	e.charge = now
	c.dirty, c.changed = true, true
}

// Outcome is how a move ended.
type Outcome struct {
	Err error
	// Observed: Present and Reclaimable were asked of the kernel after the end.
	Observed bool
	Seen
}

// MoveEnded tells that the mover has returned, or that the move was never
// started.
func (c *Core) MoveEnded(m *Move, out Outcome, now time.Time) {
	e := m.Entry
	c.running = slices.DeleteFunc(c.running, func(r *Move) bool { return r == m })
	c.queue = slices.DeleteFunc(c.queue, func(r *Move) bool { return r == m })
	if e.move != m {
		return
	}
	e.move, e.stuck = nil, false
	c.changed = true
	if out.Observed {
		e.Reclaimable = out.Reclaimable
	}
	if out.Err == nil {
		c.arrive(m, out, now)
	} else {
		c.turnBack(m, out, now)
	}
	c.progress++
	if m.To >= m.From {
		e.cool(m, out.Err, now)
	}
	if m.home && calledOff(out.Err) && e.next == nil {
		c.homes = append(c.homes, e) // when it is quiet again
	}
	x := e.want
	// It goes on waiting where there was less memory than promised: see makesDo.
	short := out.Err != nil && x != nil && x.order == nil && (m.yielded || (m.To == tier.RAM || m.Keep > 0) && e.short(now) && c.streams(e))
	again := short || out.Err != nil && c.retryAlone(m, out.Err)
	o := m.Order
	m.Order = nil
	if p := m.plan; p != nil {
		for _, s := range p.steps {
			s.done = s.done || s.move == m
		}
		if out.Err != nil {
			c.broken(p, out.Err, now)
		} else if slices.Contains(c.plans, p) {
			c.claim(p)
		}
	}
	if x = e.want; x != nil {
		if short && m.yielded {
			place := x.age()
			if m.first {
				place = now // it had as long a time as there is
			}
			c.owe(e, place)
		}
		if out.Err != nil && !again && m.To >= m.From && !calledOff(out.Err) {
			c.fail(x, out.Err)
		} else {
			for _, w := range x.waiters {
				if !w.Moved {
					w.Moved, w.From = true, m.From
				}
			}
		}
	}
	if o != nil {
		c.endOrder(o, out.Err)
	}
	if out.Err != nil && m.To == tier.Storage && !m.cancelled {
		e.staysTill = now.Add(coolFirst)
	}
	if e.serving && e.want == nil && e.Gate.Leases() == 0 {
		c.retire(e) // whoever it was to serve has left
	}
	c.reopen(e)
}

// reopen lets leases be taken on an entry that is in ram and in nobody's hands.
func (c *Core) reopen(e *Entry) {
	if e.tier == tier.RAM && e.idle() && !e.leaves() && e.want == nil && !c.stopped {
		e.Gate.Open()
	}
}

// Cool-down: from the second failed load in a row on, a model is left alone for
// coolFirst, and twice as long after each further one, coolMost at most.
const (
	coolFirst = time.Second
	coolMost  = time.Minute
)

// coolDown is how long a model is left alone that has been so before that often.
func coolDown(before int) time.Duration { return min(coolFirst<<min(before, 16), coolMost) }

func (e *Entry) cool(m *Move, err error, now time.Time) {
	switch {
	case err == nil:
		e.failures, e.lastErr, e.coolTill = 0, nil, time.Time{}
		if m.To == tier.RAM {
			e.shortTill = time.Time{}
		}
	case m.cancelled:
	default:
		e.failures++
		e.lastErr = err
		if errors.Is(err, tier.ErrNoCapacity) {
			e.shortTill = now.Add(coolMost)
		}
		if e.failures > 1 {
			e.coolTill = now.Add(coolDown(e.failures - 2))
		}
	}
}

// A model that is lost within soon of its load is left alone from the third time
// in a row on, for as long as after failed loads: fewer may be an accident.
const (
	soon     = 10 * time.Second
	accident = 2
)

func (e *Entry) lost(cause error, now time.Time) {
	if now.Sub(e.since) >= soon {
		e.losses = 0
	}
	if e.losses++; e.losses > accident {
		e.lastErr = cause
		e.coolTill = now.Add(coolDown(e.losses - accident - 1))
	}
}

// cooling is the error of a request for a model that is left alone for a while.
func (e *Entry) cooling(now time.Time) error {
	left := e.coolTill.Sub(now)
	how := fmt.Sprintf("failed to load %d times", e.failures)
	if e.failures == 0 {
		how = fmt.Sprintf("was lost %d times soon after its load", e.losses)
	}
	return &tier.BusyError{
		Model: e.Model.Name, RetryAfter: left, Cause: e.lastErr,
		Reason: fmt.Sprintf("Model '%s' %s and is tried again in %v: %v", e.Model.Name, how, left.Round(time.Millisecond), e.lastErr),
	}
}

// arrive books a move that succeeded: what was seen to be present stays
// charged, as far as it was charged or set aside.
func (c *Core) arrive(m *Move, out Outcome, now time.Time) {
	e := m.Entry
	bound := e.charge.Plus(m.res.Held())
	others := e.charge[tier.RAM] - e.own()[tier.RAM]
	kept, left := min(max(m.Keep, 0), e.Model.Size), m.Leave
	rest := e.in(m.To, kept, left)
	switch {
	case !out.Observed:
	case m.To == tier.Swap:
		if over := min(out.Present, e.Model.Size) + rest[tier.RAM] - kept - bound[tier.RAM]; e.serving && over > 0 {
			// What was to go so that the runtime bytes have room is still there.
			if c.ledger.Grow(m.res, tier.Footprint{tier.RAM: over}) == nil {
				bound[tier.RAM] += over
			} else {
				e.serving = false
				rest = e.in(m.To, kept, left)
				if e.want != nil {
					e.want.tries++ // it is planned anew
				}
			}
		}
		least := max(e.Model.Size-left-bound[tier.Swap], 0)
		most := min(e.Model.Size, bound[tier.RAM]-others-(rest[tier.RAM]-kept))
		kept = max(min(out.Present, most), least)
		left = min(left, e.Model.Size-kept) // what was to be in storage and is seen is not
		rest = e.in(tier.Swap, kept, left)
	case m.To == tier.Storage:
		rest[tier.RAM] = max(min(out.Present, bound[tier.RAM]), 0)
	}
	if m.To > m.From {
		e.loadTook = now.Sub(m.startedAt)
		c.settle(e)
	}
	e.clings = out.Observed && m.From == tier.Swap && m.To == tier.Swap && m.Keep < e.kept && kept >= e.kept
	e.tier, e.kept, e.left, e.since = m.To, 0, 0, now
	e.gone = e.gone && m.To != tier.Storage
	e.foreign = e.foreign && m.To == tier.Storage
	if m.To == tier.Swap {
		e.kept, e.left = kept, left
	}
	e.serving = e.serving && m.To == tier.Swap
	e.usesAtLoad = e.Gate.Uses() + uint64(e.Waiters())
	if c.weigh(e, out.Seen); m.To == tier.RAM {
		rest = e.rest()
	}
	if out.Observed && m.To > tier.Storage {
		// What another model of this name has left is seen beside it.
		rest[tier.RAM] = rest[tier.RAM].Plus(max(out.Present-e.expected(), 0))
	}
	rest[tier.RAM] = min(max(rest[tier.RAM], e.taken), bound[tier.RAM]) // cover charges the rest
	c.commit(e, m.res, rest, now)
	c.overdrawn = c.overdrawn || e.Overdraft() > 0
}

// turnBack books a move that failed: the model is where it was, or in storage.
func (c *Core) turnBack(m *Move, out Outcome, now time.Time) {
	e := m.Entry
	e.serving = false
	e.peak = max(e.peak, out.Peak)
	me, ok := errors.AsType[*tier.MoveError](out.Err)
	lost := ok && me.Lost
	// A load that failed leaves nothing behind, or so movers promise; of one that was
	// just called off, pages may still be on their way out, and are waited for.
	if here := max(out.Present, out.Taken) - e.charge[tier.RAM]; !lost && out.Observed && e.tier == tier.Storage && here > 0 {
		e.since = now
		c.commit(e, m.res, e.charge.Plus(tier.Footprint{tier.RAM: min(here, m.res.Held()[tier.RAM])}), now)
		return
	}
	if !lost {
		// Only where memory was set aside may there be more of it now. A model that
		// could not leave changed nothing, and a fresh reading would have it tried
		// again at once, without end.
		c.dirty = c.dirty || m.res.Held()[tier.RAM] > 0
		c.refund(m.res)
		return
	}
	var left tier.Footprint
	if out.Observed {
		left[tier.RAM] = min(max(out.Present, 0), e.charge[tier.RAM])
	}
	e.tier, e.kept, e.left, e.taken, e.since = tier.Storage, 0, 0, 0, now
	e.gone = false
	c.commit(e, m.res, left, now)
}

// MoveStuck tells that the mover did not return in time though it was called
// off. Its bytes stay charged and set aside until it does.
func (c *Core) MoveStuck(m *Move, err error) {
	e := m.Entry
	if e.move != m {
		return
	}
	e.stuck, m.stuck = true, true
	c.changed = true
	o := m.Order
	m.Order = nil
	if m.plan != nil {
		p := m.plan
		m.plan = nil
		c.abandon(p)
	}
	if e.want != nil {
		c.fail(e.want, err)
	}
	if o != nil {
		c.endOrder(o, err)
	}
	c.progress++
}

// CancelMove calls a move off: a queued one ends at once, a started one when its
// mover returns.
func (c *Core) CancelMove(m *Move, cause error, now time.Time) {
	switch {
	case m.Entry.move != m:
	case m.cancelled:
		m.yielded = false
	case !m.started:
		m.cancelled = true
		c.MoveEnded(m, Outcome{Err: &tier.MoveError{Model: m.Model.Name, From: m.From, To: m.To, Err: cause}}, now)
	default:
		m.cancelled = true
		c.emit(Cancel{m, cause})
	}
}

// yield calls off the moves that nobody waits for, because somebody waits for
// the room or the turn that they take.
func (c *Core) yield() {
	for _, m := range c.Moves() {
		waited := m.Order != nil || m.plan != nil && m.plan.want != nil || m.plan != nil && m.plan.limiting != nil || m.Entry.want != nil
		if !waited && m.To > m.From {
			c.CancelMove(m, errCalledOff, time.Time{})
		}
	}
}

// bringHome starts to bring the next model to its home tier, where there is room
// without anybody leaving and nobody waits for anything.
func (c *Core) bringHome(now time.Time) {
	for len(c.homes) > 0 && !c.pressed && len(c.wants) == 0 && !c.planned() && len(c.queue) == 0 {
		if slices.ContainsFunc(c.running, (*Move).loads) {
			return
		}
		e := c.homes[0]
		if e.idle() && e.next == nil && !e.gone && e.want == nil && e.Gate.Leases() == 0 && e.tier < e.Model.Home {
			m := &Move{Move: tier.Move{Model: e.Model, From: e.tier, To: e.Model.Home}, Entry: e, Why: "to its home tier", home: true}
			if err := c.begin(m, nil, false, now); errors.Is(err, errReading) {
				return
			}
		}
		c.homes = c.homes[1:]
	}
}
