//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd && !windows

package hotload

import (
	"errors"
	"fmt"
	"io"
	"runtime"
)

// lockDir refuses: without a lock that ends with its process, two processes could
// overwrite each other's state.
func lockDir(string) (io.Closer, error) {
	return nil, fmt.Errorf("locking a state folder on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
