package anthropic

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// reply is a message of the model's, whole or as it begins.
type reply struct {
	ID           string  `json:"id"`
	Type         string  `json:"type"` // "message"
	Role         string  `json:"role"` // "assistant"
	Model        string  `json:"model"`
	Content      []any   `json:"content"`       // of textBlock, thinkingBlock, toolBlock
	StopReason   *string `json:"stop_reason"`   // nil: it has begun
	StopSequence *string `json:"stop_sequence"` // nil: it did not end at one
	Usage        usage   `json:"usage"`
}

type textBlock struct {
	Type string `json:"type"` // "text"
	Text string `json:"text"`
}

type thinkingBlock struct {
	Type      string `json:"type"` // "thinking"
	Thinking  string `json:"thinking"`
	Signature string `json:"signature"` // "": an engine signs nothing
}

type toolBlock struct {
	Type  string         `json:"type"` // "tool_use"
	ID    string         `json:"id"`
	Name  string         `json:"name"`
	Input jsontext.Value `json:"input"`
}

// usage is that of a message. Tokens that were read from a cache are not among InputTokens.
type usage struct {
	InputTokens     int64 `json:"input_tokens"`
	CacheCreation   int64 `json:"cache_creation_input_tokens"`
	CacheReadTokens int64 `json:"cache_read_input_tokens"`
	OutputTokens    int64 `json:"output_tokens"`
}

func usageOf(u chat.Usage) usage {
	return usage{InputTokens: u.Prompt - u.Cached, CacheReadTokens: u.Cached, OutputTokens: u.Completion}
}

// MessagesResponse translates the answer of POST /v1/chat/completions to that of POST
// /v1/messages; model is who it says it is of. Its errors are the engine's: see [Error].
func MessagesResponse(body []byte, model string) ([]byte, error) {
	a, err := chat.ParseAnswer(body)
	if err != nil {
		return nil, err
	}
	r := newReply(a.ID, model)
	r.Usage = usageOf(a.Finish.Usage)
	r.StopReason, r.StopSequence = stopOf(a.Finish)
	for _, p := range a.Pieces {
		switch p.Kind {
		case chat.KindText, chat.KindRefusal:
			r.Content = append(r.Content, textBlock{"text", p.Text})
		case chat.KindReasoning:
			r.Content = append(r.Content, thinkingBlock{"thinking", p.Text, ""})
		case chat.KindToolCall:
			input, ok := chat.Arguments(cmp.Or(p.Text, "{}"))
			if !ok {
				if a.Finish.Reason == "length" {
					continue // it was cut, and must not be run
				}
				return nil, &chat.EngineError{Status: http.StatusBadGateway, Message: fmt.Sprintf("the model called the tool %.100q with arguments that are not a JSON object", p.Name)}
			}
			r.Content = append(r.Content, toolBlock{"tool_use", p.CallID, p.Name, input})
		}
	}
	return chat.Marshal(r)
}

func newReply(id, model string) *reply {
	return &reply{ID: "msg_" + id, Type: "message", Role: "assistant", Model: model, Content: []any{}}
}

// stopOf returns why a message ended, in Anthropic's words.
func stopOf(f chat.Finish) (reason, sequence *string) {
	word := "end_turn"
	switch f.Reason {
	case "length":
		word = "max_tokens"
	case "tool_calls":
		word = "tool_use"
	case "content_filter", "refusal":
		word = "refusal"
	default:
		if f.StopSequence != "" {
			word, sequence = "stop_sequence", &f.StopSequence
		}
	}
	return &word, sequence
}
