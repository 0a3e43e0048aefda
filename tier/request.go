package tier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Priority is what a request in auto or hybrid mode asks to be good at.
type Priority uint8

const (
	Balanced Priority = iota
	Speed
	Quality
)

var priorityNames = []string{"balanced", "speed", "quality"}

// String returns the priority's name on the wire: "balanced", "speed" or
// "quality".
func (p Priority) String() string { return nameOf(p, "priority", priorityNames) }

// ParsePriority returns the priority of that name; the error of an unknown one
// unwraps to ErrInvalid.
func ParsePriority(name string) (Priority, error) {
	return valueOf[Priority](name, "priority", priorityNames)
}

// MarshalText implements encoding.TextMarshaler.
func (p Priority) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Priority) UnmarshalText(text []byte) error { return setText(p, text, ParsePriority) }

// MaxDeadline bounds the Deadline of a Request.
const MaxDeadline = 24 * time.Hour

const maxConstraints = 64

// Request says which model is wanted. Model alone is manual; Preferred is
// manual too, or hybrid with Fallback; neither is auto.
type Request struct {
	// Model is served or nothing is (manual).
	Model string
	// Preferred is served if it can be served safely (hybrid).
	Preferred string
	// Capabilities the model must have, all of them. None named: text-generation, if
	// the library has it.
	Capabilities []string
	// Preferences are capabilities that count for a model without being required.
	Preferences []string
	// Constraints bound the labels of the model, all of them required; 64 at most.
	Constraints []Constraint
	// Deadline is how long it may take from now until the model can be used.
	// Models that are not expected to make it are left out. 0: no deadline.
	Deadline time.Duration
	// Policy names a ranking that the Selector knows; "" is its default.
	Policy string
	// Priority ranks the candidates of auto and hybrid.
	Priority Priority
	// Fallback lets another model answer if Preferred cannot.
	Fallback bool
	// Background: the caller can wait. Interactive requests go first.
	Background bool
	// KeepAlive is that of the model that is leased, from this request on until the next
	// one for it. 0: the model's own. See Model.KeepAlive.
	KeepAlive time.Duration
	// Explain asks for Choice.Explanation, which costs time and memory in
	// proportion to the library.
	Explain bool
	// Progress, if not nil, is called while the request waits: each 100 ms, the first
	// time 100 ms after it began to wait. Calls come one at a time on a goroutine of their
	// own. One that takes longer delays those after it and nothing else; after one that
	// panics or ends its goroutine there are no more. When Acquire returns, no more calls
	// follow; one that is under way or just begins may go on. The Waiting is the function's own.
	Progress func(Waiting)
}

// Phase is what a request waits for, in the order of a load.
type Phase uint8

const (
	// Queued: others go first, see Waiting.Behind.
	Queued Phase = iota
	// MakingRoom: models leave for it.
	MakingRoom
	// Loading: its bytes are on their way.
	Loading
	// Starting: all its bytes are there, and what serves it is not ready yet.
	Starting
)

var phaseNames = []string{"queued", "making room", "loading", "starting"}

// String returns "queued", "making room", "loading" or "starting".
func (p Phase) String() string { return nameOf(p, "phase", phaseNames) }

// MarshalText implements encoding.TextMarshaler.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Phase) UnmarshalText(text []byte) error {
	return setText(p, text, func(name string) (Phase, error) { return valueOf[Phase](name, "phase", phaseNames) })
}

// MaxBehind bounds the names in Waiting.Behind.
const MaxBehind = 8

// Waiting says how far a request is that waits for a model.
type Waiting struct {
	// Model is the name of the model that it waits for; "" while none is chosen.
	Model string `json:"model"`
	Phase Phase  `json:"phase"`
	// Position is its model's place among those that wait for their turn: 1 is next, 0
	// it waits for none. All requests for a model are served at once.
	Position int `json:"position,omitempty"`
	// Behind are the names of the models that go first, or that have the room it needs;
	// while room is made, of those that leave. MaxBehind of them at most.
	Behind []string `json:"behind,omitempty"`
	// Job is the ID of the job that loads the model; "" before.
	Job string `json:"job,omitempty"`
	// Done of Total bytes are there. Both are 0 before the load has begun.
	Done  Bytes `json:"bytes_done"`
	Total Bytes `json:"bytes_total"`
	// Left is the time until the model can be used; 0: unknown. In one phase it never
	// rises, unless the load is expected to take longer than was first assumed.
	Left time.Duration `json:"left_ns,omitempty"`
}

