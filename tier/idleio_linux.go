package tier

import (
	"runtime"
	"syscall"
)

// idleIO locks the calling goroutine to its thread and puts that into the idle class of
// ioprio_set(2). restore, on any goroutine, gives the thread its class again, and reports
// whether it could; nil: the kernel does not allow it.
func idleIO() (restore func() bool) {
	const (
		whoProcess = 1       // IOPRIO_WHO_PROCESS: one thread
		idleClass  = 3 << 13 // IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT
	)
	runtime.LockOSThread()
	thread := uintptr(syscall.Gettid())
	set := func(class uintptr) bool {
		_, _, errno := syscall.Syscall(syscall.SYS_IOPRIO_SET, whoProcess, thread, class)
		return errno == 0
	}
	old, _, errno := syscall.Syscall(syscall.SYS_IOPRIO_GET, whoProcess, thread, 0)
	if errno != 0 || !set(idleClass) {
		runtime.UnlockOSThread()
		return nil
	}
	return func() bool { return set(old) }
}
