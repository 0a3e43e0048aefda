package tiertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Machine is a fake machine: memory of which models and other programs take their parts,
// disks with a speed, and engines whose faults are scripted. It is a tier.Mover and a
// tier.MemoryProbe at once, to be given to one Manager as both. Only time passes: in a
// testing/synctest bubble none does really. A model takes its Size and Runtime from the
// start of its load to the end of its unload. It is safe for concurrent use; Mover's
// fields, Takes and Crashed are set before use.
type Machine struct {
	// Mover says what kind of engines they are, and knows the moves that were made. A load
	// takes the time of its disk, unless Mover.Time is another's. Its Fault is the Machine's.
	*Mover
	// Takes, if not nil, is what a model takes in ram, whatever it declares.
	Takes func(m tier.Model) tier.Bytes

	mu      sync.Mutex // guards the rest; nothing waits under it
	memory  tier.Memory
	err     error
	disks   []*disk
	scripts map[string][]fault
	crashes map[string]fault      // of loads that are under way
	residue map[string]tier.Bytes // to stay after an unload
	taken   map[string]tier.Bytes
	weights map[string]tier.Bytes // of what is taken
	most    tier.Bytes
	crashed func(model string, cause error)
	closed  chan struct{}
}

// disk is where models are whose Path lies below folder. It reads one at a time.
type disk struct {
	folder string
	speed  tier.Bytes // a second
	busy   chan struct{}
}

// fault is what goes wrong with one load.
type fault struct {
	run   func() error  // as Mover.Fault
	after time.Duration // the engine crashes that long after the load
	cause error         // why; nil: it does not
}

// defaultSpeed is that of the disk of models that no other holds, in a second: the
// recorded 1.5 s for a GB.
const defaultSpeed = tier.GiB * 2 / 3

// NewMachine returns a machine with that much memory, all of it free, and one disk. Its
// engines are programs: a model is served from ram only, and moves as a whole.
func NewMachine(memory tier.Bytes) *Machine {
	m := &Machine{
		Mover: &Mover{OnlyRAM: true}, memory: tier.Memory{Total: memory, Available: memory},
		scripts: make(map[string][]fault), crashes: make(map[string]fault), residue: make(map[string]tier.Bytes),
		taken: make(map[string]tier.Bytes), weights: make(map[string]tier.Bytes), closed: make(chan struct{}),
	}
	m.Mover.Time, m.Mover.Fault = m.time, m.fail
	m.Disk("", defaultSpeed)
	return m
}

// Disk adds a disk that reads that many bytes a second, one model after the other. It has
// the models whose Path begins with folder; of several disks the one with the longest, and
// then the one that was added last.
func (m *Machine) Disk(folder string, perSecond tier.Bytes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks = slices.Insert(m.disks, 0, &disk{folder, max(perSecond, 1), make(chan struct{}, 1)})
	slices.SortStableFunc(m.disks, func(a, b *disk) int { return len(b.folder) - len(a.folder) })
}

func (m *Machine) disk(path string) *disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.disks, func(d *disk) bool { return strings.HasPrefix(path, d.folder) })
	return m.disks[i] // that of NewMachine has all
}

// Others sets what other programs take of the memory. A Manager knows of it when it has
// read the memory again, within a second.
func (m *Machine) Others(take tier.Bytes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memory.Available = m.memory.Total - take
}

// Press sets the memory pressure, of which a Manager knows as of Others.
func (m *Machine) Press(level tier.PressureLevel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memory.Pressure.Level = level
}

// Blind makes each look at the memory end with err; nil: no more.
func (m *Machine) Blind(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// Memory implements tier.MemoryProbe.
func (m *Machine) Memory(ctx context.Context) (tier.Memory, error) {
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return tier.Memory{}, m.err
	}
	seen := m.memory
	for _, b := range m.taken {
		seen.Available -= b
	}
	seen.Available = max(seen.Available, 0)
	return seen, nil
}

// Peak returns the most that models ever had together.
func (m *Machine) Peak() tier.Bytes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

// ErrScripted is what a load fails with that Fails was not told an error for.
var ErrScripted = errors.New("the load fails, as the script says")

// The faults of a model come one by one, in the order of these calls, each at a load of
// its own.

// Fails makes the next n loads of the model fail half-way with err; nil: ErrScripted.
func (m *Machine) Fails(model string, n int, err error) {
	if err == nil {
		err = ErrScripted
	}
	for range n {
		m.script(model, fault{run: func() error { return err }})
	}
}

// Panics makes the next load of the model panic.
func (m *Machine) Panics(model string) {
	m.script(model, fault{run: func() error { panic("the mover of '" + model + "' panics, as the script says") }})
}

// Hangs makes the next load of the model hang, deaf to its context, until release is
// called or the Machine is closed; it then fails.
func (m *Machine) Hangs(model string) (release func()) {
	let := make(chan struct{})
	m.script(model, fault{run: func() error {
		select {
		case <-let:
		case <-m.closed:
		}
		return ErrScripted
	}})
	return sync.OnceFunc(func() { close(let) })
}

