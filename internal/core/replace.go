package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// successor is what becomes of an entry once nobody uses it.
type successor struct {
	model *tier.Model // nil: it leaves the library
	plan  *plan       // takes it to storage; nil: not begun, or it failed
	again time.Time   // when it is begun again, where it failed
}

// errReplaced is the cause of a load of what is to be replaced.
var errReplaced = fmt.Errorf("its model was configured anew (%w)", errCalledOff)

// Replace has the entry become another model of its name once nobody uses it, or,
// with nil, leave the library. It takes no new leases from now on; when those that
// are held have ended it goes to storage, and there it is replaced. Who waits for
// it, or comes meanwhile, gets the new one; of a model that leaves, they are told
// that it is not known, and no request that names none is led to it.
func (c *Core) Replace(e *Entry, next *tier.Model, now time.Time) {
	if e.next == nil {
		c.replaced = append(c.replaced, e)
		e.next = &successor{}
		e.Gate.Close()
	}
	e.next.model, e.next.again = next, time.Time{}
	m := e.Model
	m.Capabilities = nil
	if next != nil {
		m.Capabilities, m.Quality, m.Pinned, m.Home = next.Capabilities, next.Quality, next.Pinned, next.Home
	}
	c.Remodel(e, m)
	if next == nil && e.want != nil && e.want.order == nil {
		c.fail(e.want, unknown(e))
	}
	if m := e.move; m != nil && m.To > m.From && m.Order == nil && (e.want == nil || e.want.order == nil) {
		c.CancelMove(m, errReplaced, now)
	}
}

// leaving reports whether the entry is to leave the library.
func (e *Entry) leaving() bool { return e.next != nil && e.next.model == nil }

func unknown(e *Entry) error { return &tier.NotFoundError{What: "model", Name: e.Model.Name} }

// succeed carries on with what is to be replaced.
func (c *Core) succeed(now time.Time) {
	c.replaced = slices.DeleteFunc(c.replaced, func(e *Entry) bool {
		s := e.next
		switch {
		case e.removed:
			return true
		case e.move != nil || e.stuck || s.plan != nil && slices.Contains(c.plans, s.plan):
			return false
		case e.want != nil && e.want.order != nil && e.tier != tier.Storage:
			return false // its hot load ends by itself
		case e.tier == tier.Storage:
			if x := e.want; x != nil && x.order != nil {
				// Its hot load waits for what is not wanted any more.
				o := x.order
				x.order = nil
				c.endOrder(o, &tier.MoveError{Model: e.Model.Name, To: o.To, Err: errReplaced})
			}
			if s.model != nil && e.Leftover() > 0 && now.Sub(e.since) < comeBack {
				s.again = e.since.Add(comeBack)
				return false // what it was is still seen in memory
			}
			c.become(e, s.model)
			return true
		case s.plan != nil: // it has come to nothing
			s.plan, s.again = nil, now.Add(coolFirst)
		}
		if !now.Before(s.again) {
			s.plan = c.sendAway(e, "its model was configured anew")
		}
		return false
	})
}

// become replaces the model of an entry that is in storage.
func (c *Core) become(e *Entry, next *tier.Model) {
	e.next = nil
	if x := e.want; x != nil {
		if x.plan != nil {
			c.abandon(x.plan) // it made room for what is not wanted any more
		}
		if x.blocked, x.tries, x.denied = false, 0, nil; next == nil {
			c.fail(x, unknown(e))
		}
	}
	if next == nil {
		c.forget(e)
		return
	}
	e.failures, e.lastErr, e.coolTill, e.ordered = 0, nil, time.Time{}, false
	e.declared, e.peak = next.Runtime, 0 // what was seen was of the other
	e.foreign = true
	c.Remodel(e, *next)
	if next.Home != tier.Storage && !slices.Contains(c.homes, e) {
		c.homes = append(c.homes, e)
	}
}

// sendAway has an entry go to storage once the leases that are held have ended,
// pinned or not; it takes no new ones.
func (c *Core) sendAway(e *Entry, why string) *plan {
	mv := tier.Move{Model: e.Model, From: e.tier, To: tier.Storage}
	p := &plan{forced: true, patient: true, lost: true, steps: []*step{{Step: tier.Step{Move: mv, Why: why}, e: e}}}
	p.claim, _ = c.ledger.Reserve(tier.Footprint{})
	c.plans = append(c.plans, p)
	c.progress++
	return p
}

// calledOff reports whether a move ended because it was not wanted any more, and
// not for a fault.
func calledOff(err error) bool { return errors.Is(err, errCalledOff) }
