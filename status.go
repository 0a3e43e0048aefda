package modeltier

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// Status is the whole state of a Manager at one moment, for operators and
// dashboards. It marshals to JSON; durations are nanoseconds there, sizes bytes.
type Status struct {
	// At is the moment. Stale: the loop did not answer in time, and only what can
	// be told without it is here, as of its last change.
	At      time.Time     `json:"at"`
	Stale   bool          `json:"stale,omitempty"`
	Closing bool          `json:"closing,omitempty"`
	Uptime  time.Duration `json:"uptime_ns"`

	Limits tier.Limits `json:"limits"`
	RAM    TierStatus  `json:"ram"`
	Swap   TierStatus  `json:"swap"`

	Memory      tier.Memory   `json:"memory"`        // the probe's last reading
	MemoryAge   time.Duration `json:"memory_age_ns"` //
	MemoryError string        `json:"memory_error,omitempty"`

	Models []ModelStatus `json:"models"`
	// Leftovers are bytes of removed models that were to be gone and are still seen;
	// they stay charged in ram.
	Leftovers map[string]tier.Bytes `json:"leftovers,omitempty"`

	Moves []MoveStatus `json:"moves"` // that run or are queued

	Selection Quantiles `json:"selection"` // time to select, of a sample
	Planning  Quantiles `json:"planning"`  // time of Placement.Plan
	// Waits are those of granted requests, by what they waited for: "load",
	// "promote", "turn".
	Waits   map[string]Quantiles `json:"waits"`
	Waiting int                  `json:"waiting"` // requests that wait now
	// Moved counts moves by verb: load, promote, demote, unload.
	Moved     map[string]MoveStats `json:"moved"`
	HotLoads  hotload.Counts       `json:"hot_loads"`
	Refusals  map[string]int64     `json:"refusals"`  // by code
	Evictions int64                `json:"evictions"` // models that gave way
	// LastEvictions are the last 16 of them, oldest first: when, for whom and why.
	LastEvictions []EvictEvent `json:"last_evictions,omitempty"`
	Accesses      Accesses     `json:"accesses"`

	EventsDropped int64 `json:"events_dropped,omitempty"`
	// StateTrouble says what is wrong with the keeping of the state.
	StateTrouble []string `json:"state_trouble,omitempty"`
	// Parts are what mover, probe, selector and placement say of themselves, where
	// they have a Status method.
	Parts map[string]any `json:"parts,omitempty"`
}

// Accesses counts requests that were given a model or began to wait for one.
type Accesses struct {
	Total   uint64 `json:"total"`
	Dropped int64  `json:"dropped,omitempty"` // not seen by the learners
}

// TierStatus is the account of one memory tier.
type TierStatus struct {
	Used     tier.Bytes `json:"used"` // charged + reserved
	Charged  tier.Bytes `json:"charged"`
	Reserved tier.Bytes `json:"reserved"`
	Peak     tier.Bytes `json:"peak"` // the most that Used ever was
	Limit    tier.Bytes `json:"limit"`
	Room     tier.Bytes `json:"room"` // what may be admitted now
	// Overdraft is what models were seen to take in memory and could not be charged,
	// as the limit has no room for it. Nothing is admitted until it is charged.
	Overdraft tier.Bytes `json:"overdraft,omitempty"`
	Percent   float64    `json:"percent"`
	Models    int        `json:"models"` // resident in it
}

// ModelStatus is one model.
type ModelStatus struct {
	Name string     `json:"name"`
	Path string     `json:"path,omitempty"`
	Size tier.Bytes `json:"size"`
	// Runtime is what is charged for serving beyond the weights: Declared by the
	// owner, or more where the model was seen to take more.
	Runtime      tier.Bytes `json:"runtime,omitempty"`
	Declared     tier.Bytes `json:"runtime_declared,omitempty"`
	Capabilities []string   `json:"capabilities,omitempty"`
	Pinned       bool       `json:"pinned,omitempty"`
	Home         tier.Tier  `json:"home"`
	Tier         tier.Tier  `json:"tier"` // resident tier
	Moving       bool       `json:"moving,omitempty"`
	To           tier.Tier  `json:"to,omitempty"` // while moving
	Stuck        bool       `json:"stuck,omitempty"`
	Kept         tier.Bytes `json:"kept,omitempty"` // present, while in swap
	Left         tier.Bytes `json:"left,omitempty"` // in storage, while in swap
	Leases       int        `json:"leases"`
	Waiters      int        `json:"waiters"`
	Accesses     uint64     `json:"accesses"` // leases ever granted
	Since        time.Time  `json:"since,omitzero"`
	LastUse      time.Time  `json:"last_use,omitzero"`
	// ChargedRAM and ChargedSwap are the ledger's belief; Present is the kernel's
	// answer, -1 where the mover cannot ask or it was not asked. Leftover is bytes
	// that were to be gone and were still seen, and so stay charged.
	ChargedRAM  tier.Bytes `json:"charged_ram"`
	ChargedSwap tier.Bytes `json:"charged_swap"`
	Present     tier.Bytes `json:"present"`
	Leftover    tier.Bytes `json:"leftover,omitempty"`
	// Taken is all that it takes in memory now, whatever was declared, and Peak the
	// most that it was ever seen to take, which is set aside for a load; 0 where the
	// mover cannot see it. Overdraft is bytes of it that could not be charged yet.
	Taken     tier.Bytes `json:"taken,omitempty"`
	Peak      tier.Bytes `json:"peak,omitempty"`
	Overdraft tier.Bytes `json:"overdraft,omitempty"`
}

