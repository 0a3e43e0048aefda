package modeltier

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// call runs fn, somebody else's code, on a goroutine of its own and waits for
// it, so that neither a panic nor runtime.Goexit in it ends more than itself.
// Either comes back as a *tier.PanicError about the part.
func (m *Manager) call(part string, fn func() error) error {
	done := make(chan error, 1)
	m.goroutines.Go(func() { guarded(part, fn, func(err error) { done <- err }) })
	return <-done
}

// callFor is call for at most limit: a part that takes longer goes on alone and
// is reported as stuck; late is called when it returns at last.
func (m *Manager) callFor(part string, limit time.Duration, fn func(context.Context) error, late func()) error {
	return m.callIn(m.ctx, part, limit, fn, late)
}

// callIn is callFor for what is not to end with the Manager, but with parent.
func (m *Manager) callIn(parent context.Context, part string, limit time.Duration, fn func(context.Context) error, late func()) error {
	ctx, cancel := context.WithTimeout(parent, limit)
	done := make(chan error, 1)
	m.goroutines.Go(func() {
		guarded(part, func() error { return fn(ctx) }, func(err error) { done <- err })
	})
	select {
	case err := <-done:
		cancel()
		return err
	case <-ctx.Done():
	}
	// A part that keeps its contract returns now; give it a moment.
	grace := time.NewTimer(limit)
	defer grace.Stop()
	select {
	case err := <-done:
		cancel()
		return err
	case <-grace.C:
	}
	m.goroutines.Go(func() {
		defer cancel()
		<-done
		late()
	})
	return &tier.StuckError{What: "A call of the " + part, After: 2 * limit}
}

// guarded runs fn and hands its error to end, exactly once, even where fn does
// not return.
func guarded(part string, fn func() error, end func(error)) {
	returned := false
	var err error
	defer func() {
		if !returned {
			err = &tier.PanicError{Part: part, Value: recover(), Stack: debug.Stack()}
		}
		end(err)
	}()
	err = fn()
	returned = true
}
