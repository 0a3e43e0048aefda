package core

import (
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
	// Uses returns how many leases were ever taken.
	Uses() uint64
}

// Entry is one model in the core. Its fields belong to the core's owner.
type Entry struct {
	Model tier.Model
	Gate  Gate
	// Data is the owner's.
	Data any
	// LastUse is when a lease was last asked for, kept by the owner.
	LastUse time.Time
	// Reclaimable is how many of the model's present bytes the machine counts as
	// available, as last observed.
	Reclaimable tier.Bytes

	tier    tier.Tier
	kept    tier.Bytes
	left    tier.Bytes     // in storage while the tier is swap
	serving bool           // leased, or about to be, from swap
	charge  tier.Footprint // what the ledger charges for it
	since   time.Time

	declared tier.Bytes // of runtime, by the owner: Model.Runtime is that, or more where more was seen
	taken    tier.Bytes // while not in ram, what was last seen in memory, of whatever kind
	peak     tier.Bytes // the most that it was ever seen to take

	move   *Move // in flight or queued
	victim *plan // the plan that has claimed it
	want   *want // who waits for it

	failures int       // loads that failed in a row
	losses   int       // times in a row that it was lost soon after a load
	lastErr  error     // of the last of either
	coolTill time.Time // until when no load is tried again

	// owed is the model's place among those that pressure keeps out (Core.owing), see
	// age. Zero: it is not one of them.
	owed time.Time
	// shortTill is until when no memory is tried for, after a load that found less
	// than was promised.
	shortTill time.Time

	// foreign: in storage, what is charged is left of another model of its name.
	foreign bool

	// clings: of what its last move was to take out of memory, nothing went.
	clings bool

	// gone: its weights left memory by themselves, and it has not been brought to
	// storage yet. staysTill is until when an unload that failed is not tried again.
	gone      bool
	staysTill time.Time

	stuck      bool
	ordered    bool          // its owner sent it where it is, and nobody has asked for it since
	usesAtLoad uint64        // uses when it came to its tier, the load's own waiters included
	loadTook   time.Duration // how long its last load took
	removed    bool
	disowned   bool       // its hot load failed while its bytes were on their way
	next       *successor // what it becomes; nil: it stays what it is
}

// Tier returns the resident tier; while a move runs, the tier that is left.
func (e *Entry) Tier() tier.Tier { return e.tier }

// Kept returns the bytes of weights that are present while the tier is swap.
func (e *Entry) Kept() tier.Bytes { return e.kept }

// Charge returns what the ledger charges for the model.
func (e *Entry) Charge() tier.Footprint { return e.charge }

// Since returns when the model came to its tier.
func (e *Entry) Since() time.Time { return e.since }

// Declared returns the runtime bytes that the model's owner declared.
func (e *Entry) Declared() tier.Bytes { return e.declared }

// Peak returns the most that the model was seen to take in memory; 0: not known.
func (e *Entry) Peak() tier.Bytes { return e.peak }

// Leftover returns bytes that are charged beyond what the model's tier
// explains: they were to be gone and were still seen.
func (e *Entry) Leftover() tier.Bytes {
	if e.move != nil {
		return 0
	}
	return max(e.charge[tier.RAM]-e.rest()[tier.RAM], 0)
}

// Overdraft returns bytes of memory that the model was seen to take and that are
// not charged, because the limit has no room for them.
func (e *Entry) Overdraft() tier.Bytes {
	there := tier.Move{Model: e.Model, To: e.tier, Keep: e.kept, Leave: e.left}
	rest := there.Footprint(e.serving && e.move == nil) // a move that is to serve brings its own
	return max(rest[tier.RAM]-e.charge[tier.RAM], e.taken-e.charge[tier.RAM], 0)
}

// Waiters returns how many requests wait for the model.
func (e *Entry) Waiters() int {
	if e.want == nil {
		return 0
	}
	return len(e.want.waiters)
}

// Left returns the bytes of weights that are in storage while the tier is swap.
func (e *Entry) Left() tier.Bytes { return e.left }

