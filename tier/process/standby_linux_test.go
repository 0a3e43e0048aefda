package process

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

func sleeper() Sleeper {
	return HTTPSleeper{
		ToSleep: []Request{{Path: "/sleep", Body: `{"model":"{name}"}`}},
		ToWake:  []Request{{Path: "/wake"}},
	}
}

func forbidden(context.Context, int, []region) error { return unix.EPERM }

// TestStandby_EachFallback takes one way after the other away. It is told how the engine
// is once its model is in swap, and once the room of its weights is needed.
func TestStandby_EachFallback(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	for _, c := range []struct {
		name    string
		fake    fake
		size    int64 // of its weights; 0: 8 MiB
		standby Standby
		sleeper Sleeper
		change  func(*system)
		state   State
		says    string // the note
		then    State  // "": as before
		stays   bool   // its weights
	}{
		{name: "Freeze", state: Frozen},
		{name: "PageOutForbidden", change: func(s *system) { s.pageOut = forbidden }, state: Frozen, then: Stopped},
		{name: "PageOutMissing", change: func(s *system) { s.pageOut, s.cgroup = nil, nil }, state: Frozen, then: Stopped},
		{name: "PageOutForbiddenButInsists", standby: StandbyFreeze, change: func(s *system) { s.pageOut = forbidden }, state: Frozen, stays: true},
		{name: "NoFreezer", change: func(s *system) { s.suspend, s.cgroup = nil, nil }, state: Stopped, says: "cannot be frozen"},
		{name: "NoFreezerButSleeper", sleeper: sleeper(), change: func(s *system) { s.suspend, s.cgroup = nil, nil }, state: Asleep, says: "cannot be frozen", stays: true},
		{name: "NothingSeen", change: func(s *system) { s.usage = nil }, state: Stopped, says: "free nothing"},
		{name: "Copies", fake: fake{Copy: true}, state: Stopped, says: "free nothing"},
		{name: "CopiesButSleeper", fake: fake{Copy: true}, sleeper: sleeper(), state: Asleep, says: "free nothing"},
		{name: "CopiesButInsists", fake: fake{Copy: true}, standby: StandbyFreeze, state: Frozen},
		{name: "HasMoreOfItsOwn", fake: fake{Eat: 128 << 20}, state: Stopped, says: "less than it keeps"},
		{name: "Locked", fake: fake{Lock: true, Touch: true}, size: 96 << 20, state: Stopped, says: "less than it keeps"},
		{name: "LockedButInsists", fake: fake{Lock: true, Touch: true}, standby: StandbyFreeze, state: Frozen, stays: true},
		{name: "Sleep", standby: StandbySleep, sleeper: sleeper(), state: Asleep, says: "Standby", stays: true},
		{name: "SleepFails", fake: fake{NoSleep: true}, standby: StandbySleep, sleeper: sleeper(), state: Stopped, says: "no such thing"},
		{name: "Stop", standby: StandbyStop, sleeper: sleeper(), state: Stopped, says: "Standby"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.state == Frozen && c.then == "" {
				needsPageOut(t)
			}
			if limit := new(unix.Rlimit); c.fake.Lock && os.Geteuid() != 0 && unix.Getrlimit(unix.RLIMIT_MEMLOCK, limit) == nil && limit.Cur < uint64(c.size) {
				t.Skip("so much memory may not be locked here: ", limit.Cur)
			}
			os.Remove(trace)
			c.fake.Trace = trace
			sys := newSystem()
			if c.change != nil {
				c.change(sys)
			}
			engine := c.fake.engine()
			engine.Standby, engine.Sleeper = c.standby, c.sleeper
			r := newRig(t, sys, Options{Engine: engine})
			m := modelOf(t, "m", cmp.Or(c.size, 8<<20))
			r.move(m, tier.Storage, tier.RAM)
			pid := r.engine("m").Pid
			r.move(m, tier.RAM, tier.Swap)
			e := r.engine("m")
			ways := map[State]Way{Frozen: WayKept, Asleep: WayAsleep, Stopped: WayStopped}
			if e.State != c.state || e.Tier != tier.Swap || e.Standby != ways[c.state] || !strings.Contains(e.Note, c.says) {
				t.Fatalf("in swap it is %s (%s: %q), want %s (%q)", e.State, e.Standby, e.Note, c.state, c.says)
			}
			// Without figures of the engine the start has not waited until they were read.
			if n := r.cached(m); n < m.Size*9/10 && !c.fake.Lock && c.name != "NothingSeen" {
				t.Errorf("%v of its weights are cached", n)
			}
			present, _, err := r.Resident(t.Context(), "m")
			if err != nil || c.state == Stopped && present != 0 {
				t.Errorf("%v are present, %v", present, err)
			}
			if now, _, _ := r.Footprint("m"); c.state == Frozen && !c.fake.Copy && !c.fake.Lock && now > e.Anon+m.Size/2 {
				t.Errorf("%v are charged of %v of its own", now, e.Anon)
			}
			if c.fake.Copy && c.state == Frozen && present != m.Size {
				t.Errorf("frozen with a copy of its weights, %v of %v are said to be present", present, m.Size)
			}
			err = r.Uncache(t.Context(), "m", tier.Unlimited)
			if then := cmp.Or(c.then, c.state); r.engine("m").State != then || (err != nil) != (c.stays && c.state == Frozen && !c.fake.Lock) {
				t.Fatalf("when the room is needed it is %s, want %s: %v", r.engine("m").State, then, err)
			}
			if n := r.cached(m); !c.stays && n > m.Size/16 {
				t.Errorf("when the room is needed, %v of its weights stay", n)
			}
			if c.then != "" {
				c.state = c.then
			}
			r.move(m, tier.Swap, tier.RAM)
			if got := r.engine("m"); got.State != Running || c.state != Stopped && got.Pid != pid {
				t.Errorf("back in ram it is %s, process %d, was %d", got.State, got.Pid, pid)
			}
			r.get("m", "/sum")
			b, _ := os.ReadFile(trace)
			if want := "sleep {\"model\":\"m\"}\nwake\n"; c.state == Asleep && string(b) != want {
				t.Errorf("the engine was told %q, want %q", b, want)
			}
		})
	}
}

