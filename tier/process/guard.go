package process

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// guard is a small process that reads from us which groups of processes are
// alive, and kills them when the pipe ends, which it does when we are gone,
// however that came. The kernel kills an engine with its maker, but not what the
// engine has started; that is the guard's.
type guard struct {
	sys *system
	log *slog.Logger
	// cages returns the folder of the engines' cgroups, "" for none. It is made
	// with the first engine that gets one.
	cages func() string

	waits sync.WaitGroup // for the end of guards

	mu    sync.Mutex       // guards the rest; lines are written under it, to be in order
	pids  map[int]struct{} // of the leaders
	knows string           // the folder of cgroups that it was started with
	cmd   *exec.Cmd        // nil: it does not run
	in    *os.File
	gone  chan struct{} // closed when it has ended
	err   error         // why there is none

	replaced time.Time // when one that had ended by itself was
}

// guardPatience is how long the guard may take to read a line.
const guardPatience = time.Second

// watch adds a group. Where there is no guard to be had, that is logged and shows
// in Status: the kernel and the sweep are still there.
func (g *guard) watch(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pids[pid] = struct{}{}
	if g.cages() != g.knows {
		g.end(true) // for another, as it cannot learn of a folder
	}
	g.tell("+", pid)
}

// drop forgets a group, which has ended.
func (g *guard) drop(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pids, pid)
	if g.cmd != nil {
		g.tell("-", pid)
	}
}

// tell sends a line to the guard. One that does not take it is replaced: it must
// not go by what it last heard.
func (g *guard) tell(verb string, pid int) {
	if g.cmd != nil && g.write(verb, pid) == nil {
		return
	}
	g.end(true)
	g.renew()
}

// renew starts a guard where there is something to guard.
func (g *guard) renew() {
	if g.sys.guard == nil || len(g.pids) == 0 {
		return
	}
	if g.err = g.start(); g.err != nil {
		g.end(true)
		g.log.Warn("engines have no guard", "err", g.err)
	}
}

func (g *guard) write(verb string, pid int) error {
	g.in.SetWriteDeadline(time.Now().Add(guardPatience))
	_, err := io.WriteString(g.in, fmt.Sprintln(verb, pid))
	return err
}

func (g *guard) start() error {
	g.knows = g.cages()
	cmd, err := g.sys.guard(g.knows)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		return errors.Join(err, w.Close())
	}
	gone := make(chan struct{})
	g.cmd, g.in, g.gone = cmd, w, gone
	g.waits.Go(func() {
		err := cmd.Wait()
		close(gone)
		g.ended(cmd, err)
	})
	for pid := range g.pids {
		if err := g.write("+", pid); err != nil {
			return err
		}
	}
	return nil
}

// ended replaces a guard that has ended though nobody ended it. If that happens
// again at once, there is none until the next engine starts.
func (g *guard) ended(cmd *exec.Cmd, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd != cmd {
		return
	}
	g.end(true)
	if len(g.pids) == 0 {
		return
	}
	g.err = fmt.Errorf("it ended: %w", cmp.Or(why, errors.New("exit status 0")))
	g.log.Warn("the guard of engines has ended", "err", g.err)
	if time.Since(g.replaced) < guardPatience {
		return
	}
	g.replaced = time.Now()
	g.renew()
}

// end ends the guard. It then kills the groups that it knows of, unless it is
// silenced.
func (g *guard) end(silenced bool) {
	if g.cmd == nil {
		return
	}
	if silenced {
		g.cmd.Process.Kill()
	}
	g.in.Close()
	<-g.gone
	g.cmd, g.in = nil, nil
}

func (g *guard) close() {
	g.mu.Lock()
	g.end(false)
	g.mu.Unlock()
	g.waits.Wait()
}

// state says whether there is a guard, in words.
func (g *guard) state() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.sys.guard == nil:
		return "none: this system has no shell"
	case g.err != nil:
		return "none: " + g.err.Error()
	case g.cmd == nil:
		return "starts with the next engine"
	}
	return "runs"
}
