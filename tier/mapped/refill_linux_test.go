package mapped

import (
	"context"
	"errors"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func TestRefill_FillsTheCache_AndHoldsNothing(t *testing.T) {
	mod := sharded(t, "m", 3<<20+odd, 1<<20)
	m := newTestMover(t, newSystem(), Options{})
	var last tier.Bytes
	must(t, m.Refill(t.Context(), mod.Path, func(done tier.Bytes) { last = done }))
	if last != mod.Size {
		t.Errorf("progress ended at %d of %d", last, mod.Size)
	}
	if n := len(m.Status().Models); n != 0 {
		t.Errorf("%d models are mapped", n)
	}
	paths, err := find("m", mod.Path)
	must(t, err)
	for _, path := range paths {
		for page, here := range cachedPages(t, path) {
			if here == 0 {
				t.Fatalf("page %d of %s is not cached", page, path)
			}
		}
	}
	cause := errors.New("called off")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := m.Refill(ctx, mod.Path, nil); !errors.Is(err, cause) {
		t.Errorf("Refill under a cancelled context = %v", err)
	}
	if err := m.Refill(t.Context(), mod.Path+"/nothing", nil); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("Refill of nothing = %v", err)
	}
}