func TestUncache_SomeOfTheWeights_TheirEndGoesAndTheRestStays(t *testing.T) {
	needsPageOut(t)
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 3*uncachePiece)
	r.move(m, tier.Storage, tier.RAM)
	if n := r.cached(m); n != 0 {
		t.Errorf("while it serves, %v of it are cached beyond what is present", n)
	}
	if err := r.Uncache(t.Context(), "m", m.Size); err != nil || r.engine("m").Cached != m.Size {
		t.Errorf("of an engine that serves, %v are left, %v", r.engine("m").Cached, err)
	}
	r.move(m, tier.RAM, tier.Swap)
	if err := r.Uncache(t.Context(), "m", uncachePiece/2); err != nil {
		t.Error(err)
	}
	if n := r.cached(m); n < 2*uncachePiece-smallRest || n > 2*uncachePiece+smallRest {
		t.Errorf("after a part was dropped, %v are cached", n)
	}
	f, err := os.Open(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := cachestat(f, 0, uncachePiece); n != uncachePiece || err != nil {
		t.Errorf("%d of its beginning are cached, %v", n, err)
	}
	r.move(m, tier.Swap, tier.Storage)
	r.uncache(m)
	if n := r.cached(m); n > smallRest {
		t.Errorf("of a stopped engine's weights %v stay", n)
	}
}

