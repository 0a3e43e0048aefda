package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// step is one step of a plan that is being carried out.
type step struct {
	tier.Step
	e    *Entry
	move *Move // once begun
	done bool
	// drains: leases on its model have to end before it can begin.
	drains bool
}

// drains reports whether the plan waits for leases to end.
func (p *plan) drains() bool {
	return slices.ContainsFunc(p.steps, func(s *step) bool { return s.drains && !s.done && s.move == nil && s.e.victim == p })
}

func (s *step) rest(serve bool) tier.Footprint {
	return s.e.peaked(s.Footprint(serve && s.To == tier.Swap), s.To)
}

// resolve finds the entries of a plan's steps, and refuses a plan that cannot
// be one.
func (c *Core) resolve(steps []tier.Step) ([]*step, error) {
	out := make([]*step, len(steps))
	for i, s := range steps {
		e, ok := c.Find(s.Model.Name)
		switch {
		case !ok:
			return nil, &tier.NotFoundError{What: "model", Name: s.Model.Name}
		case !s.To.Valid() || s.Keep < 0 || s.Leave < 0 || s.Keep.Plus(s.Leave) > e.Model.Size:
			return nil, &tier.InvalidError{Model: s.Model.Name, Field: "plan", Value: fmt.Sprintf("%v, keep %v, leave %v", s.To, s.Keep, s.Leave), Rule: "must name a tier, and keep and leave no more than the model's size"}
		}
		if !c.opt.Divisible(&e.Model) || s.To != tier.Swap {
			s.Keep = 0
		}
		if !c.opt.Divisible(&e.Model) || !c.opt.Leaves(&e.Model) || s.To != tier.Swap {
			s.Leave = 0
		}
		s.Model, s.From = e.Model, e.tier
		out[i] = &step{Step: s, e: e}
	}
	return out, nil
}

// advanceAll carries on with every plan.
func (c *Core) advanceAll(now time.Time) {
	for _, p := range slices.Clone(c.plans) {
		if slices.Contains(c.plans, p) {
			c.advance(p, now)
		}
	}
}

// advance begins every step that can begin, and ends the plan when all are done.
func (c *Core) advance(p *plan, now time.Time) {
	if p.want == nil && p.limiting == nil && !p.forced && (len(c.wants) > 0 || c.pressed) {
		c.abandon(p) // somebody waits: what nobody waits for is planned again later
		return
	}
	earlier := 0   // steps before this one that have not ended
	short := false // one of them waits for room or its turn: it must not be overtaken to it
	for _, s := range p.steps {
		if s.done {
			continue
		}
		if s.move == nil {
			switch err := c.beginStep(p, s, earlier, short, now); {
			case err == nil || errors.Is(err, errDrains):
			case errors.Is(err, errLater) || errors.Is(err, errReading):
				short = true
			default:
				c.broken(p, err, now)
				return
			}
		}
		if !s.done {
			earlier++
		}
	}
	if earlier == 0 {
		c.abandon(p)
		begun := func(s *step) bool { return s.move != nil }
		if x := p.want; x != nil && x.e.want == x && !slices.ContainsFunc(p.steps, begun) {
			x.tries++ // or a placement that changes nothing would be asked without end
			x.denied = errors.New("the placement's plan changes nothing")
		}
	}
}

// errLater: the step cannot begin yet. errDrains: leases on its model have to end
// first. errTaken: its model was taken into use between plan and step; the plan is
// made anew.
var (
	errLater  = errors.New("later")
	errDrains = errors.New("drains")
	errTaken  = fmt.Errorf("%w: a model that was to leave was taken into use", tier.ErrNoCapacity)
)

// beginStep begins one step if it can begin now.
func (c *Core) beginStep(p *plan, s *step, earlier int, short bool, now time.Time) error {
	e := s.e
	own, final := p.want != nil && e == p.want.e, s == p.final()
	serve := final && p.want.order == nil
	switch {
	case e.removed || e.stuck || (e.gone || e.next != nil) && s.To > e.tier:
		return fmt.Errorf("%w: '%s' cannot be moved", tier.ErrNoCapacity, e.Model.Name)
	case e.move != nil || e.victim != nil && e.victim != p:
		return errLater
	case e.tier == s.To && (s.To != tier.Swap || e.kept == s.Keep && e.left == s.Leave):
		s.done = true // overtaken by events
		c.unclaim(e)
		return nil
	case !own && s.To <= s.From && s.To > e.tier:
		s.done = true // it has left further than it was to
		c.unclaim(e)
		return nil
	case !own && e.Model.Pinned && !p.lost:
		return fmt.Errorf("%w: '%s' is pinned", tier.ErrNoCapacity, e.Model.Name)
	case short && (final || !s.rest(serve).Beyond(e.charge).IsZero()):
		return errLater
	case final && earlier > 0 && (p.alone || !p.target().Within(p.claim.Held())):
		return errLater
	}
	if e.Gate.Close() > 0 && (own || !planted(evictionUnderLease)) {
		if !p.patient || own {
			c.unclaim(e)
			return errTaken
		}
		e.victim, s.drains = p, true // no new leases, and the step begins when the last ends
		return errDrains
	}
	s.drains = false
	if e.serving {
		c.retire(e)
	}
	e.victim = p
	m := &Move{Move: s.Move, Entry: e, Why: s.Why, plan: p}
	m.Demand = p.want != nil || p.limiting != nil || p.forced
	m.idle = !m.Demand
	m.From = e.tier
	down := m.To < m.From || m.Keep < e.kept || m.Leave > e.left
	if err := c.beginMove(p, m, final, serve, now); err != nil {
		switch {
		case errors.Is(err, errReading):
			return err
		case earlier > 0:
			return errLater // room is being made for it
		case own || !down || m.To != tier.Swap:
			return err
		}
		m.To, m.Keep, m.Leave = tier.Storage, 0, 0
		if err := c.beginMove(p, m, false, false, now); err != nil {
			return err
		}
	}
	s.move = m
	if !own && !p.lost && down {
		ev := Evicted{Entry: e, To: m.To, Why: m.Why}
		if p.want != nil {
			ev.For = p.want.e.Model.Name
		}
		c.emit(ev)
	}
	return nil
}

// beginMove begins the move of a step with what the plan has set aside: the final
// one takes all of it, one before what it needs.
func (c *Core) beginMove(p *plan, m *Move, final, serve bool, now time.Time) error {
	if final {
		err := c.begin(m, p.claim, serve, now)
		if err == nil {
			p.claim, _ = c.ledger.Reserve(tier.Footprint{}) // the move's now
		}
		return err
	}
	c.ledger.Refund(p.claim)
	p.claim, _ = c.ledger.Reserve(tier.Footprint{})
	err := c.begin(m, nil, serve, now)
	c.claim(p)
	return err
}

// unclaim ends a plan's hold on an entry and lets it be served again.
func (c *Core) unclaim(e *Entry) {
	e.victim = nil
	if e.tier == tier.RAM && e.idle() && !e.leaves() && !c.stopped {
		e.Gate.Open()
	}
	c.progress++
}
