package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// Store keeps a State in a folder.
//
// The folder holds two state files. A save writes a temporary file, flushes it,
// renames it over the older of the two, and flushes the folder; the newer one stays
// as it is until the save has succeeded. Open reads the newest valid one.
type Store struct {
	dir string // for messages

	mu         sync.Mutex // held during a save
	disk       disk
	closed     bool
	generation uint64 // of the last attempt to save
	newest     int    // slot that holds the State acknowledged last
}

// slots are the names of the two state files.
var slots = [2]string{"state-a", "state-b"}

const tempName = "state-new"

// Warning is what an operator should know about a folder that was opened.
type Warning struct {
	File string // what it is about
	Kept string // new name of a file that was set aside; "" if none was
	Err  error  // completes a sentence that begins with File
}

func (w Warning) String() string { return fmt.Sprintf("%q %v", w.File, w.Err) }

// LockedError reports a state folder that another process, or another Store of this
// one, has open.
type LockedError struct {
	Dir   string
	Owner string // as it described itself
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("state folder %q is held by %s", e.Dir, e.Owner)
}

// Unwrap returns tier.ErrInUse.
func (e *LockedError) Unwrap() error { return tier.ErrInUse }

// Suggestions implements tier.Suggester.
func (e *LockedError) Suggestions() []string {
	return []string{"Stop that process, or give this one a state folder of its own."}
}

// Open takes the folder for this process, creates it if it is missing, and returns
// the State that was acknowledged last: the zero State if there is none.
//
// A state file that is torn, damaged, foreign or of a newer version is renamed, and
// the one before it is read instead; a Warning says so. A full disk is a Warning
// too, because Save may succeed later. The error is a *LockedError if the folder is
// in use, or says why the folder cannot be written, or that a state file cannot be
// read now: to use the other one could undo what was acknowledged, so nothing is
// renamed then.
func Open(dir string) (*Store, State, []Warning, error) {
	abs, err := filepath.Abs(dir)
	info, missing := os.Stat(abs)
	if dir == "" || err != nil || missing == nil && !info.IsDir() {
		return nil, State{}, nil, &tier.InvalidError{Field: "state folder", Value: dir, Rule: "must be a folder"}
	}
	d, err := openFolder(abs)
	if err != nil {
		return nil, State{}, nil, err
	}
	return open(abs, d)
}

// open takes over d and closes it if it fails.
func open(dir string, d disk) (_ *Store, st State, warnings []Warning, err error) {
	s := &Store{dir: dir, disk: d}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	// Permissions do not tell whether a read-only or remote file system can be written.
	err = s.writeTemp([]byte(magic + "\n"))
	if err == nil {
		err = d.Remove(tempName)
	}
	switch {
	case slices.ContainsFunc(diskFull, func(full error) bool { return errors.Is(err, full) }):
		warnings = append(warnings, Warning{File: dir, Err: fmt.Errorf("cannot be written while the disk is full: %w", err)})
	case err != nil:
		return nil, st, nil, fmt.Errorf("state folder %q cannot be written: %w", dir, err)
	}
	st, more, err := s.load()
	if err != nil {
		return nil, State{}, nil, err
	}
	return s, st, append(warnings, more...), nil
}

// load reads both slots, remembers the newest valid one, and sets aside the invalid
// ones. If a slot cannot be read it is unknown which is newer: load then changes
// nothing and fails.
func (s *Store) load() (State, []Warning, error) {
	var (
		best   State
		newest record
		damage [len(slots)]error
		used   = "an empty state"
	)
	for i, name := range slots {
		st, rec, invalid, err := s.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return State{}, nil, fmt.Errorf("%q cannot be read, and may hold what was saved last; try again when it can be read, or move it away to start without it: %w", filepath.Join(s.dir, name), err)
		}
		damage[i] = invalid
		if invalid == nil && rec.Generation > newest.Generation {
			best, newest, s.newest = st, rec, i
			used = "the state saved at " + rec.Saved.Format(time.RFC3339)
		}
	}
	s.generation = newest.Generation
	var warnings []Warning
	for i, invalid := range damage {
		if invalid == nil {
			continue
		}
		path := filepath.Join(s.dir, slots[i])
		kept, err := s.setAside(slots[i])
		if err != nil {
			return State{}, nil, fmt.Errorf("%q %w, and it cannot be renamed: %w", path, invalid, err)
		}
		kept = filepath.Join(s.dir, kept)
		warnings = append(warnings, Warning{File: path, Kept: kept, Err: fmt.Errorf("%w; it is kept as %q; %s is used", invalid, kept, used)})
	}
	return best, warnings, nil
}