// A request does not wait for the room that another one needed.
func TestUncache_MoveComesMeanwhile_MoveGoesFirst(t *testing.T) {
	sys, asked := withoutCgroups(), make(chan struct{})
	sys.pageOut = func(ctx context.Context, _ int, _ []region) error {
		close(asked)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	done := make(chan error, 1)
	go func() { done <- r.Uncache(context.Background(), "m", m.Size) }()
	<-asked
	r.move(m, tier.Swap, tier.RAM)
	if err := <-done; !errors.Is(err, errMoves) {
		t.Errorf("it returned %v", err)
	}
	r.get("m", "/sum")
}

func TestUncache_DoesNotEnd_MoveWaitsNoLongerThanItsContext(t *testing.T) {
	sys, asked, release := withoutCgroups(), make(chan struct{}), make(chan struct{})
	cause := errors.New("no request waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	sys.pageOut = func(uncache context.Context, _ int, _ []region) error {
		close(asked)
		<-uncache.Done() // the move has come
		cancel(cause)
		<-release
		return nil
	}
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	t.Cleanup(func() { close(release) })
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	go r.Uncache(context.Background(), "m", m.Size)
	<-asked
	err := within(t, "the move", func() error { return r.Move(ctx, tier.Move{Model: m, From: tier.Swap, To: tier.RAM}, nil) })
	if !errors.Is(err, cause) {
		t.Errorf("the move returned %v", err)
	}
}

// withFiles returns a rig that knows a model which was never started, and the model.
func withFiles(t *testing.T, sys *system, size int64) (*rig, tier.Model) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weights.gguf")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	r, m := newRig(t, sys, Options{Engine: fake{}.engine()}), tier.Model{Name: "m", Path: path, Size: tier.Bytes(size)}
	r.move(m, tier.Storage, tier.Swap)
	return r, m
}

// A move comes between any two steps of an Uncache, its last included.
func TestUncache_EndsAsAMoveComes_MoveIsNotRefused(t *testing.T) {
	sys := newSystem()
	sys.cached = func(*os.File, int64, int64) (int64, error) { return 0, nil }
	r, m := withFiles(t, sys, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			r.Uncache(ctx, "m", m.Size)
		}
	})
	for range 500 {
		if err := r.try(m, tier.Storage, tier.Swap); err != nil {
			t.Error(err)
			break
		}
	}
	cancel()
	all.Wait()
}

func TestUncache_LargeFile_InPiecesUntilAMoveComes(t *testing.T) {
	const size = 2*uncachePiece + oddSize
	for _, n := range []tier.Bytes{size / 2, tier.Unlimited} {
		type piece struct{ off, n int64 }
		var dropped []piece
		var meanwhile func()
		sys := newSystem()
		sys.cached = func(_ *os.File, _, n int64) (int64, error) { return n, nil }
		sys.drop = func(_ *os.File, off, n int64) error {
			dropped = append(dropped, piece{off, n})
			if meanwhile != nil {
				meanwhile()
			}
			return nil
		}
		r, _ := withFiles(t, sys, size)
		if err := r.Uncache(t.Context(), "m", n); err != nil {
			t.Error(err)
		}
		want := []piece{{2 * uncachePiece, oddSize}, {uncachePiece, uncachePiece}, {0, uncachePiece}}
		if !slices.Equal(dropped, want) {
			t.Errorf("of %v it dropped %v, want %v", n, dropped, want)
		}
		dropped, meanwhile = nil, func() {
			meanwhile = nil
			r.Mover.mu.Lock()
			uncaching := r.slots["m"].cancel
			r.Mover.mu.Unlock()
			uncaching(errMoves) // as a move does
		}
		if err := r.Uncache(t.Context(), "m", n); !errors.Is(err, errMoves) || len(dropped) != 1 {
			t.Errorf("of %v it dropped %v when a move came, %v", n, dropped, err)
		}
	}
}

// What is asked of a model while another Uncache of it is under way is dropped as well.
func TestUncache_AnotherIsUnderWay_BothDrop(t *testing.T) {
	sys, asked, release := newSystem(), make(chan struct{}, 16), make(chan struct{})
	sys.cached = func(_ *os.File, _, n int64) (int64, error) { return n, nil }
	sys.drop = func(*os.File, int64, int64) error {
		asked <- struct{}{}
		<-release
		return nil
	}
	r, m := withFiles(t, sys, 1<<20)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if err := r.Uncache(context.Background(), "m", m.Size); err != nil {
				t.Error(err)
			}
		})
	}
	<-asked
	close(release)
	all.Wait()
	if n := len(asked) + 1; n != 4 { // what stays is dropped twice
		t.Errorf("both together have dropped %d times", n)
	}
}

