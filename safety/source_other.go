//go:build !linux && !darwin && !windows

package safety

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/modeltier/modeltier/tier"
)

func askSystem(context.Context) (tier.Memory, error) {
	return tier.Memory{}, fmt.Errorf("safety: no memory probe for %s, pass one of your own: %w", runtime.GOOS, errors.ErrUnsupported)
}
