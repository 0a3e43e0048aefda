package process

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/outbox"
	"github.com/modeltier/modeltier/tier"
)

// Mover is a tier.Mover over child processes. Its methods may be called from any
// number of goroutines. A model is known by its name from its first Move on.
type Mover struct {
	sys       *system
	opts      Options
	logs      *logs
	log       *slog.Logger
	lacks     *lacks
	reading   chan struct{} // a token: one model at a time is read into the page cache
	orphans   []string      // what New ended
	measures  measures
	archive   archive
	killLimit time.Duration
	foreign   foreignLimits
	refill    func(ctx context.Context, files []weightFile, done func(int64)) error // read, unless a test replaces it

	moves   sync.WaitGroup // moves under way
	engines sync.WaitGroup // engines that were started and not yet reaped
	reports sync.WaitGroup // calls of Options.Crashed
	givenUp chan struct{}  // closed when Close waits no longer for engines

	mu     sync.Mutex // guards the rest and the slots; no I/O and no foreign code under it
	closed bool
	slots  map[string]*slot
	ports  map[int]struct{} // of engines that run or are about to

	close func() error // idempotent
}

var _ interface {
	tier.Mover
	tier.Resident
	tier.Footprinter
	tier.Cacher
	tier.Forecaster
	tier.InPlacer
	tier.FileBacker
	tier.Instancer
	tier.PartStatuser
	tier.Closer
} = (*Mover)(nil)

// killLimit is how long a killed process may take to disappear before it counts as
// stuck: giving a large memory back takes seconds.
const killLimit = 10 * time.Second

// New returns a Mover, after it has ended the orphans of killed processes (see
// Options.StateDir). The error unwraps to tier.ErrInvalid if the options are invalid.
func New(opts Options) (*Mover, error) { return newMover(newSystem(), opts) }

func newMover(sys *system, opts Options) (*Mover, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	logs := newLogs(opts.Logger)
	m := &Mover{
		sys: sys, opts: opts, logs: logs, log: logs.records, killLimit: killLimit,
		foreign: foreignLimits{commandLimit, opts.StopTimeout, appearLimit},
		lacks:   &lacks{log: logs.records, why: make(map[string]error)},
		reading: make(chan struct{}, 1), givenUp: make(chan struct{}),
		slots: make(map[string]*slot), ports: make(map[int]struct{}),
	}
	if opts.StateDir != "" {
		if m.orphans, err = endOrphans(sys, opts.StateDir, m.log); err != nil {
			logs.close()
			return nil, err
		}
		m.measures.file = filepath.Join(opts.StateDir, measuresFile)
	}
	if err := m.measures.load(); err != nil {
		m.log.Warn("what engines took is not known from before", "err", err)
	}
	m.archive = archive{bounds: opts.Conversations, writes: func(mark string) bool { return sys.recorded == nil || sys.recorded(opts.StateDir, mark) }}
	if opts.StateDir != "" {
		m.archive.dir = filepath.Join(opts.StateDir, conversationsDir)
	}
	m.archive.sweep(m.log)
	m.refill, m.close = m.read, sync.OnceValue(m.shutDown)
	return m, nil
}

// InPlace implements tier.InPlacer: an engine in standby answers no request.
func (m *Mover) InPlace(*tier.Model) bool { return false }

// FileBacked implements tier.FileBacker: swap needs no swap device. Weights that are
// paged out are clean pages of their file; what else an engine in standby has stays
// where it is, and is counted by Resident.
func (m *Mover) FileBacked() bool { return true }

// URL returns where the engine of a model in ram takes requests, as
// "http://127.0.0.1:port". The caller holds a lease; without one the engine may be
// frozen or stopped at any time.
func (m *Mover) URL(model string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.serving(model); c != nil {
		return c.url, true
	}
	return "", false
}

// serving returns the engine that a request is about to be sent to, or nil if that does
// not run, or has just exited: what is left of it may take a while to end, and until then
// it counts as running. m.mu is held.
func (m *Mover) serving(model string) *child {
	s := m.slots[model]
	if s == nil || s.state != Running || s.child.hasExited() {
		return nil
	}
	s.talk.used = true
	return s.child
}

// Move implements tier.Mover. What it does follows from the target tier and from what
// the engine does now:
//
//   - to ram: the engine is started; or its weights are read back, and it is thawed or
//     woken. Its health page has to answer before Move returns.
//   - to swap: a running engine goes into standby, see Standby. One that does not run
//     is started by its first promotion, as the memory of a start is not reserved for
//     a move to swap.
//   - to storage: the engine is stopped. A stop that has begun is completed; when ctx
//     ends, the engine is killed.
//
// Models are not divided: Move.Keep is ignored. Errors are *EngineError,
// *tier.InvalidError, *tier.InUseError or *tier.StuckError, in a *tier.MoveError if
// the engine no longer exists.
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	_, badFrom := mv.From.MarshalText()
	_, badTo := mv.To.MarshalText()
	if err := errors.Join(tier.CheckName("name", mv.Model.Name), badFrom, badTo); err != nil {
		return err
	}
	ctx, s, err := m.claim(ctx, &mv.Model)
	if err != nil {
		return err
	}
	defer m.release(s)
	had, returned := s.child != nil, false
	defer func() {
		if !returned {
			m.breakOff(s, had)
		}
	}()
	err = m.settle(s, &mv, had, m.carryOut(ctx, s, &mv, &report{fn: progress, size: mv.Model.Size}))
	returned = true
	return err
}

