package modeltier

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// How long a part may take for an answer. It is told to stop at the limit and
// counts as stuck at twice the limit; those who need the answer go on without it.
const (
	probeLimit   = time.Second
	planLimit    = 10 * time.Second // Plan, and what a learner is told
	worthLimit   = time.Second      // what reclaim needs at once
	adviceLimit  = time.Second      // predictions, traits of a model, a selector's view of a hot load
	observeLimit = 5 * time.Second  // for one look at what is resident
)

// maxPluginQueue bounds the calls of one part that wait for their turn.
const maxPluginQueue = 256

// plugin runs the Manager's calls of one part, one after the other, on a goroutine
// that lives while there is something to call. Neither the loop nor a caller waits
// longer for a part than the call's limit allows: while a call has outlived it,
// the part is stuck, and further calls are answered at once.
type plugin struct {
	m    *Manager
	name string

	mu      sync.Mutex // guards the rest; nothing is called under it
	queue   []pluginCall
	running bool
	stuck   bool
}

type pluginCall struct {
	parent context.Context
	limit  time.Duration
	fn     func(context.Context) error
	done   func(error)
}

// ask has fn run. done is called exactly once, on a goroutine of the Manager: with
// fn's error, sealed; a *tier.PanicError where it panicked or ended its goroutine;
// or a *tier.StuckError where it, or a call before it, does not return in time.
func (p *plugin) ask(limit time.Duration, fn func(context.Context) error, done func(error)) {
	p.post(pluginCall{p.m.ctx, limit, fn, done})
}

// wait is ask for a caller that waits; it is not for the loop.
func (p *plugin) wait(parent context.Context, limit time.Duration, fn func(context.Context) error) error {
	answer := make(chan error, 1)
	p.post(pluginCall{parent, limit, fn, func(err error) { answer <- err }})
	return <-answer
}

func (p *plugin) post(c pluginCall) {
	p.mu.Lock()
	if p.stuck || len(p.queue) >= maxPluginQueue {
		p.mu.Unlock()
		p.m.goroutines.Go(func() { c.done(&tier.StuckError{What: "The " + p.name, After: 2 * c.limit}) })
		return
	}
	p.queue = append(p.queue, c)
	start := !p.running
	p.running = true
	p.mu.Unlock()
	if start {
		p.m.goroutines.Go(p.run)
	}
}

// run calls what is queued, until there is nothing left.
func (p *plugin) run() {
	returned := false
	defer func() {
		if !returned { // a call ended the goroutine
			p.m.goroutines.Go(p.run)
		}
	}()
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.running, p.stuck, p.queue = false, false, nil
			p.mu.Unlock()
			returned = true
			return
		}
		c := p.queue[0]
		p.queue[0] = pluginCall{}
		p.queue = p.queue[1:]
		p.mu.Unlock()
		p.call(c)
	}
}

func (p *plugin) call(c pluginCall) {
	ctx, cancel := context.WithTimeout(c.parent, c.limit)
	defer cancel()
	var answered atomic.Bool
	late := time.AfterFunc(2*c.limit, func() {
		if !answered.CompareAndSwap(false, true) {
			return
		}
		p.mu.Lock()
		p.stuck = true
		behind := p.queue
		p.queue = nil
		p.mu.Unlock()
		err := &tier.StuckError{What: "A call of the " + p.name, After: 2 * c.limit}
		c.done(err)
		for _, b := range behind {
			b.done(err)
		}
	})
	guarded(p.name, func() error { return c.fn(ctx) }, func(err error) {
		late.Stop()
		if answered.CompareAndSwap(false, true) {
			c.done(err)
			return
		}
		p.mu.Lock()
		p.stuck = false
		p.mu.Unlock()
	})
}

// isStuck reports whether a call of the part has outlived its limit.
func (p *plugin) isStuck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuck
}

// call runs fn, foreign code, on a goroutine of its own and waits for it, so that
// neither a panic nor runtime.Goexit in it ends more than itself. Either comes
// back as a *tier.PanicError about the part.
func (m *Manager) call(part string, fn func() error) error {
	done := make(chan error, 1)
	m.goroutines.Go(func() { guarded(part, fn, func(err error) { done <- err }) })
	return <-done
}

