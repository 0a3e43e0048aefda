package process

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// sight is what is seen of an engine and its weights.
type sight struct {
	pids    []int
	usage   Memory
	weights tier.Bytes // the size of the files
	mapped  tier.Bytes // of that in its address space
	cached  tier.Bytes // of that in memory
	by      string     // what tells mapped and cached; see ModelStatus.Seen
	hidden  error      // why mapped is not known; nil: it is
	frozen  bool
}

// Values of ModelStatus.Seen.
const (
	byPageCache  = "page cache"
	byPageTables = "page tables"
	byNothing    = "nothing"
)

// maps reports whether most of the weights are mapped files: some engines copy a few
// tensors.
func (s *sight) maps() bool { return s.weights > 0 && 2*s.mapped >= s.weights }

// present returns the bytes in memory that are held, and how many of them the kernel can
// take at no cost. The weights of a frozen engine are not held, unless it locks them.
func (s *sight) present() (all, reclaimable tier.Bytes) {
	all = s.usage.Anon
	switch {
	case !s.maps():
	case s.frozen:
		all = all.Plus(min(s.cached, s.usage.Locked))
	default:
		all = all.Plus(s.cached)
		reclaimable = max(s.cached-s.usage.Locked, 0)
	}
	return all, reclaimable
}

// needs returns what the engine takes when it serves: its own memory, and its weights
// if they are mapped, present or not.
func (s *sight) needs() tier.Bytes {
	own := s.usage.own()
	if s.maps() {
		return own.Plus(s.weights)
	}
	return own
}

// look measures the engine of a slot, and keeps what it sees for PartStatus. One that is
// done has nothing. To count what is cached takes milliseconds for a GiB that the kernel
// keeps in small pages: without pages it is as it was last counted, unless the engine is
// frozen and has locked memory.
func (m *Mover) look(c *child, pages bool) (sight, error) {
	m.mu.Lock()
	slot := m.slots[c.model]
	if slot == nil || slot.child != c {
		m.mu.Unlock()
		return sight{}, nil
	}
	files := slot.files
	s := sight{weights: sizeOf(files), frozen: slot.state == Frozen, cached: slot.seen.cached, by: slot.seen.by}
	if c.isHidden() {
		s.hidden, s.by = errors.New("Engine.Processes is not set"), byNothing
		slot.seen = s
		m.mu.Unlock()
		return s, nil
	}
	m.mu.Unlock()
	if m.sys.usage == nil {
		return s, nil
	}
	var err error
	if s.pids, err = c.list(); err != nil {
		return sight{}, err
	}
	if s.usage, err = m.sys.usage(s.pids); err != nil {
		return sight{}, err
	}
	for _, pid := range s.pids { // workers that share a mapping count once
		regions, err := m.sys.regions(pid, files)
		if errors.Is(err, fs.ErrPermission) {
			s.hidden, s.by = err, byNothing
		}
		if err != nil {
			continue // else it has exited
		}
		var n tier.Bytes
		for _, r := range regions {
			n = n.Plus(bytesOf(r.size))
		}
		s.mapped = max(s.mapped, min(n, s.weights))
	}
	if s.mapped == 0 {
		s.cached = 0
	} else if pages || s.frozen && s.usage.Locked > 0 {
		sure := false
		s.by = byPageCache
		if s.cached, sure = m.sys.cachedOf(files); !sure {
			s.cached, s.by = min(s.usage.File, s.weights), byPageTables // at least what is there
		}
	}
	if closed(c.done) {
		s = sight{weights: s.weights}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slot.child == c {
		slot.seen = s
	}
	return s, nil
}

// Resident implements tier.Resident. Present is the engine's anonymous memory and the
// part of its mapped weights that is in the page cache; together they count up to
// Model.Size, as what an engine takes beyond that is its Runtime (see Footprint).
// Weights that are cached without an engine of the model, or of a frozen one, do not
// count: see Cached. If this process neither owns nor may write the weights, only what
// is in the engine's page tables is seen of them. Outside Linux nothing is seen.
func (m *Mover) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	c, size := m.engineOf(model)
	if c == nil {
		return 0, 0, nil
	}
	s, err := m.look(c, !m.isFrozen(c))
	if err != nil {
		return 0, 0, err
	}
	present, reclaimable = s.present()
	present = min(present, size)
	return present, min(reclaimable, present), nil
}

func (m *Mover) engineOf(model string) (c *child, size tier.Bytes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.slots[model]; s != nil {
		return s.child, s.model.Size
	}
	return nil, 0
}

