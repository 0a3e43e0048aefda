package process

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"sync"
	"sync/atomic"

	"github.com/modeltier/modeltier/tier"
)

// cgroup is a cgroup v2 of one engine.
type cgroup interface {
	path() string
	// prepare makes cmd start in the cgroup; done is called after the start.
	prepare(cmd *exec.Cmd) (done func(), err error)
	pids() ([]int, error)
	// freeze returns when every process in it is frozen.
	freeze(ctx context.Context) error
	thaw() error
	kill() error
	// reclaim asks the kernel to take file pages that are charged to the cgroup. It is
	// an error if the cgroup has no memory controller.
	reclaim(n tier.Bytes) error
	remove() error
}

// cgroupDir is a folder of cgroups.
type cgroupDir interface {
	path() string
	add(name string) (cgroup, error)
	// remove kills what is in it and removes it. It is idempotent.
	remove() error
}

// cgroupFolder creates the folder of our cgroups when the first engine needs it, so
// that a Mover without engines leaves no trace.
type cgroupFolder struct {
	sys    *system
	parent string

	making sync.Mutex // held while a cgroup is made
	dir    atomic.Pointer[cgroupDir]
}

// add returns a new cgroup, or nil and why there is none. It tries for each engine: a
// reason may pass, and a folder that another process has removed is created again.
func (f *cgroupFolder) add(name string) (cgroup, error) {
	f.making.Lock()
	defer f.making.Unlock()
	if dir := f.dir.Load(); dir != nil {
		if g, err := (*dir).add(name); !errors.Is(err, fs.ErrNotExist) {
			return g, err
		}
	}
	if f.sys.cgroups == nil {
		return nil, errors.New("this system has no cgroups")
	}
	dir, err := f.sys.cgroups(f.parent)
	if err != nil {
		return nil, err
	}
	f.dir.Store(&dir)
	return dir.add(name)
}

// path returns the folder, "" for none.
func (f *cgroupFolder) path() string {
	if dir := f.dir.Load(); dir != nil {
		return (*dir).path()
	}
	return ""
}

func (f *cgroupFolder) remove() error {
	if dir := f.dir.Load(); dir != nil {
		return (*dir).remove()
	}
	return nil
}