// read reads a state file. invalid says why it is none, err why that is unknown.
func (s *Store) read(name string) (st State, rec record, invalid, err error) {
	f, err := s.disk.Open(name)
	if special, ok := errors.AsType[*regular.Error](err); ok {
		return st, rec, fmt.Errorf("is %s, not a file", special.Kind), nil
	}
	if err != nil {
		return st, rec, nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxFileBytes {
		return st, rec, fmt.Errorf("has %v, more than any state file", tier.Bytes(info.Size())), nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil {
		st, rec, invalid = decode(data)
	}
	return st, rec, invalid, err
}

// setAside gives the file a new name. It flushes the folder, because a crash could
// otherwise keep the next save's rename and lose this one, and the file with it.
func (s *Store) setAside(name string) (kept string, err error) {
	kept = fmt.Sprintf("%s.damaged-%d", name, time.Now().UnixNano())
	if err := s.disk.Rename(name, kept); err != nil {
		return "", err
	}
	return kept, s.disk.Sync()
}

// Save makes durable what snapshot returns, and acknowledges it by returning nil.
// Saves run one after the other; snapshot is called when it is the turn of this
// one, and must not call the Store.
//
// An error may wrap that of the operating system. It costs nothing that was
// acknowledged before, and Save can be called again. After Close the error is
// tier.ErrClosed.
func (s *Store) Save(snapshot func() State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return tier.ErrClosed
	}
	s.generation++
	data, err := encode(snapshot(), s.generation, time.Now())
	if err != nil {
		return err
	}
	older := 1 - s.newest
	err = s.writeTemp(data)
	if err == nil {
		err = s.disk.Rename(tempName, slots[older])
	}
	if err == nil {
		err = s.disk.Sync()
	}
	if err != nil {
		return fmt.Errorf("save state in %q: %w", s.dir, err)
	}
	s.newest = older
	return nil
}

// writeTemp writes and flushes the temporary file. A failed one is removed, because
// it takes the room that the next attempt needs.
func (s *Store) writeTemp(data []byte) error {
	if err := s.disk.Remove(tempName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.disk.Create(tempName)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.disk.Remove(tempName)
	}
	return err
}

// Close waits for a running Save and releases the folder. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.disk.Close()
}

// disk is the folder as a Store uses it: an interface, so that tests can cut the
// power at every step. Names are relative to the folder.
type disk interface {
	Open(name string) (fs.File, error) // a *regular.Error if it is no file
	Create(name string) (file, error)  // fails if it exists
	Rename(from, to string) error
	Remove(name string) error
	Sync() error  // makes creations, renames and removals durable
	Close() error // releases the folder
}

type file interface {
	io.WriteCloser
	Sync() error
}

// State files are private: a blob may hold what users asked for.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// folder is a disk of the operating system, locked for this process. It refers to
// the folder itself and not to its path: if a link on the path is switched or the
// folder is renamed, saves still go where the lock is.
type folder struct {
	*os.Root
	locks []io.Closer
}

func openFolder(dir string) (*folder, error) {
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{Root: root}
	if err := f.lock(dir); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// makeFolder creates the folder and its missing parents, durably: a folder that is
// lost in a crash loses what is in it.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncFolder(f)
}

func (f *folder) Open(name string) (fs.File, error) {
	file, _, err := regular.OpenIn(f.Root, name)
	return file, err
}

func (f *folder) Create(name string) (file, error) {
	return f.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
}

func (f *folder) Sync() error {
	dir, err := f.Root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return syncFolder(dir)
}

func (f *folder) Close() error {
	err := f.Root.Close()
	for _, l := range f.locks {
		err = errors.Join(err, l.Close())
	}
	return err
}

// lockName is a file that is locked and describes the owner. It is never removed:
// two processes could then lock two different files of that name.
const lockName = "lock"

// describe writes the owner into the lock file. That is for people: an error does
// not matter.
func describe(f *os.File) {
	owner := fmt.Sprintf("process %d (%s) since %s\n", os.Getpid(), filepath.Base(os.Args[0]), time.Now().UTC().Format(time.RFC3339))
	if f.Truncate(0) == nil {
		f.WriteAt([]byte(owner), 0)
	}
}

// lockedBy returns the error for a folder that is locked, by the owner that the lock
// file describes.
func (f *folder) lockedBy(dir string) error {
	e := &LockedError{Dir: dir, Owner: "another process"}
	if f, _, err := regular.OpenIn(f.Root, lockName); err == nil {
		defer f.Close()
		line := make([]byte, 256)
		n, _ := f.ReadAt(line, 0)
		if owner := strings.TrimSpace(string(line[:n])); tier.CheckName("owner", owner) == nil {
			e.Owner = owner
		}
	}
	return e
}
