package tier

import (
	"context"
	"time"
)

// Selector decides which model answers a request. tiertest.TestSelector checks what
// follows.
//
// Calls. Select is called on the caller's goroutine, by any number of goroutines at
// once, with no lock held. It does not block, do I/O, or call the Manager. It changes
// neither the request nor the view and keeps neither past the return, except for
// view.Library. Equal requests get equal choices from equal views, and the choice
// follows from the view of this call, not from an earlier one. A panic becomes an
// error of that request.
//
// Modes. A request that names a model (Model, or Preferred without Fallback) gets
// that model or an error, in mode Manual. A request with Preferred and Fallback gets
// the preferred model, or else what it would get without it, in mode Hybrid; FellBack
// and Why tell of the latter. Any other request gets a model by the Selector's own
// ranking, in mode Auto. Index is the place of the chosen model in view.Library.
//
// Which model. The chosen model has every capability of the request; a Selector may
// know capabilities that imply others. A model in storage that is larger than
// available memory and free swap together is not chosen, nor one that no limit
// allows even if it were alone; a model in ram needs no memory. A stricter measure
// of safety is the Selector's own. Of models that differ in name only, the one that
// can be served soonest is chosen: one that is Serving, then one in a memory tier or
// on its way to one, then the first listed.
//
// Errors. An error unwraps to one of the sentinels of this package and has a Code
// and Suggestions: ErrInvalid if Request.Validate refuses the request, ErrNotFound
// for a named model that is not in the library, ErrNoCapacity or ErrTooLarge for one
// that memory or limits do not allow, ErrNoCapableModel if no model will do or the
// named one lacks a capability. A library without models is answered the same way.
type Selector interface {
	Select(req *Request, v *View) (Choice, error)
}

// SelectorFunc is a Selector of one function.
type SelectorFunc func(req *Request, v *View) (Choice, error)

// Select calls f.
func (f SelectorFunc) Select(req *Request, v *View) (Choice, error) { return f(req, v) }

// Placement decides which models belong in which tier.
//
// Plan answers a need with the moves that meet it, cheapest loss first, or,
// where need is nil, with moves that are worth their cost though nobody waits.
// The same view and need, and the same history, give the same plan. The Manager
// never calls Plan or a Learner method of one Placement from two goroutines at
// once, and never with a lock held. Plan does not block, do I/O, or call the
// Manager; view and need are not its own and not kept past the return, except
// for view.Library. The Manager takes no step that breaks an invariant, whatever
// the plan says. A panic becomes an error of the requests that waited for it.
type Placement interface {
	Plan(v *View, need *Need) Plan
}

// PlacementFunc is a Placement of one function.
type PlacementFunc func(v *View, need *Need) Plan

// Plan calls f.
func (f PlacementFunc) Plan(v *View, need *Need) Plan { return f(v, need) }

// MemoryProbe reads how much memory there is and how hard it is pressed.
//
// Memory is called from one goroutine at a time, with no lock held, at a bounded
// rate. It may do I/O but returns within the life of ctx. An error means that
// nothing is known; the Manager then goes by its last reading for a short time
// and afterwards admits nothing.
type MemoryProbe interface {
	Memory(ctx context.Context) (Memory, error)
}

// MemoryProbeFunc is a MemoryProbe of one function.
type MemoryProbeFunc func(ctx context.Context) (Memory, error)

// Memory calls f.
func (f MemoryProbeFunc) Memory(ctx context.Context) (Memory, error) { return f(ctx) }

// Mover moves real bytes.
//
// Move takes mv.Model from mv.From to mv.To and returns when it is there: nil
// means that a lease may be granted in To, an error that the model is where it
// was, or, where it cannot be brought back, in storage with nothing left behind
// (see MoveError.Lost). It is called with no lock held, for different models
// concurrently, for one model never twice at once. It calls progress, if it is
// not nil, from the calling goroutine or one that ends before Move returns, with
// the bytes done so far, never falling. When ctx is cancelled it undoes what it
// began and returns context.Cause(ctx) within tens of milliseconds; one that
// does not is reported as stuck and its bytes stay charged. Under a context that
// InBackground tells of, it gives way to other moves. A panic or runtime.Goexit
// is an error of the move.
type Mover interface {
	Move(ctx context.Context, mv Move, progress func(done Bytes)) error
}

// MoverFunc is a Mover of one function.
type MoverFunc func(ctx context.Context, mv Move, progress func(done Bytes)) error

// Move calls f.
func (f MoverFunc) Move(ctx context.Context, mv Move, progress func(done Bytes)) error {
	return f(ctx, mv, progress)
}

