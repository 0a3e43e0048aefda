package safety

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// source reads the kernel's files. Its owner is whoever has the probe's turn.
type source struct {
	options ProbeOptions
	page    tier.Bytes
	buf     []byte

	meminfo, swaps, vmstat, pressure, zoneinfo file
	zswapOn, zswapShare                        file
	cgroup, mountinfo                          file

	// The layout: which cgroups bound us.
	groups     []*group
	laidOut    time.Time // zero: never, or it failed
	ownText    []byte    // of /proc/self/cgroup
	hidden     bool      // our own cgroup is outside of what we see
	unreadable bool      // a cgroup's limit may not be read

	rates rates
	judge judge

	noted noteSet
	notes []string
}

func newSource(o ProbeOptions) *source {
	or := func(s, other string) string {
		if s == "" {
			return other
		}
		return s
	}
	proc, sys := or(o.Proc, "/proc"), or(o.Sys, "/sys")
	return &source{
		options:    o,
		page:       tier.Bytes(os.Getpagesize()),
		meminfo:    file{path: proc + "/meminfo"},
		swaps:      file{path: proc + "/swaps"},
		vmstat:     file{path: proc + "/vmstat"},
		pressure:   file{path: proc + "/pressure/memory"},
		zoneinfo:   file{path: proc + "/zoneinfo"},
		cgroup:     file{path: proc + "/self/cgroup"},
		mountinfo:  file{path: proc + "/self/mountinfo"},
		zswapOn:    file{path: sys + "/module/zswap/parameters/enabled"},
		zswapShare: file{path: sys + "/module/zswap/parameters/max_pool_percent"},
	}
}

func (s *source) files() [9]*file {
	return [9]*file{
		&s.meminfo, &s.swaps, &s.vmstat, &s.pressure, &s.zoneinfo,
		&s.zswapOn, &s.zswapShare, &s.cgroup, &s.mountinfo,
	}
}

func (s *source) close() {
	for _, f := range s.files() {
		f.close()
	}
	s.closeGroups()
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
	// A cgroup went while we read it: we were moved.
	s.laidOut = time.Time{}
	if err := s.layOut(at); err != nil {
		return tier.Memory{}, err
	}
	return s.readAll(ctx, at)
}

func (s *source) readAll(ctx context.Context, at time.Time) (tier.Memory, error) {
	var m tier.Memory
	var notes noteSet
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
		notes.add(noteNoPSI)
	}
	s.judge = s.judge.next(at, m.Pressure, signs)
	m.Pressure.Level = s.judge.level
	m.Notes = s.say(notes)
	return m, nil
}

// readHost fills in what the machine as a whole has.
func (s *source) readHost(m *tier.Memory, notes *noteSet) (meminfo, error) {
	text, err := s.meminfo.read(&s.buf)
	if err != nil {
		return meminfo{}, err
	}
	info, err := parseMeminfo(s.meminfo.path, text)
	if err != nil {
		return meminfo{}, err
	}
	available := info.available
	if !info.hasAvailable {
		notes.add(noteEstimated)
		watermarks, err := s.watermarks(info.total)
		if err != nil {
			return meminfo{}, err
		}
		available = info.estimate(watermarks)
	}
	if s.options.DeviceMemory {
		available -= info.cmaFree
	} else if info.cmaFree >= info.total/16 {
		notes.add(noteCMA)
	}
	m.Total = info.total
	m.Available = min(max(available, 0), info.total)
	m.Source = "host"
	return info, nil
}

// watermarks returns what the kernel keeps to itself. Where it does not say, a
// 64th of the memory, which is more than a kernel keeps unless it is told to.
func (s *source) watermarks(total tier.Bytes) (tier.Bytes, error) {
	text, ok, err := s.zoneinfo.readIfThere(&s.buf)
	if err != nil {
		return 0, err
	}
	if !ok {
		return total / 64, nil
	}
	pages, err := parseWatermarks(s.zoneinfo.path, text)
	return min(tier.Bytes(pages), total/s.page) * s.page, err
}

