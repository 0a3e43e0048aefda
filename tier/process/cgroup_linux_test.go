package process

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// flaky is a folder in which no cgroup can be made while fails is set.
type flaky struct {
	cgroupDir
	fails *error
}

func (f flaky) add(name string) (cgroup, error) {
	if *f.fails != nil {
		return nil, *f.fails
	}
	return f.cgroupDir.add(name)
}

// A cgroup that one engine cannot have is tried again for the next, and Status and the
// reaper follow.
func TestCgroups_FailForOneEngine_TheNextGetsItsOwn(t *testing.T) {
	needsCgroups(t)
	for _, what := range []string{"Folder", "Cgroup", "Removed"} {
		t.Run(what, func(t *testing.T) {
			var folder, add error
			sys := newSystem()
			real := sys.cgroups
			sys.cgroups = func(parent string) (cgroupDir, error) {
				if folder != nil {
					return nil, folder
				}
				f, err := real(parent)
				return flaky{f, &add}, err
			}
			r := newRig(t, sys, Options{Engine: fake{}.engine()})
			a, b := modelOf(t, "a", 1<<20), modelOf(t, "b", 1<<20)
			switch what {
			case "Folder":
				folder = unix.EPERM
			case "Cgroup":
				add = unix.EPERM
			}
			r.move(a, tier.Storage, tier.RAM)
			if what == "Removed" { // as another process removes the folder of the last engine
				r.move(a, tier.RAM, tier.Storage)
				if err := os.Remove(r.cgroups.path()); err != nil {
					t.Fatal(err)
				}
			} else if s := r.Status(); s.Freeze != "SIGSTOP" || s.Lacks[lackCgroup] != unix.EPERM.Error() {
				t.Errorf("an engine has no cgroup, and Status says %s, %v", s.Freeze, s.Lacks)
			}
			folder, add = nil, nil
			r.move(b, tier.Storage, tier.RAM)
			if s := r.Status(); s.Freeze != "cgroup v2" || len(s.Lacks) > 0 || !exists(s.Orphans.Cgroups) {
				t.Fatalf("then Status says %s in %q, %v", s.Freeze, s.Orphans.Cgroups, s.Lacks)
			}
			c, _, _ := r.engineOf("b")
			if pids, err := c.cgroup.pids(); err != nil || len(pids) == 0 {
				t.Errorf("its cgroup has the processes %v, %v", pids, err)
			}
			r.reaper.mu.Lock()
			defer r.reaper.mu.Unlock()
			if args := r.reaper.cmd.Args; args[len(args)-1] != r.cgroups.path() {
				t.Errorf("the reaper was started as %q, for the cgroups in %s", args[1:], r.cgroups.path())
			}
		})
	}
}

// The kernel carries out an order to freeze some time after it was written.
func TestCgroupFreeze_WaitsForTheKernelToSaySo(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.freeze", "0")
	for events, want := range map[string]error{
		"populated 1\nfrozen 1\n": nil, "populated 1\nfrozen 0\n": context.DeadlineExceeded, "populated 0\nfrozen 0\n": errExited,
	} {
		write("cgroup.events", events)
		limit := patience
		if errors.Is(want, context.DeadlineExceeded) {
			limit = 20 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if err := cgroup2(dir).freeze(ctx); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", events, err, want)
		}
		cancel()
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "cgroup.freeze")); string(b) != "1" {
		t.Errorf("it wrote %q", b)
	}
}

// A kernel before 5.14, which has no cgroup.kill.
func TestCgroupKill_OldKernel_OneByOne(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=idle")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(itoa(cmd.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cgroup2(dir).kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
}

func TestOptions_Cgroup(t *testing.T) {
	own, err := ownCgroup("/proc")
	if err != nil {
		t.Skip("no cgroup v2 here: ", err)
	}
	parent := filepath.Join(own, cgroupPrefix+"test-"+rand.Text()[:8])
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Skip("no cgroup can be made here: ", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	m := modelOf(t, "m", 1<<20)
	t.Run("Delegated", func(t *testing.T) {
		r := newRig(t, newSystem(), Options{Engine: fake{}.engine(), Cgroup: parent})
		r.move(m, tier.Storage, tier.RAM)
		if s := r.Status(); !strings.HasPrefix(s.Orphans.Cgroups, parent+"/") || s.Freeze != "cgroup v2" {
			t.Errorf("its cgroups are in %q, %s", s.Orphans.Cgroups, s.Freeze)
		}
	})
	t.Run("NoneThere", func(t *testing.T) {
		needsPageOut(t)
		r := newRig(t, newSystem(), Options{Engine: fake{}.engine(), Cgroup: t.TempDir()})
		r.move(m, tier.Storage, tier.RAM)
		r.move(m, tier.RAM, tier.Swap)
		if s := r.Status(); s.Freeze != "SIGSTOP" || !strings.Contains(s.Lacks[lackCgroup], "not a cgroup v2") || s.Engines[0].State != Frozen {
			t.Errorf("it is %s by %s: %v", s.Engines[0].State, s.Freeze, s.Lacks)
		}
	})
}
