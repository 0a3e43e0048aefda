package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Waiter is one request that waits for one model, for several at once, or for room for
// an outsider.
type Waiter struct {
	Entry      *Entry
	Set        []*Entry  // if it waits for several: one for each lease
	Outsider   *Outsider // if it waits for room
	Background bool
	// Since is when it came, Deadline when it is refused if it still waits.
	Since, Deadline time.Time
	// Claim decides whether the waiter is still there: the core calls it right
	// before it answers, and answers only where it returns true.
	Claim func() bool
	// Reply is the owner's, who calls it for Granted, with nil, and for Refused.
	Reply func(error)
	// Moved are the models whose bytes had to move for it, and their tiers before that.
	Moved map[*Entry]tier.Tier

	demand *demand // what it is part of, though that may have ended
}

// demand is one model that requests, a hot load, or both wait for, a set of models, or
// the room that an outsider waits for.
type demand struct {
	e        *Entry      // nil: it is a set's or an outsider's
	members  []*Entry    // the models of a set, by name, each once
	places   []residence // where they are to be served, as of the last attempt
	outsider *Outsider   // nil: it is a model's or a set's

	order   *Order // hot load
	waiters []*Waiter
	since   time.Time // when the oldest of them came
	plan    *plan

	ended     bool      // all are answered, or have left
	seeks     bool      // it wants a plan, as of the last Step
	settled   bool      // the placement said to serve it where it is; of a set, where its places are
	blocked   bool      // no plan until progress differs from seen
	seen      uint64    // progress at the last attempt
	till      time.Time // when time alone may help, as of that attempt; zero: it may not
	busy      bool      // some model was in use when the placement was asked
	patient   bool      // busy models may be drained for it
	tries     int       // plans that came to nothing
	taken     int       // plans that named what was in use by then
	overtaken int       // refusals that went by what was no longer so
	denied    error     // why the last attempt did not go on

	attempts  int       // since a move of its plans began
	notBefore time.Time // no attempt before; zero: at once
}

// Join adds a request that waits for its entry.
func (c *Core) Join(w *Waiter, now time.Time) {
	e := w.Entry
	switch n := e.Waiters(); {
	case e.gone():
		c.refuse(w, unknown(e))
		return
	case c.opt.MaxQueueModel > 0 && n >= c.opt.MaxQueueModel:
		c.refuse(w, &tier.BusyError{Model: e.Model.Name, Queued: n, RetryAfter: c.opt.Protection.Fairness})
		return
	}
	e.sent = false
	x := c.demandOf(e, now)
	w.demand = x
	x.waiters = append(x.waiters, w)
	if e.move != nil { // whichever way: it waits for the end of one that goes down, too
		c.urge(e.move)
	}
	c.mark(progressed)
}

// name names for whom the demand is.
func (x *demand) name() string {
	if x.outsider != nil {
		return x.outsider.name()
	}
	return x.model().Name
}

// model is the model of a demand; for a set one of all their names, for an outsider one
// without.
func (x *demand) model() *tier.Model {
	switch {
	case x.e != nil:
		return &x.e.Model
	case x.outsider != nil:
		return &tier.Model{}
	}
	names := make([]string, len(x.members))
	for i, e := range x.members {
		names[i] = e.Model.Name
	}
	return &tier.Model{Name: strings.Join(names, ", ")}
}

func (c *Core) demandOf(e *Entry, now time.Time) *demand {
	if e.demand == nil {
		e.demand = &demand{e: e, since: now}
		e.homeward = false
		c.demands = append(c.demands, e.demand)
	}
	return e.demand
}

// Leave tells that the waiter has given up; it was not answered.
func (c *Core) Leave(w *Waiter) {
	x := w.demand
	if x == nil || x.ended {
		return
	}
	x.waiters = slices.DeleteFunc(x.waiters, func(y *Waiter) bool { return y == w })
	c.mark(progressed)
}

func (c *Core) refuse(w *Waiter, err error) {
	if w.Claim() {
		c.emit(Refused{w, err})
	}
}

