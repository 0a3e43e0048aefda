package tier

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Sentinels. Every error that modeltier makes unwraps to one of them or to a
// context's cause; ask with errors.Is. The typed errors below carry the numbers;
// ask with errors.AsType.
var (
	ErrClosed         = errors.New("closed")
	ErrNotFound       = errors.New("not found")
	ErrExists         = errors.New("already exists")
	ErrNoCapableModel = errors.New("no capable model")
	ErrTooLarge       = errors.New("too large, will never fit")
	ErrNoCapacity     = errors.New("no capacity now")
	ErrBusy           = errors.New("busy")
	ErrInUse          = errors.New("in use")
	ErrLimits         = errors.New("limits refused")
	ErrStuck          = errors.New("stuck")
	ErrInvalid        = errors.New("invalid")
	ErrMove           = errors.New("move failed")
	ErrPanic          = errors.New("panic in a plugged-in part")
)

// Coder is an error with a stable word for programs, the code on the wire.
type Coder interface {
	error
	Code() string
}

// Suggester is an error that says what its reader can do.
type Suggester interface {
	error
	Suggestions() []string
}

var codes = []struct {
	err  error
	code string
}{
	{ErrClosed, "closed"},
	{ErrNotFound, "not_found"},
	{ErrExists, "exists"},
	{ErrNoCapableModel, "no_capable_model"},
	{ErrTooLarge, "too_large"},
	{ErrNoCapacity, "no_capacity"},
	{ErrBusy, "busy"},
	{ErrInUse, "in_use"},
	{ErrLimits, "limits"},
	{ErrStuck, "stuck"},
	{ErrInvalid, "invalid_request"},
	{ErrPanic, "internal"},
	{ErrMove, "move_failed"},
}

// Code returns the stable word for err: that of the Coder in its chain, else
// that of the sentinel it unwraps to, else "canceled" or "deadline_exceeded" for
// a context's end, else "internal". A nil error has no code.
func Code(err error) string {
	if err == nil {
		return ""
	}
	if c, ok := errors.AsType[Coder](err); ok {
		return c.Code()
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline_exceeded"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "internal"
}

// Suggestions returns what the reader of err can do about it; it may be empty.
func Suggestions(err error) []string {
	if s, ok := errors.AsType[Suggester](err); ok {
		return s.Suggestions()
	}
	switch Code(err) {
	case "closed":
		return []string{"The server is shutting down: ask again when it is back."}
	case "deadline_exceeded", "canceled":
		return []string{"The load goes on where others wait for it: ask again, or wait longer."}
	}
	return nil
}

func joinFaults(faults []error) error {
	if len(faults) == 1 {
		return faults[0]
	}
	return errors.Join(faults...)
}

// InvalidError is input that can be seen to be wrong.
type InvalidError struct {
	Model  string // the model it is about, if any
	Field  string
	Value  string
	Rule   string // what the field must be
	Reason string // the whole sentence, where its wording is fixed
	Help   []string
}

func (e *InvalidError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	about := ""
	if e.Model != "" {
		about = "model " + shorten(e.Model) + ": "
	}
	return fmt.Sprintf("%s%s %s %s", about, e.Field, e.Value, e.Rule)
}

// Unwrap returns ErrInvalid.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// Suggestions implements Suggester.
func (e *InvalidError) Suggestions() []string {
	switch {
	case e.Help != nil:
		return e.Help
	case e.Rule != "":
		return []string{e.Field + " " + e.Rule + "."}
	}
	return nil
}

// NotFoundError is a model or job that is not known.
type NotFoundError struct {
	What   string   // "model" or "job"
	Name   string   //
	Nearby []string // names that look like it
}

func (e *NotFoundError) Error() string {
	if e.What == "job" {
		return "Job ID not found"
	}
	return "Model '" + e.Name + "' not found"
}

// Unwrap returns ErrNotFound.
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// Suggestions implements Suggester.
func (e *NotFoundError) Suggestions() []string {
	switch {
	case e.What == "job":
		return []string{"Job IDs are those that a start answered; old jobs are forgotten, and none outlives a restart."}
	case len(e.Nearby) > 0:
		return []string{"Did you mean " + strings.Join(e.Nearby, ", ") + "?"}
	}
	return []string{"List the library, or add the model with a hot load."}
}

// ExistsError is a name that is taken.
type ExistsError struct{ Model string }

func (e *ExistsError) Error() string { return "Model '" + e.Model + "' already exists" }

// Unwrap returns ErrExists.
func (e *ExistsError) Unwrap() error { return ErrExists }

// Suggestions implements Suggester.
func (e *ExistsError) Suggestions() []string {
	return []string{"Choose another name, or remove the model first."}
}

// NoCapableModelError is a request whose capabilities no model has that can be
// served. Unsafe is why the capable ones cannot be, where there are any.
type NoCapableModelError struct {
	Capabilities []string
	Nearest      []string // capabilities that the library does know
	Unsafe       error
}

func (e *NoCapableModelError) Error() string {
	what := strings.Join(e.Capabilities, ", ")
	if e.Unsafe != nil {
		return fmt.Sprintf("No model with capabilities [%s] can be served now: %v", what, e.Unsafe)
	}
	return fmt.Sprintf("No model has the capabilities [%s]", what)
}

// Unwrap returns ErrNoCapableModel, and Unsafe where there is one.
func (e *NoCapableModelError) Unwrap() []error {
	if e.Unsafe != nil {
		return []error{ErrNoCapableModel, e.Unsafe}
	}
	return []error{ErrNoCapableModel}
}

// Code implements Coder.
func (e *NoCapableModelError) Code() string { return "no_capable_model" }

// Suggestions implements Suggester.
func (e *NoCapableModelError) Suggestions() []string {
	if e.Unsafe != nil {
		return append([]string{"A capable model exists but cannot be served safely now."}, Suggestions(e.Unsafe)...)
	}
	if len(e.Nearest) > 0 {
		return []string{"The library knows: " + strings.Join(e.Nearest, ", ") + "."}
	}
	return []string{"Give the models of the library capabilities, or ask for none."}
}
