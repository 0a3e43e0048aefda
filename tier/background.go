package tier

import (
	"context"
	"sync/atomic"
)

// backgroundKey is the key of a context's *background.
type backgroundKey struct{}

type background struct{ urged atomic.Bool }

// Background marks the moves under ctx as background work, for which nobody
// waits: a mover gives way to others with them and reads at idle priority. urge
// ends that, when somebody waits for the move after all; it may be called at any
// time and more than once.
func Background(ctx context.Context) (_ context.Context, urge func()) {
	b := new(background)
	return context.WithValue(ctx, backgroundKey{}, b), func() { b.urged.Store(true) }
}

// InBackground returns a function that tells whether work under ctx is in the
// background at the moment. It is safe for concurrent use.
func InBackground(ctx context.Context) func() bool {
	b, ok := ctx.Value(backgroundKey{}).(*background)
	if !ok {
		return func() bool { return false }
	}
	return func() bool { return !b.urged.Load() }
}
