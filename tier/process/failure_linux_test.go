package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// toListen is long enough for an engine to listen, built with the race detector and
// on a machine that has other things to do.
const toListen = 10 * time.Second

func TestMove_BadEngine_TypedErrorWithItsLastWordsAndAWayOut(t *testing.T) {
	noProgram := fake{}.engine()
	noProgram.Command = []string{"no-such-program-anywhere", "{port}"}
	deaf := fake{Deaf: true}.engine()
	deaf.StartTimeout = toListen
	for _, c := range []struct {
		name   string
		engine Engine
		opts   Options
		fault  Fault
		says   []string // in the message
		output string   // among the last lines
	}{
		{"NoProgram", noProgram, Options{}, CannotStart, []string{"cannot be started", "executable file not found"}, ""},
		{"Exits", fake{Exit: 3}.engine(), Options{}, ExitedEarly, []string{"before it was ready", "exit status 3", "cannot load the model"}, "error: cannot load the model"},
		{"NeverHealthy", fake{Sick: true}.engine(), Options{StartTimeout: toListen}, NeverReady, []string{"not ready in time", "503", "Loading model"}, "engine starts on"},
		{"Garbage", fake{Garbage: true}.engine(), Options{StartTimeout: toListen}, NeverReady, []string{"malformed HTTP"}, "engine starts on"},
		{"Deaf", deaf, Options{StartTimeout: time.Hour}, NeverReady, []string{"not ready in time"}, "engine starts on"},
		{"EatsDouble", fake{Eat: 512 << 20}.engine(), Options{Excess: 128 << 20}, TookTooMuch, []string{"takes more memory"}, "engine starts on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // some take their time to fail
			c.opts.Engine = c.engine
			r := newRig(t, newSystem(), c.opts)
			m := modelOf(t, "m", 8<<20)
			err := r.try(m, tier.Storage, tier.RAM)
			ee, ok := errors.AsType[*EngineError](err)
			if !ok || ee.Fault != c.fault {
				t.Fatalf("the error is %v", err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("the error does not say %q: %v", s, err)
				}
			}
			if c.output != "" && !slices.ContainsFunc(ee.Output, func(line string) bool { return strings.HasPrefix(line, c.output) }) {
				t.Errorf("the last lines are %q, want one that begins with %q", ee.Output, c.output)
			}
			if tier.Code(err) != "move_failed" || len(tier.Suggestions(err)) == 0 {
				t.Errorf("its code is %s, its suggestions %q", tier.Code(err), tier.Suggestions(err))
			}
			if me, ok := errors.AsType[*tier.MoveError](err); ok && me.Lost {
				t.Error("a model that never left storage is reported as crashed")
			}
			if pids := carrying(r.token); len(pids) > 0 {
				t.Errorf("processes are left: %v", pids)
			}
			if e := r.engine("m"); e.State != Stopped || e.Failure == "" {
				t.Errorf("Status says %s, %q", e.State, e.Failure)
			}
			if len(r.crashed) > 0 {
				t.Error("Crashed was called for what the move has told")
			}
		})
	}
}

func TestMove_PortTakenByAnother_EngineGetsAnother(t *testing.T) {
	// Without a cgroup, in which the other would be killed with the engine.
	r := newRig(t, withoutCgroups(), Options{Engine: fake{Taken: true, Trace: filepath.Join(t.TempDir(), "once")}.engine()})
	t.Cleanup(func() {
		for _, pid := range carrying(thiefToken) {
			unix.Kill(pid, unix.SIGKILL)
		}
	})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.get("m", "/health")
}

func TestCrash_BetweenMoves_IsReportedAndNextMoveStartsAgain(t *testing.T) {
	eachFreezer(t, func(t *testing.T, sys *system) {
		for _, at := range []tier.Tier{tier.RAM, tier.Swap} {
			r := newRig(t, sys, Options{Engine: fake{Child: true}.engine()})
			m := modelOf(t, "m", 1<<20)
			r.move(m, tier.Storage, tier.RAM)
			if at == tier.Swap {
				r.move(m, tier.RAM, tier.Swap)
			}
			pid := r.kill("m")
			select {
			case <-r.crashed:
			case <-time.After(patience):
				t.Fatal("the crash was not reported")
			}
			if pids := carrying(r.token); len(pids) > 0 {
				t.Errorf("when its owner was told, processes were left: %v", pids)
			}
			if _, ok := r.URL("m"); ok {
				t.Error("a dead engine has a URL")
			}
			ee, ok := errors.AsType[*EngineError](r.crashes[0])
			if !ok || ee.Fault != Crashed || !strings.Contains(ee.Error(), "signal: killed") || len(ee.Suggestions()) < 2 {
				t.Errorf("the owner was told %v", r.crashes[0])
			}
			if present, _, err := r.Resident(t.Context(), "m"); present != 0 || err != nil {
				t.Errorf("%v are present, %v", present, err)
			}
			r.move(m, at, tier.RAM)
			if e := r.engine("m"); e.State != Running || e.Pid == pid {
				t.Errorf("then it is %s, process %d", e.State, e.Pid)
			}
		}
	})
}

