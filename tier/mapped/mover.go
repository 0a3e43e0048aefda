package mapped

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Options are the settings of a Mover. The zero value is a good default.
type Options struct {
	// Lock caps the bytes that are mlocked, over all models in ram. Zero: as many as
	// the process may lock (RLIMIT_MEMLOCK; with CAP_IPC_LOCK, all). tier.None: none.
	Lock tier.Bytes
	// Recheck is the interval at which unlocked weights in ram are checked, and read
	// again if the kernel reclaimed them. A model that loses pages again and again is
	// checked less often, down to once in 32 intervals. Zero: 10 s. Negative: never.
	Recheck time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Lock < 0 && o.Lock != tier.None {
		return o, &tier.InvalidError{Field: "Lock", Value: fmt.Sprint(int64(o.Lock)), Rule: "must be bytes, 0 for the default, or tier.None"}
	}
	switch o.Lock {
	case 0:
		o.Lock = tier.Unlimited
	case tier.None:
		o.Lock = 0
	}
	if o.Recheck == 0 {
		o.Recheck = 10 * time.Second
	}
	return o, nil
}

// Mover is a tier.Mover over memory-mapped weight files. Its methods are safe for
// concurrent use. It knows a model by its name, from the move that maps it on.
type Mover struct {
	sys     *system
	recheck time.Duration // Options.Recheck
	locks   mlockAccount
	devices devices
	running sync.WaitGroup // runs

	// Rechecks are due at whole intervals since began, so that one wake-up serves all
	// models; rechecking holds the one that runs, the others wait for it.
	began      time.Time
	rechecking chan struct{}

	mu      sync.Mutex // guards the rest; held for moments
	closed  bool
	entries map[string]*entry // of models that are mapped, moving, or left pages behind
}

var _ interface {
	tier.Mover
	tier.Divider
	tier.Leaver
	tier.InPlacer
	tier.FileBacker
	tier.ModelChecker
	tier.PartStatuser
	tier.Closer
} = (*Mover)(nil)

// entry is one model. Mover.mu guards it; the weights have a lock of their own.
type entry struct {
	name    string
	run     *run     // in progress, or nil
	weights *weights // nil: in storage
	tier    tier.Tier
	held    int64 // bytes to be present: all of them in ram, those kept in swap
	stayed  int64 // bytes that the last move could not drop
	// left are, in storage, the files that pages may be left of; they are not mapped.
	left []*shard
	// before are the pages that are not to be dropped, as long as others may be left:
	// those that were present before a load that failed.
	before []bitset

	recheck *time.Timer // of the next recheck, or nil
	pause   int         // recheck intervals until then; doubles while pages are lost
	reread  int64       // bytes read again so far
}

// run is a move, or a recheck, which is preempted by any move.
type run struct {
	recheck bool
	cancel  context.CancelCauseFunc
	done    chan struct{}
}

// New returns a Mover. The error unwraps to tier.ErrInvalid.
func New(opts Options) (*Mover, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return newMover(newSystem(), opts), nil
}

func newMover(sys *system, opts Options) *Mover {
	return &Mover{
		sys: sys, recheck: opts.Recheck,
		locks:   mlockAccount{sys: sys, max: opts.Lock},
		devices: devices{candidates: sys.ways(), byID: make(map[uint64]*device)},
		entries: make(map[string]*entry),
		began:   time.Now(), rechecking: make(chan struct{}, 1),
	}
}

// Divisible implements tier.Divider: any part of a model can stay in memory.
func (m *Mover) Divisible(*tier.Model) bool { return true }

// Leaves implements tier.Leaver: pages that are not kept are in the file anyway,
// so that swap and storage differ in the account alone.
func (m *Mover) Leaves(*tier.Model) bool { return true }

// InPlace implements tier.InPlacer: a mapped model can be read in swap, at the
// speed of its device.
func (m *Mover) InPlace(*tier.Model) bool { return true }

// FileBacked implements tier.FileBacker: swap is the file itself.
func (m *Mover) FileBacked() bool { return true }

// CheckModel implements tier.ModelChecker: a model needs a Path. Its files are
// checked when they are mapped.
func (m *Mover) CheckModel(mod *tier.Model) error { return checkPath(mod.Name, mod.Path) }

var errPreempted = errors.New("a move preempts a recheck")

