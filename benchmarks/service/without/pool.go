// Package without is the service of benchmarks/service as a Go programmer writes
// it in an afternoon, without a library: a map under a mutex, counts of
// references, and the least recently used one gives way.
package without

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/modeltier/modeltier/benchmarks/service/engines"
)

var (
	errUnknown  = errors.New("unknown model")
	errTooLarge = errors.New("the model never fits")
	errBusy     = errors.New("too long without room")
	errClosed   = errors.New("closed")
)

// engine is what serves a model. Done is closed when it has ended by itself.
type engine interface {
	stop()
	done() <-chan struct{}
}

type phase int

const (
	absent phase = iota
	loading
	ready
	stopping
)

type slot struct {
	model  engines.Model
	phase  phase
	engine engine
	err    error // of the last load
	tries  int   // loads that have ended
	refs   int
	wanted int // requests that wait for it: it does not give way before they had it
	used   time.Time
	dead   bool // crashed, with references left
}

type pool struct {
	start   func(ctx context.Context, m engines.Model) (engine, error)
	limit   int64
	maxWait time.Duration
	work    sync.WaitGroup
	ctx     context.Context // of loads
	cancel  context.CancelFunc

	mu      sync.Mutex
	slots   map[string]*slot
	charged int64
	peak    int64
	closed  bool
	changed chan struct{} // closed at each change, and made again
}

func newPool(models []engines.Model, limit int64, maxWait time.Duration, start func(context.Context, engines.Model) (engine, error)) *pool {
	p := &pool{start: start, limit: limit, maxWait: maxWait, slots: map[string]*slot{}, changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, m := range models {
		p.slots[m.Name] = &slot{model: m}
	}
	return p
}

// wake tells all that wait to look again. p.mu is held.
func (p *pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// acquire returns the engine of a model, loaded if need be, and what gives it back.
func (p *pool) acquire(ctx context.Context, name string) (engine, func(), error) {
	late := time.NewTimer(p.maxWait)
	defer late.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[name]
	if s == nil {
		return nil, nil, errUnknown
	}
	if s.model.Takes() > p.limit {
		return nil, nil, errTooLarge
	}
	s.wanted++
	defer func() { s.wanted-- }()
	tries := -1 // the number of the load that this request waits for
	for {
		switch {
		case p.closed:
			return nil, nil, errClosed
		case s.phase == ready && !s.dead:
			s.refs++
			return s.engine, sync.OnceFunc(func() { p.release(s) }), nil
		case tries >= 0 && s.tries > tries && s.err != nil:
			return nil, nil, s.err
		case s.phase == loading:
			if tries < 0 {
				tries = s.tries
			}
		case s.phase == absent && p.room(s.model.Takes()):
			tries = s.tries
			p.load(s)
		}
		changed := p.changed
		p.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-late.C:
			err = errBusy
		}
		p.mu.Lock()
		if err != nil {
			return nil, nil, err
		}
	}
}

// room says whether there is room for n bytes, and if not, has idle engines stop, the
// least recently used first. p.mu is held.
func (p *pool) room(n int64) bool {
	coming := p.limit - p.charged // with what is about to be freed
	for _, s := range p.slots {
		if s.phase == stopping {
			coming += s.model.Takes()
		}
	}
	for coming < n {
		var oldest *slot
		for _, s := range p.slots {
			if s.phase == ready && s.refs == 0 && s.wanted == 0 && (oldest == nil || s.used.Before(oldest.used)) {
				oldest = s
			}
		}
		if oldest == nil {
			break
		}
		p.stop(oldest)
		coming += oldest.model.Takes()
	}
	return p.limit-p.charged >= n
}

// load starts the engine of a model; the requests that wait for it share it, and none of
// them ends it by going. p.mu is held.
func (p *pool) load(s *slot) {
	s.phase, s.err = loading, nil
	p.charged += s.model.Takes()
	p.peak = max(p.peak, p.charged)
	p.work.Go(func() {
		e, err := p.start(p.ctx, s.model)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer p.wake()
		s.tries++
		if err != nil {
			s.phase, s.err = absent, err
			p.charged -= s.model.Takes()
			return
		}
		s.phase, s.engine, s.used, s.dead = ready, e, time.Now(), false
		if p.closed {
			p.stop(s)
			return
		}
		if gone := e.done(); gone != nil {
			p.work.Go(func() {
				<-gone
				p.crashed(s, e)
			})
		}
	})
}

// stop ends the engine of an idle model. p.mu is held.
func (p *pool) stop(s *slot) {
	s.phase = stopping
	p.work.Go(func() {
		s.engine.stop()
		p.mu.Lock()
		defer p.mu.Unlock()
		s.phase, s.engine = absent, nil
		p.charged -= s.model.Takes()
		p.wake()
	})
}

// crashed takes note that an engine has ended by itself.
func (p *pool) crashed(s *slot, e engine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.engine != e || s.phase != ready {
		return
	}
	s.dead = true
	if s.refs == 0 {
		p.stop(s)
	}
}

func (p *pool) release(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.refs--
	s.used = time.Now()
	if s.refs > 0 {
		return
	}
	if s.dead || p.closed {
		p.stop(s)
		return
	}
	p.wake()
}

// close refuses those that wait, and stops the engines as they become idle.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.cancel()
	for _, s := range p.slots {
		if s.phase == ready && s.refs == 0 {
			p.stop(s)
		}
	}
	p.wake()
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		p.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
