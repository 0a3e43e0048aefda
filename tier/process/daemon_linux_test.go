package process

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// order is what a client tells the daemon.
type order struct {
	Op, Name string
	Command  []string
	Token    string // for the environment of the engine
	Detach   bool
}

// reply is what the daemon answers, one line for each.
type reply struct {
	Err  string
	Text string
	Exit *int // how the engine ended
}

// fakeDaemon runs engines in cgroups of its own on the word of its clients, as a
// container daemon does. It does not end them with itself. When its standard input ends,
// which is when the test has, it ends.
func fakeDaemon(args []string) int {
	flags := flag.NewFlagSet("daemon", flag.ExitOnError)
	socket := flags.String("socket", "", "")
	dir := flags.String("dir", "", "a cgroup")
	flags.Parse(args)
	d := &fakeRunner{dir: *dir, engines: make(map[string]*fakeContainer)}
	l, err := net.Listen("unix", *socket)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go d.serve(c)
	}
}

type fakeRunner struct {
	dir string

	mu      sync.Mutex
	engines map[string]*fakeContainer
}

type fakeContainer struct {
	cgroup cgroup2
	cmd    *exec.Cmd
	exit   int
	done   chan struct{}
}

func (d *fakeRunner) serve(c net.Conn) {
	defer c.Close()
	var o order
	if json.NewDecoder(c).Decode(&o) != nil {
		return
	}
	out := json.NewEncoder(c)
	answer := func(text string, err error) {
		r := reply{Text: text}
		if err != nil {
			r.Err = err.Error()
		}
		out.Encode(r)
	}
	if o.Op == "run" {
		e, err := d.run(o)
		answer(o.Name, err)
		if err == nil && !o.Detach {
			<-e.done
			out.Encode(reply{Exit: &e.exit})
		}
		return
	}
	d.mu.Lock()
	e := d.engines[o.Name]
	d.mu.Unlock()
	if e == nil {
		answer("", fmt.Errorf("no such engine: %s", o.Name))
		return
	}
	freeze := func(to string) error {
		if err := e.cgroup.write("cgroup.freeze", to); err != nil {
			return err
		}
		for {
			b, err := os.ReadFile(filepath.Join(string(e.cgroup), "cgroup.events"))
			if err != nil || strings.Contains(string(b), "frozen "+to) {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	switch o.Op {
	case "pid":
		answer(itoa(e.cmd.Process.Pid), nil)
	case "pause":
		answer("", freeze("1"))
	case "resume":
		answer("", freeze("0"))
	case "stop":
		e.cgroup.write("cgroup.freeze", "0")
		e.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-e.done:
		case <-time.After(time.Second):
			e.cgroup.kill()
			<-e.done
		}
		answer("", nil)
	}
}

func (d *fakeRunner) run(o order) (*fakeContainer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.engines[o.Name] != nil {
		return nil, fmt.Errorf("the name %s is taken", o.Name)
	}
	e := &fakeContainer{cgroup: cgroup2(filepath.Join(d.dir, o.Name)), done: make(chan struct{})}
	if err := os.Mkdir(string(e.cgroup), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	e.cmd = exec.Command(o.Command[0], o.Command[1:]...)
	e.cmd.Env = []string{role + "=engine", noLinger, o.Token}
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	done, err := e.cgroup.prepare(e.cmd)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := e.cmd.Start(); err != nil {
		return nil, errors.Join(err, e.cgroup.remove())
	}
	d.engines[o.Name] = e
	go func() {
		e.cmd.Wait()
		e.exit = e.cmd.ProcessState.ExitCode()
		e.cgroup.kill()
		e.cgroup.remove()
		d.mu.Lock()
		delete(d.engines, o.Name)
		d.mu.Unlock()
		close(e.done)
	}()
	return e, nil
}

// fakeClient is the program that tells the daemon, and waits as told.
func fakeClient(args []string) int {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	socket := flags.String("socket", "", "")
	detach := flags.Bool("d", false, "do not wait for the engine")
	pidfile := flags.String("pidfile", "", "")
	hang := flags.Bool("hang", false, "tell nothing and wait")
	flags.Parse(args)
	if *hang {
		select {}
	}
	token := ""
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "MODELTIER_TEST_TOKEN=") {
			token = v
		}
	}
	args = flags.Args()
	c, err := net.Dial("unix", *socket)
	if err != nil {
		fmt.Println("cannot connect to the daemon:", err)
		return 125
	}
	json.NewEncoder(c).Encode(order{Op: args[0], Name: args[1], Command: args[2:], Token: token, Detach: *detach})
	in := json.NewDecoder(c)
	for {
		var r reply
		switch err := in.Decode(&r); {
		case errors.Is(err, io.EOF) && args[0] == "run" && !*detach:
			fmt.Println("the daemon has left")
			return 125
		case err != nil:
			fmt.Println("the daemon has left:", err)
			return 125
		case r.Err != "":
			fmt.Println(r.Err)
			return 125
		case r.Exit != nil:
			return *r.Exit & 127
		}
		if *pidfile != "" {
			if err := tellPid(*socket, args[1], *pidfile); err != nil {
				fmt.Println(err)
				return 125
			}
		}
		if fmt.Println(r.Text); args[0] != "run" || *detach {
			return 0
		}
	}
}

// tellPid writes the process of an engine into a file.
func tellPid(socket, name, file string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	json.NewEncoder(c).Encode(order{Op: "pid", Name: name})
	var r reply
	if err := json.NewDecoder(c).Decode(&r); err != nil {
		return err
	}
	if r.Err != "" {
		return errors.New(r.Err)
	}
	return os.WriteFile(file, []byte(r.Text+"\n"), 0o644)
}

// daemon is a daemon that runs.
type daemon struct {
	t      testing.TB
	dir    string // its cgroup
	files  string
	socket string
	cage   *cage // that it and its engines are in; nil: none
	cmd    *exec.Cmd
}

// newDaemon starts a daemon, or skips. At the end nothing may be left in its cgroup.
func newDaemon(t testing.TB) *daemon {
	t.Helper()
	own, err := ownCgroup()
	if err != nil {
		t.Skip("no cgroup v2 here: ", err)
	}
	return newDaemonIn(t, own, nil)
}

// newDaemonIn starts one whose cgroup is made below that one.
func newDaemonIn(t testing.TB, parent string, c *cage) *daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a daemon that makes cgroups takes root")
	}
	d := &daemon{t: t, cage: c, dir: filepath.Join(parent, "mt-daemon-"+strings.ToLower(rand.Text()))}
	var err error
	if d.files, err = os.MkdirTemp("", "d"); err != nil { // a short name, as that of a socket must be
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d.files) })
	d.socket = filepath.Join(d.files, "socket")
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Skip("a cgroup cannot be made: ", err)
	}
	if !exists(filepath.Join(d.dir, "cgroup.freeze")) {
		os.Remove(d.dir)
		t.Skip("this cgroup v2 has no freezer (5.2)")
	}
	keep(t, d.dir)
	t.Cleanup(func() {
		d.kill()
		entries, _ := os.ReadDir(d.dir)
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			g := cgroup2(filepath.Join(d.dir, e.Name()))
			if pids, _ := g.pids(); len(pids) > 0 {
				t.Errorf("processes are left in the cgroup of an engine: %v", pids)
				g.kill()
			}
			if err := g.remove(); err != nil {
				t.Error(err)
			}
		}
		if err := cgroup2(d.dir).remove(); err != nil {
			t.Error(err)
		}
	})
	d.start()
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	os.Remove(d.socket)
	d.cmd = exec.Command(os.Args[0], "-socket="+d.socket, "-dir="+d.dir)
	d.cmd.Env = append(os.Environ(), role+"=daemon", noLinger)
	if d.cage != nil {
		d.cage.enter(d.cmd)
	}
	out, err := d.cmd.StdoutPipe()
	if err == nil {
		_, err = d.cmd.StdinPipe() // which ends with this process
	}
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		d.t.Fatalf("the daemon said %q, %v", line, err)
	}
}