func TestCrash_WhatIsLeftIsStillBeingEnded_HasNoURL(t *testing.T) {
	sys := withoutCgroups()
	kill, ended := sys.kill, make(chan struct{})
	sys.kill = func(pid int, others []int) error {
		<-ended
		return kill(pid, others)
	}
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	r.move(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	i := r.Instance("m").(*Instance)
	if _, ok := i.URL(); !ok {
		t.Error("an engine that runs has no URL")
	}
	c, _ := r.engineOf("m")
	unix.Kill(c.pid, unix.SIGKILL)
	<-c.exited
	if url, ok := i.URL(); ok {
		t.Errorf("requests are still sent to %s", url)
	}
	if _, ok := i.Use(); ok {
		t.Error("an engine that has exited can be used")
	}
	close(ended)
	<-r.crashed
}

func TestCrash_NotYetKnownToTheManager_DemotionReturnsIt(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.kill("m")
	<-r.crashed
	err := r.try(m, tier.RAM, tier.Swap)
	if me, ok := errors.AsType[*tier.MoveError](err); !ok || !me.Lost {
		t.Errorf("the demote returned %v", err)
	}
	r.move(m, tier.RAM, tier.Storage)
}

func TestCrash_DuringAMove_MoveReturnsItAndCrashedIsNotCalled(t *testing.T) {
	for name, dieIn := range map[string]string{"Freezing": "freeze", "Refilling": "refill"} {
		t.Run(name, func(t *testing.T) {
			var r *rig
			die := func() {
				c, _ := r.engineOf("m")
				unix.Kill(c.pid, unix.SIGKILL)
				<-c.exited
			}
			sys := withoutCgroups()
			if dieIn == "freeze" {
				suspend := sys.suspend
				sys.suspend = func(pid int, others []int) error {
					go die() // it needs the lock that we are called under
					c, _ := r.engineOf("m")
					<-c.exited
					return suspend(pid, others)
				}
			}
			r = newRig(t, sys, Options{Engine: fake{}.engine()})
			m := modelOf(t, "m", 1<<20)
			r.move(m, tier.Storage, tier.RAM)
			var err error
			if dieIn == "refill" {
				r.move(m, tier.RAM, tier.Swap)
				f, e := os.Open(m.Path)
				if e != nil {
					t.Fatal(e)
				}
				defer f.Close()
				// What is mapped stays cached; the engine never touched its weights.
				if e := drop(f, 0, 0); e != nil {
					t.Fatal(e)
				}
				r.refill = func(context.Context, []weightFile, func(int64)) error { die(); return nil }
				err = r.try(m, tier.Swap, tier.RAM)
			} else {
				err = r.try(m, tier.RAM, tier.Swap)
			}
			if me, ok := errors.AsType[*tier.MoveError](err); !ok || !me.Lost {
				t.Errorf("the move returned %v", err)
			}
			if e := r.engine("m"); e.State != Stopped || len(carrying(r.token)) > 0 {
				t.Errorf("then it is %s", e.State)
			}
			if len(r.crashed) > 0 {
				t.Error("Crashed was called for what the move has told")
			}
		})
	}
}

// A crash at the moment in which the move ends is reported once, by the move or by
// Crashed.
func TestCrash_AsTheMoveEnds_ReportedOnce(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			for ctx.Err() == nil {
				if c, _ := r.engineOf("m"); c != nil && r.engine("m").State == Running {
					time.Sleep(time.Duration(i) * 20 * time.Microsecond)
					unix.Kill(c.pid, unix.SIGKILL)
					<-c.done
					return
				}
			}
		}()
		err := r.Move(ctx, tier.Move{Model: m, To: tier.RAM}, nil)
		<-killed
		if err == nil {
			select {
			case <-r.crashed:
			case <-ctx.Done():
				t.Fatal("the crash was not reported")
			}
		}
		if _, ok := r.URL("m"); ok {
			t.Fatal("a dead engine has a URL")
		}
		cancel()
	}
}