// callFor is call for at most twice limit, at the first of which ctx ends: a part
// that takes longer goes on alone and is reported as stuck; late is called when it
// returns at last.
func (m *Manager) callFor(parent context.Context, part string, limit time.Duration, fn func(context.Context) error, late func()) error {
	ctx, cancel := context.WithTimeout(parent, limit)
	done := make(chan error, 1)
	m.goroutines.Go(func() {
		guarded(part, func() error { return fn(ctx) }, func(err error) { done <- err })
	})
	timer := time.NewTimer(2 * limit)
	defer timer.Stop()
	select {
	case err := <-done:
		cancel()
		return err
	case <-timer.C:
	}
	m.goroutines.Go(func() {
		defer cancel()
		<-done
		late()
	})
	return &tier.StuckError{What: "A call of the " + part, After: 2 * limit}
}

// guarded runs fn and hands its error, sealed, to end, exactly once, even where fn
// does not return.
func guarded(part string, fn func() error, end func(error)) {
	returned := false
	var err error
	defer func() {
		if !returned {
			value := recover()
			switch value.(type) {
			case nil, string, runtime.Error:
			default: // its own text, made here: it is foreign code, too
				value = fmt.Sprint(value)
			}
			err = &tier.PanicError{Part: part, Value: value, Stack: debug.Stack()}
		}
		end(err)
	}()
	err = seal(fn())
	returned = true
}

// sentinels are what a sealed error is asked for on the loop.
var sentinels = []error{
	ErrClosed, ErrNotFound, ErrExists, ErrNoCapableModel, ErrTooLarge, ErrNoCapacity, ErrBusy, ErrInUse,
	ErrLimits, ErrStuck, ErrInvalid, ErrMove, ErrPanic, context.Canceled, context.DeadlineExceeded,
}

// sealedError is an error of foreign code whose text, sentinels and typed errors of
// package tier are known: to ask for them calls no foreign code. It is the part's
// error in every other respect.
type sealedError struct {
	text     string
	err      error
	is       []error
	move     *tier.MoveError
	capacity *tier.CapacityError
}

// seal returns err with all found out that the loop may ask of it. It calls foreign
// code and is called where that may block; a panic in it is the error then.
func seal(err error) (sealed error) {
	defer func() {
		if v := recover(); v != nil {
			sealed = &tier.PanicError{Part: "error", Value: fmt.Sprint(v), Stack: debug.Stack()}
		}
	}()
	switch err.(type) {
	case nil, *sealedError, *tier.StuckError, *tier.PanicError:
		return err
	}
	s := &sealedError{text: err.Error(), err: err}
	for _, is := range sentinels {
		if errors.Is(err, is) {
			s.is = append(s.is, is)
		}
	}
	s.move, _ = errors.AsType[*tier.MoveError](err)
	if c, ok := errors.AsType[*tier.CapacityError](err); ok {
		own := *c
		s.capacity = &own
	}
	return s
}

func (e *sealedError) Error() string { return e.text }

func (e *sealedError) Is(target error) bool {
	if slices.Contains(sentinels, target) {
		return slices.Contains(e.is, target)
	}
	return errors.Is(e.err, target)
}

func (e *sealedError) As(target any) bool {
	switch t := target.(type) {
	case **tier.MoveError:
		*t = e.move
		return e.move != nil
	case **tier.CapacityError:
		*t = e.capacity
		return e.capacity != nil
	}
	return errors.As(e.err, target)
}

// group counts goroutines. Unlike a sync.WaitGroup it may grow from nothing
// while it is waited for, and be waited for beside a limit. The zero group is
// ready for use.
type group struct {
	mu   sync.Mutex // guards the rest
	n    int
	idle chan struct{} // closed when n falls to zero; nil while it is not waited for
}

// Go runs fn on a goroutine of the group.
func (g *group) Go(fn func()) {
	g.mu.Lock()
	g.n++
	g.mu.Unlock()
	go func() {
		defer g.done() // also where fn ends in runtime.Goexit
		fn()
	}()
}

func (g *group) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// Idle returns a channel that is closed once no goroutine of the group runs.
func (g *group) Idle() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n > 0 {
		if g.idle == nil {
			g.idle = make(chan struct{})
		}
		return g.idle
	}
	none := make(chan struct{})
	close(none)
	return none
}
