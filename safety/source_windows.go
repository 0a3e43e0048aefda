package safety

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"github.com/modeltier/modeltier/tier"
)

// The system has no figure of stalls. It starts to trim working sets when little
// is left; these shares of memory in use are shortly before that.
const (
	highLoad   = 95 // per cent
	mediumLoad = 90
)

// memoryStatus is MEMORYSTATUSEX of sysinfoapi.h.
type memoryStatus struct {
	length, load                     uint32
	totalPhysical, availablePhysical uint64
	totalCommit, availableCommit     uint64
	totalVirtual, availableVirtual   uint64
	availableExtendedVirtual         uint64
}

// source asks the system with GlobalMemoryStatusEx.
type source struct {
	options ProbeOptions
	status  *syscall.LazyProc
}

func newSource(o ProbeOptions) *source {
	return &source{options: o, status: syscall.NewLazyDLL("kernel32.dll").NewProc("GlobalMemoryStatusEx")}
}

func (s *source) close() {}

func (s *source) describe(*ProbeStatus) {}

// read counts as available the free and standby pages, as far as the commit
// limit lets one have them. Swap is what the page files add to that limit.
func (s *source) read(context.Context, time.Time) (tier.Memory, error) {
	if s.options.Proc != "" || s.options.Sys != "" || s.options.Mounts != "" {
		return tier.Memory{}, fmt.Errorf("safety: this system has no proc file system to read: %w", errors.ErrUnsupported)
	}
	if err := s.status.Find(); err != nil {
		return tier.Memory{}, fmt.Errorf("GlobalMemoryStatusEx: %w", err)
	}
	st := memoryStatus{length: uint32(unsafe.Sizeof(memoryStatus{}))}
	if ok, _, err := s.status.Call(uintptr(unsafe.Pointer(&st))); ok == 0 {
		return tier.Memory{}, fmt.Errorf("GlobalMemoryStatusEx: %w", err)
	}
	bytes := func(n uint64) tier.Bytes { return tier.Bytes(min(n, uint64(tier.Unlimited))) }
	m := tier.Memory{Total: bytes(st.totalPhysical), Source: "host"}
	m.Available = min(bytes(st.availablePhysical), bytes(st.availableCommit), m.Total)
	m.SwapTotal = max(bytes(st.totalCommit)-bytes(st.totalPhysical), 0)
	m.SwapFree = min(max(bytes(st.availableCommit)-bytes(st.availablePhysical), 0), m.SwapTotal)
	switch {
	case st.load >= highLoad:
		m.Pressure.Level = tier.PressureHigh
	case st.load >= mediumLoad:
		m.Pressure.Level = tier.PressureMedium
	}
	m.Notes = "The system has no figure of stalls: pressure is judged by the share of memory in use."
	return m, nil
}
