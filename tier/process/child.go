package process

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// markName is the variable that marks all that an engine starts as its own.
const markName = "MODELTIER_ENGINE"

// child is a running engine: the process that was started, which leads a session of
// its own, and whatever that has started since.
type child struct {
	sys     *system
	log     *slog.Logger
	model   string
	mark    string
	command []string
	added   []string // to our environment
	port    int
	url     string
	began   time.Time
	cmd     *exec.Cmd
	pid     int
	cgroup  cgroup       // nil: it has none of its own
	forget  func() error // removes its record; nil: it is not recorded
	reaper  *reaper
	tail    *logtail
	traffic traffic
	foreign *foreign // the engine, if that is not our child; nil: it is

	told   atomic.Bool   // to exit
	exited chan struct{} // closed when the leader has exited
	done   chan struct{} // closed when nothing of it is left

	mu     sync.Mutex // guards the rest; signals are sent under it
	reaped bool       // pid may be that of another process
}

func newChild(sys *system, model string, port int, logs *logs) *child {
	return &child{
		sys: sys, log: logs.records, model: model, mark: strings.ToLower(rand.Text()),
		port: port, url: "http://127.0.0.1:" + strconv.Itoa(port), began: time.Now(),
		tail:   &logtail{model: model, log: logs.lines},
		exited: make(chan struct{}), done: make(chan struct{}),
	}
}

// environ is the environment of an engine and of its commands, without its mark.
func (c *child) environ() []string { return append(os.Environ(), c.added...) }

func (c *child) cgroupPath() string {
	if c.cgroup == nil {
		return ""
	}
	return c.cgroup.path()
}

// cleanUp removes the traces of an engine that does not run.
func (c *child) cleanUp() (err error) {
	if c.cgroup != nil {
		err = c.cgroup.remove()
	}
	if c.forget != nil { // last: if we are killed before, the next New removes the cgroup
		err = errors.Join(err, c.forget())
	}
	return err
}

// await waits for the engine to exit and removes what is left of it. printed is closed
// when the pipe r was read to its end.
func (c *child) await(r *os.File, printed <-chan struct{}, givenUp <-chan struct{}) {
	if f := c.foreign; f != nil {
		go func() {
			defer close(f.leader)
			c.awaitLeader()
		}()
		f.awaitEnd()
		close(c.exited)
		c.finishForeign(givenUp)
	} else {
		c.awaitLeader()
		close(c.exited)
	}
	var wait backoff
	for c.killAll(); len(c.members()) > 0 && wait.sleep(givenUp); c.killAll() {
	}
	// All that could print has exited; what still holds the pipe is not the engine's.
	r.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-printed
	r.Close()
	// Before its number can become another's, which the reaper would kill.
	c.reaper.end()
	c.reap()
	if err := c.cleanUp(); err != nil {
		c.log.Warn("an engine left something behind", "model", c.model, "err", err)
	}
	close(c.done)
}

// awaitLeader waits for the process that was started.
func (c *child) awaitLeader() {
	if c.sys.awaitExit == nil {
		c.cmd.Wait()
	} else if err := c.sys.awaitExit(c.pid); err != nil {
		c.log.Warn("an engine cannot be waited for", "model", c.model, "err", err)
	}
}

// clientLag is how long the client of an engine that has ended may take to follow it.
const clientLag = time.Second

// finishForeign ends what is left of an engine that is not our child, while its client
// lives, and then its client.
func (c *child) finishForeign(givenUp <-chan struct{}) {
	f := c.foreign
	f.mu.Lock()
	early := !f.seen && !f.begun
	f.mu.Unlock()
	if early { // it must not start what the StopCommand has not found
		// Not by its cgroup: what is cloned into one that was killed is killed as well (6.18).
		c.cutClient(func() { c.signal(c.sys.kill) })
	}
	f.finish(givenUp)
	if !c.told.Load() {
		select {
		case <-f.leader:
		case <-time.After(clientLag):
		}
	}
	c.cutClient(c.killAll)
	<-f.leader
}

// cutClient kills the client of an engine, with what it has started.
func (c *child) cutClient(kill func()) {
	c.foreign.mu.Lock()
	c.foreign.cut = c.foreign.cut || !closed(c.foreign.leader)
	c.foreign.mu.Unlock()
	kill()
}

// reap frees the number of the process. That of a client which exits early is kept until
// the engine has ended: with it, signals to its group cannot reach a stranger.
func (c *child) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmd.Wait() // the second time, if awaitExit is missing
	c.reaped = true
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func (c *child) hasExited() bool { return closed(c.exited) }

// isHidden reports whether nothing can be seen of the engine: its client tells nothing.
func (c *child) isHidden() bool { return c.foreign != nil && c.foreign.spec.Processes.isZero() }

