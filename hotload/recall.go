package hotload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Warning is what a person should know about a state folder that could be opened.
type Warning struct {
	File string // what it is about
	Kept string // the new name of a file that was set aside; "" where it was not
	Used string // what was read instead, "" where nothing was
	Err  error
}

func (w Warning) String() string {
	s := fmt.Sprintf("%q %v", w.File, w.Err)
	if w.Kept != "" {
		s += fmt.Sprintf("; it is kept as %q", w.Kept)
	}
	if w.Used != "" {
		s += "; " + w.Used + " is used"
	}
	return s
}

// recall reads both slots, remembers the newest that is whole, and sets aside
// what is not. Where a slot cannot be read, which of the two is newer is not known:
// then it is an error, and nothing is changed.
func (s *Store) recall() (State, []Warning, error) {
	var (
		best     State
		newest   stateRecord
		foreign  [2]error
		warnings []Warning
	)
	used, slot := "an empty state", s.newest
	for i := range slots {
		data, err := s.readSlot(i)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if _, other := errors.AsType[*contentError](err); other {
			foreign[i] = err
			continue
		}
		if err != nil {
			return State{}, nil, fmt.Errorf("%q cannot be read, and may be what was saved last; try again when it can, or move it away to start without it: %w", s.slotPath(i), err)
		}
		st, rec, err := decodeState(data)
		switch {
		case err != nil:
			foreign[i] = err
		case rec.Generation > newest.Generation: // a saved generation is 1 or more
			best, newest, slot = st, rec, i
			used = "the state saved at " + rec.Saved.Format(time.RFC3339)
		}
	}
	s.foreign, s.newest = foreign, slot
	s.generation = max(s.generation, newest.Generation)
	for i, err := range s.foreign {
		if err == nil {
			continue
		}
		w := Warning{File: s.slotPath(i), Err: err}
		if s.lock != nil {
			w = s.setAside(i)
		}
		w.Used = used
		warnings = append(warnings, w)
	}
	return best, warnings, nil
}

func (s *Store) slotPath(i int) string { return filepath.Join(s.dir, slots[i]) }

// contentError is what stands in a slot and can be told without reading it to be
// none of ours.
type contentError struct{ what string }

func (e *contentError) Error() string { return e.what }

// readSlot reads a state file of bounded size. Its error is a *contentError, or
// that of the disk.
func (s *Store) readSlot(i int) ([]byte, error) {
	path := s.slotPath(i)
	info, err := s.disk.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &contentError{"is not a regular file"}
	}
	if info.Size() > maxStateBytes {
		return nil, &contentError{fmt.Sprintf("has %v, more than any state file", tier.Bytes(info.Size()))}
	}
	f, err := s.disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStateBytes+1))
}

// setAside gives a file that is not ours to overwrite a name that nobody has. Where
// that fails the slot stays foreign, and the Warning has no Kept.
func (s *Store) setAside(slot int) Warning {
	path := s.slotPath(slot)
	w := Warning{File: path, Err: s.foreign[slot]}
	for n := time.Now().UnixNano(); ; n++ {
		kept := fmt.Sprintf("%s.damaged-%d", path, n)
		if _, err := s.disk.Lstat(kept); err == nil {
			continue
		}
		if err := s.disk.Rename(path, kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.Err = fmt.Errorf("%w, and could not be set aside: %w", w.Err, err)
			return w
		}
		// Without this a crash could bring the next save's rename to the disk and not
		// this one, and the file would be lost. Where it fails, the save fails too.
		s.disk.SyncDir(s.dir)
		s.foreign[slot] = nil
		w.Kept = kept
		return w
	}
}
