package hotload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Store keeps a State in a folder so that a crash at any instant, of the process
// or of the machine, loses nothing that Save has acknowledged.
//
// The folder holds two state files. A save writes a temporary file, flushes it,
// renames it over the older of the two, and flushes the folder; the newer one is
// not touched until the save has succeeded. Reading back takes the newest that is
// whole. A lock file keeps a second process out.
type Store struct {
	dir  string
	disk disk

	mu     sync.Mutex // guards next and closed; held for no I/O
	next   *commit
	closed bool

	// turn holds one token. Whoever has taken it writes, and owns the rest.
	turn       chan struct{}
	lock       io.Closer // nil: the folder could not be locked yet
	generation uint64    // of the last attempt to save
	newest     int       // the slot of what was acknowledged last
	foreign    [2]error  // slots whose content is not ours to overwrite, and why
}

// commit is one write that any number of callers of Save wait for.
type commit struct {
	done chan struct{}
	err  error
}

// slots are the names of the two state files.
var slots = [2]string{"state-a", "state-b"}

const tempName = "state-new"

// OpenStore opens the state folder, which is made where it is missing, and returns
// what was acknowledged last: the zero State where there was nothing yet.
//
// A state file that is torn, damaged, foreign or of a newer version is set aside
// under a new name, and the file before it is read instead; a Warning tells. A
// folder that cannot be written costs no error but a Warning: what is there is
// read, and each Save tries again. The error is a *HeldError where another has the
// folder open, and else one of the folder itself, or of a state file that the
// operating system cannot read now: to go by the other one could undo what was
// acknowledged, so nothing is read and nothing renamed.
func OpenStore(dir string) (*Store, State, []Warning, error) {
	return openStore(dir, osDisk{})
}

func openStore(dir string, d disk) (*Store, State, []Warning, error) {
	if dir == "" {
		return nil, State{}, nil, &tier.InvalidError{Field: "state folder", Value: `""`, Rule: "must not be empty"}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, State{}, nil, err
	}
	if info, err := d.Lstat(dir); err == nil && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
		return nil, State{}, nil, &tier.InvalidError{Field: "state folder", Value: dir, Rule: "must be a folder"}
	}
	s := &Store{dir: dir, disk: d, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}

	var warnings []Warning
	if err := s.takeLock(); err != nil {
		if _, held := errors.AsType[*HeldError](err); held {
			return nil, State{}, nil, err
		}
		warnings = append(warnings, Warning{File: dir, Err: fmt.Errorf("nothing can be kept for now: %w", err)})
	}
	st, more, err := s.recall()
	if err != nil {
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, State{}, nil, err
	}
	return s, st, append(warnings, more...), nil
}

func (s *Store) takeLock() error {
	if err := s.disk.MkdirAll(s.dir); err != nil {
		return err
	}
	lock, err := s.disk.Lock(s.dir)
	if err == nil {
		s.lock = lock
	}
	return err
}

// Save makes durable what snapshot returns, and acknowledges it by returning nil.
//
// Callers of Save at the same time share one write: snapshot is called once for
// all of them, on the goroutine of one, after each of them has called Save and
// with no lock held. It must therefore return the whole state as it is when it is
// called, in which every caller's change is already in. It must not call Save.
//
// On an error, which may wrap that of the operating system, nothing of what was
// acknowledged before is lost, and the next Save tries again. After Close the
// error is tier.ErrClosed.
func (s *Store) Save(snapshot func() State) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return tier.ErrClosed
	}
	c, leader := s.next, false
	if c == nil {
		c, leader = &commit{done: make(chan struct{})}, true
		s.next = c
	}
	s.mu.Unlock()

	if !leader {
		<-c.done
		return c.err
	}
	<-s.turn
	defer func() { s.turn <- struct{}{} }()
	s.mu.Lock()
	s.next = nil // who comes from now on is not in the snapshot
	closed := s.closed
	s.mu.Unlock()

	defer close(c.done)
	if closed { // while this waited for its turn
		c.err = tier.ErrClosed
		return c.err
	}
	c.err = errSnapshot // what the others get where snapshot panics
	c.err = s.write(snapshot())
	return c.err
}

var errSnapshot = errors.New("taking a snapshot of the state failed")

// write is called with the turn.
func (s *Store) write(st State) error {
	if err := s.ready(); err != nil {
		return err
	}
	s.generation++
	data, err := encodeState(st, s.generation, time.Now())
	if err != nil {
		return err
	}
	slot := 1 - s.newest
	if s.foreign[slot] != nil {
		if w := s.setAside(slot); w.Kept == "" {
			return w.Err
		}
	}
	if err := s.replace(filepath.Join(s.dir, slots[slot]), data); err != nil {
		return fmt.Errorf("save state in %q: %w", s.dir, err)
	}
	s.newest = slot
	return nil
}

// ready takes the lock where the folder could not be locked before. The folder
// was not ours in between, so what is in it may have changed.
func (s *Store) ready() error {
	if s.lock != nil {
		return nil
	}
	if err := s.takeLock(); err != nil {
		return fmt.Errorf("save state in %q: %w", s.dir, err)
	}
	known := s.generation
	_, _, err := s.recall()
	if err == nil && s.generation > known {
		// Another process has saved, or the folder was not mounted yet. To save now
		// would undo what was acknowledged there.
		err = errors.New("there is newer state than was read at the start; restart to use it")
	}
	if err != nil {
		s.lock.Close()
		s.lock, s.generation = nil, known
		return fmt.Errorf("save state in %q: %w", s.dir, err)
	}
	return nil
}

// replace puts data in the place of path, all or nothing.
func (s *Store) replace(path string, data []byte) error {
	temp := filepath.Join(s.dir, tempName)
	if err := s.disk.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.disk.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = s.disk.Rename(temp, path)
	}
	if err != nil {
		s.disk.Remove(temp) // best effort: the next save removes it too, and needs the room
		return err
	}
	return s.disk.SyncDir(s.dir)
}

// Close waits for a running Save and gives the folder back. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()

	<-s.turn
	defer func() { s.turn <- struct{}{} }()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}
