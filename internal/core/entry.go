package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Gate lets requests take leases on a resident model without asking the core.
// All methods are called by the core's owner; other goroutines enter and leave
// through the implementation.
type Gate interface {
	// Open lets leases on what the entry then is be taken behind the core's back.
	// It may be open already.
	Open()
	// Close ends that, and returns how many leases are held. From then on the
	// count falls only, except by Grant.
	Close() int
	// Leases returns how many leases are held.
	Leases() int
	// Grant takes a lease for a waiter, whether open or not.
	Grant()
	// Watch asks to be told (Core.Released) when leases end though the gate is
	// open. A closed gate always tells.
	Watch(on bool)
	// Time asks to note when leases end. Ended returns when the last one did that was
	// noted; zero: none was. A lease that is not counted any more has been noted.
	Time(on bool)
	Ended() time.Time
	// Uses returns how many leases were ever taken.
	Uses() uint64
}

// Traits are what the mover says of a model, see the optional interfaces of a
// tier.Mover: whether a part of it can stay present in swap, whether a part can
// stay in storage meanwhile, whether it can be served from swap, and what it takes.
type Traits struct {
	Divisible, Leaves, InPlace bool
	// Takes is what it is expected to take in ram, Seen the most that it was seen to; 0:
	// not known.
	Takes, Seen tier.Bytes
	// FileBacked: in swap its weights need no swap device. Observed: it is told what of
	// them is present in memory.
	FileBacked, Observed bool
	// OldStays: the files of the model that it is to replace are there still, and will be.
	OldStays bool
}

// phase is what is being done with an entry.
type phase uint8

const (
	// resting: it is at its tier and leases may be granted there.
	resting phase = iota
	// claimed: a plan waits to move it (Entry.claimant). It takes no new leases.
	claimed
	// moving: it has a move (Entry.move) that is queued, runs or is stuck.
	moving
	// removed: it is out of the library. What it is charged is residue.
	removed
)

var phaseNames = [...]string{"resting", "claimed", "moving", "removed"}

func (p phase) String() string { return phaseNames[p] }

// follows says which phase may follow which.
var follows = [...][]phase{
	resting: {claimed, moving, removed},
	claimed: {resting, moving, removed},
	moving:  {resting},
	removed: {},
}

// fate is what is to become of an entry that does not stay what it is. Each takes
// it to storage first, when the leases that are held have ended.
type fate uint8

const (
	stays fate = iota
	// crashed: its weights left memory by themselves. From storage on it stays.
	crashed
	// unverified: it was loaded and must not be served, see Outcome.Unverified. From
	// storage on it stays.
	unverified
	// pendingRemoval: its hot load failed while its bytes were on their way. It
	// leaves the library from storage.
	pendingRemoval
	// replaced: in storage it becomes Entry.successor, or leaves the library where
	// that is nil.
	replaced
)

// residence is where the bytes of a model are at rest.
type residence struct {
	tier    tier.Tier
	kept    tier.Bytes // of the weights, present while the tier is swap
	left    tier.Bytes // of the weights, in storage while the tier is swap
	serving bool       // in swap, with its runtime bytes charged: leases may be granted there
}

