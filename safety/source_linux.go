package safety

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// host is the machine, where a cgroup is named else.
const host = "host"

// source reads the kernel's files. It belongs to the holder of the probe's turn.
type source struct {
	options   ProbeOptions
	proc, sys string
	page      tier.Bytes
	buf       []byte

	// The paths of files.
	meminfo, swaps, vmstat, psi, ownPSI, arcstats, zswapOn, zswapShare, cgroup, mountinfo string

	// The layout: which cgroups bound this process.
	groups     []*group
	unified    bool      // they are of version 2
	laidOut    time.Time // zero: never, or it failed
	ownText    []byte    // of /proc/self/cgroup
	ownStalls  string    // the process's own cgroup of version 2, if its stalls are recorded apart; "": none
	hidden     bool      // this process's cgroup is outside of what it can see
	unreadable bool      // a cgroup's limit may not be read

	rates rates
	judge judge

	// Whose figures the last reading had; see ProbeStatus.
	stallsOf, refaultsOf string
}

func newSource(o ProbeOptions) *source {
	proc, sys := cmp.Or(o.Proc, "/proc"), cmp.Or(o.Sys, "/sys")
	return &source{
		options: o, proc: proc, sys: sys, page: tier.Bytes(os.Getpagesize()),
		meminfo: proc + "/meminfo", swaps: proc + "/swaps", vmstat: proc + "/vmstat",
		psi: proc + "/pressure/memory", arcstats: proc + "/spl/kstat/zfs/arcstats",
		cgroup: proc + "/self/cgroup", mountinfo: proc + "/self/mountinfo",
		zswapOn:    sys + "/module/zswap/parameters/enabled",
		zswapShare: sys + "/module/zswap/parameters/max_pool_percent",
	}
}

// describe fills in where the source reads.
func (s *source) describe(st *ProbeStatus) {
	st.Proc, st.Sys = s.proc, s.sys
	if len(s.groups) > 0 {
		st.Cgroup = 1
		if s.unified {
			st.Cgroup = 2
		}
	}
	for _, g := range s.groups {
		st.Groups = append(st.Groups, g.name)
	}
	st.StallsOf, st.RefaultsOf = s.stallsOf, s.refaultsOf
}

// read makes one reading. An error leaves the source good for the next.
func (s *source) read(ctx context.Context, at time.Time) (tier.Memory, error) {
	if err := s.layOut(at); err != nil {
		return tier.Memory{}, err
	}
	m, err := s.readAll(ctx, at)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return m, err
	}
	// A cgroup went away during the reading: this process was moved.
	s.laidOut = time.Time{}
	if err := s.layOut(at); err != nil {
		return tier.Memory{}, err
	}
	return s.readAll(ctx, at)
}

func (s *source) readAll(ctx context.Context, at time.Time) (tier.Memory, error) {
	var m tier.Memory
	var notes []string
	info, err := s.readHost(&m, &notes)
	if err != nil {
		return tier.Memory{}, err
	}
	if err := s.readSwap(&m, info, &notes); err != nil {
		return tier.Memory{}, err
	}
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	c, err := s.readCounters(&notes)
	if err != nil {
		return tier.Memory{}, err
	}
	signs := signs{scope: host}
	mapped := info.files.cleanMapped()
	unmapped := max(m.Available.Minus(mapped), 0)
	m.Pressure.OOMKills, s.refaultsOf = c.kills, host
	for i, g := range s.groups {
		if i%8 == 0 && ctx.Err() != nil {
			return tier.Memory{}, context.Cause(ctx)
		}
		b, err := g.read(&s.buf, info.total)
		if err != nil {
			return tier.Memory{}, err
		}
		b.apply(&m, &signs, g)
		if b.limited {
			unmapped = min(unmapped, b.unmapped)
		}
		if g.own && c.takeOwn(&b) {
			s.refaultsOf = g.name
		}
	}
	m.Mapped = m.Available - min(unmapped, m.Available)
	if err := s.readStalls(&m.Pressure, &signs); err != nil {
		return tier.Memory{}, err
	}
	s.rates.see(at, c, s.page)
	m.Pressure.Refault, m.Pressure.SwapOut, m.Pressure.Stalls = s.rates.refault, s.rates.swapOut, s.rates.stalls
	signs.reclaiming, signs.ownRefaults, signs.ownSwapOut = s.rates.reclaiming, c.ownRefaults, s.rates.ownSwapOut
	signs.reclaims = c.stalls
	signs.low = m.Available < m.Total/shortShare
	s.judge = s.judge.next(at, m.Pressure, signs)
	m.Pressure.Level, m.Pressure.Stalled, m.Pressure.Reading = s.judge.level, s.judge.stalled, s.judge.reading
	if !m.Pressure.HasPSI {
		notes = append(notes, noteNoPSI)
	}
	if s.hidden {
		notes = append(notes, noteHidden)
	}
	if s.unreadable {
		notes = append(notes, noteUnreadable)
	}
	m.Notes = m.Notes.With(notes...)
	return m, nil
}

