package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Epoch is a moment in the life of the library. What was decided by a view is
// carried out only on models that were there in its epoch: a name may belong to
// another model by then.
type Epoch uint64

// Epoch returns the epoch of a view that is made now.
func (c *Core) Epoch() Epoch { return Epoch(c.epoch) }

// Question is what the owner asks the placement.
type Question struct {
	View tier.View
	Need tier.Need
	// Idle: no request waits; the placement is asked for what is worth moving.
	Idle bool

	ordered  bool // idle: by the models' owner
	epoch    Epoch
	progress uint64 // when it was asked
	demand   *demand
	limiting *limitsChange
}

// purpose is what a move or a plan is for.
type purpose uint8

const (
	forNeed    purpose = iota // a request, an order or a limit waits, or memory is short
	forHome                   // its home tier
	forIdle                   // the placement found it worth moving
	forStandby                // it was idle for too long where it is
)

// plan is a tier.Plan that is being carried out.
type plan struct {
	purpose  purpose
	demand   *demand       // for whose sake; nil: no request's or hot load's
	limiting *limitsChange // for whose sake
	steps    []*step
	live     bool
	patient  bool // it waits for leases on its victims to end
	exit     bool // its model leaves, or has left by itself, pinned or not
	alone    bool // the last step waits for all others, whatever room there is
	// claim is the room set aside for the final step. It grows as victims leave, and
	// the steps before draw on it.
	claim *Reservation
}

// step is one step of a plan. It names an entry, not a model: what the model is
// when the step begins, the entry says.
type step struct {
	e     *Entry
	epoch Epoch     // of the view that it was made from
	from  tier.Tier // there
	down  bool      // there, it was to take bytes out of memory
	to    residence

	reason tier.Reason
	why    string

	phase stepPhase
	move  *Move // once begun
}

// stepPhase is how far a step has come.
type stepPhase uint8

const (
	stepWaits  stepPhase = iota
	stepDrains           // leases on its model have to end before it can begin
	stepBegun            // it ends with its move
	stepVoid             // there is nothing to do
)

// stepOf returns a step that brings an entry to another residence.
func (c *Core) stepOf(e *Entry, to residence, reason tier.Reason, why string) *step {
	return &step{e: e, epoch: c.Epoch(), from: e.tier, down: to.tier < e.tier, to: to, reason: reason, why: why}
}

// ended reports whether nothing is left of the step to wait for.
func (s *step) ended() bool {
	return s.phase == stepVoid || s.phase == stepBegun && s.move.phase == moveEnded
}

// drains reports whether the plan waits for leases to end.
func (p *plan) drains() bool {
	return slices.ContainsFunc(p.steps, func(s *step) bool { return s.phase == stepDrains && s.e.claimant == p })
}

// final is the step that brings the wanted model where it is to be, if the plan
// has one and it has not begun.
func (p *plan) final() *step {
	if p.demand == nil || len(p.steps) == 0 {
		return nil
	}
	s := p.steps[len(p.steps)-1]
	if s.e != p.demand.e || s.phase >= stepBegun {
		return nil
	}
	return s
}

// target is what the claim has to reach.
func (p *plan) target() tier.Footprint {
	if p.demand != nil && p.demand.outsider != nil {
		return tier.Footprint{tier.RAM: p.demand.outsider.Bytes}
	}
	if p.demand != nil && p.demand.members != nil {
		return p.demand.lacks()
	}
	s := p.final()
	if s == nil {
		return tier.Footprint{}
	}
	charge := s.e.own()
	if s.e.move != nil {
		charge = charge.Plus(s.e.move.Held())
	}
	return s.e.peakFootprint(s.to).Beyond(charge)
}

// planned reports whether a plan is being carried out, other than to wait for the
// last lease on a model that crashed or is replaced, which may take as long as an
// answer does.
func (c *Core) planned() bool {
	return slices.ContainsFunc(c.plans, func(p *plan) bool { return !p.exit || !p.drains() })
}

