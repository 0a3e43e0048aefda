package safety

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// Files of the kernel that we read are smaller, even the list of mounts of a host
// with thousands of containers; what is larger is not one.
const (
	firstBuffer = 16 << 10
	largestFile = 16 << 20
)

// file is one of the kernel's text files, kept open and read from its start each
// time.
type file struct {
	path   string
	open   *os.File
	absent bool // it was not there, and is not looked for again before forget
}

// read returns what the file holds. The result lies in buf, which grows where it
// must, and is good until buf is used again.
func (f *file) read(buf *[]byte) ([]byte, error) {
	if f.open == nil {
		if err := f.reopen(); err != nil {
			return nil, err
		}
	}
	if len(*buf) == 0 {
		*buf = make([]byte, firstBuffer)
	}
	for n := 0; ; {
		k, err := f.open.ReadAt((*buf)[n:], int64(n))
		n += k
		switch {
		case err == io.EOF:
			return (*buf)[:n], nil
		case err != nil:
			f.close()
			return nil, err
		case n >= largestFile:
			f.close()
			return nil, invalid(f.path, nil, fmt.Sprintf("must be smaller than %v", tier.Bytes(largestFile)))
		}
		*buf = append(*buf, make([]byte, len(*buf))...)
	}
}

// readIfThere is read for a file that a kernel need not have; ok tells whether
// this one has it.
func (f *file) readIfThere(buf *[]byte) (data []byte, ok bool, err error) {
	if f.absent {
		return nil, false, nil
	}
	data, err = f.read(buf)
	if err != nil && missing(err) {
		f.absent = true
		return nil, false, nil
	}
	return data, err == nil, err
}

// missing reports whether err says that a file is not there for us: no such
// file, not built in, switched off, or not permitted.
func missing(err error) bool {
	for _, e := range [...]error{fs.ErrNotExist, fs.ErrPermission, unix.ENOTDIR, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// reopen opens a regular file, as all files of proc, sys and cgroup are. It
// never waits for the far end of a pipe, and leaves the runtime's poller alone,
// which would otherwise be woken by every event of a cgroup.
func (f *file) reopen() error {
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: f.path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return invalid(f.path, nil, "must be a regular file")
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return &fs.PathError{Op: "stat", Path: f.path, Err: err}
	}
	f.open = os.NewFile(uintptr(fd), f.path)
	return nil
}

func (f *file) close() {
	if f.open != nil {
		f.open.Close()
		f.open = nil
	}
}

// forget makes the next reading look again whether the file is there.
func (f *file) forget() { f.absent = false }
