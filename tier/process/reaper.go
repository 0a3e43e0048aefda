package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// reaper is a small process that reads from us which process groups are alive, and
// kills them when the pipe ends, which it does whenever and however we end. The
// kernel kills an engine with the process that started it, but not what the engine
// has started; the reaper does.
type reaper struct {
	sys *system
	log *slog.Logger
	// cgroups returns the folder of the engines' cgroups, "" for none. It is created
	// with the first engine that gets one.
	cgroups func() string

	waits sync.WaitGroup         // for reapers to exit
	says  atomic.Pointer[string] // its state in words; nil: it is not started yet

	mu       sync.Mutex       // guards the rest; lines are written under it, to be in order
	pids     map[int]struct{} // of the leaders
	knows    string           // the folder of cgroups that it was started with
	cmd      *exec.Cmd        // nil: it does not run
	in       *os.File
	exited   chan struct{} // closed when it has exited
	replaced time.Time     // when one that had exited by itself was
}

// reaperPatience is how long the reaper may take to read a line.
const reaperPatience = time.Second

// watch adds a process group. If no reaper can be started, that is logged and shows in
// Status: the kernel and the records still keep orphans away.
func (r *reaper) watch(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pids[pid] = struct{}{}
	if r.cgroups() != r.knows {
		r.end(true) // it cannot learn of a folder, and is replaced
	}
	r.tell("+", pid)
}

// drop removes a process group of which nothing is left.
func (r *reaper) drop(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pids, pid)
	if r.cmd != nil {
		r.tell("-", pid)
	}
}

// tell sends a line to the reaper. One that does not read it is replaced, as it must
// not act on what it was told before.
func (r *reaper) tell(verb string, pid int) {
	if r.cmd != nil && r.write(verb, pid) == nil {
		return
	}
	r.end(true)
	r.renew()
}

// renew starts a reaper if there are processes to watch.
func (r *reaper) renew() {
	if r.sys.reaper == nil || len(r.pids) == 0 {
		r.say("starts with the next engine")
		return
	}
	if err := r.start(); err != nil {
		r.end(true)
		r.say("none: " + err.Error())
		r.log.Warn("engines have no reaper", "err", err)
		return
	}
	r.say("runs")
}

func (r *reaper) say(state string) { r.says.Store(&state) }

func (r *reaper) write(verb string, pid int) error {
	r.in.SetWriteDeadline(time.Now().Add(reaperPatience))
	_, err := io.WriteString(r.in, fmt.Sprintln(verb, pid))
	return err
}

func (r *reaper) start() error {
	r.knows = r.cgroups()
	cmd, err := r.sys.reaper(r.knows)
	if err != nil {
		return err
	}
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	cmd.Stdin = in
	if err := cmd.Start(); err != nil {
		return errors.Join(err, out.Close())
	}
	exited := make(chan struct{})
	r.cmd, r.in, r.exited = cmd, out, exited
	r.waits.Go(func() {
		err := cmd.Wait()
		close(exited)
		r.afterExit(cmd, err)
	})
	for pid := range r.pids {
		if err := r.write("+", pid); err != nil {
			return err
		}
	}
	return nil
}

// afterExit replaces a reaper that exited though it was not ended. If that repeats at
// once, there is none until the next engine starts.
func (r *reaper) afterExit(cmd *exec.Cmd, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != cmd {
		return
	}
	r.end(true)
	err := fmt.Errorf("it exited: %w", cmp.Or(why, errors.New("exit status 0")))
	r.say("none: " + err.Error())
	if len(r.pids) == 0 {
		return
	}
	r.log.Warn("the reaper of engines has exited", "err", err)
	if time.Since(r.replaced) < reaperPatience {
		return
	}
	r.replaced = time.Now()
	r.renew()
}

// end ends the reaper. It then kills the groups that it knows of, unless it is
// silenced.
func (r *reaper) end(silenced bool) {
	if r.cmd == nil {
		return
	}
	if silenced {
		r.cmd.Process.Kill()
	}
	r.in.Close()
	<-r.exited
	r.cmd, r.in = nil, nil
}

func (r *reaper) close() {
	r.mu.Lock()
	r.end(false)
	r.mu.Unlock()
	r.waits.Wait()
}

// state returns in words whether there is a reaper. It does not wait for one that is
// being told something.
func (r *reaper) state() string {
	if r.sys.reaper == nil {
		return "none: this system has no shell"
	}
	if says := r.says.Load(); says != nil {
		return *says
	}
	return "starts with the next engine"
}

// endOrphans creates the folder of records and ends the engines that are recorded
// there and whose Mover has ended. It returns what it ended, in words; what fails is left
// to the next call, and delays no start.
func endOrphans(sys *system, dir string, log *slog.Logger) (ended []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of engines: %w", err)
	}
	if sys.endOrphans == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	ended, err = sys.endOrphans(ctx, dir)
	for _, what := range ended {
		log.Warn("an orphaned engine was ended", "what", what)
	}
	if err != nil {
		log.Error("not all orphaned engines could be ended", "err", err)
		ended = append(ended, "failed: "+err.Error())
	}
	return ended, nil
}
