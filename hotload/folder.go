package hotload

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// Bounds far above any real model folder: of a path that leads to a whole disk the
// rest is left out, and said to be.
const (
	maxDepth   = 12
	maxEntries = 2_000_000
	maxPath    = 4096 // PATH_MAX of Linux
)

// tree reads folders, within a boundary if it has one.
type tree struct {
	dir     string // where a walk starts, as given
	real    string // the same without links
	within  []area // where links may lead; none: anywhere
	entries int    // seen so far
	most    int    // entries; 0: maxEntries
	skipped []Skipped

	listed  map[string]*folder // by path, so that none is read twice
	folders map[string]*folder // of the walk before, by path
	reals   map[string]string  // of folders, without links
	claimed map[string]bool    // files that belong to a model in a folder above theirs
	// claiming: the folder that is grouped is a part of a model above it, and has none.
	claiming bool
	paired   map[string]bool // projectors that belong to a model

	manifests []*folder // with manifests of all of Ollama's stores

	// headers are those of this walk, before those of the one before, by path; nil: they
	// are not remembered.
	headers, before map[string]header
	retry           bool // a file could not be read, which may pass

	versions map[string]string // of the files that were read, by path

	// metadata is that of the GGUF files which were read, by path; nil: it is not kept.
	metadata map[string]ggufMetadata
	// opened is what the files that were opened looked like before they were read, by
	// real path; nil: it is not kept.
	opened map[string]fs.FileInfo
}

// header is what inspect returned for a file that looked like stat.
type header struct {
	stat fs.FileInfo
	info Info
	err  error
}

// area is a folder that may be read, without links in its path.
type area struct {
	dir  string
	root *os.Root // to open files without leaving it
}

// openTree returns a tree whose boundary is the folder and those that links may lead
// to. It is to be closed. Of a snapshot in the cache of Hugging Face the boundary is
// its repository, where its files are links to.
func openTree(dir string, follow ...string) (*tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, unlisted(dir, err)
	}
	t := newTree()
	t.dir = abs
	for i, dir := range append([]string{abs}, follow...) {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			real, err = filepath.Abs(real)
		}
		if err == nil && i == 0 {
			t.real = real
			real = cmp.Or(hubRepository(real), real)
		}
		var root *os.Root
		if err == nil {
			root, err = os.OpenRoot(real)
		}
		switch {
		case err == nil:
			t.within = append(t.within, area{real, root})
		case i > 0 && errors.Is(err, fs.ErrNotExist): // a drive that is not there now
		default:
			t.close()
			return nil, unlisted(dir, err)
		}
	}
	return t, nil
}

// newTree returns a tree without a boundary.
func newTree() *tree {
	return &tree{listed: make(map[string]*folder), reals: make(map[string]string), claimed: make(map[string]bool), paired: make(map[string]bool), versions: make(map[string]string)}
}

func (t *tree) close() {
	for _, a := range t.within {
		a.root.Close()
	}
}

func unlisted(dir string, err error) error {
	return &FileError{Path: dir, Reason: "cannot be listed", Err: err}
}

// folder is the content of one folder, without that of its subfolders.
type folder struct {
	dir     string
	real    string // without links
	weights []file // GGUF and safetensors files, by name
	others  []file // other regular files, by name
	subs    []string
	skipped []Skipped

	listed [2][]file // weights and others as they were read, of which Watch takes some away

	byName map[string]*file // weights, also by NFC forms of their names; nil: not asked for

	grouped    bool
	groups     []*group
	projectors []*group        // nil: not looked for
	bases      map[string]bool // what its models are called without their quantisation
	pipeline   *group          // that its subfolders are parts of

	sums map[string]tier.Digest // what lists in it say of its files, by name; nil: not asked for

	manifests bool      // its files are manifests of Ollama's store
	tags      []*folder // of Ollama's store: those with its manifests

	stat    fs.FileInfo // of the folder, before it was read
	read    time.Time
	entries int
	special bool // not all entries are plain files and folders
}

// settle is how long a folder has to be unchanged before it is believed that it shows
// when it changes: the clocks of file systems tick, the slowest every 2 s (FAT).
const settle = 2 * time.Second

// still returns the folder as it is now, if no entry has come or gone since it was
// read; nil: it has to be read. What its files are is asked for again.
func (f *folder) still(real string, now fs.FileInfo) *folder {
	if f == nil || f.special || f.real != real || !same(f.stat, now) || f.read.Sub(now.ModTime()) < settle {
		return nil
	}
	again := &folder{dir: f.dir, real: real, subs: f.subs, skipped: f.skipped, stat: now, read: f.read, entries: f.entries}
	for _, files := range []struct{ from, to *[]file }{{&f.listed[0], &again.weights}, {&f.listed[1], &again.others}} {
		*files.to = make([]file, len(*files.from))
		for i, file := range *files.from {
			(*files.to)[i].path, (*files.to)[i].real = file.path, file.real
		}
	}
	for i := range again.weights {
		if stat := again.weights[i].info(); stat == nil || !stat.Mode().IsRegular() {
			return nil
		}
	}
	again.listed = f.listed
	return again
}

