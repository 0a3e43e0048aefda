package hotload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on what is looked at, far above any real model folder: they keep a path
// that leads to a whole disk from being walked to its end.
const (
	maxDepth   = 8
	maxEntries = 100_000
)

// tree reads folders, within a boundary where it has one.
type tree struct {
	dir      string   // where a walk begins, as it was given
	boundary string   // the same without links; "": links may lead anywhere
	root     *os.Root // the boundary, to open files without leaving it
	entries  int      // seen so far

	// headers are those read in this round, before those of the last, by path. Nil:
	// they are not remembered.
	headers, before map[string]header
}

// header is what was read of a file when it looked like that.
type header struct {
	stat fs.FileInfo
	info Info
	err  error
}

type openFunc = func(name string, flag int, perm fs.FileMode) (*os.File, error)

// folder is what was found in one folder, without what is in its subfolders.
type folder struct {
	dir     string
	real    string // without links
	weights []file // GGUF and safetensors files, by name
	others  []file // other regular files, by name
	subs    []string
	skipped []Skipped
}

// file is a regular file, or a link to one.
type file struct {
	path string // where it was found
	real string // without links
	stat fs.FileInfo
}

func (f *file) name() string { return filepath.Base(f.path) }

// list reads a folder. Its error is a *FileError.
func (t *tree) list(dir string) (*folder, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, &FileError{Path: dir, Reason: "cannot be listed", Err: err}
	}
	if !t.holds(real) {
		return nil, &FileError{Path: dir, Reason: "cannot be listed", Err: errOutside}
	}
	entries, err := t.readDir(real)
	if err != nil {
		return nil, &FileError{Path: dir, Reason: "cannot be listed", Err: err}
	}
	f := &folder{dir: dir, real: real}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		skip := func(reason string, special bool) {
			help := "Put the file itself there, or take the entry out of the folder."
			f.skipped = append(f.skipped, Skipped{Path: path, Reason: reason, help: help, special: special})
		}
		if strings.HasPrefix(e.Name(), ".") {
			if e.IsDir() || formatOf(path) != FormatUnknown {
				skip("is hidden", false)
			}
			continue
		}
		if tier.CheckName("name", e.Name()) != nil {
			skip("has a name that cannot be shown", true)
			continue
		}
		real, stat, err := t.look(f.real, e)
		switch {
		case err != nil:
			skip(err.Error(), true)
		case stat.IsDir():
			f.subs = append(f.subs, path)
		case !stat.Mode().IsRegular():
			skip("is no regular file", true)
		case formatOf(path) != FormatUnknown:
			f.weights = append(f.weights, file{path, real, stat})
		default:
			f.others = append(f.others, file{path, real, stat})
		}
	}
	return f, nil
}

// fault returns an error where something in the folder would be a part of its
// model and cannot be.
func (f *folder) fault() error {
	for _, s := range f.skipped {
		if s.special && (len(f.weights) == 0 || formatOf(s.Path) != FormatUnknown) {
			return s.fault()
		}
	}
	return nil
}

// readDir returns the entries by name, and an error where there are too many.
func (t *tree) readDir(dir string) ([]fs.DirEntry, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxEntries - t.entries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if t.entries += len(entries); t.entries > maxEntries {
		return nil, fmt.Errorf("more than %d files", maxEntries)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

var errOutside = errors.New("is a link that leads out of the folder")

// look returns what an entry is, following links. Its error is a few words to
// stand behind the entry's path.
func (t *tree) look(dir string, e fs.DirEntry) (real string, stat fs.FileInfo, err error) {
	real = filepath.Join(dir, e.Name())
	if e.Type()&fs.ModeSymlink == 0 {
		stat, err = e.Info()
	} else if real, err = filepath.EvalSymlinks(real); err == nil {
		if !t.holds(real) {
			return "", nil, errOutside
		}
		stat, err = os.Stat(real)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, errors.New("is not there, or a link to nothing")
	case err != nil:
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // without the path, which is where a link leads
		}
		return "", nil, fmt.Errorf("cannot be read: %w", err)
	}
	return real, stat, nil
}

// holds reports whether the real path is within the boundary.
func (t *tree) holds(real string) bool {
	if t.boundary == "" {
		return true
	}
	rel, err := filepath.Rel(t.boundary, real)
	return err == nil && filepath.IsLocal(rel)
}

// open opens the real path of a file. Within a boundary the operating system
// makes sure that it is not left, also where a link was put there since.
func (t *tree) open(real string, flag int, perm fs.FileMode) (*os.File, error) {
	if t.root == nil {
		return os.OpenFile(real, flag, perm)
	}
	rel, err := filepath.Rel(t.boundary, real)
	if err != nil {
		return nil, err
	}
	return t.root.OpenFile(rel, flag, perm)
}

// read returns what the header of the file says. Where headers are remembered and
// the file looks as it did, it is not read again.
func (t *tree) read(f *file) (Info, error) {
	h, known := t.before[f.path]
	if !known || !same(h.stat, f.stat) {
		h.stat = f.stat
		h.info, h.err = inspectFile(f.path, func(_ string, flag int, perm fs.FileMode) (*os.File, error) {
			return t.open(f.real, flag, perm)
		})
	}
	if t.headers != nil {
		t.headers[f.path] = h
	}
	return h.info, h.err
}

// same reports whether the two are one file that was not written to in between.
func same(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}