// An engine that dies while its weights are dropped has crashed.
func TestUncache_EngineCrashesMeanwhile_IsReported(t *testing.T) {
	sys := withoutCgroups()
	var r *rig
	sys.pageOut = func(context.Context, int, []region) error {
		c, _ := r.engineOf("m")
		unix.Kill(c.pid, unix.SIGKILL)
		<-c.done
		return nil
	}
	r = newRig(t, sys, Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	within(t, "the report", func() error { <-r.crashed; return nil })
	if e := r.engine("m"); e.State != Stopped || e.Tier != tier.Storage || len(r.crashed) > 0 {
		t.Errorf("it is %s in %v", e.State, e.Tier)
	}
}

// An engine whose sleep frees something other than its weights holds them.
func TestCached_AsleepWithItsWeightsMapped_CountsThemOnce(t *testing.T) {
	engine := fake{Touch: true}.engine()
	engine.Standby, engine.Sleeper = StandbySleep, HTTPSleeper{}
	r := newRig(t, newSystem(), Options{Engine: engine})
	m := modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	present, _, err := r.Resident(t.Context(), "m")
	if n := r.cached(m); r.engine("m").State != Asleep || present != m.Size || n != 0 || err != nil {
		t.Errorf("it is %s, %v are present, and %v cached beside that, %v", r.engine("m").State, present, n, err)
	}
}

func TestUncache_OfUnknownModelOrAfterClose_DoesNothing(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	for range 2 {
		if n, err := r.Cached(t.Context(), "m"); n != 0 || err != nil {
			t.Errorf("%v, %v", n, err)
		}
		if err := r.Uncache(t.Context(), "m", tier.GiB); err != nil {
			t.Error(err)
		}
		r.Close()
	}
}

// Two models of one file: what one serves is not dropped for the other.
func TestUncache_FileThatAnotherEngineServes_Stays(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	a := modelOf(t, "a", 8<<20)
	b := a
	b.Name = "b"
	r.move(a, tier.Storage, tier.RAM)
	r.move(b, tier.Storage, tier.RAM)
	r.move(a, tier.RAM, tier.Swap)
	if n := r.cached(a); n != 0 {
		t.Errorf("%v are said to be droppable", n)
	}
	r.uncache(a)
	if e := r.engine("b"); e.Cached != b.Size {
		t.Errorf("%v of %v are left to the one that serves", e.Cached, b.Size)
	}
}

// What two frozen engines map, the kernel takes from neither and does not say so. One
// of them has to go before the other's can be paged out.
func TestUncache_FileThatAnotherFrozenEngineMaps_OneStopsAndItGoes(t *testing.T) {
	needsPageOut(t)
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	a := modelOf(t, "a", 16<<20)
	b := a
	b.Name = "b"
	for _, m := range []tier.Model{a, b} {
		r.move(m, tier.Storage, tier.RAM)
		r.move(m, tier.RAM, tier.Swap)
	}
	r.uncache(a)
	if e := r.engine("a"); e.State != Stopped || e.Standby != WayStopped || !strings.Contains(e.Note, "another process maps them") {
		t.Errorf("the first is %s (%s: %q)", e.State, e.Standby, e.Note)
	}
	r.uncache(b)
	if e, n := r.engine("b"), r.cached(b); e.State != Frozen || e.Standby != WayPagedOut || n > smallRest {
		t.Errorf("the second is %s (%s), and %v are cached", e.State, e.Standby, n)
	}
}

// A cgroup's memory.reclaim that finds nothing to take is no error of the kernel's: the
// weights may be charged to the cgroup of who has read them.
func TestUncache_CgroupReclaimsNothing_EngineIsStopped(t *testing.T) {
	var asked tier.Bytes
	sys := reclaimingSystem(t, &asked)
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 16<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	if e, n := r.engine("m"), r.cached(m); e.State != Stopped || asked == 0 || n > smallRest {
		t.Errorf("it is %s, %v were asked for and %v are cached", e.State, asked, n)
	}
}

func TestUncache_PageOutMissing_EngineStopsAndItShows(t *testing.T) {
	sys := withoutCgroups()
	sys.pageOut = func(context.Context, int, []region) error { return unix.ENOSYS }
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	if s := r.Status(); s.Freeze != "SIGSTOP" || s.PageOut != "process_madvise" {
		t.Errorf("before it is tried, Status says %s, %s", s.Freeze, s.PageOut)
	}
	for range 2 {
		r.move(m, tier.Storage, tier.RAM)
		r.move(m, tier.RAM, tier.Swap)
		r.uncache(m)
	}
	if s := r.Status(); s.Engines[0].State != Stopped || s.PageOut != "none" || s.Lacks[lackPageOut] == "" {
		t.Errorf("it is %s, by %s, %v", s.Engines[0].State, s.PageOut, s.Lacks)
	}
}

// One engine may be out of reach, or an operator may grant the right later: what failed
// once is tried again, and what passes by itself is not said to be lacking.
func TestUncache_PageOutFailsOnce_IsTriedAgainTheNextTime(t *testing.T) {
	needsPageOut(t)
	for err, lacks := range map[error]bool{unix.EAGAIN: false, unix.EPERM: true} {
		sys, tries := withoutCgroups(), 0
		kernels := sys.pageOut
		sys.pageOut = func(ctx context.Context, pid int, regions []region) error {
			if tries++; tries == 1 {
				return err
			}
			return kernels(ctx, pid, regions)
		}
		r := newRig(t, sys, Options{Engine: fake{}.engine()})
		m := modelOf(t, "m", 1<<20)
		for try, want := range []State{Stopped, Frozen} {
			r.move(m, tier.Storage, tier.RAM)
			r.move(m, tier.RAM, tier.Swap)
			r.uncache(m)
			s := r.Status()
			if s.Engines[0].State != want || (s.Lacks[lackPageOut] != "") != (lacks && try == 0) {
				t.Errorf("%v: after try %d it is %s, want %s, and is said to be lacking: %v", err, try, s.Engines[0].State, want, s.Lacks)
			}
			r.move(m, tier.Swap, tier.Storage)
		}
	}
}

// reclaiming is a cgroup that has a memory controller, which here none has.
type reclaiming struct {
	cgroup
	asked *tier.Bytes
}

func (c reclaiming) reclaim(n tier.Bytes) error { *c.asked = n; return nil }

// reclaimingSystem has such cgroups, and no right to use process_madvise.
func reclaimingSystem(t *testing.T, asked *tier.Bytes) *system {
	sys := newSystem()
	cgroups := sys.cgroup
	sys.cgroup = func(parent, mark string) (cgroup, error) {
		g, err := cgroups(parent, mark)
		if err != nil {
			t.Skip("no cgroup v2 here: ", err)
		}
		return reclaiming{g, asked}, nil
	}
	sys.pageOut = forbidden
	return sys
}

func TestUncache_PageOutForbidden_CgroupReclaims(t *testing.T) {
	var asked tier.Bytes
	sys := reclaimingSystem(t, &asked)
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	if e := r.engine("m"); e.State != Frozen || asked != m.Size || r.Status().PageOut != "memory.reclaim" {
		t.Errorf("it is %s, %v were asked for, by %s", e.State, asked, r.Status().PageOut)
	}
}

func TestReclaim_SparesSwap(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"memory.reclaim", "memory.swap.max"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := cgroup2(dir).reclaim(12345); err != nil {
		t.Fatal(err)
	}
	asked, _ := os.ReadFile(filepath.Join(dir, "memory.reclaim"))
	swap, _ := os.ReadFile(filepath.Join(dir, "memory.swap.max"))
	if string(asked) != "12345" || string(swap) != "max" { // the kernel's files do not grow; these keep the longest
		t.Errorf("it wrote %q and %q", asked, swap)
	}
	if err := cgroup2(t.TempDir()).reclaim(1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a memory controller it returned %v", err)
	}
}

func TestCgroups_CloneForbidden_EngineRunsWithoutAndIsStopped(t *testing.T) {
	needsPageOut(t)
	sys := newSystem()
	cgroups := sys.cgroup
	sys.cgroup = func(parent, mark string) (cgroup, error) {
		g, err := cgroups(parent, mark)
		if err != nil {
			t.Skip("no cgroup v2 here: ", err)
		}
		return cgroupThatIsAFile{g}, nil
	}
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	s := r.Status()
	if s.Engines[0].State != Frozen || s.Freeze != "SIGSTOP" || s.Lacks[lackCgroup] == "" {
		t.Errorf("it is %s by %s, %v", s.Engines[0].State, s.Freeze, s.Lacks)
	}
}

// cgroupThatIsAFile is one into which nothing can be started.
type cgroupThatIsAFile struct{ cgroup }

func (c cgroupThatIsAFile) prepare(cmd *exec.Cmd) (func(), error) {
	f, err := os.Open("/dev/null")
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	return func() { f.Close() }, nil
}

func TestSleeper_WakeFails_KilledAndInStorage(t *testing.T) {
	engine := fake{NoWake: true}.engine()
	engine.Standby, engine.Sleeper = StandbySleep, sleeper()
	r := newRig(t, newSystem(), Options{Engine: engine})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	err := r.try(m, tier.Swap, tier.RAM)
	me, moved := errors.AsType[*tier.MoveError](err)
	if !moved || !me.Lost || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("the move returned %v", err)
	}
	if e := r.engine("m"); e.State != Stopped {
		t.Errorf("it is %s", e.State)
	}
}

