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
		var err error
		if pid != 0 {
			err = send(-pid, sig)
		}
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

// reaperScript needs only a POSIX shell, and works better with rmdir and sleep. It kills
// the process group $1. Of an engine that is not our child it runs in the folder $3 the
// commands $4, for at most 5 s, and $5, for at most $7 times reaperPoll, both in the cgroup
// $2, and kills the processes that the last line of its input names, unless they started
// at another time. In the end it kills what is in the cgroup: by cgroup.kill if the kernel
// has it (5.14), otherwise one by one. $6 is the mark of the engine.
const reaperScript = `
trap '' HUP INT QUIT TERM
seen=
while read -r line; do
	seen=$line
done
kill -s KILL -- "-$1"
cgroup=$2 dir=${3:-/} mark=$6 limit=$7
run() {
	[ -n "$1" ] || return 0
	(
		[ ! -d "$cgroup" ] || echo 0 >"$cgroup/cgroup.procs"
		export ` + markName + `="$mark"
		cd "$dir" && eval "exec $1"
	) </dev/null &
	job=$!
	(
		try=0
		while [ "$try" -lt "$2" ] && kill -s 0 "$job"; do
			sleep 0.05 || break
			try=$((try + 1))
		done
		kill -s KILL "$job"
	) &
	watcher=$!
	wait "$job"
	status=$?
	kill -s KILL "$watcher"
	return "$status"
}
run "$4" 100
run "$5" "$limit" || { sleep 0.25; run "$5" "$limit"; } || { sleep 0.5; run "$5" "$limit"; }
for one in $seen; do
	read -r stat <"/proc/${one%:*}/stat" || continue
	set -- ${stat##*) }
	[ "${20}" != "${one#*:}" ] || kill -s KILL "${one%:*}"
done
try=0
while [ -d "$cgroup" ] && [ "$try" -lt 100 ]; do
	[ ! -e "$cgroup/cgroup.kill" ] || echo 1 >"$cgroup/cgroup.kill"
	while read -r pid; do
		kill -s KILL "$pid"
	done <"$cgroup/cgroup.procs"
	rmdir "$cgroup" && break
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
