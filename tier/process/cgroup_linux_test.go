package process

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// A cgroup that one engine cannot have is tried again for the next, and Status and the
// reaper follow.
func TestCgroups_FailForOneEngine_TheNextGetsItsOwn(t *testing.T) {
	needsCgroups(t)
	sys := newSystem()
	real := sys.cgroup
	fails := error(unix.EPERM)
	sys.cgroup = func(parent, mark string) (cgroup, error) {
		if fails != nil {
			return nil, fails
		}
		return real(parent, mark)
	}
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	r.move(modelOf(t, "a", 1<<20), tier.Storage, tier.RAM)
	if s := r.Status(); s.Lacks[lackCgroup] != unix.EPERM.Error() || s.Engines[0].Cgroup != "" {
		t.Errorf("an engine has no cgroup, and Status says %v, %+v", s.Lacks, s.Engines[0])
	}
	fails = nil
	r.move(modelOf(t, "b", 1<<20), tier.Storage, tier.RAM)
	e := r.engine("b")
	if s := r.Status(); len(s.Lacks) > 0 || !exists(e.Cgroup) {
		t.Fatalf("then Status says %q, %v", e.Cgroup, s.Lacks)
	}
	c, _ := r.engineOf("b")
	if pids, err := c.cgroup.pids(); err != nil || len(pids) == 0 {
		t.Errorf("its cgroup has the processes %v, %v", pids, err)
	}
	if args := c.reaper.cmd.Args; args[len(args)-1] != e.Cgroup {
		t.Errorf("the reaper was started as %q, for the cgroup %s", args[1:], e.Cgroup)
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
	own, err := ownCgroup()
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
		if e := r.engine("m"); !strings.HasPrefix(e.Cgroup, parent+"/") {
			t.Errorf("its cgroup is %q", e.Cgroup)
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
