package openai

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// NewStream translates the event stream of POST /v1/chat/completions to that of POST
// /v1/responses; model is who it says it is of. Events come as soon as the engine's do, and
// closing the stream closes the engine's. A stream that is an error or is cut ends with
// response.failed.
func (r *Responses) NewStream(body io.ReadCloser, model string) io.ReadCloser {
	return chat.NewReader(body, func(out *bytes.Buffer) chat.Sink { return &responseSink{out: out, of: r, model: model} })
}

// responseSink writes the events of a response.
type responseSink struct {
	out   *bytes.Buffer
	of    *Responses
	model string

	sequence int // number of the next event
	id       string
	response *response // nil: it has not begun
	kind     chat.Kind // of the item that is open, the last of the output
	text     strings.Builder
}

// responseEvent is an event, of any type. Of those that follow the type, each type has its own.
type responseEvent struct {
	Type         string      `json:"type"`
	Sequence     int         `json:"sequence_number"`
	Response     *response   `json:"response,omitzero"`
	ItemID       string      `json:"item_id,omitempty"`
	OutputIndex  *int        `json:"output_index,omitzero"`
	ContentIndex *int        `json:"content_index,omitzero"`
	Item         *outputItem `json:"item,omitzero"`
	Part         *outputPart `json:"part,omitzero"`
	Delta        *string     `json:"delta,omitzero"`
	Text         *string     `json:"text,omitzero"`
	Refusal      *string     `json:"refusal,omitzero"`
	Name         string      `json:"name,omitempty"`
	Arguments    *string     `json:"arguments,omitzero"`
	Logprobs     *[]struct{} `json:"logprobs,omitzero"` // empty
}

func (s *responseSink) event(e responseEvent) {
	e.Sequence = s.sequence
	s.sequence++
	b, _ := chat.Marshal(e) // strings, numbers and what was valid when it came
	fmt.Fprintf(s.out, "event: %s\ndata: %s\n\n", e.Type, b)
}

// item is an event about the item that is open.
func (s *responseSink) item(e responseEvent) {
	n := len(s.response.Output) - 1
	e.OutputIndex = &n
	if e.Item == nil {
		e.ItemID = s.response.Output[n].ID
	}
	s.event(e)
}

// part is an event about the only part of the item that is open; of a call, about the item.
func (s *responseSink) part(e responseEvent) {
	if s.kind != chat.KindToolCall {
		e.ContentIndex = new(0)
	}
	if s.kind == chat.KindText && e.Part == nil {
		e.Logprobs = new([]struct{}{})
	}
	s.item(e)
}

// eventNames are those of the deltas of a part, without what is behind the last point.
var eventNames = map[chat.Kind]string{
	chat.KindText:      "response.output_text",
	chat.KindReasoning: "response.reasoning_text",
	chat.KindToolCall:  "response.function_call_arguments",
	chat.KindRefusal:   "response.refusal",
}

// Start implements chat.Sink.
func (s *responseSink) Start(id string, created int64) {
	s.id, s.response = id, s.of.begin(id, s.model, created)
	s.event(responseEvent{Type: "response.created", Response: s.response})
	s.event(responseEvent{Type: "response.in_progress", Response: s.response})
}

// Open implements chat.Sink.
func (s *responseSink) Open(o chat.Opening) {
	s.kind = o.Kind
	s.text.Reset()
	it := itemOf(o, s.id, len(s.response.Output))
	s.response.Output = append(s.response.Output, it)
	s.item(responseEvent{Type: "response.output_item.added", Item: it})
	if part := partOf(s.kind, ""); part != nil {
		s.part(responseEvent{Type: "response.content_part.added", Part: part})
	}
}

// Delta implements chat.Sink.
func (s *responseSink) Delta(text string) {
	s.text.WriteString(text)
	s.part(responseEvent{Type: eventNames[s.kind] + ".delta", Delta: &text})
}

// Close implements chat.Sink.
func (s *responseSink) Close() {
	text := s.text.String()
	it := s.response.Output[len(s.response.Output)-1]
	done := responseEvent{Type: eventNames[s.kind] + ".done"}
	switch s.kind {
	case chat.KindToolCall:
		done.Arguments, done.Name = &text, it.Name
	case chat.KindRefusal:
		done.Refusal = &text
	default:
		done.Text = &text
	}
	s.part(done)
	it.end(s.kind, text)
	if part := partOf(s.kind, text); part != nil {
		s.part(responseEvent{Type: "response.content_part.done", Part: part})
	}
	s.item(responseEvent{Type: "response.output_item.done", Item: it})
}

// End implements chat.Sink.
func (s *responseSink) End(f chat.Finish) {
	s.response.end(f)
	s.event(responseEvent{Type: "response." + s.response.Status, Response: s.response})
}

// Fail implements chat.Sink.
func (s *responseSink) Fail(e *chat.EngineError) {
	if s.response == nil {
		s.response = s.of.begin(rand.Text(), s.model, 0)
	}
	code := "server_error"
	switch {
	case e.Status == http.StatusTooManyRequests:
		code = "rate_limit_exceeded"
	case e.Status < http.StatusInternalServerError:
		code = "invalid_prompt"
	}
	s.response.Status, s.response.Error = failed, &responseError{code, e.Message}
	s.event(responseEvent{Type: "response.failed", Response: s.response})
}

// Idle implements chat.Sink: a comment stays one.
func (s *responseSink) Idle() { s.out.WriteString(": \n\n") }
