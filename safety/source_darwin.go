package safety

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// askSystem asks the kernel with sysctl. It counts as available what is free, what programs marked purgeable, and
// pages of files, which the kernel drops first. Pages of the compressor are not
// available, and swap is what the swap files on disk have.
func askSystem(ctx context.Context) (tier.Memory, error) {
	total, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return tier.Memory{}, fmt.Errorf("sysctl hw.memsize: %w", err)
	}
	m := tier.Memory{Total: bounded(total), Source: "host"}
	for _, name := range [...]string{"vm.page_free_count", "vm.page_purgeable_count", "vm.page_pageable_external_count"} {
		pages, err := unix.SysctlUint32(name)
		if err != nil {
			return tier.Memory{}, fmt.Errorf("sysctl %s: %w", name, err)
		}
		m.Available += tier.Bytes(pages) * tier.Bytes(os.Getpagesize())
	}
	m.Available = min(m.Available, m.Total)
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	// struct xsw_usage: total, available, used, each of 64 bits (sys/sysctl.h).
	if raw, err := unix.SysctlRaw("vm.swapusage"); err == nil && len(raw) >= 16 {
		swap := binary.LittleEndian.Uint64(raw)
		free := binary.LittleEndian.Uint64(raw[8:])
		m.SwapTotal, m.SwapFree = bounded(swap), bounded(min(free, swap))
	}
	level, err := unix.SysctlUint32("kern.memorystatus_vm_pressure_level")
	switch {
	case err != nil:
		m.Notes = "The kernel does not tell its memory pressure."
	case level >= 4: // critical
		m.Pressure.Level = tier.PressureHigh
	case level >= 2: // warning
		m.Pressure.Level = tier.PressureMedium
	}
	return m, nil
}
