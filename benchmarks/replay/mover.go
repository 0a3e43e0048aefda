package main

import (
	"context"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Seconds that a GB costs the request that finds it there: the recorded figures
// for ram and swap, and a single NVMe stream for storage.
const (
	secondsRAM     = 0.1
	secondsSwap    = 0.5
	secondsStorage = 1.5
)

// where is the place of a model's bytes: what is in ram, and in swap. The rest is
// in storage.
type where struct{ ram, swap tier.Bytes }

// at returns the place of a model that a move has brought.
func at(mv *tier.Move) where {
	switch mv.To {
	case tier.RAM:
		return where{ram: mv.Model.Size}
	case tier.Swap:
		return where{ram: mv.Keep, swap: mv.Model.Size - mv.Keep - mv.Leave}
	}
	return where{}
}

// cost is what a request pays for a model in that place.
func (w where) cost(size tier.Bytes) (wait time.Duration, warm tier.Bytes) {
	return seconds(secondsRAM*gb(w.ram) + secondsSwap*gb(w.swap) + secondsStorage*gb(size-w.ram-w.swap)), w.ram
}

func gb(b tier.Bytes) float64 { return float64(b) / 1e9 }

// mover keeps the account of bytes that a real one would move. With a clock that
// runs it takes their time; with one that stands still, only idle moves of models
// that were not announced do.
type mover struct {
	real bool

	mu        sync.Mutex // guards the rest
	at        map[string]where
	announced string     // the model that is asked for next, if that was said
	moved     tier.Bytes // read from a colder place
}

// Move implements tier.Mover.
func (m *mover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	m.mu.Lock()
	from, announced := m.at[mv.Model.Name], m.announced == mv.Model.Name
	m.mu.Unlock()
	to := at(&mv)
	bytes, took := transfer(from, to)
	if took > 0 && (m.real || !announced && tier.InBackground(ctx)()) {
		t := time.NewTimer(took)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[mv.Model.Name] = to
	m.moved += bytes
	return nil
}

// transfer returns the bytes that a move reads, and how long that takes. Together
// with what the request pays to use the model in its new place, that is what the
// place it was found in costs.
func transfer(from, to where) (bytes tier.Bytes, took time.Duration) {
	out := max(to.ram+to.swap-from.ram-from.swap, 0) // of storage
	up := max(to.ram-from.ram, 0)                    // into ram
	through := max(up-from.swap, 0)                  // both at once
	return out + up - through, seconds((secondsStorage-secondsSwap)*gb(out) + (secondsSwap-secondsRAM)*gb(up))
}

// Divisible implements tier.Divider.
func (m *mover) Divisible(*tier.Model) bool { return true }

// Leaves implements tier.Leaver.
func (m *mover) Leaves(*tier.Model) bool { return true }

// InPlace implements tier.InPlacer: a request pays for the bytes where they are.
func (m *mover) InPlace(*tier.Model) bool { return true }

// FileBacked implements tier.FileBacker.
func (m *mover) FileBacked() bool { return true }

// announce tells which model is asked for next; empty: that was not said.
func (m *mover) announce(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.announced = name
}

func (m *mover) where(name string) where {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at[name]
}

// read returns the bytes that were read from a colder place until now.
func (m *mover) read() tier.Bytes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}
