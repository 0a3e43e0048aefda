package modeltier

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// QuietUntil is when the quiet hours end that it is in (Config.Quiet); zero: it is in
	// none.
	QuietUntil time.Time `json:"quiet_until,omitzero"`

	Limits tier.Limits `json:"limits"`
	RAM    TierStatus  `json:"ram"`
	Swap   TierStatus  `json:"swap"`
	// Accounts are those of further kinds of memory, by name.
	Accounts map[string]TierStatus `json:"accounts,omitempty"`

	Memory      tier.Memory   `json:"memory"`        // the probe's last reading
	MemoryAge   time.Duration `json:"memory_age_ns"` //
	MemoryError string        `json:"memory_error,omitempty"`

	// Cached is what of models that gave way is in the page cache: charged to no model,
	// and dropped when the room is needed.
	Cached tier.Bytes    `json:"cached,omitempty"`
	Models []ModelStatus `json:"models"`
	// Aliases are what each alias is of, a model that is not there as well.
	Aliases map[string]string `json:"aliases,omitempty"`
	// Reservations are room that outsiders hold, oldest first. It is charged to ram.
	Reservations []ReservationStatus `json:"reservations,omitempty"`
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
	// EvictionsBy are the evictions by reason.
	EvictionsBy map[tier.Reason]int64 `json:"evictions_by,omitempty"`
	// LastEvictions are the last 16 of them, oldest first: when, for whom and why.
	LastEvictions []EvictEvent `json:"last_evictions,omitempty"`
	Accesses      Accesses     `json:"accesses"`

	// EventsDropped and LogDropped count events and log records that nothing took in
	// time.
	EventsDropped int64 `json:"events_dropped,omitempty"`
	LogDropped    int64 `json:"log_dropped,omitempty"`
	// LeftOut is what is in the folder of models and not in the library: files of models
	// that were removed while running, and what the watch of Config.WatchModelDir or
	// Manager.SetLeftOut told of last, the first 1000 of it.
	LeftOut []hotload.Skipped `json:"left_out,omitempty"`
	// StateTrouble says what is wrong with the keeping of the state.
	StateTrouble []string `json:"state_trouble,omitempty"`
	// Parts are what "mover", "probe", "selector" and "placement" say of themselves, and
	// "mover NAME" for each of Config.Movers, where they are a tier.PartStatuser. A mover
	// of several names is told of once, by the first.
	Parts map[string]any `json:"parts,omitempty"`
}

// Accesses counts requests that were given a model or began to wait for one.
type Accesses struct {
	Total   uint64 `json:"total"`
	Dropped int64  `json:"dropped,omitempty"` // a part that learns was not told of
}

