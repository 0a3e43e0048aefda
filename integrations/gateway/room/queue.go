package room

import (
	"container/heap"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Class says how soon a request has its turn at a busy engine. Of the requests that wait,
// a class has turns in proportion to its weight, so that none starves.
type Class uint8

// The classes, with weights of 4, 16 and 1.
const (
	Normal Class = iota
	High
	Low
)

var classNames = [...]string{Normal: "normal", High: "high", Low: "low"}

// String returns the class's word in configurations and headers.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("Class(%d)", c)
}

// ParseClass returns the class of a word: "normal", "high" or "low"; "" is normal.
func ParseClass(word string) (Class, error) {
	if word == "" {
		return Normal, nil
	}
	for c, name := range classNames {
		if name == word {
			return Class(c), nil
		}
	}
	return Normal, &tier.InvalidError{Field: "class", Value: fmt.Sprintf("%q", word), Rule: "must be high, normal or low"}
}

// weight is how many turns a class has where a request of class Low has one.
func (c Class) weight() float64 { return [...]float64{Normal: 4, High: 16, Low: 1}[c] }

// maxWaiting bounds the requests that wait for their turn at one engine.
const maxWaiting = 1024

// queues admit requests to engines, each model's as many at once as its limit says. Those
// that wait go by start-time fair queueing (Goyal, Vin and Cheng, 1996) on two levels:
// between the classes, by their weights, and in a class between callers. One with a hundred
// requests does not hold up one with a single one, and no class starves another.
type queues struct {
	// limit is how many requests of a model have a turn; whole: until their answers have
	// ended, and not only until these begin.
	limit func(model string) (n int, whole bool)

	mu      sync.Mutex // guards the rest
	byModel map[string]*queue
}

// queue is that of one model. It is there while a request runs.
type queue struct {
	limit   int
	whole   bool
	running int
	waiting int
	virtual float64 // the start tag of the class that had the last turn
	classes [len(classNames)]line
	arrived uint64
}

// line is the requests of one class that wait.
type line struct {
	waiting turns
	start   float64            // the tag of its next turn among the classes
	virtual float64            // the start tag of its last turn
	ends    map[string]float64 // by caller: the end tag of its last request that waits or waited
}

// turn is a request that waits. granted is closed when it may run.
type turn struct {
	caller  string
	class   Class
	start   float64
	arrived uint64 // breaks ties
	index   int    // in turns; -1: it no longer waits
	granted chan struct{}
}

// enter waits for a turn at the engine of a model. The caller has to call leave exactly
// once for it. Its error is the cause of ctx, or a *tier.BusyError.
func (q *queues) enter(ctx context.Context, model, caller string, class Class) error {
	t, err := q.join(model, caller, class)
	if t == nil {
		return err
	}
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
		q.quit(model, t)
		return context.Cause(ctx)
	}
}

// join takes a turn, or a place among those that wait for one: then it returns that.
func (q *queues) join(model, caller string, class Class) (*turn, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.of(model)
	if m.running < m.limit {
		m.running++
		return nil, nil
	}
	if m.waiting >= maxWaiting {
		return nil, &tier.BusyError{Model: model, Queued: maxWaiting, RetryAfter: time.Second}
	}
	l := &m.classes[class]
	if len(l.waiting) == 0 {
		l.start = max(l.start, m.virtual)
	}
	if l.ends == nil {
		l.ends = make(map[string]float64)
	}
	if len(l.ends) >= 2*maxWaiting {
		l.forget()
	}
	m.arrived++
	t := &turn{caller: caller, class: class, start: max(l.virtual, l.ends[caller]), arrived: m.arrived, granted: make(chan struct{})}
	l.ends[caller] = t.start + 1
	heap.Push(&l.waiting, t)
	m.waiting++
	return t, nil
}

// quit gives up a turn, or the place of one that waits.
func (q *queues) quit(model string, t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.of(model)
	if t.index < 0 { // it was granted in this very moment
		q.pass(model, m)
		return
	}
	l := &m.classes[t.class]
	heap.Remove(&l.waiting, t.index)
	l.ends[t.caller]-- // what it did not have does not count against its caller
	m.waiting--
	m.rest()
}

// tryEnter is enter, but does not wait.
func (q *queues) tryEnter(model string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.of(model)
	if m.running >= m.limit {
		return false
	}
	m.running++
	return true
}

// begun ends a turn that does not last until the answer has ended. It reports whether it
// did.
func (q *queues) begun(model string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.of(model)
	if m.whole {
		return false
	}
	q.pass(model, m)
	return true
}

// leave ends a turn.
func (q *queues) leave(model string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pass(model, q.of(model))
}

// of returns the queue of a model, with its limit as it is now. The caller holds mu.
func (q *queues) of(model string) *queue {
	m := q.byModel[model]
	if m == nil {
		m = &queue{}
		q.byModel[model] = m
	}
	m.limit, m.whole = q.limit(model)
	return m
}

// pass gives a turn that has ended to those that wait. The caller holds mu.
func (q *queues) pass(model string, m *queue) {
	m.running--
	for m.waiting > 0 && m.running < m.limit {
		l, class := m.next()
		t := heap.Pop(&l.waiting).(*turn)
		m.virtual, l.virtual = l.start, t.start
		l.start += 1 / class.weight()
		m.waiting--
		m.running++
		close(t.granted)
	}
	if m.running == 0 { // none waits either
		delete(q.byModel, model)
		return
	}
	m.rest()
}

// next returns the class whose turn it is; of several, the one with the most weight.
func (m *queue) next() (l *line, class Class) {
	for _, c := range []Class{High, Normal, Low} {
		if other := &m.classes[c]; len(other.waiting) > 0 && (l == nil || other.start < l.start) {
			l, class = other, c
		}
	}
	return l, class
}

// forget forgets the callers of which no request waits. They had their last turn by now, so
// that it gives none of them more than one turn.
func (l *line) forget() {
	ends := make(map[string]float64, maxWaiting)
	for _, t := range l.waiting {
		ends[t.caller] = l.ends[t.caller]
	}
	l.ends = ends
}

// rest forgets who had how many turns, if none waits.
func (m *queue) rest() {
	if m.waiting == 0 {
		*m = queue{limit: m.limit, whole: m.whole, running: m.running}
	}
}

// turns is a heap of the requests that wait.
type turns []*turn

func (t turns) Len() int { return len(t) }
func (t turns) Less(i, j int) bool {
	if t[i].start != t[j].start {
		return t[i].start < t[j].start
	}
	return t[i].arrived < t[j].arrived
}
func (t turns) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}
func (t *turns) Push(x any) {
	turn := x.(*turn)
	turn.index = len(*t)
	*t = append(*t, turn)
}
func (t *turns) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*t, last.index = old[:len(old)-1], -1
	return last
}
