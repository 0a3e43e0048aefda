package modeltier_test

import (
	"context"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// stickyMover is a fake that reports what is present, and whose freed bytes stay
// present for a while after the move that freed them.
type stickyMover struct {
	*tiertest.Mover
	// Linger returns for how long the bytes that a move frees stay present; nil: not at
	// all.
	Linger func(mv tier.Move) time.Duration
	// Lie, if not nil, turns what is present into what Resident reports.
	Lie func(model string, present tier.Bytes) (tier.Bytes, error)

	mu    sync.Mutex // guards the rest
	there map[string]presence
}

// presence is the bytes that a model's tier explains, and others until an instant.
type presence struct {
	explained, left tier.Bytes
	until           time.Time
}

func (s *stickyMover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	before := s.Present(mv.Model.Name)
	if err := s.Mover.Move(ctx, mv, progress); err != nil {
		return err
	}
	var now presence
	switch mv.To {
	case tier.RAM:
		now.explained = mv.Model.Size
	case tier.Swap:
		now.explained = mv.Keep
	}
	if before > now.explained && s.Linger != nil {
		now.left, now.until = before-now.explained, time.Now().Add(s.Linger(mv))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.there == nil {
		s.there = make(map[string]presence)
	}
	s.there[mv.Model.Name] = now
	return nil
}

// Present returns the bytes of the model that are really present.
func (s *stickyMover) Present(model string) tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.there[model]
	if time.Now().Before(p.until) {
		return p.explained + p.left
	}
	return p.explained
}

// Resident implements tier.Resident.
func (s *stickyMover) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	present = s.Present(model)
	if s.Lie != nil {
		present, err = s.Lie(model, present)
	}
	return present, 0, err
}
