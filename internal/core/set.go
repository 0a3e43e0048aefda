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

// A set is several models that requests want at the same time: all of them or none. Its
// demand takes its place among the others. While it waits it holds nothing: models of it
// that are resident are in use as far as other placements can see, and give way to one
// that may drain models in use. It is planned for as a whole, as an outsider is: the
// placement is asked for the room that all models need which are not there yet. The plan
// sets that room aside before the first of them is loaded, and from then on no other plan
// takes a model of the set away. So two sets that exclude each other take turns; neither
// takes from the other what it has half loaded.

// maxSets is how many different sets may be waited for: each is looked at in every step.
const maxSets = 256

// JoinSet adds a request that waits for all of w.Set at once. The same model may be there
// more than once: it gets as many leases.
func (c *Core) JoinSet(w *Waiter, now time.Time) {
	members := slices.Clone(w.Set)
	slices.SortFunc(members, func(a, b *Entry) int { return cmp.Compare(a.Model.Name, b.Model.Name) })
	if members = slices.Compact(members); len(members) == 1 {
		w.Entry = members[0]
		c.Join(w, now)
		return
	}
	for _, e := range members {
		if e.gone() {
			c.refuse(w, unknown(e))
			return
		}
	}
	sets := 0
	var x *demand
	for _, y := range c.demands {
		if y.members != nil {
			sets++
		}
		if slices.Equal(y.members, members) {
			x = y
		}
	}
	switch {
	case x == nil && sets >= maxSets:
		c.refuse(w, &tier.BusyError{Queued: sets, RetryAfter: c.opt.Protection.Fairness, Reason: fmt.Sprintf("%d different sets of models are waited for, which is the most", sets)})
		return
	case x != nil && c.opt.MaxQueueModel > 0 && len(x.waiters) >= c.opt.MaxQueueModel:
		c.refuse(w, &tier.BusyError{Queued: len(x.waiters), RetryAfter: c.opt.Protection.Fairness, Reason: fmt.Sprintf("%d requests wait for %s together, which is the most", len(x.waiters), x.listed())})
		return
	case x == nil:
		x = &demand{members: members, since: now}
		c.demands = append(c.demands, x)
		for _, e := range members {
			e.sets = append(e.sets, x)
		}
	}
	w.demand = x
	x.waiters = append(x.waiters, w)
	for _, e := range members {
		e.sent, e.homeward = false, false
		if e.move != nil {
			c.urge(e.move)
		}
	}
	c.mark(progressed)
}

// wants reports whether the demand is for the entry, alone or among others.
func (x *demand) wants(e *Entry) bool {
	return x != nil && (x.e == e || slices.Contains(x.members, e))
}

// listed names the models of a set with what each takes, for a sentence.
func (x *demand) listed() string {
	var b strings.Builder
	for i, e := range x.members {
		switch {
		case i > 0 && i == len(x.members)-1:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "'%s' (%v)", e.Model.Name, e.peakFootprint(residence{tier: tier.RAM})[tier.RAM])
	}
	return b.String()
}

// wanted reports whether requests wait for the entry, alone or among others.
func (e *Entry) wanted() bool { return e.demand != nil || len(e.sets) > 0 }

// demands returns what requests for the entry, alone or among others, are part of.
func (e *Entry) demands() []*demand {
	all := slices.Clone(e.sets)
	if e.demand != nil {
		all = append(all, e.demand)
	}
	return all
}

// gone reports whether no request can be given the model any more.
func (e *Entry) gone() bool { return e.phase == removed || e.leaving() || e.fate == pendingRemoval }

// keptFrom reports whether a plan brings the other models of a set that the entry is one of,
// so that no plan of another, by, may take it away.
func (e *Entry) keptFrom(by *demand) bool {
	return slices.ContainsFunc(e.sets, func(x *demand) bool { return x != by && x.plan != nil })
}

