package llama

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

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

// sealed ends a file of a state, after the fingerprint of the model's file and the sum
// of all before. llama.cpp ends the process if a file is not as it wrote it, and takes
// one of any model of the same shape, so it is given no other.
const sealed = "modeltier slot 2"

// sealSize is what Save adds to what llama.cpp writes.
const sealSize = 2*sha256.Size + len(sealed)

const (
	// printed is how much of a model's file goes into its fingerprint from its beginning:
	// all that describes it, but for the largest vocabularies.
	printed = 8 << 20
	// samples, of sampleSize bytes, are taken of the rest at equal distances.
	samples, sampleSize = 256, 4 << 10
)

// fingerprint tells the files of one model from those of another, by their size, their
// beginning and samples of their weights: to read all of them would take as long as to
// load them.
func fingerprint(path string) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, shard := range shards(path) {
		if err := sample(h, shard); err != nil {
			return sum, err
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// sample adds one file to a fingerprint.
func sample(h hash.Hash, path string) error {
	f, info, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size := info.Size()
	fmt.Fprintln(h, size)
	add := func(at, n int64) error {
		_, err := io.Copy(h, io.NewSectionReader(f, at, n))
		return err
	}
	err = add(0, printed)
	for i := range int64(samples) {
		at := printed + (size-printed-sampleSize)/(samples-1)*i
		if err == nil && at >= printed {
			err = add(at, sampleSize)
		}
	}
	return err
}

// ofMany is the name of the first shard of a model, as llama.cpp finds the others by it.
var ofMany = regexp.MustCompile(`^(.*)-00001-of-(\d{5})\.gguf$`)

// shards returns the files of the model that is opened by path.
func shards(path string) []string {
	match := ofMany.FindStringSubmatch(path)
	if match == nil {
		return []string{path}
	}
	n, _ := strconv.Atoi(match[2]) // five digits
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%s-%05d-of-%s.gguf", match[1], i+1, match[2]))
	}
	return all
}

// Save writes what a slot holds into a file, which is there as a whole or as it was
// before. It waits until the slot is free. room, unless it is nil, then returns how many
// bytes the file may have, and is called for one save at a time; what would be larger is
// an ErrNoRoom.
func (m *Model) Save(ctx context.Context, id int, path string, room func() (int64, error)) (st State, err error) {
	err = m.withSlot(ctx, id, func(s *slot) error {
		st, err = m.write(s, path, room)
		return err
	})
	return st, err
}

// saveEnding is Save of a model that is ending. Nothing is computed in it any more, so
// that it does not wait for a slot: who has it may never give it back.
func (m *Model) saveEnding(id int, path string, room func() (int64, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != ending {
		return ErrClosed
	}
	_, err := m.write(m.queue.slots[id], path, room)
	return err
}

// write is Save of a slot that does not change meanwhile.
func (m *Model) write(s *slot, path string, room func() (int64, error)) (st State, err error) {
	if room != nil {
		left, err := room()
		if err != nil {
			return st, err
		}
		// The file has the tokens and a few numbers beside the state.
		const about = 1 << 10
		if need := yzma.StateSeqGetSize(m.context, s.id) + uint64(4*len(s.tokens)+sealSize+about); need > uint64(max(left, 0)) {
			return st, fmt.Errorf("%w: it takes %d bytes, and %d are left", ErrNoRoom, need, max(left, 0))
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return st, err
	}
	defer os.Remove(f.Name()) // unless it has its name by then
	defer f.Close()
	if yzma.StateSeqSaveFile(m.context, f.Name(), s.id, s.tokens) == 0 {
		return st, m.l.fail("cannot save a slot")
	}
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return st, err
	}
	sum.Write(m.print[:])
	if _, err := f.Write(append(sum.Sum(m.print[:]), sealed...)); err != nil {
		return st, err
	}
	if err := f.Close(); err != nil {
		return st, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return st, err
	}
	return State{Tokens: len(s.tokens), Bytes: n + int64(sealSize)}, nil
}

// whole returns the size of a file that Save wrote for the model of a fingerprint, and
// an error if it is not as it was then, or is of another model.
func whole(path string, print [sha256.Size]byte) (size int64, err error) {
	f, info, err := regular.Open(path) // a pipe would be waited for, with the model's lock
	if err != nil {
		return 0, err
	}
	defer f.Close()
	state := info.Size() - int64(sealSize)
	if state < 0 {
		return 0, errors.New("it is none that was saved")
	}
	sum, end := sha256.New(), make([]byte, sealSize)
	if _, err := io.CopyN(sum, f, state); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(f, end); err != nil {
		return 0, err
	}
	of, rest := end[:sha256.Size], end[sha256.Size:]
	sum.Write(of)
	switch {
	case string(rest) != string(sum.Sum(nil))+sealed:
		return 0, errors.New("it is not as it was saved")
	case [sha256.Size]byte(of) != print:
		return 0, errors.New("it was saved of another model")
	}
	return info.Size(), nil
}

// Restore makes a slot hold what Save wrote, of the same model. A file that does not
// fit is an ErrNoRestore; the slot is empty then, or as it was. It waits until the
// slot is free.
func (m *Model) Restore(ctx context.Context, id int, path string) (st State, err error) {
	err = m.withSlot(ctx, id, func(s *slot) error {
		size, err := whole(path, m.print)
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
	if m.phase != open {
		return ErrClosed
	}
	return do(s)
}
