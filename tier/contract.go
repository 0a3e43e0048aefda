package tier

import (
	"context"
	"sync/atomic"
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
// Plan answers a need with the moves that meet it, cheapest loss first, or, if
// need is nil, with moves that are worth their cost though no request waits for
// them. The same view and need, and the same history, give the same plan. The
// Manager never calls two methods of one Placement at once, except for PartStatus,
// and never with a lock held. Plan does not block, do I/O, or call the Manager;
// view and need are not its own and not kept past the return, except for
// view.Library. The Manager takes no step that breaks an invariant, whatever the
// plan says. A panic becomes an error of the requests that waited for the plan.
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
// the memory is not known; the Manager then goes by its last reading for a short
// time and afterwards admits no load.
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
// means that a lease may be granted in To; an error means that the model is where
// it was or, if it cannot be brought back, in storage with nothing left behind
// (see MoveError.Lost). It is called with no lock held, for different models
// concurrently, for one model never twice at once. It calls progress, if that is
// not nil, from the calling goroutine or one that ends before Move returns, with
// the bytes done so far, never falling. When ctx is cancelled it undoes what it
// began and returns context.Cause(ctx) within tens of milliseconds; one that
// does not is reported as stuck and its bytes stay charged. Under a context for
// which InBackground reports true, it gives way to other moves. A panic or
// runtime.Goexit in it fails that move alone.
type Mover interface {
	Move(ctx context.Context, mv Move, progress func(done Bytes)) error
}

// MoverFunc is a Mover of one function.
type MoverFunc func(ctx context.Context, mv Move, progress func(done Bytes)) error

// Move calls f.
func (f MoverFunc) Move(ctx context.Context, mv Move, progress func(done Bytes)) error {
	return f(ctx, mv, progress)
}

// backgroundKey is the key of a context's *background.
type backgroundKey struct{}

type background struct{ urged atomic.Bool }

// Background marks the moves under ctx as background work, for which no request
// waits: a mover gives way to others with them and reads at idle priority. urge
// ends that, if a request comes to wait for the move after all; it may be called at
// any time and more than once.
func Background(ctx context.Context) (_ context.Context, urge func()) {
	b := new(background)
	return context.WithValue(ctx, backgroundKey{}, b), func() { b.urged.Store(true) }
}

// InBackground returns a function that reports whether work under ctx is in the
// background at the moment. It is safe for concurrent use.
func InBackground(ctx context.Context) func() bool {
	b, ok := ctx.Value(backgroundKey{}).(*background)
	if !ok {
		return func() bool { return false }
	}
	return func() bool { return !b.urged.Load() }
}

// The optional interfaces follow; doc.go has them in one table. A part without one
// says no to what it asks.

// Overlay is offered by a MemoryProbe that knows things beyond bytes, such as
// heat, and prefers to take the bytes from a probe that knows containers too.
type Overlay interface {
	// Over makes the probe take its bytes from another, which it closes when it is
	// closed itself. It reports false if it has such a probe already; the other is
	// then still the caller's. It is called once, before the first Memory.
	Over(bytes MemoryProbe) bool
}

// Resident is offered by a Mover that can ask the kernel what is really there.
// Freed bytes are then credited only as far as Resident no longer sees them.
type Resident interface {
	// Resident returns the bytes of the model's weights that are present in
	// memory, and how many of those the machine's MemAvailable still counts as
	// available (clean file pages that are not locked). Both are zero for an unknown
	// model. It may do I/O and is called with no lock held, concurrently with moves of
	// other models.
	Resident(ctx context.Context, model string) (present, reclaimable Bytes, err error)
}

// Footprinter is offered by a Mover that sees what a model really takes, whatever
// was declared for it. What is beyond that is charged as soon as it is seen, and
// reserved for the next load.
type Footprinter interface {
	// Footprint returns how many bytes of memory the model takes where it is now,
	// weights included: in RAM all that it needs to serve, elsewhere what of it is
	// still in memory, of whatever kind; and the most that it was ever seen to take,
	// on its way to RAM or there. ok is false if neither is known. It may do I/O
	// and is called with no lock held, concurrently with moves of other models.
	Footprint(model string) (now, peak Bytes, ok bool)
}

// Cacher is offered by a Mover that leaves the clean pages of a model that gives way
// in the page cache, from where it is loaded again without being read. Such bytes are
// charged to no model and Resident does not count them. The Manager has them dropped
// when the memory is needed: as many as a load needs, before that load.
type Cacher interface {
	// Cached returns how many bytes of the model's weights are in memory and not part
	// of what Resident calls present; 0 for an unknown model or where the kernel does
	// not tell. It may do I/O and is called with no lock held, concurrently with moves
	// of other models.
	Cached(ctx context.Context, model string) (Bytes, error)
	// Uncache drops n bytes of that, all if n is at least what Cached returns, and
	// returns when they are gone. What cannot be dropped, for example because another
	// process maps it, stays. It is called with no lock held, at any time: a Move of the
	// model goes first, and ends an Uncache that is under way.
	Uncache(ctx context.Context, model string, n Bytes) error
}

// Forecaster is offered by a Mover that can tell what a model will take before it is
// loaded, from what it has measured of it or of others like it.
type Forecaster interface {
	// Forecast returns the bytes of memory, weights included, that the model is
	// expected to take in RAM, and the most that this very model was seen to take; 0: not
	// known. It is fast and may be called at any time.
	Forecast(m *Model) (takes, seen Bytes)
}

// Instancer is offered by a Mover whose models are served by something that a
// program can hold: a mapping, an engine in this process, the address of one that is not.
type Instancer interface {
	// Instance returns what serves the model where it is, or nil: the model is unknown, or
	// in a tier where nothing serves it. The holders of leases use what it returns, on
	// any goroutine, until the model moves. It returns at once, and is called with no lock
	// held, concurrently with moves of other models.
	Instance(model string) any
}

// Divider is offered by a Mover that can leave a part of a model present in
// Swap. A mover without it moves whole models.
type Divider interface {
	// Divisible reports whether this model can be divided. The answer does not depend
	// on where the model is. It is fast and does no I/O.
	Divisible(m *Model) bool
}

// Leaver is offered by a Divider that can leave a part of a swap-tier model in
// storage (Move.Leave), so that swap holds parts as well. Without it, swap and
// memory together hold all of such a model.
type Leaver interface {
	// Leaves reports whether this model, which is divisible, can have a part in
	// storage while it is in Swap. The answer does not depend on where the model is.
	// It is fast and does no I/O.
	Leaves(m *Model) bool
}

// InPlacer is offered by a Mover that can serve models from Swap. Without it,
// none can be: a model is served from RAM only.
type InPlacer interface {
	// InPlace reports whether this model can be served from Swap. The answer does not
	// depend on where the model is. It is fast and does no I/O.
	InPlace(m *Model) bool
}

// FileBacker is offered by a Mover whose swap tier needs no swap device, because
// the weights there are clean pages of their own file. Without it, swap-tier
// models are taken to need memory or swap on disk.
type FileBacker interface {
	// FileBacked always gives the same answer. It is fast and does no I/O.
	FileBacked() bool
}

// ModelChecker is offered by a Mover that can tell at once, from the description
// alone, that it cannot move a model. New, HotLoad and Reconfigure ask it and
// return its error, which should name the field and the rule (*InvalidError).
type ModelChecker interface {
	// CheckModel returns nil or what is wrong. It is fast and does no I/O.
	CheckModel(m *Model) error
}

// Hinter is offered by a Placement that listens to hints. Hint says that, with
// that probability, model will be asked for within that time from now. It is
// called as the methods of a Learner are.
type Hinter interface {
	Hint(model string, probability float64, within time.Duration, now time.Time)
}

// Valuer is offered by a Placement that can tell which model is missed least if
// memory is short. Worth returns, by index of v.Library, what a byte of each model
// is worth in ram; only the order counts. It is called as Plan is.
type Valuer interface {
	Worth(v *View) []float64
}

// Expecter is offered by a Placement that can tell how often models will be asked for.
// Expect returns, by index of v.Library, what it expects for each model within that time
// from v.Now. It is called as Plan is.
type Expecter interface {
	Expect(v *View, within time.Duration) []Expectation
}

// Expectation is how many requests for a model are expected, and how many of those only
// because they were announced (Hinter).
type Expectation struct {
	Requests, Announced float64
}

// Predictor is offered by a Placement that predicts how long moves take. Predict
// returns the expected time in which m goes from one tier to another if that many
// bytes have to move, and the bounds that it believes in: 0 ≤ low ≤ took ≤ high. It
// is called as Plan is.
type Predictor interface {
	Predict(m *Model, from, to Tier, bytes Bytes) (took, low, high time.Duration)
}

// Learner is offered by a Placement or a Selector that learns from use. Calls
// come from one goroutine at a time, oldest first, some time after the fact but
// before the next Plan; the slices are not kept past the return. One that takes longer
// for an access than the next takes to come is told of a random sample of them, and may
// be behind when it plans.
type Learner interface {
	Accessed(uses []Access)
	Moved(moves []Moved)
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
	Bytes Bytes // that had to move; of a load, those that were not cached
	Took  time.Duration
	// Read is how long it took until the mover reported all bytes: what came after, such
	// as an engine that starts, takes as long with few bytes. 0: it did not tell.
	Read time.Duration
}

// Reporter is offered by a Selector or a Placement that learns from how leases
// turned out. Calls come as those of a Learner do.
type Reporter interface {
	Reported(outcomes []Outcome)
}

// Outcome is how a lease turned out.
type Outcome struct {
	Model string
	// At is when it was reported.
	At time.Time
	// Waited is the time from the request to the lease, Served from the lease to
	// the report.
	Waited, Served time.Duration
	// Latency is the time from the lease to the first use of the answer, such as
	// the first token. 0: not reported.
	Latency time.Duration
	// Err is why the model did not do its work. A caller that went away
	// (context.Canceled) is no fault of the model.
	Err error
	// Score is the caller's own judgement of the answer, 0 (useless) to 1, if
	// Scored.
	Score  float64
	Scored bool
}

// PartStatuser is offered by a Mover, MemoryProbe, Selector or Placement that has
// something to say in Status.Parts. Every default part does.
type PartStatuser interface {
	// PartStatus returns a copy of what an operator may want to know; it marshals to
	// JSON. It may be called from any goroutine, at the same time as any other
	// method, and returns at once.
	PartStatus() any
}

// Closer is offered by a Mover, MemoryProbe, Selector or Placement that holds
// resources. The Manager calls Close once, after the last call to any other
// method has returned, on the parts that it made itself and on those that it
// was given.
type Closer interface {
	Close() error
}
