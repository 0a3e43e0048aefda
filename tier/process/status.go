package process

import (
	"cmp"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Status is what a Mover tells about itself. It is a copy, and made for JSON.
type Status struct {
	System string `json:"system"` // "linux", "unix", "portable"
	Kernel string `json:"kernel"`
	// Freeze is how engines are frozen: "cgroup v2", "SIGSTOP", or "none". PageOut
	// is how their weights leave memory: "process_madvise", "memory.reclaim",
	// "left to the kernel", or "none". They go by the engine that was started last;
	// before the first one, they are what is hoped for.
	Freeze  string `json:"freeze"`
	PageOut string `json:"page_out"`
	// Lacks is what was found not to work here, and why. An engine that gets no
	// cgroup is done without one, and the next may get its own.
	Lacks map[string]string `json:"lacks,omitempty"`
	// DroppedRecords counts the log records, and the lines of engines, that
	// Options.Logger did not take in time.
	DroppedRecords int64 `json:"dropped_records,omitempty"`
	// Orphans is what keeps engines from outliving us.
	Orphans OrphanStatus `json:"orphans"`
	// Engines are by name, with those of models that have left the library: what they
	// took and how they failed is kept for the 1024 models of late.
	Engines []ModelStatus `json:"engines"`
}

// OrphanStatus is what keeps engines from outliving their maker.
type OrphanStatus struct {
	Kernel  bool     `json:"kernel"`          // kills the engine with us
	Guard   string   `json:"guard"`           // kills what the engine has started: "runs", or why not
	Cgroups string   `json:"cgroups"`         // the folder of theirs, "" for none
	Records string   `json:"records"`         // the folder of what New sweeps, "" for none
	Swept   []string `json:"swept,omitempty"` // what this Mover's New has ended
}

// ModelStatus is what is known of one model's engine.
type ModelStatus struct {
	Name  string    `json:"name"`
	Tier  tier.Tier `json:"tier"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Note says why an engine at rest is as it is.
	Note    string   `json:"note,omitempty"`
	Failure string   `json:"failure,omitempty"` // the last error of its engine
	Pid     int      `json:"pid,omitempty"`
	Others  int      `json:"others,omitempty"` // processes that it has started
	URL     string   `json:"url,omitempty"`
	Command []string `json:"command,omitempty"`
	// Anon, File, Swap and Locked are its memory now, by procfs; Share is what is
	// present with pages that others have too divided among them. Cached is how
	// much of its weights is in memory, whoever maps them, Mapped how much is in
	// its address space.
	Anon    tier.Bytes `json:"anon"`
	File    tier.Bytes `json:"file"`
	Swap    tier.Bytes `json:"swap"`
	Locked  tier.Bytes `json:"locked"`
	Share   tier.Bytes `json:"share"`
	Weights tier.Bytes `json:"weights"`
	Mapped  tier.Bytes `json:"mapped"`
	Cached  tier.Bytes `json:"cached"`
	// Steady and Peak are what it was seen to take; see Mover.Footprint.
	Steady tier.Bytes `json:"steady"`
	Peak   tier.Bytes `json:"peak"`
}

// Status returns how things are. It reads procfs, which takes some milliseconds
// for each GiB that engines have in memory.
func (m *Mover) Status() Status {
	type look struct {
		child *child
		files []weightFile
	}
	m.mu.Lock()
	s := Status{
		System: m.sys.name, Kernel: m.sys.kernel, Lacks: make(map[string]string, len(m.lacks)),
		Engines: make([]ModelStatus, 0, len(m.slots)),
	}
	for what, why := range m.lacks {
		s.Lacks[what] = why
	}
	looks := make(map[string]look, len(m.slots))
	for name, slot := range m.slots {
		s.Engines = append(s.Engines, ModelStatus{
			Name: name, Tier: slot.tier, State: slot.state, Since: slot.since, Note: slot.note, Failure: slot.failure,
			Steady: slot.learned.steady, Peak: slot.learned.peak,
		})
		if slot.child != nil {
			looks[name] = look{slot.child, slot.files}
		}
	}
	m.mu.Unlock()

	slices.SortFunc(s.Engines, func(a, b ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	for i := range s.Engines {
		if l, ok := looks[s.Engines[i].Name]; ok {
			m.fillStatus(&s.Engines[i], l.child, l.files)
		}
	}
	s.Freeze, s.PageOut = m.ways(s.Lacks)
	for _, box := range m.boxes {
		s.DroppedRecords += box.Dropped()
	}
	s.Orphans = OrphanStatus{Kernel: m.sys.dies, Guard: m.guard.state(), Cgroups: m.cages.path(), Swept: m.swept}
	if m.sys.record != nil {
		s.Orphans.Records = m.opts.StateDir
	}
	return s
}

// PartStatus returns Status, for a Manager to show.
func (m *Mover) PartStatus() any { return m.Status() }

func (m *Mover) fillStatus(e *ModelStatus, c *child, files []weightFile) {
	e.Pid, e.URL, e.Command = c.pid, c.url, c.command
	seen, err := m.look(c, files)
	if err != nil {
		return
	}
	u := seen.usage
	e.Anon, e.File, e.Swap, e.Locked = u.Anon, u.File, u.Swap, u.Locked
	e.Weights, e.Mapped, e.Cached = seen.weights, seen.mapped, seen.cached
	if m.sys.usage != nil {
		e.Others = max(len(seen.pids)-1, 0)
		if exact, err := m.sys.usage(seen.pids, true); err == nil {
			e.Share = exact.Share
		}
	}
}

// ways names what is in use.
func (m *Mover) ways(lacks map[string]string) (freeze, pageOut string) {
	has := func(what string) bool { _, lacks := lacks[what]; return !lacks }
	caged := m.sys.cages != nil && has(lackCgroup)
	switch {
	case caged:
		freeze = "cgroup v2"
	case m.sys.suspend != nil:
		freeze = "SIGSTOP"
	default:
		freeze = "none"
	}
	switch {
	case m.opts.LeaveCached:
		pageOut = "left to the kernel"
	case m.sys.pageOut != nil && has(lackPageOut):
		pageOut = "process_madvise"
	case caged && has(lackReclaim):
		pageOut = "memory.reclaim"
	default:
		pageOut = "none"
	}
	return freeze, pageOut
}
