//go:build unix

package process

import (
	"cmp"
	"errors"
	"os/exec"
	"strconv"
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
		reaper: reaperCommand, room: room,
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

// reaperScript needs only a POSIX shell, and works better with rmdir and sleep. It
// kills the process group $1, and what is in the cgroup $2: by cgroup.kill if the
// kernel has it (5.14), otherwise one by one.
const reaperScript = `
trap '' HUP INT QUIT TERM
read -r end
kill -s KILL -- "-$1"
try=0
while [ -d "$2" ] && [ "$try" -lt 100 ]; do
	[ ! -e "$2/cgroup.kill" ] || echo 1 >"$2/cgroup.kill"
	while read -r pid; do
		kill -s KILL "$pid"
	done <"$2/cgroup.procs"
	rmdir "$2" && break
	sleep 0.02 || break
	try=$((try + 1))
done
`

func reaperCommand(pid int, cgroup string) (*exec.Cmd, error) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(sh, "-c", reaperScript, "modeltier-reaper", strconv.Itoa(pid), cgroup)
	cmd.Dir = "/"
	// A session of its own, out of reach of what a terminal or a supervisor sends to
	// ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}
