package tier

import (
	"errors"
	"fmt"
	"time"
)

// MoveError is a move that failed.
type MoveError struct {
	Model    string
	From, To Tier
	// Lost: the model could not be brought back to From and is in storage, with no
	// bytes left behind. A Mover that returns it says so.
	Lost bool
	Err  error
}

func (e *MoveError) Error() string {
	return fmt.Sprintf("moving '%s' from %v to %v: %v", e.Model, e.From, e.To, e.Err)
}

// Unwrap returns ErrMove and Err.
func (e *MoveError) Unwrap() []error { return []error{ErrMove, e.Err} }

// Suggestions implements Suggester.
func (e *MoveError) Suggestions() []string {
	if s, ok := errors.AsType[Suggester](e.Err); ok {
		return s.Suggestions()
	}
	return []string{"See the reason; the model can be asked for again once it is mended."}
}

// StuckError is a part that did not come back in time.
type StuckError struct {
	Model string // "": it is about no single model
	What  string // what did not come back
	After time.Duration
	Bytes Bytes // still charged
}

func (e *StuckError) Error() string {
	text := e.What
	if e.Model != "" {
		text += " of '" + e.Model + "'"
	}
	if e.After > 0 {
		text += fmt.Sprintf(" did not end within %v", e.After)
	} else {
		text += " did not end in time"
	}
	if e.Bytes > 0 {
		text += fmt.Sprintf("; %v stay charged", e.Bytes)
	}
	return text
}

// Unwrap returns ErrStuck.
func (e *StuckError) Unwrap() error { return ErrStuck }

// Suggestions implements Suggester.
func (e *StuckError) Suggestions() []string {
	if e.Bytes == 0 {
		return []string{"It is left alone until it returns; if it never does, report it with the log, and restart."}
	}
	return []string{"Check the device and the engine; the bytes come back when the mover returns, or with a restart."}
}

// PanicError is a panic, or a call of runtime.Goexit, in a plugged-in part.
type PanicError struct {
	Part  string // "mover", "selector", …
	Value any    // what it panicked with; nil for Goexit
	Stack []byte
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return e.Part + " ended its goroutine"
	}
	return fmt.Sprintf("%s panicked: %v", e.Part, e.Value)
}

// Unwrap returns ErrPanic, and the panic's value where that is an error.
func (e *PanicError) Unwrap() []error {
	if err, ok := e.Value.(error); ok {
		return []error{ErrPanic, err}
	}
	return []error{ErrPanic}
}

// Suggestions implements Suggester.
func (e *PanicError) Suggestions() []string {
	return []string{"This is a fault of the " + e.Part + ", not of the request: report it with the log."}
}
