package jetson

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// ownBytes reads /proc/meminfo.
type ownBytes struct{ proc string }

func (o ownBytes) Memory(ctx context.Context) (tier.Memory, error) {
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	return readMemory(o.proc, time.Now())
}

// errNoAvailable: the kernel is older than 3.14.
var errNoAvailable = errors.New("/proc/meminfo has no MemAvailable")

// readMemory reads the machine's memory from the proc file system at proc.
func readMemory(proc string, now time.Time) (tier.Memory, error) {
	pfs, err := procfs.NewFS(proc)
	if err != nil {
		return tier.Memory{}, fmt.Errorf("jetson: %w", err)
	}
	info, err := pfs.Meminfo()
	if err != nil {
		return tier.Memory{}, fmt.Errorf("jetson: reading meminfo: %w", err)
	}
	if info.MemTotalBytes == nil || info.MemAvailableBytes == nil {
		return tier.Memory{}, fmt.Errorf("jetson: %w", errNoAvailable)
	}
	m := tier.Memory{
		At:        now,
		Total:     bytes(info.MemTotalBytes),
		Available: min(bytes(info.MemAvailableBytes), bytes(info.MemTotalBytes)),
		Source:    "host",
	}
	swaps, err := pfs.Swaps()
	if err != nil {
		m.Notes = append(m.Notes, "Swap is not known: "+err.Error()+".")
	}
	for _, s := range swaps {
		size := tier.Bytes(max(s.Size, 0)) * tier.KiB
		free := max(size-tier.Bytes(max(s.Used, 0))*tier.KiB, 0)
		if isZram(s.Filename) {
			m.CompressedSwapTotal += size
			m.CompressedSwapFree += free
		} else {
			m.SwapTotal += size
			m.SwapFree += free
		}
	}
	// JetPack 6 is built without pressure stall information.
	if psi, err := pfs.PSIStatsForResource("memory"); err == nil && psi.Some != nil && psi.Full != nil {
		m.Pressure = tier.Pressure{
			HasPSI: true,
			Some10: psi.Some.Avg10, Some60: psi.Some.Avg60,
			Full10: psi.Full.Avg10, Full60: psi.Full.Avg60,
		}
		m.Pressure.Level = level(m.Pressure)
	} else {
		m.Notes = append(m.Notes, "This kernel has no pressure stall information: pressure is not known.")
	}
	return m, nil
}

// level judges pressure by the share of time that tasks stalled. The bounds lie
// well inside the 60 % at which systemd-oomd begins to kill.
func level(p tier.Pressure) tier.PressureLevel {
	switch {
	case p.Full10 >= 5 || p.Some10 >= 20:
		return tier.PressureHigh
	case p.Some10 >= 5:
		return tier.PressureMedium
	}
	return tier.PressureLow
}

func bytes(n *uint64) tier.Bytes { return tier.Bytes(min(*n, math.MaxInt64)) }

func isZram(device string) bool { return strings.HasPrefix(device, "/dev/zram") }