// fail answers all who wait for the demand's model with err, and ends it.
func (c *Core) fail(x *demand, err error) {
	if x.e != nil && !c.pressureHigh() {
		c.endTurn(x.e) // it had its turn
	}
	for _, w := range x.waiters {
		c.refuse(w, err)
	}
	x.waiters = nil
	c.endOrder(x.order, err)
	c.drop(x)
	if x.outsider != nil {
		c.comeHome(x.outsider)
	}
}

// drop ends a demand. Its move, if one runs, goes on; what was only planned is
// called off.
func (c *Core) drop(x *demand) {
	if x.plan != nil {
		c.abandon(x.plan)
	}
	c.demands = slices.DeleteFunc(c.demands, func(y *demand) bool { return y == x })
	x.ended = true
	if x.e != nil {
		x.e.demand = nil
		c.reopen(x.e)
	}
	for _, e := range x.members {
		e.sets = slices.DeleteFunc(e.sets, func(y *demand) bool { return y == x })
		c.reopen(e)
	}
	c.mark(progressed)
}

// expire refuses the waiters whose time is up.
func (c *Core) expire(now time.Time) {
	late := func(w *Waiter) bool { return !w.Deadline.IsZero() && !now.Before(w.Deadline) }
	for _, x := range slices.Clone(c.demands) {
		if !slices.ContainsFunc(x.waiters, late) {
			continue
		}
		err := c.overdue(x, now)
		x.waiters = slices.DeleteFunc(x.waiters, func(w *Waiter) bool {
			switch {
			case !late(w):
				return false
			case x.e == nil || !x.e.servesOld():
				c.refuse(w, err)
			case w.Claim(): // rather than that it fails because the model becomes another
				w.take()
				c.emit(Granted{w})
			}
			return true
		})
		c.mark(progressed)
	}
}

func (c *Core) overdue(x *demand, now time.Time) error {
	waited := now.Sub(x.since).Round(time.Millisecond)
	why, what, model := "the load is still running", "", ""
	switch {
	case x.outsider != nil:
		what = fmt.Sprintf("Room of %v was not free", x.outsider.Bytes)
	case x.members != nil:
		what = fmt.Sprintf("Models %s were not ready together", x.listed())
	default:
		model = x.e.Model.Name
		what = fmt.Sprintf("Model '%s' was not ready", model)
	}
	switch {
	case x.denied != nil:
		why = x.denied.Error()
	case c.asked != nil && c.asked.demand == x:
		why = "the placement has not answered yet"
	case x.plan != nil && !x.moves():
		why = "models that have to leave for it are in use"
	}
	return &tier.BusyError{
		Model: model, Queued: len(x.waiters), RetryAfter: max(c.opt.Protection.Fairness, time.Second),
		Reason: fmt.Sprintf("%s within %v: %s", what, waited, why),
	}
}

// moves reports whether a model that the demand is for is on the move.
func (x *demand) moves() bool {
	return x.e != nil && x.e.move != nil || slices.ContainsFunc(x.members, func(e *Entry) bool { return e.move != nil })
}

// age returns since when the demand waits, or its place among the models that
// pressure keeps out: since when the first request was refused for it. A load that
// is called off keeps its place, but goes to the end if it was the first to be
// begun after pressure: it may be one that no gap between two waves is long enough
// for. So each of n models is the first in line in one of n gaps.
func (x *demand) age() time.Time {
	if x.e == nil || x.e.turn.IsZero() {
		return x.since
	}
	return x.e.turn
}

// serveAll carries on with every demand, in the order of who goes first:
// interactive before background, unless that one has waited for longer than the
// fairness bound, and then by age.
func (c *Core) serveAll(now time.Time) {
	if len(c.demands) == 0 {
		return
	}
	rank := func(x *demand) int {
		if x.order == nil && slices.ContainsFunc(x.waiters, func(w *Waiter) bool { return !w.Background }) ||
			now.Sub(x.age()) >= c.opt.Protection.Fairness {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(c.demands, func(a, b *demand) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.age().Compare(b.age()))
	})
	for _, x := range slices.Clone(c.demands) {
		if !x.ended {
			c.serve(x, now)
		}
	}
}

