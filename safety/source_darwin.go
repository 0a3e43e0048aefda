package safety

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// source asks the kernel with sysctl.
type source struct {
	options ProbeOptions
	page    tier.Bytes
}

func newSource(o ProbeOptions) *source {
	return &source{options: o, page: tier.Bytes(os.Getpagesize())}
}

func (s *source) close() {}

func (s *source) describe(*ProbeStatus) {}

// read counts as available what is free, what programs marked purgeable, and
// pages of files, which the kernel drops first. Pages of the compressor are not
// available, and swap is what the swap files on disk have.
func (s *source) read(ctx context.Context, _ time.Time) (tier.Memory, error) {
	if s.options.Proc != "" || s.options.Sys != "" || s.options.Mounts != "" {
		return tier.Memory{}, fmt.Errorf("safety: this system has no proc file system to read: %w", errors.ErrUnsupported)
	}
	total, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return tier.Memory{}, fmt.Errorf("sysctl hw.memsize: %w", err)
	}
	m := tier.Memory{Total: tier.Bytes(min(total, uint64(tier.Unlimited))), Source: "host"}
	for _, name := range [...]string{"vm.page_free_count", "vm.page_purgeable_count", "vm.page_pageable_external_count"} {
		pages, err := unix.SysctlUint32(name)
		if err != nil {
			return tier.Memory{}, fmt.Errorf("sysctl %s: %w", name, err)
		}
		m.Available += tier.Bytes(pages) * s.page
	}
	m.Available = min(m.Available, m.Total)
	if ctx.Err() != nil {
		return tier.Memory{}, context.Cause(ctx)
	}
	// struct xsw_usage: total, available, used, each of 64 bits (sys/sysctl.h).
	if raw, err := unix.SysctlRaw("vm.swapusage"); err == nil && len(raw) >= 16 {
		swap := binary.LittleEndian.Uint64(raw)
		free := binary.LittleEndian.Uint64(raw[8:])
		m.SwapTotal = tier.Bytes(min(swap, uint64(tier.Unlimited)))
		m.SwapFree = tier.Bytes(min(free, swap, uint64(tier.Unlimited)))
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