func (c *Core) ask(q *Question, now time.Time) {
	if c.asked != nil {
		return
	}
	var own tier.Footprint
	if q.demand != nil && q.demand.plan != nil {
		own = q.demand.plan.claim.Held()
	}
	q.View, q.epoch, q.progress = c.view(own, now), c.Epoch(), c.progress
	for i := range q.View.States {
		s := &q.View.States[i]
		// What a whole model has in memory while it is in swap, such as a frozen engine,
		// no move within swap gives back: it is not to be planned with.
		if s.Tier == tier.Swap && !s.Divisible {
			s.Kept = 0
		}
		// One that was sent where it is stays there while no request comes for it: no other
		// is to make room for it.
		if q.Idle && !q.ordered && c.entries[i].sent && s.Tier < tier.RAM {
			s.Moving, s.To = true, s.Tier
		}
		// What is there of a set stays there, while its room is looked for or made.
		if e := c.entries[i]; len(e.sets) > 0 && (q.demand == nil || q.demand.e != e) && (q.demand.wants(e) || e.keptFrom(q.demand)) {
			s.Moving, s.To = true, s.Tier
		}
	}
	if q.demand != nil {
		if e := q.demand.e; e != nil && e.tier == tier.Storage {
			// Its own bytes that are still in memory are not in its way: its load needs
			// only those that are missing.
			r := &q.View.Room[tier.RAM]
			*r = r.Plus(min(e.own()[tier.RAM], e.Model.Size.Plus(e.Model.Runtime)))
		}
		q.demand.busy = false
		for i := range c.entries {
			q.demand.busy = q.demand.busy || i != q.Need.Model && q.View.Drainable(i) && !q.View.Evictable(i)
		}
	}
	c.asked = q
	c.emit(Ask{q})
}

// AskIdle asks the placement what is worth moving though no request waits; ordered
// says that the models' owner wants to know. It returns nil where something is
// under way that goes first.
func (c *Core) AskIdle(ordered bool, now time.Time) *Question {
	if c.stopped || c.asked != nil || c.planned() || len(c.demands) > 0 || c.limiting != nil {
		return nil
	}
	q := &Question{Idle: true, ordered: ordered}
	c.ask(q, now)
	return q
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
	var steps []tier.Step
	switch {
	case c.stopped:
	case q.demand != nil:
		c.plannedDemand(q, p, err, now)
	case q.limiting != nil:
		c.plannedLimits(q, p, err)
	default:
		if err == nil {
			steps = c.plannedIdle(q, p)
		}
		c.idle.planned(len(steps), c.opt.OptimizeEvery, now)
	}
	return steps
}

// maxTries is how many plans for one demand may come to nothing.
const maxTries = 8

