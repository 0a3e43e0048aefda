package tiertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Mover is a fake tier.Mover that only lets time pass. In a testing/synctest bubble
// the time is virtual. The zero Mover takes the recorded 1.5 s for a GB from storage,
// 0.5 s for one from swap, and none to free bytes. It checks that each move is
// consistent with those before, and is safe for concurrent use.
type Mover struct {
	// Time, if not nil, replaces the time that a move takes.
	Time func(mv tier.Move) time.Duration
	// Fault, if not nil, is called when a move starts. The move returns its error at
	// half its time; without an error it succeeds. Fault may panic, call
	// runtime.Goexit, or block.
	Fault func(mv tier.Move) error
	// OnlyRAM: no model can be served from swap. Parts: models can be divided.
	// Cold: divided ones can have a part in storage while they are in swap. Files: swap
	// is backed by the models' own files.
	OnlyRAM, Parts, Cold, Files bool
	// Deaf: moves ignore that their context is cancelled.
	Deaf bool

	mu      sync.Mutex // guards the rest
	models  map[string]*place
	moves   []tier.Move
	faults  []string
	closing bool
}

// place is where a model is.
type place struct {
	tier   tier.Tier
	kept   tier.Bytes
	moving bool
}

// place returns that of the model. f.mu must be held.
func (f *Mover) place(model string) *place {
	if f.models == nil {
		f.models = make(map[string]*place)
	}
	if f.models[model] == nil {
		f.models[model] = &place{}
	}
	return f.models[model]
}

// Move implements tier.Mover.
func (f *Mover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if err := f.begin(mv); err != nil {
		return err
	}
	arrived := false // stays false if a Fault does not return
	defer func() { f.end(mv, arrived) }()
	err := f.run(ctx, mv, progress)
	arrived = err == nil
	return err
}

func (f *Mover) begin(mv tier.Move) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, p := mv.Model.Name, f.place(mv.Model.Name)
	switch {
	case f.closing:
		f.fault("%s is moved after Close", name)
	case p.moving:
		f.fault("%s is moved twice at once", name)
		return fmt.Errorf("%s is moving", name)
	case p.tier != mv.From:
		f.fault("%s is moved from %v and is in %v", name, mv.From, p.tier)
	}
	p.moving = true
	f.moves = append(f.moves, mv)
	return nil
}

func (f *Mover) run(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	var fail error
	if f.Fault != nil {
		fail = f.Fault(mv)
	}
	took := f.time(mv)
	done := ctx.Done()
	if f.Deaf {
		done = nil
	}
	for _, moved := range []tier.Bytes{mv.Model.Size / 2, mv.Model.Size} {
		if pass(took/2, done) {
			return context.Cause(ctx)
		}
		if fail != nil {
			return fail
		}
		if progress != nil {
			progress(moved)
		}
	}
	return nil
}

// pass lets d pass, and reports whether done came first. It takes no timer for no
// time: several that are due at once in a bubble of virtual time crash the race
// detector of Go 1.26 (they share one of its contexts).
func pass(d time.Duration, done <-chan struct{}) (called bool) {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return false
		case <-done:
			return true
		}
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (f *Mover) time(mv tier.Move) time.Duration {
	if f.Time != nil {
		return f.Time(mv)
	}
	kept := f.kept(mv.Model.Name)
	perGB := map[tier.Tier]float64{tier.Storage: 1.5, tier.Swap: 0.5}[mv.From]
	missing := mv.Model.Size - kept
	if mv.To == tier.Storage || mv.To < mv.From {
		missing = 0
	}
	return time.Duration(min(perGB*missing.GB()*float64(time.Second), 1<<62))
}

// kept returns what is kept of a model.
func (f *Mover) kept(model string) tier.Bytes {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place(model).kept
}

func (f *Mover) end(mv tier.Move, arrived bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.place(mv.Model.Name)
	p.moving = false
	if arrived {
		p.tier, p.kept = mv.To, 0
		if mv.To == tier.Swap {
			p.kept = mv.Keep
		}
	}
}

func (f *Mover) fault(format string, args ...any) {
	f.faults = append(f.faults, fmt.Sprintf(format, args...))
}

// InPlace implements tier.InPlacer.
func (f *Mover) InPlace(*tier.Model) bool { return !f.OnlyRAM }

// FileBacked implements tier.FileBacker.
func (f *Mover) FileBacked() bool { return f.Files }

// Divisible implements tier.Divider.
func (f *Mover) Divisible(*tier.Model) bool { return f.Parts }

// Leaves implements tier.Leaver.
func (f *Mover) Leaves(*tier.Model) bool { return f.Parts && f.Cold }

// Moves returns the moves that were begun, in order.
func (f *Mover) Moves() []tier.Move {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.moves)
}

