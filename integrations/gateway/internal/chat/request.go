package chat

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Request is what a translation makes of a face's request.
type Request struct {
	Model             string          `json:"model"`
	Messages          []Message       `json:"messages"`
	Tools             []Tool          `json:"tools,omitempty"`
	ToolChoice        string          `json:"tool_choice,omitempty"` // "auto", "none" or "required"; see RequireTools
	ParallelToolCalls *bool           `json:"parallel_tool_calls,omitzero"`
	MaxTokens         *int64          `json:"max_tokens,omitzero"`
	Temperature       *float64        `json:"temperature,omitzero"`
	TopP              *float64        `json:"top_p,omitzero"`
	Stop              []Word          `json:"stop,omitempty"`
	Stream            bool            `json:"stream,omitzero"`
	StreamOptions     *StreamOptions  `json:"stream_options,omitzero"`
	ResponseFormat    *ResponseFormat `json:"response_format,omitzero"`
	ReasoningEffort   string          `json:"reasoning_effort,omitempty"`
	Extras            `json:",embed"`
}

// Extras are what engines take beyond OpenAI's own, by any path, and what is passed to
// them as it is.
type Extras struct {
	TopK               jsontext.Value `json:"top_k,omitzero"`
	MinP               jsontext.Value `json:"min_p,omitzero"`
	Seed               jsontext.Value `json:"seed,omitzero"`
	FrequencyPenalty   jsontext.Value `json:"frequency_penalty,omitzero"`
	PresencePenalty    jsontext.Value `json:"presence_penalty,omitzero"`
	RepeatPenalty      jsontext.Value `json:"repeat_penalty,omitzero"`
	LogitBias          jsontext.Value `json:"logit_bias,omitzero"`
	ChatTemplateKwargs jsontext.Value `json:"chat_template_kwargs,omitzero"`
}

// NoThinking tells the chat template that the model is not to think first. It is how
// llama-server, vLLM and SGLang are told so; others pay no attention to it.
func (r *Request) NoThinking() {
	if r.ChatTemplateKwargs == nil {
		r.ChatTemplateKwargs = jsontext.Value(`{"enable_thinking":false}`)
	}
}

// StreamOptions asks for the usage, which streams do not have otherwise.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// ResponseFormat is what an answer must look like.
type ResponseFormat struct {
	Type       string      `json:"type"` // "json_object" or "json_schema"
	JSONSchema *JSONSchema `json:"json_schema,omitzero"`
}

// JSONSchema is the schema of a ResponseFormat.
type JSONSchema struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Schema      jsontext.Value `json:"schema,omitzero"`
	Strict      *bool          `json:"strict,omitzero"`
}

// Message is one of a conversation.
type Message struct {
	Role             string     `json:"role"` // "system", "user", "assistant" or "tool"
	Content          Parts      `json:"content"`
	ReasoningContent Thoughts   `json:"reasoning_content,omitempty"`
	ToolCalls        []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID       string     `json:"tool_call_id,omitempty"`
}

// Parts are the content of a message. Text alone is sent as a string, which is all that
// some engines and chat templates take.
type Parts []Part

// MarshalJSONTo implements json.MarshalerTo.
func (p Parts) MarshalJSONTo(enc *jsontext.Encoder) error {
	if !slices.ContainsFunc(p, func(p Part) bool { return p.Type != "text" }) {
		return enc.WriteToken(jsontext.String(p.text()))
	}
	isEmpty := func(p Part) bool { return p.Type == "text" && p.Text == "" }
	return json.MarshalEncode(enc, slices.DeleteFunc(slices.Clone([]Part(p)), isEmpty))
}

// text returns the text of all parts, each from a line of its own.
func (p Parts) text() string {
	texts := make([]string, 0, len(p))
	for _, part := range p {
		texts = append(texts, part.Text)
	}
	return strings.Join(texts, "\n")
}

// Thoughts are what the model thought, one after the other.
type Thoughts []string

// MarshalJSONTo implements json.MarshalerTo.
func (t Thoughts) MarshalJSONTo(enc *jsontext.Encoder) error {
	return enc.WriteToken(jsontext.String(strings.Join(t, "")))
}

// Part is a part of a message.
type Part struct {
	Type       string    `json:"type"` // "text", "image_url", "input_audio" or "file"
	Text       string    `json:"text,omitempty"`
	ImageURL   *ImageURL `json:"image_url,omitzero"`
	InputAudio *Audio    `json:"input_audio,omitzero"`
	File       *File     `json:"file,omitzero"`
}

