package jetson

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// Probe is a tier.MemoryProbe for a Jetson. Its bytes come from procfs, or from
// tegrastats if there is no procfs. Memory.Notes has hints about fragmentation,
// heat and throttling, which change no figure. [Probe.Reading] returns the last line
// of tegrastats.
//
// Alone it sees the bytes of the machine, neither the container around the process nor
// memory pressure. [Probe.Over] gives it a probe that knows both.
//
// The first call of Memory or Reading starts tegrastats, Close ends it. The methods
// may be called from any goroutine.
type Probe struct {
	family Family
	stats  *Tegrastats
	slow   throttles
	own    ownBytes

	mu        sync.Mutex // guards the rest; no other code runs under it but Tegrastats.Open
	bytes     tier.MemoryProbe
	given     bool // bytes was set by Over
	reader    *Reader
	closed    bool
	throttled []uint64 // counts of slow.power at the last look
	notes     []string // of the board at the last look
}

var (
	_ tier.MemoryProbe  = (*Probe)(nil)
	_ tier.Overlay      = (*Probe)(nil)
	_ tier.PartStatuser = (*Probe)(nil)
	_ tier.Closer       = (*Probe)(nil)
)

// Over makes the probe take its bytes from another one, which it closes with
// itself. It does so once: it reports false, and changes nothing, at a second call
// and after Close. Call it before the first Memory.
func (p *Probe) Over(bytes tier.MemoryProbe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given || p.closed {
		return false
	}
	p.bytes, p.given = bytes, true
	return true
}

// open returns the reader and starts tegrastats at the first use.
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

// Memory implements tier.MemoryProbe. Only without procfs does it wait for
// tegrastats: for the next line, up to TegrastatsConfig.Silence. If that line would
// come too late for ctx, it uses the previous one unless that is stale; Memory.At is
// then before the call, and a note says so. After Close the error unwraps to
// tier.ErrClosed.
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
		// The estimate sees no containers: it replaces a missing procfs, and does not
		// hide the failure of another probe.
		if _, own := p.own.Memory(ctx); !absent(own) || ctx.Err() != nil {
			return tier.Memory{}, err
		}
		began := time.Now()
		s, errStats := reader.upcoming(ctx)
		if errStats != nil {
			return tier.Memory{}, fmt.Errorf("%w, and tegrastats does not replace it: %w", err, errStats)
		}
		m = estimate(s)
		if s.At.Before(began) {
			m.Notes = m.Notes.With(fmt.Sprintf("The last line of tegrastats is %v old: later changes are not in it.", s.Age().Round(100*time.Millisecond)))
		}
	}
	m.Notes = m.Notes.With(p.look(reader)...)
	return m, nil
}

// look returns the notes about the board.
func (p *Probe) look(reader *Reader) []string {
	s, err := reader.Latest()
	notes := lineNotes(s.Reading, err)
	hot, counts := p.slow.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	notes = append(notes, p.slow.notes(hot, p.throttled, counts)...)
	p.throttled, p.notes = counts, notes
	return notes
}

// absent reports an error that means no procfs, or none that may be read.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, errNoAvailable)
}

// upcoming waits for the next line, because an older one does not show what a load
// that has just ended took. It waits at most three quarters of ctx's time, and until
// the last line is stale. It returns the last line if that is fresh and the next one
// is not due in that time or does not come.
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
		reason = ErrStale // if it becomes stale during the wait
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

// Close ends tegrastats unless it has other readers, and closes the probe given to
// Over if that has a Close. It is idempotent.
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

// ProbeStatus is the PartStatus of a Probe. Figures of the board are those of the
// last line of tegrastats, and absent if there is none or if it is stale.
type ProbeStatus struct {
	Board string `json:"board"`
	// Readers is the number of open readers of tegrastats, which runs while there is
	// one; Starts and Lines count since the board was detected.
	Readers int    `json:"readers"`
	Starts  uint64 `json:"starts"`
	Lines   uint64 `json:"lines"`
	// LastLine is when the last line came, and Failure why there is none since.
	LastLine time.Time `json:"last_line,omitzero"`
	Failure  string    `json:"failure,omitempty"`

	GPU              *Percent    `json:"gpu_percent,omitempty"`
	EMC              *Percent    `json:"emc_percent,omitempty"`
	Power            *Milliwatts `json:"power_mw,omitempty"`
	Hottest          *Celsius    `json:"hottest_celsius,omitempty"`
	LargestFreeBlock tier.Bytes  `json:"largest_free_block,omitempty"`
	// Notes are the board's notes in the last Memory.
	Notes []string `json:"notes,omitempty"`
	// Bytes is the status of the probe given to Over, if it has one.
	Bytes any `json:"bytes,omitempty"`
}

