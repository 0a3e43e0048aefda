package tier

import "time"

// View is the immutable picture of the whole that selectors and placements
// decide from. Neither it nor what it points to changes once it is published.
type View struct {
	// Now is the time of the view on the Manager's clock. A Selector gets a new view
	// after every change, and every few seconds without one.
	Now time.Time
	// Library and States describe the models, by the same index.
	Library *Library
	States  []State
	// Limits in force.
	Limits Limits
	// Protection from eviction in force, with its defaults filled in: zero is zero.
	Protection Protection
	// Charged and Reserved are the ledger's amounts, by account.
	Charged, Reserved Footprint
	// Room is what may be admitted into each tier now: for RAM the smaller of what the
	// ledger and what the probe leave, for Swap what the ledger leaves.
	Room Footprint
	// FreeSwap is the room for swap-tier weights beyond available memory: free swap on
	// disk or, if a Mover is a FileBacker, what the swap limit leaves. See State.Unbacked.
	FreeSwap Bytes
	// Memory is the probe's last reading, less what outsiders were given and have not
	// taken yet, which is kept free. Zero: there was none yet.
	Memory Memory
}

// State is where one model is. In a View that a Selector gets, Leases and
// Waiters are those of the last change, not of the moment.
type State struct {
	// Tier is the resident tier; while Moving, the tier that it leaves.
	Tier Tier
	// To is the tier that it goes to while Moving.
	To     Tier
	Moving bool
	// Serving: it can be leased in Tier without moving.
	Serving bool
	// Divisible: the mover can leave a part of it present in Swap.
	Divisible bool
	// Leaves: while in Swap, it can have a part of its weights in storage.
	Leaves bool
	// InPlace: it can be served from Swap.
	InPlace bool
	// Unbacked: its Mover is no FileBacker and another is. FreeSwap and the Room in Swap
	// are not for its weights, which take memory or swap on disk (Memory.SwapFree).
	Unbacked bool
	// Stuck: a mover did not return, bytes were not freed, or it is in storage and in
	// Quarantine. A plan leaves it out.
	Stuck bool
	// Quarantine is why it is not loaded: a file of it is damaged; nil: none is known to be.
	Quarantine *DigestError
	// Held: it was loaded a moment ago and is in demand, so that it has not earned its
	// load yet. It is not evictable for now, but it can be drained.
	Held bool
	// Leases held and requests waiting.
	Leases, Waiters int32
	// Kept is the part of the weights that is present while Tier is Swap.
	Kept Bytes
	// Left is the part of the weights that is in storage while Tier is Swap. It is
	// charged nowhere.
	Left Bytes
	// Cached is the part of the weights that is in the page cache, charged to no model:
	// loading the model does not read it. The kernel may take it at any time.
	Cached Bytes
	// Since is when it came to Tier, LastUse when a lease on it was last granted;
	// zero: never.
	Since, LastUse time.Time
}

// SwapFor returns the room for the weights of a model of that state beyond available
// memory, see FreeSwap.
func (v *View) SwapFor(s *State) Bytes {
	if s.Unbacked {
		return v.Memory.SwapFree
	}
	return v.FreeSwap
}

// Footprint returns what model i charges now, at rest.
func (v *View) Footprint(i int) Footprint {
	s := &v.States[i]
	return v.Library.At(i).divided(s.Tier, s.Kept, s.Left, s.Serving)
}

// Evictable reports whether a plan may take model i out of its tier at once: it
// is in a memory tier, not pinned, not moving, without leases and waiters, and it
// has earned its last load.
func (v *View) Evictable(i int) bool {
	s := &v.States[i]
	return s.Leases == 0 && s.Waiters == 0 && !s.Held && v.Drainable(i)
}

// Drainable is Evictable without regard to leases and waiters: a plan may name
// model i, and the step waits until its leases have ended.
func (v *View) Drainable(i int) bool {
	s := &v.States[i]
	return s.Tier != Storage && !s.Moving && !s.Stuck && !v.Library.At(i).Pinned
}