// The engine exits after its move has checked it last, and before the move has released
// the model.
func TestCrash_TooLateForTheMove_IsReported(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	_, s, err := r.claim(t.Context(), &m)
	if err != nil {
		t.Fatal(err)
	}
	unix.Kill(s.child.pid, unix.SIGKILL)
	r.engines.Wait()
	r.release(s)
	select {
	case <-r.crashed:
	case <-time.After(patience):
		t.Fatal("the crash was not reported")
	}
}

func TestCrashed_Panics_NothingElseSuffers(t *testing.T) {
	told := make(chan struct{}, 1)
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine(), Crashed: func(string, error) { told <- struct{}{}; panic("mine") }})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.kill("m")
	<-told
	r.move(m, tier.Storage, tier.RAM)
}

// progress panics, or ends the goroutine as t.FailNow does.
func TestMove_ProgressDoesNotReturn_NothingIsLeftAndTheNextMoveWorks(t *testing.T) {
	for name, leave := range map[string]func(){"Panic": func() { panic("theirs") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newSystem(), Options{Engine: fake{Child: true}.engine()})
			m := modelOf(t, "m", 1<<20)
			broken := func(from, to tier.Tier, in State) {
				t.Helper()
				left := false
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { recover() }()
					r.Move(context.Background(), tier.Move{Model: m, From: from, To: to}, func(tier.Bytes) {
						r.mu.Lock()
						defer r.mu.Unlock()
						if !left && r.engine("m").State == in {
							left = true
							leave()
						}
					})
				}()
				<-done
				if !left {
					t.Fatalf("no progress was reported while it was %s", in)
				}
			}
			check := func(want State, processes int) {
				t.Helper()
				_, serves := r.URL("m")
				if e := r.engine("m"); e.State != want || serves != (want == Running) {
					t.Errorf("it is %s, and has a URL: %v", e.State, serves)
				}
				if pids := carrying(r.token); len(pids) != processes {
					t.Fatalf("it has the processes %v, want %d", pids, processes)
				}
			}
			broken(tier.Storage, tier.RAM, Starting)
			check(Stopped, 0)
			r.move(m, tier.Storage, tier.RAM)
			check(Running, 2)
			r.move(m, tier.RAM, tier.Swap)
			broken(tier.Swap, tier.RAM, Frozen)
			check(Frozen, 2)
			broken(tier.Swap, tier.RAM, Starting)
			check(Stopped, 0)
			r.move(m, tier.Swap, tier.RAM)
			if len(r.crashed) > 0 {
				t.Error("Crashed was called for what the move has told")
			}
		})
	}
}

func TestMove_ThawedEngineDoesNotAnswer_KilledAndInStorage(t *testing.T) {
	needsPageOut(t)
	sys := withoutCgroups()
	sys.resume = func(int, []int) error { return nil } // so that it never wakes
	r := newRig(t, sys, Options{Engine: fake{}.engine(), StartTimeout: 5 * time.Second, StopTimeout: 100 * time.Millisecond})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.opts.StartTimeout = 200 * time.Millisecond
	err := r.try(m, tier.Swap, tier.RAM)
	me, moved := errors.AsType[*tier.MoveError](err)
	ee, ok := errors.AsType[*EngineError](err)
	if !moved || !me.Lost || !ok || ee.Fault != Unresponsive {
		t.Errorf("the move returned %v", err)
	}
}

func TestMove_EngineThatCannotBeKilled_StuckAndStillSeen(t *testing.T) {
	sys := withoutCgroups()
	kill := sys.kill
	var undead atomic.Bool
	undead.Store(true)
	sys.kill = func(pid int, others []int) error {
		if undead.Load() {
			return nil
		}
		return kill(pid, others)
	}
	sys.terminate = sys.kill
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine(), StopTimeout: 10 * time.Millisecond})
	r.killLimit = 50 * time.Millisecond
	m := modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	err := r.try(m, tier.RAM, tier.Storage)
	me, moved := errors.AsType[*tier.MoveError](err)
	if !errors.Is(err, tier.ErrStuck) || !moved || !me.Lost {
		t.Errorf("the move returned %v", err)
	}
	if present, _, err := r.Resident(t.Context(), "m"); present != m.Size || err != nil {
		t.Errorf("of what is stuck %v are seen, %v", present, err)
	}
	if err := r.try(m, tier.Storage, tier.RAM); !errors.Is(err, tier.ErrStuck) {
		t.Errorf("a start beside it returned %v", err)
	}
	undead.Store(false)
	r.killLimit = patience
	r.move(m, tier.Storage, tier.RAM)
}

