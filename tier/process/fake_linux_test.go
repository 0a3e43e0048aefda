package process

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// The test binary is also the engine, what an engine starts, and a manager to be
// killed: this variable says which.
const role = "MODELTIER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "engine":
		os.Exit(fakeEngine(os.Args[1:]))
	case "manager":
		os.Exit(fakeManager(os.Args[1:]))
	case "talker":
		os.Exit(fakeTalker(os.Args[1:]))
	case "daemon":
		os.Exit(fakeDaemon(os.Args[1:]))
	case "cycler":
		os.Exit(fakeCycler(os.Args[1:]))
	case "client":
		os.Exit(fakeClient(os.Args[1:]))
	case "hog":
		os.Exit(fakeHog())
	case "outsider":
		os.Exit(fakeOutsider())
	case "keeper":
		os.Exit(fakeKeeper(os.Args[1:]))
	case "idle":
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
		select {}
	}
	os.Exit(m.Run())
}

// fake is how a fake engine behaves.
type fake struct {
	Copy     bool   // reads its weights into memory of its own
	Touch    bool   // touches all of its weights at start
	Lock     bool   // locks them in memory
	Sick     bool   // its health page never says yes
	Garbage  bool   // its port speaks no HTTP
	Deaf     bool   // its port takes connections and never answers
	Exit     int    // ends at once with this status
	Taken    bool   // its port is taken by another process the first time
	Yields   string // a file; it does not listen before that names a port, nor on that
	Stubborn bool   // ignores SIGTERM
	Mute     bool   // never answers when asked to shut down
	Lingers  bool   // takes a moment to end when terminated
	Child    bool   // starts another process
	Hidden   bool   // and that one leaves the session
	Forks    int    // workers that have all of its memory too
	Eat      int64  // bytes of memory beyond its weights
	Noise    int    // lines that it prints
	Flood    string // that it prints again and again without end
	Private  bool   // lets no other process without privileges look into its memory
	NoSleep  bool   // refuses to sleep
	NoWake   bool   // refuses to wake
	Trace    string // a file that gets a line for each thing done

	Talk     int           // bytes of a conversation that it saves; 0: it has none
	Save     string        // how that fails: "refuse", "lie", "hang", "die", "empty"
	Restore  string        // the same, but "lie" and "empty"
	SavePace time.Duration // between two blocks of a conversation that it writes or reads
}

// command returns the template that starts a fake engine.
func (f fake) command() []string {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	command := []string{os.Args[0], "-port={port}", "-path={path}", "-name={name}", "-fake=" + string(b)}
	if f.Talk > 0 {
		command = append(command, "-saves={state}")
	}
	return command
}

// noLinger spares a program that was built with the race detector the second that
// it lingers at its end.
const noLinger = "GORACE=atexit_sleep_ms=0"

func (f fake) engine() Engine {
	e := Engine{Command: f.command(), Env: []string{role + "=engine", noLinger}, Health: "/health"}
	if f.Talk > 0 {
		e.Save = Request{Path: "/slots/{slot}?action=save", Body: `{"filename":"{file}"}`}
		e.Restore = Request{Path: "/slots/{slot}?action=restore", Body: `{"filename":"{file}"}`}
	}
	return e
}

