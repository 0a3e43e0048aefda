package tier

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Priority is what a request in auto or hybrid mode asks to be good at.
type Priority uint8

const (
	Balanced Priority = iota
	Speed
	Quality
)

// String returns the priority's name on the wire: "balanced", "speed" or
// "quality".
func (p Priority) String() string {
	switch p {
	case Balanced:
		return "balanced"
	case Speed:
		return "speed"
	case Quality:
		return "quality"
	}
	return fmt.Sprintf("priority(%d)", uint8(p))
}

// ParsePriority returns the priority of that name; the error of an unknown one
// unwraps to ErrInvalid.
func ParsePriority(name string) (Priority, error) {
	for p := Balanced; p <= Quality; p++ {
		if p.String() == name {
			return p, nil
		}
	}
	return Balanced, &InvalidError{Field: "priority", Value: shorten(name), Rule: "must be one of balanced, speed, quality"}
}

// MarshalText implements encoding.TextMarshaler.
func (p Priority) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Priority) UnmarshalText(text []byte) error {
	v, err := ParsePriority(string(text))
	if err == nil {
		*p = v
	}
	return err
}

// Bounds on what a Request may name.
const (
	MaxConstraints = 64
	MaxDeadline    = 24 * time.Hour
)

// Request says which model is wanted. Model alone is manual; Preferred is
// manual too, or hybrid with Fallback; neither is auto.
type Request struct {
	// Model is served or nothing is (manual).
	Model string
	// Preferred is served if it can be served safely (hybrid).
	Preferred string
	// Capabilities the model must have, all of them. None named: text-generation
	// where the library has it.
	Capabilities []string
	// Preferences are capabilities that speak for a model without being required.
	Preferences []string
	// Constraints bound the labels of the model, all of them required.
	Constraints []Constraint
	// Deadline is how long it may take from now until the model can be used.
	// Models that are not expected to make it are left out. 0: no deadline.
	Deadline time.Duration
	// Policy names the way of ranking, one that the Selector knows; "" is its own
	// default.
	Policy string
	// Priority ranks the candidates of auto and hybrid.
	Priority Priority
	// Fallback lets another model answer where Preferred cannot.
	Fallback bool
	// Background: somebody can wait. Interactive requests go before it.
	Background bool
	// Explain asks for Choice.Explanation, which costs time and memory in
	// proportion to the library.
	Explain bool
}

// Validate returns every fault at once, each an *InvalidError, or nil.
func (r *Request) Validate() error {
	var errs []error
	fault := func(field, value, rule string, help ...string) {
		errs = append(errs, &InvalidError{Field: field, Value: value, Rule: rule, Help: help})
	}
	check := func(field, name string) {
		if err := CheckName(field, name); err != nil {
			errs = append(errs, err)
		}
	}
	count := func(field string, n, most int) bool {
		if n > most {
			fault(field, strconv.Itoa(n)+" of them", fmt.Sprint("must be ", most, " at most"))
		}
		return n <= most
	}
	if r.Model != "" && r.Preferred != "" {
		fault("model", shorten(r.Model), "cannot stand beside a preferred model")
	}
	if r.Priority > Quality {
		fault("priority", r.Priority.String(), "must be one of balanced, speed, quality")
	}
	if count("capabilities", len(r.Capabilities), MaxCapabilities) {
		for _, c := range r.Capabilities {
			check("capability", c)
		}
	}
	if count("preferences", len(r.Preferences), MaxCapabilities) {
		for _, c := range r.Preferences {
			check("preference", c)
		}
	}
	if count("constraints", len(r.Constraints), MaxConstraints) {
		for i, c := range r.Constraints {
			if err := c.Validate(); err != nil {
				errs = append(errs, err)
				continue
			}
			for _, d := range r.Constraints[:i] {
				if c.contradicts(d) {
					fault("constraint", shorten(c.String()), "contradicts "+shorten(d.String()), "Leave one of the two constraints out.")
				}
			}
		}
	}
	if r.Deadline < 0 || r.Deadline > MaxDeadline {
		fault("deadline", r.Deadline.String(), "must be positive and "+MaxDeadline.String()+" at most; leave it out for no deadline")
	}
	if r.Policy != "" {
		check("policy", r.Policy)
	}
	return joinFaults(errs)
}

// DeadlineError is a request whose deadline no model is expected to make.
type DeadlineError struct {
	Model    string        // the fastest of those that could serve it
	Expected time.Duration // predicted time until that one can be used
	Deadline time.Duration
}

func (e *DeadlineError) Error() string {
	return fmt.Sprintf("Model '%s' is expected to be usable in %v, the deadline is %v", e.Model, e.Expected.Round(time.Millisecond), e.Deadline)
}

// Unwrap returns context.DeadlineExceeded.
func (e *DeadlineError) Unwrap() error { return context.DeadlineExceeded }

// Code implements Coder.
func (e *DeadlineError) Code() string { return "deadline_exceeded" }

// Suggestions implements Suggester.
func (e *DeadlineError) Suggestions() []string {
	wait := e.Expected.Truncate(time.Millisecond) + time.Millisecond
	return []string{fmt.Sprintf("Allow at least %v, ask for a smaller model, or have the model loaded beforehand.", wait)}
}
