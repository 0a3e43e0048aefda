package core

import (
	"cmp"
	"slices"
	"time"
)

// schedule hands queued moves out: those that read weights as there are turns,
// moves that somebody waits for first; the others at once.
func (c *Core) schedule(now time.Time) {
	if len(c.queue) == 0 {
		return
	}
	slices.SortStableFunc(c.queue, func(a, b *Move) int { return cmp.Compare(rank(a), rank(b)) })
	turns := c.opt.Loads
	for _, m := range c.running {
		if m.loads() && !m.stuck {
			turns--
		}
	}
	c.queue = slices.DeleteFunc(c.queue, func(m *Move) bool {
		if m.loads() {
			if turns <= 0 {
				return false
			}
			turns--
		}
		m.started, m.startedAt = true, now
		c.running = append(c.running, m)
		c.emit(Start{m})
		return true
	})
}

func rank(m *Move) int {
	if m.Demand {
		return 0
	}
	return 1
}
