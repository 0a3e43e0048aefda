package process

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestMover_KeepsTheContract(t *testing.T) {
	for _, c := range []struct {
		name string
		sys  *system
		opts Options
	}{
		{"Default", newSystem(), Options{Engine: fake{}.engine()}},
		{"SIGSTOP", withoutCgroups(), Options{Engine: fake{Touch: true}.engine()}},
		{"Copy", newSystem(), Options{Engine: fake{Copy: true}.engine()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tiertest.TestMover(t, tiertest.MoverOptions{
				New: func(t testing.TB) tier.Mover {
					m, err := newMover(c.sys, c.opts)
					if err != nil {
						t.Fatal(err)
					}
					return m
				},
				Models: func(t testing.TB) []tier.Model {
					return []tier.Model{modelOf(t, "a", oddSize), modelOf(t, "b", 3<<20)}
				},
				Bad: func(t testing.TB) []tier.Model {
					return []tier.Model{
						{Name: "missing", Path: filepath.Join(t.TempDir(), "missing.gguf"), Size: 1 << 20},
						{Name: "line\nbreak", Path: "hub/name", Size: 1 << 20},
					}
				},
			})
		})
	}
}

func TestMove_ToSwapAndBack_SameProcessAndItsPagesGoOnlyWhenUncached(t *testing.T) {
	eachFreezer(t, func(t *testing.T, sys *system) {
		r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
		m := modelOf(t, "m", 64<<20)
		r.move(m, tier.Storage, tier.RAM)
		sum, before := r.get("m", "/sum"), r.engine("m")
		if before.Cached != m.Size || before.Mapped != m.Size {
			t.Fatalf("in ram %v are cached, %v mapped, want %v", before.Cached, before.Mapped, m.Size)
		}

		r.move(m, tier.RAM, tier.Swap)
		frozen := r.engine("m")
		if frozen.State != Frozen || frozen.Pid != before.Pid {
			t.Fatalf("in swap it is %s, process %d, want frozen and %d", frozen.State, frozen.Pid, before.Pid)
		}
		if n := r.cached(m); frozen.Standby != WayKept || frozen.Cached != m.Size || n != m.Size {
			t.Errorf("in swap it is %q, with %v of %v cached, %v of them charged to nothing", frozen.Standby, frozen.Cached, m.Size, n)
		}
		r.uncache(m)
		frozen = r.engine("m")
		if frozen.Standby != WayPagedOut || frozen.Cached > m.Size/100 || frozen.File > before.File-m.Size*9/10 {
			t.Errorf("dropped, %v of %v are cached, and %v of files in its tables; before, %v", frozen.Cached, m.Size, frozen.File, before.File)
		}
		if _, ok := r.URL("m"); ok {
			t.Error("a frozen engine has a URL")
		}
		present, reclaimable, err := r.Resident(t.Context(), "m")
		if err != nil || present < frozen.Anon || present > frozen.Anon+m.Size/100 || reclaimable > present-frozen.Anon {
			t.Errorf("in swap %v are present, %v of them reclaimable (%v), its own memory is %v", present, reclaimable, err, frozen.Anon)
		}

		r.move(m, tier.Swap, tier.RAM)
		if after := r.engine("m"); after.Pid != before.Pid || after.Cached != m.Size {
			t.Errorf("back in ram it is process %d with %v cached, want %d and %v", after.Pid, after.Cached, before.Pid, m.Size)
		}
		if got := r.get("m", "/sum"); got != sum {
			t.Errorf("it now reads other weights: %s, before %s", got, sum)
		}
	})
}

func TestMove_Frozen_StandsStill(t *testing.T) {
	eachFreezer(t, func(t *testing.T, sys *system) {
		r := newRig(t, sys, Options{Engine: fake{Child: true}.engine()})
		m := modelOf(t, "m", 1<<20)
		r.move(m, tier.Storage, tier.RAM)
		url, _ := r.URL("m")
		eventually(t, "its child runs", func() bool { return r.engine("m").Others == 1 })
		r.move(m, tier.RAM, tier.Swap)

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", nil)
		if res, err := http.DefaultClient.Do(req); err == nil {
			t.Errorf("a frozen engine answered with %s", res.Status)
		}
		if sys.cgroup == nil && !proc("/proc").suspended(carrying(r.token)) {
			t.Error("a process of a frozen engine runs")
		}
	})
}