// rest is the footprint at rest.
func (e *Entry) rest() tier.Footprint { return e.in(e.tier, e.kept, e.left) }

// in is the footprint at rest in a tier.
func (e *Entry) in(t tier.Tier, kept, left tier.Bytes) tier.Footprint {
	there := tier.Move{Model: e.Model, To: t, Keep: kept, Leave: left}
	return there.Footprint(e.serving)
}

// peaked is a footprint in tier t as a move there takes it.
func (e *Entry) peaked(f tier.Footprint, t tier.Tier) tier.Footprint {
	if t == tier.RAM {
		f[tier.RAM] = max(f[tier.RAM], e.peak)
	}
	return f
}

// own is what is charged for the entry itself.
func (e *Entry) own() tier.Footprint {
	if e.foreign && e.tier == tier.Storage {
		return tier.Footprint{}
	}
	return e.charge
}

// leaves reports whether the entry goes to storage before it is of use to anybody:
// it is lost, or becomes another.
func (e *Entry) leaves() bool { return (e.gone || e.next != nil) && e.tier != tier.Storage }

// idle reports whether nothing holds the entry where it is but its leases.
func (e *Entry) idle() bool {
	return e.move == nil && e.victim == nil && !e.stuck && !e.removed
}

// Waiter is one request that waits for one model.
type Waiter struct {
	Entry      *Entry
	Background bool
	// Since is when it came, Deadline when it is refused if it still waits.
	Since, Deadline time.Time
	// Claim decides whether the waiter is still there: the core calls it right
	// before it answers, and answers only where it returns true.
	Claim func() bool
	// Moved: bytes had to move for it, at first from tier From.
	Moved bool
	From  tier.Tier
	// Data is the owner's.
	Data any
}

// Move is bytes on their way, or about to be.
type Move struct {
	tier.Move
	Entry *Entry
	// Why is the reason in a few words.
	Why string
	// Demand: somebody waits for the move's end. Background moves yield.
	Demand bool
	// Order is the instruction that it carries out, if any.
	Order *Order
	// Data is the owner's.
	Data any

	res       *tier.Reservation
	plan      *plan
	home      bool // to its home tier, for nobody's sake
	idle      bool // a step of a plan that nobody waited for
	started   bool
	startedAt time.Time
	cancelled bool
	yielded   bool // called off for want of memory, and by nobody else since
	first     bool // to be begun since pressure was last high
	stuck     bool
}

// Started reports whether the move was handed out to be carried out; before
// that it is queued.
func (m *Move) Started() bool { return m.started }

// Idle reports whether a placement wanted the move though nobody waited.
func (m *Move) Idle() bool { return m.idle }

// Held returns the bytes that are set aside for the move.
func (m *Move) Held() tier.Footprint { return m.res.Held() }

// loads reports whether the move has to read weights, and so wants a turn at
// the storage.
func (m *Move) loads() bool {
	return m.To > m.From || m.To == tier.Swap && m.From == tier.Swap && (m.Keep > m.Entry.kept || m.Leave < m.Entry.left)
}

// OrderKind is what an Order asks for.
type OrderKind uint8

const (
	HotLoad OrderKind = iota // bring a new model to its home tier
	MoveTier
	Remove
)

// Order is an instruction from outside about one model, other than a request.
type Order struct {
	Kind  OrderKind
	Entry *Entry
	To    tier.Tier
	// Data is the owner's.
	Data any
}

// HotLoad returns the order that loads the entry for the first time, while that
// is under way; the entry is in the library for good once it is done.
func (e *Entry) HotLoad() *Order {
	if e.want == nil {
		return nil
	}
	return e.want.order
}

// Owned reports whether the entry is in the library for good: it is not while its
// hot load is under way, nor where the model has yet to leave, because that has
// failed or because it was taken out of the configuration.
func (e *Entry) Owned() bool { return e.HotLoad() == nil && !e.disowned && !e.leaving() }
