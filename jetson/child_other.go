//go:build !linux

package jetson

import (
	"os"
	"os/exec"
	"syscall"
)

// There is no tegrastats but on Linux. What is here lets the package build, and
// run a program that prints the same lines.

func childAttributes() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) { _ = p.Kill() }

func byUs(e *exec.ExitError) bool { return !e.Exited() }
