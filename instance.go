package modeltier

import (
	"context"
	"sync"
	"sync/atomic"
)

// Instance returns what serves the leased model, as its Mover has it (tier.Instancer):
// *mapped.Weights, *process.Instance, or what a Mover of one's own returns. It is nil once
// the lease is released, once Done is closed, and once the Manager is closed; and if the
// Mover has no instances, or does not return one in time (2 s). The first call after a
// move asks the Mover; later ones, of all holders of the model, cost nanoseconds.
//
// The instance may be used until then and no longer: as soon as the leases have ended, the
// model may move, and its memory be freed. A nil Lease and a zero one have none.
func (l *Lease) Instance() any {
	if l == nil || l.stay == nil || l.over() {
		return nil
	}
	in := l.stay.instance
	if v := in.value.Load(); v != nil {
		return *v
	}
	v := in.ask(l.stay)
	if l.over() { // meanwhile
		return nil
	}
	return v
}

// over reports whether the right to use the model has ended.
func (l *Lease) over() bool {
	return l.released.Load() || closed(l.stay.loss.done) || closed(l.stay.m.ctx.Done())
}

// closed reports whether ch is, which nothing is sent to.
func closed(ch <-chan struct{}) bool {
	select { // on one channel it takes no lock
	case <-ch:
		return true
	default:
		return false
	}
}

// Instance returns Lease.Instance if there is one and it is a T: the mapping, the engine
// or the handle with which the holder of the lease asks the model. It is false as well if
// T is not exactly the type that the Mover returns, such as Engine for *Engine:
// Lease.Instance is then not nil.
func Instance[T any](l *Lease) (T, bool) {
	v, ok := l.Instance().(T)
	return v, ok
}

// instance is what serves a model between two of its moves, once the mover has said so.
// All leases of that time share it.
type instance struct {
	value atomic.Pointer[any] // nil: not known

	mu     sync.Mutex    // guards asking
	asking chan struct{} // closed when the mover has answered; nil: it is not asked
}

// ask has the mover asked for the instance of a stay: once, for all who wait for the
// answer, and again if there was none.
func (in *instance) ask(s *stay) any {
	mv := s.m.moverOf(&s.model)
	if mv.instancer == nil {
		return nil
	}
	in.mu.Lock()
	answered, first := in.asking, false
	if answered == nil {
		answered, first = make(chan struct{}), true
		in.asking = answered
	}
	in.mu.Unlock()
	if first {
		in.post(s, mv, answered)
	}
	<-answered
	if v := in.value.Load(); v != nil {
		return *v
	}
	return nil
}

// post has the mover asked for a stay's instance, and closes answered when that is settled.
func (in *instance) post(s *stay, mv *mover, answered chan struct{}) {
	got := new(any) // the answer's own: a call that is stuck may write to it much later
	mv.plugin.ask(adviceLimit, func(context.Context) error {
		*got = mv.instancer.Instance(s.model.Name)
		return nil
	}, func(err error) {
		if err != nil {
			s.m.log.Error("the mover does not say what serves a model", "model", s.model.Name, "err", err)
		} else if *got != nil {
			in.value.Store(got)
		}
		in.mu.Lock()
		in.asking = nil
		in.mu.Unlock()
		close(answered)
	})
}
