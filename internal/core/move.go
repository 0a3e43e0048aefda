package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// movePhase is how far a move has come.
type movePhase uint8

const (
	moveQueued    movePhase = iota // it waits for a turn at the storage
	moveRuns                       // the mover works on it
	moveCancelled                  // the mover works on it and was told to stop
	moveStuck                      // it did not stop in time
	moveEnded
)

var moveFollows = [...][]movePhase{
	moveQueued:    {moveRuns, moveEnded},
	moveRuns:      {moveCancelled, moveEnded},
	moveCancelled: {moveStuck, moveEnded},
	moveStuck:     {moveEnded},
	moveEnded:     {},
}

// callOff is why a move was called off.
type callOff uint8

const (
	notCalledOff callOff = iota
	forPressure          // for want of memory: requests for it go on waiting
	forOther
)

// Move is bytes on their way, or about to be.
type Move struct {
	tier.Move
	Entry *Entry
	// Reason is the stable word, Why the details.
	Reason tier.Reason
	Why    string
	// Order is the instruction that it carries out, if any.
	Order *Order

	purpose   purpose
	urgent    bool // a request waits for its end: it does not yield
	serving   bool // to be served from swap when it is there
	phase     movePhase
	calledOff callOff
	first     bool // to be begun since pressure was last high
	res       *Reservation
	plan      *plan
	startedAt time.Time
	touchedAt time.Time // when it last made progress, as far as was told
	stoppedAt time.Time // when it was called off
}

// newMove returns a move that takes an entry from where it is.
func newMove(e *Entry, to residence, p purpose, reason tier.Reason, why string) *Move {
	return &Move{
		Move:  tier.Move{Model: e.Model, From: e.tier, To: to.tier, Keep: to.kept, Leave: to.left},
		Entry: e, Reason: reason, Why: why, purpose: p, urgent: p == forNeed, serving: to.serving && to.tier == tier.Swap,
	}
}

// moveTo is the only writer of a move's phase.
func (c *Core) moveTo(m *Move, to movePhase) {
	if !slices.Contains(moveFollows[m.phase], to) {
		panic(fmt.Sprintf("core: a move of %s cannot go from phase %d to %d", m.Model.Name, m.phase, to))
	}
	m.phase = to
	c.mark(changed | progressed)
}

// Started reports whether the move was handed out to be carried out; before
// that it is queued.
func (m *Move) Started() bool { return m.phase != moveQueued }

// CalledOff reports whether the move was called off.
func (m *Move) CalledOff() bool { return m.calledOff != notCalledOff }

// Stuck reports whether the move was called off and does not return.
func (m *Move) Stuck() bool { return m.phase == moveStuck }

// returns reports whether the move is expected to return.
func (m *Move) returns() bool { return m.phase != moveStuck }

// Idle reports whether a placement wanted the move though no request waited.
func (m *Move) Idle() bool { return m.purpose == forIdle }

// Background reports whether no request waits for the move's end: it yields.
func (m *Move) Background() bool { return !m.urgent }

// Held returns the bytes that are set aside for the move.
func (m *Move) Held() tier.Footprint { return m.res.Held() }

// goal is where the move takes its entry.
func (m *Move) goal() residence {
	return residence{tier: m.To, kept: m.Keep, left: m.Leave, serving: m.serving}
}

// gives returns the bytes of memory that the move is to give back.
func (m *Move) gives() tier.Bytes {
	at := m.goal()
	at.serving = false
	return max(m.Entry.charge[tier.RAM]-m.Entry.footprint(at)[tier.RAM], 0)
}

// Bytes returns how many bytes of weights the move has to bring or take.
func (m *Move) Bytes() tier.Bytes {
	present := m.Entry.kept
	if m.From == tier.RAM {
		present = m.Model.Size
	}
	switch m.To {
	case tier.RAM:
		return m.Model.Size - present
	case tier.Swap:
		left := m.Entry.left
		if m.From == tier.Storage {
			left = m.Model.Size
		}
		return max((m.Keep - present).Abs(), left-m.Leave)
	}
	return present
}

// Reads returns how many bytes of weights the move has to read: those of Bytes that are
// not in the page cache already, as last observed.
func (m *Move) Reads() tier.Bytes {
	if !m.loads() {
		return m.Bytes()
	}
	return max(m.Bytes()-m.Entry.cached, 0)
}

