package tier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Sentinels. Every error of modeltier unwraps to one of them or to a context's
// cause; test with errors.Is. The typed errors below carry the numbers; get them
// with errors.AsType.
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
	ErrDamaged        = errors.New("damaged")
	ErrPanic          = errors.New("panic in a plugged-in part")
)

// Coder is an error with a stable word for programs: the code on the wire.
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
	{ErrDamaged, "damaged"},
	{ErrPanic, "internal"},
	{ErrMove, "move_failed"},
	{context.DeadlineExceeded, "deadline_exceeded"},
	{context.Canceled, "canceled"},
}

// Code returns the stable word for err: that of the Coder in its chain, else that
// of the sentinel that it unwraps to, else "canceled" or "deadline_exceeded" for a
// context that ended, else "internal". A nil error has no code.
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
	return "internal"
}

// Suggestions returns what a reader of err can do about it; it may be empty.
func Suggestions(err error) []string {
	if s, ok := errors.AsType[Suggester](err); ok {
		return s.Suggestions()
	}
	switch Code(err) {
	case "closed":
		return []string{"The server is shutting down: ask again when it is back."}
	case "deadline_exceeded", "canceled":
		return []string{"The load goes on if other requests wait for it: ask again, or wait longer."}
	}
	return nil
}

// wrapped is what an error unwraps to that may have a cause.
func wrapped(sentinel, cause error) []error {
	if cause == nil {
		return []error{sentinel}
	}
	return []error{sentinel, cause}
}

