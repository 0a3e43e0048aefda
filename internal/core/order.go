package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// OrderKind is what an Order asks for.
type OrderKind uint8

const (
	HotLoad OrderKind = iota // bring a new model to its home tier
	MoveTier
	Remove
	Unload // to storage, its home stays
)

// Order is an instruction from outside about one model, other than a request.
type Order struct {
	Kind  OrderKind
	Entry *Entry
	To    tier.Tier
	// Until is how long an Unload waits for its model to be idle; zero: not at all.
	Until time.Time

	cancelled error // why its owner no longer wants it
}

// Load orders a hot load: the entry, just added, is brought to o.To, for which
// idle models may have to leave.
func (c *Core) Load(o *Order, now time.Time) {
	o.Entry.hotAdded = true
	x := c.demandOf(o.Entry, now)
	x.order = o
	c.mark(progressed)
}

// CancelOrder ends an order that its owner no longer wants. A move that carries
// it out is called off, and the order ends with the move.
func (c *Core) CancelOrder(o *Order, cause error, now time.Time) {
	e := o.Entry
	switch {
	case slices.Contains(c.unloads, o):
		c.endUnload(o, &tier.MoveError{Model: e.Model.Name, From: e.tier, To: o.To, Err: cause})
	case e.move != nil && e.move.Order == o:
		c.CancelMove(e.move, cause, now)
	case e.demand == nil || e.demand.order != o:
	case e.move != nil:
		o.cancelled = cause // its end fails the demand, and so the order
		c.CancelMove(e.move, cause, now)
	default:
		// Requests for the model wait for the order's success.
		c.fail(e.demand, &tier.MoveError{Model: e.Model.Name, From: e.tier, To: o.To, Err: cause})
	}
}

// MoveTo orders a move that its owner wants. It makes no room: where there is
// none, or the model is in use, it returns the error at once. A model that is
// there already only changes its home. The entry's home becomes o.To when the
// order is done.
func (c *Core) MoveTo(o *Order, now time.Time) error {
	e := o.Entry
	if !e.Owned() { // it goes where its load fails or its leases end, and its home with it
		return leavesOrComes(e)
	}
	if e.tier == o.To && e.move == nil {
		if e.Model.Home == o.To {
			return &tier.InvalidError{
				Model: e.Model.Name, Field: "target_tier", Value: o.To.String(),
				Reason: fmt.Sprintf("Model already in %v tier", o.To),
				Help:   []string{"Nothing needs to be done."},
			}
		}
		c.endOrder(o, nil)
		return nil
	}
	if e.fate == replaced {
		return beingReplaced(e)
	}
	return c.orderMove(o, tier.ReasonOrder, "ordered", now)
}

func leavesOrComes(e *Entry) error {
	way := "leaving"
	if e.HotLoad() != nil {
		way = "being added to"
	}
	return &tier.InUseError{Model: e.Model.Name, Reason: fmt.Sprintf("Model '%s' is %s the library", e.Model.Name, way)}
}

func beingReplaced(e *Entry) error {
	return &tier.InUseError{Model: e.Model.Name, Reason: fmt.Sprintf("Model '%s' is being replaced", e.Model.Name)}
}

// Drop orders that the model leaves its tier and the library. It is in use, moving,
// or about to become another: the error says so.
func (c *Core) Drop(o *Order, now time.Time) error {
	e := o.Entry
	if e.fate == replaced && e.successor != nil { // what is removed would not be what stays
		return beingReplaced(e)
	}
	if e.tier == tier.Storage {
		if err := c.seize(e); err != nil {
			return err
		}
		c.endOrder(o, nil)
		return nil
	}
	o.To = tier.Storage
	return c.orderMove(o, tier.ReasonRemoved, "removed", now)
}

// Unload orders that the model goes to storage. One that is in use, or moving, is an error
// at once, unless the order waits until it is not: its requests go on, and the order
// ends with the error when its time is up. One that is in storage is done at once, and
// not brought home either.
func (c *Core) Unload(o *Order, now time.Time) error {
	e := o.Entry
	o.To = tier.Storage
	if now.Before(o.Until) {
		if len(c.unloads) >= maxUnloads {
			return &tier.BusyError{Queued: len(c.unloads), RetryAfter: time.Second, Reason: fmt.Sprintf("%d unloads wait for their models to be idle: wait for one to end, or cancel its job", len(c.unloads))}
		}
		e.unloads++
		c.unloads = append(c.unloads, o)
		c.watchGate(e)
		c.mark(progressed)
		return nil
	}
	if !e.Owned() {
		return leavesOrComes(e)
	}
	return c.unload(o, now)
}

