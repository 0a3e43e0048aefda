package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Room for outsiders is planned for as for a model: the demand takes its place among the
// others, models give way for it by the same rules, and admission is asked. It is charged
// to ram under the outsider's name until it is given back.
//
// What it takes of it is not ours to see. A reading counts room that is not taken as
// available, so it is taken off what may be promised; once it is taken, the reading has
// fallen by it, and it must not be taken off twice. So that is reckoned from what is
// available beside our models (headroom): the room is taken as far as that has fallen
// since it was given. In doubt, room counts as not taken: a fall that our own moves may
// explain does not count, nor one that is made good again. Models may take less than they
// are charged: then headroom falls when one leaves, and rises when one comes, so level
// follows it (settle). What other programs take meanwhile cannot be told from it, nor what
// a model takes later that it was charged for before: that is what the reserve is for.

// Outsider is another program that is to have memory for a while. Its owner makes it and
// changes nothing while the core has it.
type Outsider struct {
	ID, Why string
	Bytes   tier.Bytes
	For     time.Duration // how long it may hold them; 0: until it gives them back
	// Since is when it got them, Until when it has to be done; zero: at no given time.
	Since, Until time.Time

	displaced []*Entry // models that gave way for it
}

func (o *Outsider) name() string { return o.holder().Name() }

func (o *Outsider) holder() tier.Holder {
	return tier.Holder{Reservation: o.ID, Why: o.Why, Bytes: o.Bytes}
}

// displace takes note that a model gives way.
func (o *Outsider) displace(e *Entry) {
	if !slices.Contains(o.displaced, e) {
		o.displaced = append(o.displaced, e)
	}
}

// refusal is why room could not be made, as the outsider is told of it: a lack of room,
// also if a model that was to leave did not.
func (o *Outsider) refusal(err error) error {
	n := tier.CapacityError{Tier: tier.RAM, Need: o.Bytes}
	if ce, ok := errors.AsType[*tier.CapacityError](err); ok {
		n = *ce
	}
	how := "cannot be given now"
	if n.Never {
		how = "can never be given"
	}
	n.Reason = fmt.Sprintf("Room of %v %s: %v", o.Bytes, how, err)
	return &n
}

// takings is what is known of how much of their room outsiders have taken.
type takings struct {
	untaken tier.Bytes // of the room that they hold, what is not seen to be taken
	level   tier.Bytes // what headroom falls to when all of it is taken
	// gone is bytes that models gave back since headroom was last exact, came those that
	// they were charged since: a reading may show them or not, and may show fewer. moved:
	// some of it since the last reading.
	gone, came tier.Bytes
	moved      bool
	// exact is untaken as of then, lowered what was taken off level since for models that
	// left and had not taken what they were charged.
	exact, lowered tier.Bytes
	// leaving is what moves were to give back at the last reading.
	leaving tier.Bytes
	// returning is what outsiders had taken that hold nothing any more: headroom rises
	// when it comes back, until returnBy, and no other has given it back then.
	returning tier.Bytes
	returnBy  time.Time
}

// charged takes note of what a model was charged and is charged now.
func (t *takings) charged(before, now tier.Bytes) {
	t.gone, t.came = t.gone.Plus(max(before-now, 0)), t.came.Plus(max(now-before, 0))
	t.moved = t.moved || now != before
}

// maxOutsiders is how many may hold room or wait for it: each is told in every Status.
const maxOutsiders = 256

// ErrExpired is the end of room whose time was up.
var ErrExpired = errors.New("its time was up")

// JoinOutsider adds a request that waits for its outsider's room.
func (c *Core) JoinOutsider(w *Waiter, now time.Time) {
	waiting := 0
	for _, x := range c.demands {
		if x.outsider != nil {
			waiting++
		}
	}
	o := w.Outsider
	if n := len(c.outsiders) + waiting; n >= maxOutsiders {
		c.refuse(w, &tier.BusyError{Queued: n, RetryAfter: c.opt.Protection.Fairness, Reason: fmt.Sprintf("%d reservations are held or waited for, which is the most", n)})
		return
	}
	w.demand = &demand{outsider: o, since: now, waiters: []*Waiter{w}}
	c.demands = append(c.demands, w.demand)
	c.mark(progressed)
}

// serveOutsider does what can be done now for one that waits for room.
func (c *Core) serveOutsider(x *demand, now time.Time) {
	if x.seeks = true; now.Before(x.notBefore) || !c.mayAsk(x, now) {
		return
	}
	switch err := c.give(x, now); {
	case err == nil || errors.Is(err, errReading):
	case errors.Is(err, tier.ErrTooLarge):
		c.fail(x, c.explained(x, err))
	default:
		c.askFor(x, now)
	}
}