// Crashes makes the model's engine crash that long after its next load; see OnCrash.
func (m *Machine) Crashes(model string, after time.Duration, cause error) {
	if cause == nil {
		cause = errors.New("the engine crashes, as the script says")
	}
	m.script(model, fault{run: func() error { return nil }, after: after, cause: cause})
}

// OnCrash has crashed told of each crash: Manager.ReportCrash, as a rule.
func (m *Machine) OnCrash(crashed func(model string, cause error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = crashed
}

// Residue makes that many bytes stay in memory after the model's next unload, until free is
// called.
func (m *Machine) Residue(model string, bytes tier.Bytes) (free func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.residue[model] = bytes
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.residue, model)
		if m.Mover.At(model) != tier.RAM {
			m.put(model, 0, 0)
		}
	})
}

func (m *Machine) script(model string, f fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scripts[model] = append(m.scripts[model], f)
}

// fail is the Mover's Fault.
func (m *Machine) fail(mv tier.Move) error {
	if mv.To <= mv.From {
		return nil
	}
	m.mu.Lock()
	left := m.scripts[mv.Model.Name]
	if len(left) == 0 {
		m.mu.Unlock()
		return nil
	}
	m.scripts[mv.Model.Name] = left[1:]
	if left[0].cause != nil {
		m.crashes[mv.Model.Name] = left[0]
	}
	m.mu.Unlock()
	return left[0].run()
}

// time is the Mover's Time.
func (m *Machine) time(mv tier.Move) time.Duration {
	if mv.To <= mv.From {
		return 0
	}
	m.mu.Lock()
	missing := max(mv.Model.Size-m.weights[mv.Model.Name], 0)
	m.mu.Unlock()
	took := float64(missing) / float64(m.disk(mv.Model.Path).speed) * float64(time.Second)
	return time.Duration(min(took, 1<<62)).Round(time.Microsecond)
}

// Move implements tier.Mover.
func (m *Machine) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if ctx.Err() != nil && !m.Deaf {
		return context.Cause(ctx)
	}
	if mv.To > mv.From {
		d := m.disk(mv.Model.Path)
		select {
		case d.busy <- struct{}{}:
			defer func() { <-d.busy }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	name := mv.Model.Name
	all := mv.Model.Size.Plus(mv.Model.Runtime)
	if m.Takes != nil {
		all = m.Takes(mv.Model)
	}
	m.mu.Lock()
	before, had := m.taken[name], m.weights[name]
	if mv.To == tier.RAM {
		m.put(name, max(all, before), had)
	}
	m.mu.Unlock()
	arrived := false // stays false if a script's fault does not return
	defer func() { m.end(mv, arrived, before, had, all) }()
	if err := m.Mover.Move(ctx, mv, progress); err != nil {
		return err
	}
	arrived = true
	return nil
}

// end sets what a model takes after a move.
func (m *Machine) end(mv tier.Move, arrived bool, before, had, all tier.Bytes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := mv.Model.Name
	crash := m.crashes[name]
	delete(m.crashes, name)
	switch {
	case !arrived:
		m.put(name, before, had)
	case mv.To == tier.RAM:
		m.put(name, all, min(all, mv.Model.Size))
		if crash.cause != nil {
			time.AfterFunc(crash.after, func() { m.crash(name, crash.cause) })
		}
	case mv.To == tier.Swap:
		m.put(name, mv.Keep, mv.Keep)
	default:
		m.put(name, m.residue[name], m.residue[name])
	}
}

// crash ends the engine of a model that is in ram.
func (m *Machine) crash(model string, cause error) {
	m.mu.Lock()
	there := m.taken[model] > 0 && m.Mover.At(model) == tier.RAM
	if there {
		m.put(model, 0, 0)
	}
	crashed := m.crashed
	m.mu.Unlock()
	if there && crashed != nil {
		crashed(model, cause)
	}
}

// put sets what a model takes, and how much of that is weights. m.mu is held.
func (m *Machine) put(model string, taken, weights tier.Bytes) {
	m.taken[model], m.weights[model] = taken, weights
	var sum tier.Bytes
	for _, b := range m.taken {
		sum += b
	}
	m.most = max(m.most, sum)
}

// Resident implements tier.Resident.
func (m *Machine) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.weights[model], 0, nil
}

// Close implements tier.Closer: what hangs is let go.
func (m *Machine) Close() error {
	m.mu.Lock()
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	m.mu.Unlock()
	return m.Mover.Close()
}

// String says what the models take, for a failed test's log.
func (m *Machine) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum tier.Bytes
	for _, b := range m.taken {
		sum += b
	}
	return fmt.Sprintf("%v of memory, %v of it other programs' and %v models'", m.memory.Total, m.memory.Total-m.memory.Available, sum)
}
