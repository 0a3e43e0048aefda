package mapped

import (
	"context"

	"github.com/modeltier/modeltier/tier"
)

// Refill reads the files at path into the page cache, in the way and in the turn
// of a load, and keeps no hold on them. An engine in another process that maps
// them then finds its pages. Files that are bad give a *tier.InvalidError, and
// pages that do not stay a *tier.CapacityError. A refill that is called off
// leaves in the cache what it has read.
func (m *Mover) Refill(ctx context.Context, path string, progress func(done tier.Bytes)) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return tier.ErrClosed
	}
	ctx, r := m.start(ctx)
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.finish(r)
	}()

	w, err := open(m.sys, &tier.Model{Path: path})
	if err != nil {
		return err
	}
	defer w.close()
	sets, err := w.snapshot(ctx, true)
	if err != nil {
		return err
	}
	return m.fill(ctx, w, tier.Swap, w.size, sets, &report{fn: progress, most: w.size})
}