// Entry is one model in the core. Its fields belong to the core's owner.
type Entry struct {
	Model tier.Model
	Gate  Gate
	// LastUse is when a lease was last asked for.
	LastUse time.Time
	// Reclaimable is how many of the model's present bytes the machine counts as
	// available, as last observed.
	Reclaimable tier.Bytes

	opt    *Options
	epoch  uint64 // the core's when the entry became the model that it is
	traits Traits

	phase    phase
	move     *Move // while moving
	claimant *plan // while claimed
	fate     fate
	// unfit: its weights are not to be served again, whatever fate outweighs that one.
	// From storage on it is as good as any.
	unfit bool
	// successor and heirTraits are what a replaced entry becomes; exit is the plan
	// that takes an entry with a fate to storage; retryAt is until when an unload
	// that failed is not tried again.
	// old is what a replaced entry is as an older version of its name, if it is to be kept
	// as that, with the description that it had.
	successor  *tier.Model
	old        *tier.Model
	heirTraits Traits
	exit       *plan
	retryAt    time.Time

	residence
	since    time.Time      // when it came there
	charge   tier.Footprint // what the ledger charges for it
	declared tier.Bytes     // of runtime, by the owner: Model.Runtime is that, or more where more was seen
	taken    tier.Bytes     // while not in ram, what was last seen in memory, of whatever kind
	peak     tier.Bytes     // the most that it was ever seen to take
	cached   tier.Bytes     // while not in ram, of the weights in the page cache
	foreign  bool           // in storage, what is charged is residue of another model of its name
	sticky   bool           // its last demotion within swap freed nothing

	demand   *demand   // who waits for it
	sets     []*demand // who waits for it and others at once
	homeward bool      // it is to be brought to its home tier
	sent     bool      // its owner, or idleness, sent it where it is, and no request came since
	hotAdded bool      // it came by a hot load, and not from the configuration
	unloads  int       // orders of Core.unloads for it

	// quarantine is why it is not loaded; nil: it may be.
	quarantine *tier.DigestError

	failures  int       // loads that failed in a row
	crashes   int       // crashes in a row soon after a load
	lastErr   error     // of the last load that failed or crash, however long ago
	erredAt   time.Time // when that was
	coolUntil time.Time // until when no load is tried again
	// shortUntil is until when no memory is tried for, after a load that found less
	// than was promised.
	shortUntil time.Time
	// turn is the model's place among those that pressure keeps out (Core.turns), see
	// demand.age. Zero: it is not one of them.
	turn time.Time

	idle idleness

	usesAtLoad uint64        // uses when it came to its tier, the load's own waiters included
	loadTook   time.Duration // how long its last load took
}

// transition is the only writer of an entry's phase. m goes with moving, p with
// claimed.
func (c *Core) transition(e *Entry, to phase, m *Move, p *plan) {
	if !slices.Contains(follows[e.phase], to) || (m != nil) != (to == moving) || (p != nil) != (to == claimed) {
		panic(fmt.Sprintf("core: %s cannot go from %v to %v", e.Model.Name, e.phase, to))
	}
	e.phase, e.move, e.claimant = to, m, p
	c.mark(changed | progressed)
}

// Tier returns the resident tier; while a move runs, the tier that is left.
func (e *Entry) Tier() tier.Tier { return e.tier }

// Kept returns the bytes of weights that are present while the tier is swap.
func (e *Entry) Kept() tier.Bytes { return e.kept }

// Left returns the bytes of weights that are in storage while the tier is swap.
func (e *Entry) Left() tier.Bytes { return e.left }

// Charge returns what the ledger charges for the model.
func (e *Entry) Charge() tier.Footprint { return e.charge }

// Epoch returns when the entry became the model that it is, in the core's count.
func (e *Entry) Epoch() Epoch { return Epoch(e.epoch) }

// Since returns when the model came to its tier.
func (e *Entry) Since() time.Time { return e.since }

// Declared returns the runtime bytes that the model's owner declared.
func (e *Entry) Declared() tier.Bytes { return e.declared }

// Peak returns the most that the model was seen to take in memory; 0: not known.
func (e *Entry) Peak() tier.Bytes { return e.peak }

// LastError returns when a load last failed or the model crashed, and by what; nil: that
// has not happened since it became the model that it is.
func (e *Entry) LastError() (at time.Time, err error) { return e.erredAt, e.lastErr }

// Stuck reports whether its move was called off and does not return.
func (e *Entry) Stuck() bool { return e.move != nil && e.move.phase == moveStuck }

// Waiters returns how many requests wait for the model.
func (e *Entry) Waiters() (n int) {
	if e.demand != nil {
		n = len(e.demand.waiters)
	}
	for _, x := range e.sets {
		n += len(x.waiters)
	}
	return n
}

// HotLoad returns the order that loads the entry for the first time, while that
// is under way; the entry is in the library for good once it is done.
func (e *Entry) HotLoad() *Order {
	if e.demand == nil {
		return nil
	}
	return e.demand.order
}

// Owned reports whether the entry is in the library for good: it is not while its
// hot load is under way, nor where the model has yet to leave, because that has
// failed or because it was taken out of the configuration.
func (e *Entry) Owned() bool { return e.HotLoad() == nil && e.fate != pendingRemoval && !e.leaving() }

// SetHotAdded tells that the model came by a hot load in an earlier life.
func (e *Entry) SetHotAdded() { e.hotAdded = true }

// leaving reports whether the entry is replaced by nothing.
func (e *Entry) leaving() bool { return e.fate == replaced && e.successor == nil }

