package process

import (
	"os"
	"testing"

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
