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

// where is the place of a model's bytes.
type where struct {
	tier tier.Tier
	kept tier.Bytes
}

// cost is what a request pays for a model in that place.
func (w where) cost(size tier.Bytes) (wait time.Duration, warm tier.Bytes) {
	seconds := 0.0
	switch w.tier {
	case tier.RAM:
		seconds, warm = secondsRAM*gb(size), size
	case tier.Swap:
		seconds, warm = secondsRAM*gb(w.kept)+secondsSwap*gb(size-w.kept), w.kept
	default:
		seconds = secondsStorage * gb(size)
	}
	return time.Duration(seconds * float64(time.Second)), warm
}

func gb(b tier.Bytes) float64 { return float64(b) / 1e9 }

// mover keeps the account of bytes that a real one would move. With a clock that
// runs it takes their time; with one that stands still it does so only for what
// nobody waits for.
type mover struct {
	real bool

	mu    sync.Mutex // guards the rest
	at    map[string]where
	moved tier.Bytes // read from a colder place
}

// Move implements tier.Mover.
func (m *mover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	m.mu.Lock()
	from := m.at[mv.Model.Name]
	m.mu.Unlock()
	bytes, took := transfer(mv, from)
	if took > 0 && (m.real || tier.InBackground(ctx)()) {
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
	to := where{tier: mv.To}
	if mv.To == tier.Swap {
		to.kept = mv.Keep
	}
	m.at[mv.Model.Name] = to
	m.moved += bytes
	return nil
}

// transfer returns the bytes that a move reads, and how long that takes. What a
// request pays to use a model where it then is comes on top, so that both
// together are what the place that it was found in costs.
func transfer(mv tier.Move, from where) (bytes tier.Bytes, took time.Duration) {
	size := mv.Model.Size
	seconds := 0.0
	switch {
	case mv.To == tier.RAM && mv.From == tier.Storage:
		bytes = size
		seconds = (secondsStorage - secondsRAM) * gb(size)
	case mv.To == tier.RAM:
		bytes = size - from.kept
		seconds = (secondsSwap - secondsRAM) * gb(bytes)
	case mv.To == tier.Swap && mv.From == tier.Storage:
		bytes = size
		seconds = (secondsStorage-secondsSwap)*gb(size-mv.Keep) + (secondsStorage-secondsRAM)*gb(mv.Keep)
	case mv.To == tier.Swap && mv.From == tier.Swap && mv.Keep > from.kept:
		bytes = mv.Keep - from.kept
		seconds = (secondsSwap - secondsRAM) * gb(bytes)
	}
	return bytes, time.Duration(seconds * float64(time.Second))
}

// Divisible implements tier.Divider.
func (m *mover) Divisible(*tier.Model) bool { return true }

// FileBacked implements tier.FileBacker.
func (m *mover) FileBacked() bool { return true }

func (m *mover) where(name string) where {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at[name]
}
