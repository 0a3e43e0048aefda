package modeltier

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Events are functions that the Manager calls as things happen; any may be nil.
// They are called in order, one at a time, from a goroutine of the Manager's
// with no lock held, and may call the Manager. A slow one delays the events
// behind it and nothing else; when more than 1024 wait, further ones are dropped
// and counted in Status. A panic in one is logged. Close waits for the one that
// runs, so an event must not call Close or Shutdown.
type Events struct {
	// MoveStarted and MoveEnded frame every move of bytes.
	MoveStarted func(MoveEvent)
	MoveEnded   func(MoveEvent)
	// Evicted tells that a model leaves its tier for another's sake.
	Evicted func(EvictEvent)
	// Refused tells that a request got an error other than its own context's end.
	Refused func(RefuseEvent)
	// LimitsChanged tells of new limits in force.
	LimitsChanged func(old, now tier.Limits)
	// PressureChanged tells that the machine's memory pressure has another level.
	PressureChanged func(old, now tier.PressureLevel)
}

// MoveEvent is a move that started or ended.
type MoveEvent struct {
	Job      string // ID
	Model    string
	From, To tier.Tier
	Keep     tier.Bytes // of it, left present in memory when To is swap
	Leave    tier.Bytes // of it, left in storage when To is swap
	Why      string
	Took     time.Duration // of an ended one
	Err      error         // of an ended one
}

// EvictEvent is a model that leaves its tier for another's sake.
type EvictEvent struct {
	At    time.Time `json:"at"`
	Model string    `json:"model"`
	From  tier.Tier `json:"from"`
	To    tier.Tier `json:"to"`
	For   string    `json:"for,omitempty"` // who needs the room; "" where it is not a model
	Why   string    `json:"why"`
}

// RefuseEvent is a request that got an error.
type RefuseEvent struct {
	Model string // "" where none was chosen
	Err   error
}

const eventQueue = 1024

// event hands fn to the goroutine that calls events; it never blocks.
func (m *Manager) event(fn func()) {
	if m.events == nil {
		return
	}
	select {
	case m.events <- fn:
	default:
		m.count.eventsDropped.Add(1)
	}
}

// callEvents runs until the Manager is closed, and calls what is left then. The
// channel itself stays open: refusals and late moves may still send.
func (m *Manager) callEvents(events <-chan func()) {
	run := func(fn func()) {
		if err := m.call("event", func() error { fn(); return nil }); err != nil {
			m.log.Error("an event function failed", "err", err)
		}
	}
	for {
		select {
		case fn := <-events:
			run(fn)
		case <-m.eventsEnd:
			for len(events) > 0 {
				run(<-events)
			}
			return
		}
	}
}

// any reports whether anybody listens.
func (e *Events) any() bool {
	return e.MoveStarted != nil || e.MoveEnded != nil || e.Evicted != nil ||
		e.Refused != nil || e.LimitsChanged != nil || e.PressureChanged != nil
}