func (m *Mover) carryOut(ctx context.Context, s *slot, mv *tier.Move, rep *report) error {
	if s.state == Stopping { // an earlier stop failed
		if err := m.killFor(s); err != nil {
			return err
		}
	}
	if s.state == Running && mv.To < tier.RAM {
		if err := m.measures.served(s.learned); err != nil {
			m.notKept(s, err)
		}
	}
	switch mv.To {
	case tier.RAM:
		return m.toRAM(ctx, s, rep)
	case tier.Swap:
		return m.toSwap(ctx, s, mv.From)
	}
	m.note(s, "", "")
	if s.child == nil {
		return nil
	}
	return m.halt(ctx, s)
}

func (m *Mover) toRAM(ctx context.Context, s *slot, rep *report) error {
	switch s.state {
	case Running:
		return m.ready(ctx, s, thawLimit, rep, func(context.Context) error { return nil })
	case Frozen:
		return m.thaw(ctx, s, rep)
	case Asleep:
		return m.wake(ctx, s, rep)
	}
	return m.start(ctx, s, rep)
}

func (m *Mover) toSwap(ctx context.Context, s *slot, from tier.Tier) error {
	switch s.state {
	case Running:
		return m.standby(ctx, s)
	case Frozen, Asleep:
		return nil
	}
	if from == tier.RAM { // it crashed, and the Manager does not know yet
		why := cmp.Or(s.failure, "the engine of '"+s.name+"' does not run")
		return &tier.MoveError{Model: s.name, From: from, To: tier.Swap, Lost: true, Err: errors.New(why)}
	}
	m.note(s, WayStopped, "not started yet: its first promotion does that")
	return m.prepare(ctx, s)
}

// settle records how a move ended. had tells if there was an engine before it.
func (m *Mover) settle(s *slot, mv *tier.Move, had bool, err error) error {
	if c := s.child; c != nil && c.hasExited() {
		if e := m.killFor(s); e != nil && !errors.Is(err, tier.ErrStuck) {
			err = errors.Join(err, e)
		} else if err == nil && mv.To != tier.Storage {
			err = c.fail(Crashed, c.began, c.exitError())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		s.tier, s.failure = mv.To, ""
		return nil
	}
	if _, ok := errors.AsType[*EngineError](err); ok {
		s.failure = err.Error()
	}
	_, stuck := errors.AsType[*tier.StuckError](err)
	if stuck || had && s.child == nil {
		s.tier = tier.Storage
		return &tier.MoveError{Model: s.name, From: mv.From, To: mv.To, Lost: true, Err: err}
	}
	return err
}

// breakOff follows a move that did not return, because progress panicked or ended
// the goroutine. An engine that the move has started, or that does not answer yet, is
// killed: the Manager does not know of it.
func (m *Mover) breakOff(s *slot, had bool) {
	c := s.child
	if c == nil || had && s.state != Starting {
		return
	}
	err := m.abandon(s, nil)
	m.mu.Lock()
	s.tier = tier.Storage
	m.mu.Unlock()
	m.log.Error("an engine was killed, as its move was broken off", "model", s.name, "pid", c.pid, "err", err)
}

// Close cancels the moves under way, stops all engines at the same time, as a move to
// storage does, conversations saved, and returns when none of them is left: that may take
// Options.Conversations.Timeout and Options.StopTimeout together, and if a move was saving,
// twice that. A Manager waits for as long as its Config.StuckAfter. It is idempotent. An
// engine that cannot be killed makes the error, which unwraps to tier.ErrStuck.
func (m *Mover) Close() error { return m.close() }

func (m *Mover) shutDown() error {
	m.mu.Lock()
	m.closed = true
	for _, s := range m.slots {
		if s.cancel != nil {
			s.cancel(tier.ErrClosed)
		}
	}
	m.mu.Unlock()
	m.moves.Wait()

	var all sync.WaitGroup
	m.mu.Lock()
	errs := make([]error, len(m.slots))
	i := 0
	for _, s := range m.slots {
		if c := s.child; c != nil {
			shutdown, was, err := s.shutdown(), s.state, &errs[i]
			s.transition(Stopping, c)
			all.Go(func() {
				if *err = m.saveAndStop(context.Background(), s, c, was, shutdown); *err == nil {
					m.sweep(s)
				}
			})
			i++
		}
	}
	m.mu.Unlock()
	all.Wait()
	close(m.givenUp)
	err := errors.Join(errs...)
	if err == nil { // else one of them cannot be reaped
		m.engines.Wait()
	}
	now, cancel := context.WithCancel(context.Background())
	cancel() // so that the calls of Crashed have callLimit from now on
	guarded(now, "Options.Crashed", func() error { m.reports.Wait(); return nil })
	m.logs.close()
	return err
}

// logs delivers to the user's logger. Lines of engines have a queue of their own, so
// that a flood of them displaces no record.
type logs struct {
	records, lines *slog.Logger
	boxes          [2]*outbox.Box
}

func newLogs(to *slog.Logger) *logs {
	l := &logs{records: slog.New(slog.DiscardHandler), lines: slog.New(slog.DiscardHandler)}
	for i, logger := range []**slog.Logger{&l.records, &l.lines} {
		l.boxes[i] = outbox.New(outbox.Size, nil)
		if to != nil {
			*logger = l.boxes[i].Logger(to.Handler())
		}
	}
	return l
}

// dropped returns how many records and lines were not delivered.
func (l *logs) dropped() (n int64) {
	for _, box := range l.boxes {
		n += box.Dropped()
	}
	return n
}

// close waits for what is queued, callLimit at most.
func (l *logs) close() {
	began := time.Now()
	for _, box := range l.boxes {
		box.Close(max(callLimit-time.Since(began), 0))
	}
}
