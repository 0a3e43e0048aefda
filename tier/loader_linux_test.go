package tier_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// ioClass is the class of ioprio_get(2) of this thread.
func ioClass(t *testing.T) uintptr {
	class, _, errno := syscall.Syscall(syscall.SYS_IOPRIO_GET, 1, 0, 0)
	if errno != 0 {
		t.Skip("the kernel tells no I/O priority: ", errno)
	}
	return class >> 13
}

// A load in the background reads at idle priority until a request waits for it.
func TestMoverFrom_LoadInTheBackground_ReadsAtIdlePriority(t *testing.T) {
	const idle = 3
	var began, urged uintptr
	ctx, urge := tier.Background(t.Context())
	m := tier.MoverFrom(tier.Loader[int]{
		Load: func(_ context.Context, _ tier.Model, progress func(tier.Bytes)) (int, error) {
			began = ioClass(t)
			urge()
			progress(1)
			urged = ioClass(t)
			return 1, nil
		},
		Unload: func(context.Context, tier.Model, int) error { return nil },
	})
	if err := m.Move(ctx, tier.Move{Model: tiny, To: tier.RAM}, nil); err != nil {
		t.Fatal(err)
	}
	if began != idle || urged == idle || ioClass(t) == idle {
		t.Errorf("in the background its class is %d, then %d, afterwards %d", began, urged, ioClass(t))
	}
}