// fakeEngine is the program.
func fakeEngine(args []string) int {
	var (
		f     fake
		flags = flag.NewFlagSet("engine", flag.ExitOnError)
		port  = flags.Int("port", 0, "")
		path  = flags.String("path", "", "")
		how   = flags.String("fake", "{}", "")
		saves = flags.String("saves", "", "")
		name  = flags.String("name", "", "")
	)
	flags.Parse(args)
	if err := json.Unmarshal([]byte(*how), &f); err != nil {
		fmt.Println(err)
		return 2
	}
	for i := range f.Noise {
		fmt.Printf("line %d\n", i)
	}
	if f.Flood != "" {
		go func() {
			for b := []byte(strings.Repeat(f.Flood, 1<<10)); ; {
				os.Stdout.Write(b)
			}
		}()
	}
	if f.Private {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			fmt.Println(err)
			return 2
		}
	}
	fmt.Println("engine starts on", *path)
	if f.Exit != 0 {
		fmt.Fprintln(os.Stderr, "error: cannot load the model")
		return f.Exit
	}
	if f.Stubborn {
		signal.Ignore(syscall.SIGTERM)
	}
	if f.Trace != "" && !f.Stubborn {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		go func() {
			<-term
			if f.Lingers {
				time.Sleep(200 * time.Millisecond)
			}
			(&fakeServer{fake: f}).trace("terminated")
			os.Exit(0)
		}()
	}
	if f.Child || f.Hidden {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), role+"=idle")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: f.Hidden}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 2
		}
	}
	if f.Taken {
		if _, err := os.Stat(f.Trace); err != nil { // the first time
			os.WriteFile(f.Trace, nil, 0o600)
			// A process that outlives this one takes the port.
			l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", *port))
			if err != nil {
				return 2
			}
			file, _ := l.(*net.TCPListener).File()
			cmd := exec.Command(os.Args[0])
			cmd.Env = []string{role + "=idle", thiefToken}
			cmd.ExtraFiles = []*os.File{file}
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				return 2
			}
			return 1
		}
	}
	for f.Yields != "" {
		if b, _ := os.ReadFile(f.Yields); len(b) > 0 && string(b) != fmt.Sprint(*port) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	switch {
	case f.Garbage, f.Deaf:
		for {
			c, err := l.Accept()
			if err != nil {
				return 1
			}
			if f.Garbage {
				io.WriteString(c, "220 mail.example ready\r\n")
				c.Close()
			}
		}
	}
	e := &fakeServer{fake: f, path: *path, name: *name, saves: *saves, talks: make(map[string]string)}
	if err := e.load(); err != nil {
		fmt.Println(err)
		return 1
	}
	if f.Eat > 0 {
		e.extra = make([]byte, f.Eat)
		for i := 0; i < len(e.extra); i += 4096 {
			e.extra[i] = 1
		}
	}
	for range f.Forks {
		if !forkIdle() {
			return 1
		}
	}
	fmt.Println(http.Serve(l, e))
	return 1
}

