package mapped

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lane lets one load at a time read a device: two at once make each other slow,
// and both late. Turns are given in the order of arrival, to background work
// only when nobody else waits.
type lane struct {
	mu    sync.Mutex // guards the rest; held for moments
	taken bool
	queue []*turn // who waits

	// steps counts what holders have done, so that those who wait can tell a lane
	// that moves from one that is stuck.
	steps atomic.Int64
}

// turn is the right to read a device.
type turn struct {
	lane       *lane
	background func() bool
	given      chan struct{} // closed when it is
}

// patience is how often who waits for a lane looks whether it moves.
const patience = time.Second

// acquire waits for a turn. While it waits it calls moves, now and then, if the
// lane does.
func (l *lane) acquire(ctx context.Context, background func() bool, moves func()) (*turn, error) {
	t := &turn{lane: l, background: background, given: make(chan struct{})}
	l.mu.Lock()
	l.queue = append(l.queue, t)
	l.grant()
	l.mu.Unlock()
	select {
	case <-t.given:
		return t, nil
	default:
	}
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for seen := l.steps.Load(); ; {
		select {
		case <-t.given:
			return t, nil
		case <-ctx.Done():
			t.leave()
			return nil, context.Cause(ctx)
		case <-tick.C:
			if n := l.steps.Load(); n != seen {
				seen = n
				moves()
			}
		}
	}
}

// grant gives the lane to the next in the queue, if it is free.
func (l *lane) grant() {
	if l.taken || len(l.queue) == 0 {
		return
	}
	next := max(slices.IndexFunc(l.queue, func(t *turn) bool { return !t.background() }), 0)
	t := l.queue[next]
	l.queue = slices.Delete(l.queue, next, next+1)
	l.taken = true
	close(t.given)
}

// leave gives up a turn that may or may not have been given by now.
func (t *turn) leave() {
	t.lane.mu.Lock()
	defer t.lane.mu.Unlock()
	if i := slices.Index(t.lane.queue, t); i >= 0 {
		t.lane.queue = slices.Delete(t.lane.queue, i, i+1)
		return
	}
	t.lane.taken = false
	t.lane.grant()
}

// release gives the lane to the next.
func (t *turn) release() { t.leave() }

// yields reports whether the holder is in the background and somebody waits who
// is not.
func (t *turn) yields() bool {
	if !t.background() {
		return false
	}
	t.lane.mu.Lock()
	defer t.lane.mu.Unlock()
	return slices.ContainsFunc(t.lane.queue, func(o *turn) bool { return !o.background() })
}

// waiting returns how many wait for the lane.
func (l *lane) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}
