package llama

import (
	"context"

	"github.com/modeltier/modeltier/tier"
)

// mapped returns how much of the files of a model is present where they are mapped, and how
// much of that the kernel could take.
func (m *Mover) mapped(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	return m.files.Resident(ctx, model)
}