// serve does what can be done for one demand now.
func (c *Core) serve(x *demand, now time.Time) {
	e := x.e
	x.seeks = false
	if x.order == nil && len(x.waiters) == 0 {
		if c.drop(x); x.outsider != nil {
			c.comeHome(x.outsider)
		}
		return
	}
	switch {
	case x.outsider != nil:
		c.serveOutsider(x, now)
	case x.members != nil:
		c.serveSet(x, now)
	case e.Stuck():
		c.fail(x, &tier.StuckError{Model: e.Model.Name, What: "A move", Bytes: e.charge[tier.RAM]})
	case e.phase != resting:
		// Its own move, or one that takes it away: both end.
	case e.fate == pendingRemoval && x.order == nil:
		c.fail(x, unknown(e))
	case e.fate == replaced && e.tier == tier.Storage:
		// It becomes another first.
	case x.order != nil && e.tier == x.order.To:
		c.endOrder(x.order, nil)
	case e.unloading() && x.order == nil:
		// It goes to storage first.
	case e.quarantine != nil && e.tier == tier.Storage:
		c.fail(x, e.quarantine)
	case e.tier == tier.RAM && x.order == nil:
		e.Gate.Open()
		c.grant(x)
	case e.tier == tier.Swap && x.order == nil && (e.serving || x.settled):
		if c.serveInPlace(x, now); e.demand == x && !x.settled {
			c.serve(x, now) // the placement may have to be asked at once
		}
	case x.order == nil && e.keptFrom(x):
		// It comes with a set that it is one of.
	case now.Before(x.notBefore):
		x.seeks = true // though its attempts change nothing: see attempt
	case x.order == nil && c.serveUnderPressure(x, now):
		// Planned without the placement: memory is short.
	case now.Before(e.coolUntil):
		c.fail(x, e.cooling(now))
	case c.mayAsk(x, now):
		c.askFor(x, now)
	}
}

// mayAsk reports whether the placement is to be asked for the demand now.
func (c *Core) mayAsk(x *demand, now time.Time) bool {
	x.seeks = true
	switch {
	case c.asked != nil:
		// Planned carries on.
	case x.plan != nil && (!x.plan.drains() || x.seen == c.progress):
		// advanceAll carries on. While it waits for a drain, others may leave.
	case c.goesFirst(x, now) != nil:
		// It waits for its turn.
	case x.blocked && x.seen == c.progress && (x.till.IsZero() || now.Before(x.till)) && (x.patient || now.Sub(x.since) < c.opt.Protection.Fairness):
	default:
		return true
	}
	return false
}

// behind returns a demand for which room is looked for in vain although it has waited for
// longer than Fairness, and longer than x: what is on the move ends soon, and then it is
// planned for. Until then none leaves for x. Without it, requests that come one after the
// other would keep so much on the move that one which needs much room never gets it.
// Where nothing moves and only leases are waited for, which last as long as an answer does,
// others go on.
func (c *Core) behind(x *demand, now time.Time) *demand {
	if !slices.ContainsFunc(c.moves, (*Move).returns) && slices.ContainsFunc(c.plans, (*plan).drains) {
		return nil
	}
	for _, y := range c.demands { // in the order of who goes first
		switch {
		case y == x:
			return nil
		case y.plan == nil && y.seeks && now.Sub(y.since) >= c.opt.Protection.Fairness:
			return y
		}
	}
	return nil
}

// askFor asks the placement for the demand.
func (c *Core) askFor(x *demand, now time.Time) {
	if !x.patient && now.Sub(x.since) >= c.opt.Protection.Fairness {
		x.patient, x.attempts = true, 0 // what it may do now was not attempted yet
	}
	c.attempt(x, now)
	c.ask(&Question{demand: x, Need: c.need(x)}, now)
}

// Attempts that change nothing are spaced out from the attemptsAtOnce-th on, by
// attemptPause: two demands whose attempts make each other try again would else
// keep the core busy for good.
const (
	attemptsAtOnce = 32
	attemptPause   = 50 * time.Millisecond
)