// leaving is a Sleeper that does what it is told and does not return.
type leaving struct {
	Sleeper
	leave func()
}

func (l leaving) Sleep(ctx context.Context, url, model string) error {
	_ = l.Sleeper.Sleep(ctx, url, model)
	l.leave()
	return nil
}

func TestSleeper_DoesNotReturn_NoSleepingEngineIsServed(t *testing.T) {
	for name, leave := range map[string]func(){"Panic": func() { panic("theirs") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			engine := fake{}.engine()
			engine.Standby, engine.Sleeper = StandbySleep, leaving{sleeper(), leave}
			r := newRig(t, newSystem(), Options{Engine: engine})
			m := modelOf(t, "m", 1<<20)
			r.move(m, tier.Storage, tier.RAM)
			r.move(m, tier.RAM, tier.Swap)
			if e := r.engine("m"); e.State != Stopped || !strings.Contains(e.Note, "Engine.Sleeper") {
				t.Errorf("it is %s: %q", e.State, e.Note)
			}
			r.move(m, tier.Swap, tier.RAM)
			r.get("m", "/sum")
		})
	}
}

// blocking is a Sleeper that hangs in one of its calls until it is cancelled.
type blocking struct {
	Sleeper
	inSleep, inWake bool
	reached         chan struct{}
}

