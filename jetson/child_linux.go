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

// descent finds the processes that a child started, directly or not. Any of these
// marks one: it is in the child's session, it inherited the mark in its
// environment, or its parent is marked. What escapes is a process that did all of
// this before it was looked for: left the session, dropped the environment, and
// lost its parent.
type descent struct {
	mark   string // "NAME=value", in the child's environment and no other
	leader identity
	held   bool // the leader is not reaped: its number, and so that of its session, is its own
	known  map[identity]bool
}

// identity tells a process from a later one with the same number. start is in
// clock ticks since boot.
type identity struct {
	pid   int
	start uint64
}

// markName must not contain "tegrastats" or anything else that "--stop" looks for.
const markName = "MODELTIER_CHILD"

// prepare gives the child a session of its own, so that a ^C at the host's
// terminal does not reach it, has the kernel kill it when the host dies, and marks
// its environment.
func prepare(cmd *exec.Cmd) *descent {
	d := &descent{mark: markName + "=" + rand.Text(), known: make(map[identity]bool)}
	cmd.Env = append(os.Environ(), d.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	return d
}

func (d *descent) started(leader *os.Process) {
	d.leader = identity{leader.Pid, startOf(leader.Pid)}
}

// Limits of ending: how long the child may take to follow SIGTERM, and how long
// its descendants are hunted after SIGKILL.
const (
	grace     = 500 * time.Millisecond
	sweepTime = 2 * time.Second
)

// survey notes the descendants that are there while their parents are: a child
// whose parent died may have no other mark.
func (d *descent) survey() {
	d.held = isChild(d.leader.pid, unix.WNOHANG) && startOf(d.leader.pid) == d.leader.start
	d.find()
}

// end ends the child and its descendants, after survey. It leaves the child for
// its parent to reap.
func (d *descent) end() error {
	group := -d.leader.pid
	if d.held {
		_ = unix.Kill(group, unix.SIGTERM)
		exited := make(chan bool, 1)
		go func() { exited <- isChild(d.leader.pid, 0) }() // ends with the child
		select {
		case d.held = <-exited:
		case <-time.After(grace):
			_ = unix.Kill(group, unix.SIGKILL)
			d.held = <-exited
		}
	}
	if d.held { // at one stroke, as a process that forks all the time calls for
		_ = unix.Kill(group, unix.SIGKILL)
	}
	began := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		alive := d.find()
		if len(alive) == 0 {
			return nil
		}
		if time.Since(began) > sweepTime {
			return fmt.Errorf("%d processes that tegrastats started do not end, process %d among them", len(alive), alive[0].pid)
		}
		for _, one := range alive {
			one.kill()
		}
		time.Sleep(pause)
	}
}

// isChild reports whether the process is a child of this one that is not reaped
// yet. Without WNOHANG it waits until the child has exited. It is false if other
// code has reaped the child: a host that waits for all its children or ignores
// SIGCHLD.
func isChild(pid, options int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT|options, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// find returns the descendants that are alive, the child included. It reaps those that became children of this process, as happens in a
// container whose first process this is. Its cost is one look at each process of
// the machine, and a read of at most 1 MiB for each that is younger than the
// child.
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
		switch dead := s.State == "Z" || s.State == "X"; {
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

// marked reports whether the environment has the mark. That of another user's
// process cannot be read, and is not ours to end.
func (d *descent) marked(p procfs.Proc) bool {
	env, err := p.Environ()
	return err == nil && slices.Contains(env, d.mark)
}

// kill ends the process unless its number has gone to another. FindProcess holds
// the process itself (pidfd, Linux 5.3), so that the number cannot change hands
// between the look and the signal; older kernels leave that gap.
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

// startOf returns when the process was started; 0 if /proc does not say.
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
