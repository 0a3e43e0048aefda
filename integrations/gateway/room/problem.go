package room

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// Problem is why a request has no answer.
type Problem struct {
	Status      int    // of HTTP
	Code        string // a stable word
	Message     string
	Suggestions []string
	RetryAfter  time.Duration // when it is worth asking again; 0: not unless something changes
}

// ProblemOf returns an error of a Manager's as a Problem; see modeltier.HTTPStatus.
func ProblemOf(err error) *Problem {
	status, after := modeltier.HTTPStatus(err)
	return &Problem{Status: status, Code: tier.Code(err), Message: err.Error(), Suggestions: tier.Suggestions(err), RetryAfter: after}
}

// Invalid returns the Problem of a request that makes no sense, for which a suggestion
// says what would.
func Invalid(err error, suggestions ...string) *Problem {
	return &Problem{Status: http.StatusBadRequest, Code: tier.Code(tier.ErrInvalid), Message: err.Error(), Suggestions: suggestions}
}

// failed is the Problem of an engine that has ended without an answer.
func failed(message string) *Problem {
	return &Problem{Status: http.StatusBadGateway, Code: "engine_failed", Message: message, Suggestions: []string{"Try again: it is being restarted."}, RetryAfter: time.Second}
}

// Face is how the clients of one API read what goes wrong.
type Face interface {
	// Problem returns p as the body of an answer, which is JSON.
	Problem(p *Problem) any
	// Event returns p as the last event of an event stream that has begun, with the empty
	// line after it.
	Event(p *Problem) []byte
}

// shouldRetry is a header that OpenAI's and Anthropic's own clients go by.
const shouldRetry = "X-Should-Retry"

// WriteProblem answers with p in the shape of a face, with Retry-After if it may work
// later.
func WriteProblem(w http.ResponseWriter, face Face, p *Problem) {
	switch {
	case p.RetryAfter > 0:
		w.Header().Set("Retry-After", strconv.FormatInt(int64(max(p.RetryAfter.Round(time.Second), time.Second)/time.Second), 10))
	default:
		w.Header().Set(shouldRetry, "false") // it would be the same
	}
	WriteJSON(w, p.Status, face.Problem(p))
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