// meminfo is the fields of /proc/meminfo that count here.
type meminfo struct {
	total, available    tier.Bytes
	swapTotal, swapFree tier.Bytes
	zswap               tier.Bytes // memory that zswap takes
	cmaFree             tier.Bytes
	files               filePages
}

// parseMeminfo reads the text of /proc/meminfo: lines of a name, a colon and, in all
// that count here, a number of KiB.
func parseMeminfo(path string, text []byte) (meminfo, error) {
	var m meminfo
	counted := false
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		key, value, ok := bytes.Cut(line, []byte{':'})
		if !ok {
			return meminfo{}, invalid(path, line, "must be a name, a colon and a number")
		}
		to := m.field(key)
		if to == nil {
			continue
		}
		counted = counted || to == &m.available
		value, ok = bytes.CutSuffix(bytes.TrimSpace(value), []byte("kB"))
		n, isNumber := number(bytes.TrimSpace(value))
		if !ok || !isNumber || n > math.MaxInt64>>10 {
			return meminfo{}, invalid(path, line, "must be a number of kB that fits 63 bits")
		}
		*to = tier.Bytes(n) * tier.KiB
	}
	switch {
	case m.total == 0:
		return meminfo{}, invalid(path, nil, "must hold a MemTotal above 0")
	case !counted:
		return meminfo{}, invalid(path, nil, "must hold MemAvailable, as it does since Linux 3.14")
	}
	return m, nil
}

// field returns where the number of that name belongs; nil: it does not count.
func (m *meminfo) field(name []byte) *tier.Bytes {
	switch string(name) {
	case "MemTotal":
		return &m.total
	case "MemAvailable":
		return &m.available
	case "SwapTotal":
		return &m.swapTotal
	case "SwapFree":
		return &m.swapFree
	case "Zswap":
		return &m.zswap
	case "CmaFree":
		return &m.cmaFree
	case "Cached":
		return &m.files.cached
	case "Buffers":
		return &m.files.buffers
	case "Active(file)":
		return &m.files.active
	case "Inactive(file)":
		return &m.files.inactive
	case "Shmem":
		return &m.files.shmem
	case "Mapped":
		return &m.files.mapped
	case "Dirty":
		return &m.files.dirty
	case "Writeback":
		return &m.files.writeback
	}
	return nil
}

// filePages is what the kernel tells of pages of files, for the machine or for a
// cgroup.
type filePages struct {
	cached, buffers  tier.Bytes // all of them; cached counts shared memory, which has no file, as well
	active, inactive tier.Bytes // those that are not locked, whether dirty or not
	shmem            tier.Bytes
	mapped           tier.Bytes // by any process, shared memory and locked pages among them
	dirty, writeback tier.Bytes
}

// clean is the pages that the kernel can drop at once. A page that is being written
// may be dirty again, so a sum of the two may count it twice.
func (f *filePages) clean() tier.Bytes {
	return max(f.active.Plus(f.inactive).Minus(f.dirty).Minus(f.writeback), 0)
}

