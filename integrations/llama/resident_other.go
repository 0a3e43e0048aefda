//go:build !linux

package llama

import (
	"context"
	"errors"

	"github.com/modeltier/modeltier/tier"
)

// mapped is errors.ErrUnsupported: it is not told here which pages are present.
func (m *Mover) mapped(context.Context, string) (present, reclaimable tier.Bytes, err error) {
	return 0, 0, errors.ErrUnsupported
}