// PartStatus implements tier.PartStatuser with a ProbeStatus. It starts nothing and
// does no I/O.
func (p *Probe) PartStatus() any {
	p.mu.Lock()
	s := ProbeStatus{Board: p.family.String(), Notes: slices.Clone(p.notes)}
	bytes := p.bytes
	p.mu.Unlock()

	p.stats.mu.Lock()
	last, err := p.stats.latest()
	s.Readers, s.Starts = p.stats.readers, p.stats.starts
	p.stats.mu.Unlock()

	s.Lines, s.LastLine = last.Number, last.At
	if err == nil {
		r := last.Reading
		s.GPU, s.EMC, s.Power = r.GPULoad().pointer(), r.EMCLoad().pointer(), r.Power().pointer()
		s.LargestFreeBlock = r.LargestFreeBlock
		if hot, ok := r.Hottest(); ok {
			s.Hottest = &hot.Now
		}
	} else {
		s.Failure = err.Error()
	}
	if inner, ok := bytes.(tier.PartStatuser); ok {
		s.Bytes = inner.PartStatus()
	}
	return s
}

// estimate derives memory from tegrastats alone: free = total − used, minus
// max(512 MiB, total/16), which a careful admission leaves to the system, minus
// total/25 for what "used" does not count (tmpfs) and the kernel's own reserve
// (measured: 3.2 % of total on an Orin Nano, 1.6 % on a TX2). It is low on purpose
// and comes on top of Limits.Reserved, because containers and pressure are unknown
// here. All swap counts as compressed, because the line does not tell zram from disk.
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
		Notes:               "There is no /proc/meminfo: available memory is estimated, on the low side, from tegrastats, and containers are not seen.",
	}
}

// ownBytes reads /proc/meminfo.
type ownBytes struct{ proc string }

func (o ownBytes) Memory(ctx context.Context) (tier.Memory, error) {
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	m, err := readMemory(o.proc)
	if err != nil {
		return tier.Memory{}, fmt.Errorf("jetson: %w", err)
	}
	return m, nil
}

// errNoAvailable: the kernel is older than 3.14.
var errNoAvailable = errors.New("/proc/meminfo lacks MemTotal or MemAvailable")

// readMemory reads the machine's memory from the proc file system at proc. With
// errNoAvailable it returns the total.
func readMemory(proc string) (tier.Memory, error) {
	pfs, err := procfs.NewFS(proc)
	if err != nil {
		return tier.Memory{}, err
	}
	info, err := pfs.Meminfo()
	if err != nil {
		return tier.Memory{}, fmt.Errorf("reading meminfo: %w", err)
	}
	for _, f := range [...]struct {
		name      string
		kB, bytes *uint64
	}{{"MemTotal", info.MemTotal, info.MemTotalBytes}, {"MemAvailable", info.MemAvailable, info.MemAvailableBytes}} {
		if f.kB != nil && *f.bytes>>10 != *f.kB { // procfs lets the product wrap around
			return tier.Memory{}, &tier.InvalidError{Field: "meminfo " + f.name, Value: fmt.Sprint(*f.kB), Rule: "must be a number of kB that fits 63 bits"}
		}
	}
	m := tier.Memory{At: time.Now(), Source: "host"}
	if info.MemTotalBytes != nil {
		m.Total = bytes(info.MemTotalBytes)
	}
	if m.Total == 0 || info.MemAvailableBytes == nil {
		return m, errNoAvailable
	}
	m.Available = min(bytes(info.MemAvailableBytes), m.Total)
	swaps, err := readSwaps(proc)
	if err != nil {
		m.Notes = m.Notes.With("Swap is not known: " + err.Error() + ".")
	}
	disk, zram := sumSwaps(swaps)
	m.SwapTotal, m.SwapFree = disk.Size, disk.Size-disk.Used
	m.CompressedSwapTotal, m.CompressedSwapFree = zram.Size, zram.Size-zram.Used
	return m, nil
}

