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
	"net/http"
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

// fakeCycler is a server that starts, freezes, thaws and stops engines that have
// conversations, and gives an outsider room, until its standard input ends. Then it says
// what is wrong with its accounts.
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
	m, mover, err := newCycler(engine, *dir, *path)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	ctx, end := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end()
	}()
	fmt.Println("cycling")
	var outsider sync.WaitGroup
	outsider.Go(func() {
		for ctx.Err() == nil { // with all room the engine has to go, with a little not
			soon, cancel := context.WithTimeout(ctx, time.Second)
			if r, err := m.Reserve(soon, []tier.Bytes{tier.MiB, cyclerRoom}[rand.IntN(2)], "a game"); err == nil {
				fmt.Println("reserved", r.ID())
				<-time.After(rand.N(50 * time.Millisecond)) // as long as it plays
				fmt.Println("releases", r.ID())
				r.Release()
			}
			cancel()
		}
	})
	var foreign error
	for n := 0; ctx.Err() == nil; n++ {
		name := cyclerModels[n%len(cyclerModels)]
		soon, cancel := context.WithTimeout(ctx, time.Second)
		if l, err := m.Acquire(soon, modeltier.Request{Model: name}); err == nil {
			foreign = errors.Join(foreign, talkOf(mover, name, n))
			l.Release()
		}
		cancel()
		for _, to := range []tier.Tier{tier.Swap, tier.RAM, tier.Swap, tier.Storage} {
			moved(ctx, m, name, to)
		}
	}
	outsider.Wait()
	// An engine that a killed daemon never started is waited for for 10 s, and then for its end.
	last, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if err := errors.Join(foreign, atRest(last, m, mover), m.Close()); err != nil {
		fmt.Println(err)
		return 3
	}
	return 0
}

// cyclerRoom is all room that there is in ram for cyclerModels.
const cyclerRoom = tier.GiB

var cyclerModels = []string{"m", "o"}

// newCycler returns the Manager of a server that remembers in dir.
func newCycler(engine Engine, dir, path string) (m *modeltier.Manager, mover *Mover, err error) {
	made := make(chan struct{})
	mover, err = New(Options{Engine: engine, StateDir: dir, Crashed: func(model string, err error) {
		if <-made; m != nil {
			m.ReportCrash(model, err)
		}
	}})
	if err != nil {
		return nil, nil, err
	}
	defer close(made)
	cfg := modeltier.Config{
		Mover: mover, Probe: tiertest.NewProbe(tier.Memory{Total: 64 * tier.GiB, Available: 60 * tier.GiB}),
		Limits: tier.Limits{RAM: cyclerRoom, Swap: tier.GiB, Reserved: tier.MiB}, StateDir: filepath.Join(dir, "manager"),
	}
	for _, name := range cyclerModels {
		cfg.Models = append(cfg.Models, tier.Model{Name: name, Path: path, Size: 1 << 20})
	}
	m, err = modeltier.New(cfg)
	return m, mover, err
}

// talkOf has a leased model say what its conversation is, which is then another one. It
// returns an error if it was another model's; an engine that was killed says nothing.
func talkOf(mover *Mover, model string, n int) error {
	url, _ := mover.URL(model)
	for _, page := range []string{"/slots/0", fmt.Sprintf("/slots/0?say=%d", n)} {
		res, err := http.Get(url + page)
		if err != nil {
			return nil
		}
		said, err := io.ReadAll(io.LimitReader(res.Body, 64))
		res.Body.Close()
		if err == nil && res.StatusCode == http.StatusOK && len(said) > 0 && !strings.HasPrefix(string(said), model+"|") {
			return fmt.Errorf("%s has the conversation %q", model, said)
		}
	}
	return nil
}

// atRest removes all models, which no prefetch brings back, and returns what is charged,
// present or reserved then, as nothing may be.
func atRest(ctx context.Context, m *modeltier.Manager, mover *Mover) error {
	var wrong []error
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for s := range m.Models() {
		j, err := m.Remove(ctx, s.Name)
		for ; errors.Is(err, tier.ErrInUse) && ctx.Err() == nil; j, err = m.Remove(ctx, s.Name) { // a move is under way
			time.Sleep(time.Millisecond)
		}
		if err == nil {
			err = j.Wait(ctx)
		}
		if err != nil {
			fault("%s cannot be removed: %v", s.Name, err)
		}
		if present, _, err := mover.Resident(ctx, s.Name); present != 0 || err != nil {
			fault("%v of %s are present though it was removed, %v", present, s.Name, err)
		}
	}
	if s := m.Status(); s.RAM.Used != 0 || s.Swap.Used != 0 || s.RAM.Overdraft != 0 || len(s.Reservations)+len(s.Leftovers) > 0 {
		fault("without models %v and %v are charged, %v overdrawn; reservations %+v, leftovers %v", s.RAM.Used, s.Swap.Used, s.RAM.Overdraft, s.Reservations, s.Leftovers)
	}
	return errors.Join(wrong...)
}

// moved has a model moved, and waits for that.
func moved(ctx context.Context, m *modeltier.Manager, name string, to tier.Tier) error {
	j, err := m.MoveTier(ctx, name, to)
	if err != nil {
		return err
	}
	return j.Wait(ctx)
}

// TestForeign_KilledAtRandomPoints_NoOrphanAndAccountsWhole kills one of server, client,
// daemon and engine at a random moment of start, freeze, thaw, save, restore and stop,
// while an outsider comes and goes. Nothing of the engine is left, no model is given
// another's conversation, and the server that lives has nothing charged for models or
// outsiders in the end. One that is started after a kill knows no reservation.
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
		if killedAt(t, d, name, d.engine(fake{Talk: 256 << 10, SavePace: time.Millisecond}, found, flags...), path, victim, after) {
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
	if said := out.String(); victim == "server" {
		restarted(t, name, e, dir, path, said)
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

// restarted starts another server in the place of a killed one.
func restarted(t *testing.T, name string, e Engine, dir, path, said string) {
	t.Helper()
	m, mover, err := newCycler(e, dir, path)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer m.Close()
	if s := m.Status(); len(s.Reservations) > 0 || s.RAM.Used >= cyclerRoom {
		t.Errorf("%s: after it %v is used, reservations %+v", name, s.RAM.Used, s.Reservations)
	}
	if at := strings.LastIndex(said, "reserved "); at >= 0 {
		id, _, _ := strings.Cut(said[at+len("reserved "):], "\n")
		if a := m.HandleRequest(t.Context(), fmt.Appendf(nil, `{"release": %q}`, id)); !strings.Contains(string(a), `"not_found"`) {
			t.Errorf("%s: the release of %s gives %s", name, id, a)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	room, err := m.Reserve(ctx, cyclerRoom, "")
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	room.Release()
	for _, model := range cyclerModels {
		l, err := m.Acquire(ctx, modeltier.Request{Model: model})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = talkOf(mover, model, 0)
		if l.Release(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := atRest(ctx, m, mover); err != nil {
		t.Errorf("%s: %v", name, err)
	}
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
