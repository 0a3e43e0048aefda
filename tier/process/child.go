package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// markName is the variable that marks all that an engine starts as its own.
const markName = "MODELTIER_ENGINE"

// child is a running engine: the process that was started, which leads a session
// of its own, and whatever that has started since.
type child struct {
	sys     *system
	model   string
	mark    string
	command []string
	port    int
	url     string
	began   time.Time
	cmd     *exec.Cmd
	pid     int
	cage    cage // nil: it has no cgroup
	record  entry
	output  *output

	asked chan struct{} // closed once it was told to end
	once  sync.Once     // closes asked
	ended chan struct{} // closed when the leader's end was seen
	gone  chan struct{} // closed when nothing of it is left

	mu     sync.Mutex // guards the rest; signals are sent under it
	reaped bool       // pid may be somebody else's
	exit   error      // how it ended, once gone
}

// spawn starts an engine for a model on a port.
func (m *Mover) spawn(engine *Engine, model *tier.Model, port int) (*child, error) {
	argv, env, err := engine.expand(model, port)
	if err != nil {
		return nil, err
	}
	c := &child{
		sys: m.sys, model: model.Name, mark: newMark(), command: argv,
		port: port, url: baseURL(port), began: time.Now(),
		output: &output{model: model.Name, log: m.lines},
		asked:  make(chan struct{}), ended: make(chan struct{}), gone: make(chan struct{}),
	}
	if c.cage, err = m.cages.add(c.mark); err != nil {
		m.lack(lackCgroup, err)
	}
	fail := func(err error) error {
		err = &EngineError{Model: c.model, Fault: CannotStart, Command: argv, Err: err}
		return errors.Join(err, c.leaveCage(), c.forget())
	}
	if c.record, err = m.recordOf(c); err != nil {
		return nil, fail(fmt.Errorf("it cannot be recorded in %s: %w", m.opts.StateDir, err))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fail(err)
	}
	err = m.exec(c, engine, env, w)
	w.Close()
	if err != nil {
		r.Close()
		return nil, fail(err)
	}
	m.guard.watch(c.pid)
	if c.record != nil {
		if err := c.record.update(c.identity()); err != nil {
			m.log.Warn("an engine is not recorded", "model", c.model, "err", err)
		}
	}
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		c.output.read(r)
	}()
	m.watchers.Go(func() { m.watch(c, r, printed) })
	return c, nil
}

// exec runs the command, in its cgroup if the kernel can start it there.
func (m *Mover) exec(c *child, engine *Engine, env []string, w *os.File) error {
	build := func() *exec.Cmd {
		cmd := exec.Command(c.command[0], c.command[1:]...)
		cmd.Dir = engine.Dir
		cmd.Env = append(append(os.Environ(), env...), markName+"="+c.mark)
		cmd.Stdout, cmd.Stderr = w, w
		m.sys.isolate(cmd)
		return cmd
	}
	c.cmd = build()
	var err error
	if c.cage != nil {
		var done func()
		if done, err = c.cage.prepare(c.cmd); err == nil {
			if err = m.starter.do(c.cmd.Start); err == nil {
				m.lacksNoMore(lackCgroup)
			}
			done()
		}
		if err != nil { // clone3 may be missing (before 5.7) or forbidden
			caged := err
			c.leaveCage()
			c.cmd = build()
			if err = m.starter.do(c.cmd.Start); err == nil {
				m.lack(lackCgroup, caged)
			}
		}
	} else {
		err = m.starter.do(c.cmd.Start)
	}
	if err != nil {
		return err
	}
	c.pid = c.cmd.Process.Pid
	return nil
}

func (c *child) leaveCage() (err error) {
	if c.cage != nil {
		err = c.cage.remove()
		c.cage = nil
	}
	return err
}

func (c *child) forget() error {
	if c.record == nil {
		return nil
	}
	return c.record.forget()
}

// watch sees the engine end, clears away what is left of it, and tells.
func (m *Mover) watch(c *child, r *os.File, printed <-chan struct{}) {
	if m.sys.awaitExit != nil {
		if err := m.sys.awaitExit(c.pid); err != nil {
			m.log.Warn("an engine cannot be waited for", "model", c.model, "err", err)
		}
	} else {
		c.wait()
	}
	close(c.ended)
	m.clear(c)
	// Nobody is left to print; what still holds the pipe is none of ours.
	r.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-printed
	r.Close()
	// Before its number can become somebody else's, whom the guard would kill.
	m.guard.drop(c.pid)
	c.reap()
	err := c.forget()
	if c.cage != nil {
		err = errors.Join(err, c.cage.remove())
	}
	if err != nil {
		m.log.Warn("an engine left something behind", "model", c.model, "err", err)
	}
	close(c.gone)
	m.ended(c)
}

