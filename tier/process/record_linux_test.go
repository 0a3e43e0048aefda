package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Movers of several processes share a folder: one records and forgets its engines
// while another sweeps. No start may fail for that, and neither a record nor the
// folder of cgroups of an owner who lives may go.
func TestRecord_WhileAnotherSweeps_NothingOfTheLivingIsTouched(t *testing.T) {
	const recorders, each = 4, 500
	dir, cages := t.TempDir(), t.TempDir()
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
			if swept, err := p.endOrphans(context.Background(), dir); err != nil || len(swept) > 0 {
				t.Errorf("the sweep ended %v, %v", swept, err)
				return
			}
		}
	})
	for i := range recorders {
		folder := filepath.Join(cages, cgroupPrefix+itoa(i))
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for n := range each {
				id := identity{Mark: fmt.Sprintf("%d-%d", i, n), Cgroup: filepath.Join(folder, "engine")}
				r, err := register(dir, id)
				if err != nil {
					t.Errorf("%s: %v", id.Mark, err)
					return
				}
				if err := r.update(id); err != nil {
					t.Error(err)
				}
				if path := filepath.Join(dir, recordPrefix+id.Mark+recordSuffix); !exists(path) {
					t.Errorf("the record %s is gone", id.Mark)
				}
				if err := r.remove(); err != nil {
					t.Error(err)
				}
				if !exists(folder) {
					t.Errorf("after %s its owner's cgroups are gone", id.Mark)
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

func TestSweep_FileThatIsNoLongerWhatItsNameSays_IsNotTaken(t *testing.T) {
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
		t.Errorf("a file that nobody holds: %v, %v", ok, err)
	}
	if ok, err := lockNamed(open()); ok || err != nil {
		t.Errorf("a file that somebody holds: %v, %v", ok, err)
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

func TestSweep_UnfinishedRecord_RemovedUnlessItIsBeingMade(t *testing.T) {
	dir := t.TempDir()
	var held *os.File
	for _, name := range []string{"left", "made"} {
		f, err := os.CreateTemp(dir, recordPrefix+name+".*"+unfinished)
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
	if swept, err := proc(t.TempDir()).endOrphans(context.Background(), dir); err != nil || len(swept) > 0 {
		t.Errorf("it ended %v, %v", swept, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || !strings.HasPrefix(left[0].Name(), "engine-made.") {
		t.Errorf("the folder holds %v", left)
	}
}