// Down reports whether the move takes bytes out of its tier.
func (m *Move) Down() bool {
	return m.To < m.From || m.To == m.From && (m.Keep < m.Entry.kept || m.Leave > m.Entry.left)
}

// loads reports whether the move has to read weights, and so wants a turn at
// the storage.
func (m *Move) loads() bool {
	return m.To > m.From || m.To == tier.Swap && m.From == tier.Swap && (m.Keep > m.Entry.kept || m.Leave < m.Entry.left)
}

// urge tells that a request waits for the move.
func (c *Core) urge(m *Move) {
	if !m.urgent {
		m.urgent = true
		if m.Started() {
			c.emit(Urge{m})
		}
	}
}

// errReading: the admission needs a fresh reading first, which was asked for.
var errReading = errors.New("memory is being read")

// IsReading reports whether an order could not be decided because memory is
// being read: it is given again after the next Reading.
func IsReading(err error) bool { return errors.Is(err, errReading) }

// admit asks the admission rules whether need may be promised, for an entry, or nil for
// a set or an outsider, that holds own reservations already.
func (c *Core) admit(e *Entry, need, own tier.Footprint, background bool, now time.Time) error {
	m := &tier.Model{}
	if e != nil {
		m = &e.Model
	}
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
	p := c.promise(own)
	var err error
	for a := tier.FurtherAccount; a < c.ledger.Accounts() && err == nil; a++ {
		if need[a] > p.Free[a] {
			err = c.lacks(a, m, need[a], p.Free[a])
		}
	}
	if err == nil {
		if e != nil {
			p.FileBacked = e.traits.FileBacked
		}
		err = c.opt.Admit(p, m, need, background)
	}
	if err != nil && c.dirty && c.readErr == nil {
		c.readDue = true // what left since may be back by now
		return errReading
	}
	return err
}

// lacks returns the error of a further account without room.
func (c *Core) lacks(a tier.Account, m *tier.Model, need, free tier.Bytes) error {
	limit := c.ledger.Limit(a)
	return &tier.CapacityError{
		Model: m.Name, Account: a, Tier: tier.RAM, Need: need, Free: free, Limit: limit, Never: need > limit,
		Reason: fmt.Sprintf("Not enough %s for '%s': it takes %v, %v is free of %v", c.AccountName(a), m.Name, need, free, limit),
	}
}

// begin sets the move's bytes aside and queues it. The entry's gate is closed
// and no lease is held. claim, if not nil, is room set aside before.
func (c *Core) begin(m *Move, claim *Reservation, now time.Time) error {
	e := m.Entry
	if e.quarantine != nil && m.From == tier.Storage && m.To > tier.Storage {
		return e.quarantine
	}
	need := e.peakFootprint(m.goal()).Beyond(e.own())
	if claim == nil {
		claim = new(Reservation)
	}
	if m.To > m.From || need[tier.RAM] > 0 {
		if err := c.admit(e, need, claim.Held(), !m.urgent, now); err != nil {
			return err
		}
	} else if need[tier.Swap] > 0 {
		if free := c.promise(claim.Held()).Free; need[tier.Swap] > free[tier.Swap] {
			return &tier.CapacityError{Model: e.Model.Name, Tier: tier.Swap, Need: need[tier.Swap], Free: free[tier.Swap], Limit: c.limits().Swap}
		}
	}
	if err := c.ledger.Grow(claim, need.Beyond(claim.Held())); err != nil {
		return err
	}
	m.res = claim
	c.transition(e, moving, m, nil)
	if c.takes(m) {
		m.first, c.begun = !c.begun, true
	}
	c.moves = append(c.moves, m)
	return nil
}