func (c *Core) plannedDemand(q *Question, p tier.Plan, err error, now time.Time) {
	x := q.demand
	if x.ended || x.e != nil && x.e.phase != resting || c.goesFirst(x, now) != nil {
		return // overtaken by events: Step asks again where it still matters
	}
	if x.order == nil && len(x.waiters) == 0 {
		return // all have left since it was asked: Step drops it
	}
	refused := err != nil || len(p.Steps) == 0 && x.members == nil
	switch {
	case x.plan != nil && refused:
		x.seen = q.progress // nothing better than the drain that is under way
		return
	case refused && c.progress != q.progress && x.overtaken < maxTries && !errors.Is(err, tier.ErrTooLarge):
		// Something that may help has happened since it was asked.
		x.overtaken++
		x.blocked, x.denied, x.seen = true, err, q.progress
		return
	case err != nil:
		if errors.Is(err, tier.ErrNoCapacity) && (x.patient || !c.roomComes(now)) {
			c.stopOneFrozen(x, now)
		}
		c.block(x, err, now)
		return
	case x.tries >= maxTries:
		if x.denied == nil {
			x.denied = errors.New("the placement found no plan that could be carried out")
		}
		lack := &tier.CapacityError{Tier: tier.RAM, Limit: c.limits().RAM}
		if x.e == nil {
			lack.Need = q.Need.Room[tier.RAM]
			lack.Reason = fmt.Sprintf("no room could be made in %d attempts: %v", x.tries, x.denied)
		} else {
			lack.Need = x.e.Model.Size
			lack.Reason = fmt.Sprintf("No room could be made for '%s' in %d attempts: %v", x.e.Model.Name, x.tries, x.denied)
		}
		c.fail(x, c.explained(x, lack))
		return
	}
	x.blocked, x.denied = false, nil
	if len(p.Steps) == 0 && x.members == nil {
		x.tries++
		if x.outsider != nil {
			if err := c.give(x, now); err != nil && !errors.Is(err, errReading) {
				c.block(x, err, now)
			}
			return
		}
		if x.e.tier == tier.Swap && x.order == nil && x.e.traits.InPlace {
			x.settled = true
			c.mark(progressed)
			return
		}
		c.block(x, fmt.Errorf("%w: the placement has no plan", tier.ErrNoCapacity), now)
		return
	}
	if x.plan == nil && slices.ContainsFunc(p.Steps, func(s tier.Step) bool { return s.Model.Name != x.name() }) {
		if first := c.behind(x, now); first != nil {
			x.blocked, x.seen = true, q.progress
			x.denied = fmt.Errorf("%w: %s waits for room for longer", tier.ErrNoCapacity, first.name())
			return
		}
	}
	if x.plan != nil {
		c.abandon(x.plan) // others left meanwhile: no need to wait for the drain
	}
	pl := &plan{demand: x, patient: x.patient}
	pl.steps, err = c.resolve(q, p.Steps)
	if err != nil {
		if c.progress != q.progress && x.overtaken < maxTries {
			x.overtaken++ // it speaks of models that are others by now
			return
		}
		x.tries++
		c.block(x, err, now)
		return
	}
	if x.members != nil {
		pl.steps = slices.DeleteFunc(pl.steps, func(s *step) bool { return x.wants(s.e) })
		finals := c.finals(x)
		x.settled = true
		if len(finals) == 0 && x.lacks().IsZero() { // all are there or on their way by now
			c.mark(progressed)
			return
		}
		pl.steps = append(pl.steps, finals...)
	}
	if s := pl.final(); s != nil && s.to.tier == tier.Swap {
		s.to.serving = x.order == nil
	}
	if err := c.makeFurtherRoom(pl); err != nil {
		c.block(x, err, now)
		return
	}
	takes, promise := pl.target(), c.promise(tier.Footprint{})
	if x.e == nil || x.e.traits.FileBacked {
		takes[tier.Swap] = 0
	} else {
		promise.FileBacked = false
	}
	if c.pressureHigh() && !takes.IsZero() {
		// Victims would leave for nothing. The reading that it goes by is as old as the
		// question: a fresher one would be old again after the next.
		if err := c.opt.Admit(promise, x.model(), takes, false); err != nil {
			if x.e != nil {
				c.giveTurn(x.e, x.age())
			}
			c.fail(x, c.explained(x, err))
			return
		}
	}
	x.settled = x.members != nil || x.e != nil && x.e.tier == tier.Swap && pl.final() == nil && x.order == nil
	c.pursue(x, pl, now)
}

