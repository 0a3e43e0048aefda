package jetson

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// Swap is a swap device in use.
type Swap struct {
	Path string
	// Zram: compressed memory, which is no room at all for weights.
	Zram       bool
	Size, Used tier.Bytes
	Priority   int
	// Held is the memory that a zram device takes for what is in it; 0 for others.
	Held tier.Bytes
}

func (b *Board) readSwaps() error {
	pfs, err := procfs.NewFS(b.path("proc"))
	if err != nil {
		return err
	}
	swaps, err := pfs.Swaps()
	if err != nil {
		return err
	}
	for _, s := range swaps {
		swap := Swap{
			Path: s.Filename, Zram: isZram(s.Filename), Priority: s.Priority,
			Size: tier.Bytes(max(s.Size, 0)) * tier.KiB, Used: tier.Bytes(max(s.Used, 0)) * tier.KiB,
		}
		if swap.Zram {
			swap.Held = b.zramHeld(filepath.Base(s.Filename))
		}
		b.Swaps = append(b.Swaps, swap)
	}
	return nil
}

// zramHeld reads the third figure of mm_stat, mem_used_total in bytes (kernel:
// Documentation/admin-guide/blockdev/zram.rst).
func (b *Board) zramHeld(device string) tier.Bytes {
	line, err := readLine(b.path("sys", "block", device, "mm_stat"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(line)
	if len(fields) < 3 {
		return 0
	}
	n, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return tier.Bytes(n)
}

// SwapOn returns the size of all swap on disk and of all zram.
func (b *Board) SwapOn() (disk, zram tier.Bytes) {
	for _, s := range b.Swaps {
		if s.Zram {
			zram += s.Size
		} else {
			disk += s.Size
		}
	}
	return disk, zram
}
