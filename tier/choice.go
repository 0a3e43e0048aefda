package tier

import (
	"fmt"
	"math"
	"time"
)

// Mode is how a choice came about.
type Mode uint8

const (
	Manual Mode = iota
	Auto
	Hybrid
)

// String returns "manual", "auto" or "hybrid".
func (m Mode) String() string {
	switch m {
	case Manual:
		return "manual"
	case Auto:
		return "auto"
	case Hybrid:
		return "hybrid"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

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
	// Score is the chosen model's score; NaN where the model was asked for by
	// name.
	Score float64
	// Explanation is there where the request asked for it, with an error too.
	Explanation *Explanation
}

// Reason says in one sentence why the model was chosen, in the recorded wording
// of the wire contract.
func (c *Choice) Reason() string {
	score := fmt.Sprintf("%.1f", c.Score)
	if score == "-0.0" { // of what is just below nothing
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

// Explanation is why a choice came out as it did.
type Explanation struct {
	// Policy is the name of the policy that ranked.
	Policy   string
	Priority Priority
	// Candidates are the models of the library: the chosen one, then those that it
	// beat, best first, then those that were left out.
	Candidates []Candidate
	// Omitted is how many more there are than the explanation lists.
	Omitted int
}

// Candidate is one model in an Explanation.
type Candidate struct {
	Model string
	Index int
	// Eligible: it might have been chosen. Verdict says in a few words what it lost
	// by, or why it was left out.
	Eligible bool
	Verdict  string
	// Score and the factors that it is made of, in the units of the policy.
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
