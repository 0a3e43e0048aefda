package process

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/outbox"
	"github.com/modeltier/modeltier/tier"
)

// Mover is a tier.Mover over child processes. Its methods may be called from any
// number of goroutines. Models are known by their names, from their first Move
// on.
type Mover struct {
	sys       *system
	opts      Options
	log       *slog.Logger
	lines     *slog.Logger   // for what engines print
	boxes     [2]*outbox.Box // behind log and lines, apart so that a flood of lines displaces no record
	guard     *guard
	starter   *starter
	cages     *cageFolder
	lane      chan struct{} // a token: one refill of ours at a time
	swept     []string      // what New ended
	killLimit time.Duration

	givenUp  chan struct{}  // closed when Close waits no longer
	moves    sync.WaitGroup // and what reads of engines
	watchers sync.WaitGroup // of engines

	mu     sync.Mutex // guards the rest, and the slots; held for moments
	closed bool
	runs   map[*run]struct{}
	slots  map[string]*slot
	ports  map[int]struct{}  // that engines have, or are about to
	lacks  map[string]string // what was found not to work, and why
	once   sync.Once         // of Close
	err    error             // of Close
}

var _ interface {
	tier.Mover
	tier.Resident
	tier.Footprinter
	tier.InPlacer
	tier.FileBacker
	tier.Closer
} = (*Mover)(nil)

// State is what an engine does.
type State string

const (
	Stopped  State = "stopped"
	Starting State = "starting"
	Running  State = "running"
	Frozen   State = "frozen"
	Asleep   State = "asleep" // by its Sleeper
	Stopping State = "stopping"
)

// slot is one model. Mover.mu guards it, but for what its run owns.
type slot struct {
	name  string
	run   *run // what is done with it now; nil: nothing
	model tier.Model
	tier  tier.Tier
	state State
	child *child // nil: there is no process
	since time.Time
	last  time.Time // when its last move, or its engine, ended
	// engine and files are the run's while there is one, and else not changed.
	engine Engine
	files  []weightFile

	note     string // why swap is what it is
	failure  string // the last error of its engine
	learned  learned
	reported chan struct{} // closed when the call of Crashed that is under way has returned; nil: none is
}

// run is a move.
type run struct{ cancel context.CancelCauseFunc }

// New returns a Mover, after it has ended what processes that were killed have
// left behind (see Options.StateDir). The error unwraps to tier.ErrInvalid where
// the options are wrong.
func New(opts Options) (*Mover, error) { return newMover(newSystem(), opts) }

func newMover(sys *system, opts Options) (*Mover, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Mover{
		sys: sys, opts: opts, killLimit: killLimit,
		lane: make(chan struct{}, 1), givenUp: make(chan struct{}),
		runs: make(map[*run]struct{}), slots: make(map[string]*slot),
		ports: make(map[int]struct{}), lacks: make(map[string]string),
	}
	m.log, m.lines = slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
	for i, to := range []**slog.Logger{&m.log, &m.lines} {
		m.boxes[i] = outbox.New(outbox.Size, nil)
		if opts.Logger != nil {
			*to = m.boxes[i].Logger(opts.Logger.Handler())
		}
	}
	if opts.StateDir != "" {
		if err := m.sweep(); err != nil {
			m.closeLog()
			return nil, err
		}
	}
	m.cages = &cageFolder{sys: sys, parent: opts.Cgroup}
	m.guard = &guard{sys: sys, log: m.log, cages: m.cages.path, pids: make(map[int]struct{})}
	m.starter = newStarter()
	return m, nil
}

// InPlace implements tier.InPlacer: an engine at rest answers nobody.
func (m *Mover) InPlace(*tier.Model) bool { return false }

// FileBacked implements tier.FileBacker: swap needs no swap device. Weights that
// are paged out are clean pages of their file, and what else an engine at rest
// has stays where it is, and is told by Resident.
func (m *Mover) FileBacked() bool { return true }

// URL returns where the engine of a model that is in ram takes requests, as
// "http://127.0.0.1:port". Whoever asks holds a lease; without one the engine may
// be frozen or stopped at any time.
func (m *Mover) URL(model string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[model]
	if s == nil || s.child == nil || s.state != Running {
		return "", false
	}
	return s.child.url, true
}