// resolve finds the entries of the steps that answer a question, and refuses a plan
// that cannot be one. Weights that would leave ram for swap and are no pages of their own
// files go to storage where the machine has no room for them.
func (c *Core) resolve(q *Question, steps []tier.Step) ([]*step, error) {
	out := make([]*step, len(steps))
	backing := tier.None // what there is for such weights; None: not asked yet
	for i, s := range steps {
		e, ok := c.Named(s.Model.Name)
		switch {
		case !ok:
			return nil, &tier.NotFoundError{What: "model", Name: s.Model.Name}
		case Epoch(e.epoch) > q.epoch:
			return nil, errOtherModel(e)
		case !s.To.Valid() || s.Keep < 0 || s.Leave < 0 || s.Keep.Plus(s.Leave) > e.Model.Size:
			return nil, &tier.InvalidError{Model: s.Model.Name, Field: "plan", Value: fmt.Sprintf("%v, keep %v, leave %v", s.To, s.Keep, s.Leave), Rule: "must name a tier, and keep and leave no more than the model's size"}
		}
		to := residence{tier: s.To}
		if e.traits.Divisible && s.To == tier.Swap {
			to.kept = s.Keep
			if e.traits.Leaves {
				to.left = s.Leave
			}
		}
		switch {
		case q.limiting != nil:
			s.Reason = tier.ReasonLimits // whatever the placement calls it
		case s.Reason != "":
		case q.demand == nil:
			s.Reason = tier.ReasonRebalance
		case e == q.demand.e:
			s.Reason = tier.ReasonDemand
		default:
			s.Reason = tier.ReasonRoom
		}
		j, _ := q.View.Library.Find(s.Model.Name) // it is there: the epoch is not later
		st := &q.View.States[j]
		if st.Unbacked && st.Tier == tier.RAM && to.tier == tier.Swap {
			if backing == tier.None {
				p := c.promise(tier.Footprint{})
				p.FileBacked = false
				backing = c.opt.Room(p)[tier.Swap]
			}
			if grows := e.Model.Size - to.kept - to.left; grows > backing {
				to = residence{}
				s.Why += "; there is no swap on disk for it"
			} else {
				backing -= grows
			}
		}
		down := st.Tier > to.tier || st.Tier == tier.Swap && to.tier == tier.Swap && (st.Kept > to.kept || st.Left < to.left)
		out[i] = &step{e: e, epoch: q.epoch, from: st.Tier, down: down, to: to, reason: s.Reason, why: s.Why}
	}
	return out, nil
}

// errOtherModel is the end of a step whose name belongs to another model by now.
func errOtherModel(e *Entry) error {
	return fmt.Errorf("%w: '%s' is another model by now", tier.ErrNoCapacity, e.Model.Name)
}

// makeFurtherRoom adds steps to a plan by which models leave that hold the room
// which its final step needs in a further account, least recently used first: a
// placement plans for ram and swap. Busy ones are named if the plan is patient. It
// returns a *tier.CapacityError where that is not enough.
func (c *Core) makeFurtherRoom(p *plan) error {
	target, free := p.target(), c.promise(tier.Footprint{}).Free
	for a := tier.FurtherAccount; a < c.ledger.Accounts(); a++ {
		missing := target[a] - free[a]
		for _, s := range p.steps {
			missing -= max(s.e.charge[a]-s.e.footprint(s.to)[a], 0)
		}
		if missing <= 0 {
			continue
		}
		var holders []*Entry
		for _, e := range c.entries {
			named := slices.ContainsFunc(p.steps, func(s *step) bool { return s.e == e })
			if e.charge[a] > 0 && !named && (c.mayLeave(e) || p.patient && e.free() && !e.Model.Pinned) {
				holders = append(holders, e)
			}
		}
		slices.SortStableFunc(holders, func(x, y *Entry) int { return x.LastUse.Compare(y.LastUse) })
		for _, e := range holders {
			if missing <= 0 {
				break
			}
			missing -= e.charge[a]
			p.steps = slices.Insert(p.steps, 0, c.stepOf(e, residence{}, tier.ReasonRoom, "it holds "+c.AccountName(a)))
		}
		if missing > 0 {
			return c.lacks(a, p.demand.model(), target[a], free[a]) // an outsider needs none
		}
	}
	return nil
}

// mayLeave reports whether the entry can leave its tier at once.
func (c *Core) mayLeave(e *Entry) bool {
	return e.tier != tier.Storage && e.free() && !e.Model.Pinned && !e.wanted() && e.Gate.Leases() == 0
}

// start puts a plan among those that are carried out.
func (c *Core) start(p *plan) {
	p.live = true
	p.claim = new(Reservation)
	c.claim(p)
	c.plans = append(c.plans, p)
	c.mark(progressed)
}

