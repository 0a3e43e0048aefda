package safety

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// ProbeOptions say where a Probe looks and for whom. The zero value is the
// machine that the process runs on. The three places are for Linux; on another
// system a Probe with one of them set gives an error.
type ProbeOptions struct {
	// Proc is where the proc file system is; "": /proc.
	Proc string
	// Sys is where the sys file system is; "": /sys.
	Sys string
	// Mounts is put before the mount points that Proc names, for a machine whose root
	// is mounted somewhere in this one; "": nothing.
	Mounts string
	// DeviceMemory: what will be admitted is memory of a device or pinned for one,
	// which the kernel cannot place in CMA areas; these are then not counted as
	// available. False is right for mapped weight files and ordinary processes.
	DeviceMemory bool
}

// Probe reads how much memory the machine and the containers around this process
// have, and how hard it is pressed. It is made by NewProbe or NewProbeAt and
// implements tier.MemoryProbe, tier.PartStatuser and tier.Closer.
//
// A Probe may be used by several goroutines: they take turns, and a caller that
// waited during the whole of another's reading gets that reading. It starts no
// goroutine and keeps no file open: a process without a free file handle gets an
// error.
type Probe struct {
	turn chan struct{} // holds one token; its taker owns the fields up to closed

	source *source
	last   tier.Memory
	began  time.Time // when last was begun; zero: there is none
	closed bool

	status atomic.Pointer[ProbeStatus] // replaced by the owner of the turn, never changed
}

// ProbeStatus is what a Probe says about itself.
type ProbeStatus struct {
	// System is the operating system, by Go's name for it.
	System string `json:"system"`
	// Proc and Sys are the file systems that are read, on Linux.
	Proc string `json:"proc,omitempty"`
	Sys  string `json:"sys,omitempty"`
	// Cgroup is the version of the cgroups whose limits count, 1 or 2; 0: none.
	Cgroup int `json:"cgroup_version"`
	// Groups are the paths of those cgroups, the process's own first.
	Groups []string `json:"cgroups,omitempty"`
	// PSI: the kernel has pressure stall information.
	PSI bool `json:"psi"`
	// StallsOf is the cgroup whose own stalls are judged as they are; "host": there is
	// none, and the machine's count with a shortage alone. "": there is no PSI.
	StallsOf string `json:"stalls_of,omitempty"`
	// RefaultsOf is the cgroup whose file pages that were read again are counted;
	// "host": all of the machine's, as its kernel does not count them apart.
	RefaultsOf string `json:"refaults_of,omitempty"`
	// Bound is what bounded the last reading: "host", or the path of a cgroup.
	Bound string `json:"bound,omitempty"`
	// Notes are the hints of the last reading.
	Notes tier.Notes `json:"notes,omitempty"`
	// Readings and Failures count the readings that succeeded and that failed.
	Readings uint64 `json:"readings"`
	Failures uint64 `json:"failures"`
	// At is when the last reading that succeeded was begun, Took how long it took.
	At   time.Time     `json:"at,omitzero"`
	Took time.Duration `json:"took_ns"`
	// Error is why the last failed reading failed, ErrorAt when it was begun. A
	// reading that succeeded since then has a later At.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
}

// NewProbe returns a probe of the machine that the process runs on. Nothing is
// read before the first call of Memory.
func NewProbe() *Probe { return newProbe(ProbeOptions{}) }

// NewProbeAt returns a probe with those options. It makes one reading and
// returns its error, so that a wrong place is found at once.
func NewProbeAt(o ProbeOptions) (*Probe, error) {
	p := newProbe(o)
	if _, err := p.Memory(context.Background()); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func newProbe(o ProbeOptions) *Probe {
	p := &Probe{turn: make(chan struct{}, 1), source: newSource(o)}
	p.status.Store(&ProbeStatus{System: runtime.GOOS})
	p.turn <- struct{}{}
	return p
}

// Memory returns a reading that was begun after the call. It ends early with
// context.Cause(ctx) if ctx ends while it waits for its turn or between two files;
// it cannot leave a read that the kernel does not finish.
//
// The error of a file that holds what it should not unwraps to tier.ErrInvalid and
// names the file and the text; that of a file that cannot be read is an
// *fs.PathError. After Close the error unwraps to tier.ErrClosed.
func (p *Probe) Memory(ctx context.Context) (tier.Memory, error) {
	called := time.Now()
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	select {
	case <-p.turn:
	case <-ctx.Done():
		return tier.Memory{}, context.Cause(ctx)
	}
	defer func() { p.turn <- struct{}{} }()

	switch {
	case p.closed:
		return tier.Memory{}, fmt.Errorf("safety: probe: %w", tier.ErrClosed)
	case p.began.After(called):
		return p.last, nil
	}
	began := time.Now()
	m, err := p.source.read(ctx, began)
	m.At = began
	p.report(m, err)
	if err != nil {
		return tier.Memory{}, err
	}
	p.last, p.began = m, began
	return m, nil
}

// report publishes the status after a reading.
func (p *Probe) report(m tier.Memory, err error) {
	s := *p.status.Load()
	s.Groups = nil
	p.source.describe(&s)
	if err != nil {
		s.Failures++
		s.Error, s.ErrorAt = err.Error(), m.At
	} else {
		s.Readings++
		s.At, s.Took = m.At, time.Since(m.At)
		s.PSI, s.Bound, s.Notes = m.Pressure.HasPSI, m.Source, m.Notes
	}
	p.status.Store(&s)
}

// Status returns what is known of the last reading. It does not wait for a reading
// under way.
func (p *Probe) Status() ProbeStatus {
	s := *p.status.Load()
	s.Groups = slices.Clone(s.Groups)
	return s
}

// PartStatus implements tier.PartStatuser with Status.
func (p *Probe) PartStatus() any { return p.Status() }

// Close waits for a reading under way, and no other follows. It may be called again
// and always returns nil.
func (p *Probe) Close() error {
	<-p.turn
	defer func() { p.turn <- struct{}{} }()
	p.closed = true
	return nil
}

// bounded returns n as Bytes; a number beyond 63 bits is no limit.
func bounded(n uint64) tier.Bytes { return tier.Bytes(min(n, uint64(tier.Unlimited))) }
