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
	entries map[string]*entry // of models that are mapped, moving, or may have cached bytes
}

var _ interface {
	tier.Mover
	tier.Divider
	tier.Leaver
	tier.InPlacer
	tier.FileBacker
	tier.Instancer
	tier.Cacher
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
	cached  int64 // cached bytes, as last seen
	// left are, in storage, the files that may have pages in the page cache since left
	// at leftAt; they are not mapped.
	left   []*shard
	leftAt time.Time

	recheck *time.Timer // of the next recheck, or nil
	pause   int         // recheck intervals until then; doubles while pages are lost
	reread  int64       // bytes read again so far
}

// run is what is done with a model.
type run struct {
	yields bool // a move preempts it: it is none itself
	cancel context.CancelCauseFunc
	done   chan struct{}
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

var errPreempted = errors.New("a move goes first")

// begin claims the model for a move, or for something that yields to moves. Such a run
// that has it is awaited, and cancelled first by a move.
func (m *Mover) begin(ctx context.Context, name string, yields bool) (context.Context, *entry, error) {
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
			e.run = &run{yields: yields, cancel: cancel, done: make(chan struct{})}
			if e.recheck != nil {
				e.recheck.Stop()
			}
			m.running.Add(1)
			m.mu.Unlock()
			return ctx, e, nil
		}
		m.mu.Unlock()
		if !other.yields {
			return nil, nil, &tier.InUseError{Model: name, Reason: "Model '" + name + "' is moving already"}
		}
		if !yields {
			other.cancel(errPreempted)
		}
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
	default:
		m.forgetOldest()
	}
}

// leave remembers the files of a model that is in storage. Mover.mu is held.
func (e *entry) leave(files []*shard) { e.left, e.leftAt = files, time.Now() }

// forgetOldest keeps the number of models in storage that are remembered within
// maxUnmapped. What is in memory as long as it exists is not forgotten. Mover.mu is
// held.
func (m *Mover) forgetOldest() {
	var all []*entry
	for _, e := range m.entries {
		if e.run == nil && e.weights == nil && !slices.ContainsFunc(e.left, func(s *shard) bool { return s.fs.inMemory }) {
			all = append(all, e)
		}
	}
	if len(all) > maxUnmapped {
		oldest := slices.MinFunc(all, func(a, b *entry) int { return a.leftAt.Compare(b.leftAt) })
		delete(m.entries, oldest.name)
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

// Move implements tier.Mover. The Mover knows where the model is; mv.From is not
// used.
//
// A move to ram or swap first checks that the files are still those that were
// mapped. If not, the model is unmapped and the error is a *tier.MoveError with
// Lost set, around a *ChangedError. Bad files (missing, empty, unreadable, not
// regular, larger than Model.Size) give a *tier.InvalidError within the
// *tier.MoveError. If the pages of a model in ram do not stay in memory although
// they were read three times, the error is a *tier.CapacityError. Of those kept in
// swap, Resident tells how many stayed.
//
// Progress counts the bytes that had to move, including those that were in the
// page cache already. A move down reads nothing and drops nothing: what is not kept
// becomes cached bytes, and so does what a load brought that failed or was cancelled
// (see Cached and Uncache).
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if err := checkMove(&mv); err != nil {
		return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Err: err}
	}
	ctx, e, err := m.begin(ctx, mv.Model.Name, false)
	if err != nil {
		return err
	}
	defer m.end(e)
	from := e.tier // only runs of the model change it, and this is the one
	err = m.move(ctx, e, &mv, progress)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		return cause
	}
	_, changed := errors.AsType[*ChangedError](err)
	lost := changed && e.weights != nil
	if lost {
		m.unload(e, nil)
	}
	return &tier.MoveError{Model: mv.Model.Name, From: from, To: mv.To, Lost: lost, Err: err}
}

func checkMove(mv *tier.Move) error {
	if err := tier.CheckName("name", mv.Model.Name); err != nil {
		return err
	}
	_, err := mv.To.MarshalText()
	return err
}

func (m *Mover) move(ctx context.Context, e *entry, mv *tier.Move, progress func(tier.Bytes)) (err error) {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	w := e.weights
	switch {
	case mv.To == tier.Storage:
		m.unload(e, progress)
		return nil
	case w == nil:
		w, err = openWeights(m.sys, &mv.Model)
	case w.path != mv.Model.Path || !slices.Equal(w.parts, mv.Model.Parts):
		err = &ChangedError{Model: e.name, Path: w.path, How: "replaced", Was: tier.Bytes(w.size), Is: tier.Bytes(w.size)}
	default:
		err = w.check()
	}
	if err != nil {
		return err
	}
	return m.reach(ctx, e, w, mv.To, mv.Keep, progress)
}

