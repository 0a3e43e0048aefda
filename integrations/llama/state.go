package llama

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	yzma "github.com/hybridgroup/yzma/pkg/llama"

	"github.com/modeltier/modeltier/internal/regular"
)

// SlotStatus is what a slot is at.
type SlotStatus struct {
	ID     int
	Busy   bool
	Tokens int // that it holds
}

// Slots returns what the slots are at. It waits for the token that is computed.
func (m *Model) Slots() []SlotStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue.mu.Lock()
	defer m.queue.mu.Unlock()
	var out []SlotStatus
	for _, s := range m.queue.slots {
		out = append(out, SlotStatus{ID: int(s.id), Busy: s.busy, Tokens: len(s.tokens)})
	}
	return out
}

// State is what was written or read of a slot.
type State struct {
	Tokens int
	Bytes  int64
}

// sealed ends a file of a state, after the sum of all before it. llama.cpp ends the
// process if a file is not as it wrote it, so it is given no other.
const sealed = "modeltier slot 1"

// Save writes what a slot holds into a file, which is there as a whole or as it was
// before. It waits until the slot is free.
func (m *Model) Save(ctx context.Context, id int, path string) (st State, err error) {
	err = m.withSlot(ctx, id, func(s *slot) error {
		f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name()) // unless it has its name by then
		defer f.Close()
		if yzma.StateSeqSaveFile(m.context, f.Name(), s.id, s.tokens) == 0 {
			return m.l.fail("cannot save a slot")
		}
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		if err != nil {
			return err
		}
		if _, err := f.Write(append(sum.Sum(nil), sealed...)); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		st = State{Tokens: len(s.tokens), Bytes: n + int64(sum.Size()+len(sealed))}
		return os.Rename(f.Name(), path)
	})
	return st, err
}

// whole returns the size of a file that Save wrote, and an error if it is not as it
// was then.
func whole(path string) (size int64, err error) {
	f, info, err := regular.Open(path) // a pipe would be waited for, with the model's lock
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const end = sha256.Size + len(sealed)
	state := info.Size() - int64(end)
	if state < 0 {
		return 0, errors.New("it is none that was saved")
	}
	sum, want := sha256.New(), make([]byte, end)
	if _, err := io.CopyN(sum, f, state); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(f, want); err != nil {
		return 0, err
	}
	if string(want) != string(sum.Sum(nil))+sealed {
		return 0, errors.New("it is not as it was saved")
	}
	return info.Size(), nil
}

// Restore makes a slot hold what Save wrote, of the same model. A file that does not
// fit is an ErrNoRestore; the slot is empty then, or as it was. It waits until the
// slot is free.
func (m *Model) Restore(ctx context.Context, id int, path string) (st State, err error) {
	err = m.withSlot(ctx, id, func(s *slot) error {
		size, err := whole(path)
		if err != nil {
			return errors.Join(ErrNoRestore, err)
		}
		m.l.forget()
		m.cut(s, 0)
		tokens, n := make([]yzma.Token, m.size), uint64(0)
		if yzma.StateSeqLoadFile(m.context, path, s.id, tokens, uint64(len(tokens)), &n) == 0 || n > uint64(len(tokens)) {
			m.cut(s, 0)
			return errors.Join(ErrNoRestore, m.l.fail("cannot take it"))
		}
		s.tokens = tokens[:n]
		st = State{Tokens: int(n), Bytes: size}
		return nil
	})
	return st, err
}

// Erase makes a slot hold nothing, and returns how many tokens it held. It waits
// until the slot is free.
func (m *Model) Erase(ctx context.Context, id int) (tokens int, err error) {
	err = m.withSlot(ctx, id, func(s *slot) error {
		tokens = len(s.tokens)
		m.cut(s, 0)
		return nil
	})
	return tokens, err
}

// withSlot waits for a slot, and does something with it while nothing is computed.
func (m *Model) withSlot(ctx context.Context, id int, do func(s *slot) error) error {
	if id < 0 {
		return fmt.Errorf("%w: %d", ErrNoSlot, id)
	}
	s, err := m.queue.take(ctx, id, nil)
	if err != nil {
		return err
	}
	defer m.queue.give(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	return do(s)
}
