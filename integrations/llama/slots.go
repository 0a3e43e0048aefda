package llama

import (
	"context"
	"fmt"
	"slices"
	"sync"

	yzma "github.com/hybridgroup/yzma/pkg/llama"
)

// AnySlot lets the queue choose.
const AnySlot = -1

// slot is one sequence of a model's context.
type slot struct {
	id yzma.SeqId

	// tokens are those that the context holds of it. Who has the slot changes them,
	// under the model's lock, where others read them.
	tokens []yzma.Token

	// Guarded by the queue's lock.
	busy bool
	used uint64 // when it was given back last, in the queue's count
}

// queue gives out slots, to who came first.
type queue struct {
	mu      sync.Mutex
	slots   []*slot
	waiting []*waiter
	count   uint64
	ended   bool // no slot is given out
}

type waiter struct {
	id      int // AnySlot, or that one
	prompt  []yzma.Token
	granted chan *slot // of capacity 1; nil: the queue has ended
}

func newQueue(slots int) *queue {
	q := &queue{}
	for i := range slots {
		q.slots = append(q.slots, &slot{id: yzma.SeqId(i)})
	}
	return q
}

// take waits for a slot: the one with that number or, of those that are free, the
// one that holds most of the prompt already.
func (q *queue) take(ctx context.Context, id int, prompt []yzma.Token) (*slot, error) {
	if id != AnySlot && (id < 0 || id >= len(q.slots)) {
		return nil, fmt.Errorf("%w: %d of %d", ErrNoSlot, id, len(q.slots))
	}
	w := &waiter{id: id, prompt: prompt, granted: make(chan *slot, 1)}
	q.mu.Lock()
	if q.ended {
		q.mu.Unlock()
		return nil, ErrClosed
	}
	q.waiting = append(q.waiting, w)
	q.grant()
	q.mu.Unlock()
	select {
	case s := <-w.granted:
		if s == nil {
			return nil, ErrClosed
		}
		return s, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else if s := <-w.granted; s != nil {
		q.free(s)
	}
	return nil, context.Cause(ctx)
}

// end sends all that wait away, and who comes; or takes that back.
func (q *queue) end(ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended = ended; ended {
		for _, w := range q.waiting {
			w.granted <- nil
		}
		q.waiting = nil
	}
}

// give gives a slot back.
func (q *queue) give(s *slot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free(s)
}

func (q *queue) free(s *slot) {
	q.count++
	s.busy, s.used = false, q.count
	q.grant()
}

// grant gives free slots to those that wait for them.
func (q *queue) grant() {
	q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
		s := q.pick(w)
		if s == nil {
			return false
		}
		s.busy = true
		w.granted <- s
		return true
	})
}

// pick returns the free slot that is best for a waiter, or nil: of those that hold
// equally much of its prompt the one that was not used for longest.
func (q *queue) pick(w *waiter) (best *slot) {
	most := -1
	for i, s := range q.slots {
		if s.busy || w.id != AnySlot && w.id != i {
			continue
		}
		if n := common(s.tokens, w.prompt); n > most || n == most && s.used < best.used {
			best, most = s, n
		}
	}
	return best
}

// common returns how many tokens two texts begin with together.
func common(a, b []yzma.Token) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
