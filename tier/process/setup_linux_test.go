package process

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// patience bounds every wait for a real process.
const patience = 20 * time.Second

// weightsOf makes a file of that size, clean and not cached.
func weightsOf(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weights.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	rand.Read(block)
	for n := int64(0); n < size; n += int64(len(block)) {
		if _, err := f.Write(block[:min(size-n, int64(len(block)))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil { // what is dirty can't be dropped
		t.Fatal(err)
	}
	if err := drop(f, 0, 0); err != nil {
		t.Fatal(err)
	}
	return path
}

func modelOf(t testing.TB, name string, size int64) tier.Model {
	t.Helper()
	return tier.Model{Name: name, Path: weightsOf(t, size), Size: tier.Bytes(size)}
}

// oddSize is no multiple of a page.
const oddSize = 6<<20 + 1234

// rig is a Mover under test, with what it told.
type rig struct {
	*Mover
	t     testing.TB
	token string

	mu      sync.Mutex
	crashes []error
	cgroups []string // that were made
	crashed chan string
}

// newRig returns a Mover whose engines all carry a token, and checks at the end
// of the test that none of them is left, nor any cgroup.
func newRig(t testing.TB, sys *system, opts Options) *rig {
	t.Helper()
	r := &rig{t: t, token: "MODELTIER_TEST_TOKEN=" + rand.Text(), crashed: make(chan string, 16)}
	opts.Engine.Env = append(opts.Engine.Env, r.token)
	if opts.Crashed == nil {
		opts.Crashed = func(model string, err error) {
			r.mu.Lock()
			r.crashes = append(r.crashes, err)
			r.mu.Unlock()
			r.crashed <- model
		}
	}
	if make := sys.cgroup; make != nil {
		sys.cgroup = func(parent, mark string) (cgroup, error) {
			g, err := make(parent, mark)
			if err == nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.cgroups = append(r.cgroups, g.path())
			}
			return g, err
		}
	}
	m, err := newMover(sys, opts)
	if err != nil {
		t.Fatal(err)
	}
	r.Mover = m
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if pids := carrying(r.token); len(pids) > 0 {
			t.Errorf("processes are left after Close: %v", pids)
			for _, pid := range pids {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, path := range r.cgroups {
			if exists(path) {
				t.Errorf("the cgroup %s is left after Close", path)
			}
		}
	})
	return r
}

func (r *rig) move(m tier.Model, from, to tier.Tier) {
	r.t.Helper()
	if err := r.try(m, from, to); err != nil {
		r.t.Fatalf("from %v to %v: %v", from, to, err)
	}
}

func (r *rig) try(m tier.Model, from, to tier.Tier) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.Move(ctx, tier.Move{Model: m, From: from, To: to}, nil)
}

// uncache drops all of a model's weights that are cached.
func (r *rig) uncache(m tier.Model) {
	r.t.Helper()
	if err := r.Uncache(r.t.Context(), m.Name, tier.Unlimited); err != nil {
		r.t.Fatal(err)
	}
}

// cached returns what is cached of a model beyond what is present.
func (r *rig) cached(m tier.Model) tier.Bytes {
	r.t.Helper()
	n, err := r.Cached(r.t.Context(), m.Name)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// dropAll empties the page cache of files, but for what is mapped.
func dropAll(sys *system, files []weightFile) {
	for _, file := range files {
		if f, err := os.Open(file.path); err == nil {
			sys.drop(f, 0, 0)
			f.Close()
		}
	}
}

func (r *rig) get(model, page string) string {
	r.t.Helper()
	url, ok := r.URL(model)
	if !ok {
		r.t.Fatalf("%s has no URL", model)
	}
	res, err := http.Get(url + page)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %d, %v", page, res.StatusCode, err)
	}
	return string(b)
}

func (r *rig) engine(model string) ModelStatus {
	r.t.Helper()
	for _, e := range r.Status().Engines {
		if e.Name == model {
			return e
		}
	}
	return ModelStatus{Name: model, State: Stopped}
}

// kill kills the process of a model's engine from outside. If the engine does not run
// there is none, and 0 would be the test's own group.
func (r *rig) kill(model string) (pid int) {
	r.t.Helper()
	if pid = r.engine(model).Pid; pid <= 1 {
		r.t.Fatalf("the engine of %s has no process", model)
	}
	unix.Kill(pid, unix.SIGKILL)
	return pid
}

// carrying returns the living processes that were started with an environment
// that holds the token.
func carrying(token string) (pids []int) {
	all, _ := procfs.AllProcs()
	for _, s := range living(all) {
		if env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.PID)); strings.Contains(string(env), token) {
			pids = append(pids, s.PID)
		}
	}
	return pids
}

// ownCgroup returns the folder of the cgroup v2 that the tests run in.
func ownCgroup() (string, error) {
	self, err := procfs.Self()
	if err != nil {
		return "", err
	}
	return cgroupOf(self)
}

// awaitGone waits for processes to end.
func awaitGone(t testing.TB, pids []int) {
	t.Helper()
	limit := time.Now().Add(patience)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		n, err := 0, error(unix.EINTR)
		for err == unix.EINTR { // any child's end interrupts, as SIGCHLD
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, max(0, int(time.Until(limit).Milliseconds())))
		}
		unix.Close(fd)
		if n != 1 {
			t.Fatalf("process %d has not ended: %d, %v", pid, n, err)
		}
	}
}

// eventually polls for a state that no event announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

// withoutCgroups is a system on which engines have no cgroups.
func withoutCgroups() *system {
	s := newSystem()
	s.cgroup = nil
	return s
}

// needsCgroups skips what only engines with cgroups of their own can show.
func needsCgroups(t *testing.T) {
	t.Helper()
	g, err := newSystem().cgroup("", rand.Text())
	if err != nil {
		t.Skip("no cgroup v2 here: ", err)
	}
	if err := g.remove(); err != nil {
		t.Fatal(err)
	}
}

// needsPageOut skips what needs engines whose weights can be paged out.
func needsPageOut(t *testing.T) {
	t.Helper()
	if err := permitted(); err != nil {
		t.Skip("process_madvise is not permitted here, which takes CAP_SYS_NICE: ", err)
	}
}

// permitted returns why this process may page out nothing of another.
var permitted = sync.OnceValue(func() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=idle")
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	return mayPageOut(cmd.Process.Pid)
})

// eachFreezer runs a test with every way to find what is to be frozen.
func eachFreezer(t *testing.T, test func(t *testing.T, sys *system)) {
	needsPageOut(t)
	t.Run("Cgroup", func(t *testing.T) {
		needsCgroups(t)
		test(t, newSystem())
	})
	t.Run("Session", func(t *testing.T) { test(t, withoutCgroups()) })
}
