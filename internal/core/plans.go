package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Question is what the owner asks the placement.
type Question struct {
	View tier.View
	Need tier.Need
	// Idle: nobody waits; the placement is asked for what is worth moving.
	Idle bool
	// Data is the owner's; nil in an idle question that nobody waits for.
	Data any

	want     *want
	limiting *limitsChange
}

// plan is a tier.Plan that is being carried out.
type plan struct {
	want     *want         // for whose sake; nil: nobody waits
	limiting *limitsChange // for whose sake
	forced   bool          // memory is short: it goes on though requests wait
	steps    []*step
	patient  bool
	lost     bool // its model leaves, or has left by itself, pinned or not
	alone    bool // the last step waits for all others, whatever room there is
	// claim is the room set aside for the final step. It grows as victims leave, and
	// the steps before draw on it.
	claim *tier.Reservation
}

// final is the step that brings the wanted model where it is to be, if the plan
// has one and it has not begun.
func (p *plan) final() *step {
	if p.want == nil || len(p.steps) == 0 {
		return nil
	}
	s := p.steps[len(p.steps)-1]
	if s.e != p.want.e || s.move != nil || s.done {
		return nil
	}
	return s
}

// target is what the claim has to reach.
func (p *plan) target() tier.Footprint {
	s := p.final()
	if s == nil {
		return tier.Footprint{}
	}
	charge := s.e.own()
	if s.e.move != nil {
		charge = charge.Plus(s.e.move.Held())
	}
	return s.rest(p.want.order == nil).Beyond(charge)
}

func (c *Core) ask(q *Question, now time.Time) {
	if c.asked != nil {
		return
	}
	var own tier.Footprint
	if q.want != nil && q.want.plan != nil {
		own = q.want.plan.claim.Held()
	}
	q.View = c.view(own, now)
	for i := range q.View.States {
		// What a whole model has in memory while it is in swap, such as a frozen engine,
		// no move within swap gives back: it is not to be planned with.
		if s := &q.View.States[i]; s.Tier == tier.Swap && !s.Divisible {
			s.Kept = 0
		}
	}
	if q.want != nil {
		if e := q.want.e; e.tier == tier.Storage {
			// Its own bytes that are still in memory are not in its way: its load needs
			// only those that are missing.
			r := &q.View.Room[tier.RAM]
			*r = r.Plus(min(e.own()[tier.RAM], e.Model.Size.Plus(e.Model.Runtime)))
		}
		q.want.busy = false
		for i := range c.entries {
			q.want.busy = q.want.busy || i != q.Need.Model && q.View.Drainable(i) && !q.View.Evictable(i)
		}
	}
	c.asked = q
	c.emit(Ask{q})
}

// AskIdle asks the placement what is worth moving though nobody waits. It
// reports false where something is under way that goes first.
func (c *Core) AskIdle(data any, now time.Time) bool {
	if c.asked != nil || c.planned() || len(c.wants) > 0 || c.limiting != nil {
		return false
	}
	c.ask(&Question{Idle: true, Data: data}, now)
	return true
}

// Planned tells what the placement answered. Of an idle plan it returns the
// steps that are being carried out. err is a placement that failed.
func (c *Core) Planned(q *Question, p tier.Plan, err error, now time.Time) []tier.Step {
	if c.asked == q {
		c.asked = nil
	}
	if err == nil {
		err = p.Err
	}
	switch {
	case q.want != nil:
		c.plannedWant(q.want, p, err, now)
	case q.limiting != nil:
		c.plannedLimits(q.limiting, p, err)
	case err == nil:
		if q.Data == nil {
			c.respectOrders(&p)
		}
		return c.plannedIdle(p)
	}
	return nil
}

// planned reports whether a plan is being carried out, other than to wait for the
// last lease on a model that is lost or replaced, which may take as long as an
// answer does.
func (c *Core) planned() bool {
	return slices.ContainsFunc(c.plans, func(p *plan) bool { return !p.lost || !p.drains() })
}

// mostTries is how many plans for one want may come to nothing.
const mostTries = 8