// Validate returns every fault at once, each an *InvalidError, or nil.
func (r *Request) Validate() error {
	var f faults
	if r.Model != "" && r.Preferred != "" {
		f.add("model", shorten(r.Model), "cannot stand beside a preferred model")
	}
	if r.Priority > Quality {
		f.add("priority", r.Priority.String(), "must be one of balanced, speed, quality")
	}
	f.names("capabilities", "capability", r.Capabilities)
	f.names("preferences", "preference", r.Preferences)
	if f.count("constraints", len(r.Constraints), maxConstraints) {
		for i, c := range r.Constraints {
			if err := c.Validate(); err != nil {
				f.errs = append(f.errs, err)
				continue
			}
			for _, d := range r.Constraints[:i] {
				if c.contradicts(d) {
					f.add("constraint", shorten(c.String()), "contradicts "+shorten(d.String()), "Leave one of the two constraints out.")
				}
			}
		}
	}
	if r.Deadline < 0 || r.Deadline > MaxDeadline {
		f.add("deadline", r.Deadline.String(), "must be positive and "+MaxDeadline.String()+" at most; leave it out for no deadline")
	}
	if r.Policy != "" {
		f.name("policy", r.Policy)
	}
	return errors.Join(f.errs...)
}

// DeadlineError is a request whose deadline no model is expected to meet.
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

// Mode is how a model was chosen.
type Mode uint8

const (
	Manual Mode = iota
	Auto
	Hybrid
)

// String returns "manual", "auto" or "hybrid".
func (m Mode) String() string { return nameOf(m, "mode", []string{"manual", "auto", "hybrid"}) }

// Choice is a Selector's answer.
type Choice struct {
	// Model is the name of the chosen model.
	Model string
	// Index is its place in the View's Library.
	Index int
	// Mode is how it was chosen. Hybrid with FellBack false means that the
	// preferred model was taken.
	Mode Mode
	// FellBack: the preferred model could not be served safely; Why says why.
	FellBack bool
	Why      string
	// Score is the chosen model's score; NaN if the model was asked for by name.
	Score float64
	// Explanation is set if the request asked for it, with an error too.
	Explanation *Explanation
}

// Reason says in one sentence why the model was chosen, in the recorded wording
// of the wire contract.
func (c *Choice) Reason() string {
	score := fmt.Sprintf("%.1f", c.Score)
	if score == "-0.0" { // of a score just below 0
		score = "0.0"
	}
	switch {
	case c.FellBack:
		return fmt.Sprintf("Intelligent selection: %s (score: %s); fell back: %s", c.Model, score, c.Why)
	case c.Mode == Hybrid:
		return fmt.Sprintf("Preferred model '%s' selected", c.Model)
	case c.Mode == Manual || math.IsNaN(c.Score):
		return fmt.Sprintf("Explicit model '%s' selected", c.Model)
	}
	return fmt.Sprintf("Intelligent selection: %s (score: %s)", c.Model, score)
}

// Explanation says why a choice came out as it did.
type Explanation struct {
	// Policy is the name of the ranking.
	Policy   string
	Priority Priority
	// Candidates are the models of the library: the chosen one, then those that lost
	// to it, best first, then those that were not eligible.
	Candidates []Candidate
	// Omitted is how many candidates are not listed.
	Omitted int
}

// Candidate is one model in an Explanation.
type Candidate struct {
	Model string
	Index int
	// Eligible: it could have been chosen. Verdict says in a few words why it lost or
	// was not eligible.
	Eligible bool
	Verdict  string
	// Score and the factors that make it up, in the units of the policy.
	Score   float64
	Factors []Factor
	// Expected is the predicted time until the model can be used.
	Expected time.Duration
}

// Factor is one part of a score.
type Factor struct {
	Name  string
	Value float64
}

// Constraint bounds a label of the wanted model. As text it is "vision",
// "language = fr" or "context >= 8192".
type Constraint struct {
	Label string
	// Op is how it compares. "": the label exists and is not "false", "no", "off" or
	// "0", or the model has a capability of that name. "=": one of the label's
	// comma-separated values is Value; "!=": none of them is, or there is no label. ">=",
	// "<=", ">" and "<": the label is one number that compares so with Value.
	Op string
	// Value is empty where Op is. Values compare without regard to case, and as numbers
	// if both are numbers; the suffixes k and m mean 1024 and 1024².
	Value string
}

// The ways to compare. From opAtLeast on they want numbers.
const (
	opHas = iota
	opEqual
	opNot
	opAtLeast
	opAtMost
	opAbove
	opBelow
)

var opSigns = []string{opHas: "", opEqual: "=", opNot: "!=", opAtLeast: ">=", opAtMost: "<=", opAbove: ">", opBelow: "<"}