// Move takes a model from one tier to another. From and To are both Swap if only
// the kept bytes change.
type Move struct {
	Model    Model
	From, To Tier
	// Keep is the bytes of weights left present in memory if To is Swap, 0 to
	// Model.Size. A mover that works in pages leaves up to a page less, never more;
	// if the system reclaims some of them, the move has not failed. A mover that cannot
	// divide a model ignores Keep.
	Keep Bytes
	// Leave is the bytes of weights, the last ones, that stay in storage or go
	// there if To is Swap, 0 to Model.Size - Keep. Only a Leaver is given any.
	Leave Bytes
}

// Footprint returns the bytes that the model charges after the move. serving is as
// for Model.Footprint.
func (m *Move) Footprint(serving bool) Footprint {
	return m.Model.divided(m.To, m.Keep, m.Leave, serving)
}

// Verb returns what the move is called: "load" (from storage), "promote",
// "demote" or "unload" (to storage). A change of kept bytes is a promote or a
// demote by its effect, which only its caller knows; Verb calls it "promote".
func (m *Move) Verb() string {
	switch {
	case m.To == Storage:
		return "unload"
	case m.From == Storage:
		return "load"
	case m.To >= m.From:
		return "promote"
	}
	return "demote"
}

// Step is one move of a plan, with the reason for it.
type Step struct {
	Move
	// Reason is the stable word, Why the details: for which model and by what measure.
	Reason Reason
	Why    string
	// Gain is the seconds of waiting per hour that the step is expected to save;
	// 0: not estimated.
	Gain float64
}

// Plan is the moves that a Placement wants, in order. A step that frees room
// stands before the step that uses it.
type Plan struct {
	Steps []Step
	// Err says why a Need cannot be met: it unwraps to ErrTooLarge or ErrNoCapacity.
	// With a nil Err, no steps means that no model has to move.
	Err error
}

// Need is what a plan is for.
type Need struct {
	// Model is the index of the wanted model, or NoModel if only room is wanted.
	Model int
	// To is the tier that it is wanted in. Storage: the placement decides.
	To Tier
	// Room is what must be free in each tier after the plan, beyond what the model
	// itself takes.
	Room Footprint
	// Waiters is how many requests wait for it; Background: none is interactive.
	Waiters    int
	Background bool
	// Patient: models under lease or with waiters of their own may be named as
	// victims; the plan then waits for them to drain.
	Patient bool
}

// NoModel is the Model of a Need for room alone.
const NoModel = -1

// Reason is a stable word for why a model moved or gave way. It is fit for a
// metric's label: there are few of them, and none contains a name or a number. The
// details stand beside it (Step.Why, EvictEvent.Why). The word for a refusal is the
// error's code (see [Code]), which is as stable.
type Reason string

// The Reasons of modeltier itself. A Placement may have others, as few and as
// stable.
const (
	// ReasonDemand: a request or a hot load waits for the model.
	ReasonDemand Reason = "demand"
	// ReasonRoom: it gives way to a model that is wanted, or to a reservation.
	ReasonRoom Reason = "room"
	// ReasonDevice: it gives way because a load found no memory in one piece, although
	// the account had room.
	ReasonDevice Reason = "device"
	// ReasonPressure: the machine is short of memory.
	ReasonPressure Reason = "pressure"
	// ReasonOverdraft: models take more memory than was declared for them.
	ReasonOverdraft Reason = "overdraft"
	// ReasonLimits: a limit is lowered.
	ReasonLimits Reason = "limits"
	// ReasonOrder: its owner ordered the move.
	ReasonOrder Reason = "order"
	// ReasonRemoved: it leaves the library.
	ReasonRemoved Reason = "removed"
	// ReasonReconfigured: its description was replaced by another.
	ReasonReconfigured Reason = "reconfigured"
	// ReasonCrashed: its engine crashed, and its weights left memory.
	ReasonCrashed Reason = "crashed"
	// ReasonUnverified: it was loaded, and its files are not, or not known to be, what they
	// should be.
	ReasonUnverified Reason = "unverified"
	// ReasonHome: it goes to its home tier.
	ReasonHome Reason = "home"
	// ReasonIdle: no request used it for its KeepAlive, or for Config.StandbyFor.
	ReasonIdle Reason = "idle"
	// ReasonRebalance: by what was learned of use, it is worth more elsewhere.
	ReasonRebalance Reason = "rebalance"
	// ReasonPrefetch: it is expected to be asked for.
	ReasonPrefetch Reason = "prefetch"
)
