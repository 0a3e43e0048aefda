package process

import (
	"errors"
	"io/fs"
	"sync"
)

// cageFolder makes the folder of our cgroups when the first engine needs it, so
// that a Mover without engines leaves no trace.
type cageFolder struct {
	sys    *system
	parent string

	mu     sync.Mutex // guards the rest
	folder cages
	err    error // why there never will be one
}

// add returns a cgroup of that name, or nil and why there is none. What fails for
// a reason that may pass is tried again for the next engine, and a folder that
// somebody has removed is made anew.
func (f *cageFolder) add(name string) (cage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.folder != nil {
		c, err := f.folder.add(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
		f.folder = nil
	}
	if f.err != nil {
		return nil, f.err
	}
	if f.sys.cages == nil {
		f.err = errors.New("this system has no cgroups")
		return nil, f.err
	}
	folder, err := f.sys.cages(f.parent)
	if err != nil {
		if lasting(err) {
			f.err = err
		}
		return nil, err
	}
	f.folder = folder
	return folder.add(name)
}

func (f *cageFolder) path() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.folder == nil {
		return ""
	}
	return f.folder.path()
}

func (f *cageFolder) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.folder == nil {
		return nil
	}
	return f.folder.remove()
}
