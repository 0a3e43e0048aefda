package tiertest

import (
	"context"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Sticky is a [Mover] that tells what is present, and whose bytes do not go when
// they are told to: they stay for a while after the move that took them away. It
// is safe for concurrent use.
type Sticky struct {
	*Mover
	// Linger says for how long the bytes that a move takes away stay present; nil:
	// not at all.
	Linger func(mv tier.Move) time.Duration
	// Lie, if not nil, makes of what is present what Resident says.
	Lie func(model string, present tier.Bytes) (tier.Bytes, error)

	mu   sync.Mutex // guards the rest
	left map[string]leaving
}

// leaving is bytes beyond what the model's tier explains, and until when.
type leaving struct {
	bytes tier.Bytes
	until time.Time
}

// Move implements tier.Mover.
func (s *Sticky) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	before := s.Present(mv.Model.Name)
	if err := s.Mover.Move(ctx, mv, progress); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == nil {
		s.left = make(map[string]leaving)
	}
	delete(s.left, mv.Model.Name)
	if gone := before - s.explained(mv.Model.Name); gone > 0 && s.Linger != nil {
		s.left[mv.Model.Name] = leaving{gone, time.Now().Add(s.Linger(mv))}
	}
	return nil
}

// explained is what of the model is present by its tier.
func (s *Sticky) explained(model string) tier.Bytes {
	s.Mover.mu.Lock()
	defer s.Mover.mu.Unlock()
	switch s.Mover.at[model] {
	case tier.RAM:
		return s.Mover.size[model]
	case tier.Swap:
		return s.Mover.kept[model]
	}
	return 0
}

// Present returns the bytes of the model that are present in truth.
func (s *Sticky) Present(model string) tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.explained(model)
	if l := s.left[model]; time.Now().Before(l.until) {
		b += l.bytes
	}
	return b
}

// Resident implements tier.Resident.
func (s *Sticky) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	present = s.Present(model)
	if s.Lie != nil {
		present, err = s.Lie(model, present)
	}
	return present, 0, err
}
