package hotload

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// lockDir takes the folder by opening a file in it for writing that others may
// only read. Windows lets go when the process ends, however it ends.
func lockDir(dir string) (io.Closer, error) {
	path := filepath.Join(dir, lockName)
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	handle, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE,
		syscall.FILE_SHARE_READ, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	const sharingViolation = syscall.Errno(32) // ERROR_SHARING_VIOLATION
	if errors.Is(err, sharingViolation) {
		held := &HeldError{Dir: dir}
		if f, err := os.Open(path); err == nil {
			held.Holder = readHolder(f)
			f.Close()
		}
		return nil, held
	}
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(handle), path)
	writeHolder(f)
	return f, nil
}

// syncDir does nothing: Windows opens no folder for flushing, and NTFS writes
// renames to its journal in order.
func syncDir(string) error { return nil }
