package openai

import (
	"io"
	"net/http"
	"strconv"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// response is the object of a response, as it begins and as it ends.
type response struct {
	ID                 string         `json:"id"`
	Object             string         `json:"object"` // "response"
	CreatedAt          int64          `json:"created_at"`
	Status             string         `json:"status"`
	Background         bool           `json:"background"`
	CompletedAt        *int64         `json:"completed_at"` // nil: engines do not tell
	Error              *responseError `json:"error"`
	IncompleteDetails  *incomplete    `json:"incomplete_details"`
	Model              string         `json:"model"`
	Output             []*outputItem  `json:"output"`
	PreviousResponseID *string        `json:"previous_response_id"`
	Store              bool           `json:"store"` // false: nothing is kept
	Usage              *responseUsage `json:"usage"`
	echo               `json:",embed"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type incomplete struct {
	Reason string `json:"reason"`
}

type responseUsage struct {
	InputTokens        int64 `json:"input_tokens"`
	InputTokensDetails struct {
		CachedTokens int64 `json:"cached_tokens"`
	} `json:"input_tokens_details"`
	OutputTokens        int64 `json:"output_tokens"`
	OutputTokensDetails struct {
		ReasoningTokens int64 `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	TotalTokens int64 `json:"total_tokens"`
}

// outputItem is an item of a response's output.
type outputItem struct {
	Type    string        `json:"type"` // "message", "reasoning" or "function_call"
	ID      string        `json:"id"`
	Status  string        `json:"status"`
	Role    string        `json:"role,omitempty"`    // of a message
	Content []*outputPart `json:"content,omitzero"`  // of a message, and of a reasoning
	Summary *[]struct{}   `json:"summary,omitzero"`  // of a reasoning; empty
	CallID  string        `json:"call_id,omitempty"` // of a call, with those below
	Name    string        `json:"name,omitempty"`
	Args    *string       `json:"arguments,omitzero"`
}

// outputPart is a part of an item.
type outputPart struct {
	Type        string      `json:"type"` // "output_text", "refusal" or "reasoning_text"
	Text        *string     `json:"text,omitzero"`
	Refusal     *string     `json:"refusal,omitzero"`
	Annotations *[]struct{} `json:"annotations,omitzero"` // of an output_text; empty
	Logprobs    *[]struct{} `json:"logprobs,omitzero"`    // the same
}

// Status words.
const (
	inProgress   = "in_progress"
	completed    = "completed"
	isIncomplete = "incomplete"
	failed       = "failed"
)

// itemOf begins the n-th item of the output of a response.
func itemOf(o chat.Opening, id string, n int) *outputItem {
	id += "_" + strconv.Itoa(n)
	switch o.Kind {
	case chat.KindReasoning:
		return &outputItem{Type: "reasoning", ID: "rs_" + id, Status: inProgress, Content: []*outputPart{}, Summary: new([]struct{}{})}
	case chat.KindToolCall:
		return &outputItem{Type: "function_call", ID: "fc_" + id, Status: inProgress, CallID: o.CallID, Name: o.Name, Args: new("")}
	}
	return &outputItem{Type: "message", ID: "msg_" + id, Status: inProgress, Role: "assistant", Content: []*outputPart{}}
}

// partOf returns the only part of an item; nil: a call has none.
func partOf(kind chat.Kind, text string) *outputPart {
	switch kind {
	case chat.KindToolCall:
		return nil
	case chat.KindReasoning:
		return &outputPart{Type: "reasoning_text", Text: &text}
	case chat.KindRefusal:
		return &outputPart{Type: "refusal", Refusal: &text}
	}
	return &outputPart{Type: "output_text", Text: &text, Annotations: new([]struct{}{}), Logprobs: new([]struct{}{})}
}

// end completes an item with its text.
func (it *outputItem) end(kind chat.Kind, text string) {
	it.Status = completed
	if part := partOf(kind, text); part != nil {
		it.Content = []*outputPart{part}
	} else {
		it.Args = &text
	}
}

func (r *Responses) begin(id, model string, created int64) *response {
	return &response{ID: "resp_" + id, Object: "response", CreatedAt: created, Status: inProgress, Model: model, Output: []*outputItem{}, echo: r.echo}
}

// end completes a response. What was cut is an item of its output that is not complete.
func (r *response) end(f chat.Finish) {
	r.Status = completed
	why := map[string]string{"length": "max_output_tokens", "content_filter": "content_filter"}[f.Reason]
	if why != "" {
		r.Status, r.IncompleteDetails = isIncomplete, &incomplete{why}
		if n := len(r.Output); n > 0 {
			r.Output[n-1].Status = isIncomplete
		}
	}
	u := &responseUsage{InputTokens: f.Usage.Prompt, OutputTokens: f.Usage.Completion, TotalTokens: f.Usage.Prompt + f.Usage.Completion}
	u.InputTokensDetails.CachedTokens, u.OutputTokensDetails.ReasoningTokens = f.Usage.Cached, f.Usage.Reasoning
	r.Usage = u
}

// Answer translates the answer of POST /v1/chat/completions to that of POST /v1/responses;
// model is who it says it is of.
func (r *Responses) Answer(body []byte, model string) ([]byte, error) {
	a, err := chat.ParseAnswer(body)
	if err != nil {
		return nil, err
	}
	out := r.begin(a.ID, model, a.Created)
	for i, p := range a.Pieces {
		it := itemOf(p.Opening, a.ID, i)
		it.end(p.Kind, p.Text)
		out.Output = append(out.Output, it)
	}
	out.end(a.Finish)
	return chat.Marshal(out)
}

// notKept answers what asks for an earlier response.
func notKept(w http.ResponseWriter, _ *http.Request) {
	room.WriteProblem(w, Face{}, &room.Problem{
		Status: http.StatusNotImplemented, Code: "not_supported", Message: "No response is kept that could be asked for, changed or deleted",
		Suggestions: []string{"POST " + responsesPath + " answers at once, or as a stream; send the whole conversation in input."},
	})
}

// Translate makes an engine's answer of POST /v1/chat/completions one of POST /v1/responses,
// whatever its status; model is who it says it is of. It is for room.Ask's
// Answer. An error is a connection that broke, or an answer beyond all bounds.
func (r *Responses) Translate(res *http.Response, model string) error {
	face := chat.Face{
		Answer: func(body []byte) ([]byte, error) { return r.Answer(body, model) },
		Stream: func(body io.ReadCloser) io.ReadCloser { return r.NewStream(body, model) },
		Error: func(e *chat.EngineError) []byte {
			b, _ := chat.Marshal(Face{}.Problem(&room.Problem{Status: e.Status, Code: "engine_failed", Message: e.Message})) // strings alone
			return b
		},
	}
	return face.Translate(res, r.Stream)
}