// op returns the way to compare; -1: there is no such.
func (c *Constraint) op() int { return slices.Index(opSigns, c.Op) }

// ParseConstraint reads a Constraint from its text. The error unwraps to
// ErrInvalid.
func ParseConstraint(text string) (Constraint, error) {
	c := Constraint{Label: text}
	if i := strings.IndexAny(text, "<>=!≤≥≠"); i >= 0 {
		rest := text[i:]
		for _, sign := range [...]struct{ text, op string }{
			{"==", "="}, {">=", ">="}, {"<=", "<="}, {"!=", "!="}, {"≥", ">="},
			{"≤", "<="}, {"≠", "!="}, {"=", "="}, {">", ">"}, {"<", "<"},
		} {
			if value, ok := strings.CutPrefix(rest, sign.text); ok {
				c = Constraint{Label: text[:i], Op: sign.op, Value: strings.TrimSpace(value)}
				break
			}
		}
	}
	c.Label = strings.TrimSpace(c.Label)
	return c, c.Validate()
}

// String returns the text that ParseConstraint reads.
func (c Constraint) String() string {
	if c.op() <= opHas {
		return c.Label
	}
	return c.Label + " " + c.Op + " " + c.Value
}

// Validate returns an *InvalidError that names the fault, or nil.
func (c Constraint) Validate() error {
	fault := func(rule string) error {
		return &InvalidError{
			Field: "constraint", Value: shorten(c.String()), Rule: rule,
			Help: []string{`Write a constraint like "vision", "language = fr" or "context >= 8192".`},
		}
	}
	op := c.op()
	switch {
	case CheckName("label", c.Label) != nil || strings.ContainsAny(c.Label, "<>=!≤≥≠") || strings.TrimSpace(c.Label) != c.Label:
		return fault("must begin with the name of a label")
	case op < 0:
		return fault("must compare by one of =, !=, >=, <=, >, <")
	case op == opHas && c.Value != "":
		return fault("must have no value")
	case op == opHas:
		return nil
	case CheckName("value", c.Value) != nil || strings.ContainsAny(c.Value, "<>=!≤≥≠,") || strings.TrimSpace(c.Value) != c.Value:
		return fault("must end with one value")
	}
	if _, ok := number(c.Value); op >= opAtLeast && !ok {
		return fault("must compare with a number")
	}
	return nil
}

// Met reports whether the model satisfies the constraint.
func (c *Constraint) Met(m *Model) bool {
	label, ok := m.Labels[c.Label]
	op := c.op()
	switch op {
	case opHas:
		return ok && !isOff(label) || m.Can([]string{c.Label})
	case opEqual, opNot:
		found := false
		for v := range strings.SplitSeq(label, ",") {
			found = found || ok && same(strings.TrimSpace(v), c.Value)
		}
		return found == (op == opEqual)
	}
	have, ok := number(label)
	bound, valid := number(c.Value)
	return ok && valid && holds(op, have, bound)
}

func holds(op int, have, bound float64) bool {
	switch op {
	case opAtLeast:
		return have >= bound
	case opAtMost:
		return have <= bound
	case opAbove:
		return have > bound
	case opBelow:
		return have < bound
	}
	return false
}

// contradicts reports whether no model can meet both constraints.
func (c Constraint) contradicts(d Constraint) bool {
	if c.Label != d.Label {
		return false
	}
	this, that := c.op(), d.op()
	if this > that {
		c, d, this, that = d, c, that, this
	}
	a, ok := number(c.Value)
	b, _ := number(d.Value)
	upper := that == opAtMost || that == opBelow
	switch {
	case this == opEqual && that == opNot:
		return same(c.Value, d.Value)
	case this == opEqual && that >= opAtLeast:
		return !ok || !holds(that, a, b)
	case this == opAtLeast && that == opAtMost:
		return a > b
	case this == opAtLeast && upper, this == opAbove && upper:
		return a >= b
	case this == opAtMost && that == opAbove:
		return a <= b
	}
	return false
}

func isOff(value string) bool {
	return slices.Contains([]string{"false", "no", "off", "0"}, strings.ToLower(value))
}

func same(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, ok := number(a)
	y, ok2 := number(b)
	return ok && ok2 && x == y
}

// number reads "8192", "8k" or "1.5M".
func number(s string) (float64, bool) {
	unit := 1.0
	if n := len(s) - 1; n > 0 {
		switch s[n] {
		case 'k', 'K':
			s, unit = s[:n], 1<<10
		case 'm', 'M':
			s, unit = s[:n], 1<<20
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	return f * unit, err == nil && !math.IsNaN(f) && !math.IsInf(f*unit, 0)
}