// MoveStatus is one move that runs or is queued.
type MoveStatus struct {
	Job      string        `json:"job,omitempty"` // "" while queued
	Model    string        `json:"model"`
	From     tier.Tier     `json:"from"`
	To       tier.Tier     `json:"to"`
	Keep     tier.Bytes    `json:"keep,omitempty"`
	Leave    tier.Bytes    `json:"leave,omitempty"`
	Why      string        `json:"why"`
	Started  bool          `json:"started"`
	Stuck    bool          `json:"stuck,omitempty"`
	Progress Progress      `json:"progress"`
	Elapsed  time.Duration `json:"elapsed_ns"`
}

// statusLimit is how long Status waits for the loop, and how long for the mover's
// looks, all of them together.
const statusLimit = 2 * time.Second

// Status returns the state of now. It asks the kernel what is really resident,
// where the mover can, which takes about a millisecond for a GiB; models that it
// does not tell of within 2 s, all together, have a Present of -1.
func (m *Manager) Status() Status {
	ctx, cancel := context.WithTimeout(context.Background(), statusLimit)
	defer cancel()
	s, err := ask(ctx, m, func(now time.Time, reply func(Status, error)) { reply(m.ctl.status(), nil) })
	if err != nil {
		s = m.statusOfView(&m.snap.Load().view)
		s.At, s.Stale = time.Now(), true
	}
	m.fillStatus(&s)
	return s
}

// Models yields the status of every model, in the library's order, as of the
// last change. It asks neither the loop nor the kernel: Present is -1.
func (m *Manager) Models() iter.Seq[ModelStatus] {
	snap := m.snap.Load()
	return func(yield func(ModelStatus) bool) {
		for i := range snap.entries {
			if !yield(modelStatus(snap, i)) {
				return
			}
		}
	}
}

func modelStatus(snap *snapshot, i int) ModelStatus {
	v := &snap.view
	model, s, g := v.Library.At(i), &v.States[i], snap.entries[i].gate
	charged := v.Footprint(i)
	return ModelStatus{
		Name: model.Name, Path: model.Path, Size: model.Size, Runtime: model.Runtime,
		Capabilities: model.Capabilities, Pinned: model.Pinned, Home: model.Home,
		Tier: s.Tier, Moving: s.Moving, To: s.To, Stuck: s.Stuck, Kept: s.Kept, Left: s.Left,
		Leases: g.Leases(), Waiters: int(s.Waiters), Accesses: g.Uses(), Since: s.Since, LastUse: s.LastUse,
		ChargedRAM: charged[tier.RAM], ChargedSwap: charged[tier.Swap], Present: -1,
	}
}

// statusOfView is what can be told from a view.
func (m *Manager) statusOfView(v *tier.View) Status {
	s := Status{At: v.Now, Limits: v.Limits, Memory: v.Memory}
	snap := m.snap.Load()
	for i := range snap.entries {
		s.Models = append(s.Models, modelStatus(snap, i))
	}
	for t, into := range map[tier.Tier]*TierStatus{tier.RAM: &s.RAM, tier.Swap: &s.Swap} {
		*into = TierStatus{
			Charged: v.Charged[t], Reserved: v.Reserved[t], Used: v.Charged[t] + v.Reserved[t],
			Limit: v.Limits.Of(t), Room: v.Room[t],
		}
		if into.Limit > 0 {
			into.Percent = 100 * float64(into.Used) / float64(into.Limit)
		}
		for j := range snap.view.States {
			if snap.view.States[j].Tier == t {
				into.Models++
			}
		}
	}
	return s
}

