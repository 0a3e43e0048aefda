package mapped

import (
	"context"

	"github.com/modeltier/modeltier/tier"
)

var _ tier.Resident = (*Mover)(nil)

// Resident implements tier.Resident, on Linux: it asks the kernel. In ram it counts
// the whole model, in swap the kept part, and in storage nothing: the rest of what is
// in memory is cached bytes. Of files of tmpfs and the like, which are memory in any
// tier, all is present and nothing is reclaimable.
//
// If the process neither owns nor may write the files, the kernel does not tell
// what is cached. Present is then what our own page tables hold, a lower bound. If
// not even that is known, the error is a *tier.InvalidError.
func (m *Mover) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	w, held, done, err := m.look(model, true)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	var total, fixed int64
	for _, s := range w.shards {
		end := s.prefix(held)
		if s.fs.inMemory {
			end = s.pages()
		}
		n, err := s.cached(ctx, 0, end)
		if err != nil {
			return 0, 0, err
		}
		total += n
		if s.fs.inMemory {
			fixed += n
		}
	}
	return tier.Bytes(total), tier.Bytes(max(total-max(fixed, w.locked.Load()), 0)), nil
}