// Faults returns how its caller broke the contract of tier.Mover, in words.
func (f *Mover) Faults() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.faults)
}

// At returns the tier that the model is in.
func (f *Mover) At(model string) tier.Tier {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place(model).tier
}

// Close implements tier.Closer.
func (f *Mover) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	return nil
}

// Scale is a [Mover] that counts the memory of its models: each takes its Size and Runtime
// from the start of a load to the end of an unload, and in swap what is kept. Its fields
// are set before use.
type Scale struct {
	*Mover
	// Weigh, if not nil, is what a model takes in ram, whatever it declares.
	Weigh func(m tier.Model) tier.Bytes
	// Lingers, if not nil, is what stays in memory after a move down, beside what is kept.
	Lingers func(mv tier.Move) tier.Bytes
	// Probe, if not nil, is told each change at once: what models take is not available.
	Probe *Probe

	mu        sync.Mutex // guards the rest
	now, peak tier.Bytes
	taken     map[string]tier.Bytes
}

// Move implements tier.Mover.
func (s *Scale) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	m := mv.Model
	all, was := m.Size.Plus(m.Runtime), s.Taken(m.Name)
	if s.Weigh != nil {
		all = s.Weigh(m)
	}
	if mv.To == tier.RAM {
		s.Put(m.Name, max(all, was))
	}
	arrived := false // stays false if a Fault does not return
	defer func() {
		switch {
		case !arrived:
			s.Put(m.Name, was)
		case mv.To == tier.RAM:
			s.Put(m.Name, all)
		case s.Lingers != nil:
			s.Put(m.Name, mv.Keep+s.Lingers(mv))
		default:
			s.Put(m.Name, mv.Keep)
		}
	}()
	err := s.Mover.Move(ctx, mv, progress)
	arrived = err == nil
	return err
}

// Put sets the memory that a model takes.
func (s *Scale) Put(model string, b tier.Bytes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		s.taken = make(map[string]tier.Bytes)
	}
	more := b - s.taken[model]
	s.taken[model] = b
	s.now += more
	s.peak = max(s.peak, s.now)
	if s.Probe != nil {
		s.Probe.change(func(m *tier.Memory) { m.Available -= more })
	}
}

// Taken returns the memory that a model takes.
func (s *Scale) Taken(model string) tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[model]
}

// Peak returns the most that models ever took together.
func (s *Scale) Peak() tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// Sticky is a [Mover] that reports what is present, and whose freed bytes stay
// present for a while after the move that freed them.
type Sticky struct {
	*Mover
	// Linger returns for how long the bytes that a move frees stay present; nil: not at
	// all.
	Linger func(mv tier.Move) time.Duration
	// Lie, if not nil, turns what is present into what Resident reports.
	Lie func(model string, present tier.Bytes) (tier.Bytes, error)

	mu    sync.Mutex // guards the rest
	there map[string]presence
}

// presence is the bytes that a model's tier explains, and others until an instant.
type presence struct {
	explained, left tier.Bytes
	until           time.Time
}

func (s *Sticky) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	before := s.Present(mv.Model.Name)
	if err := s.Mover.Move(ctx, mv, progress); err != nil {
		return err
	}
	now := presence{explained: map[tier.Tier]tier.Bytes{tier.RAM: mv.Model.Size, tier.Swap: mv.Keep}[mv.To]}
	if before > now.explained && s.Linger != nil {
		now.left, now.until = before-now.explained, time.Now().Add(s.Linger(mv))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.there == nil {
		s.there = make(map[string]presence)
	}
	s.there[mv.Model.Name] = now
	return nil
}

// Present returns the bytes of the model that are really present.
func (s *Sticky) Present(model string) tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.there[model]
	if time.Now().Before(p.until) {
		return p.explained + p.left
	}
	return p.explained
}

// Resident implements tier.Resident.
func (s *Sticky) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	present = s.Present(model)
	if s.Lie != nil {
		present, err = s.Lie(model, present)
	}
	return present, 0, err
}

// Probe is a fake tier.MemoryProbe that reports what it was last told. It is
// safe for concurrent use.
type Probe struct {
	mu     sync.Mutex // guards the rest
	memory tier.Memory
	err    error
	reads  int
}

// NewProbe returns a Probe that reports m.
func NewProbe(m tier.Memory) *Probe { return &Probe{memory: m} }

// Set makes the Probe report m, or err if that is not nil.
func (p *Probe) Set(m tier.Memory, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memory, p.err = m, err
}

// Memory implements tier.MemoryProbe.
func (p *Probe) Memory(ctx context.Context) (tier.Memory, error) {
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	return p.memory, p.err
}

// change changes what the Probe reports.
func (p *Probe) change(fn func(m *tier.Memory)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.memory)
}

// Reads returns how often Memory was called.
func (p *Probe) Reads() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reads
}
