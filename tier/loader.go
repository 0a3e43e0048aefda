package tier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
)

// Loader is an engine in this process, as the functions that MoverFrom makes a Mover of.
// T is what serves a loaded model: what the holder of a lease gets (modeltier.Instance[T]).
// While a lease is held on a model, no function is called for it but Size, and Unload by
// Manager.Close.
//
// For one model no two of its functions are called at once, for different ones they are.
// They are called with no lock held. One that panics fails its move, and the model stays
// where it was. If one returns a *MoveError with Lost set, the instance is unloaded.
type Loader[T any] struct {
	// Load brings a model into memory, and returns what serves it. It calls progress with
	// the bytes that are done, as often as it likes. When ctx ends, it frees what it has
	// and returns an error. Required.
	Load func(ctx context.Context, m Model, progress func(done Bytes)) (T, error)
	// Unload frees an instance. After an error, it is still there. Required.
	Unload func(ctx context.Context, m Model, instance T) error

	// Sleep has an instance give back its memory and stay, for the swap tier; Wake has it
	// serve again. After an error, it is what it was. What it needs no swap device for is
	// what may sleep: weights that Wake reads again, or that stay in memory and are counted
	// by Size. If Sleep returns errors.ErrUnsupported, this instance is unloaded in its
	// place. Both or none; nil: in swap a model is unloaded.
	Sleep func(ctx context.Context, m Model, instance T) error
	Wake  func(ctx context.Context, m Model, instance T, progress func(done Bytes)) error

	// Size returns the bytes of memory that an instance takes as it is, its weights
	// included. nil: what its model declares.
	Size func(m Model, instance T) Bytes
}

// MoverFrom returns the Mover of an engine in this process. Beside Move it has the
// optional interfaces Instancer, Footprinter, Resident, FileBacker, ModelChecker,
// PartStatuser and Closer, which unloads what is loaded. Models are served from RAM, and
// move whole.
//
// In the background, what the goroutine of Load and C code that it calls read is read at
// idle I/O priority (on Linux), until a request waits for the load and it calls progress.
// One that can give way further asks InBackground.
func MoverFrom[T any](l Loader[T]) Mover {
	return &loaderMover[T]{Loader: l, models: make(map[string]*loaded[T])}
}

// loaderMover is a Mover over a Loader.
type loaderMover[T any] struct {
	Loader[T]

	mu     sync.Mutex // guards the rest, and what loaded says that it does
	closed bool
	models map[string]*loaded[T]
}

var _ interface {
	Mover
	Instancer
	Footprinter
	Resident
	FileBacker
	ModelChecker
	PartStatuser
	Closer
} = (*loaderMover[any])(nil)

// loaderState is what there is of a model.
type loaderState string

const (
	notLoaded loaderState = "not loaded"
	serves    loaderState = "serves"
	asleep    loaderState = "asleep"
)

// loaded is what is known of a model. The mover's lock guards state to note, which who
// holds busy alone changes.
type loaded[T any] struct {
	busy chan struct{} // holds one while a function of the Loader runs, or may

	state    loaderState
	model    Model // as it was loaded
	instance T
	now      Bytes // that it takes, as last seen
	peak     Bytes
	note     string
}

// maxRemembered is of how many models that are not loaded it is remembered what they took.
const maxRemembered = 1024

