package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Options are the settings of a Mover. Engine.Command or EngineOf is needed; all
// else has a default.
type Options struct {
	// Engine serves every model that EngineOf does not speak for.
	Engine Engine
	// EngineOf returns the engine of one model, by its labels or whatever else; it
	// may start from Engine. It is called at every start, on the goroutine of the
	// move, with no lock held. An error is that of the move. Nil: Engine for all.
	EngineOf func(m *tier.Model) (Engine, error)

	// StateDir is a folder, made if missing, that keeps the identity of every
	// running engine, so that New can end those that a killed process left behind.
	// It may be shared by several Movers and processes. "": nothing is kept.
	StateDir string
	// Cgroup is the folder of a cgroup v2 under which engines get cgroups of their
	// own: one that was delegated to this process. "": the cgroup it is in.
	Cgroup string
	// Logger gets the lines that engines print, at debug level, and what an
	// operator should know. nil: silent.
	Logger *slog.Logger

	// Crashed is called when an engine ended though nobody stopped it, once the
	// exit was seen and all its processes are gone. The model is in storage by
	// then: Resident says nothing of it is present, URL knows it no more, and a
	// Move to ram starts it anew. err is an *EngineError with its last lines.
	//
	// It runs on a goroutine of its own, with no lock held. It holds up the next
	// Move of that model and Close, so it must not wait for either, and a panic in
	// it is logged. It is not called for what happens during a Move of the model,
	// which that Move returns, nor once Close was called. Nil: nobody is told.
	Crashed func(model string, err error)

	// Refill brings the files at path into the page cache, with progress in bytes;
	// mapped.Mover.Refill is one. Its error, or a panic in it, is logged and harms
	// nothing: the engine then reads what is missing itself. Nil: 4 readers, one
	// model after the other.
	Refill func(ctx context.Context, path string, progress func(done tier.Bytes)) error

	// LeaveCached leaves the weights of a frozen engine in the page cache, as those
	// of a stopped one stay there, for the kernel to take when it wants room: they
	// are clean, count as available memory, and are not charged. The engine thaws at
	// once where they are still there. Without it they are paged out, so that the
	// memory is seen to be free.
	LeaveCached bool
	// Prestart has a move from storage to swap start the engine and freeze it.
	// While it starts it takes what the model takes in ram, which nobody has set
	// aside for such a move. Without it the engine is started by its first promote.
	Prestart bool

	// StartTimeout bounds a start, from the command to the health page's consent,
	// and a wake-up. 0: 5 min.
	StartTimeout time.Duration
	// StopTimeout is how long an engine has to end when asked to, before it is
	// killed. Up to half of it is for Engine.Shutdown to be answered, what is left
	// is from SIGTERM on. 0: 5 s.
	StopTimeout time.Duration
	// Excess is how many bytes more than Model.Size + Model.Runtime an engine may
	// take while it starts before it is killed with an error that says so. What it
	// takes within that is charged, and set aside for its next load: see
	// Mover.Footprint. 0: as many as declared again, and 1 GiB at least.
	// tier.Unlimited: no bound.
	Excess tier.Bytes
}

// killLimit is how long a killed process may take to be gone before it counts as
// stuck: the time to give a large memory back, with room.
const killLimit = 10 * time.Second

func (o Options) withDefaults() (Options, error) {
	o.StartTimeout = cmp.Or(o.StartTimeout, 5*time.Minute)
	o.StopTimeout = cmp.Or(o.StopTimeout, 5*time.Second)
	var errs []error
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"StartTimeout", o.StartTimeout}, {"StopTimeout", o.StopTimeout}} {
		if d.value < 0 {
			errs = append(errs, &tier.InvalidError{Field: d.field, Value: d.value.String(), Rule: "must be positive, or zero for its default"})
		}
	}
	if o.Excess < 0 {
		errs = append(errs, &tier.InvalidError{Field: "Excess", Value: fmt.Sprint(int64(o.Excess)), Rule: "must be bytes, 0 for the default, or tier.Unlimited"})
	}
	if len(o.Engine.Command) > 0 || o.EngineOf == nil {
		errs = append(errs, o.Engine.validate(""))
	}
	return o, errors.Join(errs...)
}

// engineOf returns the engine of a model, checked.
func (o *Options) engineOf(ctx context.Context, model tier.Model) (Engine, error) {
	engine := o.Engine
	if o.EngineOf != nil {
		err := guarded(ctx, "Options.EngineOf", func() (err error) {
			engine, err = o.EngineOf(&model)
			return err
		})
		if err != nil {
			return Engine{}, fmt.Errorf("the engine of model %q: %w", model.Name, err)
		}
	}
	return engine, engine.validate(model.Name)
}

// callLimit is how long foreign code may go on after it should have returned.
const callLimit = time.Second

// guarded calls foreign code on a goroutine of its own. A panic in it, or its end of
// the goroutine, is a *tier.PanicError of that part. If it has not returned
// callLimit after ctx ended, it is abandoned: it must write nothing that is read
// after an error.
func guarded(ctx context.Context, part string, call func() error) error {
	result := make(chan error, 1)
	go func() {
		var err error
		returned := false
		defer func() {
			if !returned {
				err = &tier.PanicError{Part: part, Value: recover(), Stack: debug.Stack()}
			}
			result <- err
		}()
		err = call()
		returned = true
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	select {
	case err := <-result:
		return err
	case <-limit.C:
		return fmt.Errorf("%s has not returned %v after it was called off: %w", part, callLimit, context.Cause(ctx))
	}
}

// allowed is how many bytes an engine may take while it starts.
func (o *Options) allowed(model *tier.Model) tier.Bytes {
	declared := model.Size.Plus(model.Runtime)
	return declared.Plus(cmp.Or(o.Excess, max(declared, tier.GiB)))
}