// reach makes w what tier to asks for, and only then the entry's weights. If it
// fails, the model is where it was.
func (m *Mover) reach(ctx context.Context, e *entry, w *weights, to tier.Tier, keep tier.Bytes, progress func(tier.Bytes)) error {
	reached := false
	defer func() { // also if progress panics
		if !reached {
			m.turnBack(e, w)
		}
	}()
	end, locks := w.size, &m.locks
	if to == tier.Swap {
		end, locks = min(max(int64(keep), 0), w.size), nil
	}
	present, err := w.snapshot(ctx, end, true)
	if err != nil {
		return err
	}
	r := &report{fn: progress, base: e.held, total: max(end-e.held, e.held-end)}
	if err := w.fill(ctx, &m.devices, locks, end, present, r); err != nil {
		return err
	}
	if err := w.check(); err != nil { // changed during the load
		return err
	}
	if to == tier.Swap {
		r.add(r.total)
		m.giveWay(w, end)
	}
	reached = true
	m.mu.Lock()
	defer m.mu.Unlock()
	e.weights, e.tier, e.held, e.left, e.cached = w, to, end, nil, 0
	e.pause, e.reread = 0, 0
	return nil
}

// giveWay unlocks w and takes its pages beyond end out of our page tables.
func (m *Mover) giveWay(w *weights, end int64) {
	m.locks.unlock(w)
	w.markCold(end)
	for _, s := range w.shards {
		s.letGo(s.prefix(end), s.pages())
	}
}

// turnBack leaves w as it was before a move that failed. What that brought is cached.
func (m *Mover) turnBack(e *entry, w *weights) {
	if e.tier == tier.RAM {
		return
	}
	m.giveWay(w, e.held)
	if e.weights == nil {
		m.mu.Lock()
		e.leave(w.shards)
		m.mu.Unlock()
		_ = w.close()
	}
}

// unload unmaps the model. Its pages stay in the page cache.
func (m *Mover) unload(e *entry, progress func(tier.Bytes)) {
	w := e.weights
	if w == nil {
		return
	}
	r := &report{fn: progress, total: e.held}
	r.add(r.total)
	m.giveWay(w, 0)
	m.mu.Lock()
	e.weights, e.tier, e.held = nil, tier.Storage, 0
	e.leave(w.shards)
	m.mu.Unlock()
	_ = w.close() // cannot fail: it is mapped and open
}

// maxPause is the most recheck intervals between checks of a model: a machine
// without room for its pages must not read them all the time.
const maxPause = 32

// scheduleRecheck has a model in ram checked later if the kernel may reclaim pages
// of it. Mover.mu is held.
func (m *Mover) scheduleRecheck(e *entry) {
	if m.recheck > 0 && !m.closed && e.tier == tier.RAM && e.weights.locked.Load() < e.weights.size {
		now := time.Since(m.began)
		due := now.Truncate(m.recheck) + m.recheck*time.Duration(max(e.pause, 1))
		e.recheck = time.AfterFunc(due-now, func() { m.recheckModel(e.name) })
	}
}

// recheckModel reads again what the kernel reclaimed of a model in ram. Leases may
// be held meanwhile: it takes nothing away.
func (m *Mover) recheckModel(name string) {
	ctx, _ := tier.Background(context.Background()) // Close and moves cancel it
	ctx, e, err := m.begin(ctx, name, true)
	if err != nil {
		return // a move has the model
	}
	defer m.end(e)
	select {
	case m.rechecking <- struct{}{}:
		defer func() { <-m.rechecking }()
	case <-ctx.Done():
		return
	}
	w := e.weights
	if w == nil || e.tier != tier.RAM || w.check() != nil {
		return // the next move or reader reports a change
	}
	sets, err := w.snapshot(ctx, w.size, false)
	if err != nil {
		return
	}
	missing := w.missing(w.size, sets)
	if missing > 0 {
		_ = w.fill(ctx, &m.devices, &m.locks, w.size, sets, &report{}) // the next recheck sees what is still missing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.pause = min(2*max(e.pause, 1), maxPause)
	if missing == 0 {
		e.pause = 1
	}
	e.reread += missing
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

// ModelStatus is what is known of one model that is mapped, or that has cached bytes.
type ModelStatus struct {
	Name   string     `json:"name"`
	Tier   tier.Tier  `json:"tier"`
	Size   tier.Bytes `json:"size"`
	Keep   tier.Bytes `json:"keep"` // bytes to be kept present in swap
	Locked tier.Bytes `json:"locked"`
	// Cached is what of the rest is in the page cache, charged to no model, as Cached
	// or Uncache last saw.
	Cached tier.Bytes `json:"cached,omitempty"`
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
		if e := m.entries[name]; e.weights != nil || e.cached > 0 {
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
		Name: e.name, Tier: e.tier, Cached: tier.Bytes(e.cached), Again: tier.Bytes(e.reread), Shards: len(e.left),
	}
	note := func(format string, args ...any) {
		s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
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