// InvalidError is input that breaks a rule.
type InvalidError struct {
	Model  string // the model it is about, if any
	Field  string
	Value  string
	Rule   string // what the field must be
	Reason string // the whole sentence, if its wording is fixed
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

// NotFoundError is an unknown model, job, reservation, alias or older version.
type NotFoundError struct {
	What   string   // "model", "job", "reservation", "alias" or "older version"
	Name   string   //
	Nearby []string // names that look like it
	Of     string   // the model that is not there, if Name is an alias of one
	// VersionOf is the model of which Name is no version or, if Ambiguous, begins several;
	// Versions are the names of those that it has, the current one first.
	VersionOf string
	Versions  []string
	Ambiguous bool
}

func (e *NotFoundError) Error() string {
	switch e.What {
	case "job":
		return "Job ID not found"
	case "reservation":
		return "Reservation " + shorten(e.Name) + " not found"
	case "alias":
		return "Alias '" + e.Name + "' not found"
	case "older version":
		return "Model '" + e.Name + "' has no older version"
	}
	switch {
	case e.Ambiguous:
		return "Model '" + e.Name + "' not found: several versions of '" + e.VersionOf + "' begin so"
	case e.VersionOf != "":
		return "Model '" + e.Name + "' not found: '" + e.VersionOf + "' has no such version"
	}
	if e.Of != "" {
		return "Model '" + e.Name + "' not found: it is an alias of '" + e.Of + "', which is not in the library"
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
	case e.What == "reservation":
		return []string{"A reservation ends when it is released, when its time is up or its connection ends, and with the server: reserve again if the room is still needed."}
	case e.What == "older version":
		return []string{"An older version is kept when the model becomes another and its files stay: list_models shows those that there are."}
	case len(e.Versions) > 0:
		return []string{"Name one of its versions, by six digits or more: " + strings.Join(e.Versions, ", ") + ", of which the first is current."}
	case e.VersionOf != "":
		return []string{"Ask for '" + e.VersionOf + "': its version is not known."}
	case e.Of != "":
		help := []string{"Have the alias name another model, or add '" + e.Of + "' again."}
		if len(e.Nearby) > 0 {
			help = append(help, "Ask for "+strings.Join(e.Nearby, ", ")+".")
		}
		return help
	case len(e.Nearby) > 0:
		return []string{"Did you mean " + strings.Join(e.Nearby, ", ") + "?"}
	}
	return []string{"List the library, or add the model with a hot load."}
}

// ExistsError is a name that is taken, by a model or by an alias.
type ExistsError struct {
	Model string // the name
	Of    string // the model that it is an alias of; "": it is a model's own
}

func (e *ExistsError) Error() string {
	if e.Of != "" {
		return "'" + e.Model + "' is an alias of model '" + e.Of + "' already"
	}
	return "Model '" + e.Model + "' already exists"
}

// Unwrap returns ErrExists.
func (e *ExistsError) Unwrap() error { return ErrExists }

// Suggestions implements Suggester.
func (e *ExistsError) Suggestions() []string {
	if e.Of != "" {
		return []string{"Choose another name, or remove the alias first."}
	}
	return []string{"Choose another name, or remove the model first."}
}

// NoCapableModelError is a request for capabilities that no model has that can be
// served. Unsafe is why the capable models, if there are any, cannot be served.
type NoCapableModelError struct {
	Capabilities []string
	Nearest      []string // capabilities that the library has
	Able         []string // models that have them, if one was named that has not
	Unsafe       error
	Reason       string // the whole sentence, if its wording is fixed
}

func (e *NoCapableModelError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	what := strings.Join(e.Capabilities, ", ")
	if e.Unsafe != nil {
		return fmt.Sprintf("No model with capabilities [%s] can be served now: %v", what, e.Unsafe)
	}
	return fmt.Sprintf("No model has the capabilities [%s]", what)
}

// Unwrap returns ErrNoCapableModel and, if there is one, Unsafe.
func (e *NoCapableModelError) Unwrap() []error {
	return wrapped(ErrNoCapableModel, e.Unsafe)
}

// Code implements Coder.
func (e *NoCapableModelError) Code() string { return "no_capable_model" }

// Suggestions implements Suggester.
func (e *NoCapableModelError) Suggestions() []string {
	if e.Unsafe != nil {
		return append([]string{"A capable model exists but cannot be served safely now."}, Suggestions(e.Unsafe)...)
	}
	if len(e.Able) > 0 {
		return []string{"Ask for a model that has it: " + strings.Join(e.Able, ", ") + "."}
	}
	if len(e.Nearest) > 0 {
		return []string{"The library knows: " + strings.Join(e.Nearest, ", ") + "."}
	}
	return []string{"Give the models of the library capabilities, or ask for none."}
}

// Holder is a model that holds room, or an outsider to whom it was given.
type Holder struct {
	Model  string // "": it is no model
	Bytes  Bytes
	Leases int
	Pinned bool
	Moving bool
	Stuck  bool
	// Reservation is the ID of an outsider's room, Why what it said that it is for.
	Reservation, Why string
}

// Name returns the model's name, or "reservation ID".
func (h Holder) Name() string {
	if h.Reservation != "" {
		return "reservation " + h.Reservation
	}
	return h.Model
}

func (h Holder) String() string {
	why := ""
	switch {
	case h.Reservation != "" && h.Why != "":
		why = ", " + shorten(h.Why)
	case h.Stuck:
		why = ", stuck"
	case h.Pinned:
		why = ", pinned"
	case h.Leases > 0:
		why = ", " + count(h.Leases, "lease")
	case h.Moving:
		why = ", moving"
	}
	return fmt.Sprintf("%s (%v%s)", h.Name(), h.Bytes, why)
}

func listed(holders []Holder) string {
	names := make([]string, len(holders))
	for i, h := range holders {
		names[i] = h.String()
	}
	return strings.Join(names, ", ")
}

// CapacityError is room that is missing: for good (it unwraps to ErrTooLarge) or for
// now (ErrNoCapacity).
type CapacityError struct {
	Model string
	// Account is what lacks room, in an error of a Ledger; Tier is its tier, RAM for a
	// further account.
	Account Account
	Tier    Tier
	// Need, Free and Limit are bytes: what was asked for, what there is, and the
	// bound that was hit.
	Need, Free, Limit Bytes
	// Never: it would not fit if everything else left.
	Never bool
	// Reason is the whole sentence, if its wording is fixed. Detail is what is missing,
	// without the model's name, for use in another sentence; a Selector sets both.
	Reason, Detail string
	// RetryAfter is when it is worth asking again, by what is known; 0: not known. A
	// Manager sets it.
	RetryAfter time.Duration
	// Holders hold the room, largest first; what the Manager reports has reservations
	// before models.
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
		return fmt.Sprintf("%sneeds %v in %s, the limit is %v", about, e.Need, e.place(), e.Limit)
	}
	return fmt.Sprintf("%sneeds %v in %s, %v is free of %v", about, e.Need, e.place(), max(e.Free, 0), e.Limit)
}

