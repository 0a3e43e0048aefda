package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// short gives commands and processes that never come less time than in earnest.
func (r *rig) short() *rig {
	r.foreign.command, r.foreign.appear = 2*time.Second, 2*time.Second
	return r
}

// eachFound runs a test with every way to find the processes of an engine.
func eachFound(t *testing.T, test func(t *testing.T, d *daemon, found string)) {
	for _, found := range []string{"cgroup", "pidfile", "command"} {
		t.Run(found, func(t *testing.T) { test(t, newDaemon(t), found) })
	}
}

func TestForeign_KeepsTheContract(t *testing.T) {
	d := newDaemon(t)
	tiertest.TestMover(t, tiertest.MoverOptions{
		New: func(t testing.TB) tier.Mover {
			m, err := New(Options{Engine: d.engine(fake{Touch: true}, "cgroup")})
			if err != nil {
				t.Fatal(err)
			}
			return m
		},
		Models: func(t testing.TB) []tier.Model {
			return []tier.Model{modelOf(t, "a", oddSize), modelOf(t, "b", 3<<20)}
		},
	})
}

// What is frozen, measured and stopped is the engine, wherever it runs, by its commands
// or by signals, whether its client stays or not.
func TestForeign_StartFreezeThawStop_TheEngineAndNotItsClient(t *testing.T) {
	eachFound(t, func(t *testing.T, d *daemon, found string) {
		for name, flags := range map[string][]string{"AttachedByPause": nil, "DetachedBySignals": {"-d"}} {
			t.Run(name, func(t *testing.T) {
				pause := flags == nil
				e := d.engine(fake{Touch: true, Forks: 1, Eat: 8 << 20}, found, flags...)
				if !pause {
					e.Pause, e.Resume = nil, nil
				}
				r := newRig(t, newSystem(), Options{Engine: e})
				m := modelOf(t, "m", 64<<20)
				r.move(m, tier.Storage, tier.RAM)
				sum := r.get("m", "/sum")
				engine := processOf(r.token, "engine")
				s := r.engine("m")
				if s.Mapped != m.Size || s.Cached != m.Size || s.Anon < 8<<20 || len(s.Processes) != 2 || s.Processes[0] != engine {
					t.Errorf("the engine is process %d: %+v", engine, s)
				}
				if present, _, err := r.Resident(t.Context(), "m"); present != m.Size || err != nil {
					t.Errorf("%v are present, %v", present, err)
				}
				if len(flags) > 0 {
					eventually(t, "it shows that the client has ended", func() bool { return r.engine("m").Client == "exited" })
				}
				r.move(m, tier.RAM, tier.Swap)
				if s := r.engine("m"); s.State != Frozen || s.Standby != WayKept {
					t.Fatalf("%+v", s)
				}
				events, _ := os.ReadFile(filepath.Join(d.dir, only(t, d.dir), "cgroup.events"))
				stopped := proc("/proc").suspended(s.Processes)
				if paused := strings.Contains(string(events), "frozen 1"); paused != pause || stopped == pause {
					t.Errorf("frozen by its cgroup: %v, stopped: %v", paused, stopped)
				}
				if permitted() == nil {
					if r.uncache(m); r.cached(m) > 0 {
						t.Errorf("%v are still cached", r.cached(m))
					}
				}
				r.move(m, tier.Swap, tier.RAM)
				if r.get("m", "/sum") != sum || processOf(r.token, "engine") != engine {
					t.Error("another engine serves after the thaw")
				}
				r.move(m, tier.RAM, tier.Swap)
				r.move(m, tier.Swap, tier.Storage)
				if left := carrying(r.token); len(left) > 0 || exists(filepath.Join(d.dir, "m")) {
					t.Errorf("processes are left: %v", left)
				}
			})
		}
	})
}

// only returns the name of the one folder in a folder.
func only(t *testing.T, dir string) (name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() && name != "" {
			t.Fatalf("%s has more than one folder", dir)
		}
		if e.IsDir() {
			name = e.Name()
		}
	}
	if name == "" {
		t.Fatalf("%s has no folder, %v", dir, err)
	}
	return name
}

