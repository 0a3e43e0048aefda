//go:build unix

package process

import (
	"os/exec"
	"syscall"
)

// reaperScript needs only a POSIX shell, and works better with rmdir and sleep. It
// kills process groups, and what is in the cgroups under $1: by cgroup.kill if the
// kernel has it (5.14), otherwise one by one.
const reaperScript = `
trap '' HUP INT QUIT TERM
pids=
while read -r verb pid; do
	case $verb in
	+) pids="$pids $pid" ;;
	-)
		rest=
		for p in $pids; do
			[ "$p" = "$pid" ] || rest="$rest $p"
		done
		pids=$rest
		;;
	esac
done
for p in $pids; do
	kill -s KILL -- "-$p"
done
try=0
while [ -n "$1" ] && [ -d "$1" ] && [ "$try" -lt 100 ]; do
	[ ! -e "$1/cgroup.kill" ] || echo 1 >"$1/cgroup.kill"
	for procs in "$1"/*/cgroup.procs; do
		while read -r pid; do
			kill -s KILL "$pid"
		done <"$procs"
	done
	rmdir "$1"/*/ "$1" && break
	sleep 0.02 || break
	try=$((try + 1))
done
`

func reaperCommand(cgroups string) (*exec.Cmd, error) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(sh, "-c", reaperScript, "modeltier-reaper", cgroups)
	cmd.Dir = "/"
	// A session of its own, out of reach of what a terminal or a supervisor sends to
	// ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}
