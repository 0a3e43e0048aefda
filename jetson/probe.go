package jetson

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// ProbeOptions say what a Probe reads. The zero value works.
type ProbeOptions struct {
	// Bytes is where the figures of memory come from: what this probe adds is the
	// board's. nil: MemAvailable of /proc/meminfo, which knows no containers.
	Bytes tier.MemoryProbe
}

// Probe is a tier.MemoryProbe for a Jetson. Its bytes come from procfs, or from
// tegrastats where there is no procfs to read; fragmentation, heat and throttling
// are hints in Memory.Notes, in plain words, which change no figure. The last
// line of tegrastats is at [Probe.Reading].
//
// By itself it looks at the machine only. To be bound by the container around the
// process as well, give it a probe that knows containers, in ProbeOptions or by
// [Probe.Over].
//
// tegrastats is started by the first call of Memory or Reading and ended by Close.
// Its methods may be called from any goroutine.
type Probe struct {
	stats *Tegrastats
	slow  throttles
	own   ownBytes

	mu      sync.Mutex // guards what follows; held while nothing else is called
	bytes   tier.MemoryProbe
	given   bool
	reader  *Reader
	closed  bool
	overUse []uint64 // counts of slow.power at the last look
}

func newProbe(stats *Tegrastats, slow throttles, own ownBytes, o ProbeOptions) *Probe {
	p := &Probe{stats: stats, slow: slow, own: own, bytes: own}
	if o.Bytes != nil {
		p.bytes, p.given = o.Bytes, true
	}
	return p
}

// Over has the probe take its bytes from another, which it then closes when it
// is closed itself. It reports false, and keeps what it has, where ProbeOptions
// named one. Call it before the first Memory.
func (p *Probe) Over(bytes tier.MemoryProbe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given || p.closed {
		return false
	}
	p.bytes, p.given = bytes, true
	return true
}

// open returns the reader and starts tegrastats if this is the first use.
func (p *Probe) open() (*Reader, tier.MemoryProbe, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, fmt.Errorf("jetson: probe: %w", tier.ErrClosed)
	}
	if p.reader == nil {
		p.reader = p.stats.Open()
	}
	return p.reader, p.bytes, nil
}

// Reading returns the last line of tegrastats. Its errors are those of
// [Reader.Latest]; a stale reading comes with its error.
func (p *Probe) Reading() (Sample, error) {
	r, _, err := p.open()
	if err != nil {
		return Sample{}, err
	}
	return r.Latest()
}

// Memory implements tier.MemoryProbe. It waits for tegrastats only where there is
// no procfs: then for its next line, TegrastatsConfig.Silence at most. Where that
// would come too late for ctx it goes by the line before, unless that is stale;
// Memory.At is then older than the call, and a note says so. After Close the error
// unwraps to tier.ErrClosed.
func (p *Probe) Memory(ctx context.Context) (tier.Memory, error) {
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	reader, bytes, err := p.open()
	if err != nil {
		return tier.Memory{}, err
	}
	m, err := bytes.Memory(ctx)
	if err != nil {
		// Only where the machine has no procfs to read. Another probe's failure is not
		// hidden behind an estimate that sees no containers.
		if _, own := p.own.Memory(ctx); !absent(own) || ctx.Err() != nil {
			return tier.Memory{}, err
		}
		began := time.Now()
		s, statsErr := reader.upcoming(ctx)
		if statsErr != nil {
			return tier.Memory{}, fmt.Errorf("%w, and tegrastats does not stand in: %w", err, statsErr)
		}
		m = estimate(s)
		if s.At.Before(began) {
			m.Notes = append(m.Notes, fmt.Sprintf("The last line of tegrastats is %v old: what changed since is not in it.", s.Age().Round(100*time.Millisecond)))
		}
	}
	s, err := reader.Latest()
	// The inner probe's notes are its own: a copy is extended.
	m.Notes = append(slices.Clone(m.Notes), hints(s.Reading, err)...)
	m.Notes = append(m.Notes, p.throttled()...)
	return m, nil
}

// absent reports an error that says that there is no procfs, or none for us.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, errNoAvailable)
}

// upcoming waits for the next line, within the bound of staleness and three
// quarters of the time that ctx has left. A line from before the call would not
// show what a load that just ended has taken; it is returned all the same where
// it is not stale and the next one is not due, or does not come, in that time.
func (r *Reader) upcoming(ctx context.Context) (Sample, error) {
	last, stale := r.Latest()
	wait := r.t.cfg.Silence
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4*3)
	}
	if stale == nil && last.Age()+wait < r.t.cfg.Interval {
		return last, nil
	}
	reason := stale
	switch {
	case stale == nil:
		reason = ErrStale // in case that it gets so while we wait
	case errors.Is(stale, ErrNoReading):
		reason = fmt.Errorf("%w: the first line comes %v after the start", stale, r.t.cfg.Interval)
	}
	within, cancel := context.WithTimeoutCause(ctx, wait, reason)
	defer cancel()
	next, err := r.Next(within, last.Number)
	if err != nil && ctx.Err() == nil {
		if last, stale := r.Latest(); stale == nil {
			return last, nil
		}
	}
	return next, err
}

// Close ends tegrastats, if nobody else reads it, and closes the probe that the
// bytes came from, if it can be closed. It is idempotent.
func (p *Probe) Close() error {
	p.mu.Lock()
	reader, bytes, again := p.reader, p.bytes, p.closed
	p.closed = true
	p.mu.Unlock()
	if again {
		return nil
	}
	var errStats, errBytes error
	if reader != nil {
		errStats = reader.Close()
	}
	if c, ok := bytes.(tier.Closer); ok {
		errBytes = c.Close()
	}
	return errors.Join(errStats, errBytes)
}

// estimate makes the figures of memory from tegrastats alone: free = total −
// used, less max(512 MiB, total/16), which is what a careful admission leaves to
// the system, less total/25 for what "used" does not count (tmpfs) and what the
// kernel keeps for itself (measured: 3.2 % of total on an Orin Nano, 1.6 % on a
// TX2). It is on the safe side on purpose, and so comes on top of
// Limits.Reserved: neither containers nor pressure are known here. All swap
// counts as compressed, because the line does not tell zram from disk.
func estimate(s Sample) tier.Memory {
	total := s.Reading.RAMTotal
	free := total - s.Reading.RAMUsed - max(512*tier.MiB, total/16) - total/25
	return tier.Memory{
		At:                  s.At,
		Total:               total,
		Available:           max(free, 0),
		CompressedSwapTotal: s.Reading.SwapTotal,
		CompressedSwapFree:  s.Reading.SwapTotal - s.Reading.SwapUsed,
		Source:              "tegrastats",
		Notes:               []string{"There is no /proc/meminfo to read: available memory is estimated, on the low side, from tegrastats, and containers are not seen."},
	}
}

// throttled says in words whether the board has been slowed down.
func (p *Probe) throttled() []string {
	state := p.slow.read()
	p.mu.Lock()
	before := p.overUse
	p.overUse = state.counts
	p.mu.Unlock()
	return state.notes(before)
}

var (
	_ tier.MemoryProbe = (*Probe)(nil)
	_ tier.Closer      = (*Probe)(nil)
)
