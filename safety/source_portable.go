//go:build !linux

package safety

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// source asks the system, which has no files to read.
type source struct{ options ProbeOptions }

func newSource(o ProbeOptions) *source { return &source{o} }

func (s *source) describe(*ProbeStatus) {}

func (s *source) read(ctx context.Context, _ time.Time) (tier.Memory, error) {
	if s.options.Proc != "" || s.options.Sys != "" || s.options.Mounts != "" {
		return tier.Memory{}, fmt.Errorf("safety: this system has no proc file system to read: %w", errors.ErrUnsupported)
	}
	return askSystem(ctx)
}
