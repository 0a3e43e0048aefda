package anthropic

import (
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// problem is an error as Anthropic's clients read it.
type problem struct {
	Type  string `json:"type"` // "error"
	Error struct {
		Type        string   `json:"type"`
		Message     string   `json:"message"`
		Suggestions []string `json:"suggestions,omitempty"`
	} `json:"error"`
	RequestID *string `json:"request_id"`
}

func problemOf(status int, message, requestID string, suggestions []string) *problem {
	p := &problem{Type: "error"}
	p.Error.Type, p.Error.Message, p.Error.Suggestions = ErrorType(status), message, suggestions
	if requestID != "" {
		p.RequestID = &requestID
	}
	return p
}

// ErrorBody returns an answer that is an error. requestID may be "".
func ErrorBody(status int, message, requestID string, suggestions ...string) []byte {
	b, _ := json.Marshal(problemOf(status, message, requestID, suggestions)) // strings alone
	return b
}

// ErrorEvent returns the last event of a stream that ends by an error.
func ErrorEvent(status int, message string, suggestions ...string) []byte {
	return event("error", problemOf(status, message, "", suggestions))
}

// ErrorType returns Anthropic's word for a status. Sources: its documentation of errors, and
// the type ErrorType of its Go client.
func ErrorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "billing_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable, statusOverloaded:
		return "overloaded_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if status < http.StatusInternalServerError {
		return "invalid_request_error"
	}
	return "api_error"
}

// statusOverloaded is Anthropic's own.
const statusOverloaded = 529

// Error returns the status and the words for an error of this package: 400 for one of a
// request, and what the engine said, or 502, for one of an answer.
func Error(err error) (status int, message string) {
	if e, ok := errors.AsType[*chat.EngineError](err); ok {
		return e.Status, e.Message
	}
	return http.StatusBadRequest, err.Error()
}
