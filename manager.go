package modeltier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/internal/digest"
	"github.com/modeltier/modeltier/internal/outbox"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// Manager keeps models in their tiers and answers requests for them. All its
// methods may be called from any number of goroutines at once.
//
// Inside, one goroutine, the loop, owns the state machine of internal/core.
// Requests for a model that is resident pass the model's gate and never meet the
// loop; all else is posted to it.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	library library
	jobs    *hotload.Jobs

	start    time.Time // the epoch of the access log
	stripes  int
	accesses *accessLog
	snap     atomic.Pointer[snapshot]
	leftOut  atomic.Pointer[[]hotload.Skipped]
	tickets  sync.Pool     // of *ticket
	issued   atomic.Uint32 // tickets
	count    counters
	events   *outbox.Box
	logs     *outbox.Box

	waiting        atomic.Int64 // requests that wait
	waitingReports atomic.Int64 // outcomes that wait for the loop

	movers atomic.Pointer[movers] // never changed once published
	adding sync.Mutex             // held while one is added

	// The other parts' calls, but for Select.
	probe, selector, placement *plugin
	learners                   []*learner

	// sums are of files that were read; files is what tells whether they are the same.
	sums  digest.Memory
	files *plugin

	// ctx ends when the Manager is closed; moves and jobs derive from it.
	ctx        context.Context
	cancel     context.CancelCauseFunc
	goroutines group // every goroutine but the loop, the saver's and the outboxes'
	loopDone   chan struct{}

	mail mailbox
	ctl  control // the loop's own
	save saver

	closing   atomic.Bool // no more is taken on
	closeOnce sync.Once
	closed    chan struct{} // closed when Close has done all it could
	closeErr  error
}

// entry is one model as the loop and the hot path share it.
type entry struct {
	gate *gate
	core *core.Entry
	name string
	// standing is what those who wait for the model wait for, or how far its load is;
	// nil: neither. publication is when it was last set, in the loop's count.
	standing    atomic.Pointer[standing]
	publication uint64
	// told: the loop has been told that leases ended and has not looked yet.
	told atomic.Bool
	// keepAlive is that of the last request that got a lease, in nanoseconds;
	// keepAliveTold: the loop has been told that it is another and has not looked yet.
	keepAlive     atomic.Int64
	keepAliveTold atomic.Bool
	// idle says when the model leaves by idleness; nil: it does not.
	idle atomic.Pointer[core.IdleTerm]
	// failure is the last load that failed, or crash; nil: there was none.
	failure atomic.Pointer[failure]
	// observing: it is being looked at. seenUses is how often it had been used
	// when it was last looked at. The loop's.
	observing bool
	seenUses  uint64
	warned    tier.Bytes // what it was last said to take beyond what was known
}

// failure is what went wrong with a model, and when.
type failure struct {
	at  time.Time
	err error
}

// snapshot is what the hot path reads. It is never changed once published.
type snapshot struct {
	view    tier.View
	entries []*entry // by the view's library index
	// limits are those in force; the view's are lower while models have yet to leave
	// for lower ones, as nothing more is admitted.
	limits tier.Limits
	// inUse is memory that models have, which the machine counts as taken, and swap, which
	// could be had if they left; 0 where that cannot be told.
	inUse tier.Footprint
	// reserved are the outsiders that hold room, outside the same as holders; nil: none
	// does.
	reserved []ReservationStatus
	outside  []tier.Holder
}

// emptied returns the snapshot as it would be if models had left.
func (s *snapshot) emptied() *snapshot {
	e := *s
	mem := &e.view.Memory
	mem.Available = min(mem.Available.Plus(s.inUse[tier.RAM]), max(mem.Total, mem.Available))
	e.view.FreeSwap = e.view.FreeSwap.Plus(s.inUse[tier.Swap])
	return &e
}

