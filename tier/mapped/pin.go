package mapped

import (
	"context"

	"github.com/modeltier/modeltier/tier"
)

const (
	// pinned is how much is locked at a time, pinnedLeast what is tried last where
	// the limit is near.
	pinned, pinnedLeast = 256 << 20, 64 << 10
)

// pin locks the model's pages, from the first on, as far as the process may and
// Options.Lock allows. It is no error where it may not: then the pages are the
// kernel's to take, and Status says so.
func (m *Mover) pin(ctx context.Context, w *weights) error {
	if w.sys.lock == nil {
		return nil
	}
	for _, s := range w.shards {
		page := s.prefix(w.locked)
		for step := int64(pinned); page < s.pages(); {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			to := min(page+int(max(step/w.sys.page, 1)), s.pages())
			p := span{s, page, to}
			if !m.lockBytes(p) {
				if step /= 2; step < pinnedLeast {
					return nil
				}
				continue
			}
			w.locked += p.len()
			page = to
		}
	}
	return nil
}

// lockBytes locks p, if that is within the bounds.
func (m *Mover) lockBytes(p span) bool {
	m.mu.Lock()
	room := m.locked+p.len() <= int64(m.opts.Lock)
	if room {
		m.locked += p.len()
	}
	m.mu.Unlock()
	if !room {
		return false
	}
	if p.sys.lock(p.mem()) != nil {
		m.unlocked(p.len())
		return false
	}
	return true
}

func (m *Mover) unlocked(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locked -= n
}

// unpin unlocks the model.
func (m *Mover) unpin(w *weights) {
	for _, s := range w.shards {
		if s.start < w.locked {
			_ = w.sys.unlock(s.data) // nothing that can fail: it is mapped
		}
	}
	m.unlocked(w.locked)
	w.locked = 0
}

// lockLimit is how many bytes may be locked at most.
func (m *Mover) lockLimit() tier.Bytes {
	if m.sys.lockLimit == nil {
		return 0
	}
	return min(m.sys.lockLimit(), m.opts.Lock)
}
