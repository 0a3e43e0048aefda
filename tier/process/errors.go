package process

import (
	"fmt"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Fault is the way in which an engine failed.
type Fault string

const (
	CannotStart  Fault = "cannot be started"              // no such program, no right to run it
	ExitedEarly  Fault = "ended before it was ready"      //
	NeverReady   Fault = "was not ready in time"          // its health page did not say so
	TookTooMuch  Fault = "takes more memory than it may"  // see Options.Excess
	Unresponsive Fault = "does not answer after its rest" // thawed or woken, but not ready
	Ended        Fault = "ended by itself"                // while it was ready or at rest
)

// EngineError is an engine that failed. It unwraps to tier.ErrMove and to Err.
type EngineError struct {
	Model   string
	Fault   Fault
	Command []string
	// After is how long after its start, thaw or wake-up it failed.
	After time.Duration
	// Health is what the health page said last, where that matters.
	Health string
	// Took and Allowed are bytes, where the fault is about memory.
	Took, Allowed tier.Bytes
	// Err is the cause: how the process ended, or what the system said.
	Err error
	// Output is the last lines that the engine printed, oldest first.
	Output []string
}

func (e *EngineError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the engine of '%s' %s", e.Model, e.Fault)
	if e.Fault == TookTooMuch {
		fmt.Fprintf(&b, ": %v of %v", e.Took, e.Allowed)
	}
	if e.After > 0 {
		fmt.Fprintf(&b, ", after %v", e.After.Round(time.Millisecond))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Health != "" {
		fmt.Fprintf(&b, "; its health page: %s", e.Health)
	}
	if len(e.Output) > 0 {
		const lines = 5
		last := e.Output[max(0, len(e.Output)-lines):]
		fmt.Fprintf(&b, "; it printed last: %s", strings.Join(last, " / "))
	}
	return b.String()
}

// Unwrap returns tier.ErrMove and Err.
func (e *EngineError) Unwrap() []error {
	if e.Err == nil {
		return []error{tier.ErrMove}
	}
	return []error{tier.ErrMove, e.Err}
}

// Suggestions implements tier.Suggester.
func (e *EngineError) Suggestions() []string {
	program := "The engine"
	if len(e.Command) > 0 {
		program = quote(e.Command[0])
	}
	switch e.Fault {
	case CannotStart:
		return []string{program + " must be a program that can be found and run: check Engine.Command and PATH."}
	case ExitedEarly:
		return []string{"See what it printed last, or run the command by hand: " + quote(strings.Join(e.Command, " "))}
	case NeverReady:
		return []string{
			"Check that it listens on 127.0.0.1 at {port}, and that Engine.Health names a page that answers 2xx once it is ready.",
			"A large model on a slow device may need a longer Options.StartTimeout.",
		}
	case TookTooMuch:
		return []string{
			fmt.Sprintf("Declare what it needs: Model.Size and Model.Runtime together should be %v.", e.Took),
			"Or have it take less: a smaller context, fewer slots. Options.Excess bounds what is let pass.",
		}
	case Unresponsive:
		return []string{"It is started anew when the model is asked for next. If it happens again, set Engine.Standby to StandbyStop."}
	}
	help := []string{"It is started anew when the model is asked for next. See what it printed last."}
	if e.Err != nil && strings.Contains(e.Err.Error(), "killed") {
		help = append(help, "Killed by somebody else: most often by the kernel, for want of memory. See the kernel's log.")
	}
	return help
}
