package llama

import (
	"context"

	"github.com/modeltier/modeltier/tier"
)

var _ tier.Resident = (*Mover)(nil)

// Resident implements tier.Resident: of weights that are mapped it is what is present of
// their files. Copies are there as a whole.
func (m *Mover) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if live, ok := m.Instance(model).(*Model); ok && live.copies() {
		return live.weights, 0, nil
	}
	return m.files.Resident(ctx, model)
}

// present returns how much is present of the files of a model that is loaded.
func (m *Mover) present(model string, live *Model) tier.Bytes {
	n, _, err := m.files.Resident(context.Background(), model)
	if err != nil {
		return live.takes.Mapped
	}
	return n
}
