package openai

import (
	"encoding/json"
	"net/http"

	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// Face is how OpenAI's clients read errors: an object "error" with message, type and code,
// and suggestions of ours.
type Face struct{}

type problem struct {
	Error struct {
		Message     string   `json:"message"`
		Type        string   `json:"type"`
		Param       *string  `json:"param"`
		Code        string   `json:"code"`
		Suggestions []string `json:"suggestions,omitempty"`
	} `json:"error"`
}

// Problem implements room.Face.
func (Face) Problem(p *room.Problem) any {
	var body problem
	e := &body.Error
	e.Message, e.Code, e.Suggestions = p.Message, p.Code, p.Suggestions
	switch {
	case p.Status == http.StatusUnauthorized:
		e.Type = "authentication_error"
	case p.Status == http.StatusForbidden:
		e.Type = "permission_error"
	case p.Status >= http.StatusInternalServerError, p.Status == http.StatusTooManyRequests:
		e.Type = "server_error"
	default:
		e.Type = "invalid_request_error"
	}
	return &body
}

// Event implements room.Face.
func (f Face) Event(p *room.Problem) []byte {
	b, _ := json.Marshal(f.Problem(p)) // strings alone
	return append(append([]byte("data: "), b...), "\n\n"...)
}
