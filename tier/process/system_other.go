//go:build !unix

package process

import (
	"os"
	"os/exec"
	"runtime"
)

// newSystem returns what can be done anywhere: engines are started and killed.
func newSystem() *system {
	return &system{
		name: "portable", kernel: runtime.GOOS,
		isolate: func(*exec.Cmd) {},
		kill: func(pid int, _ []int) error {
			p, err := os.FindProcess(pid)
			if err != nil {
				return nil // it has exited
			}
			defer p.Release()
			return p.Kill()
		},
	}
}
