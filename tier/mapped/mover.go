package mapped

import (
	"context"
	"errors"
	"sync"

	"github.com/modeltier/modeltier/tier"
)

// Mover is a tier.Mover over mapped weight files. Its methods may be called from
// any number of goroutines. Models are known by their names, from the move that
// maps them on.
type Mover struct {
	sys     *system
	opts    Options
	closing chan struct{}
	running sync.WaitGroup // moves, and the goroutine that rechecks

	mu       sync.Mutex // guards the rest; held for moments
	closed   bool
	runs     map[*run]struct{}
	entries  map[string]*entry // of models that are mapped, moving, or left pages behind
	devices  map[uint64]*device
	locked   int64
	watching bool
}

var _ interface {
	tier.Mover
	tier.Divider
	tier.InPlacer
	tier.FileBacker
	tier.Leaver
	tier.ModelChecker
	tier.PartStatuser
	tier.Closer
} = (*Mover)(nil)

// entry is one model. Mover.mu guards it; what the weights point to is guarded
// by their own lock.
type entry struct {
	name    string
	run     *run     // what is done with it now; nil: nothing
	weights *weights // nil: in storage
	tier    tier.Tier
	keep    int64     // bytes that are to be present, in swap
	locked  int64     // bytes that are
	stayed  int64     // bytes that the last move could not drop
	left    []residue // in storage, the files that pages may be left of
	found   []bitset  // in swap, what was present before a load that was undone, if more may still be
	health  health
}

// run is a move, a refill, or a recheck, which gives way to any move.
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
		sys: sys, opts: opts, closing: make(chan struct{}),
		runs: make(map[*run]struct{}), entries: make(map[string]*entry), devices: make(map[uint64]*device),
	}
}

// Divisible implements tier.Divider: any part of a model can be left in memory.
func (m *Mover) Divisible(*tier.Model) bool { return true }

// Leaves implements tier.Leaver: pages that are not kept are in the file in any
// case, so that swap and storage differ in the account alone.
func (m *Mover) Leaves(*tier.Model) bool { return true }

// InPlace implements tier.InPlacer: a mapped model can be read in swap, at the
// pace of its device.
func (m *Mover) InPlace(*tier.Model) bool { return true }

// FileBacked implements tier.FileBacker: swap is the file itself.
func (m *Mover) FileBacked() bool { return true }

// CheckModel implements tier.ModelChecker: a model needs a Path. Whether files
// are there is seen when they are mapped.
func (m *Mover) CheckModel(mod *tier.Model) error { return checkPath(mod.Name, mod.Path) }

var errGivesWay = errors.New("a move goes before a recheck")

// begin claims the model for a move or a recheck.
func (m *Mover) begin(ctx context.Context, name string, recheck bool) (context.Context, *entry, func(), error) {
	for {
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return nil, nil, nil, tier.ErrClosed
		}
		e := m.entries[name]
		if e == nil {
			e = &entry{name: name}
			m.entries[name] = e
		}
		other := e.run
		if other == nil {
			ctx, e.run = m.start(ctx)
			e.run.recheck = recheck
			m.mu.Unlock()
			return ctx, e, func() { m.end(e) }, nil
		}
		m.mu.Unlock()
		if !other.recheck {
			return nil, nil, nil, &tier.InUseError{Model: name, Reason: "Model '" + name + "' is moving already"}
		}
		other.cancel(errGivesWay)
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, nil, nil, context.Cause(ctx)
		}
	}
}

func (m *Mover) end(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finish(e.run)
	e.run = nil
	if e.weights == nil && len(e.left) == 0 {
		delete(m.entries, e.name)
	}
}

// start returns a run that Close calls off and waits for. Mover.mu is held, and
// the Mover is not closed.
func (m *Mover) start(ctx context.Context) (context.Context, *run) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &run{cancel: cancel, done: make(chan struct{})}
	m.runs[r] = struct{}{}
	m.running.Add(1)
	return ctx, r
}

// finish ends a run. Mover.mu is held.
func (m *Mover) finish(r *run) {
	delete(m.runs, r)
	r.cancel(nil)
	close(r.done)
	m.running.Done()
}

// devicesOf returns the devices that w lies on, in the order of its shards.
func (m *Mover) devicesOf(w *weights) []*device {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*device
	seen := make(map[uint64]bool)
	for _, s := range w.shards {
		if seen[s.device] {
			continue
		}
		seen[s.device] = true
		d := m.devices[s.device]
		if d == nil {
			d = newDevice(s.device, s.where, m.sys.ways())
			m.devices[s.device] = d
		}
		all = append(all, d)
	}
	return all
}

// Close calls off what runs, waits for it, and unmaps everything: what Bytes
// returned must not be touched any more. Pages stay in the page cache, so that a
// server that comes back finds them. It is idempotent, returns when everything is
// released, and must not be called from a move's progress.
func (m *Mover) Close() error {
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.closing)
	}
	for r := range m.runs {
		r.cancel(tier.ErrClosed)
	}
	m.mu.Unlock()
	m.running.Wait()

	m.mu.Lock()
	entries := m.entries
	m.entries = nil
	m.locked = 0
	m.mu.Unlock()
	var errs []error
	for _, e := range entries {
		if e.weights != nil {
			errs = append(errs, e.weights.close()) // which unlocks as well
		}
	}
	return errors.Join(errs...)
}
