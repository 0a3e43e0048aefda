package tiertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Machine is a fake machine: memory of which models and other programs take their parts,
// disks with a speed, and engines whose faults are scripted. It is a tier.Mover and a
// tier.MemoryProbe at once, to be given to one Manager as both. Only time passes: in a
// testing/synctest bubble none does really. It is safe for concurrent use; the fields of
// its Mover and of its Scale are set before use.
type Machine struct {
	// Scale knows what models take, and by its Mover what kind of engines they are and what
	// moves were made. A load takes the time of its disk, unless Mover.Time is another's;
	// Mover.Fault is the Machine's.
	*Scale

	mu      sync.Mutex // guards the rest; nothing waits under it
	disks   []*disk
	scripts map[string][]fault
	crashes map[string]fault      // of loads that are under way
	engines map[string]int        // how many a model has had: each load from storage starts one
	residue map[string]tier.Bytes // to stay after an unload
	sizes   map[string]tier.Bytes // of models that were moved
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
		Scale:   &Scale{Mover: &Mover{OnlyRAM: true}, Probe: NewProbe(tier.Memory{Total: memory, Available: memory})},
		scripts: make(map[string][]fault), crashes: make(map[string]fault), engines: make(map[string]int), residue: make(map[string]tier.Bytes),
		sizes: make(map[string]tier.Bytes), closed: make(chan struct{}),
	}
	m.Mover.Time, m.Mover.Fault, m.Scale.Lingers = m.time, m.fail, m.lingers
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
	m.Scale.mu.Lock() // so that what models take does not change meanwhile
	defer m.Scale.mu.Unlock()
	m.Probe.change(func(mem *tier.Memory) { mem.Available = mem.Total - take - m.Scale.now })
}

// Press sets the memory pressure, of which a Manager knows as of Others.
func (m *Machine) Press(level tier.PressureLevel) {
	m.Probe.change(func(mem *tier.Memory) { mem.Pressure.Level = level })
}

// Blind makes each look at the memory end with err; nil: no more.
func (m *Machine) Blind(err error) {
	m.Probe.mu.Lock()
	defer m.Probe.mu.Unlock()
	m.Probe.err = err
}

// Memory implements tier.MemoryProbe.
func (m *Machine) Memory(ctx context.Context) (tier.Memory, error) {
	seen, err := m.Probe.Memory(ctx)
	seen.Available = max(seen.Available, 0)
	return seen, err
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
		if m.At(model) != tier.RAM {
			m.Put(model, 0)
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
	missing := max(mv.Model.Size-m.Mover.kept(mv.Model.Name), 0)
	took := float64(missing) / float64(m.disk(mv.Model.Path).speed) * float64(time.Second)
	return time.Duration(min(took, 1<<62)).Round(time.Microsecond)
}

// lingers is the Scale's Lingers.
func (m *Machine) lingers(mv tier.Move) tier.Bytes {
	if mv.To != tier.Storage {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.residue[mv.Model.Name]
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
	m.mu.Lock()
	m.sizes[name] = mv.Model.Size
	if mv.From == tier.Storage {
		m.engines[name]++
	}
	engine := m.engines[name]
	m.mu.Unlock()
	arrived := false // stays false if a script's fault does not return
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if c := m.crashes[name]; arrived && mv.To == tier.RAM && c.cause != nil {
			time.AfterFunc(c.after, func() { m.crash(name, engine, c.cause) })
		}
		delete(m.crashes, name)
	}()
	err := m.Scale.Move(ctx, mv, progress)
	arrived = err == nil
	return err
}

// crash ends that engine of a model, unless it is another's turn by now or not in ram.
func (m *Machine) crash(model string, engine int, cause error) {
	m.mu.Lock()
	crashed, gone := m.crashed, m.engines[model] != engine
	m.mu.Unlock()
	if gone || m.Taken(model) == 0 || m.At(model) != tier.RAM {
		return
	}
	m.Put(model, 0)
	if crashed != nil {
		crashed(model, cause)
	}
}

// Resident implements tier.Resident.
func (m *Machine) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(m.Taken(model), m.sizes[model]), 0, nil
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
