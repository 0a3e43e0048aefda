package process

import (
	"errors"
	"sync"
)

// cageFolder makes the folder of our cgroups when the first engine needs it, so
// that a Mover without engines leaves no trace.
type cageFolder struct {
	sys    *system
	parent string

	mu     sync.Mutex // guards the rest
	folder cages
	err    error // why there is none
}

// add returns a cgroup of that name, or nil and why there is none.
func (f *cageFolder) add(name string) (cage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.folder == nil && f.err == nil {
		if f.sys.cages == nil {
			f.err = errors.New("this system has no cgroups")
		} else {
			f.folder, f.err = f.sys.cages(f.parent)
		}
	}
	if f.folder == nil {
		return nil, f.err
	}
	return f.folder.add(name)
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