// cleanMapped is how many of the clean ones processes map. What is mapped of shared
// memory is not told apart; all of it is taken to be mapped, so this is the least
// that it can be.
func (f *filePages) cleanMapped() tier.Bytes {
	locked := max(f.cached.Plus(f.buffers).Minus(f.shmem).Minus(f.active).Minus(f.inactive), 0)
	return min(max(f.mapped.Minus(f.shmem).Minus(locked), 0), f.clean())
}

// readHost fills in what the machine as a whole has. MemAvailable counts file pages
// of both lists and some of the kernel's own that can be reclaimed; dirty pages,
// which it counts as well, are not there before they are written, and the cache of
// ZFS, which shrinks to its floor on demand, it does not know.
func (s *source) readHost(m *tier.Memory, notes *[]string) (meminfo, error) {
	text, err := readUpTo(s.meminfo, &s.buf, maxSmallFile)
	if err != nil {
		return meminfo{}, err
	}
	info, err := parseMeminfo(s.meminfo, text)
	if err != nil {
		return meminfo{}, err
	}
	available := info.available.Minus(info.files.dirty).Minus(info.files.writeback)
	if s.options.DeviceMemory {
		available = available.Minus(info.cmaFree)
	} else if info.cmaFree >= info.total/16 {
		*notes = append(*notes, noteCMA)
	}
	arc, err := s.shrinkableARC()
	if err != nil {
		return meminfo{}, err
	}
	if arc > 0 {
		*notes = append(*notes, noteZFS)
	}
	m.Total = info.total
	m.Available = min(max(available, 0).Plus(arc), info.total)
	m.Dirty = min(info.files.dirty.Plus(info.files.writeback), info.available)
	m.Source = host
	return info, nil
}

// shrinkableARC returns what ZFS's cache holds above its floor; zero without ZFS.
func (s *source) shrinkableARC() (tier.Bytes, error) {
	text, ok, err := readIfThere(s.arcstats, &s.buf)
	if err != nil || !ok {
		return 0, err
	}
	// Lines of a name, the number of a type and a value.
	var size, floor uint64
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		name, rest, _ := bytes.Cut(line, []byte{' '})
		to := &size
		switch string(name) {
		case "size":
		case "c_min":
			to = &floor
		default:
			continue
		}
		_, value, _ := bytes.Cut(bytes.TrimSpace(rest), []byte{' '})
		if *to, ok = number(bytes.TrimSpace(value)); !ok {
			return 0, invalid(s.arcstats, line, "must be a name, a type and a number")
		}
	}
	return max(bounded(size)-bounded(floor), 0), nil
}

// readSwap fills in the machine's swap.
func (s *source) readSwap(m *tier.Memory, info meminfo, notes *[]string) error {
	switch err := s.readSwaps(m); {
	case missing(err):
		if info.swapTotal > 0 {
			*notes = append(*notes, noteSwapUnknown)
			m.CompressedSwapTotal, m.CompressedSwapFree = info.swapTotal, min(info.swapFree, info.swapTotal)
		}
	case err != nil:
		return err
	case m.CompressedSwapTotal > 0:
		*notes = append(*notes, noteZRAM)
	}
	pool, err := s.zswapPool(info)
	if err != nil || pool == 0 {
		return err
	}
	*notes = append(*notes, noteZswap)
	m.CompressedSwapTotal = m.CompressedSwapTotal.Plus(pool)
	m.CompressedSwapFree = m.CompressedSwapFree.Plus(pool - info.zswap)
	return nil
}

