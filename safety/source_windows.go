package safety

import (
	"context"
	"fmt"
	"syscall"
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

var globalMemoryStatusEx = syscall.NewLazyDLL("kernel32.dll").NewProc("GlobalMemoryStatusEx")

// askSystem counts as available the free and standby pages, as far as the commit
// limit lets one have them. Swap is what the page files add to that limit.
func askSystem(context.Context) (tier.Memory, error) {
	if err := globalMemoryStatusEx.Find(); err != nil {
		return tier.Memory{}, fmt.Errorf("GlobalMemoryStatusEx: %w", err)
	}
	st := memoryStatus{length: uint32(unsafe.Sizeof(memoryStatus{}))}
	if ok, _, err := globalMemoryStatusEx.Call(uintptr(unsafe.Pointer(&st))); ok == 0 {
		return tier.Memory{}, fmt.Errorf("GlobalMemoryStatusEx: %w", err)
	}
	m := tier.Memory{Total: bounded(st.totalPhysical), Source: "host"}
	m.Available = min(bounded(st.availablePhysical), bounded(st.availableCommit), m.Total)
	m.SwapTotal = max(bounded(st.totalCommit)-bounded(st.totalPhysical), 0)
	m.SwapFree = min(max(bounded(st.availableCommit)-bounded(st.availablePhysical), 0), m.SwapTotal)
	switch {
	case st.load >= highLoad:
		m.Pressure.Level = tier.PressureHigh
	case st.load >= mediumLoad:
		m.Pressure.Level = tier.PressureMedium
	}
	m.Notes = "The system has no figure of stalls: pressure is judged by the share of memory in use."
	return m, nil
}
