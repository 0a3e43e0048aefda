package jetson

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// descent finds the descendants of a child. A process is one if it is in the child's
// session, has the mark in its environment, or has a descendant as its parent. Only a
// process escapes that left the session, dropped its environment, and lost its parent
// before the survey. (A subreaper would catch that one too, but is a setting of the
// whole host program.)
type descent struct {
	mark   string // "NAME=value", in the child's environment and no other
	leader identity
	held   bool // the leader is not reaped, so its number belongs to it
	known  map[identity]bool
}

// identity tells a process from a later one with the same number. start is in
// clock ticks since boot.
type identity struct {
	pid   int
	start uint64
}

const markName = "MODELTIER_CHILD"

// prepare makes the child a session leader, so that a ^C at the host's terminal does
// not reach it, makes the kernel kill it when the host dies, and sets its mark.
func prepare(cmd *exec.Cmd) *descent {
	d := &descent{mark: markName + "=" + rand.Text(), known: make(map[identity]bool)}
	cmd.Env = append(os.Environ(), d.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	return d
}

func (d *descent) started(leader *os.Process) {
	d.leader = identity{leader.Pid, startOf(leader.Pid)}
}

// maxGrace is the time between SIGTERM and SIGKILL. maxSweeps bounds the search for
// descendants after it, to about 2 s; a count, because the clock jumps over a suspend,
// which gives them no time to exit.
const (
	maxGrace  = 500 * time.Millisecond
	maxSweeps = 45
)

// survey records the descendants before signals end their parents, which may be all
// that identifies them.
func (d *descent) survey() {
	d.held = isChild(d.leader.pid, unix.WNOHANG) && startOf(d.leader.pid) == d.leader.start
	d.find()
}

// end ends the child and its descendants, after survey. It does not reap the child,
// so that the number of its group and session cannot go to other processes.
func (d *descent) end() error {
	group := -d.leader.pid
	if d.held {
		_ = unix.Kill(group, unix.SIGTERM)
		exited := make(chan bool, 1)
		go func() { exited <- isChild(d.leader.pid, 0) }() // ends with the child
		select {
		case d.held = <-exited:
		case <-time.After(maxGrace):
			_ = unix.Kill(group, unix.SIGKILL)
			d.held = <-exited
		}
	}
	if d.held { // atomic, unlike the sweep: catches a group that keeps forking
		_ = unix.Kill(group, unix.SIGKILL)
	}
	pause := time.Millisecond
	for sweep := 1; ; sweep++ {
		alive := d.find()
		if len(alive) == 0 {
			return nil
		}
		if sweep == maxSweeps {
			return fmt.Errorf("%d processes that tegrastats started do not end, process %d among them", len(alive), alive[0].pid)
		}
		for _, one := range alive {
			one.kill()
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// isChild reports whether the process is a child that is not reaped yet; without
// WNOHANG, after waiting until it has exited. It is false if the host reaps all its
// children or ignores SIGCHLD.
func isChild(pid, options int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT|options, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// find returns the living descendants and the child, if it lives. It reaps dead ones
// that became children of this process, as happens if it is the first process of a
// container. It reads one file for each process of the machine, and at most 1 MiB of
// environment for each one younger than the child.
func (d *descent) find() []identity {
	self, err := procfs.Self()
	if err != nil || self.PID != os.Getpid() { // /proc of another PID namespace
		return nil
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return nil
	}
	ours := map[int]bool{d.leader.pid: d.held}
	var alive []identity
	var others []procfs.ProcStat
	add := func(s procfs.ProcStat) {
		id := identity{s.PID, s.Starttime}
		d.known[id], ours[s.PID] = true, true
		// A zombie with threads left is still running, and cannot be reaped yet.
		switch dead := (s.State == "Z" || s.State == "X") && s.NumThreads <= 1; {
		case !dead:
			alive = append(alive, id)
		case s.PPID == self.PID && id != d.leader:
			_, _ = unix.Wait4(s.PID, nil, unix.WNOHANG, nil)
		}
	}
	for _, p := range all {
		s, err := p.Stat()
		if err != nil || s.Starttime < d.leader.start {
			continue
		}
		if d.known[identity{s.PID, s.Starttime}] || d.held && s.Session == d.leader.pid || d.marked(p) {
			add(s)
		} else {
			others = append(others, s)
		}
	}
	for before := -1; before != len(others); { // a child may have a lower number than its parent
		before = len(others)
		others = slices.DeleteFunc(others, func(s procfs.ProcStat) bool {
			if ours[s.PPID] {
				add(s)
			}
			return ours[s.PID]
		})
	}
	return alive
}

// marked reports whether the environment has the mark. The environment of another
// user's process cannot be read.
func (d *descent) marked(p procfs.Proc) bool {
	env, err := p.Environ()
	return err == nil && slices.Contains(env, d.mark)
}

// kill kills the process unless its number now belongs to another one. FindProcess
// holds the process (pidfd, Linux 5.3), so the number cannot change between check and
// signal; older kernels leave that gap.
func (id identity) kill() {
	p, err := os.FindProcess(id.pid)
	if err != nil {
		return
	}
	defer func() { _ = p.Release() }()
	if startOf(id.pid) == id.start {
		_ = p.Kill()
	}
}

// startOf returns the start time of a process; 0 if /proc does not have it.
func startOf(pid int) uint64 {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	s, err := p.Stat()
	if err != nil {
		return 0
	}
	return s.Starttime
}

// killed reports whether the child died of a signal that end sends.
func killed(e *exec.ExitError) bool {
	s, ok := e.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && (s.Signal() == syscall.SIGTERM || s.Signal() == syscall.SIGKILL)
}
