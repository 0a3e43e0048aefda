package process

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// flaky is a folder of cgroups in which none can be made for a while.
type flaky struct {
	cages
	fails *error
}

func (f flaky) add(name string) (cage, error) {
	if *f.fails != nil {
		return nil, *f.fails
	}
	return f.cages.add(name)
}

// What fails for one engine for a reason that passes is there for the next, and
// Status and the guard know of it.
func TestCages_FailForOneEngine_TheNextGetsItsOwn(t *testing.T) {
	needsCgroups(t)
	for _, what := range []string{"Folder", "Cgroup", "Removed"} {
		t.Run(what, func(t *testing.T) {
			var folder, add error
			sys := newSystem()
			real := sys.cages
			sys.cages = func(parent string) (cages, error) {
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
				folder = unix.EMFILE
			case "Cgroup":
				add = unix.EMFILE
			}
			r.move(a, tier.Storage, tier.RAM)
			if what == "Removed" { // as the last engine's folder is by a sweep
				r.move(a, tier.RAM, tier.Storage)
				if err := os.Remove(r.cages.path()); err != nil {
					t.Fatal(err)
				}
			} else if s := r.Status(); s.Freeze != "SIGSTOP" || s.Lacks[lackCgroup] != unix.EMFILE.Error() {
				t.Errorf("an engine has no cgroup, and Status says %s, %v", s.Freeze, s.Lacks)
			}
			folder, add = nil, nil
			r.move(b, tier.Storage, tier.RAM)
			if s := r.Status(); s.Freeze != "cgroup v2" || len(s.Lacks) > 0 || !exists(s.Orphans.Cgroups) {
				t.Fatalf("then Status says %s in %q, %v", s.Freeze, s.Orphans.Cgroups, s.Lacks)
			}
			c, _, _ := r.engineOf("b")
			if pids, err := c.cage.pids(); err != nil || len(pids) == 0 {
				t.Errorf("its cgroup has the processes %v, %v", pids, err)
			}
			r.guard.mu.Lock()
			defer r.guard.mu.Unlock()
			if args := r.guard.cmd.Args; args[len(args)-1] != r.cages.path() {
				t.Errorf("the guard was started as %q, for the cgroups in %s", args[1:], r.cages.path())
			}
		})
	}
}

func TestCages_FailForGood_NotTriedAgain(t *testing.T) {
	for err, want := range map[error]int{unix.EPERM: 1, unix.ENOSYS: 1, unix.EMFILE: 2} {
		tries := 0
		f := cageFolder{sys: &system{cages: func(string) (cages, error) { tries++; return nil, err }}}
		for range 2 {
			if c, got := f.add("m"); c != nil || got != err {
				t.Errorf("%v, %v; want %v", c, got, err)
			}
		}
		if tries != want {
			t.Errorf("%v: tried %d times, want %d", err, tries, want)
		}
	}
}
