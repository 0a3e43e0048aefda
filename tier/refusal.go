package tier

import (
	"fmt"
	"strings"
	"time"
)

// Holder is a model that holds room.
type Holder struct {
	Model  string
	Bytes  Bytes
	Leases int
	Pinned bool
	Moving bool
	Stuck  bool
}

func (h Holder) String() string {
	why := ""
	switch {
	case h.Stuck:
		why = ", stuck"
	case h.Pinned:
		why = ", pinned"
	case h.Leases > 0:
		why = ", " + count(h.Leases, "lease")
	case h.Moving:
		why = ", moving"
	}
	return fmt.Sprintf("%s (%v%s)", h.Model, h.Bytes, why)
}

// CapacityError is room that is not there: never (it unwraps to ErrTooLarge) or
// not now (ErrNoCapacity).
type CapacityError struct {
	Model string
	// Account is what lacks room, where a Ledger says so; Tier is its tier, RAM for a
	// further account.
	Account Account
	Tier    Tier
	// Need, Free and Limit are bytes: what was asked for, what there is, and the
	// bound that was hit.
	Need, Free, Limit Bytes
	// Never: it would not fit if everything else left.
	Never bool
	// Reason is the whole sentence, where its wording is fixed. Detail is what lacks
	// without the model's name, for another sentence; a selector sets both.
	Reason, Detail string
	// Holders hold the room, largest first.
	Holders []Holder
}

func (e *CapacityError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	about := ""
	if e.Model != "" {
		about = "model '" + e.Model + "': "
	}
	if e.Never {
		return fmt.Sprintf("%sneeds %v in %v, the limit is %v", about, e.Need, e.Tier, e.Limit)
	}
	return fmt.Sprintf("%sneeds %v in %v, %v is free of %v", about, e.Need, e.Tier, max(e.Free, 0), e.Limit)
}

// Unwrap returns ErrTooLarge or ErrNoCapacity.
func (e *CapacityError) Unwrap() error {
	if e.Never {
		return ErrTooLarge
	}
	return ErrNoCapacity
}

// Suggestions implements Suggester.
func (e *CapacityError) Suggestions() []string {
	var out []string
	if e.Never {
		return append(out, fmt.Sprintf("Raise the %v limit, or use a smaller model or a stronger quantisation.", e.Tier))
	}
	if len(e.Holders) > 0 {
		names := make([]string, 0, len(e.Holders))
		for _, h := range e.Holders[:min(len(e.Holders), 5)] {
			names = append(names, h.String())
		}
		out = append(out, "Room is held by "+strings.Join(names, ", ")+": demote one of them, or wait.")
	}
	return append(out, "Ask for a smaller model, or free memory on the machine.")
}

// BusyError is a queue that is full, or a wait that was longer than it may be.
type BusyError struct {
	Model      string // the model whose queue it is; "": the whole queue
	Queued     int
	RetryAfter time.Duration // when to come back
	Cause      error         // why it is so, where that is another error
	Reason     string
}

func (e *BusyError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	about := ""
	if e.Model != "" {
		about = " for model '" + e.Model + "'"
	}
	return fmt.Sprintf("queue%s is full with %d requests, retry in %v", about, e.Queued, e.RetryAfter.Round(time.Millisecond))
}

// Unwrap returns ErrBusy, and Cause where there is one.
func (e *BusyError) Unwrap() []error {
	if e.Cause != nil {
		return []error{ErrBusy, e.Cause}
	}
	return []error{ErrBusy}
}

// Code implements Coder.
func (e *BusyError) Code() string { return "busy" }

// Suggestions implements Suggester.
func (e *BusyError) Suggestions() []string {
	return []string{fmt.Sprintf("Retry in %v.", e.RetryAfter.Round(100*time.Millisecond))}
}

// InUseError is an act that needs a model to be idle.
type InUseError struct {
	Model  string
	Leases int
	Reason string
}

func (e *InUseError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	return fmt.Sprintf("Model '%s' is in use by %s", e.Model, count(e.Leases, "lease"))
}

// count is "1 lease" or "2 leases".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Unwrap returns ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// Suggestions implements Suggester.
func (e *InUseError) Suggestions() []string {
	return []string{"Wait until its leases and its running move have ended, then ask again."}
}

// LimitsError is a limit that is refused.
type LimitsError struct {
	Field     string
	Value     Bytes
	Reason    string
	MustLeave []Holder // who would have to leave first
}

func (e *LimitsError) Error() string { return e.Reason }

// Unwrap returns ErrLimits.
func (e *LimitsError) Unwrap() error { return ErrLimits }

// Suggestions implements Suggester.
func (e *LimitsError) Suggestions() []string {
	if len(e.MustLeave) == 0 {
		return []string{"Ask for a higher limit."}
	}
	names := make([]string, len(e.MustLeave))
	for i, h := range e.MustLeave {
		names[i] = h.String()
	}
	return []string{"These would have to leave first: " + strings.Join(names, ", ") + "."}
}
