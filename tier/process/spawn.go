package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// maxStarts is how often a start is tried if another program takes the engine's port.
const maxStarts = 3

// start starts the engine of a slot and waits until it is ready and warm.
func (m *Mover) start(ctx context.Context, s *slot, rep *report) error {
	if err := m.prepare(ctx, s); err != nil {
		return err
	}
	for try := 1; ; try++ {
		port, err := m.reservePort()
		if err != nil {
			return &EngineError{Model: s.name, Fault: CannotStart, Command: s.engine.Command, Err: err}
		}
		err = m.startOn(ctx, s, port, rep)
		if errors.Is(err, errSpoilt) && s.child == nil && try < maxStarts {
			m.log.Warn("an engine is started again without its conversation", "model", s.name)
			continue
		}
		if err == nil || try == maxStarts || !lostPort(err, port) {
			return err
		}
		m.log.Info("the port of an engine was taken, it gets another", "model", s.name, "port", port)
	}
}

// prepare determines engine and files of a slot, and returns what is wrong with them.
func (m *Mover) prepare(ctx context.Context, s *slot) error {
	engine, err := m.opts.engineOf(ctx, s.model)
	if err != nil {
		return err
	}
	if _, _, err := engine.expand(&s.model, 0, "", ""); err != nil {
		return err
	}
	files, err := weightFiles(&s.model)
	if err != nil {
		return err
	}
	folder, err := m.folderOf(&engine, &s.model, files)
	if err != nil {
		return err
	}
	m.mu.Lock()
	s.engine, s.files, s.talk.folder = engine, files, folder
	m.mu.Unlock()
	m.recall(s)
	return nil
}

// reservePort returns a free port of the loopback address that no other engine of
// ours has or is about to have. Another program may still take it; see start.
func (m *Mover) reservePort() (int, error) {
	const tries = 100
	for range tries {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("no free port: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, err
		}
		m.mu.Lock()
		_, taken := m.ports[port]
		m.ports[port] = struct{}{}
		m.mu.Unlock()
		if !taken {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port in %d tries", tries)
}

func portTaken(port int) bool {
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return true
	}
	l.Close()
	return false
}

func (m *Mover) startOn(ctx context.Context, s *slot, port int, rep *report) error {
	c, err := m.spawn(&s.engine, &s.model, port, s.talk.folder)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.ports, port)
		return err
	}
	m.set(s, Starting, c)
	m.log.Info("an engine starts", "model", c.model, "pid", c.pid, "port", port, "command", c.command)
	var ahead *filling
	if !m.learnedOf(s).Copies {
		ahead = m.fill(ctx, s)
		defer ahead.stop()
	}
	err = m.awaitReady(ctx, c, &s.engine, m.opts.startTimeout(&s.engine), NeverReady, func() error { return m.sample(s, c, ahead, rep) })
	if err == nil && c.foreign != nil {
		if e := c.foreign.awaitSeen(ctx); e != nil {
			err = cmp.Or(context.Cause(ctx), error(c.fail(Unseen, c.began, e)))
		}
	}
	if err != nil {
		return m.abandon(s, err)
	}
	if err := m.checkListener(c); err != nil {
		return m.abandon(s, err)
	}
	seen, err := m.look(c, true)
	if err != nil {
		return m.abandon(s, c.fail(Crashed, c.began, err))
	}
	m.learn(s, c, &seen, time.Since(c.began))
	m.checkPageOut(c)
	if excess := m.checkExcess(s, c, seen.needs()); excess != nil {
		return m.abandon(s, excess)
	}
	if err := m.restoreConversations(ctx, s, c); err != nil {
		return m.abandon(s, err)
	}
	// An engine that copies its weights has read all of them; one that maps them may
	// have touched none yet.
	if ahead != nil && seen.maps() {
		if err := m.awaitFill(ctx, c, ahead, rep); err != nil {
			return m.abandon(s, err)
		}
	}
	rep.at(rep.size)
	m.set(s, Running, c)
	m.log.Info("an engine is ready", "model", s.name, "took", time.Since(c.began))
	if e := s.engine; e.IdleCheck > 0 || e.SilenceLimit > 0 || e.SlowFactor > 0 {
		m.engines.Go(func() { m.attend(s, c, e) })
	}
	return nil
}

