package tier

import (
	"time"
)

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
	// Score is the caller's own judgement of the answer, 0 (useless) to 1, where
	// Scored.
	Score  float64
	Scored bool
}

// Reporter is what a Selector or a Placement offers that learns from how leases
// turned out. Calls come as those of a Learner do.
type Reporter interface {
	Reported(outcomes []Outcome)
}
