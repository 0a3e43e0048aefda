package chat

import (
	"crypto/rand"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Kind is what a part of an answer is.
type Kind uint8

// The kinds of parts.
const (
	KindText      Kind = iota + 1
	KindReasoning      // what the model thought before
	KindToolCall
	KindRefusal // what the model says instead of an answer
)

// Opening is how a part of an answer begins.
type Opening struct {
	Kind   Kind
	CallID string // of a tool call; never empty
	Name   string // of the function of a tool call
}

// Piece is a part of an answer, whole.
type Piece struct {
	Opening
	Text string // of a tool call: its arguments, in JSON if the model got it right
}

// Usage is how many tokens a request took. What an engine does not tell is 0.
type Usage struct {
	Prompt, Cached        int64 // Cached of Prompt were in the engine's cache
	Completion, Reasoning int64 // Reasoning of Completion were thought
}

// Finish is how an answer ended.
type Finish struct {
	// Reason is "stop", "length", "tool_calls", "content_filter" or "refusal".
	Reason       string
	StopSequence string // that the answer ended at, where the engine tells
	Usage        Usage
}

// Answer is a whole one.
type Answer struct {
	ID      string // never empty
	Created int64  // Unix time; 0: not told
	Pieces  []Piece
	Finish  Finish
}

// EngineError is an answer that is an error, or that makes no sense.
type EngineError struct {
	Status  int // of HTTP, as it is for the client
	Message string
}

// Error implements error.
func (e *EngineError) Error() string { return e.Message }

func enginef(format string, args ...any) error {
	return &EngineError{http.StatusBadGateway, short(fmt.Sprintf(format, args...))}
}

// The wire, of whole answers and of chunks alike.
type (
	wireAnswer struct {
		ID      string         `json:"id"`
		Created float64        `json:"created"`
		Choices []wireChoice   `json:"choices"`
		Usage   *wireUsage     `json:"usage"`
		Error   jsontext.Value `json:"error"`
	}
	wireChoice struct {
		Index        int            `json:"index"`
		Message      wireMessage    `json:"message"`
		Delta        wireMessage    `json:"delta"`
		FinishReason string         `json:"finish_reason"`
		StopReason   jsontext.Value `json:"stop_reason"` // vLLM's: the stop sequence, or the number of a token
	}
	wireMessage struct {
		Content          string         `json:"content"`
		Refusal          string         `json:"refusal"`
		ReasoningContent string         `json:"reasoning_content"`
		Reasoning        jsontext.Value `json:"reasoning"` // as some engines call it
		ToolCalls        []wireCall     `json:"tool_calls"`
	}
	wireCall struct {
		Index    *int   `json:"index"`
		ID       string `json:"id"`
		Function struct {
			Name      string         `json:"name"`
			Arguments jsontext.Value `json:"arguments"` // a string; in some engines the object
		} `json:"function"`
	}
	wireUsage struct {
		PromptTokens     float64 `json:"prompt_tokens"`
		CompletionTokens float64 `json:"completion_tokens"`
		PromptDetails    struct {
			CachedTokens float64 `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
		CompletionDetails struct {
			ReasoningTokens float64 `json:"reasoning_tokens"`
		} `json:"completion_tokens_details"`
	}
)

// CountedByDecode implements Counted.
func (*wireChoice) CountedByDecode() {}

// CountedByDecode implements Counted.
func (*wireCall) CountedByDecode() {}

// maxCalls bounds the tool calls of an answer, and the choices and calls of a chunk.
const maxCalls = 1000

// decodeAnswer reads what an engine sent, which need not be strictly right.
func decodeAnswer(b []byte) (*wireAnswer, error) {
	var w wireAnswer
	if err := decode(b, &w, maxCalls, lenient); err != nil {
		return nil, enginef("the engine's answer cannot be read: %v", err)
	}
	if !IsNull(w.Error) {
		return nil, failureOf(w.Error)
	}
	return &w, nil
}

// failureOf returns the error of an answer that has begun, or whose status is 200.
func failureOf(v jsontext.Value) error {
	status, message := errorOf(v)
	if status == 0 {
		status = http.StatusBadGateway
	}
	return &EngineError{status, message}
}

// ParseError reads the body of an engine's answer that is an error, of whatever shape.
func ParseError(status int, body []byte) *EngineError {
	var w struct {
		Error   jsontext.Value `json:"error"`
		Message jsontext.Value `json:"message"` // vLLM's, at the top
	}
	e := &EngineError{Status: status}
	if err := json.Unmarshal(body, &w, lenient); err == nil {
		if !IsNull(w.Error) {
			_, e.Message = errorOf(w.Error)
		} else {
			e.Message = short(stringOf(w.Message))
		}
	} else {
		e.Message = short(string(body))
	}
	if e.Message == "" {
		e.Message = "the engine answered " + strconv.Itoa(status)
	}
	return e
}

// errorOf reads the error of an answer: a string, or OpenAI's object with a message and,
// in llama-server, a status. 0: it has none.
func errorOf(v jsontext.Value) (status int, message string) {
	if message = stringOf(v); message != "" {
		return 0, short(message)
	}
	var e struct {
		Message jsontext.Value `json:"message"`
		Code    jsontext.Value `json:"code"`
		Type    jsontext.Value `json:"type"`
		Prompt  jsontext.Value `json:"n_prompt_tokens"`
		Context jsontext.Value `json:"n_ctx"`
	}
	if json.Unmarshal(v, &e, lenient) != nil {
		return 0, "the engine answered with an error"
	}
	message = short(stringOf(e.Message))
	if n, err := strconv.Atoi(string(e.Code)); err == nil && n >= 400 && n < 600 {
		status = n
	}
	// In Anthropic's words, by which its clients know that they have to make the conversation
	// shorter.
	if kind := stringOf(e.Type); kind == "exceed_context_size_error" && e.Prompt.Kind() == '0' && e.Context.Kind() == '0' {
		message = fmt.Sprintf("prompt is too long: %s tokens > %s maximum", e.Prompt, e.Context)
	}
	if message == "" {
		message = "the engine answered with an error"
	}
	return status, message
}

// stringOf returns "" for what is no string.
func stringOf(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	s, _ := jsontext.AppendUnquote(nil, v)
	return strings.ToValidUTF8(string(s), "\uFFFD")
}

// ParseAnswer reads a whole answer. Its errors are EngineErrors.
func ParseAnswer(body []byte) (*Answer, error) {
	w, err := decodeAnswer(body)
	if err != nil {
		return nil, err
	}
	if len(w.Choices) == 0 {
		return nil, enginef("the engine's answer has no choices")
	}
	choice := &w.Choices[0]
	m := &choice.Message
	a := &Answer{ID: idOf(w.ID), Created: createdOf(w.Created)}
	if text := m.reasoning(); text != "" {
		a.Pieces = append(a.Pieces, Piece{Opening{Kind: KindReasoning}, text})
	}
	if m.Content != "" {
		a.Pieces = append(a.Pieces, Piece{Opening{Kind: KindText}, m.Content})
	}
	if m.Refusal != "" {
		a.Pieces = append(a.Pieces, Piece{Opening{Kind: KindRefusal}, m.Refusal})
	}
	for i := range m.ToolCalls {
		call := &m.ToolCalls[i]
		arguments, err := call.arguments()
		if err != nil {
			return nil, err
		}
		if call.Function.Name == "" {
			return nil, enginef("the engine's answer has a tool call without a name")
		}
		a.Pieces = append(a.Pieces, Piece{Opening{KindToolCall, callID(call.ID, a.ID, i), call.Function.Name}, arguments})
	}
	a.Finish = finishOf(choice, len(m.ToolCalls) > 0, m.Refusal != "")
	a.Finish.Usage = usageOf(w.Usage)
	return a, nil
}

// idOf returns the ID of an answer, or a new one.
func idOf(id string) string {
	if id = strings.TrimPrefix(id, "chatcmpl-"); id != "" {
		return id
	}
	return rand.Text()
}

// callID returns the ID of the n-th tool call of an answer, or a new one.
func callID(id, answer string, n int) string {
	if id != "" {
		return id
	}
	return "call_" + answer + "_" + strconv.Itoa(n)
}

func createdOf(at float64) int64 { return count(at) }

// count returns a number that an engine told, if it can be one of tokens or seconds.
func count(n float64) int64 {
	if n >= 0 && n < 1<<53 {
		return int64(math.Round(n))
	}
	return 0
}

func usageOf(w *wireUsage) Usage {
	if w == nil {
		return Usage{}
	}
	u := Usage{Prompt: count(w.PromptTokens), Completion: count(w.CompletionTokens)}
	u.Cached = min(count(w.PromptDetails.CachedTokens), u.Prompt)
	u.Reasoning = min(count(w.CompletionDetails.ReasoningTokens), u.Completion)
	return u
}

func finishOf(c *wireChoice, called, refused bool) Finish {
	f := Finish{Reason: c.FinishReason, StopSequence: stringOf(c.StopReason)}
	switch {
	case refused:
		f.Reason = "refusal"
	case f.Reason == "length", f.Reason == "content_filter":
	case called: // some say "stop"
		f.Reason = "tool_calls"
	default:
		f.Reason = "stop"
	}
	return f
}

func (m *wireMessage) reasoning() string {
	if m.ReasoningContent != "" {
		return m.ReasoningContent
	}
	return stringOf(m.Reasoning)
}

func (c *wireCall) arguments() (string, error) {
	switch v := c.Function.Arguments; {
	case IsNull(v):
		return "", nil
	case v.Kind() == '"':
		return stringOf(v), nil
	case v.Kind() == '{':
		return string(v), nil
	}
	return "", enginef("the engine's answer has a tool call whose arguments are neither a string nor an object")
}
