package mapped

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on what is taken for one model, far above any real one: each shard
// costs a file handle and a mapping.
const (
	maxShards  = 1024
	maxEntries = 100_000 // of a folder, looked at
)

// find returns the files that hold the model's weights, in the order of their
// names: the file itself, or, of a folder, its .gguf and .safetensors files or,
// where it has none, all its regular files. Links are followed; hidden files and
// folders within do not count.
func find(model, path string) ([]string, error) {
	err := checkPath(model, path)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, pathError(model, path, err)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, pathError(model, path, err)
	case info.Mode().IsRegular():
		return []string{path}, nil
	case !info.IsDir():
		return nil, badPath(model, path, "must be a regular file or a folder of them, is "+kindOf(info), "Name the file of weights, or the folder that holds them.")
	}
	return findIn(model, path)
}

func checkPath(model, path string) error {
	if path == "" {
		return badPath(model, path, "must name a file or a folder of weights", "Set the model's path to its file of weights, or to the folder that holds them.")
	}
	return nil
}

func findIn(model, dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, pathError(model, dir, err)
	}
	defer d.Close()
	entries, err := d.ReadDir(maxEntries + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, pathError(model, dir, err)
	case len(entries) > maxEntries:
		return nil, badPath(model, dir, fmt.Sprintf("must hold %d files at most", maxEntries))
	}
	var weights, others []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		switch strings.ToLower(filepath.Ext(path)) {
		case ".gguf", ".safetensors":
			weights = append(weights, path)
		default:
			others = append(others, path)
		}
	}
	if len(weights) > 0 {
		slices.Sort(weights) // openRegular reports what is wrong with one of them
		return weights, nil
	}
	others = slices.DeleteFunc(others, func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.IsDir()
	})
	if len(others) == 0 {
		return nil, badPath(model, dir, "must hold at least one regular file")
	}
	slices.Sort(others)
	return others, nil
}

// openRegular opens a regular file to read and refuses anything else without
// waiting: to open a pipe would wait for its other end.
func openRegular(model, path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, pathError(model, path, err)
	}
	if !info.Mode().IsRegular() { // to open a device may already be an act
		return nil, nil, notRegular(model, path, info)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, pathError(model, path, err)
	}
	info, err = f.Stat()
	switch {
	case err != nil:
		err = pathError(model, path, err)
	case !info.Mode().IsRegular():
		err = notRegular(model, path, info)
	case uint64(info.Size()) > math.MaxInt: // on a 32-bit system
		err = badPath(model, path, fmt.Sprintf("has %v, and a 32-bit system maps files below 2 GiB", tier.Bytes(info.Size())),
			"Run a 64-bit build, or split the model into shards.")
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func notRegular(model, path string, info fs.FileInfo) error {
	return badPath(model, path, "must be a regular file, is "+kindOf(info), "Put the file of weights in its place, or move it out of the folder of weights.")
}

func kindOf(info fs.FileInfo) string {
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

// pathError says what is wrong with a path in words that help.
func pathError(model, path string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // the path is named once
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, err := os.Readlink(path); err == nil {
			return badPath(model, path, "must exist, is a link to "+quote(target)+", which does not", "Restore the file that the link points to, or remove the link.")
		}
		return badPath(model, path, "must exist", "Check the path, or remove the model.")
	case errors.Is(err, fs.ErrPermission):
		return badPath(model, path, "must be readable: "+err.Error(), "Let the server's user read the file, or run the server as its owner.")
	}
	return badPath(model, path, "must be readable: "+err.Error(), "Check the path, and whether its disk is in order.")
}

func badPath(model, path, rule string, help ...string) error {
	return &tier.InvalidError{Model: model, Field: "path", Value: quote(path), Rule: rule, Help: help}
}

// quote bounds what goes into a message.
func quote(s string) string {
	const most = 256
	if len(s) > most {
		return "…" + strconv.Quote(s[len(s)-most:]) // of a path, the end tells most
	}
	return strconv.Quote(s)
}
