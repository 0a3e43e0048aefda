// Package outbox delivers log records and events to code that is not ours. A
// [Box] is a bounded queue with one goroutine behind it: who posts never waits, what
// is delivered arrives in order, and a receiver that blocks, panics or ends its
// goroutine costs deliveries and nothing else.
package outbox

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Size is the usual bound of a Box.
const Size = 4096

// Box is a queue of deliveries. Its methods may be called from any goroutine. The
// goroutine that delivers runs only while there is something to deliver.
type Box struct {
	size   int
	failed func(value any, stack []byte)

	mu      sync.Mutex // guards the rest; no delivery runs under it
	queue   []func()
	running bool
	closed  bool
	dropped int64
	idle    chan struct{} // closed when the queue is empty; nil while Close does not wait
}

// New returns a Box that holds at most size deliveries. failed, if not nil, is told
// of a delivery that panicked, or that ended its goroutine (value is nil then).
func New(size int, failed func(value any, stack []byte)) *Box {
	return &Box{size: size, failed: failed}
}

// Post queues a delivery. One that does not fit, or comes after Close, is dropped
// and counted.
func (b *Box) Post(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.queue) >= b.size {
		b.dropped++
		return
	}
	b.queue = append(b.queue, fn)
	if !b.running {
		b.running = true
		go b.run()
	}
}

// Dropped returns how many deliveries were dropped.
func (b *Box) Dropped() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}

// Close takes no more deliveries and waits until those that are queued are
// delivered, for at most that long; what is then left is dropped. A delivery that
// blocks keeps its goroutine until it returns.
func (b *Box) Close(wait time.Duration) {
	b.mu.Lock()
	b.closed = true
	if !b.running {
		b.mu.Unlock()
		return
	}
	if b.idle == nil {
		b.idle = make(chan struct{})
	}
	idle := b.idle
	b.mu.Unlock()
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case <-idle:
	case <-limit.C:
		b.mu.Lock()
		b.dropped += int64(len(b.queue))
		b.queue = nil
		b.mu.Unlock()
	}
}

// run delivers until the queue is empty.
func (b *Box) run() {
	returned := false
	defer func() {
		if returned {
			return
		}
		defer func() { // also where the text of what panicked does so
			_ = recover()
			go b.run()
		}()
		value := recover() // nil: runtime.Goexit
		if b.failed != nil {
			b.failed(value, debug.Stack())
		}
	}()
	for {
		b.mu.Lock()
		if len(b.queue) == 0 {
			b.running, b.queue = false, nil
			if b.idle != nil {
				close(b.idle)
				b.idle = nil
			}
			b.mu.Unlock()
			returned = true
			return
		}
		fn := b.queue[0]
		b.queue[0] = nil
		b.queue = b.queue[1:]
		b.mu.Unlock()
		fn()
	}
}

// Logger returns a logger whose records are delivered to h through the Box. What
// is enabled is asked of h when a record is delivered, not when it is logged.
func (b *Box) Logger(h slog.Handler) *slog.Logger {
	return slog.New(&handler{box: b, target: func() slog.Handler { return h }})
}

// handler is a slog.Handler that only posts.
type handler struct {
	box *Box
	// target makes the handler that records go to: WithAttrs and WithGroup of a
	// handler that is not ours are called when a record is delivered.
	target func() slog.Handler
}

func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	ctx = context.WithoutCancel(ctx)
	h.box.Post(func() {
		if t := h.target(); t.Enabled(ctx, r.Level) {
			_ = t.Handle(ctx, r)
		}
	})
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{box: h.box, target: func() slog.Handler { return h.target().WithAttrs(attrs) }}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{box: h.box, target: func() slog.Handler { return h.target().WithGroup(name) }}
}
