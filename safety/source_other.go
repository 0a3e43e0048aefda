//go:build !linux && !darwin && !windows

package safety

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// source is nothing here: we do not know how this system tells its memory.
type source struct{}

func newSource(ProbeOptions) *source { return &source{} }

func (s *source) read(context.Context, time.Time) (tier.Memory, error) {
	return tier.Memory{}, fmt.Errorf("safety: no memory probe for %s, pass one of your own: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (s *source) close() {}

func (s *source) describe(*ProbeStatus) {}