// serveSet does what can be done now for a set.
func (c *Core) serveSet(x *demand, now time.Time) {
	ready, missing, comes := true, false, false
	for i, e := range x.members {
		inPlace := x.settled && x.places[i].tier == tier.Swap && e.tier == tier.Swap
		switch {
		case e.gone():
			c.fail(x, unknown(e))
			return
		case e.Stuck():
			c.fail(x, &tier.StuckError{Model: e.Model.Name, What: "A move", Bytes: e.charge[tier.RAM]})
			return
		case e.HotLoad() != nil || e.fate != stays:
			return // that ends by itself
		case e.comes():
			c.urge(e.move)
			ready = false
		case e.phase != resting:
			ready, comes = false, true // where it goes is not where it is wanted
		case e.servable() || inPlace:
		case e.quarantine != nil && e.tier == tier.Storage:
			c.fail(x, e.quarantine)
			return
		case now.Before(e.coolUntil):
			c.fail(x, e.cooling(now))
			return
		default:
			ready, missing = false, true
			comes = comes || e.demand != nil && e.demand.plan != nil // which brings it
		}
	}
	if ready {
		c.grantSet(x, now)
		return
	}
	x.seeks = comes || missing
	if comes || !missing || now.Before(x.notBefore) || !c.mayAsk(x, now) {
		return
	}
	if err := c.coexist(x); err != nil {
		c.fail(x, c.explained(x, err))
		return
	}
	x.places = c.places(x, now)
	c.askFor(x, now)
}

// comes reports whether the entry is on its way to ram.
func (e *Entry) comes() bool {
	return e.phase == moving && e.move.To == tier.RAM && e.move.calledOff == notCalledOff
}

// places returns where each model of a set is to be served: in ram, or, those that can
// be, from swap if the set does not fit in ram, largest first, or if memory is short.
func (c *Core) places(x *demand, now time.Time) []residence {
	places := make([]residence, len(x.members))
	total, order := tier.Bytes(0), make([]int, 0, len(x.members))
	for i, e := range x.members {
		places[i].tier = tier.RAM
		total = total.Plus(e.peakFootprint(places[i])[tier.RAM])
		if e.tier != tier.RAM && !e.comes() && c.servableInPlace(e) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(x.members[j].Model.Size, x.members[i].Model.Size) })
	_, stay := c.pinnedBeside(x)
	for _, i := range order {
		e := x.members[i]
		if total <= c.mostRAM().Minus(stay) && !c.pressureHigh() && !e.short(now) {
			continue
		}
		there := residence{tier: tier.Swap, kept: e.kept, left: e.left, serving: true}
		if e.tier == tier.Storage {
			there.kept, there.left = 0, 0
		}
		total = total.Minus(e.peakFootprint(places[i])[tier.RAM]).Plus(e.footprint(there)[tier.RAM])
		places[i] = there
	}
	return places
}

// coexist returns an error if the models of a set could not be served together though
// all others left that may.
func (c *Core) coexist(x *demand) error {
	var need, least tier.Footprint
	for _, e := range x.members {
		f := e.peakFootprint(residence{tier: tier.RAM})
		need = need.Plus(f)
		if c.servableInPlace(e) {
			f = e.footprint(residence{tier: tier.Swap, serving: true})
		}
		least = least.Plus(f)
	}
	pinned, stay := c.pinnedBeside(x)
	most := c.mostRAM()
	room := max(most.Minus(stay), 0)
	if least[tier.RAM] > room {
		e := &tier.CapacityError{Tier: tier.RAM, Need: need[tier.RAM], Free: room, Limit: most, Never: true, Holders: pinned}
		e.Reason = fmt.Sprintf("they take %v of %v", need[tier.RAM], most)
		if stay > 0 {
			e.Reason += fmt.Sprintf(", of which pinned models hold %v", stay)
		}
		return e
	}
	// Whatever is served from swap, to be served from there takes no more of the others.
	for a := tier.FurtherAccount; a < c.ledger.Accounts(); a++ {
		if limit := c.ledger.Limit(a); need[a] > limit {
			return &tier.CapacityError{
				Account: a, Tier: tier.RAM, Need: need[a], Free: limit, Limit: limit, Never: true,
				Reason: fmt.Sprintf("they take %v of %s, of %v", need[a], c.AccountName(a), limit),
			}
		}
	}
	return nil
}

