package mapped

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Status is what a Mover tells about itself. It is a copy, and made for JSON.
type Status struct {
	// System is "linux", or "portable" where pages can be neither seen, dropped nor
	// locked.
	System string `json:"system"`
	// Missing are the calls that this kernel lacks or forbids, and for which a
	// fallback is in use.
	Missing []string `json:"missing,omitempty"`
	// Locked bytes of weights; LockLimit is how many may be, math.MaxInt64 being
	// no bound.
	Locked    tier.Bytes     `json:"locked"`
	LockLimit tier.Bytes     `json:"lock_limit"`
	Devices   []DeviceStatus `json:"devices"` // by name
	Models    []ModelStatus  `json:"models"`  // by name
}

// DeviceStatus is what is known of one device that weights were read from.
type DeviceStatus struct {
	Name string `json:"name"` // "major:minor"
	// Way is how it is read now: "populate ×2" is MADV_POPULATE_READ in 2 workers,
	// "read ×8" is pread in 8.
	Way string `json:"way"`
	// Rates are the ways that were measured.
	Rates []WayRate `json:"rates"`
	// Waiting is how many loads wait for the device.
	Waiting int `json:"waiting"`
}

// WayRate is how fast a device was in one way, lately.
type WayRate struct {
	Way            string     `json:"way"`
	BytesPerSecond tier.Bytes `json:"bytes_per_second"`
}

// ModelStatus is what is known of one model that is mapped, or that left pages
// behind when it was unmapped.
type ModelStatus struct {
	Name   string     `json:"name"`
	Tier   tier.Tier  `json:"tier"`
	Size   tier.Bytes `json:"size"`
	Keep   tier.Bytes `json:"keep"` // bytes that are to be present, in swap
	Locked tier.Bytes `json:"locked"`
	// Stayed is what the last move was to drop and could not.
	Stayed tier.Bytes `json:"stayed,omitempty"`
	// Again is how many bytes had to be read again because the kernel took them
	// while the model was in ram.
	Again tier.Bytes `json:"read_again,omitempty"`
	// Seen says what tells which pages are present: "mincore", "pagemap" (only
	// those in our own page tables) or "nothing".
	Seen       string   `json:"seen,omitempty"`
	Filesystem string   `json:"filesystem,omitempty"`
	Shards     int      `json:"shards"`
	Notes      []string `json:"notes,omitempty"`
}

// Status returns how things are. It does no I/O and may be called at any time.
func (m *Mover) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{
		System: m.sys.name, Missing: m.sys.missing(),
		Locked: tier.Bytes(m.locked), LockLimit: m.lockLimit(),
		Devices: make([]DeviceStatus, 0, len(m.devices)), Models: make([]ModelStatus, 0, len(m.entries)),
	}
	for _, id := range slices.SortedFunc(maps.Keys(m.devices), func(a, b uint64) int { return cmp.Compare(m.devices[a].name, m.devices[b].name) }) {
		s.Devices = append(s.Devices, m.devices[id].status())
	}
	for _, name := range slices.Sorted(maps.Keys(m.entries)) {
		if e := m.entries[name]; e.weights != nil || len(e.left) > 0 {
			s.Models = append(s.Models, m.statusOf(e))
		}
	}
	return s
}

// PartStatus implements tier.PartStatuser: it returns Status.
func (m *Mover) PartStatus() any { return m.Status() }

func (d *device) status() DeviceStatus {
	s := DeviceStatus{Name: d.name, Rates: []WayRate{}, Waiting: d.lane.waiting()}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Way = d.best().String()
	for _, r := range d.rates {
		if r.perSecond > 0 {
			s.Rates = append(s.Rates, WayRate{Way: r.way.String(), BytesPerSecond: tier.Bytes(r.perSecond)})
		}
	}
	return s
}

// statusOf is called with Mover.mu held.
func (m *Mover) statusOf(e *entry) ModelStatus {
	s := ModelStatus{
		Name: e.name, Tier: e.tier, Keep: tier.Bytes(e.keep), Locked: tier.Bytes(e.locked),
		Stayed: tier.Bytes(e.stayed), Again: tier.Bytes(e.health.again), Shards: len(e.left),
	}
	note := func(format string, args ...any) {
		s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
	}
	if e.stayed > 0 {
		note("%v would not go: another process maps the files, they are still being written, or the filesystem keeps them.", s.Stayed)
	}
	if e.weights == nil {
		return s
	}
	w := e.weights // not unmapped while it is the entry's
	seen := w.shards[0].sight
	for _, shard := range w.shards {
		seen = min(seen, shard.sight) // they are ordered
		if n := shard.fs.note; n != "" && !slices.Contains(s.Notes, n) {
			note("%s", n)
		}
	}
	s.Size, s.Shards, s.Seen, s.Filesystem = tier.Bytes(w.size), len(w.shards), seen.String(), w.shards[0].fs.name
	switch seen {
	case byTables:
		note("The process neither owns nor may write the files: the kernel does not tell what is cached of them, only what our own page tables hold is counted.")
	case blind:
		note("Nothing tells which pages are present.")
	}
	if e.tier == tier.RAM && e.locked < w.size {
		note("%v are not locked, and the kernel may take them: %v may be locked in all.", tier.Bytes(w.size-e.locked), m.lockLimit())
	}
	return s
}

// missing names the calls that are not there.
func (s *system) missing() []string {
	var names []string
	for _, c := range []struct {
		name  string
		there bool
	}{
		{"MADV_POPULATE_READ", s.populate != nil},
		{"mincore", s.cached != nil},
		{"pagemap", s.entered != nil},
		{"cachestat", s.census != nil},
		{"MADV_DONTNEED", s.forget != nil},
		{"POSIX_FADV_DONTNEED", s.drop != nil},
		{"mlock", s.lock != nil},
	} {
		if !c.there {
			names = append(names, c.name)
		}
	}
	return names
}