// ImageURL is where an image is: an http or a data URL.
type ImageURL struct {
	URL    string `json:"url"`
	Detail string `json:"detail,omitempty"`
}

// Audio is a recording, in base64.
type Audio struct {
	Data   string `json:"data"`
	Format string `json:"format"`
}

// File is a file, as a data URL.
type File struct {
	Filename string `json:"filename,omitempty"`
	FileData string `json:"file_data"`
}

// Text returns a part that is text.
func Text(s string) Part { return Part{Type: "text", Text: s} }

// Image returns a part that is an image.
func Image(url, detail string) Part {
	return Part{Type: "image_url", ImageURL: &ImageURL{url, detail}}
}

// ToolCall is a call of a function, which the model made earlier.
type ToolCall struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"` // "function"
	Function Function `json:"function"`
}

// Function is the function of a ToolCall.
type Function struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // JSON
}

// Call returns a ToolCall.
func Call(id, name, arguments string) ToolCall {
	return ToolCall{id, "function", Function{name, arguments}}
}

// Tool is a function that the model may call.
type Tool struct {
	Type     string     `json:"type"` // "function"
	Function Definition `json:"function"`
}

// Definition is the function of a Tool.
type Definition struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Parameters  jsontext.Value `json:"parameters,omitzero"`
	Strict      *bool          `json:"strict,omitzero"`
}

// System adds instructions to the conversation. Those that follow each other are one
// message: chat templates know one, at the beginning.
func (r *Request) System(text string) {
	last := r.last("system")
	if last == nil {
		r.Messages = append(r.Messages, Message{Role: "system", Content: Parts{Text(text)}})
		return
	}
	last.Content = append(last.Content, Text("\n"+text)) // with an empty line between
}

// Assistant returns the last message, if it is the model's, or a new one of the model's.
func (r *Request) Assistant() *Message {
	if r.last("assistant") == nil {
		r.Messages = append(r.Messages, Message{Role: "assistant"})
	}
	return r.last("assistant")
}

func (r *Request) last(role string) *Message {
	if n := len(r.Messages); n > 0 && r.Messages[n-1].Role == role {
		return &r.Messages[n-1]
	}
	return nil
}

// RequireTools has the model call a tool: one of those named, or of all if there is no
// name. It does so by leaving the others out. llama-server takes the name of a tool in
// tool_choice for "auto", without a word (its issue 26535).
func (r *Request) RequireTools(names ...string) error {
	r.ToolChoice = "required"
	return r.AllowTools(names...)
}

// AllowTools leaves out the tools that are not named, if any is.
func (r *Request) AllowTools(names ...string) error {
	if len(names) == 0 {
		return nil
	}
	missing := make(map[string]bool, len(names))
	for _, name := range names {
		missing[name] = true
	}
	r.Tools = slices.DeleteFunc(r.Tools, func(t Tool) bool {
		if _, named := missing[t.Function.Name]; !named {
			return true
		}
		missing[t.Function.Name] = false
		return false
	})
	for _, name := range names {
		if missing[name] {
			return Errorf("tool_choice", "names %q, which is not among the tools", name)
		}
	}
	return nil
}

// Marshal returns the request's JSON. A conversation without a message and a choice among
// no tools are errors.
func (r *Request) Marshal() ([]byte, error) {
	if len(r.Tools) == 0 {
		if r.ToolChoice == "required" {
			return nil, Errorf("tool_choice", "wants a tool called, but there are no tools")
		}
		r.ToolChoice, r.ParallelToolCalls = "", nil // engines refuse them without tools
	}
	if r.Stream {
		r.StreamOptions = &StreamOptions{IncludeUsage: true}
	}
	return Marshal(r)
}

// AtLeastOne is the error of a bound on the answer that is less: some engines take that for
// no bound at all.
func AtLeastOne(field string, n *int64) error {
	if n != nil && *n < 1 {
		return Errorf(field, "is %d, but must be at least 1", *n)
	}
	return nil
}

// Effort returns a level of reasoning in the words that engines have had from the start:
// some refuse a request with another.
func Effort(field, level string) (string, error) {
	switch level {
	case "", "low", "medium", "high":
		return level, nil
	case "minimal":
		return "low", nil
	case "xhigh", "max":
		return "high", nil
	}
	return "", Errorf(field, `is %q, but must be "minimal", "low", "medium", "high", "xhigh" or "max"`, level)
}