func TestForeign_EngineKilled_ReportedAndStartedAgain(t *testing.T) {
	eachFound(t, func(t *testing.T, d *daemon, found string) {
		for _, stage := range []tier.Tier{tier.RAM, tier.Swap} {
			r := newRig(t, newSystem(), Options{Engine: d.engine(fake{Touch: true}, found)})
			m := modelOf(t, "m", 8<<20)
			r.move(m, tier.Storage, tier.RAM)
			if stage == tier.Swap {
				r.move(m, tier.RAM, tier.Swap)
			}
			r.killed("engine")
			if name := <-r.crashed; name != "m" {
				t.Errorf("the crash of %q was reported", name)
			}
			if e, ok := errors.AsType[*EngineError](r.crashes[0]); !ok || e.Fault != Crashed || !strings.Contains(e.Error(), "its processes have ended") {
				t.Errorf("%v: it was reported as %v", stage, r.crashes[0])
			}
			if left := carrying(r.token); len(left) > 0 {
				t.Errorf("after the crash processes are left: %v", left)
			}
			r.move(m, tier.Storage, tier.RAM)
			r.get("m", "/health")
			r.move(m, tier.RAM, tier.Storage)
		}
	})
}

func TestForeign_ClientKilled_EngineServesOnAndStops(t *testing.T) {
	eachFound(t, func(t *testing.T, d *daemon, found string) {
		r := newRig(t, newSystem(), Options{Engine: d.engine(fake{Touch: true}, found)})
		m := modelOf(t, "m", 8<<20)
		r.move(m, tier.Storage, tier.RAM)
		r.killed("client")
		eventually(t, "it shows that the client has failed", func() bool { return r.engine("m").Client == "failed" })
		r.get("m", "/health")
		r.move(m, tier.RAM, tier.Swap)
		r.move(m, tier.Swap, tier.RAM)
		r.get("m", "/health")
		r.move(m, tier.RAM, tier.Storage)
	})
}

// Without its daemon an engine can be neither paused nor stopped by commands. It serves
// on, and it is killed where it has to go.
func TestForeign_DaemonKilled_EngineServesOnAndIsKilledInsteadOfFrozen(t *testing.T) {
	eachFound(t, func(t *testing.T, d *daemon, found string) {
		r := newRig(t, newSystem(), Options{Engine: d.engine(fake{Touch: true}, found), StopTimeout: 2 * patience})
		m := modelOf(t, "m", 8<<20)
		r.move(m, tier.Storage, tier.RAM)
		d.kill()
		r.get("m", "/health")
		r.move(m, tier.RAM, tier.Swap)
		if s := r.engine("m"); s.State != Stopped || s.Standby != WayStopped || !strings.Contains(s.Note, "cannot connect") {
			t.Errorf("%+v", s)
		}
		d.start()
		r.move(m, tier.Swap, tier.RAM)
		r.get("m", "/health")
		r.move(m, tier.RAM, tier.Storage)
	})
}

func TestForeign_StopCommandFailsOrHangs_EngineIsKilled(t *testing.T) {
	d := newDaemon(t)
	for name, stop := range map[string][]string{
		"Fails": {"sh", "-c", "echo no such container; exit 1"}, "Hangs": d.client("-hang"), "Missing": {"/nowhere/stop"}, "Floods": {"yes"},
		"LeavesAChild": {"sh", "-c", "sleep 1000 & exit 0"}, "DoesNothing": {"true"},
	} {
		t.Run(name, func(t *testing.T) {
			e := d.engine(fake{}, "cgroup")
			e.StopCommand = stop
			r := newRig(t, newSystem(), Options{Engine: e, StopTimeout: time.Second})
			m := modelOf(t, "m", 1<<20)
			for _, stage := range []tier.Tier{tier.RAM, tier.Swap} {
				r.move(m, tier.Storage, tier.RAM)
				if stage == tier.Swap {
					r.move(m, tier.RAM, tier.Swap)
				}
				r.move(m, stage, tier.Storage)
				if left := carrying(r.token); len(left) > 0 {
					t.Errorf("processes are left: %v", left)
				}
			}
		})
	}
}

// What a Resume takes is not what a StopCommand has.
func TestForeign_SlowToResume_StopCommandHasItsTime(t *testing.T) {
	d, trace := newDaemon(t), filepath.Join(t.TempDir(), "trace")
	e := d.engine(fake{Touch: true, Trace: trace}, "cgroup")
	e.Resume = append([]string{"sh", "-c", `sleep 2.5; exec "$@"`, "sh"}, e.Resume...)
	r, m := newRig(t, newSystem(), Options{Engine: e, StopTimeout: 2 * time.Second}), modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.move(m, tier.Swap, tier.Storage)
	if b, err := os.ReadFile(trace); !strings.Contains(string(b), "terminated") {
		t.Errorf("the engine was killed before its StopCommand could stop it: %q, %v", b, err)
	}
}

