package jetson

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes gives the child a process group of its own, so that a ^C at
// our terminal is ours to handle and all it starts can be ended with it, and has
// the kernel end it when we die, however we die.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// terminate asks the group to end. The child is not waited for yet, so its number
// cannot have gone to another.
func terminate(p *os.Process) { _ = unix.Kill(-p.Pid, unix.SIGTERM) }

// byUs reports whether the child died of a signal that terminate or a kill sends.
func byUs(e *exec.ExitError) bool {
	s, ok := e.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && (s.Signal() == syscall.SIGTERM || s.Signal() == syscall.SIGKILL)
}