func bytes(n *uint64) tier.Bytes { return tier.Bytes(min(*n, math.MaxInt64)) }

// Limits of the notes. Models run at a largest free block of 32 KiB, and a 1 GiB
// allocation has failed at 4 MiB, so fragmentedBelow is a judgement. hotAt is some
// degrees below the point where boards throttle.
const (
	fragmentedBelow         = 1 * tier.MiB
	hotAt           Celsius = 95
)

// lineNotes returns what a line of tegrastats tells about the next load. err is the
// error of Reader.Latest.
func lineNotes(r Reading, err error) []string {
	switch {
	case errors.Is(err, ErrNoReading):
		return []string{"Temperature, power and GPU load are not known: " + err.Error() + "."}
	case err != nil:
		return []string{"Temperature, power and GPU load are out of date: " + err.Error() + "."}
	}
	var out []string
	if b := r.LargestFreeBlock; b > 0 && b < fragmentedBelow {
		out = append(out, fmt.Sprintf("Memory is fragmented: the largest free block is %v (%d of them). A large CUDA allocation may fail although there is room; restarting the board helps.", b, r.LargestFreeBlocks))
	}
	if t, ok := r.Hottest(); ok && t.Now >= hotAt {
		out = append(out, fmt.Sprintf("The board is hot: sensor %s is at %.0f °C.", t.Name, t.Now))
	}
	return out
}

// throttles are the files in which the kernel reports throttling.
type throttles struct {
	heat  []source // cooling devices "gpu-throttle-alert": 0, or the step of throttling
	power []source // counters "oc3_event_cnt" of over-current and under-voltage events
}

type source struct{ name, path string }

// findThrottles looks for them below sys. JetPack 5 and later have them.
func findThrottles(sys string) throttles {
	var t throttles
	for _, dir := range glob(sys, "class/thermal/cooling_device*") {
		kind, _ := readLine(filepath.Join(dir, "type"))
		if part, ok := strings.CutSuffix(kind, "-throttle-alert"); ok {
			t.heat = append(t.heat, source{name: part, path: filepath.Join(dir, "cur_state")})
		}
	}
	for _, path := range glob(sys, "class/hwmon/hwmon*/oc[0-9]_event_cnt") {
		name, _, _ := strings.Cut(filepath.Base(path), "_")
		t.power = append(t.power, source{name: name, path: path})
	}
	return t
}

// look returns the parts of the chip that are throttled for heat, and the counts of the
// power events since boot.
func (t throttles) look() (hot []string, counts []uint64) {
	for _, part := range t.heat {
		if readNumber(part.path) > 0 {
			hot = append(hot, part.name)
		}
	}
	for _, event := range t.power {
		counts = append(counts, readNumber(event.path))
	}
	return hot, counts
}

// powerEvents are the meanings of the counters on Orin and Thor. Xavier has the same
// names without documented meanings.
var powerEvents = map[string]string{
	"oc1": "supply voltage too low",
	"oc2": "average current too high",
	"oc3": "peak current too high",
}

// notes returns what to tell. before are the counts of the previous look; nil for
// the first one, when earlier events are not news.
func (t throttles) notes(hot []string, before, counts []uint64) []string {
	var out []string
	if len(hot) > 0 {
		out = append(out, "The board is throttled for heat: "+strings.Join(hot, ", ")+".")
	}
	for i, n := range counts {
		if i < len(before) && n > before[i] {
			name := t.power[i].name
			why := cmp.Or(powerEvents[name], "power limit reached")
			out = append(out, fmt.Sprintf("The board was throttled for power %d times since the last look (%s: %s). Check the power supply and the power mode.", n-before[i], name, why))
		}
	}
	return out
}

// readNumber returns the number in a file; 0 if there is none.
func readNumber(path string) uint64 {
	line, _ := readLine(path)
	n, err := strconv.ParseUint(line, 10, 64)
	if err != nil {
		return 0 // not the largest number, which is ParseUint's answer to a larger one
	}
	return n
}