// give gives an outsider its room, if that is free.
func (c *Core) give(x *demand, now time.Time) error {
	o, need := x.outsider, tier.Footprint{tier.RAM: x.outsider.Bytes}
	var own tier.Footprint
	if x.plan != nil {
		own = x.plan.claim.Held()
	}
	if err := c.everFits(o); err != nil {
		return err
	}
	if err := c.admit(nil, need, own, false, now); err != nil {
		return err
	}
	if c.dirty && c.readErr == nil {
		c.readDue = true // from that on it is reckoned what it takes
		return errReading
	}
	w := x.waiters[0]
	c.drop(x) // and with it the plan and its claim
	if !w.Claim() {
		c.comeHome(o)
		return nil
	}
	// What moves had brought and given back at the reading is not known: to a level that is
	// new, nothing and all of it; to one that is not, it does not matter.
	t := &c.takings
	level, hi := c.headroom(&c.memory)
	if level = level.Minus(t.leaving); len(c.outsiders) > 0 {
		level = min(t.level, hi.Minus(t.untaken))
	} else {
		t.gone, t.came, t.moved, t.exact, t.lowered = 0, 0, false, 0, 0
	}
	t.level, t.untaken, t.exact = level.Minus(o.Bytes), t.untaken+o.Bytes, t.exact+o.Bytes
	res, err := c.ledger.Reserve(need)
	must(err)
	must(c.ledger.Commit(res, tier.Footprint{}, need))
	if o.Since = now; o.For > 0 {
		o.Until = now.Add(o.For)
	}
	c.outsiders = append(c.outsiders, o)
	c.mark(changed | progressed)
	c.emit(Granted{w})
	return nil
}

// everFits returns an error if the outsider's room could not be given though all models
// left that may.
func (c *Core) everFits(o *Outsider) error {
	var pinned []tier.Holder
	var stays tier.Bytes
	for _, e := range c.entries {
		b := e.charge[tier.RAM]
		if e.move != nil {
			b = b.Plus(e.move.Held()[tier.RAM])
		}
		if e.Model.Pinned && b > 0 && (e.move == nil || !e.move.Down()) {
			pinned = append(pinned, tier.Holder{Model: e.Model.Name, Bytes: b, Pinned: true})
			stays = stays.Plus(b)
		}
	}
	most := c.mostRAM()
	if o.Bytes <= most.Minus(stays) {
		return nil
	}
	e := &tier.CapacityError{Tier: tier.RAM, Need: o.Bytes, Free: max(most.Minus(stays), 0), Limit: most, Never: true, Holders: pinned}
	e.Reason = fmt.Sprintf("%v is the most that there is for models and outsiders", most)
	if stays > 0 {
		e.Reason += fmt.Sprintf(", and pinned models hold %v of it", stays)
	}
	return e
}

// Outsiders returns those that hold room, in the order in which they got it.
func (c *Core) Outsiders() []*Outsider { return slices.Clone(c.outsiders) }

// OutsideHolders are the outsiders as holders of room.
func (c *Core) OutsideHolders() (hs []tier.Holder) {
	for _, o := range c.outsiders {
		hs = append(hs, o.holder())
	}
	return hs
}

// Untaken returns what of an outsider's room it is not seen to have taken. Those that
// got theirs last are taken to be those that have not taken it yet.
func (c *Core) Untaken(o *Outsider) tier.Bytes {
	left := c.takings.untaken
	for _, other := range slices.Backward(c.outsiders) {
		n := min(left, other.Bytes)
		if other == o {
			return n
		}
		left -= n
	}
	return 0
}

// TakeBack ends what an outsider holds; cause, for RoomEnded, is nil if it gave it back
// itself. It reports false if it holds nothing. Models that gave way for it go home
// again as far as there is room, and the placement is asked what else is worth moving.
func (c *Core) TakeBack(o *Outsider, cause error, now time.Time) bool {
	i := slices.Index(c.outsiders, o)
	if i < 0 {
		return false
	}
	t, untaken := &c.takings, c.Untaken(o)
	_, hi := c.headroom(&c.memory)
	t.untaken, t.exact = t.untaken-untaken, max(t.exact-untaken, 0)
	t.level = min(t.level.Plus(untaken), hi.Minus(t.untaken))
	t.returning, t.returnBy = t.returning+o.Bytes-untaken, now.Add(residueGoes)
	c.outsiders = slices.Delete(c.outsiders, i, i+1)
	if len(c.outsiders) == 0 {
		t.returning = 0
	}
	must(c.ledger.Discharge(tier.Footprint{tier.RAM: o.Bytes}))
	c.mark(changed | dirty | progressed)
	c.comeHome(o)
	c.idle.roomCame(c.opt.OptimizeEvery, now)
	c.emit(RoomEnded{o, cause})
	return true
}

