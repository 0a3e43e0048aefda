package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// fakeCycler is a server that starts, freezes, thaws and stops an engine until its
// standard input ends. Then it says what is wrong with its accounts.
func fakeCycler(args []string) int {
	var (
		engine Engine
		flags  = flag.NewFlagSet("cycler", flag.ExitOnError)
		dir    = flags.String("state", "", "")
		path   = flags.String("path", "", "")
		token  = flags.String("token", "", "")
		how    = flags.String("engine", "", "")
	)
	flags.Parse(args)
	if err := json.Unmarshal([]byte(*how), &engine); err != nil {
		fmt.Println(err)
		return 2
	}
	engine.Env = append(engine.Env, *token)
	var m *modeltier.Manager
	made := make(chan struct{})
	mover, err := New(Options{Engine: engine, StateDir: *dir, Crashed: func(model string, err error) {
		<-made
		m.ReportCrash(model, err)
	}})
	if err != nil {
		fmt.Println(err)
		return 2
	}
	model := tier.Model{Name: "m", Path: *path, Size: 1 << 20}
	m, err = modeltier.New(modeltier.Config{
		Models: []tier.Model{model}, Mover: mover, Probe: tiertest.NewProbe(tier.Memory{Total: 64 * tier.GiB, Available: 60 * tier.GiB}),
		Limits: tier.Limits{RAM: tier.GiB, Swap: tier.GiB, Reserved: tier.MiB},
	})
	if err != nil {
		fmt.Println(err)
		return 2
	}
	close(made)
	ctx, end := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end()
	}()
	move := func(ctx context.Context, to tier.Tier) error {
		j, err := m.MoveTier(ctx, "m", to)
		if err != nil {
			return err
		}
		return j.Wait(ctx)
	}
	fmt.Println("cycling")
	for ctx.Err() == nil {
		soon, cancel := context.WithTimeout(ctx, time.Second)
		if l, err := m.Acquire(soon, modeltier.Request{Model: "m"}); err == nil {
			l.Release()
		}
		cancel()
		for _, to := range []tier.Tier{tier.Swap, tier.RAM, tier.Swap, tier.Storage} {
			move(ctx, to)
		}
	}
	last, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	wrong := 0
	err = move(last, tier.Storage)
	for errors.Is(err, tier.ErrInUse) && last.Err() == nil { // a move is under way
		time.Sleep(time.Millisecond)
		err = move(last, tier.Storage)
	}
	if at, _ := m.Model("m"); at.Tier != tier.Storage { // it may have been there already
		fmt.Println("it cannot be moved to storage:", err)
		wrong = 3
	}
	if s := m.Status(); s.RAM.Used != 0 || s.Swap.Used != 0 {
		fmt.Printf("in storage %v and %v are charged\n", s.RAM.Used, s.Swap.Used)
		wrong = 3
	}
	if present, _, err := mover.Resident(last, "m"); present != 0 || err != nil {
		fmt.Printf("in storage %v are present, %v\n", present, err)
		wrong = 3
	}
	if err := m.Close(); err != nil {
		fmt.Println(err)
		wrong = 3
	}
	return wrong
}