// begin claims a model for a move. A call of Crashed for it that is under way comes
// first, so that the Manager is told of things in their order, unless that takes
// longer than callLimit.
func (m *Mover) begin(ctx context.Context, model *tier.Model) (context.Context, *slot, error) {
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	for late := false; ; {
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return nil, nil, tier.ErrClosed
		}
		s := m.slots[model.Name]
		if s == nil {
			s = &slot{name: model.Name, state: Stopped, since: time.Now()}
			m.slots[model.Name] = s
		}
		switch {
		case s.run != nil:
			m.mu.Unlock()
			return nil, nil, &tier.InUseError{Model: model.Name, Reason: "Model '" + model.Name + "' is moving already"}
		case s.reported == nil || late:
			ctx, cancel := context.WithCancelCause(ctx)
			if s.model.Path != model.Path || s.model.Size != model.Size || !maps.Equal(s.model.Labels, model.Labels) {
				s.learned = learned{} // another model by that name, or another engine
			}
			s.run, s.model = &run{cancel: cancel}, *model
			m.runs[s.run] = struct{}{}
			m.moves.Add(1)
			m.mu.Unlock()
			return ctx, s, nil
		}
		reported := s.reported
		m.mu.Unlock()
		select {
		case <-reported:
		case <-limit.C:
			late = true
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// end gives a model back after a move.
func (m *Mover) end(s *slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.runs, s.run)
	s.run.cancel(nil)
	s.run, s.last = nil, time.Now()
	if c := s.child; c != nil && c.isGone() { // too late for the move to see
		m.watchers.Go(func() { m.ended(c) })
	}
	if s.child == nil && s.tier == tier.Storage && s.learned.peak == 0 && s.failure == "" {
		delete(m.slots, s.name)
	}
	m.forgetOldest()
	m.moves.Done()
}

// remembered is of how many models at most it is kept what their engines took and
// how they failed, as models come and go; those above storage are always kept.
const remembered = 1024

// forgetOldest drops, beyond that, what is known of the model in storage of
// which nothing was heard for longest. m.mu is held.
func (m *Mover) forgetOldest() {
	if len(m.slots) <= remembered {
		return
	}
	var oldest *slot
	for _, s := range m.slots {
		if s.run == nil && s.child == nil && s.tier == tier.Storage && s.reported == nil && (oldest == nil || s.last.Before(oldest.last)) {
			oldest = s
		}
	}
	if oldest != nil {
		delete(m.slots, oldest.name)
	}
}

// is sets what a slot's engine does, and its process.
func (m *Mover) is(s *slot, state State, c *child) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.state, s.child, s.since = state, c, time.Now()
}

// lack notes that something does not work here: until it does, if it is tried
// again.
func (m *Mover) lack(what string, err error) {
	m.mu.Lock()
	_, known := m.lacks[what]
	m.lacks[what] = err.Error()
	m.mu.Unlock()
	if !known {
		m.log.Warn("engines do without", "what", what, "because", err)
	}
}

// lacksNoMore notes that it does.
func (m *Mover) lacksNoMore(what string) {
	m.mu.Lock()
	_, known := m.lacks[what]
	delete(m.lacks, what)
	m.mu.Unlock()
	if known {
		m.log.Info("engines no longer do without", "what", what)
	}
}

func (m *Mover) lacking(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.lacks[what]
	return known
}

// Close calls off what runs and stops all engines, at once and politely, and
// returns when all of them are gone; it is idempotent. An engine that cannot be
// killed makes the error, which unwraps to tier.ErrStuck.
func (m *Mover) Close() error {
	m.once.Do(func() { m.err = m.close() })
	return m.err
}

func (m *Mover) close() error {
	m.mu.Lock()
	m.closed = true
	for r := range m.runs {
		r.cancel(tier.ErrClosed)
	}
	m.mu.Unlock()
	m.moves.Wait()

	var (
		errs []error
		mu   sync.Mutex
		all  sync.WaitGroup
	)
	m.mu.Lock()
	for _, s := range m.slots {
		if c := s.child; c != nil {
			shutdown := s.shutdown()
			s.state = Stopping
			all.Go(func() {
				if err := m.stop(context.Background(), c, shutdown); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
	}
	m.mu.Unlock()
	all.Wait()
	close(m.givenUp)
	if len(errs) == 0 { // else they wait for what does not end
		m.watchers.Wait()
	}
	m.awaitReports()
	m.starter.close()
	m.guard.close()
	errs = append(errs, m.cages.remove())
	m.closeLog()
	return errors.Join(errs...)
}

// awaitReports waits for the calls of Crashed that are under way, all of them
// callLimit at most.
func (m *Mover) awaitReports() {
	m.mu.Lock()
	var reports []chan struct{}
	for _, s := range m.slots {
		if s.reported != nil {
			reports = append(reports, s.reported)
		}
	}
	m.mu.Unlock()
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	for _, reported := range reports {
		select {
		case <-reported:
		case <-limit.C:
			return
		}
	}
}

// closeLog waits for the records that are queued, callLimit at most.
func (m *Mover) closeLog() {
	began := time.Now()
	for _, box := range m.boxes {
		box.Close(max(callLimit-time.Since(began), 0))
	}
}

// newMark returns a word that nobody else has.
func newMark() string { return rand.Text() }