// unloading reports whether the entry goes to storage before it is of use to any
// request: it crashed, must not be served, or becomes another.
func (e *Entry) unloading() bool {
	return (e.fate == crashed || e.fate == unverified || e.fate == replaced) && e.tier != tier.Storage
}

// Quarantine returns why the entry is not loaded; nil: it may be.
func (e *Entry) Quarantine() *tier.DigestError { return e.quarantine }

// Quarantine has the entry not loaded from now on, because a file of it is damaged, or,
// with nil, loaded again. Requests for it and orders to load it get the error at once.
func (c *Core) Quarantine(e *Entry, why *tier.DigestError) {
	if e.quarantine == why || e.phase == removed {
		return
	}
	if e.quarantine = why; why == nil {
		e.failures, e.lastErr, e.coolUntil = 0, nil, time.Time{}
		c.bringHomeLater(e)
	}
	c.mark(changed | progressed)
}

// free reports whether the entry rests and nothing holds it there but its leases.
func (e *Entry) free() bool { return e.phase == resting }

// servable reports whether leases can be granted where the entry is.
func (e *Entry) servable() bool {
	return e.free() && !e.unloading() && (e.tier == tier.RAM || e.tier == tier.Swap && e.serving)
}

// reopen lets leases be taken on an entry that rests in ram and is in no other use.
// Of one that was served from swap and is no more, the runtime bytes are given back.
func (c *Core) reopen(e *Entry) {
	if e.serving && e.phase != moving && !e.wanted() && e.Gate.Leases() == 0 {
		c.stopServing(e)
	}
	if e.tier == tier.RAM && e.free() && !e.unloading() && e.fate != pendingRemoval && e.demand == nil && !c.stopped {
		e.Gate.Open()
	}
}

// unclaim ends a plan's hold on an entry, if it has one, and lets it be served
// again.
func (c *Core) unclaim(e *Entry) {
	if e.phase == claimed {
		c.transition(e, resting, nil, nil)
	}
	c.reopen(e)
}

// Back-off: from the second failed load in a row on, a model is left alone for
// backOffFirst, and twice as long after each further one, backOffMax at most.
const (
	backOffFirst = time.Second
	backOffMax   = time.Minute
)

// backOff returns how long a model is left alone after n earlier back-offs.
func backOff(n int) time.Duration { return min(backOffFirst<<min(n, 16), backOffMax) }

// loadEnded updates the back-off after a load.
func (e *Entry) loadEnded(m *Move, out Outcome, now time.Time) {
	switch {
	case out.Err == nil:
		e.failures, e.coolUntil = 0, time.Time{}
		if m.To == tier.RAM {
			e.shortUntil = time.Time{}
		}
	case m.calledOff != notCalledOff:
	default:
		e.failures++
		e.lastErr, e.erredAt = out.Err, now
		if out.Short {
			e.shortUntil = now.Add(backOffMax)
		}
		if e.failures > 1 {
			e.coolUntil = now.Add(backOff(e.failures - 2))
		}
	}
}

// A model that crashes within crashSoon of its load is left alone from the third
// time in a row on, for as long as after failed loads: fewer may be an accident.
const (
	crashSoon       = 10 * time.Second
	crashesForgiven = 2
)

// crash updates the back-off after a crash.
func (e *Entry) crash(cause error, now time.Time) {
	if now.Sub(e.since) >= crashSoon {
		e.crashes = 0
	}
	e.lastErr, e.erredAt = cause, now
	if e.crashes++; e.crashes > crashesForgiven {
		e.coolUntil = now.Add(backOff(e.crashes - crashesForgiven - 1))
	}
}

// cooling returns the error of a request for a model that is left alone for a
// while.
func (e *Entry) cooling(now time.Time) error {
	left := e.coolUntil.Sub(now)
	how := fmt.Sprintf("failed to load %d times", e.failures)
	if e.failures == 0 {
		how = fmt.Sprintf("crashed %d times soon after its load", e.crashes)
	}
	return &tier.BusyError{
		Model: e.Model.Name, RetryAfter: left, Cause: e.lastErr,
		Reason: fmt.Sprintf("Model '%s' %s and is tried again in %v: %v", e.Model.Name, how, left.Round(time.Millisecond), e.lastErr),
	}
}

func unknown(e *Entry) error { return &tier.NotFoundError{What: "model", Name: e.Model.Name} }