// pinnedBeside returns the pinned models that hold ram and are not wanted by the demand,
// and how much.
func (c *Core) pinnedBeside(x *demand) (pinned []tier.Holder, stay tier.Bytes) {
	for _, e := range c.entries {
		b := e.charge[tier.RAM]
		if e.move != nil {
			b = b.Plus(e.move.Held()[tier.RAM])
		}
		if e.Model.Pinned && b > 0 && (e.move == nil || !e.move.Down()) && !x.wants(e) {
			pinned = append(pinned, tier.Holder{Model: e.Model.Name, Bytes: b, Pinned: true})
			stay = stay.Plus(b)
		}
	}
	return pinned, stay
}

// lacks returns what the models of a set need that are not where they are to be, beyond
// what is charged or set aside for them.
func (x *demand) lacks() (f tier.Footprint) {
	for i, e := range x.members {
		if to := x.places[i]; !e.servable() && !e.comes() {
			charge := e.own()
			if e.move != nil {
				charge = charge.Plus(e.move.Held())
			}
			f = f.Plus(e.peakFootprint(to).Beyond(charge))
		}
	}
	return f
}

// refusal is why a set is not served, as its waiters are told of it.
func (x *demand) refusal(err error) error {
	n := tier.CapacityError{Tier: tier.RAM}
	if ce, ok := errors.AsType[*tier.CapacityError](err); ok {
		n = *ce
	} else if !errors.Is(err, tier.ErrNoCapacity) {
		return err
	}
	how := "have no room together now"
	if n.Never {
		how = "can never be in memory together"
	}
	n.Reason = fmt.Sprintf("Models %s %s: %v", x.listed(), how, err)
	return &n
}

// finals returns the steps that bring the models of a set.
func (c *Core) finals(x *demand) (steps []*step) {
	for i, e := range x.members {
		to := x.places[i]
		if e.servable() || e.comes() || e.tier == tier.Swap && to.tier == tier.Swap {
			continue
		}
		steps = append(steps, c.stepOf(e, to, tier.ReasonDemand, "was asked for together with others: "+x.name()))
	}
	return steps
}

// admitSet asks the admission rules for all that the set lacks yet: none of its models is
// loaded before there is room for all.
func (c *Core) admitSet(p *plan, now time.Time) error {
	return c.admit(nil, p.target(), p.claim.Held(), false, now)
}

// grantSet gives every waiter its leases on all models of the set. Those that are to be
// served from swap get their runtime bytes first.
func (c *Core) grantSet(x *demand, now time.Time) {
	var more tier.Footprint
	runtime := func(e *Entry) tier.Footprint {
		if e.tier != tier.Swap || e.serving {
			return tier.Footprint{}
		}
		there := e.residence
		there.serving = true
		return e.footprint(there).Beyond(e.rest())
	}
	for _, e := range x.members {
		more = more.Plus(runtime(e))
	}
	var own tier.Footprint
	if x.plan != nil {
		own = x.plan.claim.Held()
	}
	if !more.IsZero() {
		err := c.admit(nil, more, own, false, now)
		switch {
		case errors.Is(err, errReading) || err != nil && x.plan != nil:
			return // what leaves for it is on its way
		case err != nil:
			x.settled = false
			x.tries++
			c.block(x, err, now)
			return
		case x.plan != nil:
			c.abandon(x.plan) // its claim is what is charged now
		}
	}
	for _, e := range x.members {
		if f := runtime(e); !f.IsZero() {
			must(c.chargeMore(e, f, now))
		}
		e.serving = e.tier == tier.Swap
		if e.tier == tier.RAM {
			e.Gate.Open()
		}
	}
	for _, w := range x.waiters {
		if w.Claim() {
			w.take()
			c.emit(Granted{w})
		}
	}
	x.waiters = nil
	for _, e := range x.members {
		c.endTurn(e)
	}
	c.drop(x)
}

// take takes the waiter's leases at the gates.
func (w *Waiter) take() {
	if w.Set == nil {
		w.Entry.Gate.Grant()
	}
	for _, e := range w.Set {
		e.Gate.Grant()
	}
}

// brought takes note, for those who wait, that a model of theirs was moved.
func (x *demand) brought(e *Entry, from tier.Tier) {
	for _, w := range x.waiters {
		if _, told := w.Moved[e]; told {
			continue
		}
		if w.Moved == nil {
			w.Moved = make(map[*Entry]tier.Tier, 1)
		}
		w.Moved[e] = from
	}
}
