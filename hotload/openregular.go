package hotload

import (
	"io/fs"
	"os"
	"syscall"
)

// openRegular opens a regular file to read. Anything else is refused before a
// byte is read of it: opening a pipe would wait for its other end, and reading a
// device may never end.
func openRegular(path string) (*os.File, error) {
	return openRegularWith(os.OpenFile, path)
}

// openRegularWith is openRegular with the OpenFile of an os.Root.
func openRegularWith(open func(string, int, fs.FileMode) (*os.File, error), path string) (*os.File, error) {
	f, err := open(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path, info)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func notRegular(path string, info fs.FileInfo) error {
	kind := "a special file"
	switch mode := info.Mode(); {
	case mode.IsDir():
		kind = "a folder"
	case mode&fs.ModeDevice != 0:
		kind = "a device"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a pipe"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	case mode&fs.ModeSymlink != 0:
		kind = "a symbolic link"
	}
	return &FileError{Path: path, Reason: "is " + kind + ", not a file"}
}
