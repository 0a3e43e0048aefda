package tier

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// pace has the loads of one Mover that are in the background give way to the others.
type pace struct {
	mu    sync.Mutex // guards loads
	loads map[*loading]struct{}
}

// loading is one move under way: it passes its progress on, in order.
type loading struct {
	pace       *pace
	ctx        context.Context
	background func() bool
	size       Bytes

	mu      sync.Mutex // guards the rest; fn is called under it, so that what it hears never falls
	fn      func(done Bytes)
	done    Bytes
	over    bool
	restore func() bool // ends idle I/O priority; nil: there is none
	normal  bool        // restore has
}

// begin returns the loading of the calling goroutine, which ends it.
func (p *pace) begin(ctx context.Context, size Bytes, fn func(done Bytes)) *loading {
	l := &loading{pace: p, ctx: ctx, background: InBackground(ctx), size: size, fn: fn}
	if l.background() {
		l.restore = idleIO()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loads == nil {
		p.loads = make(map[*loading]struct{})
	}
	p.loads[l] = struct{}{}
	return l
}

func (l *loading) end() {
	l.pace.mu.Lock()
	delete(l.pace.loads, l)
	l.pace.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.restore != nil && (l.normal || l.restore()) {
		runtime.UnlockOSThread() // else the thread ends with its goroutine
	}
}

// urgent reports whether a load is under way that is not in the background.
func (p *pace) urgent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.loads {
		if !l.background() {
			return true
		}
	}
	return false
}

// yieldInterval is how often a load that gives way looks whether it has to any longer.
const yieldInterval = 10 * time.Millisecond

// progress is what a Load calls.
func (l *loading) progress(done Bytes) {
	l.reached(done)
	if !l.background() {
		return
	}
	for l.pace.urgent() && l.background() && l.ctx.Err() == nil {
		time.Sleep(yieldInterval)
		l.reached(done) // it is not stalled
	}
}

// arrived passes on that all is done, unless that is known.
func (l *loading) arrived() {
	l.mu.Lock()
	known := l.done == l.size
	l.mu.Unlock()
	if !known {
		l.reached(l.size)
	}
}

// reached passes on that so much is done. Nothing is passed on after the move's end.
func (l *loading) reached(done Bytes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.restore != nil && !l.normal && !l.background() {
		l.normal = l.restore()
	}
	l.done = max(l.done, min(done, l.size))
	if l.fn != nil && !l.over {
		l.fn(l.done)
	}
}