// TestForeign_KilledAtRandomPoints_NoOrphanAndAccountsWhole kills one of server, client,
// daemon and engine at a random moment of start, freeze, thaw and stop. Nothing of the
// engine is left, and the server that lives has nothing charged for it in the end.
func TestForeign_KilledAtRandomPoints_NoOrphanAndAccountsWhole(t *testing.T) {
	points := 24
	if os.Getenv("MODELTIER_LONG") != "" {
		points = 200
	}
	d := newDaemon(t)
	path, killed := weightsOf(t, 1<<20), make(map[string]int)
	for i := range points {
		victim := []string{"server", "client", "daemon", "engine"}[i%4]
		found := []string{"cgroup", "pidfile", "command"}[rand.IntN(3)]
		if victim == "daemon" { // that of an engine which was not seen yet must not be all that leads to it
			found = "cgroup"
		}
		var flags []string
		if rand.IntN(3) == 0 {
			flags = []string{"-d"}
		}
		after := time.Duration(rand.Int64N(int64(1500 * time.Millisecond)))
		name := fmt.Sprintf("point %d: %s killed after %v, processes by %s %v", i, victim, after, found, flags)
		if killedAt(t, d, name, d.engine(fake{}, found, flags...), path, victim, after) {
			killed[victim]++
		}
		if d.cmd == nil {
			d.start()
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("of %d points: %v", points, killed)
}

func killedAt(t *testing.T, d *daemon, name string, e Engine, path, victim string, after time.Duration) (killed bool) {
	dir, token := t.TempDir(), "MODELTIER_TEST_TOKEN="+fmt.Sprint(rand.Uint64())
	server := exec.Command(os.Args[0], "-state="+dir, "-path="+path, "-token="+token, asFlag(t, e))
	server.Env = append(os.Environ(), role+"=cycler", noLinger)
	out, in := lines(t, server)
	defer func() {
		server.Process.Kill()
		server.Wait()
		for _, pid := range carrying(token) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}()
	out.await(t, "cycling")
	time.Sleep(after) // the random moment: there is nothing to wait for
	switch victim {
	case "server":
		server.Process.Kill()
		killed = true
	case "daemon":
		d.kill()
		killed = true
	default: // a client that has ended, and an engine between two starts, may not be there
		if pid := processOf(token, victim); pid > 1 {
			killed = unix.Kill(pid, unix.SIGKILL) == nil
		}
	}
	in.Close()
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	select {
	case err := <-ended:
		if victim != "server" && err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	case <-time.After(3 * patience):
		t.Errorf("%s: the server does not end: %s", name, out)
		return killed
	}
	records := func() (left []string) {
		left, _ = filepath.Glob(filepath.Join(dir, recordPrefix+"*"))
		return left
	}
	if victim == "server" {
		// A process that it was about to start may hold its locks for a moment more.
		eventually(t, "a New leaves no record of "+name, func() bool {
			next, err := New(Options{Engine: e, StateDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			for _, what := range next.Status().Orphans.Ended {
				if strings.Contains(what, "failed") {
					t.Errorf("%s: %s", name, what)
				}
			}
			return len(records()) == 0
		})
	}
	eventually(t, "nothing is left of "+name, func() bool { return len(carrying(token)) == 0 })
	if left := records(); len(left) > 0 {
		t.Errorf("%s: records are left: %v", name, left)
	}
	eventually(t, "no cgroup is left of "+name, func() bool {
		left, _ := filepath.Glob(filepath.Join(filepath.Dir(d.dir), fmt.Sprintf("%s%d-*", cgroupPrefix, server.Process.Pid)))
		if len(left) == 1 && victim == "server" { // one that it had made, and not recorded yet, stays empty
			pids, err := cgroup2(left[0]).pids()
			return err == nil && len(pids) == 0 && os.Remove(left[0]) == nil
		}
		return len(left) == 0
	})
	return killed
}

// printed is what a program has printed.
type printed struct {
	mu    sync.Mutex // guards text
	text  bytes.Buffer
	first chan string // its first line
}

// lines starts a program, and returns what it prints and its standard input.
func lines(t *testing.T, cmd *exec.Cmd) (*printed, io.Closer) {
	t.Helper()
	p := &printed{first: make(chan string, 1)}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer r.Close()
		s := bufio.NewScanner(r)
		for n := 0; s.Scan(); n++ {
			if n == 0 {
				p.first <- s.Text()
			}
			p.mu.Lock()
			fmt.Fprintln(&p.text, s.Text())
			p.mu.Unlock()
		}
	}()
	return p, in
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func (p *printed) await(t *testing.T, line string) {
	t.Helper()
	select {
	case got := <-p.first:
		if !strings.Contains(got, line) {
			t.Fatalf("it said %q", got)
		}
	case <-time.After(patience):
		t.Fatalf("it said nothing: %s", p)
	}
}
