package core

import "github.com/modeltier/modeltier/tier"

// marks say what an event means for those who wait.
type marks uint8

const (
	changed marks = 1 << iota
	dirty
	progressed
)

// mark takes note of a change. Entry and Move phases are marked by their
// transitions, charges by commit and discharge; what else calls it is an event from outside.
func (c *Core) mark(m marks) {
	c.changed = c.changed || m&changed != 0
	c.dirty = c.dirty || m&dirty != 0
	if m&progressed != 0 {
		c.progress++
	}
}

// Action is something that the owner of a Core has to do, in order.
type Action interface{ action() }

// Start asks for a move to be carried out; its end is told by Core.MoveEnded. Cached
// bytes are to be dropped first.
type Start struct {
	Move *Move
	Drop Drop
}

// Urge tells that a request waits for a move now that no request waited for when
// it started.
type Urge struct{ Move *Move }

// Cancel asks for a started move to be called off; its end is told all the same.
type Cancel struct {
	Move  *Move
	Cause error
}

// Stuck tells that a move was called off and has not returned in time. Its end may
// be told yet.
type Stuck struct {
	Move *Move
	Err  error
}

// Granted tells that the waiter's lease was taken at its gate.
type Granted struct{ Waiter *Waiter }

// Refused tells that the waiter gets an error.
type Refused struct {
	Waiter *Waiter
	Err    error
}

// OrderDone tells that an order has ended.
type OrderDone struct {
	Order *Order
	Err   error
}

// Ask asks for Placement.Plan; the answer is told by Core.Planned.
type Ask struct{ Question *Question }

// Read asks for a fresh reading of the probe; told by Core.Reading.
type Read struct{}

// LimitsDone tells that the change of limits has ended: with nil they are in
// force, with an error the old ones still are.
type LimitsDone struct {
	Old, Now tier.Limits
	Err      error
}

// Evicted tells that a model is leaving its tier for another's sake.
type Evicted struct {
	Entry  *Entry
	For    string // the models that need the room, or the reservation; "" where it is neither
	To     tier.Tier
	Reason tier.Reason
	Why    string
}

// RoomEnded tells that an outsider holds its room no more; Err is ErrExpired, the core's
// end, or nil if it gave the room back.
type RoomEnded struct {
	Outsider *Outsider
	Err      error
}

func (RoomEnded) action()  {}
func (Start) action()      {}
func (Urge) action()       {}
func (Cancel) action()     {}
func (Stuck) action()      {}
func (Granted) action()    {}
func (Refused) action()    {}
func (OrderDone) action()  {}
func (Ask) action()        {}
func (Read) action()       {}
func (LimitsDone) action() {}
func (Evicted) action()    {}

func (c *Core) emit(a Action) { c.out = append(c.out, a) }