// has returns the other file of that name; nil: there is none.
func (f *folder) has(name string) *file {
	i, ok := slices.BinarySearchFunc(f.others, name, func(o file, name string) int { return strings.Compare(o.name(), name) })
	if !ok {
		return nil
	}
	return &f.others[i]
}

// file is a regular file, or a link to one.
type file struct {
	path string      // as found
	real string      // without links
	stat fs.FileInfo // nil: not asked for yet
}

// info returns what the file is; nil if it is not there any more. The files of others
// are asked for one by one where it matters: most of them do not.
func (f *file) info() fs.FileInfo {
	if f.stat == nil {
		if stat, err := os.Lstat(f.real); err == nil {
			f.stat = stat
		}
	}
	return f.stat
}

func (f *file) size() int64 {
	if stat := f.info(); stat != nil {
		return stat.Size()
	}
	return 0
}

func (f *file) name() string { return filepath.Base(f.path) }

// list returns a folder, which it reads the first time. Its error is a *FileError.
func (t *tree) list(dir string) (*folder, error) {
	f := t.listed[dir]
	if f != nil {
		return f, nil
	}
	f, err := t.readFolder(dir)
	if err == nil {
		t.listed[dir] = f
	}
	return f, err
}

func (t *tree) readFolder(dir string) (*folder, error) {
	// Of a folder that its parent has listed, and that is no link, it is known. Files are
	// opened without leaving the boundary, whatever it has become since.
	real, known := t.reals[dir]
	if !known {
		var err error
		if real, err = filepath.EvalSymlinks(dir); err != nil {
			return nil, unlisted(dir, err)
		}
	}
	if !t.holds(real) {
		return nil, unlisted(dir, errOutside)
	}
	stat, err := os.Stat(real)
	if err != nil {
		return nil, unlisted(dir, err)
	}
	if f := t.folders[dir].still(real, stat); f != nil {
		for _, sub := range f.subs {
			t.reals[sub] = filepath.Join(real, filepath.Base(sub))
		}
		t.entries += f.entries
		return f, nil
	}
	f := &folder{dir: dir, real: real, stat: stat, read: time.Now()}
	entries, err := t.readDir(real)
	if err != nil {
		return nil, unlisted(dir, err)
	}
	f.entries = len(entries)
	names := make(map[string]bool) // of files that have another beside them
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), beside) {
			names[strings.TrimSuffix(e.Name(), beside)] = true
		}
	}
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
		if keptByOthers[strings.ToLower(e.Name())] && e.IsDir() {
			skip("is a folder that a file server, a desktop or a file system keeps for itself", false)
			continue
		}
		if why := unfinished(e.Name()); why != "" {
			skip(why, false)
			continue
		}
		if names[e.Name()] && formatOf(path) != FormatUnknown {
			skip(unfinishedReason+": "+e.Name()+beside+" is beside it", false)
			continue
		}
		if e.IsDir() {
			f.subs = append(f.subs, path)
			t.reals[path] = filepath.Join(f.real, e.Name())
			continue
		}
		if e.Type().IsRegular() && formatOf(path) == FormatUnknown {
			f.others = append(f.others, file{path: path, real: filepath.Join(f.real, e.Name())})
			continue
		}
		real, stat, err := t.look(f.real, e)
		f.special = f.special || err != nil || !e.Type().IsRegular()
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
	f.listed = [2][]file{slices.Clone(f.weights), slices.Clone(f.others)}
	return f, nil
}

// usable lists a folder, and fails if something in it has a fault.
func (t *tree) usable(dir string) (*folder, error) {
	f, err := t.list(dir)
	if err == nil {
		err = f.fault()
	}
	return f, err
}

// fault returns an error if something in the folder belongs to its model and cannot
// be used.
func (f *folder) fault() error {
	for _, w := range f.weights {
		if w.stat.Size() == 0 {
			return &FileError{Path: w.path, Reason: "is empty"}
		}
	}
	for i := range f.others {
		o := &f.others[i]
		if len(f.weights) == 0 && o.size() == 0 && shardOf(o.name()).of > 0 {
			return &FileError{Path: o.path, Reason: "is empty"}
		}
	}
	for _, s := range f.skipped {
		if s.special && (len(f.weights) == 0 || formatOf(s.Path) != FormatUnknown) {
			return s.fault()
		}
	}
	return nil
}

