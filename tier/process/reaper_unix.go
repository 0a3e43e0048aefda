//go:build unix

package process

import (
	"os/exec"
	"strconv"
	"syscall"
)

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