// New returns a running Manager. It reads the memory once, takes up what a
// StateDir remembers, and begins in the background to bring models to their home
// tiers as far as there is room. An error names every fault of cfg at once; the
// parts that the caller made are then his to close, whether or not New has closed
// them as well. The caller ends the Manager with Shutdown or Close.
func New(cfg Config) (*Manager, error) {
	if err := cfg.fill(); err != nil {
		return nil, fmt.Errorf("modeltier: %w", err)
	}
	m := &Manager{
		jobs: hotload.NewJobs(0), start: time.Now(), stripes: stripes(),
		loopDone: make(chan struct{}), closed: make(chan struct{}),
	}
	m.logs = outbox.New(outbox.Size, nil)
	m.log = slog.New(slog.DiscardHandler)
	if cfg.Logger != nil {
		m.log = m.logs.Logger(cfg.Logger.Handler())
	}
	m.events = outbox.New(outbox.Size, func(value any, stack []byte) {
		m.log.Error("an event function failed", "err", (&tier.PanicError{Part: "event", Value: value, Stack: stack}).Error())
	})
	m.accesses = newAccessLog(m.start, m.stripes)
	m.tickets.New = func() any { return &ticket{cell: uint8(m.issued.Add(1)) & uint8(m.stripes-1)} }
	m.mail.wake = make(chan struct{}, 1)
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	m.movers.Store(&movers{})
	m.probe = &plugin{m: m, name: "memory probe", key: "probe"}
	m.selector = &plugin{m: m, name: "selector", key: "selector"}
	m.placement = &plugin{m: m, name: "placement", key: "placement"}
	m.files = &plugin{m: m, name: "file system", key: "files"}

	kept, err := m.openState(&cfg)
	if err != nil {
		return nil, err
	}
	err = m.fillParts(&cfg)
	m.takeParts(&cfg) // with what was made until then, to be closed
	if err != nil {
		m.cancel(tier.ErrClosed)
		return nil, errors.Join(err, m.awaitGoroutines(), m.closeParts(), m.save.close())
	}
	for _, p := range []*plugin{m.placement, m.selector} {
		l := &learner{plugin: p}
		l.learner, _ = p.part.(tier.Learner)
		l.reporter, _ = p.part.(tier.Reporter)
		if l.learner != nil || l.reporter != nil {
			m.learners = append(m.learners, l)
		}
	}
	if cfg.Events.JobEnded != nil {
		m.jobs.OnEnd(m.jobEnded)
	}
	if err := m.ctl.init(m, kept); err != nil {
		m.cancel(tier.ErrClosed)
		return nil, errors.Join(fmt.Errorf("modeltier: %w", err), m.awaitGoroutines(), m.closeParts(), m.save.close())
	}
	m.save.run(m)
	go m.loop()
	if m.library.watcher != nil {
		m.tellLeftOut()
		m.goroutines.Go(m.watchFolder)
	}
	return m, nil
}

// fillParts makes the default parts that cfg leaves out.
func (m *Manager) fillParts(cfg *Config) error {
	if cfg.Mover == nil {
		mover, err := mapped.New(mapped.Options{})
		if err != nil {
			return fmt.Errorf("modeltier: the default mover: %w", err)
		}
		cfg.Mover = mover
	}
	if cfg.Probe == nil {
		cfg.Probe = safety.NewProbe()
	} else if over, ok := cfg.Probe.(tier.Overlay); ok {
		bytes, taken := safety.NewProbe(), false
		err := m.probe.wait(m.ctx, adviceLimit, func(context.Context) error { taken = over.Over(bytes); return nil })
		if err != nil {
			return fmt.Errorf("modeltier: the probe: %w", err)
		}
		if !taken {
			bytes.Close()
		}
	}
	if cfg.Selector == nil {
		cfg.Selector = selector.New()
	}
	if cfg.Placement == nil {
		cfg.Placement = optimizer.New()
	}
	return nil
}