// readDir returns the entries by name, and an error if there are too many.
func (t *tree) readDir(dir string) ([]fs.DirEntry, error) {
	if t.full() {
		return nil, errTooMany
	}
	entries, err := regular.List(dir, cmp.Or(t.most, maxEntries)-t.entries+1)
	if err != nil {
		return nil, err
	}
	if t.entries += len(entries); t.full() {
		return nil, errTooMany
	}
	return entries, nil
}

// full reports whether more entries were seen than are allowed.
func (t *tree) full() bool { return t.entries > cmp.Or(t.most, maxEntries) }

var (
	errOutside = errors.New("is a link that leads out of the folder")
	errTooMany = fmt.Errorf("more than %d files were found until here", maxEntries)
)

// look returns what an entry is, following links. Its error is in words that follow
// the entry's path.
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
	_, _, ok := t.area(real)
	return ok || len(t.within) == 0
}

// area returns the area that a real path is in, and the path relative to it.
func (t *tree) area(real string) (a area, rel string, ok bool) {
	for _, a := range t.within {
		if rel, err := filepath.Rel(a.dir, real); err == nil && filepath.IsLocal(rel) {
			return a, rel, true
		}
	}
	return area{}, "", false
}

// open opens a file by its real path. Within a boundary the operating system makes
// sure that it is not left, even by a link that was put there since.
func (t *tree) open(real string) (f *os.File, stat fs.FileInfo, err error) {
	if len(t.within) == 0 {
		f, stat, err = regular.Open(real)
	} else if a, rel, ok := t.area(real); ok {
		f, stat, err = regular.OpenIn(a.root, rel)
	} else {
		err = errOutside
	}
	if err == nil && t.opened != nil {
		t.opened[real] = stat
	}
	return f, stat, err
}

// read is inspect for files whose headers are remembered: it reads a file again only
// if it looks different.
func (t *tree) read(f *file) (Info, error) {
	h, known := t.before[f.path]
	if !known || !same(h.stat, f.stat) {
		h.stat = f.stat
		h.info, h.err = t.inspect(f)
	}
	if _, unread := errors.AsType[*fs.PathError](h.err); unread {
		t.retry = true // it says nothing about the content
	} else if t.headers != nil {
		t.headers[f.path] = h
	}
	if h.err == nil {
		t.versions[f.path] = h.info.Version
	}
	return h.info, h.err
}

// same reports whether a and b are one file that was not written in between.
func same(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}

// Resolve returns the absolute form of a path from a client, which is relative to
// root or within it. It refuses a path with "..", one that leads out of root by
// itself or by a symbolic link, one that does not exist, and a folder with a link in
// it that leads out of root. Links may lead to the folders in follow as well. The
// error unwraps to tier.ErrInvalid.
func Resolve(root, path string, follow ...string) (string, error) {
	fault := func(rule string) error {
		return &tier.InvalidError{Field: "path", Value: fmt.Sprintf("%.100q", path), Rule: rule,
			Help: []string{"Give the path of a file or folder within the model folder, relative to it."}}
	}
	switch {
	case path == "":
		return "", fault("must not be empty")
	case len(path) > maxPath || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fault(fmt.Sprintf("must be %d bytes at most, without control characters", maxPath))
	// A parent would be resolved by the text, and not by where a link before it leads.
	case slices.Contains(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == filepath.Separator }), ".."):
		return "", fault(`must not hold ".."`)
	}
	t, err := openTree(root, follow...)
	if err != nil {
		return "", err
	}
	defer t.close()

	// The same answer for what does not exist and for what lies outside, so that it
	// does not reveal what lies outside.
	refused := fault("must be there, readable, and within the model folder")
	rel := path
	if filepath.IsAbs(path) {
		rel = t.relative(path)
	}
	if !filepath.IsLocal(rel) {
		return "", refused
	}
	full := filepath.Join(t.dir, rel)
	real, err := filepath.EvalSymlinks(full)
	if err != nil || !t.holds(real) {
		return "", refused
	}
	stat, err := os.Stat(real)
	switch {
	case err != nil:
		return "", refused
	case stat.Mode().IsRegular():
		return full, nil
	case !stat.IsDir():
		return "", fault("must be a file or a folder")
	}
	if _, err := t.usable(full); err != nil {
		return "", err
	}
	return full, nil
}

// relative returns an absolute path relative to the folder, whether it is written
// with the folder's links or without, or "" if it is not below it.
func (t *tree) relative(path string) string {
	for _, base := range []string{t.dir, t.real} {
		if rel, err := filepath.Rel(base, path); err == nil && filepath.IsLocal(rel) {
			return rel
		}
	}
	return ""
}