// sample measures what an engine takes while it starts, for at most a twentieth of
// the time.
func (m *Mover) sample(s *slot, c *child, ahead *filling, rep *report) error {
	if ahead != nil {
		rep.at(tier.Bytes(ahead.bytes.Load()))
	}
	now := time.Now()
	if m.sys.usage == nil || c.isHidden() || now.Before(rep.next) {
		return nil
	}
	u, err := m.sys.usage(c.members())
	rep.next = now.Add(max(20*time.Since(now), 20*time.Millisecond))
	if err != nil {
		return nil // it has exited, which awaitReady returns
	}
	took := u.own().Plus(min(u.File, sizeOf(s.files)))
	m.measures.mu.Lock()
	s.learned.Peak = max(s.learned.Peak, took)
	m.measures.mu.Unlock()
	// The weights are in the one or in the other: the sum would count what else the
	// engine takes as weights, and be all of them before they are read.
	rep.at(max(u.own(), min(u.File, rep.size)))
	return m.checkExcess(s, c, took)
}

func (m *Mover) checkExcess(s *slot, c *child, took tier.Bytes) error {
	allowed := m.opts.allowed(&s.model, &s.engine)
	if took <= allowed {
		return nil
	}
	err := c.fail(TookTooMuch, c.began, nil)
	err.Took, err.Allowed = took, allowed
	return err
}

// awaitFill waits until the weights are read, and reports progress. Errors of the
// reading are not errors of the engine.
func (m *Mover) awaitFill(ctx context.Context, c *child, f *filling, rep *report) error {
	tick := time.Tick(10 * time.Millisecond)
	for {
		rep.at(tier.Bytes(f.bytes.Load()))
		select {
		case <-f.done:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil
		case <-c.exited:
			return m.exitOf(c, Crashed, c.began)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick:
		}
	}
}

// spawn starts a process that serves a model on a port, and saves conversations in a
// folder, "" for none.
func (m *Mover) spawn(engine *Engine, model *tier.Model, port int, folder string) (*child, error) {
	c := newChild(m.sys, model.Name, port, m.logs)
	argv, env, err := engine.expand(model, port, c.mark, folder)
	if err != nil {
		return nil, err
	}
	c.command, c.added = argv, env
	if c.foreign, err = m.newForeign(c, engine, model, folder); err != nil {
		return nil, err
	}
	if folder != "" {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("the folder of its conversations: %w", err)
		}
	}
	err = errors.New("this system has no cgroups")
	if m.sys.cgroup != nil {
		c.cgroup, err = m.sys.cgroup(m.opts.Cgroup, c.mark)
	}
	if err != nil {
		m.lacks.note(lackCgroup, err)
	}
	fail := func(err error) error {
		err = &EngineError{Model: c.model, Fault: CannotStart, Command: argv, Err: err}
		return errors.Join(err, c.cleanUp())
	}
	if m.opts.StateDir != "" && m.sys.register != nil {
		id := identity{Mark: c.mark, Model: c.model, Command: argv, Cgroup: c.cgroupPath()}
		if c.foreign != nil {
			id.Foreign = &c.foreign.spec
		}
		if c.forget, err = m.sys.register(m.opts.StateDir, id); err != nil {
			return nil, fail(fmt.Errorf("it cannot be recorded in %s: %w", m.opts.StateDir, err))
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fail(err)
	}
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		c.tail.read(r, c.exited)
	}()
	started := make(chan error)
	m.engines.Go(func() {
		// The kernel kills a child together with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.exec(c, engine, env, w)
		w.Close()
		if err != nil {
			r.Close()
			started <- err
			return
		}
		c.reaper = m.watch(c)
		started <- nil
		c.await(r, printed, m.givenUp)
		m.afterExit(c)
	})
	if err := <-started; err != nil {
		return nil, fail(err)
	}
	return c, nil
}

// exec runs the command, in its cgroup if the kernel can start it there.
func (m *Mover) exec(c *child, engine *Engine, env []string, w *os.File) error {
	start := func() error {
		c.cmd = exec.Command(c.command[0], c.command[1:]...)
		c.cmd.Dir = engine.Dir
		c.cmd.Env = append(c.environ(), markName+"="+c.mark)
		c.cmd.Stdout, c.cmd.Stderr = w, w
		m.sys.isolate(c.cmd)
		if c.cgroup != nil {
			done, err := c.cgroup.prepare(c.cmd)
			if err != nil {
				return err
			}
			defer done()
		}
		if err := c.cmd.Start(); err != nil {
			return err
		}
		c.pid = c.cmd.Process.Pid
		if c.foreign != nil {
			c.foreign.client = c.pid
		}
		return nil
	}
	err := start()
	if c.cgroup == nil {
		return err
	}
	if err != nil { // clone3 is missing (before 5.7) or forbidden, or the program is
		c.cgroup.remove()
		c.cgroup = nil
		if err := start(); err != nil {
			return err
		}
	}
	m.lacks.note(lackCgroup, err)
	return nil
}
