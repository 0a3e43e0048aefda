//go:build unix

package ctl

import (
	"os"
	"syscall"
)

// fromTerminal reports whether a signal reached the programs of this terminal as well.
func fromTerminal(s os.Signal) bool { return s == os.Interrupt }

// terminate asks a process to end.
func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
