package llama

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Saves is a folder in which slots are saved.
type Saves struct {
	Dir string     // "": none are
	Max tier.Bytes // how much the files in it may have together; 0: 1 GiB
}

func (s Saves) check() error {
	if s.Max < 0 {
		return &tier.InvalidError{Field: "Saves.Max", Value: fmt.Sprint(int64(s.Max)), Rule: "must not be negative"}
	}
	if s.Dir == "" {
		return nil
	}
	if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
		return &tier.InvalidError{Field: "Saves.Dir", Value: s.Dir, Rule: "must be a folder"}
	}
	return nil
}

// Room returns how many bytes may be saved under a name, beside the other files of the
// folder.
func (s Saves) Room(name string) (int64, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return 0, err
	}
	room := int64(s.Max)
	if room == 0 {
		room = int64(tier.GiB)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && entry.Name() != name {
			room -= info.Size()
		}
	}
	return room, nil
}

// name is that of the file of a slot of a model, by its name and its weights: two models
// of one file have conversations of their own.
func (s Saves) name(model string, m *Model, slot int) string {
	sum := sha256.Sum256(append(slices.Clone(m.print[:]), model...))
	return fmt.Sprintf("%s-%d.slot", hex.EncodeToString(sum[:16]), slot)
}

// save saves what the slots of a model that is ending hold, as far as there is room and
// until ctx ends: it is about to be freed, with or without that.
func (s Saves) save(ctx context.Context, model string, m *Model) {
	if s.Dir == "" {
		return
	}
	for _, slot := range m.Slots() {
		if slot.Tokens > 0 && ctx.Err() == nil {
			name := s.name(model, m, slot.ID)
			m.saveEnding(slot.ID, filepath.Join(s.Dir, name), func() (int64, error) { return s.Room(name) })
		}
	}
}

// restore has the slots of a model hold what was saved of them, once. What does not fit, or
// is damaged, is removed, too.
func (s Saves) restore(ctx context.Context, model string, m *Model) {
	if s.Dir == "" {
		return
	}
	for _, slot := range m.Slots() {
		path := filepath.Join(s.Dir, s.name(model, m, slot.ID))
		if _, err := m.Restore(ctx, slot.ID, path); err == nil || ctx.Err() == nil {
			os.Remove(path)
		}
	}
}
