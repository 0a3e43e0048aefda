package safety

import (
	"context"
	"fmt"
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
	// Mounts stands before the mount points that Proc names, for a machine whose
	// root is mounted somewhere in ours; "": nothing.
	Mounts string
	// DeviceMemory: what will be admitted is memory of a device or pinned for one,
	// which the kernel cannot place in CMA areas; they are then not counted as
	// available. False is right for mapped weight files and ordinary processes.
	DeviceMemory bool
}

// Probe reads how much memory the machine and the containers around this process
// have, and how hard it is pressed. It is made by NewProbe or NewProbeAt and
// implements tier.MemoryProbe and tier.Closer.
//
// A Probe may be used by several goroutines: they take turns, and whoever waited
// while another's whole reading was made gets that one. It starts no goroutine.
// On Linux it keeps the files that it reads open (about a dozen, and two to ten
// for each cgroup around the process), so that a server that has run out of file
// handles still knows its memory, and a reading allocates nothing.
type Probe struct {
	turn chan struct{} // holds one token; who has taken it owns what is below

	source *source
	last   tier.Memory
	began  time.Time // when last was begun; zero: there is none
	closed bool
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
	p.turn <- struct{}{}
	return p
}

// Memory returns a reading that was begun after the call. It ends early with
// context.Cause(ctx) where ctx ends while it waits for its turn or between two
// files; it cannot leave a read that the kernel does not finish.
//
// A file that holds what it should not gives an error that unwraps to
// tier.ErrInvalid and names the file and the text; one that cannot be read, an
// *fs.PathError. After Close the error unwraps to tier.ErrClosed. The Notes of
// the result are shared and not to be changed.
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
	if err != nil {
		return tier.Memory{}, err
	}
	m.At = began
	p.last, p.began = m, began
	return m, nil
}

// Close waits for a reading under way and closes the files. It may be called
// again and always returns nil.
func (p *Probe) Close() error {
	<-p.turn
	defer func() { p.turn <- struct{}{} }()
	if !p.closed {
		p.closed = true
		p.source.close()
	}
	return nil
}