func (d *daemon) kill() {
	if d.cmd != nil {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		d.cmd = nil
	}
}

// client is the command that tells the daemon something.
func (d *daemon) client(flagsAndOrder ...string) []string {
	// The next New runs it without Engine.Env.
	return slices.Concat([]string{"env", role + "=client", noLinger, os.Args[0], "-socket=" + d.socket}, flagsAndOrder)
}

// engine is an engine that the daemon runs, found by one of "cgroup", "pidfile" and
// "command", or not at all.
func (d *daemon) engine(f fake, found string, flags ...string) Engine {
	e := f.engine()
	e.Env = nil
	e.Pause, e.Resume, e.StopCommand = d.client("pause", "{mark}"), d.client("resume", "{mark}"), d.client("stop", "{mark}")
	switch found {
	case "cgroup":
		e.Processes.Cgroup = d.dir + "/{mark}"
	case "pidfile":
		e.Processes.PidFile = d.files + "/{mark}.pid"
		flags = append(flags, "-pidfile="+e.Processes.PidFile)
	case "command":
		e.Processes.Command = d.client("pid", "{mark}")
	}
	e.Command = slices.Concat(d.client(flags...), []string{"run", "{mark}"}, f.command())
	return e
}

// processOf returns the process of that role which carries the token, 0 for none. A reaper
// carries it too, and is none.
func processOf(token, what string) int {
	self, _ := os.Executable()
	for _, pid := range carrying(token) {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); exe != self {
			continue
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if slices.Contains(strings.Split(string(env), "\x00"), role+"="+what) {
			return pid
		}
	}
	return 0
}

// awaitProcess returns that process once there is one.
func awaitProcess(t testing.TB, token, what string) (pid int) {
	t.Helper()
	eventually(t, "there is a process "+what, func() bool { pid = processOf(token, what); return pid > 1 })
	return pid
}

// killed kills a process of that role.
func (r *rig) killed(what string) {
	r.t.Helper()
	unix.Kill(awaitProcess(r.t, r.token, what), unix.SIGKILL)
}
