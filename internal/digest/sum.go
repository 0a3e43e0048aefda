package digest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/modeltier/modeltier/internal/regular"
)

// Identity is what tells one content of a file from another without reading it. On
// systems that do not show them Device, Inode and Changed are 0.
type Identity struct {
	Device  uint64 `json:"device,omitempty"`
	Inode   uint64 `json:"inode,omitempty"`
	Size    int64  `json:"size"`
	Written int64  `json:"written"`           // mtime, in ns since 1970
	Changed int64  `json:"changed,omitempty"` // ctime, which no program can set, in ns since 1970
}

// Identify returns what a regular file is, links followed. An error is a
// *regular.Error, or that of the operating system.
func Identify(path string) (Identity, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &regular.Error{Path: path, Kind: regular.Kind(info)}
	}
	if err != nil {
		return Identity{}, err
	}
	return identity(info), nil
}

func identity(info fs.FileInfo) Identity {
	id := Identity{Size: info.Size(), Written: info.ModTime().UnixNano()}
	id.addSystem(info)
	return id
}

// ErrChanged is a file that is not what it was when its reading began.
var ErrChanged = errors.New("it changed while it was read")

// block is how much is read between two looks at the context.
const block = 1 << 20

// Sum reads a regular file and returns its SHA-256 in lower-case hexadecimal digits, and
// what it was all the time. progress is called for each MiB. An error is ErrChanged,
// context.Cause(ctx), a *regular.Error, or that of the operating system.
func Sum(ctx context.Context, path string, progress func()) (string, Identity, error) {
	f, info, err := regular.Open(path)
	if err != nil {
		return "", Identity{}, err
	}
	defer f.Close()
	id := identity(info)
	hash, buf := sha256.New(), make([]byte, min(block, id.Size+1))
	for read := int64(0); ; {
		if ctx.Err() != nil {
			return "", Identity{}, context.Cause(ctx)
		}
		n, err := f.Read(buf)
		hash.Write(buf[:n])
		progress()
		if read += int64(n); read > id.Size {
			return "", Identity{}, ErrChanged // it grows, perhaps for ever
		}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", Identity{}, err
		}
	}
	// The file that was read, and that which is at the path now.
	if info, err = f.Stat(); err != nil {
		return "", Identity{}, err
	}
	at, err := Identify(path)
	if err != nil {
		return "", Identity{}, err
	}
	if identity(info) != id || at != id {
		return "", Identity{}, ErrChanged
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), id, nil
}
