package modeltier

import (
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// Events are functions that the Manager calls as things happen; any may be nil.
// They are called in order, one at a time, from a goroutine of the Manager's
// with no lock held, and may call the Manager, Close included. A slow one delays
// the events behind it and nothing else; when more than 4096 wait, further ones
// are dropped and counted in Status. A panic in one is logged. Close waits for
// those that are queued for one second at most.
type Events struct {
	// MoveStarted and MoveEnded frame every move of bytes.
	MoveStarted func(MoveEvent)
	MoveEnded   func(MoveEvent)
	// Granted and Released frame every lease.
	Granted  func(GrantEvent)
	Released func(ReleaseEvent)
	// JobEnded tells that a job has ended: a hot load, a move, a removal.
	JobEnded func(JobEvent)
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
	At       time.Time
	Job      string // ID
	Model    string
	From, To tier.Tier
	Keep     tier.Bytes // of it, left present in memory when To is swap
	Leave    tier.Bytes // of it, left in storage when To is swap
	Reason   tier.Reason
	Why      string        // the details
	Took     time.Duration // of an ended one
	Err      error         // of an ended one
}

// EvictEvent is a model that leaves its tier for another's sake.
type EvictEvent struct {
	At    time.Time `json:"at"`
	Model string    `json:"model"`
	From  tier.Tier `json:"from"`
	To    tier.Tier `json:"to"`
	For   string    `json:"for,omitempty"` // the model that needs the room, several separated by ", ", or "reservation ID"; "" where it is neither
	// Reason is a stable word; Why tells the details.
	Reason tier.Reason `json:"reason"`
	Why    string      `json:"why"`
}

// RefuseEvent is a request that got an error.
type RefuseEvent struct {
	At      time.Time
	Request Request
	Model   string // "" where none was chosen
	Err     error
	// Code is the error's stable word, see tier.Code; Suggestions what its reader can
	// do about it.
	Code        string
	Suggestions []string
}

// GrantEvent is a lease that was granted.
type GrantEvent struct {
	At     time.Time
	Model  string
	Tier   tier.Tier // that it is served from
	Waited time.Duration
	Moved  bool // weights had to move for it
}

// ReleaseEvent is a lease that was given back.
type ReleaseEvent struct {
	At    time.Time
	Model string
	Held  time.Duration
}

// JobEvent is a job that has ended.
type JobEvent struct {
	At       time.Time
	Job      string // ID
	Kind     hotload.Kind
	Model    string
	From, To tier.Tier
	Took     time.Duration
	Err      error
}

// refused counts a refusal and tells of it.
func (m *Manager) refused(req *Request, model string, err error) {
	code := tier.Code(err)
	m.count.refuse(code)
	if fn := m.cfg.Events.Refused; fn != nil {
		ev := RefuseEvent{At: time.Now(), Request: *req, Model: model, Err: err, Code: code, Suggestions: tier.Suggestions(err)}
		m.events.Post(func() { fn(ev) })
	}
}

// grantedEvent tells of a lease.
func (m *Manager) grantedEvent(l *Lease) {
	if fn := m.cfg.Events.Granted; fn != nil {
		ev := GrantEvent{At: m.start.Add(l.at), Model: l.stay.model.Name, Tier: l.stay.tier, Waited: l.waited, Moved: l.moved}
		m.events.Post(func() { fn(ev) })
	}
}

// releasedEvent tells that a lease ended.
func (m *Manager) releasedEvent(l *Lease) {
	now := time.Now()
	ev := ReleaseEvent{At: now, Model: l.stay.model.Name, Held: now.Sub(m.start) - l.at}
	m.events.Post(func() { m.cfg.Events.Released(ev) })
}

// jobEnded tells that a job ended.
func (m *Manager) jobEnded(j *Job) {
	if fn := m.cfg.Events.JobEnded; fn != nil {
		now := time.Now()
		ev := JobEvent{At: now, Job: j.ID(), Kind: j.Kind(), Model: j.Model(), From: j.From(), To: j.To(), Took: now.Sub(j.Started()), Err: j.Err()}
		m.events.Post(func() { fn(ev) })
	}
}