// TierStatus is the account of one memory tier, or of a further kind of memory.
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
	Name string `json:"name"`
	// Aliases are further names, sorted. Like Parts, Capabilities and Labels they are
	// shared with the Manager: not to be changed.
	Aliases []string `json:"aliases,omitempty"`
	// Mover is the one of Config.Movers that moves it; "": Config.Mover.
	Mover string `json:"mover,omitempty"`
	Path  string `json:"path,omitempty"`
	// Parts are its further files.
	Parts []string `json:"parts,omitempty"`
	// Version tells its content, see tier.Model.Version. VersionOf is the model of which
	// it is an older version.
	Version   string     `json:"version,omitempty"`
	VersionOf string     `json:"version_of,omitempty"`
	Size      tier.Bytes `json:"size"`
	// Runtime is what is charged for serving beyond the weights: Declared by the
	// owner, or more where the model was seen to take more.
	Runtime      tier.Bytes        `json:"runtime,omitempty"`
	Declared     tier.Bytes        `json:"runtime_declared,omitempty"`
	Capabilities []string          `json:"capabilities,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Pinned       bool              `json:"pinned,omitempty"`
	Home         tier.Tier         `json:"home"`
	Tier         tier.Tier         `json:"tier"` // resident tier
	Moving       bool              `json:"moving,omitempty"`
	To           tier.Tier         `json:"to,omitempty"` // while moving
	Stuck        bool              `json:"stuck,omitempty"`
	// Quarantine is the file for which the model is not loaded; nil: none.
	Quarantine *tier.DigestError `json:"quarantine,omitempty"`
	Kept       tier.Bytes        `json:"kept,omitempty"` // present, while in swap
	Left       tier.Bytes        `json:"left,omitempty"` // in storage, while in swap
	// Cached is bytes in the page cache beyond those that are kept, as last asked, at
	// most some ten seconds ago. They are charged nowhere.
	Cached   tier.Bytes `json:"cached,omitempty"`
	Leases   int        `json:"leases"`
	Waiters  int        `json:"waiters"`
	Accesses uint64     `json:"accesses"` // leases ever granted
	// Waiting is how far its load is, or the requests for it that wait; nil: neither.
	Waiting *tier.Waiting `json:"waiting,omitempty"`
	Since   time.Time     `json:"since,omitzero"`
	LastUse time.Time     `json:"last_use,omitzero"`
	// IdleUntil is when the model leaves its tier if it is not used until then, see
	// tier.Model.KeepAlive; zero: never, or not as long as it is in use.
	IdleUntil time.Time `json:"idle_until,omitzero"`
	// LastError is what the last load that failed, or crash, came by, however well the
	// model has done since, and LastErrorAt when that was; "": there was none.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
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
	Reason   tier.Reason   `json:"reason"`
	Why      string        `json:"why"`
	Started  bool          `json:"started"`
	Stuck    bool          `json:"stuck,omitempty"`
	Phase    tier.Phase    `json:"phase"` // see Job.Phase
	Progress Progress      `json:"progress"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	Left     time.Duration `json:"left_ns,omitempty"` // expected; 0: unknown
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
		s = m.snap.Load().whole()
		s.At, s.Stale = time.Now(), true
	}
	m.fillStatus(&s)
	return s
}

// SetLeftOut has Status show what is in the folder of models and is none of them, as
// hotload.Scan told it. It replaces what was told before.
func (m *Manager) SetLeftOut(skipped []hotload.Skipped) {
	const most = 1000
	left := slices.Clone(skipped[:min(len(skipped), most)])
	m.leftOut.Store(&left)
}

// Models yields the status of every model, in the library's order, as of the
// last change. It asks neither the loop nor the kernel: Present is -1.
func (m *Manager) Models() iter.Seq[ModelStatus] {
	snap := m.snap.Load()
	return func(yield func(ModelStatus) bool) {
		for i := range snap.entries {
			if !yield(snap.status(i)) {
				return
			}
		}
	}
}

// Model returns the status of the model of that name or alias, as Models does.
func (m *Manager) Model(name string) (ModelStatus, bool) {
	snap := m.snap.Load()
	i, ok := snap.view.Library.Find(name)
	if !ok {
		return ModelStatus{}, false
	}
	return snap.status(i), true
}

// model returns the model of that name; zero where it is not known.
func (s *snapshot) model(name string) tier.Model {
	if i, ok := s.view.Library.Find(name); ok {
		return *s.view.Library.At(i)
	}
	return tier.Model{}
}

func (s *snapshot) status(i int) ModelStatus {
	v := &s.view
	model, st, g := v.Library.At(i), &v.States[i], s.entries[i].gate
	charged := v.Footprint(i)
	ms := ModelStatus{
		Name: model.Name, Aliases: v.Library.AliasesOf(i), Mover: model.Mover, Path: model.Path, Parts: model.Parts, Version: model.Version, VersionOf: model.VersionOf, Size: model.Size, Runtime: model.Runtime,
		Capabilities: model.Capabilities, Labels: model.Labels, Pinned: model.Pinned, Home: model.Home,
		Tier: st.Tier, Moving: st.Moving, To: st.To, Stuck: st.Stuck && (st.Quarantine == nil || st.Tier != tier.Storage), Quarantine: st.Quarantine, Kept: st.Kept, Left: st.Left, Cached: st.Cached,
		Leases: g.Leases(), Waiters: int(st.Waiters), Accesses: g.Uses(), Since: st.Since, LastUse: st.LastUse,
		ChargedRAM: charged[tier.RAM], ChargedSwap: charged[tier.Swap], Present: -1,
	}
	if term := s.entries[i].idle.Load(); term != nil && ms.Leases == 0 && ms.Waiters == 0 {
		ms.IdleUntil = term.Until(g.Ended())
	}
	if f := s.entries[i].failure.Load(); f != nil {
		ms.LastError, ms.LastErrorAt = f.err.Error(), f.at
	}
	if at := s.entries[i].standing.Load(); at != nil {
		w := at.waiting(model.Name)
		ms.Waiting = &w
	}
	return ms
}