// attempt counts an attempt to plan. No pause outlasts the fairness bound: the models
// in use, which are drained from then on, would give leases during the rest of it.
func (c *Core) attempt(x *demand, now time.Time) {
	if x.attempts++; x.attempts < attemptsAtOnce {
		return
	}
	x.notBefore = now.Add(attemptPause)
	if bound := x.since.Add(c.opt.Protection.Fairness); bound.After(now) {
		x.notBefore = earlier(x.notBefore, bound)
	}
}

// begun tells that a move of the demand's plan began.
func (x *demand) begun() { x.attempts, x.overtaken, x.notBefore = 0, 0, time.Time{} }

// grant gives every waiter its lease. The gate counts it before anything else
// can be decided, so no eviction comes between.
func (c *Core) grant(x *demand) {
	for _, w := range x.waiters {
		if w.Claim() {
			w.take()
			c.emit(Granted{w})
		}
	}
	x.waiters = nil
	c.endTurn(x.e)
	c.drop(x)
}

// serveInPlace grants leases on a swap-tier model where it is, once its runtime
// bytes are set aside.
func (c *Core) serveInPlace(x *demand, now time.Time) {
	e := x.e
	if !e.serving {
		there := e.residence
		there.serving = true
		need := e.footprint(there).Beyond(e.footprint(e.residence))
		err := c.admit(e, need, tier.Footprint{}, false, now)
		if errors.Is(err, errReading) {
			return
		}
		if err == nil {
			err = c.chargeMore(e, need, now)
		}
		if err != nil {
			x.settled = false
			c.block(x, err, now)
			return
		}
		e.serving = true
	}
	c.grant(x)
}

// stopServing ends the serving of a swap-tier model and gives its runtime bytes
// back.
func (c *Core) stopServing(e *Entry) {
	before := e.rest()
	e.serving = false
	back := before.Beyond(e.rest())
	back[tier.RAM] = max(min(back[tier.RAM], e.charge[tier.RAM]-e.taken), 0)
	c.discharge(e, back)
}

// need says what a plan for the demand is to reach.
func (c *Core) need(x *demand) tier.Need {
	n := tier.Need{Waiters: len(x.waiters), Patient: x.patient && x.plan == nil, Background: true}
	switch {
	case x.outsider != nil:
		n.Model, n.Room[tier.RAM] = tier.NoModel, x.outsider.Bytes
	case x.members != nil:
		lacks := x.lacks()
		n.Model, n.Room = tier.NoModel, tier.Footprint{tier.Swap: lacks[tier.Swap], tier.RAM: lacks[tier.RAM]}
	default:
		n.Model, _ = c.Library().Named(x.e.Model.Name)
		n.Room[tier.RAM] = max(x.e.peak-x.e.Model.Size.Plus(x.e.Model.Runtime), 0)
	}
	if x.order != nil {
		n.To = x.order.To
	}
	for _, w := range x.waiters {
		n.Background = n.Background && w.Background
	}
	return n
}

// block puts the demand aside until something changes, or fails it where nothing
// that the core knows of could help.
func (c *Core) block(x *demand, err error, now time.Time) {
	err = c.denial(x, err)
	x.denied = err
	if errors.Is(err, tier.ErrTooLarge) || !c.mayFreeRoom(x, now) {
		c.fail(x, c.explained(x, err))
		return
	}
	x.blocked, x.seen, x.till = true, c.progress, earlier(c.residueUntil(now), c.heldUntil(now))
	c.readDue = c.readDue || c.dirty && c.readErr == nil // what left since may be back by now
	c.yield(now)
}

// mayFreeRoom reports whether anything that is going on may make room for the
// demand.
func (c *Core) mayFreeRoom(x *demand, now time.Time) bool {
	if slices.ContainsFunc(c.moves, (*Move).returns) || len(c.plans) > 0 {
		return true
	}
	// A reading that failed may be followed by one that does not.
	if c.dirty && (c.readErr == nil || now.Sub(c.readAt) <= c.opt.Stale) {
		return true
	}
	if !c.residueUntil(now).IsZero() {
		return true
	}
	if x.patient {
		return false // draining every model was considered
	}
	// Models that were in use when the placement was asked may be so no more.
	return x.busy || slices.ContainsFunc(c.entries, func(e *Entry) bool {
		return e != x.e && e.tier != tier.Storage && !e.Model.Pinned && !e.Stuck() &&
			(e.Waiters() > 0 || e.Gate.Leases() > 0 || c.held(e, now))
	})
}