// pursue makes pl the demand's plan, and begins it.
func (c *Core) pursue(x *demand, pl *plan, now time.Time) {
	c.start(pl)
	x.plan = pl
	c.advance(pl, now) // before another plans with the same victims
	x.seen = c.progress
}

// claim sets aside what there is of the room that the plan's final step needs,
// so that no other takes what its victims leave.
func (c *Core) claim(p *plan) {
	missing := p.target().Beyond(p.claim.Held())
	if missing.IsZero() {
		return
	}
	free := c.promise(tier.Footprint{}).Free
	for a := range missing {
		missing[a] = min(missing[a], free[a])
	}
	must(c.ledger.Grow(p.claim, missing))
}

// advanceAll carries on with every plan.
func (c *Core) advanceAll(now time.Time) {
	for _, p := range slices.Clone(c.plans) {
		if p.live {
			c.advance(p, now)
		}
	}
}

// advance begins every step that can begin, and ends the plan when all are done.
func (c *Core) advance(p *plan, now time.Time) {
	if p.purpose == forIdle && (len(c.demands) > 0 || c.rests()) {
		c.abandon(p) // requests wait: what none waits for is planned again later
		return
	}
	earlier := 0   // steps before this one that have not ended
	short := false // one of them waits for room or its turn: it must not be overtaken to it
	for _, s := range p.steps {
		if s.phase < stepBegun {
			switch err := c.beginStep(p, s, earlier, short, now); {
			case err == nil || errors.Is(err, errDrains):
			case errors.Is(err, errLater) || errors.Is(err, errReading):
				short = true
			default:
				c.broken(p, err, now)
				return
			}
		}
		if !s.ended() {
			earlier++
		}
	}
	if earlier == 0 && p.demand != nil && p.demand.outsider != nil {
		if err := c.give(p.demand, now); err != nil && !errors.Is(err, errReading) {
			c.broken(p, err, now)
		}
		return
	}
	if earlier == 0 {
		c.abandon(p)
		begun := func(s *step) bool { return s.move != nil }
		if x := p.demand; x != nil && !slices.ContainsFunc(p.steps, begun) {
			x.tries++ // or a placement that changes nothing would be asked without end
			x.denied = errors.New("the placement's plan changes nothing")
		}
	}
}

// errLater: the step cannot begin yet. errDrains: leases on its model have to end
// first. errTaken: its model was taken into use between plan and step; the plan is
// made again.
var (
	errLater  = errors.New("later")
	errDrains = errors.New("drains")
	errTaken  = fmt.Errorf("%w: a model that was to leave was taken into use", tier.ErrNoCapacity)
)