// take waits until no function runs for the model, and keeps others out until give.
func (f *loaderMover[T]) take(ctx context.Context, name string) (*loaded[T], error) {
	for {
		f.mu.Lock()
		if f.closed {
			f.mu.Unlock()
			return nil, ErrClosed
		}
		h := f.models[name]
		if h == nil { // it is taken before others see it, so that give always follows
			h = &loaded[T]{busy: make(chan struct{}, 1), state: notLoaded}
			h.busy <- struct{}{}
			f.models[name] = h
			f.mu.Unlock()
			return h, nil
		}
		f.mu.Unlock()
		select {
		case h.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		f.mu.Lock()
		closed, same := f.closed, f.models[name] == h
		f.mu.Unlock()
		if same && !closed {
			return h, nil
		}
		<-h.busy
		if closed {
			return nil, ErrClosed
		}
	}
}

// give ends take. What is known of a model that is not loaded is kept within bounds.
func (f *loaderMover[T]) give(name string, h *loaded[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h.state == notLoaded && (h.peak == 0 && h.note == "" || len(f.models) > maxRemembered) {
		delete(f.models, name)
	}
	<-h.busy
}

// Move implements Mover.
func (f *loaderMover[T]) Move(ctx context.Context, mv Move, progress func(done Bytes)) error {
	if err := errors.Join(f.CheckModel(&mv.Model), checkTarget(mv.To)); err != nil {
		return err
	}
	h, err := f.take(ctx, mv.Model.Name)
	if err != nil {
		return err
	}
	defer f.give(mv.Model.Name, h)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l := beginLoading(ctx, mv.Model.Size, progress)
	defer l.end()
	switch {
	case mv.To == Storage || mv.To == Swap && f.Sleep == nil:
		err = f.unload(ctx, h, "")
	case mv.To == Swap:
		err = f.sleep(ctx, h)
	case h.state == asleep:
		err = f.wake(ctx, h, l)
	case h.state == notLoaded:
		err = f.load(ctx, h, &mv.Model, l)
	}
	if err == nil {
		l.arrived()
		return nil
	}
	me, _ := errors.AsType[*MoveError](err)
	lost := me != nil && me.Lost
	if lost {
		if e := f.unload(context.WithoutCancel(ctx), h, ""); e != nil {
			lost, err = false, errors.Join(err, e)
		}
	}
	if ctx.Err() != nil && !lost {
		return context.Cause(ctx)
	}
	return &MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Lost: lost, Err: err}
}

func checkTarget(to Tier) error {
	_, err := to.MarshalText()
	return err
}

// set notes what has become of a model, and then what it takes.
func (f *loaderMover[T]) set(h *loaded[T], state loaderState, m Model, instance T, note string) {
	f.mu.Lock()
	h.state, h.model, h.instance, h.note, h.now = state, m, instance, note, 0
	f.mu.Unlock()
	f.measure(h)
}

// measure asks what a model takes as it is.
func (f *loaderMover[T]) measure(h *loaded[T]) {
	if f.Size == nil || h.state == notLoaded {
		return
	}
	takes := max(f.Size(h.model, h.instance), 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	h.now, h.peak = takes, max(h.peak, takes)
}

func (f *loaderMover[T]) load(ctx context.Context, h *loaded[T], m *Model, l *loading) error {
	f.mu.Lock()
	if h.model.Path != m.Path || h.model.Version != m.Version { // what the name's last model took says nothing of this one
		h.model, h.peak = *m, 0
	}
	f.mu.Unlock()
	instance, err := f.Load(ctx, *m, l.reached)
	if err != nil {
		return err
	}
	f.set(h, serves, *m, instance, "")
	return nil
}

func (f *loaderMover[T]) unload(ctx context.Context, h *loaded[T], note string) error {
	if h.state == notLoaded {
		f.mu.Lock()
		defer f.mu.Unlock()
		h.note = note
		return nil
	}
	if err := f.Unload(ctx, h.model, h.instance); err != nil {
		return err
	}
	var none T
	f.set(h, notLoaded, h.model, none, note)
	return nil
}

func (f *loaderMover[T]) sleep(ctx context.Context, h *loaded[T]) error {
	if h.state != serves {
		return nil
	}
	err := f.Sleep(ctx, h.model, h.instance)
	if err == nil {
		f.set(h, asleep, h.model, h.instance, "")
		return nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return f.unload(ctx, h, fmt.Sprint("unloaded in swap: ", err))
}

func (f *loaderMover[T]) wake(ctx context.Context, h *loaded[T], l *loading) error {
	if err := f.Wake(ctx, h.model, h.instance, l.reached); err != nil {
		return err
	}
	f.set(h, serves, h.model, h.instance, "")
	return nil
}

// Instance implements Instancer: what Load returned, while it serves.
func (f *loaderMover[T]) Instance(model string) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.models[model]; h != nil && h.state == serves {
		return h.instance
	}
	return nil
}

// look measures a model, unless it moves: then it is as last seen, as its instance may be
// gone.
func (f *loaderMover[T]) look(model string) (h loaded[T]) {
	f.mu.Lock()
	known := f.models[model]
	if known == nil {
		f.mu.Unlock()
		return loaded[T]{state: notLoaded}
	}
	select {
	case known.busy <- struct{}{}:
		f.mu.Unlock()
		defer f.give(model, known)
		f.measure(known)
		return *known
	default:
		defer f.mu.Unlock()
		return *known
	}
}

// Footprint implements Footprinter by Size.
func (f *loaderMover[T]) Footprint(model string) (now, peak Bytes, ok bool) {
	h := f.look(model)
	return h.now, h.peak, h.peak > 0
}

// Resident implements Resident: a model that serves is there as a whole, and of one that
// sleeps what Size says, which no move within swap frees.
func (f *loaderMover[T]) Resident(_ context.Context, model string) (present, reclaimable Bytes, err error) {
	switch h := f.look(model); h.state {
	case serves:
		return h.model.Size, 0, nil
	case asleep:
		return min(h.now, h.model.Size), 0, nil
	}
	return 0, 0, nil
}

// FileBacked implements FileBacker: see Loader.Sleep.
func (f *loaderMover[T]) FileBacked() bool { return true }

// CheckModel implements ModelChecker: no model can be moved without the functions that
// are required.
func (f *loaderMover[T]) CheckModel(*Model) error {
	missing := func(field, rule string) error { return &InvalidError{Field: field, Value: "nil", Rule: rule} }
	switch {
	case f.Load == nil:
		return missing("Loader.Load", "must be a function that loads a model")
	case f.Unload == nil:
		return missing("Loader.Unload", "must be a function that frees an instance")
	case f.Sleep == nil && f.Wake != nil:
		return missing("Loader.Sleep", "must be there if Loader.Wake is")
	case f.Sleep != nil && f.Wake == nil:
		return missing("Loader.Wake", "must be there if Loader.Sleep is")
	}
	return nil
}

// loaderStatus is what the Mover tells of one model that is loaded, or was.
type loaderStatus struct {
	Name  string      `json:"name"`
	State loaderState `json:"state"`
	Takes Bytes       `json:"takes,omitempty"`
	Peak  Bytes       `json:"peak,omitempty"`
	Note  string      `json:"note,omitempty"`
}

// PartStatus implements PartStatuser.
func (f *loaderMover[T]) PartStatus() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	models := make([]loaderStatus, 0, len(f.models))
	for _, name := range slices.Sorted(maps.Keys(f.models)) {
		h := f.models[name]
		models = append(models, loaderStatus{name, h.state, h.now, h.peak, h.note})
	}
	return map[string]any{"models": models}
}

// Close implements Closer: it unloads what is loaded, all of it at once, so that one that
// hangs or panics keeps none of the others in memory. It waits for all of them.
func (f *loaderMover[T]) Close() error {
	f.mu.Lock()
	f.closed = true
	models := maps.Clone(f.models)
	f.mu.Unlock()
	failed := make(chan error, len(models))
	for name, h := range models {
		go func() {
			err := error(&PanicError{Part: "mover"}) // until unload has returned
			defer func() {
				if v := recover(); v != nil {
					err = &PanicError{Part: "mover", Value: v, Stack: debug.Stack()}
				}
				if err != nil {
					err = &MoveError{Model: name, To: Storage, Err: err}
				}
				failed <- err
			}()
			h.busy <- struct{}{} // no move begins any more
			defer func() { <-h.busy }()
			err = f.unload(context.Background(), h, "")
		}()
	}
	var errs []error
	for range models {
		errs = append(errs, <-failed)
	}
	return errors.Join(errs...)
}

// loading is one move under way: it passes its progress on, in order.
type loading struct {
	background func() bool
	size       Bytes

	mu      sync.Mutex // guards the rest; fn is called under it, so that what it hears never falls
	fn      func(done Bytes)
	done    Bytes
	over    bool
	restore func() bool // ends idle I/O priority; nil: there is none
	normal  bool        // restore has
}

// beginLoading returns the loading of the calling goroutine, which ends it.
func beginLoading(ctx context.Context, size Bytes, fn func(done Bytes)) *loading {
	l := &loading{background: InBackground(ctx), size: size, fn: fn}
	if l.background() {
		l.restore = idleIO()
	}
	return l
}

func (l *loading) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.restore != nil && (l.normal || l.restore()) {
		runtime.UnlockOSThread() // else the thread ends with its goroutine
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

// reached passes on that so much is done. After the move's end it does nothing.
func (l *loading) reached(done Bytes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over { // the thread may be another goroutine's by now
		return
	}
	if l.restore != nil && !l.normal && !l.background() {
		l.normal = l.restore()
	}
	l.done = max(l.done, min(done, l.size))
	if l.fn != nil {
		l.fn(l.done)
	}
}