// whole is what a snapshot tells of Status.
func (s *snapshot) whole() Status {
	all := Status{
		At: s.view.Now, Limits: s.limits, Memory: s.view.Memory, Reservations: slices.Clone(s.reserved), Aliases: maps.Clone(s.view.Library.Aliases()),
		RAM: s.account(tier.Account(tier.RAM), s.limits.RAM), Swap: s.account(tier.Account(tier.Swap), s.limits.Swap),
	}
	for i := range s.entries {
		all.Models = append(all.Models, s.status(i))
		all.Cached = all.Cached.Plus(s.view.States[i].Cached)
		switch s.view.States[i].Tier {
		case tier.RAM:
			all.RAM.Models++
		case tier.Swap:
			all.Swap.Models++
		}
	}
	return all
}

// account is one account of a snapshot, but for its models and its peak.
func (s *snapshot) account(a tier.Account, limit tier.Bytes) TierStatus {
	v := &s.view
	t := TierStatus{Charged: v.Charged[a], Reserved: v.Reserved[a], Used: v.Charged[a].Plus(v.Reserved[a]), Limit: limit, Room: v.Room[a]}
	if limit > 0 {
		t.Percent = 100 * float64(t.Used) / float64(limit)
	}
	return t
}

// status is the loop's part of Status.
func (c *control) status() Status {
	c.readAccesses()
	c.publish()
	snap, ledger := c.m.snap.Load(), c.core.Ledger()
	s, peak := snap.whole(), ledger.Peak()
	s.RAM.Peak, s.Swap.Peak, s.RAM.Overdraft = peak[tier.RAM], peak[tier.Swap], c.core.Overdraft()
	for a := tier.FurtherAccount; a < ledger.Accounts(); a++ {
		if s.Accounts == nil {
			s.Accounts = make(map[string]TierStatus)
		}
		further := snap.account(a, ledger.Limit(a))
		further.Peak = peak[a]
		for _, e := range c.core.Entries() {
			if e.Charge()[a] > 0 {
				further.Models++
			}
		}
		s.Accounts[c.core.AccountName(a)] = further
	}
	memory, at, err := c.core.Memory()
	s.Memory = memory // without what is taken off for outsiders
	if !at.IsZero() {
		s.MemoryAge = c.now.Sub(at)
	}
	if err != nil {
		s.MemoryError = err.Error()
	}
	for i, e := range c.core.Entries() {
		ms, charge := &s.Models[i], e.Charge()
		ms.ChargedRAM, ms.ChargedSwap = charge[tier.RAM], charge[tier.Swap]
		ms.Leftover, ms.Overdraft = e.Residue(), e.Overdraft()
		ms.Declared, ms.Peak = e.Declared(), e.Peak()
	}
	for _, e := range c.core.Residues() {
		if known, ok := c.core.Find(e.Model.Name); !ok || known != e {
			if s.Leftovers == nil {
				s.Leftovers = make(map[string]tier.Bytes)
			}
			s.Leftovers[e.Model.Name] += e.Residue() + e.Overdraft()
		}
	}
	s.LeftOut = c.removedByOwner()
	s.LastEvictions, s.QuietUntil = slices.Clone(c.evictions), c.calendar.quietUntil
	for _, mv := range c.core.Moves() {
		ms := MoveStatus{
			Model: mv.Model.Name, From: mv.From, To: mv.To, Keep: mv.Keep, Leave: mv.Leave,
			Reason: mv.Reason, Why: mv.Why, Started: mv.Started(), Stuck: mv.Stuck(),
		}
		if g := c.moves[mv]; g != nil {
			job := g.work.Job()
			ms.Job, ms.Elapsed = job.ID(), c.now.Sub(g.began)
			ms.Phase, ms.Progress, ms.Left = job.Now()
		}
		s.Moves = append(s.Moves, ms)
	}
	s.Waits = map[string]Quantiles{
		"load": c.waits.load.quantiles(), "promote": c.waits.promote.quantiles(), "turn": c.waits.turn.quantiles(),
	}
	return s
}

