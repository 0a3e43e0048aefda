package safety

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// The kernel's files that are read are smaller, even the list of mounts of a host
// with thousands of containers; a larger file is not the kernel's.
const (
	firstBuffer     = 16 << 10
	maxFile         = 16 << 20
	maxSmallFile    = 1 << 20
	maxErrorExcerpt = 160
)

// readFile returns the contents of a regular file, as all files of proc, sys and
// cgroup are; it does not wait for the far end of a pipe. The result lies in buf,
// which grows as needed, and is valid until buf is used again.
func readFile(path string, buf *[]byte) ([]byte, error) { return readUpTo(path, buf, maxFile) }

// readUpTo is readFile for a file that is smaller than bound.
func readUpTo(path string, buf *[]byte, bound int) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, notRegular(path)
	}
	for n := 0; n < bound; {
		if n == len(*buf) {
			*buf = append(*buf, make([]byte, max(n, firstBuffer))...)
		}
		k, err := unix.Read(fd, (*buf)[n:min(len(*buf), bound)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case k == 0:
			return (*buf)[:n], nil
		default:
			n += k
		}
	}
	return nil, tooLarge(path, tier.Bytes(bound))
}

// readIfThere is readFile for a file that a kernel need not have; ok reports
// whether this one has it.
func readIfThere(path string, buf *[]byte) (text []byte, ok bool, err error) {
	text, err = readFile(path, buf)
	if missing(err) {
		return nil, false, nil
	}
	return text, err == nil, err
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

// sum adds the values of a text's lines, each a key, a blank and a number, to the
// counters that the keys have; those without one do not count.
func sum(path string, text []byte, counter func(key []byte) *uint64) error {
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		key, value, _ := bytes.Cut(line, []byte{' '})
		to := counter(key)
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