func TestMove_Thaw_IdleConnectionSurvives(t *testing.T) {
	eachFreezer(t, func(t *testing.T, sys *system) {
		r := newRig(t, sys, Options{Engine: fake{}.engine()})
		m := modelOf(t, "m", 1<<20)
		r.move(m, tier.Storage, tier.RAM)
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		reused := false
		ask := func() {
			url, _ := r.URL("m")
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", nil)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
		}
		ask()
		r.move(m, tier.RAM, tier.Swap)
		r.move(m, tier.Swap, tier.RAM)
		if ask(); !reused {
			t.Error("the connection did not survive")
		}
	})
}

func TestMove_ToStorage_NothingIsLeft(t *testing.T) {
	eachFreezer(t, func(t *testing.T, sys *system) {
		for _, from := range []tier.Tier{tier.RAM, tier.Swap} {
			for _, f := range []fake{{}, {Stubborn: true}, {Child: true}, {Hidden: true}} {
				r := newRig(t, sys, Options{Engine: f.engine(), StopTimeout: 200 * time.Millisecond})
				m := modelOf(t, "m", 1<<20)
				r.move(m, tier.Storage, tier.RAM)
				if f.Child || f.Hidden {
					eventually(t, "its child runs", func() bool { return r.engine("m").Others == 1 })
				}
				if from == tier.Swap {
					r.move(m, tier.RAM, tier.Swap)
				}
				if r.move(m, from, tier.Storage); len(carrying(r.token)) > 0 {
					t.Errorf("%+v, from %v: processes are left: %v", f, from, carrying(r.token))
				}
				if present, _, err := r.Resident(t.Context(), "m"); present != 0 || err != nil {
					t.Errorf("%+v, from %v: %v are present, %v", f, from, present, err)
				}
			}
		}
	})
}

func TestMove_ToStorage_AsksBeforeItTerminates(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	engine := fake{Trace: trace, Stubborn: true}.engine()
	engine.Shutdown = Request{Path: "/shutdown"}
	r := newRig(t, newSystem(), Options{Engine: engine})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Storage)
	if b, _ := os.ReadFile(trace); string(b) != "shutdown\n" {
		t.Errorf("the engine was told %q", b)
	}
}

// The request takes no time away from an engine that cleans up when terminated.
func TestMove_ToStorage_ShutdownIsNotAnswered_SIGTERMHasItsTime(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	engine := fake{Trace: trace, Mute: true, Lingers: true}.engine()
	engine.Shutdown = Request{Path: "/shutdown"}
	r := newRig(t, newSystem(), Options{Engine: engine, StopTimeout: 3 * time.Second})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Storage)
	if b, _ := os.ReadFile(trace); string(b) != "shutdown\nterminated\n" {
		t.Errorf("the engine was told %q", b)
	}
}

func TestMove_FrozenToStorage_EngineEndsPolitely(t *testing.T) {
	eachFreezer(t, func(t *testing.T, sys *system) {
		trace := filepath.Join(t.TempDir(), "trace")
		engine := fake{Trace: trace}.engine()
		engine.Shutdown = Request{Path: "/shutdown"} // which it could not answer
		r := newRig(t, sys, Options{Engine: engine})
		m := modelOf(t, "m", 1<<20)
		r.move(m, tier.Storage, tier.RAM)
		r.move(m, tier.RAM, tier.Swap)
		r.move(m, tier.Swap, tier.Storage)
		if b, _ := os.ReadFile(trace); string(b) != "terminated\n" {
			t.Errorf("the engine was told %q", b)
		}
	})
}