// Where neither the command stops it nor a signal may be sent, the engine is stuck, and
// its bytes stay, until it ends.
func TestForeign_CannotBeStoppedNorKilled_StuckUntilItEnds(t *testing.T) {
	d := newDaemon(t)
	e := d.engine(fake{Touch: true}, "cgroup")
	e.StopCommand = []string{"sh", "-c", "echo permission denied; exit 1"}
	sys := newSystem()
	kill := sys.kill
	sys.kill = func(pid int, others []int) error {
		if pid == 0 {
			return unix.EPERM
		}
		return kill(pid, nil)
	}
	r := newRig(t, sys, Options{Engine: e, StopTimeout: 100 * time.Millisecond})
	r.foreign.command, r.killLimit = 100*time.Millisecond, 100*time.Millisecond
	m := modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	err := r.try(m, tier.RAM, tier.Storage)
	if !errors.Is(err, tier.ErrStuck) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%v", err)
	}
	if present, _, _ := r.Resident(t.Context(), "m"); present != m.Size {
		t.Errorf("%v of the stuck engine are seen", present)
	}
	r.killed("engine")
	eventually(t, "nothing of it is present", func() bool { present, _, err := r.Resident(t.Context(), "m"); return present == 0 && err == nil })
	r.move(m, tier.Storage, tier.RAM)
	r.killed("engine")
	<-r.crashed
}

// A Pause that fails, hangs or lies leaves a running engine, which gets the next standby.
func TestForeign_PauseDoesNotFreeze_NextStandby(t *testing.T) {
	d := newDaemon(t)
	for name, c := range map[string]struct {
		pause []string
		says  string
	}{
		"Fails": {[]string{"sh", "-c", "echo cannot pause; exit 1"}, "cannot pause"},
		"Hangs": {d.client("-hang"), "did not end within"},
		"Lies":  {[]string{"true"}, "run on"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, sleeps := range []bool{false, true} {
				e := d.engine(fake{Touch: true}, "cgroup")
				e.Pause = c.pause
				want := Stopped
				if sleeps {
					want = Asleep
					e.Sleeper = HTTPSleeper{ToSleep: []Request{{Path: "/sleep"}}, ToWake: []Request{{Path: "/wake"}}}
				}
				r := newRig(t, newSystem(), Options{Engine: e}).short()
				m := modelOf(t, "m", 8<<20)
				r.move(m, tier.Storage, tier.RAM)
				r.move(m, tier.RAM, tier.Swap)
				if s := r.engine("m"); s.State != want || !strings.Contains(s.Note, c.says) {
					t.Errorf("%+v", s)
				}
				r.move(m, tier.Swap, tier.RAM)
				r.get("m", "/sum")
				r.move(m, tier.RAM, tier.Storage)
			}
		})
	}
}

