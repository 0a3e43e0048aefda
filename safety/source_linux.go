package safety

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// source reads the kernel's files. It belongs to the holder of the probe's turn.
type source struct {
	options   ProbeOptions
	proc, sys string
	page      tier.Bytes
	buf       []byte

	// The paths of files.
	vmstat, zswapOn, zswapShare, cgroup, mountinfo string

	// The layout: which cgroups bound this process.
	groups     []*group
	unified    bool      // they are of version 2
	laidOut    time.Time // zero: never, or it failed
	ownText    []byte    // of /proc/self/cgroup
	hidden     bool      // this process's cgroup is outside of what it can see
	unreadable bool      // a cgroup's limit may not be read

	rates rates
	judge judge
}

func newSource(o ProbeOptions) *source {
	proc, sys := cmp.Or(o.Proc, procfs.DefaultMountPoint), cmp.Or(o.Sys, "/sys")
	return &source{
		options: o, proc: proc, sys: sys, page: tier.Bytes(os.Getpagesize()),
		vmstat: proc + "/vmstat", cgroup: proc + "/self/cgroup", mountinfo: proc + "/self/mountinfo",
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
	kills, err := s.readWork(&m.Pressure, at, &notes)
	if err != nil {
		return tier.Memory{}, err
	}
	signs := signs{scope: "host", reclaiming: s.rates.reclaiming}
	strict := m.Available
	m.Pressure.OOMKills = kills
	for i, g := range s.groups {
		if i%8 == 0 && ctx.Err() != nil {
			return tier.Memory{}, context.Cause(ctx)
		}
		b, err := g.read(&s.buf, info.total, &m.Pressure)
		if err != nil {
			return tier.Memory{}, err
		}
		b.apply(&m, &signs, g)
		if b.limited {
			strict = min(strict, b.strict)
		}
	}
	m.Active = m.Available - min(strict, m.Available)
	if !m.Pressure.HasPSI {
		notes = append(notes, noteNoPSI)
	}
	if s.hidden {
		notes = append(notes, noteHidden)
	}
	if s.unreadable {
		notes = append(notes, noteUnreadable)
	}
	s.judge = s.judge.next(at, m.Pressure, signs)
	m.Pressure.Level = s.judge.level
	m.Notes = m.Notes.With(notes...)
	return m, nil
}

// meminfo is the fields of /proc/meminfo that count here.
type meminfo struct {
	total, available    tier.Bytes
	swapTotal, swapFree tier.Bytes
	zswap               tier.Bytes // memory that zswap takes
	cmaFree             tier.Bytes
}

// readMeminfo reads /proc/meminfo below the folder proc.
func readMeminfo(proc string) (meminfo, error) {
	path := proc + "/meminfo"
	of, err := parsed(proc, "meminfo", procfs.FS.Meminfo)
	if err != nil {
		return meminfo{}, err
	}
	var m meminfo
	for _, f := range [...]struct {
		kB, bytes *uint64
		to        *tier.Bytes
	}{
		{of.MemTotal, of.MemTotalBytes, &m.total},
		{of.MemAvailable, of.MemAvailableBytes, &m.available},
		{of.SwapTotal, of.SwapTotalBytes, &m.swapTotal},
		{of.SwapFree, of.SwapFreeBytes, &m.swapFree},
		{of.Zswap, of.ZswapBytes, &m.zswap},
		{of.CmaFree, of.CmaFreeBytes, &m.cmaFree},
	} {
		switch {
		case f.kB == nil:
		case *f.bytes>>10 != *f.kB, *f.bytes > math.MaxInt64: // procfs lets a product wrap around, and a unit be absent
			return meminfo{}, invalid(path, fmt.Append(nil, *f.kB), "must be a number of kB that fits 63 bits")
		default:
			*f.to = tier.Bytes(*f.bytes)
		}
	}
	switch {
	case m.total == 0:
		return meminfo{}, invalid(path, nil, "must hold a MemTotal above 0")
	case of.MemAvailable == nil:
		return meminfo{}, invalid(path, nil, "must hold MemAvailable, as it does since Linux 3.14")
	}
	return m, nil
}

// readHost fills in what the machine as a whole has.
func (s *source) readHost(m *tier.Memory, notes *[]string) (meminfo, error) {
	info, err := readMeminfo(s.proc)
	if err != nil {
		return meminfo{}, err
	}
	available := info.available
	if s.options.DeviceMemory {
		available = available.Minus(info.cmaFree)
	} else if info.cmaFree >= info.total/16 {
		*notes = append(*notes, noteCMA)
	}
	m.Total = info.total
	m.Available = min(max(available, 0), info.total)
	m.Source = "host"
	return info, nil
}

// readSwap fills in the machine's swap.
func (s *source) readSwap(m *tier.Memory, info meminfo, notes *[]string) error {
	switch err := readSwaps(s.proc, m); {
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
func readSwaps(proc string, m *tier.Memory) error {
	path := proc + "/swaps"
	devices, err := parsed(proc, "swaps", procfs.FS.Swaps)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if d.Size < 0 || d.Used < 0 || int64(d.Size) > math.MaxInt64>>10 {
			return invalid(path, fmt.Append(nil, *d), "must give size and use in KiB that fit 63 bits")
		}
		total, free := &m.SwapTotal, &m.SwapFree
		if d.Type == "partition" && isZRAM(d.Filename) {
			total, free = &m.CompressedSwapTotal, &m.CompressedSwapFree
		}
		*total = total.Plus(tier.Bytes(d.Size) * tier.KiB)
		*free = free.Plus(tier.Bytes(max(d.Size-d.Used, 0)) * tier.KiB)
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

// readWork fills in the machine's pressure and rates and returns its count of
// kills.
func (s *source) readWork(p *tier.Pressure, at time.Time, notes *[]string) (kills uint64, err error) {
	text, ok, err := readIfThere(s.vmstat, &s.buf)
	if err != nil {
		return 0, err
	}
	if ok {
		c, err := parseVmstat(s.vmstat, text)
		if err != nil {
			return 0, err
		}
		s.rates.see(at, c, s.page)
		kills = c.kills
	} else {
		*notes = append(*notes, noteNoRates)
	}
	p.Refault, p.SwapOut, p.Stalls = s.rates.refault, s.rates.swapOut, s.rates.stalls
	return kills, raisePSI(s.proc, "pressure/memory", p)
}

// What a person should know about a reading.
const (
	noteNoPSI       = "The kernel has no pressure stall information: pressure is judged by refaults, direct reclaim and swap-out."
	noteNoRates     = "The kernel's vmstat cannot be read: there are no rates."
	noteCMA         = "A sixteenth or more of the memory is free CMA: memory of a device, and memory pinned for one, cannot be placed there."
	noteZRAM        = "Swap on zram is memory again: it counts as no capacity."
	noteZswap       = "Zswap keeps swapped pages in memory: its pool counts as no capacity."
	noteSwapUnknown = "The list of swap devices cannot be read: all swap is taken for compressed memory."
	noteHidden      = "The cgroup of this process is outside of what it can see: limits up there are not known."
	noteUnreadable  = "The limit of a cgroup around this process may not be read: it is not known."
)
