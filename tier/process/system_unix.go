//go:build unix

package process

import (
	"cmp"
	"errors"
	"os/exec"
	"syscall"
)

// unixSystem returns what every Unix can do.
func unixSystem() *system {
	return &system{
		name:    "unix",
		isolate: func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} },
		// A stopped process is killed by SIGKILL as any other is.
		terminate: sending(syscall.SIGTERM), kill: sending(syscall.SIGKILL),
		suspend: sending(syscall.SIGSTOP), resume: sending(syscall.SIGCONT),
		reaper: reaperCommand,
	}
}

// sending returns a function that sends sig to the group that pid leads and to others.
// It is no error if a process has exited.
func sending(sig syscall.Signal) func(pid int, others []int) error {
	return func(pid int, others []int) error {
		err := send(-pid, sig)
		for _, other := range others {
			err = cmp.Or(err, send(other, sig))
		}
		return err
	}
}

func send(pid int, sig syscall.Signal) error {
	if pid == 0 || pid == 1 || pid == -1 {
		return syscall.EINVAL // this process group, the first process, every process
	}
	if err := syscall.Kill(pid, sig); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
