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
// longer for a part than the call's limit allows, the calls before it included.
// While a call has outlived its limit the part is stuck: further calls are answered
// at once.
type plugin struct {
	m     *Manager
	name  string
	key   string // in Status.Parts
	part  any
	asked atomic.Bool // it is being asked for its status

	mu      sync.Mutex // guards the rest; no call of the part runs under it
	queue   []*pluginCall
	current *pluginCall
	began   time.Time // current
	running bool
	stuck   bool // current has run for longer than its limit
	closed  bool
}

type pluginCall struct {
	parent   context.Context
	limit    time.Duration
	fn       func(context.Context) error
	done     func(error)
	late     *time.Timer
	answered bool // guarded by the plugin's lock
}

// ask has fn run. done is called exactly once and may be called on any goroutine,
// this one included: with fn's error, sealed; a *tier.PanicError where it panicked or
// ended its goroutine; a *tier.StuckError where it has not returned within twice
// limit, which counts from now; or a *tier.BusyError where too many calls wait.
func (p *plugin) ask(limit time.Duration, fn func(context.Context) error, done func(error)) {
	p.post(&pluginCall{parent: p.m.ctx, limit: limit, fn: fn, done: done}, maxPluginQueue)
}

// mustAsk is ask for the loop's own questions, of which few are out at a time: they
// are queued however many other calls wait.
func (p *plugin) mustAsk(limit time.Duration, fn func(context.Context) error, done func(error)) {
	p.post(&pluginCall{parent: p.m.ctx, limit: limit, fn: fn, done: done}, 2*maxPluginQueue)
}

// wait is ask for a caller that waits, until ctx ends at most; it is not for the
// loop.
func (p *plugin) wait(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	answer := make(chan error, 1)
	p.post(&pluginCall{parent: ctx, limit: limit, fn: fn, done: func(err error) { answer <- err }}, maxPluginQueue)
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *plugin) post(c *pluginCall, room int) {
	p.mu.Lock()
	var refused error
	switch {
	case p.closed:
		refused = tier.ErrClosed
	case p.stuck:
		refused = &tier.StuckError{What: "The " + p.name, After: 2 * p.current.limit}
	case len(p.queue) >= room:
		refused = &tier.BusyError{Queued: len(p.queue), RetryAfter: time.Second, Reason: "Too many calls of the " + p.name + " wait"}
	}
	if refused != nil {
		p.mu.Unlock()
		c.done(refused)
		return
	}
	p.queue = append(p.queue, c)
	c.late = time.AfterFunc(2*c.limit, func() { p.giveUp(c) })
	if !p.running {
		p.running = true
		p.m.goroutines.Go(p.run) // counted before close, which goes before the wait for all
	}
	p.mu.Unlock()
}

// giveUp answers a call that has outlived its limit; if it is the one that runs, and
// has run for so long, those behind it as well: one that spent its time in the queue
// says nothing against the part.
func (p *plugin) giveUp(c *pluginCall) {
	p.mu.Lock()
	var over []*pluginCall
	take := func(c *pluginCall) {
		if !c.answered {
			c.answered = true
			over = append(over, c)
		}
	}
	take(c)
	if c == p.current {
		if left := 2*c.limit - time.Since(p.began); left > 0 {
			c.late.Reset(left)
		} else {
			p.stuck = true
			for _, behind := range p.queue {
				behind.late.Stop()
				take(behind)
			}
		}
	}
	p.mu.Unlock()
	for _, c := range over {
		c.done(&tier.StuckError{What: "A call of the " + p.name, After: 2 * c.limit})
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
		for len(p.queue) > 0 && p.queue[0].answered {
			p.queue = p.queue[1:]
		}
		if len(p.queue) == 0 {
			p.running, p.queue = false, nil
			p.mu.Unlock()
			returned = true
			return
		}
		c := p.queue[0]
		p.queue[0] = nil
		p.queue, p.current, p.began = p.queue[1:], c, time.Now()
		p.mu.Unlock()
		p.call(c)
	}
}

func (p *plugin) call(c *pluginCall) {
	ctx, cancel := context.WithTimeout(c.parent, c.limit)
	defer cancel()
	guarded(p.name, func() error { return c.fn(ctx) }, func(err error) {
		p.mu.Lock()
		c.late.Stop()
		late := c.answered
		c.answered, p.current, p.stuck = true, nil, false
		p.mu.Unlock()
		if !late {
			c.done(err)
		}
	})
}

// close refuses all further calls.
func (p *plugin) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
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
// that takes longer goes on alone and gaveUp is true; late is called when it returns
// at last.
func (m *Manager) callFor(parent context.Context, part string, limit time.Duration, fn func(context.Context) error, late func()) (gaveUp bool, err error) {
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
		return false, err
	case <-timer.C:
	}
	m.goroutines.Go(func() {
		defer cancel()
		<-done
		late()
	})
	return true, &tier.StuckError{What: "A call of the " + part, After: 2 * limit}
}

// guarded runs fn and hands its error, sealed, to end, exactly once, even where fn
// does not return.
func guarded(part string, fn func() error, end func(error)) {
	returned := false
	var err error
	defer func() { end(err) }()
	defer func() {
		if returned {
			return
		}
		value := recover()
		p := &tier.PanicError{Part: part, Stack: debug.Stack()}
		err = p // also where the text of the value ends the goroutine, too
		switch value.(type) {
		case nil, string, runtime.Error:
			p.Value = value
		default: // its own text, made here: it is foreign code
			p.Value = fmt.Sprint(value)
		}
	}()
	err = seal(fn())
	returned = true
}

// sentinels are what a sealed error is asked for on the loop.
var sentinels = []error{
	ErrClosed, ErrNotFound, ErrExists, ErrNoCapableModel, ErrTooLarge, ErrNoCapacity, ErrBusy, ErrInUse,
	ErrLimits, ErrStuck, ErrInvalid, ErrMove, ErrDamaged, ErrPanic, context.Canceled, context.DeadlineExceeded,
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

var _ interface { // not Unwrap: errors.Is would go on to the part's error
	Is(error) bool
	As(any) bool
} = (*sealedError)(nil)

// seal returns err with all found out that the loop may ask of it. It calls foreign
// code and is called where that may block; a panic in it is the error then.
func seal(err error) (sealed error) {
	defer func() {
		if v := recover(); v != nil {
			sealed = &tier.PanicError{Part: "error", Value: fmt.Sprint(v), Stack: debug.Stack()}
		}
	}()
	switch err.(type) {
	case nil, *sealedError:
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
