package process

import (
	"cmp"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Status is what a Mover tells about itself. It is a copy that marshals to JSON.
type Status struct {
	System string `json:"system"` // "linux", "unix", "portable"
	Kernel string `json:"kernel"`
	// Freeze is how engines are frozen: "cgroup v2", "SIGSTOP", or "none". PageOut is
	// how their weights leave memory: "process_madvise", "memory.reclaim", "left to
	// the kernel", or "none". They are those of the last try; before the first one,
	// those that will be tried.
	Freeze  string `json:"freeze"`
	PageOut string `json:"page_out"`
	// Lacks is what does not work here, and why. Each is tried again for the next
	// engine, unless this system does not have it.
	Lacks map[string]string `json:"lacks,omitempty"`
	// DroppedRecords counts the log records, lines of engines included, that
	// Options.Logger did not take in time.
	DroppedRecords int64 `json:"dropped_records,omitempty"`
	// Orphans is what keeps engines from outliving this process.
	Orphans OrphanStatus `json:"orphans"`
	// Engines are by name: those of models above storage, and for an hour after its
	// last move those of models in storage, of which Failure may be of interest. What
	// they took is remembered longer, for 1024 models.
	Engines []ModelStatus `json:"engines"`
}

// OrphanStatus is what keeps engines from outliving the process that started them.
type OrphanStatus struct {
	Kernel  bool     `json:"kernel"`          // it kills the engine with this process
	Reaper  string   `json:"reaper"`          // kills what the engine has started: "runs", or why not
	Cgroups string   `json:"cgroups"`         // the folder of the engines' cgroups, "" for none
	Records string   `json:"records"`         // the folder of the records, "" for none
	Ended   []string `json:"ended,omitempty"` // what this Mover's New has ended
}

// ModelStatus is what is known of one model's engine.
type ModelStatus struct {
	Name  string    `json:"name"`
	Tier  tier.Tier `json:"tier"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Note says why an engine in standby is as it is.
	Note    string   `json:"note,omitempty"`
	Failure string   `json:"failure,omitempty"` // the last error of its engine
	Pid     int      `json:"pid,omitempty"`
	Others  int      `json:"others,omitempty"` // processes that it has started
	URL     string   `json:"url,omitempty"`
	Command []string `json:"command,omitempty"`
	// Anon, File, Swap and Locked are its memory by procfs; Share, in Mover.Status
	// only, is what is present, with pages that other processes have too divided
	// among them. Cached is how much of its weights is in memory, whichever process
	// maps them, Mapped how much is in its address space.
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

// listedFor is how long the model of a stopped engine stays in Status.
const listedFor = time.Hour

// Status returns the state of the Mover, measured now. It reads procfs, which takes
// some milliseconds for each GiB that engines have in memory.
func (m *Mover) Status() Status {
	type engine struct {
		*child
		files []weightFile
	}
	m.mu.Lock()
	var engines []engine
	for _, s := range m.slots {
		if s.child != nil {
			engines = append(engines, engine{s.child, s.files})
		}
	}
	m.mu.Unlock()
	shares := make(map[*child]tier.Bytes, len(engines))
	for _, e := range engines {
		seen, err := m.look(e.child, e.files)
		if err != nil || m.sys.usage == nil {
			continue
		}
		if exact, err := m.sys.usage(seen.pids, true); err == nil {
			shares[e.child] = exact.Share
		}
	}
	return m.status(shares)
}

// PartStatus implements tier.PartStatuser. It is Status as of the last measurement
// of each engine, and returns at once.
func (m *Mover) PartStatus() any { return m.status(nil) }

func (m *Mover) status(shares map[*child]tier.Bytes) Status {
	s := Status{
		System: m.sys.name, Kernel: m.sys.kernel, Lacks: m.lacks.reasons(), DroppedRecords: m.logs.dropped(),
		Orphans: OrphanStatus{
			Kernel: m.sys.dies, Reaper: m.reaper.state(), Cgroups: m.cgroups.path(), Ended: slices.Clone(m.orphans),
		},
		Engines: []ModelStatus{},
	}
	if m.sys.register != nil {
		s.Orphans.Records = m.opts.StateDir
	}
	s.Freeze, s.PageOut = m.ways(s.Lacks)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, slot := range m.slots {
		if slot.idle() && time.Since(slot.last) > listedFor {
			continue
		}
		seen, u := &slot.seen, &slot.seen.usage
		e := ModelStatus{
			Name: slot.name, Tier: slot.tier, State: slot.state, Since: slot.since, Note: slot.note, Failure: slot.failure,
			Anon: u.Anon, File: u.File, Swap: u.Swap, Locked: u.Locked,
			Weights: seen.weights, Mapped: seen.mapped, Cached: seen.cached,
			Steady: slot.learned.steady, Peak: slot.learned.peak, Others: max(len(seen.pids)-1, 0),
		}
		if c := slot.child; c != nil {
			e.Pid, e.URL, e.Command, e.Share = c.pid, c.url, slices.Clone(c.command), shares[c]
		}
		s.Engines = append(s.Engines, e)
	}
	slices.SortFunc(s.Engines, func(a, b ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// ways names what is in use.
func (m *Mover) ways(lacks map[string]string) (freeze, pageOut string) {
	has := func(what string) bool { _, lacks := lacks[what]; return !lacks }
	cgroups := m.sys.cgroups != nil && has(lackCgroup)
	switch {
	case cgroups:
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
	case cgroups && has(lackReclaim):
		pageOut = "memory.reclaim"
	default:
		pageOut = "none"
	}
	return freeze, pageOut
}
