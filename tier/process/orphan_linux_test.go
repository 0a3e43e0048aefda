package process

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// managed is another process with a Mover in it, at some stage.
type managed struct {
	cmd   *exec.Cmd
	token string
	pids  []int           // of its engine and what that has started
	old   map[string]bool // cgroups that were there before, maybe of the same number
}

// manage starts a process with a Mover, and returns once it is at the stage.
func manage(t *testing.T, dir string, f fake, stage string, flags ...string) *managed {
	t.Helper()
	m := &managed{token: "MODELTIER_TEST_TOKEN=" + rand.Text(), old: make(map[string]bool)}
	for _, path := range cgroupsOfAll(t) {
		m.old[path] = true
	}
	how, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-state=" + dir, "-path=" + weightsOf(t, 1<<20), "-stage=" + stage, "-token=" + m.token, "-fake=" + string(how)}, flags...)
	m.cmd = exec.Command(os.Args[0], args...)
	m.cmd.Env = append(os.Environ(), role+"=manager")
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.cmd.Process.Kill()
		m.cmd.Wait()
		for _, pid := range carrying(m.token) {
			unix.Kill(pid, unix.SIGKILL)
		}
	})
	out.(*os.File).SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(out).ReadString('\n')
	if !strings.HasPrefix(line, "reached") {
		t.Fatalf("the manager said %q, %v", line, err)
	}
	want := 1
	if f.Child || f.Hidden {
		want = 2
	}
	if slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, "-engine=") }) {
		awaitProcess(t, m.token, "engine")
		return m
	}
	eventually(t, "all of the engine's processes run", func() bool { m.pids = carrying(m.token); return len(m.pids) == want })
	return m
}

// die kills the manager.
func (m *managed) die(t *testing.T) {
	t.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	m.cmd.Wait()
}

// cgroups returns the cgroups that the manager has made.
func (m *managed) cgroups(t *testing.T) []string {
	return slices.DeleteFunc(cgroupsOfAll(t), func(path string) bool {
		return m.old[path] || !strings.HasPrefix(filepath.Base(path), cgroupPrefix+itoa(m.cmd.Process.Pid)+"-")
	})
}