// forkIdle makes a worker as a server does that forks without an exec. Go cannot
// run in it; it does nothing but wait.
//
//go:norace
//go:nosplit
func forkIdle() bool {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	for pid == 0 && errno == 0 {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	return errno == 0
}

// fakeServer is an engine's server.
type fakeServer struct {
	fake
	path  string
	name  string
	saves string            // the folder of conversations
	talks map[string]string // by slot
	extra []byte
	more  [][]byte

	mu      sync.Mutex
	weights []byte
}

func (e *fakeServer) load() error {
	if e.path == "" {
		return nil
	}
	f, err := os.Open(e.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if e.Copy {
		// Not with make, so that Sleep can give it back at once.
		e.weights, err = unix.Mmap(-1, 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err == nil {
			_, err = io.ReadFull(f, e.weights)
		}
		return err
	}
	e.weights, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err == nil && e.Touch {
		fmt.Println("weights sum up to", e.sum()) // so that it is not optimised away
	}
	if err == nil && e.Lock {
		err = unix.Mlock(e.weights)
	}
	return err
}

func (e *fakeServer) sum() (n uint64) {
	for i := 0; i < len(e.weights); i += 4096 {
		n = 31*n + uint64(e.weights[i])
	}
	return n
}

func (e *fakeServer) trace(what string) {
	if e.Trace == "" {
		return
	}
	f, err := os.OpenFile(e.Trace, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintln(f, what)
		f.Close()
	}
}

func (e *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch r.URL.Path {
	case "/health":
		if e.Sick || e.weights == nil && e.path != "" {
			http.Error(w, `{"error":"Loading model"}`, http.StatusServiceUnavailable)
		}
	case "/sum":
		fmt.Fprint(w, e.sum())
	case "/weights": // or the range that the request names
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(e.weights))
	case "/eat": // 64 MiB, in addition if the query says "more"
		e.extra = make([]byte, 64<<20)
		for i := 0; i < len(e.extra); i += 4096 {
			e.extra[i] = 1
		}
		if r.URL.RawQuery == "more" {
			e.more = append(e.more, e.extra)
		}
	case "/die":
		fmt.Println("fatal: told to die")
		os.Exit(7)
	case "/shutdown":
		e.trace("shutdown")
		if e.Mute {
			<-r.Context().Done()
			return
		}
		go os.Exit(0)
	case "/sleep":
		body, _ := io.ReadAll(r.Body)
		e.trace("sleep " + string(body))
		if e.NoSleep {
			http.Error(w, "no such thing", http.StatusNotFound)
			return
		}
		unix.Munmap(e.weights)
		e.weights = nil
	case "/wake":
		e.trace("wake")
		if e.NoWake {
			http.Error(w, "out of memory", http.StatusInternalServerError)
			return
		}
		if err := e.load(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	default:
		if slot, ok := strings.CutPrefix(r.URL.Path, "/slots/"); ok && e.Talk > 0 {
			e.slot(w, r, slot)
			return
		}
		http.NotFound(w, r)
	}
}

// A hog takes hogMost at most, in steps.
const (
	hogStep = 10 * tier.MiB
	hogMost = 12 * hogStep
)

// fakeHog is a program that allocates and frees memory at the pace of ordinary ones,
// until its standard input ends.
func fakeHog() int {
	end := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	pace := time.NewTicker(50 * time.Millisecond)
	var held [][]byte
	for grown, want, stay := 0, 0, 0; ; {
		select {
		case <-end:
			fmt.Println("the hog took", tier.Bytes(grown)*hogStep, "in all")
			return 0
		case <-pace.C:
		}
		switch {
		case len(held) < want:
			b, err := unix.Mmap(-1, 0, int(hogStep), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
			if err != nil {
				fmt.Println("the hog:", err)
				return 1
			}
			held, grown = append(held, b), grown+1
		case len(held) > want:
			unix.Munmap(held[len(held)-1])
			held = held[:len(held)-1]
		case stay > 0:
			stay--
		default:
			want, stay = rand.IntN(int(hogMost/hogStep)+1), 10
		}
	}
}

// thiefToken marks the process that takes a port.
const thiefToken = "MODELTIER_TEST_THIEF=1"

// fakeManager brings an engine to a stage, says so, and waits to be killed.
func fakeManager(args []string) int {
	var (
		f     fake
		flags = flag.NewFlagSet("manager", flag.ExitOnError)
		dir   = flags.String("state", "", "")
		path  = flags.String("path", "", "")
		stage = flags.String("stage", "", "")
		token = flags.String("token", "", "")
		how   = flags.String("fake", "{}", "")
		bare  = flags.Bool("bare", false, "no cgroup")
		alone = flags.Bool("alone", false, "no reaper")
		other = flags.String("engine", "", "an Engine instead of a fake that is a child")
	)
	flags.Parse(args)
	if err := json.Unmarshal([]byte(*how), &f); err != nil {
		return 2
	}
	sys := newSystem()
	if *bare {
		sys.cgroup = nil
	}
	if *alone {
		sys.reaper = nil
	}
	reached := func() { fmt.Println("reached", *stage) }
	refill := func(ctx context.Context, _ []weightFile, _ func(int64)) error {
		reached()
		<-ctx.Done()
		return ctx.Err()
	}
	engine := f.engine()
	if *other != "" && json.Unmarshal([]byte(*other), &engine) != nil {
		return 2
	}
	engine.Env = append(engine.Env, *token)
	engine.Standby = StandbyFreeze
	opts := Options{Engine: engine, StateDir: *dir}
	if *stage == "freezing" && sys.pageOut != nil {
		sys.pageOut = func(ctx context.Context, _ int, _ []region) error {
			reached()
			<-ctx.Done()
			return ctx.Err()
		}
	}
	m, err := newMover(sys, opts)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	if *stage == "thawing" {
		m.refill = refill
	}
	info, err := os.Stat(*path)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	model := tier.Model{Name: "model", Path: *path, Size: tier.Bytes(info.Size())}
	move := func(from, to tier.Tier) error {
		return m.Move(context.Background(), tier.Move{Model: model, From: from, To: to}, nil)
	}
	if *stage == "starting" {
		go func() {
			for s := m.Status(); len(s.Engines) == 0 || s.Engines[0].Pid == 0 || f.Child && s.Engines[0].Others == 0; s = m.Status() {
				time.Sleep(time.Millisecond)
			}
			reached()
		}()
	}
	err = move(tier.Storage, tier.RAM)
	if err == nil && *stage != "ram" {
		err = move(tier.RAM, tier.Swap)
		if err == nil && *stage == "freezing" {
			err = m.Uncache(context.Background(), "model", tier.Unlimited)
		}
		if err == nil && *stage == "thawing" {
			m.Uncache(context.Background(), "model", tier.Unlimited)
			err = move(tier.Swap, tier.RAM)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 2
	}
	if *stage == "ram" || *stage == "frozen" {
		reached()
	}
	select {}
}
