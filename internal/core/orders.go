package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Load orders a hot load: the entry, just added, is brought to o.To, for which
// idle models may have to leave.
func (c *Core) Load(o *Order, now time.Time) {
	x := c.wantOf(o.Entry, now)
	x.order = o
	c.progress++
}

// CancelOrder ends an order that its owner no longer wants. A move that carries
// it out is called off, and the order ends with the move.
func (c *Core) CancelOrder(o *Order, cause error, now time.Time) {
	e := o.Entry
	switch {
	case e.move != nil && e.move.Order == o:
		c.CancelMove(e.move, cause, now)
	case e.want == nil || e.want.order != o:
	case e.move != nil:
		c.CancelMove(e.move, cause, now) // its end fails the want, and so the order
	default:
		// Who waits for the model waits for the order's success.
		c.fail(e.want, &tier.MoveError{Model: e.Model.Name, From: e.tier, To: o.To, Err: cause})
	}
}

// MoveTo orders a move that its owner wants. It makes no room: where there is
// none, or the model is in use, it returns the error at once. A model that is
// there already only changes its home. The entry's home becomes o.To when the
// order is done.
func (c *Core) MoveTo(o *Order, now time.Time) error {
	e := o.Entry
	if !e.Owned() { // it goes where its load fails or its leases end, and its home with it
		way := "leaving"
		if e.HotLoad() != nil {
			way = "being added to"
		}
		return &tier.InUseError{Model: e.Model.Name, Reason: fmt.Sprintf("Model '%s' is %s the library", e.Model.Name, way)}
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
	if err := c.seize(e); err != nil {
		return err
	}
	m := &Move{Move: tier.Move{Model: e.Model, From: e.tier, To: o.To}, Entry: e, Why: "ordered", Demand: true, Order: o}
	err := c.begin(m, nil, false, now)
	if err != nil {
		c.unclaim(e)
		return c.named(e, err)
	}
	return nil
}

// Drop orders that the model leaves its tier and the library. It is in use, or
// moving: the error says so.
func (c *Core) Drop(o *Order, now time.Time) error {
	e := o.Entry
	if err := c.seize(e); err != nil {
		return err
	}
	o.To = tier.Storage
	if e.tier == tier.Storage {
		c.forget(e)
		c.endOrder(o, nil)
		return nil
	}
	m := &Move{Move: tier.Move{Model: e.Model, From: e.tier, To: tier.Storage}, Entry: e, Why: "removed", Demand: true, Order: o}
	if err := c.begin(m, nil, false, now); err != nil {
		c.unclaim(e)
		return c.named(e, err)
	}
	return nil
}

// IsReading reports whether an order could not be decided because memory is
// being read: it is given again after the next Reading.
func IsReading(err error) bool { return errors.Is(err, errReading) }

func (c *Core) named(e *Entry, err error) error {
	err = c.outgrown(e, err)
	if ce, ok := errors.AsType[*tier.CapacityError](err); ok {
		n := *ce
		n.Model, n.Holders = e.Model.Name, c.Holders(n.Tier)
		return &n
	}
	return err
}

// seize closes an idle entry's gate, or says who uses it.
func (c *Core) seize(e *Entry) error {
	switch {
	case e.stuck:
		return &tier.StuckError{Model: e.Model.Name, What: "A move", Bytes: e.charge[tier.RAM]}
	case e.move != nil:
		return &tier.InUseError{Model: e.Model.Name, Reason: fmt.Sprintf("Model '%s' is moving from %v to %v", e.Model.Name, e.move.From, e.move.To)}
	case e.victim != nil || e.want != nil:
		return &tier.InUseError{Model: e.Model.Name, Leases: e.Gate.Leases(), Reason: fmt.Sprintf("Model '%s' is in use: requests wait for it or for its room", e.Model.Name)}
	}
	if n := e.Gate.Close(); n > 0 {
		c.unclaim(e)
		return &tier.InUseError{Model: e.Model.Name, Leases: n}
	}
	if e.serving {
		c.retire(e)
	}
	return nil
}

// Amend changes what an owner may say of a model that stays the same otherwise,
// and of the one that it is about to become.
func (c *Core) Amend(e *Entry, m tier.Model) {
	c.Remodel(e, m)
	if e.next != nil && e.next.model != nil {
		n := *e.next.model
		n.Capabilities, n.Quality, n.Pinned, n.Home = m.Capabilities, m.Quality, m.Pinned, m.Home
		e.next.model = &n
	}
}

// endOrder tells that an order has ended and does what its end means.
func (c *Core) endOrder(o *Order, err error) {
	e := o.Entry
	switch {
	case o.Kind == MoveTier && err == nil:
		m := e.Model
		m.Home = o.To
		c.Amend(e, m)
		e.ordered = true
	case o.Kind == Remove && err == nil && e.disowned && e.next != nil: // it is wanted again: see dropDisowned
	case o.Kind == HotLoad && err != nil && e.next != nil && e.tier == tier.Storage && e.move == nil: // see succeed
	case o.Kind == Remove && err == nil, o.Kind == HotLoad && err != nil && e.tier == tier.Storage && e.move == nil:
		c.forget(e)
	case o.Kind == HotLoad && err != nil && !c.stopped:
		e.disowned = true // it arrives yet, or is half-way: it leaves from there
		m := e.Model
		m.Capabilities = nil // no request that names none is led to it
		c.Remodel(e, m)
		c.disowned = append(c.disowned, disowned{e: e})
	}
	c.emit(OrderDone{o, err})
}

// disowned is a model to be taken out of the library.
type disowned struct {
	e     *Entry
	again time.Time // when it is tried again, should it come to nothing
}

// dropDisowned takes out models that arrived after their hot load had been given
// up, such as that of a mover that came back late. Until they are out nobody gets
// one.
func (c *Core) dropDisowned(now time.Time) {
	for i := range c.disowned {
		e := c.disowned[i].e
		if e.removed || e.move != nil || e.victim != nil {
			continue
		}
		if e.next != nil {
			e.disowned = false // it is wanted again, as another: see succeed
			continue
		}
		if e.want != nil {
			c.fail(e.want, unknown(e))
		}
		if e.Gate.Close() == 0 && !now.Before(c.disowned[i].again) && c.Drop(&Order{Kind: Remove, Entry: e}, now) == nil {
			c.disowned[i].again = now.Add(coolFirst)
		}
	}
	c.disowned = slices.DeleteFunc(c.disowned, func(d disowned) bool { return d.e.removed || !d.e.disowned })
}

// limitsChange is new limits that wait for models to leave.
type limitsChange struct {
	old, now tier.Limits
	asked    bool
	plan     *plan
}

// SetLimits changes the limits, at once or when what is beyond them has left;
// LimitsDone tells. A change that is under way makes it an error.
func (c *Core) SetLimits(n tier.Limits) error {
	if c.limiting != nil {
		return &tier.BusyError{RetryAfter: time.Second, Reason: "Limits are being changed already"}
	}
	c.limiting = &limitsChange{old: c.ledger.Limits(), now: n}
	c.progress++
	return nil
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
	if l.plan != nil && !slices.Contains(c.plans, l.plan) {
		c.endLimits(l, tier.ErrNoCapacity) // all that could leave has left
		return
	}
	if l.plan == nil && !l.asked && c.asked == nil {
		l.asked = true
		var room tier.Footprint
		for _, t := range [...]tier.Tier{tier.Swap, tier.RAM} {
			held := c.ledger.Charged()[t] + c.ledger.Reserved()[t]
			room[t] = max(held-l.now.Of(t), 0)
		}
		c.ask(&Question{limiting: l, Need: tier.Need{Model: tier.NoModel, Room: room}}, now)
	}
}

func (c *Core) plannedLimits(l *limitsChange, p tier.Plan, err error) {
	if c.limiting != l {
		return
	}
	if err == nil && len(p.Steps) == 0 {
		err = tier.ErrNoCapacity
	}
	var steps []*step
	if err == nil {
		steps, err = c.resolve(p.Steps)
	}
	if err != nil {
		c.endLimits(l, err)
		return
	}
	l.plan = &plan{limiting: l, steps: steps}
	l.plan.claim, _ = c.ledger.Reserve(tier.Footprint{})
	c.plans = append(c.plans, l.plan)
	c.progress++
}

// endLimits ends a change of limits; err says why it was refused.
func (c *Core) endLimits(l *limitsChange, err error) {
	if c.limiting != l {
		return
	}
	c.limiting = nil
	c.changed = true
	if l.plan != nil {
		c.abandon(l.plan)
	}
	c.progress++
	if err == nil {
		c.emit(LimitsDone{Old: l.old, Now: l.now})
		return
	}
	refused := &tier.LimitsError{Field: "ram"}
	for _, t := range [...]tier.Tier{tier.RAM, tier.Swap} {
		held := c.ledger.Charged()[t] + c.ledger.Reserved()[t]
		if held > l.now.Of(t) {
			refused.Field, refused.Value, refused.MustLeave = t.String(), l.now.Of(t), c.Holders(t)
			to, holds := tier.Apart(l.now.Of(t), held)
			refused.Reason = fmt.Sprintf("%v limit cannot be lowered to %sGB: %sGB are held and cannot leave now", t, to, holds)
			break
		}
	}
	if refused.Reason == "" {
		refused.Reason = "limits cannot be changed now: " + err.Error()
	}
	c.emit(LimitsDone{Old: l.old, Now: l.now, Err: refused})
}