func (m *Mover) isFrozen(c *child) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[c.model]
	return s != nil && s.child == c && s.state == Frozen
}

// Footprint implements tier.Footprinter: what the engine of a model takes now, and the
// most that it was ever seen to take, both to be compared with Model.Size +
// Model.Runtime. While it serves, mapped weights count as a whole, while it is frozen
// only as far as it has locked them, and otherwise as far as they are in the page cache;
// its own memory counts in any state, and while it serves also if it is on a swap device.
// ok is false if it has never run or nothing can be seen. Memory of a GPU is not seen.
//
// It reads a few files of procfs for each process of the engine, and one for each
// process of the machine if engines have no cgroups of their own: less than a
// millisecond to a few. If several processes of an engine have memory of their own,
// which they may share as forked workers do, page tables are walked, which takes some
// milliseconds for each GiB.
func (m *Mover) Footprint(model string) (now, peak tier.Bytes, ok bool) {
	m.mu.Lock()
	s := m.slots[model]
	if s == nil {
		m.mu.Unlock()
		return 0, 0, false
	}
	c, running, frozen := s.child, s.state == Running, s.state == Frozen
	m.mu.Unlock()
	if c != nil {
		if seen, err := m.look(c, !running && !frozen); err == nil && !c.hasExited() {
			if now, _ = seen.present(); running {
				now = m.learn(s, c, &seen, 0)
			}
		}
	}
	peak = m.learnedOf(s).Peak
	return now, peak, peak > 0
}

// Status is what a Mover tells about itself. It is a copy that marshals to JSON.
type Status struct {
	System string `json:"system"` // "linux", "unix", "portable"
	Kernel string `json:"kernel"`
	// Freeze is how engines are frozen: "SIGSTOP" or "none". PageOut is how the weights
	// of a frozen engine leave memory when the room is needed: "process_madvise",
	// "memory.reclaim", or "none": the engine is then stopped. It is that of the last
	// try or engine's start; before the first one, that which will be tried.
	Freeze  string `json:"freeze"`
	PageOut string `json:"page_out"`
	// Lacks is what does not work here, and why. Each is tried again for the next engine.
	Lacks map[string]string `json:"lacks,omitempty"`
	// DroppedRecords counts the log records, lines of engines included, that
	// Options.Logger did not take in time.
	DroppedRecords int64 `json:"dropped_records,omitempty"`
	// Orphans is what keeps engines from outliving this process.
	Orphans OrphanStatus `json:"orphans"`
	// Conversations is what is kept of those that Engine.Save saved.
	Conversations ArchiveStatus `json:"conversations"`
	// Engines are by name: those of models above storage, and for an hour after its
	// last move those of models in storage, of which Failure may be of interest. What
	// they took is remembered longer, for 1024 models.
	Engines []ModelStatus `json:"engines"`
}

// OrphanStatus is what keeps engines from outliving the process that started them.
type OrphanStatus struct {
	Kernel  bool     `json:"kernel"`          // it kills the engine with this process
	Reaper  bool     `json:"reaper"`          // one kills what the engine has started; if not, Lacks says why
	Records string   `json:"records"`         // the folder of the records, "" for none
	Ended   []string `json:"ended,omitempty"` // what this Mover's New has ended
}