// heldUntil returns when the first entry that is held now may be evicted, if it is
// not asked for again; zero: none is held.
func (c *Core) heldUntil(now time.Time) (until time.Time) {
	for _, e := range c.entries {
		if c.held(e, now) {
			ends := e.since.Add(min(e.loadTook, c.opt.Protection.Fairness))
			until = earlier(until, earlier(ends, e.LastUse.Add(c.opt.Protection.Grace)))
		}
	}
	return until
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// held reports whether the entry came a moment ago, was asked for again since,
// and may not be evicted yet for a request that could wait: it earns its load for
// as long as the load took, Fairness at most, while requests for it keep coming.
func (c *Core) held(e *Entry, now time.Time) bool {
	return e.tier != tier.Storage && e.Gate.Uses() > e.usesAtLoad &&
		now.Sub(e.LastUse) < c.opt.Protection.Grace &&
		now.Sub(e.since) < min(e.loadTook, c.opt.Protection.Fairness)
}

// denial is what a demand is denied for.
func (c *Core) denial(x *demand, err error) error {
	if x.e == nil {
		return err
	}
	return c.outgrown(x.e, err)
}

// outgrown adds to a lack of room that the model was seen, or is expected, to take more
// than was declared, where it is so; and that it will never fit, where that is beyond the
// limit.
func (c *Core) outgrown(e *Entry, err error) error {
	ce, ok := errors.AsType[*tier.CapacityError](err)
	most, declared := max(e.peak, e.Model.Size.Plus(e.Model.Runtime)), e.Model.Size.Plus(e.declared)
	if !ok || most <= declared {
		return err
	}
	n := *ce
	n.Never = n.Never || most > c.limits().RAM && !e.traits.InPlace
	how := "was seen to take"
	if e.peak < most && e.declared == 0 && e.traits.Seen < most {
		how = "is expected to take"
	}
	n.Reason = fmt.Sprintf("%v; '%s' %s %v, %v are declared", ce, e.Model.Name, how, most, declared)
	return &n
}

// explained is the error with which a demand fails.
func (c *Core) explained(x *demand, err error) error {
	if x.outsider != nil {
		return c.explain("", x.outsider.refusal(err))
	}
	if x.members != nil {
		return c.explain("", x.refusal(err))
	}
	return c.explain(x.e.Model.Name, err)
}

// explain names who holds the room, and the model, if it is one, that did not get it.
func (c *Core) explain(model string, err error) error {
	ce, ok := errors.AsType[*tier.CapacityError](err)
	if !ok {
		return err
	}
	n := *ce
	n.Model = model
	if len(n.Holders) == 0 && !n.Never {
		n.Holders = c.Holders(max(n.Account, tier.Account(n.Tier))) // Account may be left out, if a tier's
	}
	return HeldBy(&n, c.OutsideHolders())
}

// HeldBy returns a lack of room that names those holders as well, before the models that
// it names, as it is not theirs to give way. Any other error, one of another account than
// ram, and one of room that there can never be, is returned as it is.
func HeldBy(err error, more []tier.Holder) error {
	if len(more) == 0 {
		return err
	}
	switch e := err.(type) {
	case *tier.CapacityError:
		if a := max(e.Account, tier.Account(e.Tier)); e.Never || a == tier.Account(tier.Swap) || a >= tier.FurtherAccount {
			return err // they hold ram
		}
		n := *e
		n.Holders = slices.Concat(more, slices.DeleteFunc(slices.Clone(e.Holders), func(h tier.Holder) bool { return h.Reservation != "" }))
		return &n
	case *tier.NoCapableModelError:
		n := *e
		n.Unsafe = HeldBy(e.Unsafe, more)
		return &n
	}
	return err
}