// In ram, the weights are there: a move waits for their refill, unless the engine
// turns out to copy them.
func TestMove_ToRAM_WaitsForMappedWeightsOnly(t *testing.T) {
	for _, f := range []fake{{}, {Copy: true}} {
		asked, release := make(chan struct{}, 1), make(chan struct{})
		r := newRig(t, newSystem(), Options{Engine: f.engine()})
		m := modelOf(t, "m", 8<<20)
		r.refill = func(ctx context.Context, _ []weightFile, _ func(int64)) error {
			asked <- struct{}{}
			select {
			case <-release:
				_, err := os.ReadFile(m.Path)
				return err
			case <-ctx.Done():
				if !f.Copy {
					t.Error("the refill of mapped weights was cancelled")
				}
				return context.Cause(ctx)
			}
		}
		done := make(chan error, 1)
		go func() { done <- r.try(m, tier.Storage, tier.RAM) }()
		if f.Copy { // it is never released; or the engine has read all before it begins
			if err := <-done; err != nil {
				t.Error(err)
			}
			for len(asked) > 0 {
				<-asked
			}
			r.move(m, tier.RAM, tier.Storage)
			r.move(m, tier.Storage, tier.RAM)
			if len(asked) > 0 {
				t.Error("what is known to copy its weights was read ahead again")
			}
			continue
		}
		<-asked
		eventually(t, "the engine is ready", func() bool { return r.engine("m").Steady > 0 })
		select {
		case err := <-done:
			t.Errorf("the move did not wait: %v", err)
		default:
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if e := r.engine("m"); e.Cached != m.Size {
			t.Errorf("%v are cached", e.Cached)
		}
	}
}

func TestResident_LockedWeights_AreNotReclaimable(t *testing.T) {
	for _, lock := range []bool{false, true} {
		r := newRig(t, newSystem(), Options{Engine: fake{Touch: true, Lock: lock}.engine()})
		m := modelOf(t, "m", 8<<20)
		r.move(m, tier.Storage, tier.RAM)
		want := m.Size
		if lock {
			want = 0
		}
		if present, reclaimable, err := r.Resident(t.Context(), "m"); present != m.Size || reclaimable != want || err != nil {
			t.Errorf("locked: %v; %v are present, %v reclaimable, %v", lock, present, reclaimable, err)
		}
	}
}

func TestMove_CancelledStop_KillsAtOnce(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{Stubborn: true}.engine(), StopTimeout: time.Hour})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- r.Move(ctx, tier.Move{Model: m, From: tier.RAM, To: tier.Storage}, nil) }()
	eventually(t, "it is asked to stop", func() bool { return r.engine("m").State == Stopping })
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestMove_SwapFromStorage_StartsNothing(t *testing.T) {
	m := modelOf(t, "m", 1<<20)
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	r.move(m, tier.Storage, tier.Swap)
	if e := r.engine("m"); e.State != Stopped || !strings.Contains(e.Note, "not started yet") {
		t.Errorf("it is %s: %q", e.State, e.Note)
	}
	r.move(m, tier.Swap, tier.RAM)
}

func TestMove_CancelledThaw_StaysFrozenAndWhatWasReadStaysCached(t *testing.T) {
	needsPageOut(t)
	cause := errors.New("no request waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 8<<20)
	r.refill = func(ctx context.Context, _ []weightFile, _ func(int64)) error {
		if _, err := os.ReadFile(m.Path); err != nil {
			return err
		}
		cancel(cause) // the first is that of the start, and too late
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if _, err := os.ReadFile(m.Path); err != nil { // cached: the start needs no refill
		t.Fatal(err)
	}
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	if err := r.Move(ctx, tier.Move{Model: m, From: tier.Swap, To: tier.RAM}, nil); !errors.Is(err, cause) {
		t.Fatalf("it returned %v", err)
	}
	if e := r.engine("m"); e.State != Frozen || r.cached(m) < m.Size*9/10 {
		t.Errorf("it is %s, with %v cached", e.State, r.cached(m))
	}
	r.uncache(m)
	if n := r.cached(m); n > m.Size/64 {
		t.Errorf("%v are still cached", n)
	}
	r.refill = r.read
	r.move(m, tier.Swap, tier.RAM)
}

func TestMove_TwoAtOnceForOneModel_SecondIsRefused(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{Sick: true}.engine()})
	m := modelOf(t, "m", 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Move(ctx, tier.Move{Model: m, To: tier.RAM}, nil) }()
	eventually(t, "it starts", func() bool { return r.engine("m").State == Starting })
	if err := r.try(m, tier.Storage, tier.RAM); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("the second returned %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestClose_WhileStarting_EndsTheMoveAndTheEngine(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{Sick: true, Stubborn: true, Hidden: true}.engine()})
	m := modelOf(t, "m", 1<<20)
	done := make(chan error)
	go func() { done <- r.Move(context.Background(), tier.Move{Model: m, To: tier.RAM}, nil) }()
	eventually(t, "it has a child", func() bool { return r.engine("m").Others == 1 })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, tier.ErrClosed) {
		t.Errorf("the move returned %v", err)
	}
	if err := r.try(m, tier.Storage, tier.RAM); !errors.Is(err, tier.ErrClosed) {
		t.Errorf("a move after Close returned %v", err)
	}
}