// unload carries an Unload out, or says what uses the model.
func (c *Core) unload(o *Order, now time.Time) error {
	if e := o.Entry; e.tier != tier.Storage || e.phase != resting || e.wanted() {
		return c.orderMove(o, tier.ReasonOrder, "unloaded by order", now)
	}
	c.endOrder(o, nil)
	return nil
}

// maxUnloads bounds the unloads that wait: each is looked at in every step.
const maxUnloads = 1024

// carryUnloads begins or ends the unloads whose wait is over.
func (c *Core) carryUnloads(now time.Time) {
	for _, o := range slices.Clone(c.unloads) {
		e := o.Entry
		switch {
		case e.phase == removed || e.leaving() || e.fate == pendingRemoval:
			c.endUnload(o, unknown(e))
		case e.Stuck(), e.phase == resting && e.fate == stays && !e.wanted() && e.Gate.Leases() == 0:
			err := c.unload(o, now)
			if errors.Is(err, tier.ErrInUse) && now.Before(o.Until) {
				continue // a lease has come in between
			}
			c.forgetUnload(o)
			if err != nil {
				c.endOrder(o, err)
			}
		case !now.Before(o.Until):
			c.endUnload(o, &tier.InUseError{
				Model: e.Model.Name, Leases: e.Gate.Leases(),
				Reason: fmt.Sprintf("Model '%s' was in use all the time that its unload waited for it", e.Model.Name),
			})
		}
	}
}

// endUnload ends an unload that has not begun.
func (c *Core) endUnload(o *Order, err error) {
	c.forgetUnload(o)
	c.endOrder(o, err)
}

func (c *Core) forgetUnload(o *Order) {
	c.unloads = slices.DeleteFunc(c.unloads, func(p *Order) bool { return p == o })
	o.Entry.unloads--
	c.watchGate(o.Entry)
}

// orderMove begins the move that carries an order out.
func (c *Core) orderMove(o *Order, reason tier.Reason, why string, now time.Time) error {
	e := o.Entry
	if err := c.seize(e); err != nil {
		return err
	}
	m := newMove(e, residence{tier: o.To}, forNeed, reason, why)
	m.Order = o
	if err := c.begin(m, nil, now); err != nil {
		c.reopen(e)
		return c.explain(e.Model.Name, c.outgrown(e, err))
	}
	return nil
}

// seize closes the gate of an entry that nothing uses, or says what uses it.
func (c *Core) seize(e *Entry) error {
	switch {
	case e.Stuck():
		return &tier.StuckError{Model: e.Model.Name, What: "A move", Bytes: e.charge[tier.RAM]}
	case e.phase == moving:
		return &tier.InUseError{Model: e.Model.Name, Reason: fmt.Sprintf("Model '%s' is moving from %v to %v", e.Model.Name, e.move.From, e.move.To)}
	case e.phase == claimed || e.wanted():
		return &tier.InUseError{Model: e.Model.Name, Leases: e.Gate.Leases(), Reason: fmt.Sprintf("Model '%s' is in use: requests wait for it or for its room", e.Model.Name)}
	}
	if n := e.Gate.Close(); n > 0 {
		c.reopen(e)
		return &tier.InUseError{Model: e.Model.Name, Leases: n}
	}
	if e.serving {
		c.stopServing(e)
	}
	return nil
}

// endOrder tells that an order has ended, if there is one, and does what its end
// means.
func (c *Core) endOrder(o *Order, err error) {
	if o == nil {
		return
	}
	e := o.Entry
	if x := e.demand; x != nil && x.order == o {
		x.order = nil
	}
	gone := e.tier == tier.Storage && e.phase != moving
	switch {
	case o.Kind == MoveTier && err == nil:
		if m := e.Model; m.VersionOf == "" { // an older version is brought home by no restart
			m.Home = o.To
			c.Amend(e, m)
		}
		e.sent = !e.wanted() // else a request has come since
	case o.Kind == Unload && err == nil:
		e.sent, e.homeward = !e.wanted(), false
	case gone && e.fate == replaced && (o.Kind == HotLoad && err != nil || o.Kind == Remove && err == nil && e.successor != nil):
		// carryFates goes on with it.
	case o.Kind == Remove && err == nil, o.Kind == HotLoad && err != nil && gone:
		c.forget(e)
	case o.Kind == HotLoad && err != nil: // though stopped: it is not to be kept
		c.doom(e, pendingRemoval) // it arrives yet, or is half-way: it leaves from there
		m := e.Model
		m.Capabilities = nil // no request that names none is led to it
		c.describe(e, m)
	}
	c.emit(OrderDone{o, err})
}