// begin claims the model for a move or a recheck. A recheck that has it is
// cancelled and awaited.
func (m *Mover) begin(ctx context.Context, name string, recheck bool) (context.Context, *entry, error) {
	for {
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return nil, nil, tier.ErrClosed
		}
		e := m.entries[name]
		if e == nil {
			e = &entry{name: name}
			m.entries[name] = e
		}
		other := e.run
		if other == nil {
			ctx, cancel := context.WithCancelCause(ctx)
			e.run = &run{recheck: recheck, cancel: cancel, done: make(chan struct{})}
			if e.recheck != nil {
				e.recheck.Stop()
			}
			m.running.Add(1)
			m.mu.Unlock()
			return ctx, e, nil
		}
		m.mu.Unlock()
		if !other.recheck {
			return nil, nil, &tier.InUseError{Model: name, Reason: "Model '" + name + "' is moving already"}
		}
		other.cancel(errPreempted)
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// end gives the model up again.
func (m *Mover) end(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.run.cancel(nil)
	close(e.run.done)
	m.running.Done()
	e.run = nil
	switch {
	case e.weights != nil:
		m.scheduleRecheck(e)
	case len(e.left) == 0:
		delete(m.entries, e.name)
	}
}

// Close cancels what runs, waits for it, and unmaps everything: slices that Bytes
// returned must not be used any more. Pages stay in the page cache, so that a
// server that restarts finds them. It is idempotent, returns once everything is
// released, and must not be called from a move's progress function.
func (m *Mover) Close() error {
	m.mu.Lock()
	m.closed = true
	for _, e := range m.entries {
		if e.run != nil {
			e.run.cancel(tier.ErrClosed)
		}
	}
	m.mu.Unlock()
	m.running.Wait()

	m.mu.Lock()
	entries := m.entries
	m.entries = nil
	m.mu.Unlock()
	var errs []error
	for _, e := range entries {
		if e.recheck != nil {
			e.recheck.Stop()
		}
		if e.weights != nil {
			m.locks.held.Add(-e.weights.locked.Load())
			errs = append(errs, e.weights.close()) // unlocks as well
		}
	}
	return errors.Join(errs...)
}

// Status describes a Mover. It is a copy that marshals to JSON.
type Status struct {
	// System is "linux", or "portable" if pages can be neither seen, dropped nor
	// locked.
	System string `json:"system"`
	// Missing are the calls that this kernel lacks or forbids; a fallback is in use.
	Missing []string `json:"missing,omitempty"`
	// Locked is the bytes of weights that are mlocked; LockLimit is how many may be
	// (math.MaxInt64: no limit).
	Locked    tier.Bytes     `json:"locked"`
	LockLimit tier.Bytes     `json:"lock_limit"`
	Devices   []DeviceStatus `json:"devices"` // by name
	Models    []ModelStatus  `json:"models"`  // by name
}

// ModelStatus is what is known of one model that is mapped, or that left pages
// behind when it was unmapped.
type ModelStatus struct {
	Name   string     `json:"name"`
	Tier   tier.Tier  `json:"tier"`
	Size   tier.Bytes `json:"size"`
	Keep   tier.Bytes `json:"keep"` // bytes to be kept present in swap
	Locked tier.Bytes `json:"locked"`
	// Stayed is what the last move could not drop.
	Stayed tier.Bytes `json:"stayed,omitempty"`
	// Again is how many bytes were read again because the kernel reclaimed them
	// while the model was in ram.
	Again tier.Bytes `json:"read_again,omitempty"`
	// Seen is what tells which pages are present: "mincore", "pagemap" (only those
	// in our own page tables) or "nothing".
	Seen       string   `json:"seen,omitempty"`
	Filesystem string   `json:"filesystem,omitempty"`
	Shards     int      `json:"shards"`
	Notes      []string `json:"notes,omitempty"`
}

// Status returns the current state. It does no I/O and may be called at any time.
func (m *Mover) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{
		System: m.sys.name, Missing: m.sys.missing(),
		Locked: tier.Bytes(m.locks.held.Load()), LockLimit: m.locks.limit(),
		Devices: m.devices.status(), Models: make([]ModelStatus, 0, len(m.entries)),
	}
	for _, name := range slices.Sorted(maps.Keys(m.entries)) {
		if e := m.entries[name]; e.weights != nil || len(e.left) > 0 {
			s.Models = append(s.Models, e.status(s.LockLimit))
		}
	}
	return s
}

// PartStatus implements tier.PartStatuser: it returns Status.
func (m *Mover) PartStatus() any { return m.Status() }

// status is called with Mover.mu held.
func (e *entry) status(lockLimit tier.Bytes) ModelStatus {
	s := ModelStatus{
		Name: e.name, Tier: e.tier, Stayed: tier.Bytes(e.stayed), Again: tier.Bytes(e.reread), Shards: len(e.left),
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
	w := e.weights // not unmapped as long as it is the entry's
	method := w.shards[0].method
	for _, shard := range w.shards {
		method = min(method, shard.method)
		if n := shard.fs.note; n != "" && !slices.Contains(s.Notes, n) {
			note("%s", n)
		}
	}
	locked := w.locked.Load()
	s.Size, s.Locked, s.Shards, s.Seen, s.Filesystem = tier.Bytes(w.size), tier.Bytes(locked), len(w.shards), method.String(), w.shards[0].fs.name
	switch method {
	case byPagemap:
		note("The process neither owns nor may write the files: the kernel does not tell what is cached of them, only what our own page tables hold is counted.")
	case noMethod:
		note("Nothing tells which pages are present.")
	}
	if e.tier == tier.Swap {
		s.Keep = tier.Bytes(e.held)
	} else if locked < w.size {
		note("%v are not locked, and the kernel may take them: %v may be locked in all.", tier.Bytes(w.size-locked), lockLimit)
	}
	return s
}