// clear kills what the engine leaves behind until nothing of it is alive.
func (m *Mover) clear(c *child) {
	var wait backoff
	for {
		if c.cage != nil {
			c.cage.kill()
		}
		c.signal(m.sys.kill)
		if len(c.members()) == 0 || !wait.sleep(m.givenUp) {
			return
		}
	}
}

func (c *child) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		c.exit = c.cmd.Wait()
		c.reaped = true
	}
}

// wait is reap where the end cannot be awaited without reaping.
func (c *child) wait() {
	err := c.cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit, c.reaped = err, true
}

// signal sends to the group and to those who left it. A nil send, or an engine
// that has ended, is no error.
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

// members returns the processes that are alive. Where they cannot be told, it is
// the leader while that is.
func (c *child) members() []int {
	if c.cage != nil {
		if pids, err := c.cage.pids(); err == nil {
			return pids
		}
	}
	if c.sys.members != nil {
		return c.sys.members(c.pid, c.mark)
	}
	if c.hasEnded() {
		return nil
	}
	return []int{c.pid}
}

func (c *child) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *child) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// toldToEnd reports whether anybody stopped the engine.
func (c *child) toldToEnd() bool {
	select {
	case <-c.asked:
		return true
	default:
		return false
	}
}

// fail returns what became of an engine that failed.
func (c *child) fail(fault Fault, since time.Time, err error) *EngineError {
	return &EngineError{
		Model: c.model, Fault: fault, Command: c.command, After: time.Since(since),
		Err: err, Output: c.output.last(),
	}
}

// exited returns how the engine ended, once it is gone.
func (c *child) exited() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.exit, errors.New("exit status 0"))
}

// while returns a context that ends with ctx or with the engine.
func (c *child) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.ended:
			cancel(errEnded)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

var errEnded = errors.New("the engine has ended")

func (c *child) identity() identity {
	id := identity{Mark: c.mark, Model: c.model, Command: c.command, Pid: c.pid}
	if c.cage != nil {
		id.Cage = c.cage.path()
	}
	if c.pid != 0 && c.sys.started != nil {
		id.Started, id.Boot = c.sys.started(c.pid)
	}
	return id
}

// recordOf writes the engine down before it starts.
func (m *Mover) recordOf(c *child) (entry, error) {
	if m.opts.StateDir == "" || m.sys.record == nil {
		return nil, nil
	}
	return m.sys.record(m.opts.StateDir, c.identity())
}

// ended takes note of an engine that is gone. Where nobody stopped it and no move
// is under way, which would see for itself, the model's owner is told.
func (m *Mover) ended(c *child) {
	m.mu.Lock()
	delete(m.ports, c.port)
	s := m.slots[c.model]
	if s == nil || s.child != c || s.run != nil || m.closed {
		m.mu.Unlock()
		return
	}
	now := time.Now()
	s.state, s.child, s.tier, s.since, s.last = Stopped, nil, tier.Storage, now, now
	if c.toldToEnd() { // it was stuck, and its move has said so
		m.mu.Unlock()
		return
	}
	err := c.fail(Ended, c.began, c.exited())
	s.failure, s.note = err.Error(), ""
	if m.opts.Crashed == nil {
		m.mu.Unlock()
		m.log.Error("an engine crashed", "model", c.model, "err", err)
		return
	}
	reported := make(chan struct{})
	s.reported = reported
	m.mu.Unlock()
	m.log.Error("an engine crashed", "model", c.model, "err", err)
	go func() { // nothing of ours waits for it for longer than callLimit
		e := guarded(context.Background(), "Options.Crashed", func() error { m.opts.Crashed(c.model, err); return nil })
		if e != nil {
			m.log.Error("a crash was not reported", "model", c.model, "err", e)
		}
		m.mu.Lock()
		if s.reported == reported {
			s.reported = nil
		}
		m.mu.Unlock()
		close(reported)
	}()
}

// backoff spaces the looks at something that cannot tell when it is done.
type backoff struct{ next time.Duration }

// sleep waits 0.5 ms at first and twice as long each time, up to 50 ms. It
// reports false when stop is closed.
func (b *backoff) sleep(stop <-chan struct{}) bool {
	b.next = min(max(2*b.next, 500*time.Microsecond), 50*time.Millisecond)
	timer := time.NewTimer(b.next)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}