// readSwaps fills in the swap devices of /proc/swaps, those of zram apart: swap
// there is memory again and no capacity for weights, which do not compress.
func (s *source) readSwaps(m *tier.Memory) error {
	text, err := readUpTo(s.swaps, &s.buf, maxSmallFile)
	if err != nil {
		return err
	}
	_, devices, _ := bytes.Cut(text, []byte{'\n'}) // after the heading
	for line := range bytes.SplitSeq(devices, []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		// Name, type, size, use and priority; no field holds a blank.
		fields := bytes.Fields(line)
		if len(fields) < 5 {
			return invalid(s.swaps, line, "must hold five fields")
		}
		size, ok1 := number(fields[2])
		used, ok2 := number(fields[3])
		if !ok1 || !ok2 || size > math.MaxInt64>>10 {
			return invalid(s.swaps, line, "must give size and use in KiB that fit 63 bits")
		}
		total, free := &m.SwapTotal, &m.SwapFree
		if string(fields[1]) == "partition" && isZRAM(string(fields[0])) {
			total, free = &m.CompressedSwapTotal, &m.CompressedSwapFree
		}
		*total = total.Plus(tier.Bytes(size) * tier.KiB)
		*free = free.Plus(tier.Bytes(size-min(used, size)) * tier.KiB)
	}
	return nil
}

// isZRAM reports whether a device is called zram and a number, as the kernel
// names them all.
func isZRAM(device string) bool {
	digits, ok := strings.CutPrefix(filepath.Base(device), "zram")
	_, isNumber := number([]byte(digits))
	return ok && isNumber
}

// zswapPool returns the most memory that zswap takes; zero if there is none.
func (s *source) zswapPool(info meminfo) (tier.Bytes, error) {
	text, ok, err := readIfThere(s.zswapOn, &s.buf)
	if err != nil || !ok || !bytes.HasPrefix(text, []byte("Y")) {
		return info.zswap, err
	}
	text, ok, err = readIfThere(s.zswapShare, &s.buf)
	if err != nil || !ok {
		return info.zswap, err
	}
	share, ok := number(bytes.TrimRight(text, "\n"))
	if !ok || share > 100 {
		return 0, invalid(s.zswapShare, text, "must be a number from 0 to 100")
	}
	return max(info.total/100*tier.Bytes(share), info.zswap), nil
}

// readCounters returns the counters of the machine.
func (s *source) readCounters(notes *[]string) (c counters, err error) {
	text, ok, err := readIfThere(s.vmstat, &s.buf)
	switch {
	case err != nil:
		return c, err
	case !ok:
		*notes = append(*notes, noteNoRates)
		return c, nil
	}
	return parseVmstat(s.vmstat, text)
}

// readStalls fills in the shares of time in which tasks stalled: the larger of the
// machine's and of our own cgroup's, which signs keeps apart.
func (s *source) readStalls(p *tier.Pressure, signs *signs) (err error) {
	if signs.machine, err = readPSI(s.psi, &s.buf); err != nil {
		return err
	}
	if s.ownStalls != "" {
		if signs.own, err = readPSI(s.ownPSI, &s.buf); err != nil {
			return err
		}
	}
	switch {
	case signs.own.there:
		s.stallsOf = s.ownStalls
	case signs.machine.there:
		s.stallsOf = host
	default:
		s.stallsOf = ""
	}
	for _, psi := range [...]stalls{signs.machine, signs.own} {
		p.HasPSI = p.HasPSI || psi.there
		p.Some10, p.Some60 = max(p.Some10, psi.some10), max(p.Some60, psi.some60)
		p.Full10, p.Full60 = max(p.Full10, psi.full10), max(p.Full60, psi.full60)
	}
	return nil
}

// What a person should know about a reading.
const (
	noteNoPSI       = "The kernel has no pressure stall information: pressure is judged by refaults, direct reclaim and swap-out."
	noteNoRates     = "The kernel's vmstat cannot be read: there are no rates."
	noteCMA         = "A sixteenth or more of the memory is free CMA: memory of a device, and memory pinned for one, cannot be placed there."
	noteZFS         = "ZFS's cache above its floor counts as available: it shrinks on demand."
	noteZRAM        = "Swap on zram is memory again: it counts as no capacity."
	noteZswap       = "Zswap keeps swapped pages in memory: its pool counts as no capacity."
	noteSwapUnknown = "The list of swap devices cannot be read: all swap is taken for compressed memory."
	noteHidden      = "The cgroup of this process is outside of what it can see: limits up there are not known."
	noteUnreadable  = "The limit of a cgroup around this process may not be read: it is not known."
)