func TestForeign_ResumeDoesNotThaw_KilledAndInStorage(t *testing.T) {
	d := newDaemon(t)
	e := d.engine(fake{Touch: true}, "cgroup")
	e.Resume = []string{"true"}
	r := newRig(t, newSystem(), Options{Engine: e}).short()
	m := modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	err := r.try(m, tier.Swap, tier.RAM)
	if e, ok := errors.AsType[*EngineError](err); !ok || e.Fault != Unresponsive || !strings.Contains(err.Error(), "left its processes frozen") {
		t.Errorf("%v", err)
	}
	if left := carrying(r.token); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// An engine of which nothing can be seen is moved by its commands alone.
func TestForeign_WithoutProcesses_CommandsAlone(t *testing.T) {
	d := newDaemon(t)
	e := d.engine(fake{Touch: true}, "")
	e.Standby = StandbyFreeze
	r := newRig(t, newSystem(), Options{Engine: e})
	m := modelOf(t, "m", 8<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	if s := r.engine("m"); s.State != Frozen {
		t.Errorf("%+v", s)
	}
	r.move(m, tier.Swap, tier.RAM)
	r.get("m", "/sum")
	r.killed("client")
	<-r.crashed
	if left := carrying(r.token); len(left) > 0 {
		t.Errorf("the client was killed, and processes are left: %v", left)
	}
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Storage)
}

// A script that starts a daemon and exits needs neither root nor commands.
func TestForeign_ScriptThatForks_IsFollowedByItsPidFile(t *testing.T) {
	for name, sys := range map[string]*system{"Cgroup": newSystem(), "Session": withoutCgroups()} {
		t.Run(name, func(t *testing.T) {
			pidfile := filepath.Join(t.TempDir(), "{mark}.pid")
			e := fake{Touch: true}.engine()
			e.Command = append([]string{"sh", "-c", `setsid "$@" & echo $! >"$0"`, pidfile}, e.Command...)
			e.Processes.PidFile = pidfile
			r := newRig(t, sys, Options{Engine: e})
			m := modelOf(t, "m", 8<<20)
			r.move(m, tier.Storage, tier.RAM)
			r.move(m, tier.RAM, tier.Swap)
			if s := r.engine("m"); s.State != Frozen || s.Client != "exited" {
				t.Errorf("%+v", s)
			}
			r.move(m, tier.Swap, tier.RAM)
			r.get("m", "/sum")
			r.killed("engine")
			<-r.crashed
			r.move(m, tier.Storage, tier.RAM)
			r.move(m, tier.RAM, tier.Storage)
		})
	}
}

// What a pid file or a command names is believed only if it can be the engine's.
func TestForeign_RubbishForProcesses_ErrorNamesItAndNothingIsKilled(t *testing.T) {
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), role+"=idle")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, alive := proc("/proc").started(victim.Process.Pid); !alive {
			t.Error("a process was killed that is not an engine's")
		}
		victim.Process.Kill()
		victim.Wait()
	})
	old := itoa(victim.Process.Pid)
	for name, c := range map[string]struct {
		p    Processes
		text string // of the pid file
		says string
	}{
		"Words":     {text: "not a number", says: `"not"`},
		"First":     {text: "1", says: "process 1 "},
		"Zero":      {text: "0", says: "process 0 "},
		"Own":       {text: itoa(os.Getpid()), says: itoa(os.Getpid())},
		"Parent":    {text: itoa(os.Getppid()), says: itoa(os.Getppid())},
		"Negative":  {text: "-7", says: `"-7"`},
		"Huge":      {text: "99999999999999999999", says: "99999"},
		"Long":      {text: strings.Repeat("7", 1<<20), says: "64 KiB"},
		"Stale":     {text: old, says: old + " is older"},
		"Gone":      {text: "4194303", says: "names none"},
		"Empty":     {text: "", says: "names none"},
		"Folder":    {p: Processes{PidFile: "/"}, says: "folder"},
		"NoCgroup":  {p: Processes{Cgroup: "/etc"}, says: "not a cgroup"},
		"Ours":      {p: Processes{Command: []string{"echo", old}}, says: old + " is older"},
		"Hangs":     {p: Processes{Command: []string{"sleep", "1000"}}, says: "did not end within"},
		"Floods":    {p: Processes{Command: []string{"yes", "5"}}, says: "did not end within"},
		"Many":      {p: Processes{Command: []string{"seq", "2", "9000"}}, says: "processes"},
		"Complains": {p: Processes{Command: []string{"sh", "-c", "echo what >&2; exit 3"}}, says: "what"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := fake{}.engine()
			if e.Processes = c.p; c.p.isZero() {
				e.Processes.PidFile = filepath.Join(t.TempDir(), "pid")
				write(t, e.Processes.PidFile, c.text)
			}
			r := newRig(t, newSystem(), Options{Engine: e})
			r.foreign.command, r.foreign.appear = 300*time.Millisecond, time.Second
			err := r.try(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
			if e, ok := errors.AsType[*EngineError](err); !ok || e.Fault != Unseen || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, which should say %q", err, c.says)
			}
		})
	}
}

