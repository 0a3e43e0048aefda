package core

import (
	"reflect"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Options are the core's rules. None has a default here.
type Options struct {
	// Fairness is how long a waiter lets busy models go on before they are drained
	// for it, and the longest that a model in demand is held after a load.
	Fairness time.Duration
	// Grace is how long after its last use a model counts as in demand.
	Grace time.Duration
	// Loads is how many moves may read weights at once.
	Loads int
	// Fresh is how old a reading may be for an admission; Stale how old it may be
	// while the probe fails.
	Fresh, Stale time.Duration
	// FileBacked: swap-tier weights need no swap device.
	FileBacked bool
	// Divisible, Leaves and InPlace describe the mover.
	Divisible, Leaves, InPlace func(*tier.Model) bool
	// Room and Admit are the guard.
	Room  func(Promise) tier.Footprint
	Admit func(p Promise, m *tier.Model, need tier.Footprint, background bool) error
}

// Core is the state machine. It is not safe for concurrent use.
type Core struct {
	opt     Options
	ledger  *tier.Ledger
	library *tier.Library
	entries []*Entry // by the library's index
	ghosts  []*Entry // removed models that are still seen in memory
	owing   []*Entry // models that pressure keeps out

	wants    []*want
	plans    []*plan
	queue    []*Move // begun, waiting for a turn at the storage
	running  []*Move // started
	homes    []*Entry
	disowned []disowned // to leave the library as soon as they can
	gone     []*Entry   // lost, and not in storage yet
	replaced []*Entry   // to become another model, or to leave, when nobody uses them
	limiting *limitsChange

	memory   tier.Memory
	readAt   time.Time // when memory was read; zero: never
	triedAt  time.Time // when a reading was last attempted, and what went wrong
	readErr  error
	readDue  bool       // a fresh reading is wanted
	unseen   tier.Bytes // charged in ram since the reading
	unseenAt time.Time  // when the last of that was charged
	dirty    bool       // something was charged or given back since the reading
	progress uint64     // counts changes that may let a blocked want go on
	out      []Action
	asked    *Question // a question is out
	watching bool      // open gates tell when leases end
	pressed  bool      // moves that nobody waits for may not start
	changed  bool      // something that a View shows
	begun    bool      // a load, since pressure was last high
	stopped  bool
	// overdrawn: some entry may have an Overdraft. None has unless it was seen to
	// take more than was declared, and to look at all of them each time is dear.
	overdrawn bool
}

// New returns a core with an empty library.
func New(limits tier.Limits, opt Options) *Core {
	lib, _ := tier.NewLibrary(nil)
	return &Core{opt: opt, ledger: tier.NewLedger(limits), library: lib}
}

// Library returns the models known now, and Entries the entries by its index.
func (c *Core) Library() *tier.Library { return c.library }

// Entries returns the entries by the library's index. The slice is never
// changed in place.
func (c *Core) Entries() []*Entry { return c.entries }

// Find returns the entry of that name.
func (c *Core) Find(name string) (*Entry, bool) {
	i, ok := c.library.Find(name)
	if !ok {
		return nil, false
	}
	return c.entries[i], true
}

// Ledger returns a copy of the account.
func (c *Core) Ledger() tier.Ledger { return *c.ledger }

// Memory returns the last reading and when it was taken; its error if the last
// attempt failed.
func (c *Core) Memory() (tier.Memory, time.Time, error) { return c.memory, c.readAt, c.readErr }

// Moves returns the moves that run, then those that are queued.
func (c *Core) Moves() []*Move { return slices.Concat(c.running, c.queue) }

// Idle reports whether nothing is under way and nobody waits.
func (c *Core) Idle() bool {
	return len(c.wants) == 0 && !c.planned() && len(c.running) == 0 && len(c.queue) == 0 && c.limiting == nil
}

// Add puts entries into the library, in storage. home brings them to their home
// tiers in the background, as far as there is room.
func (c *Core) Add(models []tier.Model, gate func(int) *Entry, home bool) error {
	lib := c.library
	entries := slices.Clone(c.entries)
	if lib.Len() == 0 {
		l, err := tier.NewLibrary(slices.Clone(models))
		if err != nil {
			return err
		}
		lib = l
	} else {
		for i := range models {
			if _, taken := lib.Find(models[i].Name); taken {
				return &tier.ExistsError{Model: models[i].Name}
			}
			lib = lib.With(models[i])
		}
	}
	for i := range models {
		e := gate(i)
		e.Model, e.declared = models[i], models[i].Runtime
		e.Gate.Close()
		c.inherit(e)
		entries = append(entries, e)
		if home && e.Model.Home != tier.Storage {
			c.homes = append(c.homes, e)
		}
	}
	c.library, c.entries = lib, entries
	c.changed = true
	c.progress++
	return nil
}

// Remodel replaces a model's description. In memory its name, size and path stay.
func (c *Core) Remodel(e *Entry, m tier.Model) {
	e.Model = m
	c.library = c.library.With(m)
	c.reopen(e) // whoever enters from now on gets the new one
	c.changed = true
	c.progress++
}

// forget takes the entry out of the library.
func (c *Core) forget(e *Entry) {
	i, ok := c.library.Find(e.Model.Name)
	if !ok || c.entries[i] != e {
		return
	}
	e.removed = true
	c.settle(e)
	if !e.charge.IsZero() || e.Overdraft() > 0 {
		c.ghosts = append(c.ghosts, e)
	}
	c.library = c.library.Without(e.Model.Name)
	c.entries = slices.Delete(slices.Clone(c.entries), i, i+1)
	c.homes = slices.DeleteFunc(c.homes, func(h *Entry) bool { return h == e })
	c.changed = true
	c.progress++
}

// inherit lets a new entry answer for what is left of a removed one of its name.
func (c *Core) inherit(e *Entry) {
	c.ghosts = slices.DeleteFunc(c.ghosts, func(g *Entry) bool {
		if g.Model.Name != e.Model.Name {
			return false
		}
		e.charge, e.taken, e.since, e.foreign = g.charge, g.taken, g.since, true
		g.charge, g.taken = tier.Footprint{}, 0
		return true
	})
}

// Changed reports whether anything that a View shows has changed since it was
// last asked.
func (c *Core) Changed() bool {
	was := c.changed
	c.changed = false
	return was
}

// Stop ends the core's work: whoever waits gets err, moves are called off, every
// gate is closed for good, and Step does nothing but hand out what is left to
// tell. Leases that are held go on.
func (c *Core) Stop(err error, now time.Time) {
	c.stopped = true
	for _, x := range slices.Clone(c.wants) {
		c.fail(x, err)
	}
	if c.limiting != nil {
		c.endLimits(c.limiting, err)
	}
	c.homes = nil
	for _, m := range c.Moves() {
		c.CancelMove(m, err, now)
	}
	for _, e := range c.entries {
		e.Gate.Close()
	}
}

// Press says whether moves that nobody waits for may start. With a cause, loads
// that are under way, for whomever, are called off where they take memory. Who
// waits for them goes on waiting: what can be had without memory is tried next.
func (c *Core) Press(background bool, cause error, now time.Time) {
	if c.pressed == background {
		c.progress++
	}
	c.pressed = !background
	if cause == nil {
		return
	}
	for _, m := range c.Moves() {
		if c.takes(m) && !m.cancelled {
			m.yielded = true
			c.CancelMove(m, cause, now)
		}
	}
}

// Reading tells what the probe saw at now, or why it saw nothing.
func (c *Core) Reading(m tier.Memory, err error, now time.Time) {
	c.readDue = false
	c.readErr, c.triedAt = err, now
	if err != nil {
		c.progress++
		return
	}
	if m.Available > c.memory.Available || c.dirty || c.unseen > 0 {
		c.progress++
	}
	was := c.memory
	was.At = m.At
	c.changed = c.changed || c.dirty || !reflect.DeepEqual(was, m)
	c.memory, c.readAt, c.dirty = m, now, false
	if m.At.IsZero() || !m.At.Before(c.unseenAt) { // a probe may go by an older look
		c.unseen = 0
	}
	c.begun = c.begun && !c.hard()
}

// Released tells that leases on e ended: all of them, if the gate is closed or
// watched.
func (c *Core) Released(e *Entry) {
	c.progress++
	if e.serving && e.tier == tier.Swap && e.move == nil && e.Gate.Leases() == 0 && len(waitersOf(e)) == 0 {
		c.retire(e)
	}
}

// retire ends the serving of a swap-tier model and gives its runtime bytes back.
func (c *Core) retire(e *Entry) {
	before := e.rest()
	e.serving = false
	back := before.Beyond(e.rest())
	back[tier.RAM] = max(min(back[tier.RAM], e.charge[tier.RAM]-e.taken), 0)
	c.discharge(e, back)
}

func waitersOf(e *Entry) []*Waiter {
	if e.want == nil {
		return nil
	}
	return e.want.waiters
}

func (c *Core) discharge(e *Entry, f tier.Footprint) {
	if f.IsZero() {
		return
	}
	if err := c.ledger.Discharge(f); err != nil {
		panic("core: " + err.Error())
	}
	e.charge = e.charge.Minus(f)
	c.dirty, c.changed = true, true
}

// Step carries on whatever can go on at now, and returns what its owner has to
// do, and when to call again though nothing happened (zero: not before).
func (c *Core) Step(now time.Time) (actions []Action, wake time.Time) {
	if c.stopped {
		actions, c.out = c.out, nil
		return actions, time.Time{}
	}
	c.expire(now)
	for range 1 + len(c.wants) + len(c.plans) + len(c.entries) {
		before := len(c.out)
		p := c.progress
		c.cover(now)
		c.dropDisowned(now)
		c.succeed(now)
		c.tidy(now)
		c.serveAll(now)
		c.advanceAll(now)
		c.changeLimits(now)
		c.bringHome(now)
		c.schedule(now)
		c.watch()
		if c.asked != nil || len(c.out) == before && p == c.progress {
			break
		}
	}
	if c.readDue {
		c.readDue = false
		c.emit(Read{})
	}
	actions, c.out = c.out, nil
	return actions, c.wake(now)
}

func (c *Core) emit(a Action) { c.out = append(c.out, a) }

// watch has open gates tell when leases end for as long as a want is blocked or
// waits for a drain, and only then, because telling costs the requests that pass.
func (c *Core) watch() {
	blocked := slices.ContainsFunc(c.wants, func(x *want) bool { return x.blocked || x.plan != nil && x.plan.drains() })
	if !blocked && !c.watching {
		return
	}
	for _, e := range c.entries {
		e.Gate.Watch(blocked)
	}
	if blocked && !c.watching {
		c.progress++ // leases that ended until now were not told
	}
	c.watching = blocked
}

// wake is the earliest moment at which time alone changes anything.
func (c *Core) wake(now time.Time) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, e := range c.replaced {
		sooner(e.next.again)
	}
	for _, e := range c.gone {
		sooner(e.staysTill)
	}
	for i := range c.disowned {
		sooner(c.disowned[i].again)
	}
	blocked := false
	for _, w := range c.wants {
		for _, x := range w.waiters {
			sooner(x.Deadline)
		}
		if w.blocked {
			blocked = true
			sooner(w.since.Add(c.opt.Fairness))
			sooner(w.till)
		}
		if e := c.before(w, now); e != nil {
			sooner(e.LastUse.Add(c.opt.Fairness))
		}
	}
	if blocked && slices.ContainsFunc(c.entries, func(e *Entry) bool { return c.held(e, now) }) {
		sooner(now.Add(c.opt.Grace))
	}
	return at
}
