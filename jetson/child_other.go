//go:build !linux

package jetson

import (
	"os"
	"os/exec"
)

// descent ends the child alone. tegrastats exists on Linux only; this lets the package
// build, and run a program that prints the same lines.
type descent struct{ leader *os.Process }

func prepare(*exec.Cmd) *descent { return &descent{} }

func (d *descent) started(leader *os.Process) { d.leader = leader }

func (d *descent) survey() {}

func (d *descent) end() error {
	_ = d.leader.Kill() // fails only if it has ended
	return nil
}

func killed(e *exec.ExitError) bool { return !e.Exited() }