// limitsChange is new limits that wait for models to leave.
type limitsChange struct {
	old, now tier.Limits
	plan     *plan
	over     tier.Bytes // what was held beyond the new limits when that plan was asked for
}

// SetLimits changes the limits, at once or when what is beyond them has left;
// LimitsDone tells. A change that is under way makes it an error.
func (c *Core) SetLimits(n tier.Limits) error {
	if c.limiting != nil {
		return &tier.BusyError{RetryAfter: time.Second, Reason: "Limits are being changed already"}
	}
	c.limiting = &limitsChange{old: c.ledger.Limits(), now: n}
	c.mark(progressed)
	return nil
}

// limits returns the limits that admissions go by: while they are being lowered,
// the smaller of the old and the new.
func (c *Core) limits() tier.Limits {
	l := c.ledger.Limits()
	if c.limiting == nil {
		return l
	}
	n := c.limiting.now
	return tier.Limits{
		RAM: min(l.RAM, n.RAM), Swap: min(l.Swap, n.Swap),
		Reserved: max(l.Reserved, n.Reserved), MaxModel: min(l.MaxModel, n.MaxModel),
	}
}

// changeLimits carries on with a change of limits.
func (c *Core) changeLimits(now time.Time) {
	l := c.limiting
	if l == nil {
		return
	}
	if err := c.ledger.SetLimits(l.now); err == nil {
		c.endLimits(l, nil)
		return
	}
	var room tier.Footprint
	for _, t := range [...]tier.Tier{tier.Swap, tier.RAM} {
		room[t] = max(c.used(tier.Account(t))-l.now.Of(t), 0)
	}
	over := room[tier.RAM].Plus(room[tier.Swap])
	if l.plan != nil && !l.plan.live {
		if !c.residueUntil(now).IsZero() {
			return // what has left is still seen, and expected to go
		}
		if over >= l.over {
			c.endLimits(l, tier.ErrNoCapacity) // all that could leave has left
			return
		}
		l.plan = nil // some has: movers keep up to a page less than they may
	}
	if l.plan == nil && c.asked == nil {
		l.over = over
		c.ask(&Question{limiting: l, Need: tier.Need{Model: tier.NoModel, Room: room}}, now)
	}
}

// used is what an account holds.
func (c *Core) used(a tier.Account) tier.Bytes {
	return c.ledger.Charged()[a].Plus(c.ledger.Reserved()[a])
}

func (c *Core) plannedLimits(q *Question, p tier.Plan, err error) {
	l := q.limiting
	if c.limiting != l {
		return
	}
	if err == nil && len(p.Steps) == 0 {
		err = tier.ErrNoCapacity
	}
	var steps []*step
	if err == nil {
		steps, err = c.resolve(q, p.Steps)
	}
	if err != nil {
		c.endLimits(l, err)
		return
	}
	l.plan = &plan{limiting: l, steps: steps}
	c.start(l.plan)
}

// endLimits ends a change of limits; err says why it was refused.
func (c *Core) endLimits(l *limitsChange, err error) {
	if c.limiting != l {
		return
	}
	c.limiting = nil
	if l.plan != nil && l.plan.live {
		c.abandon(l.plan)
	}
	c.mark(changed | progressed)
	if err == nil {
		c.forecastAgain()
		c.emit(LimitsDone{Old: l.old, Now: l.now})
		return
	}
	refused := &tier.LimitsError{Field: "ram"}
	for _, t := range [...]tier.Tier{tier.RAM, tier.Swap} {
		if held := c.used(tier.Account(t)); held > l.now.Of(t) {
			refused.Field, refused.Value, refused.MustLeave = t.String(), l.now.Of(t), c.Holders(tier.Account(t))
			to, holds := l.now.Of(t).Apart(held)
			refused.Reason = fmt.Sprintf("%v limit cannot be lowered to %sGB: %sGB are held and cannot leave now", t, to, holds)
			break
		}
	}
	if refused.Reason == "" {
		refused.Reason = "limits cannot be changed now: " + err.Error()
	}
	c.emit(LimitsDone{Old: l.old, Now: l.now, Err: refused})
}