func (c *Core) plannedWant(x *want, p tier.Plan, err error, now time.Time) {
	if x.e.want != x || x.e.move != nil || x.e.victim != nil {
		return // overtaken by events: Step asks again where it still matters
	}
	switch {
	case x.plan != nil && (err != nil || len(p.Steps) == 0):
		x.seen = c.progress // nothing better than the drain that is under way
		return
	case err != nil:
		if errors.Is(err, tier.ErrNoCapacity) {
			c.thin(x.e, now)
		}
		c.block(x, err, now)
		return
	case x.tries >= mostTries:
		if x.denied == nil {
			x.denied = errors.New("the placement found no plan that could be carried out")
		}
		c.fail(x, &tier.CapacityError{Model: x.e.Model.Name, Tier: tier.RAM, Need: x.e.Model.Size, Limit: c.limits().RAM, Holders: c.Holders(tier.RAM), Reason: fmt.Sprintf("No room could be made for '%s' in %d attempts: %v", x.e.Model.Name, x.tries, x.denied)})
		return
	}
	x.blocked, x.denied = false, nil
	if len(p.Steps) == 0 {
		x.tries++
		if x.e.tier == tier.Swap && x.order == nil && c.opt.InPlace(&x.e.Model) {
			x.settled = true
			c.progress++
			return
		}
		c.block(x, fmt.Errorf("%w: the placement has no plan", tier.ErrNoCapacity), now)
		return
	}
	if x.plan != nil {
		c.abandon(x.plan) // others left meanwhile: no need to wait for the drain
	}
	pl := &plan{want: x, patient: x.patient}
	if pl.steps, err = c.resolve(p.Steps); err != nil {
		x.tries++
		c.block(x, err, now)
		return
	}
	takes := pl.target()
	if c.opt.FileBacked {
		takes[tier.Swap] = 0
	}
	if c.hard() && !takes.IsZero() {
		// Whoever left for it would leave for nothing. The reading that it goes by is as
		// old as the question: a fresher one would be old again after the next.
		if err := c.opt.Admit(c.promise(tier.Footprint{}), &x.e.Model, takes, false); err != nil {
			c.owe(x.e, x.age())
			c.fail(x, c.explain(x, err))
			return
		}
	}
	x.settled = x.e.tier == tier.Swap && pl.final() == nil && x.order == nil
	c.pursue(x, pl, now)
}

// pursue makes pl the want's plan, and begins it.
func (c *Core) pursue(x *want, pl *plan, now time.Time) {
	pl.claim, _ = c.ledger.Reserve(tier.Footprint{})
	x.plan = pl
	c.claim(pl)
	c.plans = append(c.plans, pl)
	c.progress++
	c.advance(pl, now) // before anybody else plans with the same victims
	x.seen = c.progress
}

// thin has the frozen engine that was used least recently stopped, for the memory
// that it has, where a placement finds no room without, and there would be room if
// all who are idle left.
func (c *Core) thin(wanted *Entry, now time.Time) {
	var victim *Entry
	room := c.promise(tier.Footprint{}).Free[tier.RAM]
	for _, e := range c.entries {
		if e == wanted || !e.idle() || e.Model.Pinned || e.want != nil || e.Gate.Leases() > 0 {
			continue
		}
		room = room.Plus(e.charge[tier.RAM])
		if e.tier == tier.Swap && e.kept > 0 && !c.opt.Divisible(&e.Model) && !now.Before(e.staysTill) && (victim == nil || e.LastUse.Before(victim.LastUse)) {
			victim = e
		}
	}
	if need := wanted.Model.Size.Plus(wanted.Model.Runtime); victim != nil && max(need, wanted.peak) <= room.Plus(wanted.charge[tier.RAM]) {
		c.carryOut([]tier.Step{{Move: tier.Move{Model: victim.Model, To: tier.Storage}, Why: "its memory is needed, and no other can be had"}}, true)
	}
}

// claim sets aside what there is of the room that the plan's final step needs,
// so that nobody else takes what its victims leave.
func (c *Core) claim(p *plan) {
	missing := p.target().Beyond(p.claim.Held())
	free := c.promise(tier.Footprint{}).Free
	for t := range missing {
		missing[t] = min(missing[t], free[t])
	}
	if err := c.ledger.Grow(p.claim, missing); err != nil {
		panic("core: " + err.Error())
	}
}

// broken ends a plan that cannot go on. Where it was overtaken by events, by a
// lease or by bytes that are seen where they were not meant to be, who waits for
// it is planned anew by what is true now; mostTries bounds that.
func (c *Core) broken(p *plan, err error, now time.Time) {
	x := p.want
	c.abandon(p)
	switch {
	case p.limiting != nil:
		c.endLimits(p.limiting, err)
	case x == nil || x.e.want != x:
	case errors.Is(err, errTaken):
		if x.taken++; x.taken >= mostTries {
			c.block(x, err, now)
		}
	case errors.Is(err, tier.ErrNoCapacity) && x.tries < mostTries && !errors.Is(c.outgrown(x.e, err), tier.ErrTooLarge):
		x.tries++
		x.denied = err
	default:
		x.tries++
		c.block(x, err, now)
	}
}

