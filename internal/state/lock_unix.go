//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package state

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock locks the folder with flock(2), and a file in it. The kernel releases both
// when the process ends, however it ends. The folder's lock holds even if the file
// is deleted; the file's lock keeps out versions that know that one alone, and
// stands in on file systems that cannot lock a folder (NFS).
func (f *folder) lock() (err error) {
	if f.lockFile, err = f.OpenFile(lockName, os.O_RDWR|os.O_CREATE, fileMode); err != nil {
		return err
	}
	onFolder, onFile := flock(f.self), flock(f.lockFile)
	if errors.Is(onFolder, unix.EWOULDBLOCK) || errors.Is(onFile, unix.EWOULDBLOCK) {
		return errLocked
	}
	if onFile != nil {
		return fmt.Errorf("lock %s: %w", f.lockFile.Name(), onFile)
	}
	return nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncFolder flushes the names in a folder. Some file systems have nothing to flush
// for a folder and say so with EINVAL.
func syncFolder(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