// takeParts makes the configuration the Manager's.
func (m *Manager) takeParts(cfg *Config) {
	m.cfg = *cfg
	m.probe.part, m.selector.part, m.placement.part = cfg.Probe, cfg.Selector, cfg.Placement
	all := movers{}
	if cfg.Mover != nil {
		all = all.with(m, "", cfg.Mover)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Movers)) {
		all = all.with(m, name, cfg.Movers[name])
	}
	m.movers.Store(&all)
}

// parts are all parts, movers first.
func (m *Manager) parts() (all []*plugin) {
	m.adding.Lock() // after the intake has stopped, no more are added
	defer m.adding.Unlock()
	for _, mv := range m.movers.Load().each() {
		all = append(all, mv.plugin)
	}
	return append(all, m.probe, m.selector, m.placement, m.files)
}

// Shutdown ends the Manager in order: it takes no more requests, refuses those
// that wait with ErrClosed, lets the leases that are held end, calls off the
// moves, keeps the state and lets go of everything. When ctx ends before the
// leases have, it returns context.Cause(ctx) and the Manager goes on waiting for
// them, taking nothing on; Close ends it at once.
func (m *Manager) Shutdown(ctx context.Context) error {
	m.stopIntake()
	idle := make(chan struct{})
	if !m.post(func(time.Time) { m.ctl.whenIdle(idle) }) {
		close(idle)
	}
	select {
	case <-idle:
	case <-m.closed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return m.Close()
}

// stopIntake ends what lets new work in.
func (m *Manager) stopIntake() {
	if m.closing.Swap(true) {
		return
	}
	m.post(func(time.Time) { m.ctl.stopIntake() })
}

// Close ends the Manager at once: requests that wait get ErrClosed, moves are
// called off, weights are unmapped though leases may be held (Lease.Done of those is
// closed first), and the state is kept. Slices of mapped weights are unmapped memory from
// then on: end who reads them before, or use Shutdown, or read by mapped.Weights.ReadAt. It returns when no goroutine, mapping, process or file handle of the
// Manager is left, or an error that unwraps to ErrStuck when a part did not
// return within StuckAfter. Log records and events that are queued are delivered
// for one second at most. It is idempotent; later calls wait for the first.
func (m *Manager) Close() error {
	m.closeOnce.Do(func() {
		m.stopIntake()
		m.cancel(tier.ErrClosed)
		m.kick()
		<-m.loopDone
		m.ctl.loseAll()
		m.rememberLast()
		for _, p := range m.parts() {
			p.close()
		}
		stuck := m.awaitGoroutines()
		if stuck != nil {
			m.ctl.endJobs(stuck)
		}
		m.closeErr = errors.Join(stuck, m.closeParts(), m.save.close())
		m.events.Close(deliverLimit)
		m.logs.Close(deliverLimit)
		close(m.closed)
	})
	<-m.closed
	return m.closeErr
}

// deliverLimit is how long Close waits for log records and for events that are
// queued.
const deliverLimit = time.Second

// awaitGoroutines waits for the goroutines of moves and calls, StuckAfter at
// most.
func (m *Manager) awaitGoroutines() error {
	limit := time.NewTimer(m.cfg.StuckAfter)
	defer limit.Stop()
	select {
	case <-m.goroutines.Idle():
		return nil
	case <-limit.C:
		return &tier.StuckError{What: "A part of the Manager", After: m.cfg.StuckAfter}
	}
}

// closeParts closes the parts that hold resources, all at once, and waits no longer than
// StuckAfter.
func (m *Manager) closeParts() error {
	all := m.parts()
	errs := make([]error, len(all))
	var closing sync.WaitGroup
	for i, p := range all {
		if c, ok := p.part.(tier.Closer); ok {
			closing.Go(func() {
				_, errs[i] = m.callFor(context.Background(), p.name+"'s Close", m.cfg.StuckAfter/2, func(context.Context) error { return c.Close() }, func() {})
			})
		}
	}
	closing.Wait()
	return errors.Join(errs...)
}
