// Package regular opens regular files, and nothing else, and lists folders of them.
//
// The names that matter: [Open] and [OpenIn] refuse pipes, devices, sockets and
// folders with an [Error], without waiting and without a side effect. They do not
// promise that the file stays what it is. [Weights] tells which files of a folder are
// a model.
package regular

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Error reports a path at which there is something other than a regular file.
type Error struct {
	Path string
	Kind string // see [Kind]
}

func (e *Error) Error() string { return fmt.Sprintf("%q is %s, not a file", e.Path, e.Kind) }

// Kind names, for a message, what info is of that is no regular file: "a pipe", "a
// folder", ….
func Kind(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeDevice != 0:
		return "a device"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a special file"
}

// Open opens a regular file to read, and returns what it is.
func Open(path string) (*os.File, fs.FileInfo, error) {
	return open(path, os.Stat, os.OpenFile)
}

// OpenIn is Open of a name within root.
func OpenIn(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	return open(name, root.Stat, root.OpenFile)
}

// open looks before it opens, because opening a device can be an act: it arms a
// watchdog, it rewinds a tape. It looks again at what it has opened, which may have
// been replaced in between, and does not wait there for the other end of a pipe.
func open(path string, stat func(string) (fs.FileInfo, error), openFile func(string, int, fs.FileMode) (*os.File, error)) (*os.File, fs.FileInfo, error) {
	look := func(info fs.FileInfo, err error) (fs.FileInfo, error) {
		if err == nil && !info.Mode().IsRegular() {
			err = &Error{Path: path, Kind: Kind(info)}
		}
		return info, err
	}
	if _, err := look(stat(path)); err != nil {
		return nil, nil, err
	}
	f, err := openFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := look(f.Stat())
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
