package tier

import "time"

// View is the immutable picture of the whole that selectors and placements
// decide from. Nobody changes it or what it points to once it was handed out,
// and it stays true to its moment for as long as it is held.
type View struct {
	// Now is the moment of the view on the Manager's clock. What a Selector gets is
	// renewed whenever something changes, and every few seconds while nothing does.
	Now time.Time
	// Library and States describe the models, by the same index.
	Library *Library
	States  []State
	// Limits in force.
	Limits Limits
	// Protection from eviction in force, without zero-means-default.
	Protection Protection
	// Charged and Reserved are the ledger's account by tier.
	Charged, Reserved Footprint
	// Room is what may be admitted into each tier at once: for RAM the smaller of
	// what the ledger and what the probe leave, for Swap what the ledger leaves.
	Room Footprint
	// FreeSwap is the room that swap-tier weights can count on beyond available
	// memory: free swap on disk or, where the Mover is a FileBacker, what the swap
	// limit leaves.
	FreeSwap Bytes
	// Memory is the probe's last reading. Zero where there was none yet.
	Memory Memory
}

// State is where one model is. In a View that a Selector gets, Leases and
// Waiters are those of the last change, not of the moment.
type State struct {
	// Tier is the resident tier; while Moving, the tier that is left.
	Tier Tier
	// To is where it goes while Moving.
	To     Tier
	Moving bool
	// Serving: it can be leased where it is without moving.
	Serving bool
	// Divisible: the mover can leave a part of it present in Swap.
	Divisible bool
	// Leaves: while in Swap, it can have a part of its weights in storage.
	Leaves bool
	// InPlace: it can be served from Swap.
	InPlace bool
	// Stuck: a mover did not return, or bytes did not come back. It is not to be
	// planned with.
	Stuck bool
	// Held: it came a moment ago and is in demand, so it has not earned its move
	// yet. It is not evictable for now, but it can be drained.
	Held bool
	// Leases held and requests waiting.
	Leases, Waiters int32
	// Kept is the part of the weights that is present while Tier is Swap.
	Kept Bytes
	// Left is the part of the weights that is in storage while Tier is Swap. It is
	// charged nowhere.
	Left Bytes
	// Since is when it came to Tier, LastUse when a lease on it was last granted;
	// zero: never.
	Since, LastUse time.Time
}

// Footprint returns what model i charges now, at rest.
func (v *View) Footprint(i int) Footprint {
	s := &v.States[i]
	return v.Library.At(i).divided(s.Tier, s.Kept, s.Left, s.Serving)
}

// Evictable reports whether a plan may take model i out of its tier at once: it
// is in a memory tier, unpinned, not moving, nobody holds or awaits it, and it
// has earned its last move.
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