func TestFootprint_TellsWhatTheEngineTakes(t *testing.T) {
	const eaten = 48 << 20
	r := newRig(t, newSystem(), Options{Engine: fake{Eat: eaten}.engine()})
	m := modelOf(t, "m", 8<<20)
	if _, _, ok := r.Footprint("m"); ok {
		t.Error("a footprint is known before the first start")
	}
	r.move(m, tier.Storage, tier.RAM)
	steady, peak, ok := r.Footprint("m")
	e := r.engine("m")
	if sum := e.Anon + m.Size; e.Anon < eaten || !ok || steady < sum-16<<20 || steady > sum+16<<20 || peak < steady {
		t.Errorf("steady %v, peak %v, %v; it has %v and weights of %v", steady, peak, ok, e.Anon, m.Size)
	}
	r.get("m", "/eat") // another 64 MiB, while it serves
	if now, _, _ := r.Footprint("m"); now < steady+16<<20 {
		t.Errorf("it has grown from %v to %v only", steady, now)
	}
	r.move(m, tier.RAM, tier.Storage)
	if _, p, ok := r.Footprint("m"); !ok || p < peak {
		t.Errorf("stopped, its peak is %v, %v", p, ok)
	}
}

// TestMover_UsedAndClosed_LeavesNoHandle counts what the process has open.
func TestMover_UsedAndClosed_LeavesNoHandle(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	dir, model := t.TempDir(), modelOf(t, "m", 1<<20)
	use := func() {
		m, err := New(Options{Engine: fake{Child: true}.engine(), StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.RAM} {
			if err := m.Move(t.Context(), tier.Move{Model: model, To: to}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	use() // what Go's own runtime opens for good
	before := open()
	use()
	if after := open(); after > before {
		t.Errorf("%d handles are open, before it were %d", after, before)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != measuresFile {
		t.Errorf("the state folder holds %v", left)
	}
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: %v", err)
	}
}

func TestEngineOf_EachModelItsOwn(t *testing.T) {
	needsPageOut(t)
	base := fake{}.engine()
	r := newRig(t, newSystem(), Options{Engine: base, EngineOf: func(m *tier.Model) (Engine, error) {
		e := base
		if m.Labels["rest"] == "stop" {
			e.Standby = StandbyStop
		}
		return e, nil
	}})
	a, b := modelOf(t, "a", 1<<20), modelOf(t, "b", 1<<20)
	b.Labels = map[string]string{"rest": "stop"}
	for _, m := range []tier.Model{a, b} {
		r.move(m, tier.Storage, tier.RAM)
		r.move(m, tier.RAM, tier.Swap)
	}
	if r.engine("a").State != Frozen || r.engine("b").State != Stopped {
		t.Errorf("they are %s and %s", r.engine("a").State, r.engine("b").State)
	}
	for _, pid := range carrying(markName) { // base was taken before the token was added
		if pid == r.engine("a").Pid {
			return
		}
	}
	t.Error("the engine carries no mark")
}
