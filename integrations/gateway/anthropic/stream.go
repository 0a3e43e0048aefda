package anthropic

import (
	"bytes"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// NewStream translates the event stream of POST /v1/chat/completions to that of POST
// /v1/messages; model is who it says it is of. Events come as soon as the engine's do, and
// closing the stream closes the engine's. A stream that is an error or is cut ends with an
// event "error".
func NewStream(body io.ReadCloser, model string) io.ReadCloser {
	return chat.NewReader(body, func(out *bytes.Buffer) chat.Sink { return &sink{out: out, model: model} })
}

// sink writes Anthropic's events.
type sink struct {
	out     *bytes.Buffer
	model   string
	started bool
	index   int // of the block that is open, or of the next
	kind    chat.Kind
}

// The events, in the order in which they come.
type (
	messageStart struct {
		Type    string `json:"type"`
		Message *reply `json:"message"`
	}
	blockStart struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
		Block any    `json:"content_block"`
	}
	blockDelta struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
		Delta delta  `json:"delta"`
	}
	delta struct {
		Type        string  `json:"type"`
		Text        *string `json:"text,omitzero"`
		Thinking    *string `json:"thinking,omitzero"`
		PartialJSON *string `json:"partial_json,omitzero"`
		Signature   *string `json:"signature,omitzero"`
	}
	blockStop struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
	}
	messageDelta struct {
		Type  string `json:"type"`
		Delta struct {
			StopReason   *string `json:"stop_reason"`
			StopSequence *string `json:"stop_sequence"`
		} `json:"delta"`
		Usage usage `json:"usage"`
	}
	plain struct {
		Type string `json:"type"`
	}
)

func (s *sink) event(name string, data any) {
	s.out.Write(event(name, data))
}

// event returns an event with data that can be marshalled: strings, numbers and valid JSON.
func event(name string, data any) []byte {
	b, _ := chat.Marshal(data)
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, b)
}

// Start implements chat.Sink.
func (s *sink) Start(id string, _ int64) {
	s.started = true
	s.event("message_start", messageStart{"message_start", newReply(id, s.model)})
}

// Open implements chat.Sink.
func (s *sink) Open(o chat.Opening) {
	s.kind = o.Kind
	var block any
	switch o.Kind {
	case chat.KindReasoning:
		block = thinkingBlock{Type: "thinking"}
	case chat.KindToolCall:
		block = toolBlock{"tool_use", o.CallID, o.Name, jsontext.Value("{}")}
	default:
		block = textBlock{Type: "text"}
	}
	s.event("content_block_start", blockStart{"content_block_start", s.index, block})
}

// Delta implements chat.Sink.
func (s *sink) Delta(text string) {
	switch s.kind {
	case chat.KindReasoning:
		s.delta(delta{Type: "thinking_delta", Thinking: &text})
	case chat.KindToolCall:
		s.delta(delta{Type: "input_json_delta", PartialJSON: &text})
	default:
		s.delta(delta{Type: "text_delta", Text: &text})
	}
}

func (s *sink) delta(d delta) {
	s.event("content_block_delta", blockDelta{"content_block_delta", s.index, d})
}

// Close implements chat.Sink.
func (s *sink) Close() {
	if s.kind == chat.KindReasoning { // clients wait for one
		s.delta(delta{Type: "signature_delta", Signature: new(string)})
	}
	s.event("content_block_stop", blockStop{"content_block_stop", s.index})
	s.index++
}

// End implements chat.Sink.
func (s *sink) End(f chat.Finish) {
	d := messageDelta{Type: "message_delta", Usage: usageOf(f.Usage)}
	d.Delta.StopReason, d.Delta.StopSequence = stopOf(f)
	s.event("message_delta", d)
	s.event("message_stop", plain{"message_stop"})
}

// Fail implements chat.Sink.
func (s *sink) Fail(e *chat.EngineError) {
	s.out.Write(ErrorEvent(e.Status, e.Message))
}

// Idle implements chat.Sink.
func (s *sink) Idle() {
	if s.started {
		s.event("ping", plain{"ping"})
	}
}
