package core

import (
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Options are the core's rules. None has a default here.
type Options struct {
	// Protection from eviction, settled.
	Protection tier.Protection
	// Loads is how many moves may read weights at once.
	Loads int
	// MaxQueueModel is how many requests may wait for one model.
	MaxQueueModel int
	// Fresh is how old a reading may be for an admission; Stale how old it may be
	// while the probe fails.
	Fresh, Stale time.Duration
	// StallAfter is how long a move may go without progress before it is called off;
	// StuckAfter how long it then has to return before it counts as stuck.
	StallAfter, StuckAfter time.Duration
	// OptimizeEvery is the longest pause between two idle questions; zero or less:
	// none is asked by itself.
	OptimizeEvery time.Duration
	// KeepAlive is how long a model may be idle in ram that says nothing of its own,
	// StandbyFor how long in swap; zero or less: for good.
	KeepAlive, StandbyFor time.Duration
	// FileBacked: of some models the swap-tier weights need no swap device. It is so, too,
	// once Traits say so.
	FileBacked bool
	// NewGate makes the gate of an entry.
	NewGate func(*Entry) Gate
	// Further are the accounts beyond ram and swap, from tier.FurtherAccount on.
	Further []FurtherAccount
	// Room and Admit are the admission rules for ram and swap.
	Room  func(Promise) tier.Footprint
	Admit func(p Promise, m *tier.Model, need tier.Footprint, background bool) error
}

// FurtherAccount is a kind of memory beside ram and swap.
type FurtherAccount struct {
	Name  string
	Limit tier.Bytes
	// Takes returns what the model takes of it in a tier. It is a pure function.
	Takes func(m *tier.Model, t tier.Tier) tier.Bytes
}

// Core is the state machine. It is not safe for concurrent use.
type Core struct {
	opt    Options
	ledger *Ledger

	entries  []*Entry // in the library's order
	byName   map[string]*Entry
	aliases  map[string]string   // of which models; never changed in place
	library  *tier.Library       // of the entries; nil: to be assembled
	older    map[string][]*Entry // older versions by the model's name, the last to have been current at the end
	unsorted map[string]bool     // names of which some may be kept no more
	epoch    uint64              // counts the models that came, see Entry.epoch
	residues []*Entry            // removed models that are still seen in memory
	fated    []*Entry            // entries with a fate
	turns    []*Entry            // models that pressure keeps out, see Entry.turn

	demands []*demand
	plans   []*plan
	moves   []*Move // begun and not ended, in the order in which they started or wait to
	homes   []*Entry
	unloads []*Order // that wait for their models to be idle
	// outsiders are those that hold room, in the order in which they got it.
	outsiders  []*Outsider
	takings    takings
	limiting   *limitsChange
	asked      *Question // a question is out
	idle       idlePlanning
	calledAlso bool // models may have Model.Aliases
	// keepAlives: some model may leave by idleness. None may before idleNext, unless
	// progress differs from idleSeen.
	keepAlives bool
	idleNext   time.Time
	idleSeen   uint64

	// configured is what the configuration says, by name; see Reconfigure.
	configured map[string]tier.Model

	memory   tier.Memory
	readAt   time.Time // when memory was read; zero: never
	triedAt  time.Time // when a reading was last attempted, and what went wrong
	readErr  error
	readDue  bool           // a fresh reading is wanted
	further  tier.Footprint // available of further accounts, as last read
	unseen   tier.Footprint // charged since the reading
	unseenAt time.Time      // when the last of that was charged

	background bool // pressure lets moves start that no request waits for
	quietHours bool // its owner does not
	begun      bool // a load, since pressure was last high
	watching   bool // open gates tell when leases end
	stopped    bool
	// overdrawn: some entry may have an Overdraft. None has unless it was seen to
	// take more than was declared, and to look at all of them each time is dear.
	overdrawn bool
	caches    bool // some entry may have cached bytes

	// What mark sets.
	changed  bool   // something that a View shows
	dirty    bool   // bytes were charged or given back since the reading
	progress uint64 // counts what may let a blocked demand go on

	out []Action
}

// New returns a core with an empty library.
func New(limits tier.Limits, opt Options) *Core {
	further := make([]tier.Bytes, len(opt.Further))
	for i, a := range opt.Further {
		further[i] = a.Limit
	}
	c := &Core{opt: opt, ledger: NewLedger(limits, further...), byName: map[string]*Entry{}, older: map[string][]*Entry{}, unsorted: map[string]bool{}, configured: map[string]tier.Model{}, background: true, keepAlives: opt.KeepAlive > 0 || opt.StandbyFor > 0}
	for a := range further {
		c.further[int(tier.FurtherAccount)+a] = tier.Unlimited
	}
	return c
}

// Ledger returns a copy of the account.
func (c *Core) Ledger() Ledger { return *c.ledger }

// Limits returns the limits in force.
func (c *Core) Limits() tier.Limits { return c.ledger.Limits() }

// Memory returns the last reading and when it was taken; its error if the last
// attempt failed.
func (c *Core) Memory() (tier.Memory, time.Time, error) { return c.memory, c.readAt, c.readErr }

// Moves returns the moves that run and those that are queued.
func (c *Core) Moves() []*Move { return slices.Clone(c.moves) }

// quiet reports whether nothing is under way and nothing waits.
func (c *Core) quiet() bool {
	return len(c.demands) == 0 && !c.planned() && !slices.ContainsFunc(c.moves, (*Move).returns) && c.limiting == nil
}

// Changed reports whether anything that a View shows has changed since it was
// last asked.
func (c *Core) Changed() bool {
	was := c.changed
	c.changed = false
	return was
}

// Stop ends the core's work: those who wait get err, outsiders hold no room any more,
// moves are called off, every gate is closed for good, and Step does nothing but hand out what is left to
// tell. Leases that are held go on.
func (c *Core) Stop(err error, now time.Time) {
	c.stopped = true
	for _, x := range slices.Clone(c.demands) {
		c.fail(x, err)
	}
	for _, o := range slices.Clone(c.outsiders) {
		c.TakeBack(o, err, now)
	}
	if c.limiting != nil {
		c.endLimits(c.limiting, err)
	}
	c.homes = nil
	for _, o := range slices.Clone(c.unloads) {
		c.endUnload(o, err)
	}
	for _, m := range c.Moves() {
		c.CancelMove(m, err, now)
	}
	for _, e := range c.entries {
		e.Gate.Close()
	}
}

// Reading tells what the probe saw at now, or why it saw nothing. further is what
// is available of the further accounts, by account; nil where that is not read.
func (c *Core) Reading(m tier.Memory, further []tier.Bytes, err error, now time.Time) {
	c.readDue = false
	c.readErr, c.triedAt = err, now
	if err != nil {
		c.mark(progressed)
		return
	}
	more := m.Available > c.memory.Available || m.SwapFree > c.memory.SwapFree || m.Pressure.Level < c.memory.Pressure.Level
	for i, b := range further {
		a := int(tier.FurtherAccount) + i
		more = more || b > c.further[a]
		c.further[a] = max(b, 0)
	}
	if more || c.dirty || !c.unseen.IsZero() {
		c.mark(progressed)
	}
	was, last := c.memory, c.readAt
	was.At = m.At
	if c.dirty || was != m {
		c.mark(changed)
	}
	c.memory, c.readAt, c.dirty = m, now, false
	if m.Total != was.Total {
		c.forecastAgain()
	}
	if m.At.IsZero() || !m.At.Before(c.unseenAt) { // a probe may go by an older look
		c.unseen = tier.Footprint{}
	}
	c.outsidersSeen(last, now)
	c.begun = c.begun && !c.pressureHigh()
}

// Released tells that leases on e ended: all of them, if the gate is closed or
// watched.
func (c *Core) Released(e *Entry) {
	c.mark(progressed)
	c.reopen(e)
}

// Used tells that a model was asked for at that time.
func (c *Core) Used(e *Entry, at, now time.Time) {
	if at.After(e.LastUse) {
		e.LastUse = at
	}
	c.idle.request(c.opt.OptimizeEvery, now)
}

// maxRounds bounds one Step. A core that has not come to rest by then asks for
// another at once, so that its owner looks at other things in between.
const maxRounds = 64

// Step carries on whatever can go on at now, and returns what its owner has to
// do, and when to call again though nothing happened (zero: not before). It does a
// bounded amount of work: wake is now where there is more.
func (c *Core) Step(now time.Time) (actions []Action, wake time.Time) {
	settled := c.stopped
	if !c.stopped {
		c.expireOutsiders(now)
		c.expire(now)
		c.watchMoves(now)
	}
	for range maxRounds {
		if settled {
			break
		}
		before, p := len(c.out), c.progress
		c.cover(now)
		c.carryFates(now)
		c.retireVersions(now)
		c.serveAll(now)
		c.carryUnloads(now)
		c.advanceAll(now)
		c.changeLimits(now)
		c.sendIdle(now)
		c.bringHome(now)
		c.schedule(now)
		c.watchGates()
		settled = len(c.out) == before && p == c.progress
	}
	if c.readDue {
		c.readDue = false
		c.emit(Read{})
	}
	switch {
	case c.stopped:
	case !settled:
		wake = now
	default:
		c.askIdle(now)
		wake = c.wake(now)
	}
	actions, c.out = c.out, nil
	return actions, wake
}

// watchGates has open gates tell when leases end for as long as a demand is
// blocked or waits for a drain, and else only those of models that are to leave soon
// after, because telling costs the requests that pass.
func (c *Core) watchGates() {
	blocked := slices.ContainsFunc(c.demands, func(x *demand) bool { return x.blocked || x.plan != nil && x.plan.drains() })
	if !blocked && !c.watching {
		return
	}
	was := c.watching
	c.watching = blocked
	for _, e := range c.entries {
		c.watchGate(e)
	}
	if blocked && !was {
		c.mark(progressed) // leases that ended until now were not told
	}
}

// watchGate has the gate of an entry tell when leases end for as long as that matters.
func (c *Core) watchGate(e *Entry) { e.Gate.Watch(c.watching || e.idle.prompt || e.unloads > 0) }

// wake is the earliest moment at which time alone changes anything.
func (c *Core) wake(now time.Time) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, e := range c.fated {
		sooner(e.retryAt)
	}
	if l := c.limiting; l != nil && l.plan != nil && !l.plan.live {
		sooner(c.residueUntil(now))
	}
	for _, m := range c.moves {
		sooner(c.overdueAt(m))
	}
	for _, o := range c.outsiders {
		sooner(o.Until)
	}
	for _, o := range c.unloads {
		sooner(o.Until)
	}
	for _, x := range c.demands {
		for _, w := range x.waiters {
			sooner(w.Deadline)
		}
		if x.blocked {
			sooner(x.since.Add(c.opt.Protection.Fairness))
			sooner(x.till)
		}
		sooner(x.notBefore)
		if e := c.goesFirst(x, now); e != nil {
			sooner(e.LastUse.Add(c.opt.Protection.Fairness))
		}
	}
	sooner(c.idleNext)
	if c.quiet() {
		sooner(c.idle.at)
	}
	return at
}