// ModelStatus is what is known of one model's engine.
type ModelStatus struct {
	Name  string    `json:"name"`
	Tier  tier.Tier `json:"tier"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Standby is what the swap tier is to the engine, and Note says why.
	Standby Way    `json:"standby,omitempty"`
	Note    string `json:"note,omitempty"`
	Failure string `json:"failure,omitempty"` // the last error of its engine
	// Renewals is how often its engine was renewed, and Renewed why last: see
	// Engine.IdleCheck.
	Renewals int      `json:"renewals,omitempty"`
	Renewed  string   `json:"renewed,omitempty"`
	Pid      int      `json:"pid,omitempty"`
	Others   int      `json:"others,omitempty"` // processes that it has started
	URL      string   `json:"url,omitempty"`
	Command  []string `json:"command,omitempty"`
	Cgroup   string   `json:"cgroup,omitempty"` // its folder, if it has one of its own
	// Processes are those of an engine that is not our child: Pid is its client. Client is
	// how that has ended while the engine runs on, "exited" or "failed".
	Processes []int  `json:"processes,omitempty"`
	Client    string `json:"client,omitempty"`
	// Memory is that of all its processes. Weights is the size of its files, Mapped how
	// much of that is in its address space, Cached how much is in memory, whichever
	// process maps it.
	Memory
	Weights tier.Bytes `json:"weights"`
	Mapped  tier.Bytes `json:"mapped"`
	Cached  tier.Bytes `json:"cached"`
	// Seen is what tells Mapped and Cached: "page cache"; "page tables", which is what
	// the engine has touched, if this process neither owns nor may write the files; or
	// "nothing", if it may not look into the engine's memory, as that has rights of its
	// own, or cannot, as Engine.Processes is not set for an engine that needs it. "": it is
	// not known yet, or the engine maps no weights.
	Seen string `json:"seen,omitempty"`
	// Steady and Peak are what it was seen to take; see Mover.Footprint. Copies: its
	// weights are memory of its own, not mapped files. Start is the time from its last
	// start until it was ready, Starts the number of those, also by earlier processes.
	Steady tier.Bytes    `json:"steady"`
	Peak   tier.Bytes    `json:"peak"`
	Copies bool          `json:"copies,omitempty"`
	Start  time.Duration `json:"start_ns,omitempty"`
	Starts int           `json:"starts,omitempty"`
	// Conversation is nil if the engine cannot save any. A frozen engine keeps them in
	// memory all the same.
	Conversation *ConversationStatus `json:"conversation,omitempty"`
}

// listedFor is how long the model of a stopped engine stays in Status.
const listedFor = time.Hour

// Status returns the state of the Mover, measured now; for each engine that costs what
// Footprint does.
func (m *Mover) Status() Status {
	m.mu.Lock()
	var engines []*child
	for _, s := range m.slots {
		if s.child != nil {
			engines = append(engines, s.child)
		}
	}
	m.mu.Unlock()
	for _, c := range engines {
		m.look(c, true) // what fails shows what was seen last
	}
	return m.status()
}

// PartStatus implements tier.PartStatuser. It is Status as of the last measurement
// of each engine, and returns at once.
func (m *Mover) PartStatus() any { return m.status() }

func (m *Mover) status() Status {
	s := Status{
		System: m.sys.name, Kernel: m.sys.kernel, Lacks: m.lacks.reasons(), DroppedRecords: m.logs.dropped(),
		Orphans: OrphanStatus{
			Kernel: m.sys.dies, Ended: slices.Clone(m.orphans),
		},
		Conversations: m.archive.status(),
		Engines:       []ModelStatus{},
	}
	if m.sys.register != nil {
		s.Orphans.Records = m.opts.StateDir
	}
	_, unreaped := s.Lacks[lackReaper]
	s.Orphans.Reaper = m.sys.reaper != nil && !unreaped
	s.Freeze, s.PageOut = m.ways(s.Lacks)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, slot := range m.slots {
		if slot.idle() && time.Since(slot.last) > listedFor {
			continue
		}
		seen, learned := &slot.seen, m.measures.get(slot.learned)
		e := ModelStatus{
			Name: slot.name, Tier: slot.tier, State: slot.state, Since: slot.since, Standby: slot.way, Note: slot.note, Failure: slot.failure,
			Renewals: slot.renewals, Renewed: slot.renewal,
			Memory: seen.usage, Weights: seen.weights, Mapped: seen.mapped, Cached: seen.cached, Seen: seen.by,
			Steady: learned.Steady, Peak: learned.Peak, Copies: learned.Copies,
			Start: learned.Start, Starts: learned.Starts, Others: max(len(seen.pids)-1, 0),
		}
		if t := &slot.talk; t.folder != "" {
			e.Conversation = &ConversationStatus{Bytes: t.bytes, At: t.at, Trouble: t.trouble}
		}
		if c := slot.child; c != nil {
			e.Pid, e.URL, e.Command, e.Cgroup = c.pid, c.url, slices.Clone(c.command), c.cgroupPath()
			if c.foreign != nil {
				e.Processes, e.Client = c.foreign.last()
			}
		}
		s.Engines = append(s.Engines, e)
	}
	slices.SortFunc(s.Engines, func(a, b ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// ways names what is in use.
func (m *Mover) ways(lacks map[string]string) (freeze, pageOut string) {
	has := func(what string) bool { _, lacks := lacks[what]; return !lacks }
	freeze = "none"
	if m.sys.suspend != nil {
		freeze = "SIGSTOP"
	}
	switch {
	case m.sys.pageOut != nil && has(lackPageOut):
		pageOut = "process_madvise"
	case m.sys.cgroup != nil && has(lackCgroup) && has(lackReclaim):
		pageOut = "memory.reclaim"
	default:
		pageOut = "none"
	}
	return freeze, pageOut
}