// retryAlone answers a load for which the mover found no memory though there was
// room by all that is known, as happens where a device wants it in one piece:
// everybody who is idle leaves, and the load is tried once more. It reports false
// where nobody could leave or that has been tried.
func (c *Core) retryAlone(m *Move, err error) bool {
	e := m.Entry
	if e.want == nil || e.failures != 1 || m.cancelled || m.To <= m.From || !errors.Is(err, tier.ErrNoCapacity) {
		return false
	}
	p := &plan{want: e.want, alone: true}
	for _, other := range c.entries {
		if other != e && other.tier != tier.Storage && other.idle() && !other.Model.Pinned && other.Waiters() == 0 && other.Gate.Leases() == 0 {
			mv := tier.Move{Model: other.Model, From: other.tier, To: tier.Storage}
			p.steps = append(p.steps, &step{Step: tier.Step{Move: mv, Why: "the device found no memory for another"}, e: other})
		}
	}
	if len(p.steps) == 0 {
		return false
	}
	if m.plan != nil {
		c.abandon(m.plan)
	}
	own := &step{Step: tier.Step{Move: m.Move, Why: m.Why}, e: e}
	p.steps = append(p.steps, own)
	p.claim, _ = c.ledger.Reserve(tier.Footprint{})
	c.claim(p)
	e.want.plan = p
	c.plans = append(c.plans, p)
	return true
}

// abandon ends a plan: what it has begun goes on, what it has set aside is given
// back, and those who drain for it are served again.
func (c *Core) abandon(p *plan) {
	c.ledger.Refund(p.claim)
	c.plans = slices.DeleteFunc(c.plans, func(q *plan) bool { return q == p })
	for _, s := range p.steps {
		if s.move != nil {
			s.move.plan = nil
		}
		if s.e.victim == p {
			c.unclaim(s.e)
		}
	}
	if p.want != nil {
		p.want.plan = nil
	}
	c.progress++
}

// respectOrders takes out of a plan that nobody asked for what would bring models
// up that their owner sent down, and nobody has asked for since.
func (c *Core) respectOrders(p *tier.Plan) {
	p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(s tier.Step) bool {
		e, ok := c.Find(s.Model.Name)
		return ok && e.ordered && (s.To > e.tier || s.To == e.tier && s.Keep > e.kept)
	})
}

// plannedIdle begins to carry out a plan for whose end nobody waits.
func (c *Core) plannedIdle(p tier.Plan) []tier.Step {
	if len(c.wants) > 0 || c.planned() || c.pressed {
		return nil
	}
	return c.carryOut(p.Steps, false)
}

// Shed carries out steps that give back memory that the machine is short of. A
// model that gave nothing the last time goes to storage, or it would be asked
// again for as long as memory is short, and whoever waits would go on hoping.
func (c *Core) Shed(steps []tier.Step) {
	for i := range steps {
		if e, ok := c.Find(steps[i].Model.Name); ok && e.clings && steps[i].To == tier.Swap {
			steps[i].To, steps[i].Keep, steps[i].Leave = tier.Storage, 0, 0
			steps[i].Why = "memory pressure: what it was to give back stayed"
		}
	}
	c.carryOut(steps, true)
}

// Lose tells that the entry's weights left memory by themselves, and why. It takes
// no new leases, and goes to storage when those that are held have ended. Where it
// is moving, the move's end tells what became of it. One that is lost soon after
// each load is left alone for a while, like one that does not load.
func (c *Core) Lose(e *Entry, cause error, now time.Time) {
	if e.move != nil || e.stuck || e.removed || e.leaves() || e.tier == tier.Storage {
		return
	}
	e.lost(cause, now)
	e.gone, e.staysTill = true, time.Time{}
	e.Gate.Close()
	c.gone = append(c.gone, e)
	c.sendAway(e, fmt.Sprintf("it left memory by itself: %v", cause))
}

// tidy tries again to bring lost models to storage whose unload failed.
func (c *Core) tidy(now time.Time) {
	c.gone = slices.DeleteFunc(c.gone, func(e *Entry) bool {
		under := func(p *plan) bool { return p.lost && p.steps[0].e == e }
		if e.gone && e.move == nil && !e.stuck && !e.removed && !now.Before(e.staysTill) && !slices.ContainsFunc(c.plans, under) {
			c.sendAway(e, "it left memory by itself, and could not be tidied away before")
		}
		return !e.gone
	})
}

// carryOut begins a plan that is for no model's sake, and returns its steps.
func (c *Core) carryOut(steps []tier.Step, forced bool) []tier.Step {
	resolved, err := c.resolve(steps)
	if err != nil || len(steps) == 0 {
		return nil
	}
	p := &plan{steps: resolved, forced: forced}
	p.claim, _ = c.ledger.Reserve(tier.Footprint{})
	c.plans = append(c.plans, p)
	c.progress++
	out := make([]tier.Step, len(resolved))
	for i, s := range resolved {
		out[i] = s.Step
	}
	return out
}