// readSwap fills in the machine's swap.
func (s *source) readSwap(m *tier.Memory, info meminfo, notes *noteSet) error {
	text, ok, err := s.swaps.readIfThere(&s.buf)
	if err != nil {
		return err
	}
	if ok {
		space, err := parseSwaps(s.swaps.path, text)
		if err != nil {
			return err
		}
		m.SwapTotal, m.SwapFree = space.diskTotal, space.diskFree
		m.CompressedSwapTotal, m.CompressedSwapFree = space.zramTotal, space.zramFree
		if space.zramTotal > 0 {
			notes.add(noteZRAM)
		}
	} else if info.swapTotal > 0 {
		notes.add(noteSwapUnknown)
		m.CompressedSwapTotal, m.CompressedSwapFree = info.swapTotal, min(info.swapFree, info.swapTotal)
	}
	pool, err := s.zswapPool(info)
	if err != nil || pool == 0 {
		return err
	}
	notes.add(noteZswap)
	m.CompressedSwapTotal = m.CompressedSwapTotal.Plus(pool)
	m.CompressedSwapFree = m.CompressedSwapFree.Plus(pool - info.zswap)
	return nil
}

// zswapPool returns the most memory that zswap takes; zero where there is none.
func (s *source) zswapPool(info meminfo) (tier.Bytes, error) {
	text, ok, err := s.zswapOn.readIfThere(&s.buf)
	if err != nil || !ok || !bytes.HasPrefix(text, []byte("Y")) {
		return info.zswap, err
	}
	text, ok, err = s.zswapShare.readIfThere(&s.buf)
	if err != nil || !ok {
		return info.zswap, err
	}
	share, ok := number(bytes.TrimRight(text, "\n"))
	if !ok || share > 100 {
		return 0, invalid(s.zswapShare.path, text, "must be a number from 0 to 100")
	}
	return max(info.total/100*tier.Bytes(share), info.zswap), nil
}

// readWork fills in the machine's pressure and rates and returns its count of
// kills.
func (s *source) readWork(p *tier.Pressure, at time.Time, notes *noteSet) (kills uint64, err error) {
	text, ok, err := s.vmstat.readIfThere(&s.buf)
	if err != nil {
		return 0, err
	}
	if ok {
		c, err := parseVmstat(s.vmstat.path, text)
		if err != nil {
			return 0, err
		}
		s.rates.see(at, c, s.page)
		kills = c.kills
	} else {
		notes.add(noteNoRates)
	}
	p.Refault, p.SwapOut, p.Stalls = s.rates.refault, s.rates.swapOut, s.rates.stalls
	text, ok, err = s.pressure.readIfThere(&s.buf)
	if err != nil || !ok {
		return kills, err
	}
	return kills, parsePSI(s.pressure.path, text, p)
}

// apply bounds a reading by what one cgroup allows. Groups come from our own up.
func (b *bound) apply(m *tier.Memory, s *signs, g *group) {
	m.SwapTotal, m.SwapFree = min(m.SwapTotal, b.swapLimit), min(m.SwapFree, b.swapRoom)
	m.CompressedSwapTotal, m.CompressedSwapFree = min(m.CompressedSwapTotal, b.swapLimit), min(m.CompressedSwapFree, b.swapRoom)
	if !b.limited {
		return
	}
	m.Total = min(m.Total, b.limit)
	if b.room < m.Available {
		m.Available, m.Source = b.room, g.name
	}
	s.exhausted = s.exhausted || b.exhausted
	if !b.counted {
		return
	}
	// Version 2 counts what happened below as well, version 1 does not.
	if s.scope != "host" && !g.unified {
		b.kills, b.failures = b.kills+m.Pressure.OOMKills, b.failures+s.failures
	}
	s.scope, s.failures, m.Pressure.OOMKills = g.name, b.failures, b.kills
}
