//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd && !windows

package state

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lock refuses: without a lock that ends with its process, two processes could
// overwrite each other's state.
func (*folder) lock() error {
	return fmt.Errorf("lock a state folder on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func syncFolder(f *os.File) error { return f.Sync() }