// list returns the processes that are alive: the leader alone, if this system cannot
// list them; those of an engine that is not our child, and of its client.
func (c *child) list() ([]int, error) {
	pids, err := c.listOwn()
	if c.foreign != nil && err == nil {
		for _, pid := range c.foreign.pids() {
			if !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids, err
}

func (c *child) listOwn() ([]int, error) {
	if c.cgroup != nil {
		if pids, err := c.cgroup.pids(); err == nil {
			return pids, nil
		}
	}
	if c.sys.members != nil {
		return c.sys.members(c.pid, c.mark)
	}
	if c.hasExited() {
		return nil, nil
	}
	return []int{c.pid}, nil
}

// members is list for who can only try again: if the listing fails, the engine is taken
// to live until it is reaped.
func (c *child) members() []int {
	pids, err := c.list()
	if err == nil {
		return pids
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return nil
	}
	return []int{c.pid}
}

// signal sends to the process group and to those that left it. A nil send, or an
// engine that has exited, is no error.
func (c *child) signal(send func(pid int, others []int) error) error {
	if send == nil {
		return nil
	}
	others := slices.DeleteFunc(c.members(), func(pid int) bool { return pid == c.pid })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped && c.sys.awaitExit != nil {
		return nil
	}
	return send(c.pid, others)
}

// killAll kills all of the engine's processes: by its cgroup, which reaches those that
// hide, and by signal.
func (c *child) killAll() {
	if c.cgroup != nil {
		c.cgroup.kill()
	}
	c.signal(c.sys.kill)
}

// freeze returns when all processes of the engine are stopped, or with an error when
// ctx ends.
func (c *child) freeze(ctx context.Context) error {
	if c.foreign != nil {
		return c.foreign.freeze(ctx)
	}
	var wait backoff
	for {
		if err := c.signal(c.sys.suspend); err != nil {
			return err
		}
		if c.sys.suspended == nil || c.sys.suspended(c.members()) {
			return nil
		}
		if c.hasExited() {
			return errExited
		}
		if !wait.sleep(ctx.Done()) {
			return context.Cause(ctx)
		}
	}
}

// thaw resumes them.
func (c *child) thaw() error {
	if c.foreign != nil {
		return c.foreign.thaw()
	}
	return c.signal(c.sys.resume)
}

var errExited = errors.New("the engine has exited")

// while returns a context that ends with ctx or with the engine.
func (c *child) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.exited:
			cancel(errExited)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// fail returns the error of an engine that failed.
func (c *child) fail(fault Fault, since time.Time, err error) *EngineError {
	return &EngineError{
		Model: c.model, Fault: fault, Command: c.command, After: time.Since(since),
		Err: err, Output: c.tail.last(),
	}
}

// exitError returns how the engine exited, once it is done.
func (c *child) exitError() error {
	err := &exec.ExitError{ProcessState: c.cmd.ProcessState}
	if c.foreign != nil {
		return c.foreign.exitError(err)
	}
	return err
}

// maxLines and maxLine bound what is kept of an engine's output: 32 KiB.
const (
	maxLines = 64
	maxLine  = 512
)

// outputRate bounds how many bytes of an engine's output are read a second, so that a
// flood of it costs us a few hundredths of a processor. What prints more waits for its
// pipe. A line costs as much as lineCost bytes more, for its record. It is checked
// every outputPart bytes, which is more than an engine prints when it starts.
const (
	outputRate = 4 << 20
	lineCost   = 256
	outputPart = 512 << 10
)

// logtail keeps the last lines that an engine printed, and logs all of them.
type logtail struct {
	model string
	log   *slog.Logger

	mu    sync.Mutex // guards the rest
	lines []string
}

// read takes lines from r until its end, no faster than outputRate until the engine has
// exited. A line that is too long is cut.
func (t *logtail) read(r io.Reader, exited <-chan struct{}) {
	in := bufio.NewReaderSize(r, 4096)
	began, took := time.Now(), 0
	for rest := false; ; {
		b, more, err := in.ReadLine()
		if err != nil {
			return
		}
		if took += len(b); !rest {
			took += lineCost
		}
		if took >= outputPart {
			select {
			case <-time.After(time.Duration(took)*time.Second/outputRate - time.Since(began)):
			case <-exited:
			}
			began, took = time.Now(), 0
		}
		line := strings.TrimRight(string(b[:min(len(b), maxLine)]), "\r")
		if !rest && strings.TrimSpace(line) != "" {
			t.add(line)
			t.log.LogAttrs(context.Background(), slog.LevelDebug, "engine", slog.String("model", t.model), slog.String("line", line))
		}
		rest = more
	}
}

func (t *logtail) add(line string) {
	line = strings.ToValidUTF8(line, "�")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	t.lines = t.lines[max(len(t.lines)-maxLines, 0):]
}

// last returns the kept lines, oldest first.
func (t *logtail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}
