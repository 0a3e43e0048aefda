//go:build !windows

package hotload

import (
	"errors"
	"os"
	"syscall"
)

// syncDir flushes the folder itself, which holds the names of what is in it.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// Some file systems have nothing to flush for a folder and say so with EINVAL.
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
