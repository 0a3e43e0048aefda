package state

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// lock opens a file in the folder for writing that others may only read, and not
// delete. Windows releases it when the process ends, however it ends.
func (f *folder) lock() error {
	path := filepath.Join(f.Root.Name(), lockName)
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	handle, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE,
		syscall.FILE_SHARE_READ, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	const sharingViolation = syscall.Errno(32) // ERROR_SHARING_VIOLATION
	if errors.Is(err, sharingViolation) {
		return errLocked
	}
	if err != nil {
		return &os.PathError{Op: "lock", Path: path, Err: err}
	}
	f.lockFile = os.NewFile(uintptr(handle), path)
	return nil
}

// syncFolder does nothing: Windows cannot flush a folder, and NTFS writes renames
// to its journal in order.
func syncFolder(*os.File) error { return nil }