// beginStep begins one step if it can begin now.
func (c *Core) beginStep(p *plan, s *step, earlier int, short bool, now time.Time) error {
	e, to := s.e, s.to
	own, final := p.demand.wants(e), s == p.final()
	whole := own && p.demand.members != nil
	switch {
	case Epoch(e.epoch) > s.epoch:
		return errOtherModel(e)
	case e.phase == removed || e.Stuck() || e.fate != stays && to.tier > e.tier:
		return fmt.Errorf("%w: '%s' cannot be moved", tier.ErrNoCapacity, e.Model.Name)
	case e.phase == moving || e.phase == claimed && e.claimant != p:
		return errLater
	case e.tier == to.tier && (to.tier != tier.Swap || e.kept == to.kept && e.left == to.left),
		p.purpose == forIdle && e.sent && (to.tier > e.tier || to.tier == e.tier && to.kept > e.kept),
		!own && to.tier <= s.from && to.tier > e.tier,
		!own && s.down && e.tier == to.tier && e.kept <= to.kept && e.left >= to.left:
		// Overtaken by events: it is there, or has left further than it was to, or was
		// sent down since.
		s.phase = stepVoid
		c.unclaim(e)
		return nil
	case !own && e.Model.Pinned && !p.exit:
		return fmt.Errorf("%w: '%s' is pinned", tier.ErrNoCapacity, e.Model.Name)
	case !own && s.down && !p.exit && e.keptFrom(p.demand):
		return errTaken
	case short && (final || !e.peakFootprint(to).Beyond(e.charge).IsZero()):
		return errLater
	case final && earlier > 0 && (p.alone || !p.target().Within(p.claim.Held())):
		return errLater
	case whole:
		if err := c.admitSet(p, now); err != nil && earlier > 0 {
			return errLater
		} else if err != nil {
			return err
		}
	}
	leases := e.Gate.Close()
	if leases > 0 && (!p.patient || own) {
		c.unclaim(e)
		return errTaken
	}
	if e.phase == resting {
		c.transition(e, claimed, nil, p)
	}
	if leases > 0 {
		s.phase = stepDrains // no new leases, and the step begins when the last ends
		return errDrains
	}
	s.phase = stepWaits
	if e.serving {
		c.stopServing(e)
	}
	m := newMove(e, to, p.purpose, s.reason, s.why)
	m.plan = p
	down := m.Down()
	if err := c.beginMove(p, m, final, now); err != nil {
		switch {
		case errors.Is(err, errReading):
			return err
		case earlier > 0:
			return errLater // room is being made for it
		case own || !down || m.To != tier.Swap:
			return err
		}
		m.To, m.Keep, m.Leave, m.serving = tier.Storage, 0, 0, false
		if err := c.beginMove(p, m, false, now); err != nil {
			return err
		}
	}
	s.phase, s.move = stepBegun, m
	if p.demand != nil {
		p.demand.begun()
	}
	if !own && !p.exit && down {
		ev := Evicted{Entry: e, To: m.To, Reason: m.Reason, Why: m.Why}
		if p.demand != nil {
			ev.For = p.demand.name()
			if o := p.demand.outsider; o != nil {
				o.displace(e)
			}
		}
		c.emit(ev)
	}
	return nil
}

// beginMove begins the move of a step with what the plan has set aside: the final
// one takes all of it, one before what it needs.
func (c *Core) beginMove(p *plan, m *Move, final bool, now time.Time) error {
	if final {
		err := c.begin(m, p.claim, now)
		if err == nil {
			p.claim = new(Reservation) // the other is the move's now
		}
		return err
	}
	held := p.claim.Held()
	c.ledger.Refund(p.claim)
	p.claim = new(Reservation)
	err := c.begin(m, nil, now)
	if c.claim(p); p.claim.Held() != held {
		c.mark(progressed) // others may have what it gave up
	}
	return err
}

// broken ends a plan that cannot go on. Where it was overtaken by events, by a
// lease or by bytes that are seen where they were not meant to be, the demand is
// planned again by what is true now; maxTries bounds that.
func (c *Core) broken(p *plan, err error, now time.Time) {
	x := p.demand
	c.abandon(p)
	switch {
	case p.limiting != nil:
		c.endLimits(p.limiting, err)
	case x == nil:
	case err == errTaken: // not errors.Is: err may be a mover's, which is foreign code
		if x.taken++; x.taken >= maxTries {
			x.busy = true // by a request that may have given up its use since
			c.block(x, err, now)
		}
	case errors.Is(err, tier.ErrNoCapacity) && x.tries < maxTries && !errors.Is(c.denial(x, err), tier.ErrTooLarge):
		x.tries++
		x.denied = err
	default:
		x.tries++
		c.block(x, err, now)
	}
}

// abandon ends a plan: what it has begun goes on, what it has set aside is given
// back, and models that drain for it are served again.
func (c *Core) abandon(p *plan) {
	c.ledger.Refund(p.claim)
	p.live = false
	c.plans = slices.DeleteFunc(c.plans, func(q *plan) bool { return q == p })
	for _, s := range p.steps {
		if s.move != nil {
			s.move.plan = nil
		}
		if s.e.claimant == p {
			c.unclaim(s.e)
		}
	}
	if p.demand != nil {
		p.demand.plan = nil
	}
	c.mark(progressed)
}