// removedByOwner returns the files of models that the configuration has and that were
// removed while running.
func (c *control) removedByOwner() (out []hotload.Skipped) {
	var gone []tier.Model
	for name, said := range c.core.Configured() {
		if _, there := c.core.Named(name); !there && said.Path != "" {
			gone = append(gone, said)
		}
	}
	if gone == nil {
		return nil
	}
	served := make(map[string]bool)
	for _, e := range c.core.Entries() {
		served[e.Model.Path] = true
	}
	for _, m := range gone {
		if !served[m.Path] {
			out = append(out, hotload.Skipped{Path: m.Path, Reason: fmt.Sprintf("is of the model %q, which its owner removed: hot load it to have it again", m.Name)})
		}
	}
	slices.SortFunc(out, func(a, b hotload.Skipped) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// fillStatus adds what is told without the loop, and asks the kernel.
func (m *Manager) fillStatus(s *Status) {
	s.Closing = m.closing.Load()
	if left := m.leftOut.Load(); left != nil {
		s.LeftOut = append(s.LeftOut, *left...)
	}
	s.Uptime = s.At.Sub(m.start)
	s.Selection, s.Planning = m.count.selection.quantiles(), m.count.planning.quantiles()
	s.Waiting = int(m.waiting.Load())
	s.HotLoads = m.jobs.Counts(hotload.KindLoad)
	s.EventsDropped, s.LogDropped = m.events.Dropped(), m.logs.Dropped()
	s.StateTrouble = m.save.trouble()
	s.Accesses.Dropped = m.accesses.dropped.Load()
	for i := range s.Models {
		s.Accesses.Total += s.Models[i].Accesses
	}
	m.count.mu.Lock()
	s.Refusals, s.Moved, s.EvictionsBy = maps.Clone(m.count.codes), maps.Clone(m.count.moves), maps.Clone(m.count.evictions)
	m.count.mu.Unlock()
	for _, n := range s.EvictionsBy {
		s.Evictions += n
	}
	s.Parts = make(map[string]any)
	if s.Closing {
		return
	}
	parts := m.parts()
	told := make([]any, len(parts))
	var asking sync.WaitGroup // no mover's models, and no part, wait for another
	of := make(map[*mover][]*ModelStatus)
	for i := range s.Models {
		if ms := &s.Models[i]; ms.Tier != tier.Storage || ms.Leftover > 0 {
			mv := m.moverOf(&tier.Model{Mover: ms.Mover})
			of[mv] = append(of[mv], ms)
		}
	}
	for mv, models := range of {
		asking.Go(func() { m.lookAt(mv, models) })
	}
	for i, p := range parts {
		asking.Go(func() { told[i] = m.partStatus(p) })
	}
	asking.Wait()
	for i, p := range parts {
		if told[i] != nil {
			s.Parts[p.key] = told[i]
		}
	}
}

// lookAt fills in what a mover sees of its models, as far as it tells in time.
func (m *Manager) lookAt(mv *mover, models []*ModelStatus) {
	began := time.Now()
	for _, ms := range models {
		left := statusLimit - time.Since(began)
		if left <= 0 || m.closing.Load() {
			return
		}
		l, err := m.look(&tier.Model{Name: ms.Name, Path: ms.Path, Size: ms.Size, Mover: ms.Mover}, left/2)
		seen := l.seen.Believable()
		if err == nil && mv.resident != nil {
			ms.Present = seen.Present
		}
		ms.Taken = seen.Taken
	}
}

// partStatus returns what a part says of itself; nil: nothing.
func (m *Manager) partStatus(p *plugin) any {
	part, ok := p.part.(tier.PartStatuser)
	switch {
	case !ok:
		return nil
	case p.asked.Swap(true): // one at a time: it may never end
		return "it is being asked and has not answered yet"
	}
	told := make(chan any, 1) // a part that is stuck may answer much later
	gaveUp, err := m.callFor(m.ctx, p.name, adviceLimit, func(context.Context) error { told <- part.PartStatus(); return nil }, func() { p.asked.Store(false) })
	if !gaveUp {
		p.asked.Store(false)
	}
	if err != nil {
		return err.Error()
	}
	return <-told
}

// histogram counts durations in buckets that grow by a factor of 2^(1/4), from
// nanoseconds to hours: a quantile is within 10 per cent. It is safe for
// concurrent use.
type histogram struct {
	buckets [4 * 48]atomic.Uint64
	sum     atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	i := int(4 * math.Log2(float64(max(d, 1))))
	h.buckets[min(i, len(h.buckets)-1)].Add(1)
	h.sum.Add(int64(d))
}

// Quantiles of durations. All are zero where nothing was measured.
type Quantiles struct {
	Count uint64        `json:"count"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
}

func (h *histogram) quantiles() Quantiles {
	var counts [len(h.buckets)]uint64
	var q Quantiles
	for i := range h.buckets {
		counts[i] = h.buckets[i].Load()
		q.Count += counts[i]
	}
	if q.Count == 0 {
		return q
	}
	q.Mean = time.Duration(uint64(h.sum.Load()) / q.Count)
	at := func(share float64) time.Duration {
		want, seen := uint64(share*float64(q.Count-1))+1, uint64(0)
		for i, n := range counts {
			if seen += n; seen >= want {
				return time.Duration(math.Exp2((float64(i) + 0.5) / 4)) // the middle
			}
		}
		return 0
	}
	q.P50, q.P99 = at(0.50), at(0.99)
	return q
}

// counters are figures that any goroutine adds to.
type counters struct {
	selection, planning histogram

	mu        sync.Mutex // guards the rest; held for a few instructions
	codes     map[string]int64
	moves     map[string]MoveStats
	evictions map[tier.Reason]int64
}

// maxReasons bounds the reasons that are counted apart.
const maxReasons = 64

func (c *counters) evict(why tier.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.evictions == nil {
		c.evictions = make(map[tier.Reason]int64)
	}
	if _, known := c.evictions[why]; !known && len(c.evictions) >= maxReasons {
		why = "other" // of a Placement that does not keep to a few words
	}
	c.evictions[why]++
}

func (c *counters) refuse(code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.codes == nil {
		c.codes = make(map[string]int64)
	}
	c.codes[code]++
}

// MoveStats are the figures of the moves of one kind.
type MoveStats struct {
	Succeeded int64         `json:"succeeded"`
	Failed    int64         `json:"failed"`
	Bytes     tier.Bytes    `json:"bytes"`      // moved by those that succeeded
	Took      time.Duration `json:"took_ns"`    // by those, summed
	Longest   time.Duration `json:"longest_ns"` // of those
}

// Rate returns the bytes moved in a second of moving.
func (s MoveStats) Rate() tier.Bytes {
	if s.Took <= 0 {
		return 0
	}
	return tier.Bytes(float64(s.Bytes) / s.Took.Seconds())
}

func (c *counters) moved(mv *tier.Move, bytes tier.Bytes, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moves == nil {
		c.moves = make(map[string]MoveStats)
	}
	s := c.moves[mv.Verb()]
	if err != nil {
		s.Failed++
	} else {
		s.Succeeded++
		s.Bytes += bytes
		s.Took += took
		s.Longest = max(s.Longest, took)
	}
	c.moves[mv.Verb()] = s
}

// waitStats are how long granted requests had waited, by what for. The loop's.
type waitStats struct {
	load    histogram // for a load from storage
	promote histogram // for bytes that were missing in swap
	turn    histogram // for a lease, a place in the queue, a plan; no bytes moved
}

func (w *waitStats) add(l *Lease, from tier.Tier) {
	switch {
	case !l.moved:
		w.turn.add(l.waited)
	case from == tier.Storage:
		w.load.add(l.waited)
	default:
		w.promote.add(l.waited)
	}
}
