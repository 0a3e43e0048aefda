package safety

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// The kernel's files that are read are smaller, even the list of mounts of a host
// with thousands of containers; a larger file is not the kernel's. Procfs cuts a
// file off at its own bound without a word.
const (
	firstBuffer     = 16 << 10
	maxFile         = 16 << 20
	maxProcfsFile   = 1 << 20
	maxErrorExcerpt = 160
)

// file is one of the kernel's text files, kept open and read from its start each
// time.
type file struct {
	path   string
	open   *os.File
	absent bool // it was not there, and is not looked for again before forget
}

// read returns the contents. The result lies in buf, which grows as needed, and is
// valid until buf is used again.
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
		case n >= maxFile:
			f.close()
			return nil, tooLarge(f.path, maxFile)
		}
		*buf = append(*buf, make([]byte, len(*buf))...)
	}
}

// readIfThere is read for a file that a kernel need not have; ok reports whether
// this one has it.
func (f *file) readIfThere(buf *[]byte) (data []byte, ok bool, err error) {
	if f.absent {
		return nil, false, nil
	}
	data, err = f.read(buf)
	if missing(err) {
		f.absent = true
		return nil, false, nil
	}
	return data, err == nil, err
}

// missing reports whether err says that a file is not there for this process: no
// such file, not built in, switched off, or not permitted.
func missing(err error) bool {
	for _, e := range [...]error{fs.ErrNotExist, fs.ErrPermission, unix.ENOTDIR, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// reopen opens a regular file, as all files of proc, sys and cgroup are. It never
// waits for the far end of a pipe, and keeps the file out of the runtime's poller,
// which every event of a cgroup would wake.
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
		return notRegular(f.path)
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

// parsed returns what procfs makes of the file name in the folder dir. Procfs opens
// whatever is there and stops reading at its bound, so neither a pipe nor a file
// beyond the bound is handed to it. The error of a text that it refuses is a
// *tier.InvalidError.
func parsed[T any](dir, name string, parse func(procfs.FS) (T, error)) (v T, err error) {
	path := dir + "/" + name
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return v, err
	case !st.Mode().IsRegular():
		return v, notRegular(path)
	case st.Size() >= maxProcfsFile:
		return v, tooLarge(path, maxProcfsFile)
	}
	tree, err := procfs.NewFS(dir)
	if err == nil {
		v, err = parse(tree)
	}
	if _, ok := errors.AsType[*fs.PathError](err); err != nil && !ok {
		err = invalid(path, []byte(err.Error()), "must have the kernel's format")
	}
	return v, err
}

// sum adds the values of a text's lines, each a key, a blank and a number, to the
// counters that the keys have; those without one do not count.
func sum(path string, text []byte, counter func(key string) *uint64) error {
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		key, value, _ := bytes.Cut(line, []byte{' '})
		to := counter(string(key))
		if to == nil {
			continue
		}
		n, ok := number(value)
		if !ok {
			return invalid(path, line, "must be a number")
		}
		if *to += n; *to < n {
			*to = math.MaxUint64
		}
	}
	return nil
}

// number returns the value of a text of decimal digits, and whether it is one that
// fits.
func number(text []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(text), 10, 64)
	return n, err == nil
}

// invalid returns the error of a file whose text breaks a rule.
func invalid(path string, text []byte, rule string) error {
	value := strconv.Quote(string(text[:min(len(text), maxErrorExcerpt)]))
	if len(text) > maxErrorExcerpt {
		value += "…"
	}
	return &tier.InvalidError{
		Field: path, Value: value, Rule: rule,
		Reason: fmt.Sprintf("%s: %s %s", path, value, rule),
		Help:   []string{"Memory cannot be read on this machine as it stands: see that " + path + " is the kernel's own file, or pass another probe."},
	}
}

func notRegular(path string) error { return invalid(path, nil, "must be a regular file") }

func tooLarge(path string, bound tier.Bytes) error {
	return invalid(path, nil, fmt.Sprintf("must be smaller than %v", bound))
}