// status is the loop's part of Status.
func (c *control) status() Status {
	c.readAccesses()
	c.publish()
	v := c.m.snap.Load().view
	s := c.m.statusOfView(&v)
	ledger := c.core.Ledger()
	s.RAM.Overdraft = c.core.Overdraft()
	s.RAM.Peak, s.Swap.Peak = ledger.Peak()[tier.RAM], ledger.Peak()[tier.Swap]
	mem, at, err := c.core.Memory()
	s.Memory = mem
	if !at.IsZero() {
		s.MemoryAge = c.now.Sub(at)
	}
	if err != nil {
		s.MemoryError = err.Error()
	}
	for i, e := range c.core.Entries() {
		charge := e.Charge()
		s.Models[i].ChargedRAM, s.Models[i].ChargedSwap = charge[tier.RAM], charge[tier.Swap]
		s.Models[i].Leftover, s.Models[i].Overdraft = e.Leftover(), e.Overdraft()
		s.Models[i].Declared, s.Models[i].Peak = e.Declared(), e.Peak()
	}
	for _, e := range c.core.Leftovers() {
		if _, known := c.core.Find(e.Model.Name); !known {
			if s.Leftovers == nil {
				s.Leftovers = make(map[string]tier.Bytes)
			}
			s.Leftovers[e.Model.Name] = e.Leftover() + e.Overdraft()
		}
	}
	s.LastEvictions = slices.Clone(c.evictions)
	for _, mv := range c.core.Moves() {
		ms := MoveStatus{Model: mv.Model.Name, From: mv.From, To: mv.To, Keep: mv.Keep, Leave: mv.Leave, Why: mv.Why, Started: mv.Started()}
		if g := c.moves[mv]; g != nil {
			ms.Job, ms.Stuck, ms.Progress, ms.Elapsed = g.work.Job().ID(), g.stuck, g.work.Job().Progress(), c.now.Sub(g.began)
		}
		s.Moves = append(s.Moves, ms)
	}
	s.Waits = map[string]Quantiles{
		"load": c.waits.load.quantiles(), "promote": c.waits.promote.quantiles(), "turn": c.waits.turn.quantiles(),
	}
	return s
}

// fillStatus adds what is told without the loop, and asks the kernel.
func (m *Manager) fillStatus(s *Status) {
	s.Closing = m.closing.Load()
	s.Uptime = s.At.Sub(m.start)
	s.Selection, s.Planning = m.count.selection.quantiles(), m.count.planning.quantiles()
	s.Waiting = int(m.waiting.Load())
	s.HotLoads = m.jobs.Counts(hotload.KindLoad)
	s.Evictions, s.EventsDropped = m.count.evicted.Load(), m.count.eventsDropped.Load()
	s.StateTrouble = m.save.trouble()
	s.Accesses.Dropped = m.accesses.dropped.Load()
	for i := range s.Models {
		s.Accesses.Total += s.Models[i].Accesses
	}
	m.count.mu.Lock()
	s.Refusals, s.Moved = make(map[string]int64), make(map[string]MoveStats)
	for k, v := range m.count.codes {
		s.Refusals[k] = v
	}
	for k, v := range m.count.moves {
		s.Moved[k] = v
	}
	m.count.mu.Unlock()
	looked := time.Now()
	for i := range s.Models {
		left := statusLimit - time.Since(looked)
		if ms := &s.Models[i]; left > 0 && !s.Closing && (ms.Tier != tier.Storage || ms.Leftover > 0) {
			seen, err := m.observe(ms.Name, left/2)
			if err == nil && m.resident != nil {
				ms.Present = seen.Present
			}
			ms.Taken = seen.Taken
		}
	}
	s.Parts = make(map[string]any)
	for name, part := range map[string]any{"mover": m.cfg.Mover, "probe": m.cfg.Probe, "selector": m.cfg.Selector, "placement": m.cfg.Placement} {
		if p, ok := part.(statusPart); ok {
			told := make(chan any, 1) // a part that is stuck may answer much later
			err := m.callFor(name, observation, func(context.Context) error { told <- p.PartStatus(); return nil }, func() {})
			if err != nil {
				s.Parts[name] = err.Error()
			} else {
				s.Parts[name] = <-told
			}
		}
	}
}

// statusPart is what a part offers that has something to say in Status. It is
// called from any goroutine and returns at once what marshals to JSON.
type statusPart interface{ PartStatus() any }