// comeHome has the models brought home that gave way for an outsider, or do so still.
func (c *Core) comeHome(o *Outsider) {
	for _, e := range o.displaced {
		at := e.tier
		if e.move != nil {
			at = min(at, e.move.To)
		}
		if e.phase != removed && !e.sent && at < e.Model.Home {
			c.bringHomeLater(e)
		}
	}
	o.displaced = nil
}

// expireOutsiders takes back room whose time is up.
func (c *Core) expireOutsiders(now time.Time) {
	for _, o := range slices.Clone(c.outsiders) {
		if !o.Until.IsZero() && !now.Before(o.Until) {
			c.TakeBack(o, ErrExpired, now)
		}
	}
}

// headroom returns what a reading shows to be available beside our models: what would
// be available if they were not there. What they were charged and gave back lately, and
// what moves bring, it may show or not, which gives two bounds.
func (c *Core) headroom(m *tier.Memory) (lo, hi tier.Bytes) {
	reclaimable, mapped := c.pages()
	others := max(m.Mapped.Minus(max(mapped, reclaimable)), 0)
	free := m.Available.Minus(reclaimable).Minus(others)
	models := c.ledger.Charged()[tier.RAM]
	for _, o := range c.outsiders {
		models -= o.Bytes
	}
	lo = free.Plus(models).Minus(c.unseen[tier.RAM])
	hi = free.Plus(models).Plus(c.takings.gone)
	for _, mv := range c.moves {
		hi = hi.Plus(mv.Held()[tier.RAM])
	}
	return lo, hi
}

// untakenBy returns bounds of what of the outsiders' room is not taken by a reading. most
// is never less than was so before if that may be so still.
func (c *Core) untakenBy(m *tier.Memory) (least, most tier.Bytes) {
	if len(c.outsiders) == 0 {
		return 0, 0
	}
	t, held := &c.takings, tier.Bytes(0)
	for _, o := range c.outsiders {
		held += o.Bytes
	}
	lo, hi := c.headroom(m)
	lo, hi = lo.Minus(t.level), hi.Minus(t.level)
	most = min(max(min(max(t.untaken, lo), hi), 0), held)
	return min(max(lo, 0), most), most
}

// outsidersSeen takes up what the reading shows of the outsiders' room. The one before
// came at last.
func (c *Core) outsidersSeen(last, now time.Time) {
	t, m := &c.takings, &c.memory
	if !m.At.IsZero() && m.At.Before(last) {
		return // it may be older than what that one showed
	}
	if len(c.outsiders) > 0 {
		was := t.untaken
		settled := !t.moved && len(c.moves) == 0 && c.unseen[tier.RAM] == 0
		if settled {
			c.settle(now)
		}
		if _, t.untaken = c.untakenBy(m); t.untaken != was {
			c.mark(changed | progressed)
		}
		if settled {
			t.exact = t.untaken
		}
	}
	t.moved, t.leaving = false, 0
	for _, mv := range c.moves {
		t.leaving = t.leaving.Plus(mv.gives())
	}
}

// settle has level follow what models explain of how headroom has changed since it was
// last exact, as it is now: those that left take a fall with them, as far as they were
// charged; those that came give it back. So a model that comes and goes changes nothing
// in the end.
func (c *Core) settle(now time.Time) {
	t := &c.takings
	h, _ := c.headroom(&c.memory)
	if t.returning > 0 {
		back := min(max(h.Minus(t.level).Minus(t.exact), 0), t.returning)
		t.level, t.returning = t.level.Plus(back), t.returning-back
		if !now.Before(t.returnBy) {
			t.returning = 0
		}
	}
	by := h.Minus(t.level).Minus(t.exact)
	if by < 0 {
		by = max(by, -t.gone)
	} else {
		by = min(by, t.came, t.lowered)
	}
	t.level, t.lowered = t.level.Plus(by), t.lowered.Minus(by)
	t.gone, t.came = 0, 0
}

// unpromised is the last reading without what outsiders may still take.
func (c *Core) unpromised() tier.Memory {
	m := c.memory
	m.Available = max(m.Available.Minus(c.takings.untaken), 0)
	m.Mapped = min(m.Mapped, m.Available)
	return m
}