// schedule hands queued moves out: those that read weights as there are turns,
// moves that a request waits for first; the others at once.
func (c *Core) schedule(now time.Time) {
	rank := func(m *Move) int {
		switch {
		case m.Started():
			return 0
		case m.urgent:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(c.moves, func(a, b *Move) int { return cmp.Compare(rank(a), rank(b)) })
	turns := c.opt.Loads
	for _, m := range c.moves {
		wants := m.loads() && m.returns()
		if !m.Started() && (!wants || turns > 0) {
			c.moveTo(m, moveRuns)
			m.startedAt, m.touchedAt = now, now
			drop := Drop{}
			if wants {
				drop = c.dropFor(m)
			}
			c.emit(Start{m, drop})
		}
		if wants && m.Started() {
			turns--
		}
	}
}

// Progressed tells when a running move last made progress.
func (c *Core) Progressed(m *Move, at time.Time) {
	if at.After(m.touchedAt) {
		m.touchedAt = at
	}
}

var errStalled = errors.New("called off: it made no progress")

// overdueAt is when a running move is called off, or counts as stuck, unless
// something happens before; zero: it is not waited for any more.
func (c *Core) overdueAt(m *Move) time.Time {
	switch m.phase {
	case moveRuns:
		return m.touchedAt.Add(c.opt.StallAfter)
	case moveCancelled:
		return m.stoppedAt.Add(c.opt.StuckAfter)
	}
	return time.Time{}
}

// watchMoves calls off moves that make no progress, and takes those for stuck that
// were called off and do not return.
func (c *Core) watchMoves(now time.Time) {
	for _, m := range c.Moves() {
		switch at := c.overdueAt(m); {
		case at.IsZero() || now.Before(at):
		case m.phase == moveRuns:
			c.callOff(m, forOther, errStalled, now)
		default:
			c.stuck(m, now)
		}
	}
}

// stuck ends all waiting for a move that does not return. Its bytes stay charged
// and set aside until it does.
func (c *Core) stuck(m *Move, now time.Time) {
	e := m.Entry
	err := &tier.StuckError{
		Model: m.Model.Name, What: "The " + m.Verb(), After: now.Sub(m.startedAt).Round(time.Millisecond),
		Bytes: e.charge[tier.RAM].Plus(m.Held()[tier.RAM]),
	}
	c.moveTo(m, moveStuck)
	o := m.Order
	m.Order = nil
	if m.plan != nil {
		c.abandon(m.plan)
	}
	for _, x := range e.demands() {
		c.fail(x, err)
	}
	c.endOrder(o, err)
	c.emit(Stuck{m, err})
}

// errCalledOff is the cause of a move that no request waits for any more.
var errCalledOff = errors.New("called off: no request waits for it any more and others do")

// CancelMove calls a move off: a queued one ends at once, a started one when its
// mover returns.
func (c *Core) CancelMove(m *Move, cause error, now time.Time) {
	c.callOff(m, forOther, cause, now)
}

func (c *Core) callOff(m *Move, why callOff, cause error, now time.Time) {
	switch {
	case m.Entry.move != m:
	case m.calledOff != notCalledOff:
		if why == forOther {
			m.calledOff = forOther
		}
	case m.phase == moveQueued:
		m.calledOff = why
		c.MoveEnded(m, Outcome{Err: &tier.MoveError{Model: m.Model.Name, From: m.From, To: m.To, Err: cause}, CalledOff: cause == errCalledOff || cause == errReplaced}, now)
	default:
		m.calledOff, m.stoppedAt = why, now
		c.moveTo(m, moveCancelled)
		c.emit(Cancel{m, cause})
	}
}

// yield calls off loads that no request waits for, because one waits for the room
// or the turn that they take.
func (c *Core) yield(now time.Time) {
	for _, m := range c.Moves() {
		waited := m.Order != nil || m.plan != nil && (m.plan.demand != nil || m.plan.limiting != nil) || m.Entry.wanted()
		if !waited && m.To > m.From {
			c.callOff(m, forOther, errCalledOff, now)
		}
	}
}

// Outcome is how a move ended.
type Outcome struct {
	Err error
	// What Err means, found out where foreign code may be asked: Lost, that the model
	// is in storage (tier.MoveError); Short, that less memory was found than was
	// promised (tier.ErrNoCapacity); CalledOff, that it ended because it was not
	// wanted any more (see Cause).
	Lost, Short, CalledOff bool
	// Unverified is why the model must not be served though the move has brought it: it
	// goes back to storage. Again: requests go on waiting, as it is another by then, or is
	// rolled back; else the load has failed for all who wait.
	Unverified error
	Again      bool
	// Observed: Present and Reclaimable were asked of the kernel after the end.
	Observed bool
	Seen
	// Traits are what the mover says of the model now; nil: as before.
	Traits *Traits
}

// Fault returns the error of the move, or why what it has brought must not be served.
func (o *Outcome) Fault() error {
	if o.Err != nil {
		return o.Err
	}
	return o.Unverified
}

// CalledOff reports whether a move ended because it was not wanted any more, and
// not for a fault.
func CalledOff(err error) bool { return errors.Is(err, errCalledOff) }

// MoveEnded tells that the mover has returned, or that the move was never
// started.
func (c *Core) MoveEnded(m *Move, out Outcome, now time.Time) {
	e := m.Entry
	if e.move != m {
		return
	}
	out.Seen = out.Seen.Believable()
	c.moves = slices.DeleteFunc(c.moves, func(r *Move) bool { return r == m })
	c.moveTo(m, moveEnded)
	c.transition(e, resting, nil, nil)
	if out.Observed {
		if locked := e.Reclaimable - out.Reclaimable; locked > 0 && m.To == tier.RAM && out.Err == nil {
			// The reading counts them as available still.
			c.unseen, c.unseenAt = c.unseen.Plus(tier.Footprint{tier.RAM: locked}), now
		}
		e.Reclaimable = out.Reclaimable
	}
	if out.Traits != nil {
		c.takeTraits(e, *out.Traits)
	}
	defer func() {
		if e.tier == tier.RAM {
			c.setCached(e, 0)
			return
		}
		if out.CachedTold { // else it was not looked at, or in vain
			c.setCached(e, out.Cached)
		}
		c.forecast(e)
	}()
	if out.Err == nil {
		c.arrive(m, out, now)
		if x := e.demand; x != nil && x.order != nil && e.tier != x.order.To {
			x.tries++ // a placement that brings it elsewhere would do so without end
		}
		if out.Unverified != nil {
			c.doom(e, unverified)
			out.Err = &tier.MoveError{Model: e.Model.Name, From: m.From, To: m.To, Err: out.Unverified}
		}
	} else {
		c.turnBack(m, out, now)
	}
	if m.To >= m.From {
		e.loadEnded(m, out, now)
	}
	if m.purpose == forStandby && out.Err != nil {
		c.staysIdle(e, out.Short, now)
	}
	if m.purpose == forHome && out.CalledOff && e.fate != replaced {
		c.bringHomeLater(e) // when it is quiet again
	}
	x := e.demand
	pressed := m.calledOff == forPressure
	// It goes on waiting where there was less memory than promised: see
	// serveUnderPressure.
	short := out.Err != nil && x != nil && x.order == nil && (pressed || (m.To == tier.RAM || m.Keep > 0) && e.short(now) && c.servableInPlace(e))
	again := short || out.Err != nil && c.retryAlone(m, out) || out.Again && x != nil && x.order == nil
	if p := m.plan; p != nil {
		switch {
		case out.Again && p.demand != nil:
			c.abandon(p)
		case out.Err != nil && out.Short:
			c.broken(p, fmt.Errorf("%w: %v", tier.ErrNoCapacity, out.Err), now)
		case out.Err != nil:
			c.broken(p, out.Err, now)
		default:
			c.claim(p)
		}
	}
	if x = e.demand; x != nil {
		if short && pressed {
			place := x.age()
			if m.first {
				place = now // it had as long a time as there is
			}
			c.giveTurn(e, place)
		}
		if out.Err != nil && !again && m.To >= m.From && !out.CalledOff {
			c.fail(x, out.Err)
		} else if o := x.order; o != nil && o.cancelled != nil && e.tier != o.To {
			// The mover went on, or the move was to another tier: it goes no further.
			c.fail(x, &tier.MoveError{Model: e.Model.Name, From: e.tier, To: o.To, Err: o.cancelled})
		} else {
			x.brought(e, m.From)
		}
	}
	for _, x := range slices.Clone(e.sets) {
		if out.Err != nil && !pressed && !out.Again && m.To >= m.From && !out.CalledOff && !(e.short(now) && c.servableInPlace(e)) {
			c.fail(x, out.Err)
		} else {
			x.brought(e, m.From)
		}
	}
	c.endOrder(m.Order, out.Err)
	if out.Err != nil && m.To == tier.Storage && m.calledOff == notCalledOff {
		e.retryAt = now.Add(backOffFirst)
	}
	c.reopen(e)
}

// arrive books a move that succeeded: what was seen to be present stays
// charged, as far as it was charged or set aside.
func (c *Core) arrive(m *Move, out Outcome, now time.Time) {
	e := m.Entry
	bound := e.charge.Plus(m.res.Held())
	others := e.charge[tier.RAM] - e.own()[tier.RAM]
	at := m.goal()
	at.kept = min(max(at.kept, 0), e.Model.Size)
	rest := e.footprint(at)
	switch {
	case !out.Observed:
	case m.To == tier.Swap:
		if over := min(out.Present, e.Model.Size) + rest[tier.RAM] - at.kept - bound[tier.RAM]; at.serving && over > 0 {
			// What was to go so that the runtime bytes have room is still there.
			if c.ledger.Grow(m.res, tier.Footprint{tier.RAM: over}) == nil {
				bound[tier.RAM] += over
			} else {
				at.serving = false
				rest = e.footprint(at)
				if e.demand != nil {
					e.demand.tries++ // it is planned again
				}
			}
		}
		least := max(e.Model.Size-at.left-bound[tier.Swap], 0)
		most := min(e.Model.Size, bound[tier.RAM]-others-(rest[tier.RAM]-at.kept))
		at.kept = max(min(out.Present, most), least)
		at.left = min(at.left, e.Model.Size-at.kept) // what was to be in storage and is seen is not
		rest = e.footprint(at)
	case m.To == tier.Storage:
		rest[tier.RAM] = min(out.Present, bound[tier.RAM])
	}
	if m.To > m.From {
		e.loadTook = now.Sub(m.startedAt)
		c.endTurn(e)
	}
	e.sticky = out.Observed && m.From == tier.Swap && m.To == tier.Swap && m.Keep < e.kept && at.kept >= e.kept
	if at.tier != tier.Swap {
		at.kept, at.left = 0, 0
	}
	if at.tier != e.tier {
		e.idle.arrived(m, now)
	}
	e.residence, e.since = at, now
	e.foreign = e.foreign && m.To == tier.Storage
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
	// A load that failed leaves nothing behind, or so movers promise; of one that was
	// just called off, pages may still be on their way out, and are waited for.
	if here := max(out.Present, out.Taken) - e.charge[tier.RAM]; !out.Lost && out.Observed && e.tier == tier.Storage && here > 0 {
		e.since = now
		c.commit(e, m.res, e.charge.Plus(tier.Footprint{tier.RAM: min(here, m.res.Held()[tier.RAM])}), now)
		return
	}
	if !out.Lost {
		// Only where memory was set aside may there be more of it now. A model that
		// could not leave changed nothing, and a fresh reading would have it tried
		// again at once, without end.
		if m.res.Held()[tier.RAM] > 0 {
			c.mark(dirty)
		}
		c.refund(m.res)
		return
	}
	var left tier.Footprint
	if out.Observed {
		left[tier.RAM] = min(out.Present, e.charge[tier.RAM])
	}
	e.residence, e.taken, e.since = residence{}, 0, now
	c.commit(e, m.res, left, now)
}

// bringHomeLater has an entry brought to its home tier in the background.
func (c *Core) bringHomeLater(e *Entry) {
	if e.Model.Home != tier.Storage && !e.homeward && !c.stopped {
		e.homeward = true
		c.homes = append(c.homes, e)
	}
}

// bringHome starts to bring the next model to its home tier, where there is room
// without another leaving and no request waits for anything.
func (c *Core) bringHome(now time.Time) {
	if len(c.homes) == 0 {
		return
	}
	free := c.promise(tier.Footprint{}).Free // once: most of a large library has no room
	for len(c.homes) > 0 && !c.rests() && len(c.demands) == 0 && !c.planned() {
		if slices.ContainsFunc(c.moves, func(m *Move) bool { return !m.Started() || m.loads() && m.returns() }) {
			return
		}
		e := c.homes[0]
		if e.homeward && e.move != nil && e.move.returns() {
			return // on its way down for an outsider that has left since
		}
		home := residence{tier: e.Model.Home}
		if e.homeward && e.free() && e.fate == stays && !e.wanted() && e.Gate.Leases() == 0 && e.tier < e.Model.Home &&
			e.peakFootprint(home).Beyond(e.own()).Within(free) {
			m := newMove(e, home, forHome, tier.ReasonHome, "to its home tier")
			if err := c.begin(m, nil, now); errors.Is(err, errReading) {
				return
			}
		}
		e.homeward = false
		c.homes = c.homes[1:]
	}
}