// Overlay is what a MemoryProbe offers that knows things beyond bytes, such as
// heat, and would rather take the bytes from a probe that knows containers too.
type Overlay interface {
	// Over has the probe take its bytes from another, which it closes when it is
	// closed itself. It reports false where it has such a one; the other is then
	// still the caller's. It is called once, before the first Memory.
	Over(bytes MemoryProbe) bool
}

// Resident is what a Mover offers that can ask the kernel what is really there.
// Freed bytes are then credited only as far as Resident no longer sees them.
type Resident interface {
	// Resident returns the bytes of the model's weights that are present in
	// memory, and how many of those the machine's MemAvailable counts as available
	// all the same (clean file pages that are not locked). It may do I/O and is
	// called with no lock held, concurrently with moves of other models.
	Resident(ctx context.Context, model string) (present, reclaimable Bytes, err error)
}

// Footprinter is what a Mover offers that sees what a model really takes, whatever
// was declared for it. What is beyond that is charged as soon as it is seen, and
// set aside for the next load.
type Footprinter interface {
	// Footprint returns how many bytes of memory the model takes where it is now,
	// weights included: in RAM all that it needs to serve, elsewhere what of it is
	// still in memory, of whatever kind; and the most that it was ever seen to take,
	// on its way to RAM or there. ok is false where neither is known. It may do I/O
	// and is called with no lock held, concurrently with moves of other models.
	Footprint(model string) (now, peak Bytes, ok bool)
}

// Divider is what a Mover offers that can leave a part of a model present in
// Swap. A mover without it moves whole models.
type Divider interface {
	// Divisible reports whether this model can be divided. It is fast and does no
	// I/O.
	Divisible(m *Model) bool
}

// Leaver is what a Divider offers that can leave a part of a swap-tier model in
// storage (Move.Leave), so that swap holds parts as well. Without it, swap and
// memory together hold all of such a model.
type Leaver interface {
	// Leaves reports whether this model can have a part in storage while it is in
	// Swap. It is fast and does no I/O.
	Leaves(m *Model) bool
}

// InPlacer is what a Mover offers that can serve models from Swap. Without it,
// none can be: a model is served from RAM only.
type InPlacer interface {
	// InPlace reports whether this model can be served from Swap. It is fast and
	// does no I/O.
	InPlace(m *Model) bool
}

// FileBacker is what a Mover offers whose swap tier needs no swap device, because
// the weights there are clean pages of their own file. Without it, swap-tier
// models are taken to need memory or swap on disk.
type FileBacker interface {
	FileBacked() bool
}

// Hinter is what a Placement offers that listens to hints. Hint says that, with
// that probability, model will be asked for within that time from now. It is
// called as the methods of a Learner are.
type Hinter interface {
	Hint(model string, probability float64, within time.Duration, now time.Time)
}

// Valuer is what a Placement offers that can tell who is missed least when memory
// is short. Worth returns, by index of v.Library, what a byte of each model is
// worth in ram; only the order counts. It is called as Plan is.
type Valuer interface {
	Worth(v *View) []float64
}

// ModelChecker is what a Mover offers that can tell at once, from the description
// alone, that it cannot move a model. New, HotLoad and Reconfigure ask it and
// return its error, which should name the field and the rule (*InvalidError).
type ModelChecker interface {
	// CheckModel returns nil or what is wrong. It is fast and does no I/O.
	CheckModel(m *Model) error
}

// PartStatuser is what a Mover, MemoryProbe, Selector or Placement offers that has
// something to say in Status.Parts. Every default part does.
type PartStatuser interface {
	// PartStatus returns a copy of what an operator may want to know; it marshals to
	// JSON. It may be called from any goroutine, at the same time as any other
	// method, and returns at once.
	PartStatus() any
}

// Closer is what a Mover, MemoryProbe, Selector or Placement offers that holds
// resources. The Manager calls Close once, after the last call to any other
// method has returned, on the parts that it made itself and on those that it
// was given.
type Closer interface {
	Close() error
}

// Access is one request for a model, whether it found the model resident or had
// to wait for it. At is when it came.
type Access struct {
	Model string
	At    time.Time
}

// Moved is one move that was carried out.
type Moved struct {
	Move  Move
	Bytes Bytes // bytes that had to move
	Took  time.Duration
}

// Learner is what a Placement or a Selector offers that learns from use. Calls
// come from one goroutine at a time, oldest first, some time after the fact but
// always before the next Plan; the slices are not kept past the return.
type Learner interface {
	Accessed(uses []Access)
	Moved(moves []Moved)
}