// place returns what lacks room: a tier, or an account that is no tier's.
func (e *CapacityError) place() string {
	if e.Account >= FurtherAccount {
		return fmt.Sprintf("account %d", e.Account)
	}
	return e.Tier.String()
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
	reserved := func(h Holder) bool { return h.Reservation != "" }
	switch shown := e.Holders[:min(len(e.Holders), 5)]; {
	case len(shown) == 0 || e.Never && e.Model != "":
	case slices.ContainsFunc(shown, reserved):
		out = append(out, "Room is held by "+listed(shown)+": release a reservation, demote a model, or wait.")
	case e.Never:
		out = append(out, "Room is held by "+listed(shown)+".")
	default:
		out = append(out, "Room is held by "+listed(shown)+": demote one of them, or wait.")
	}
	switch {
	case e.Never && e.Model == "":
		return append(out, fmt.Sprintf("Ask for less, or raise the %s limit.", e.place()))
	case e.Never:
		return append(out, fmt.Sprintf("Raise the %s limit, or use a smaller model or a stronger quantisation.", e.place()))
	case e.Model == "":
		return append(out, "Ask for less, or free memory on the machine.")
	}
	return append(out, "Ask for a smaller model, or free memory on the machine.")
}

// BusyError is a queue that is full, or a wait that took too long.
type BusyError struct {
	Model      string // the model whose queue it is; "": the whole queue
	Queued     int
	RetryAfter time.Duration // when to ask again
	Cause      error         // the error behind it, if any
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

// Unwrap returns ErrBusy and, if there is one, Cause.
func (e *BusyError) Unwrap() []error {
	return wrapped(ErrBusy, e.Cause)
}

// Code implements Coder.
func (e *BusyError) Code() string { return "busy" }

// Suggestions implements Suggester.
func (e *BusyError) Suggestions() []string {
	return []string{fmt.Sprintf("Retry in %v.", e.RetryAfter.Round(100*time.Millisecond))}
}

// InUseError is an operation that needs a model to be idle.
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

// count returns "1 lease" or "2 leases".
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

// LimitsError is a limit that was refused.
type LimitsError struct {
	Field     string
	Value     Bytes
	Reason    string
	MustLeave []Holder // the models that would have to leave first
}

func (e *LimitsError) Error() string { return e.Reason }

// Unwrap returns ErrLimits.
func (e *LimitsError) Unwrap() error { return ErrLimits }

// Suggestions implements Suggester.
func (e *LimitsError) Suggestions() []string {
	if len(e.MustLeave) == 0 {
		return []string{"Ask for a higher limit."}
	}
	return []string{"These would have to leave first: " + listed(e.MustLeave) + "."}
}

// MoveError is a move that failed.
type MoveError struct {
	Model    string
	From, To Tier
	// Lost: the model could not be brought back to From and is in storage, with no
	// bytes left behind. The Mover sets it.
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
	return []string{"See the reason; ask for the model again once the cause is removed."}
}

// DigestError is a file of a model that does not hold what it should. The model is not
// loaded until the file or what it should hold is another.
type DigestError struct {
	Model string `json:"-"`
	Path  string `json:"path"`
	// Want and Got are SHA-256 in hexadecimal digits; Source is the path of what says Want,
	// "": the model's owner.
	Want   string `json:"want"`
	Got    string `json:"got"`
	Source string `json:"source,omitempty"`
}

func (e *DigestError) Error() string {
	by := "its owner"
	if e.Source != "" {
		by = strconv.Quote(e.Source)
	}
	return fmt.Sprintf("Model '%s' is damaged: %s has the SHA-256 %s, and by %s it should be %s", e.Model, strconv.Quote(e.Path), e.Got, by, e.Want)
}

// Unwrap returns ErrDamaged.
func (e *DigestError) Unwrap() error { return ErrDamaged }

// Code implements Coder.
func (e *DigestError) Code() string { return "damaged" }

// Suggestions implements Suggester.
func (e *DigestError) Suggestions() []string {
	help := []string{"Copy or download " + strconv.Quote(e.Path) + " again: the model is served as soon as the file is another."}
	switch {
	case e.Source == "":
		return append(help, "If the file is right, declare its new digest, or none.")
	case e.Source != e.Path && !strings.HasSuffix(e.Source, e.Want):
		return append(help, "If the file is right, "+strconv.Quote(e.Source)+" is old: make it again with sha256sum.")
	}
	return help
}

// StuckError is a call of a part that did not return in time.
type StuckError struct {
	Model string // "": it is not about one model
	What  string // what did not return
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

// Unwrap returns ErrPanic and, if it is an error, the panic's value.
func (e *PanicError) Unwrap() []error {
	err, _ := e.Value.(error)
	return wrapped(ErrPanic, err)
}

// Suggestions implements Suggester.
func (e *PanicError) Suggestions() []string {
	return []string{"This is a fault of the " + e.Part + ", not of the request: report it with the log."}
}