// A client that fails before there is an engine is an engine that exited early, with
// what it printed.
func TestForeign_ClientFails_ExitedEarlyAtOnce(t *testing.T) {
	d := newDaemon(t)
	e := d.engine(fake{Exit: 7}, "command")
	for name, command := range map[string][]string{
		"ByItself": {"sh", "-c", "echo no such image; exit 125", "{port}"}, "WithItsEngine": e.Command,
	} {
		t.Run(name, func(t *testing.T) {
			e.Command = command
			r := newRig(t, newSystem(), Options{Engine: e})
			err := r.try(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
			f, ok := errors.AsType[*EngineError](err)
			if !ok || f.Fault != ExitedEarly || name == "ByItself" && (!strings.Contains(err.Error(), "125") || !strings.Contains(err.Error(), "no such image")) {
				t.Errorf("%v", err)
			}
			if f.After >= appearLimit {
				t.Errorf("it took %v", f.After)
			}
		})
	}
}

// What its client takes says nothing of the engine: neither of this model nor of another.
func TestForeign_ProcessesNotSet_ClientIsNotMeasuredAsTheEngine(t *testing.T) {
	e := fake{Touch: true}.engine()
	e.StopCommand = []string{"true"}
	r, m := newRig(t, newSystem(), Options{Engine: e, StopTimeout: time.Second}), modelOf(t, "m", 1<<20)
	m.Size = tier.GiB // from what is small nothing is learned for others
	other := tier.Model{Name: "other", Path: "/other", Size: 2 * tier.GiB}
	was, wasOther := first(r.Forecast(&m)), first(r.Forecast(&other))
	for range provenServed {
		r.move(m, tier.Storage, tier.RAM)
		if now, peak, ok := r.Footprint("m"); ok {
			t.Errorf("it takes %v, %v at most", now, peak)
		}
		if s := r.engine("m"); s.Copies || s.Seen != byNothing {
			t.Errorf("seen is %+v", s)
		}
		r.move(m, tier.RAM, tier.Swap)
		if s := r.engine("m"); s.State != Stopped || !strings.Contains(s.Note, "Engine.Processes") {
			t.Errorf("in swap it is %+v", s)
		}
		r.move(m, tier.Swap, tier.Storage)
	}
	if now, nowOther := first(r.Forecast(&m)), first(r.Forecast(&other)); now != was || nowOther != wasOther {
		t.Errorf("forecast are %v and %v, and before %v and %v", now, nowOther, was, wasOther)
	}
}

func first(takes, _ tier.Bytes) tier.Bytes { return takes }

// A word without its value would make "{state}/x" a path of the machine.
func TestForeign_StateInAnyCommand_IsTheFolderOfTheConversations(t *testing.T) {
	opts, out := talker(fake{}), t.TempDir()
	opts.StateDir, opts.StopTimeout = t.TempDir(), time.Second
	e := &opts.Engine
	e.Standby = StandbyFreeze
	for name, command := range map[string]*[]string{"pause": &e.Pause, "resume": &e.Resume, "stop": &e.StopCommand} {
		*command = []string{"sh", "-c", "echo {state} >" + filepath.Join(out, name)}
	}
	r, m := newRig(t, newSystem(), opts), modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.move(m, tier.Swap, tier.RAM)
	r.Mover.mu.Lock()
	want := r.slots["m"].talk.folder
	r.Mover.mu.Unlock()
	r.move(m, tier.RAM, tier.Storage)
	for _, name := range []string{"pause", "resume", "stop"} {
		if b, err := os.ReadFile(filepath.Join(out, name)); strings.TrimSpace(string(b)) != want || want == "" {
			t.Errorf("%s was given %q and not %q, %v", name, b, want, err)
		}
	}
}

func TestForeign_Engine_FaultsAreNamed(t *testing.T) {
	good := Engine{Command: []string{"a", "{port}"}}
	for says, change := range map[string]func(e *Engine){
		"Engine.Pause":             func(e *Engine) { e.Pause = []string{"a"} },
		"Engine.StopCommand":       func(e *Engine) { e.StopCommand = []string{""} },
		"{nonsense}":               func(e *Engine) { e.Processes.Command = []string{"a", "{nonsense}"} },
		"must be an absolute path": func(e *Engine) { e.Processes.PidFile = "a.pid" },
		"one of Cgroup":            func(e *Engine) { e.Processes = Processes{Cgroup: "/a", PidFile: "/b"} },
	} {
		e := good
		change(&e)
		if err := e.Validate(); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q is not in %v", says, err)
		}
	}
	for _, name := range []string{"../../etc/x", "a/b", ".."} {
		e := good
		e.Processes.PidFile = "/run/{name}/pid"
		x, err := e.expansion(&tier.Model{Name: name}, 1, "m", "")
		if err != nil {
			t.Fatal(err)
		}
		if spec, err := e.foreignSpec(x); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("a model by the name %q leads to %s", name, spec.Processes.PidFile)
		}
	}
}

func FuzzParsePids(f *testing.F) {
	for _, seed := range []string{"12\n", "1 2 3", "-1", "0x10", "99999999999", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		pids, err := parsePids(b)
		for _, pid := range pids {
			if pid < 0 || err == nil && !strings.Contains(string(b), itoa(pid)) {
				t.Errorf("%q has process %d", b, pid)
			}
		}
	})
}