// cgroupsOfAll returns the cgroups that any Mover here has made.
func cgroupsOfAll(t *testing.T) []string {
	own, err := ownCgroup()
	if err != nil {
		return nil
	}
	found, err := filepath.Glob(filepath.Join(own, cgroupPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestOrphans_ManagerKilled_NothingIsLeftRunning(t *testing.T) {
	for _, way := range []struct {
		name  string
		flags []string
	}{{"Cgroup", nil}, {"SIGSTOP", []string{"-bare"}}} {
		for _, stage := range []string{"starting", "ram", "freezing", "frozen", "thawing"} {
			for name, f := range map[string]fake{"": {}, "WithChild": {Child: true}, "WithHiddenChild": {Hidden: true}} {
				if f.Hidden && way.name != "Cgroup" {
					continue // the next New finds it, see below
				}
				name = way.name + "/" + stage + name
				f.Sick, f.Stubborn = stage == "starting", true
				t.Run(name, func(t *testing.T) {
					if f.Hidden {
						needsCgroups(t)
					}
					m := manage(t, t.TempDir(), f, stage, way.flags...)
					m.die(t)
					awaitGone(t, m.pids)
					eventually(t, "the cgroups are removed", func() bool { return len(m.cgroups(t)) == 0 })
				})
			}
		}
	}
}

// Without a reaper the kernel still kills the engine, frozen or not.
func TestOrphans_ManagerKilledWithoutReaper_EngineDiesAllTheSame(t *testing.T) {
	for _, flags := range [][]string{{"-alone"}, {"-alone", "-bare"}} {
		for _, stage := range []string{"starting", "ram", "frozen"} {
			m := manage(t, t.TempDir(), fake{Stubborn: true, Sick: stage == "starting"}, stage, flags...)
			m.die(t)
			awaitGone(t, m.pids)
			for _, path := range m.cgroups(t) {
				if err := cgroup2(path).remove(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// The next New ends what neither the kernel nor a reaper has ended.
func TestOrphans_LeftBehind_EndedByTheNextNew(t *testing.T) {
	for _, flags := range [][]string{{"-alone"}, {"-alone", "-bare"}} {
		for _, f := range []fake{{Child: true}, {Hidden: true}} {
			dir := t.TempDir()
			m := manage(t, dir, f, "frozen", flags...)
			m.die(t)
			eventually(t, "the kernel has ended the engine", func() bool { return len(carrying(m.token)) == 1 })

			next, err := New(Options{Engine: fake{}.engine(), StateDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if left := carrying(m.token); len(left) > 0 {
				t.Errorf("%v, %+v: processes are left: %v", flags, f, left)
			}
			if s := next.Status().Orphans; len(s.Ended) != 1 || !strings.Contains(s.Ended[0], `"model"`) {
				t.Errorf("%v, %+v: it says that it ended %q", flags, f, s.Ended)
			}
			if records, _ := filepath.Glob(filepath.Join(dir, recordPrefix+"*")); len(records) > 0 {
				t.Errorf("%v, %+v: the state folder holds %v", flags, f, records)
			}
			if cgroups := m.cgroups(t); len(cgroups) > 0 {
				t.Errorf("%v, %+v: cgroups are left: %v", flags, f, cgroups)
			}
			if err := next.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestOrphans_EnginesOfALivingManager_AreNotTouched(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine(), StateDir: dir})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	other, err := New(Options{Engine: fake{}.engine(), StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	r.get("m", "/health")
}

// A record that is not one of an engine has nothing killed, and is removed.
func TestOrphans_BadRecords_NothingIsKilled(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=idle")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	write(t, filepath.Join(elsewhere, "cgroup.procs"), itoa(cmd.Process.Pid))
	for name, text := range map[string]string{
		"engine-elsewhere.json": `{"mark":"elsewhere","cgroup":"` + elsewhere + `"}`,
		"engine-cut.json":       `{"mark":"cu`, "notes.txt": "",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	if ended, err := proc("/proc").endOrphans(context.Background(), dir); len(ended) > 0 || err == nil {
		t.Errorf("it says that it ended %q, %v", ended, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "notes.txt" {
		t.Errorf("the folder holds %v", left)
	}
}

// reaperOf returns the reaper of a model's engine, and its process, 0 for none.
func (r *rig) reaperOf(model string) (*reaper, int) {
	c, _ := r.engineOf(model)
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.reaper.cmd == nil {
		return c.reaper, 0
	}
	return c.reaper, c.reaper.cmd.Process.Pid
}

func TestReaper_KilledFromOutside_IsReplacedAndStillKills(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{Child: true}.engine()})
	r.move(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	reaper, first := r.reaperOf("m")
	reaper.mu.Lock()
	reaper.began = reaper.began.Add(-2 * reaperPatience) // as if it had run for a while
	reaper.mu.Unlock()
	unix.Kill(first, unix.SIGKILL)
	eventually(t, "another runs", func() bool { _, pid := r.reaperOf("m"); return pid != first })
	if !r.Status().Orphans.Reaper {
		t.Error("Status says that there is no reaper")
	}
	r.get("m", "/health") // the replacement has killed nothing
	pids := carrying(r.token)
	reaper.mu.Lock()
	reaper.in.Close() // as our end would
	reaper.mu.Unlock()
	awaitGone(t, pids)
	<-r.crashed
}

// A reaper that always exits is not started for ever, and Status does not say that it
// runs.
func TestReaper_EndsAtOnce_StatusSaysSoAndTheNextEngineTriesAgain(t *testing.T) {
	sys := newSystem()
	command := sys.reaper
	var lives atomic.Bool
	var started atomic.Int32
	sys.reaper = func(pid int, cgroup string) (*exec.Cmd, error) {
		started.Add(1)
		if lives.Load() {
			return command(pid, cgroup)
		}
		return exec.Command("sh", "-c", "exit 3"), nil
	}
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	r.move(modelOf(t, "a", 1<<20), tier.Storage, tier.RAM)
	eventually(t, "Status says that it ended", func() bool { return strings.Contains(r.Status().Lacks[lackReaper], "exit status 3") })
	if n := started.Load(); n != 1 || r.Status().Orphans.Reaper {
		t.Errorf("it was started %d times", n)
	}
	lives.Store(true)
	r.move(modelOf(t, "b", 1<<20), tier.Storage, tier.RAM)
	if s := r.Status(); !s.Orphans.Reaper {
		t.Errorf("then Status says %v", s.Lacks)
	}
}

// A reaper that stands still is of no danger and in nothing's way.
func TestReaper_StandsStill_EngineStopsAllTheSame(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	_, pid := r.reaperOf("m")
	unix.Kill(pid, unix.SIGSTOP)
	r.get("m", "/health")
	r.move(m, tier.RAM, tier.Storage)
	if exists("/proc/" + itoa(pid)) {
		t.Error("the reaper is left")
	}
}

func TestReaper_Missing_EnginesStillRun(t *testing.T) {
	sys := newSystem()
	sys.reaper = func(int, string) (*exec.Cmd, error) { return nil, errors.New("no shell here") }
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	r.move(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	if s := r.Status(); s.Lacks[lackReaper] != "no shell here" || s.Orphans.Reaper {
		t.Errorf("Status says %v, %+v", s.Lacks, s.Orphans)
	}
}

// Movers of several processes share a folder: one records its engines and removes the
// records while another ends orphans. No start may fail because of that, and no record
// and no cgroup of a living owner may be removed.
func TestRegister_WhileAnotherEndsOrphans_NothingOfTheLivingIsTouched(t *testing.T) {
	const recorders, each = 4, 500
	dir, cgroups := t.TempDir(), t.TempDir()
	p := proc(t.TempDir()) // without processes
	done := make(chan struct{})
	var all, sweeper sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if ended, err := p.endOrphans(context.Background(), dir); err != nil || len(ended) > 0 {
				t.Errorf("it ended %v, %v", ended, err)
				return
			}
		}
	})
	for i := range recorders {
		folder := filepath.Join(cgroups, cgroupPrefix+itoa(i)) // which could be removed
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for n := range each {
				id := identity{Mark: fmt.Sprintf("%d-%d", i, n), Cgroup: folder}
				remove, err := register(dir, id)
				if err != nil {
					t.Errorf("%s: %v", id.Mark, err)
					return
				}
				if path := filepath.Join(dir, recordPrefix+id.Mark+recordSuffix); !exists(path) {
					t.Errorf("the record %s was removed", id.Mark)
				}
				if err := remove(); err != nil {
					t.Error(err)
				}
				if !exists(folder) {
					t.Errorf("after %s its owner's cgroup was removed", id.Mark)
					return
				}
			}
		})
	}
	all.Wait()
	close(done)
	sweeper.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestLockNamed_FileThatLostItsName_IsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "engine-M.json")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	f := open()
	if ok, err := lockNamed(f); !ok || err != nil {
		t.Errorf("a file that is not locked: %v, %v", ok, err)
	}
	if ok, err := lockNamed(open()); ok || err != nil {
		t.Errorf("a file that is locked: %v, %v", ok, err)
	}
	os.Remove(path)
	if ok, err := lockNamed(f); ok || err != nil {
		t.Errorf("a file that was removed: %v, %v", ok, err)
	}
	open()
	if ok, err := lockNamed(f); ok || err != nil {
		t.Errorf("a file of which another has the name now: %v, %v", ok, err)
	}
}

func TestRegister_UnfinishedRecord_RemovedUnlessItIsBeingMade(t *testing.T) {
	dir := t.TempDir()
	var held *os.File
	for _, name := range []string{"left", "made"} {
		f, err := os.Create(filepath.Join(dir, recordPrefix+name+recordSuffix))
		if err != nil {
			t.Fatal(err)
		}
		if held = f; name == "left" {
			f.Close()
		}
	}
	defer held.Close()
	if ok, err := lockNamed(held); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ended, err := proc(t.TempDir()).endOrphans(context.Background(), dir); err != nil || len(ended) > 0 {
		t.Errorf("it ended %v, %v", ended, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "engine-made.json" {
		t.Errorf("the folder holds %v", left)
	}
}

// asFlag returns an engine as a flag of fakeManager.
func asFlag(t *testing.T, e Engine) string {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return "-engine=" + string(b)
}

// An engine that a daemon runs ends with its server all the same: the reaper runs its
// StopCommand, and kills what it was told of.
func TestOrphans_ManagerOfADaemonsEngineKilled_ReaperEndsIt(t *testing.T) {
	for name, change := range map[string]func(e *Engine){
		"StopCommand":   func(e *Engine) { e.Processes = Processes{} },
		"StopFails":     func(e *Engine) { e.StopCommand = []string{"sh", "-c", "echo it's \"no\"; exit 1"} },
		"NoStopCommand": func(e *Engine) { e.StopCommand = nil },
	} {
		for _, stage := range []string{"starting", "ram", "frozen"} {
			if name != "StopCommand" && stage == "starting" {
				continue // it may be killed before it has seen the engine, which the next New ends
			}
			t.Run(name+"/"+stage, func(t *testing.T) {
				d := newDaemon(t)
				e := d.engine(fake{Sick: stage == "starting", Stubborn: true}, "cgroup")
				change(&e)
				m := manage(t, "", fake{}, stage, asFlag(t, e))
				m.die(t)
				awaitGone(t, carrying(m.token))
				eventually(t, "the cgroups are removed", func() bool { return len(m.cgroups(t)) == 0 })
			})
		}
	}
}

// A StopCommand that hangs has as long as the engine's options say, here twice reaperPoll.
func TestReaper_StopCommandHangs_HasItsLimit(t *testing.T) {
	engine := exec.Command(os.Args[0])
	engine.Env = append(os.Environ(), role+"=idle")
	newSystem().isolate(engine)
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	defer engine.Wait()
	cmd, err := reaperCommand(engine.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, "", "", "sleep 1000", "mark", "2")
	began := time.Now()
	if cmd.Run(); time.Since(began) > commandLimit {
		t.Errorf("it took %v", time.Since(began))
	}
}

// Where there is no reaper, the next New ends it: by its StopCommand or, where that
// fails, by what was recorded of its processes.
func TestOrphans_DaemonsEngineLeftBehind_EndedByTheNextNew(t *testing.T) {
	for name, change := range map[string]func(e *Engine){
		"StopCommand":   func(e *Engine) { e.Processes = Processes{} },
		"StopFails":     func(e *Engine) { e.StopCommand = []string{"false"} },
		"StopHangs":     func(e *Engine) { e.StopCommand = []string{"sleep", "1000"} },
		"NoStopCommand": func(e *Engine) { e.StopCommand = nil },
		"OnlyRecorded":  func(e *Engine) { e.StopCommand, e.Processes.Command = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			found := "cgroup"
			if name == "OnlyRecorded" {
				found = "pidfile"
			}
			e := d.engine(fake{Stubborn: true}, found)
			change(&e)
			dir := t.TempDir()
			m := manage(t, dir, fake{}, "frozen", "-alone", asFlag(t, e))
			m.die(t)
			if found == "pidfile" { // nothing leads to it but the record
				files, _ := filepath.Glob(filepath.Join(d.files, "*.pid"))
				for _, file := range files {
					os.Remove(file)
				}
			}
			if len(carrying(m.token)) == 0 {
				t.Fatal("nothing is left behind")
			}
			next, err := New(Options{Engine: fake{}.engine(), StateDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			if left := carrying(m.token); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
			if ended := next.Status().Orphans.Ended; name != "StopCommand" && (len(ended) != 1 || !strings.Contains(ended[0], `"model"`)) {
				t.Errorf("it says that it ended %q", ended)
			}
			if records, _ := filepath.Glob(filepath.Join(dir, recordPrefix+"*")); len(records) > 0 {
				t.Errorf("the state folder holds %v", records)
			}
			for _, path := range m.cgroups(t) {
				cgroup2(path).remove()
			}
		})
	}
}

// The number of a recorded process may be another's by now.
func TestOrphans_RecordedProcessIsAnotherByNow_NotKilled(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=idle")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	p, pid := proc("/proc"), cmd.Process.Pid
	boot, now, err := p.now()
	if err != nil {
		t.Fatal(err)
	}
	start, _ := p.started(pid)
	pidfile := filepath.Join(t.TempDir(), "pid")
	write(t, pidfile, itoa(pid))
	for name, record := range map[string]string{
		"OtherStart": fmt.Sprintf(`{"mark":"a","foreign":{"boot":%q,"since":0}}[{"pid":%d,"start":%d}]`, boot, pid, start+1),
		"OlderFile":  fmt.Sprintf(`{"mark":"a","foreign":{"boot":%q,"since":%d,"processes":{"PidFile":%q}}}`, boot, now+1, pidfile),
		"OtherBoot":  fmt.Sprintf(`{"mark":"a","foreign":{"boot":"x","since":0,"processes":{"PidFile":%q}}}[{"pid":%d,"start":%d}]`, pidfile, pid, start),
		"Ourselves":  fmt.Sprintf(`{"mark":"a","foreign":{"boot":%q,"since":0}}[{"pid":%d,"start":1},{"pid":-1},{"pid":0}]`, boot, os.Getpid()),
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "engine-a.json"), record)
		if ended, err := p.endOrphans(t.Context(), dir); len(ended) > 0 || err != nil {
			t.Errorf("%s: it says that it ended %q, %v", name, ended, err)
		}
		if _, alive := p.started(pid); !alive {
			t.Fatalf("%s: a process was killed that is not the engine's", name)
		}
	}
}