// A process that the engine has started outlives it and every signal, as one does that
// waits for a dead disk.
func TestMove_EngineEndsAndWhatItStartedCannotBeKilled_StuckInTime(t *testing.T) {
	const unused = 1 << 30 // the number of no process
	for name, running := range map[string]bool{"Starting": false, "Refilling": true} {
		t.Run(name, func(t *testing.T) {
			sys := withoutCgroups()
			members := sys.members
			var undead atomic.Bool
			sys.members = func(pid int, mark string) ([]int, error) {
				pids, err := members(pid, mark)
				if undead.Load() {
					pids = append(pids, unused)
				}
				return pids, err
			}
			opts := Options{Engine: fake{Exit: 3}.engine()}
			if running {
				opts = Options{Engine: fake{}.engine()}
			}
			r := newRig(t, sys, opts)
			m := modelOf(t, "m", 1<<20)
			from := tier.Storage
			if running {
				r.move(m, tier.Storage, tier.RAM)
				r.move(m, tier.RAM, tier.Swap)
				from = tier.Swap
				r.refill = func(ctx context.Context, _ []weightFile, _ func(int64)) error {
					c, _ := r.engineOf("m")
					unix.Kill(c.pid, unix.SIGKILL)
					<-ctx.Done()
					return ctx.Err()
				}
				r.sys.cached = func(*os.File, int64, int64) (int64, error) { return 0, nil }
			}
			undead.Store(true)
			t.Cleanup(func() { undead.Store(false) })
			r.killLimit = 50 * time.Millisecond
			err := r.try(m, from, tier.RAM)
			if me, ok := errors.AsType[*tier.MoveError](err); !ok || !me.Lost || !errors.Is(err, tier.ErrStuck) {
				t.Errorf("the move returned %v", err)
			}
			if n := strings.Count(fmt.Sprint(err), "killed engine"); n != 1 {
				t.Errorf("it says %d times what is stuck: %v", n, err)
			}
			undead.Store(false)
			r.killLimit = patience
			r.move(m, tier.RAM, tier.Storage)
		})
	}
}

// A process with too many open files cannot list processes: that is no sign that an
// engine has none.
func TestMembers_CannotBeListed_EngineIsNotTakenForGone(t *testing.T) {
	if _, err := proc(t.TempDir()+"/missing").members(1, "m"); err == nil {
		t.Error("a listing that failed is no error")
	}
	sys := withoutCgroups()
	members := sys.members
	var failing atomic.Bool
	sys.members = func(pid int, mark string) ([]int, error) {
		if failing.Load() {
			return nil, unix.EMFILE
		}
		return members(pid, mark)
	}
	r := newRig(t, sys, Options{Engine: fake{Touch: true, Hidden: true}.engine()})
	m := modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	failing.Store(true)
	if present, _, err := r.Resident(t.Context(), "m"); !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v are present, %v", present, err)
	}
	// Nor is what it has started left alive: its end waits until they can be listed.
	c, _ := r.engineOf("m")
	r.kill("m")
	<-c.exited
	select {
	case <-c.done:
		t.Error("the engine is done, though it is not known what is left of it")
	case <-time.After(50 * time.Millisecond):
	}
	failing.Store(false)
	<-c.done
	if left := carrying(r.token); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestOutput_ALotOfIt_LastLinesAreKept(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{Noise: 10_000, Exit: 1}.engine()})
	err := r.try(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	ee, ok := errors.AsType[*EngineError](err)
	if !ok || len(ee.Output) != maxLines {
		t.Fatalf("%d lines are kept, of %v", len(ee.Output), err)
	}
	want := fmt.Sprint("line ", 10_000-maxLines+2) // two more lines follow
	if ee.Output[0] != want || ee.Output[maxLines-1] != "error: cannot load the model" {
		t.Errorf("they are from %q to %q, want from %q", ee.Output[0], ee.Output[maxLines-1], want)
	}
}