func (b *blocking) Sleep(ctx context.Context, url, model string) error {
	if b.inSleep {
		close(b.reached)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return b.Sleeper.Sleep(ctx, url, model)
}

func (b *blocking) Wake(ctx context.Context, url, model string) error {
	if b.inWake {
		close(b.reached)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return b.Sleeper.Wake(ctx, url, model)
}

func TestSleeper_Cancelled_EngineIsAsBefore(t *testing.T) {
	for _, b := range []*blocking{{inSleep: true}, {inWake: true}} {
		b.Sleeper, b.reached = sleeper(), make(chan struct{})
		engine := fake{}.engine()
		engine.Standby, engine.Sleeper = StandbySleep, b
		r := newRig(t, newSystem(), Options{Engine: engine})
		m := modelOf(t, "m", 1<<20)
		r.move(m, tier.Storage, tier.RAM)
		from, to, want := tier.RAM, tier.Swap, Running
		if b.inWake {
			r.move(m, tier.RAM, tier.Swap)
			from, to, want = tier.Swap, tier.RAM, Asleep
		}
		cause := errors.New("no request waits")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-b.reached; cancel(cause) }()
		if err := r.Move(ctx, tier.Move{Model: m, From: from, To: to}, nil); !errors.Is(err, cause) {
			t.Errorf("cancelled from %v to %v, it returned %v", from, to, err)
		}
		if e := r.engine("m"); e.State != want {
			t.Errorf("cancelled from %v to %v, it is %s", from, to, e.State)
		}
	}
}
