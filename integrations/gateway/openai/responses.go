package openai

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// Responses is a request of POST /v1/responses, for an engine that only knows POST
// /v1/chat/completions. Nothing is kept of it: what needs earlier responses, or tools that
// run on the server, is refused.
type Responses struct {
	Chat   []byte // what the engine is asked
	Stream bool   // an event stream is wanted

	echo echo
}

// echo is what a response says of its request, as it came.
type echo struct {
	Instructions      jsontext.Value `json:"instructions"`
	MaxOutputTokens   jsontext.Value `json:"max_output_tokens"`
	Metadata          jsontext.Value `json:"metadata"`
	ParallelToolCalls jsontext.Value `json:"parallel_tool_calls"`
	Reasoning         jsontext.Value `json:"reasoning"`
	Temperature       jsontext.Value `json:"temperature"`
	Text              jsontext.Value `json:"text"`
	ToolChoice        jsontext.Value `json:"tool_choice"`
	Tools             jsontext.Value `json:"tools"`
	TopP              jsontext.Value `json:"top_p"`
	Truncation        jsontext.Value `json:"truncation"`
}

func (e *echo) defaults() {
	for _, d := range []struct {
		v    *jsontext.Value
		none string
	}{
		{&e.Metadata, `{}`}, {&e.ParallelToolCalls, `true`}, {&e.Reasoning, `{"effort":null,"summary":null}`}, {&e.Text, `{"format":{"type":"text"}}`},
		{&e.ToolChoice, `"auto"`}, {&e.Tools, `[]`}, {&e.Truncation, `"disabled"`}, {&e.Temperature, `1`}, {&e.TopP, `1`},
	} {
		if chat.IsNull(*d.v) {
			*d.v = jsontext.Value(d.none)
		}
	}
}

// responsesRequest is the body of POST /v1/responses.
type responsesRequest struct {
	Model             string                  `json:"model"`
	Input             chat.Content[inputItem] `json:"input"`
	Instructions      string                  `json:"instructions"`
	MaxOutputTokens   *int64                  `json:"max_output_tokens"`
	Temperature       *float64                `json:"temperature"`
	TopP              *float64                `json:"top_p"`
	Stream            bool                    `json:"stream"`
	Tools             []responsesTool         `json:"tools"`
	ToolChoice        jsontext.Value          `json:"tool_choice"`
	ParallelToolCalls *bool                   `json:"parallel_tool_calls"`
	Text              struct {
		Format *textFormat `json:"format"`
	} `json:"text"`
	Reasoning struct {
		Effort string `json:"effort"`
	} `json:"reasoning"`
	TopLogprobs int64       `json:"top_logprobs"`
	Include     []chat.Word `json:"include"`

	PreviousResponseID string         `json:"previous_response_id"`
	Conversation       jsontext.Value `json:"conversation"`
	Prompt             jsontext.Value `json:"prompt"`
	Background         bool           `json:"background"`

	chat.Extras `json:",embed"`
}

type textFormat struct {
	Type        string         `json:"type"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Schema      jsontext.Value `json:"schema"`
	Strict      *bool          `json:"strict"`
}

type responsesTool struct {
	Type        string         `json:"type"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Parameters  jsontext.Value `json:"parameters"`
	Strict      *bool          `json:"strict"`
}

// CountedByDecode implements chat.Counted.
func (*responsesTool) CountedByDecode() {}

// ParseResponses reads the body of POST /v1/responses. Its errors name the field that is
// wrong, or that cannot be translated: they are the client's.
func ParseResponses(body []byte) (*Responses, error) {
	var in responsesRequest
	if err := chat.Decode(body, &in); err != nil {
		return nil, err
	}
	if err := in.refused(); err != nil {
		return nil, err
	}
	out := &chat.Request{
		Model: in.Model, MaxTokens: in.MaxOutputTokens, Stream: in.Stream, Temperature: in.Temperature, TopP: in.TopP,
		ParallelToolCalls: in.ParallelToolCalls, Extras: in.Extras,
	}
	if in.Instructions != "" {
		out.System(in.Instructions)
	}
	if in.Input.String != nil {
		out.Messages = append(out.Messages, chat.Message{Role: "user", Content: chat.Parts{chat.Text(*in.Input.String)}})
	}
	for i := range in.Input.Parts {
		if err := in.Input.Parts[i].translate(out); err != nil {
			return nil, chat.InElement("input", i, err)
		}
	}
	if len(out.Messages) == 0 {
		return nil, chat.Errorf("input", "says nothing")
	}
	for _, part := range []func(*chat.Request) error{in.tools, in.toolChoice, in.format, in.effort} {
		if err := part(out); err != nil {
			return nil, err
		}
	}
	r := &Responses{Stream: in.Stream}
	var err error
	if r.Chat, err = out.Marshal(); err != nil {
		return nil, err
	}
	if err := chat.Decode(body, &r.echo); err != nil {
		return nil, err
	}
	r.echo.defaults()
	return r, nil
}

// refused is the error of what chat/completions has no word for, and of what is missing.
func (in *responsesRequest) refused() error {
	switch {
	case in.Model == "":
		return chat.Errorf("model", "is missing")
	case in.Input.IsMissing():
		return chat.Errorf("input", "is missing")
	case in.PreviousResponseID != "":
		return chat.Errorf("previous_response_id", "is not supported: no response is kept; send the conversation in input")
	case !chat.IsNull(in.Conversation):
		return chat.Errorf("conversation", "is not supported: none is kept; send it in input")
	case !chat.IsNull(in.Prompt):
		return chat.Errorf("prompt", "is not supported: no templates are kept; send its text in instructions")
	case in.Background:
		return chat.Errorf("background", "is not supported: no response is kept; ask with stream")
	case in.TopLogprobs > 0:
		return chat.Errorf("top_logprobs", "is not supported; /v1/chat/completions has it")
	}
	for i, what := range in.Include {
		if what == "message.output_text.logprobs" { // the others are of tools that are refused, or of no use to an engine
			return chat.InElement("include", i, chat.Errorf("", "%q is not supported; /v1/chat/completions has it", what))
		}
	}
	return chat.AtLeastOne("max_output_tokens", in.MaxOutputTokens)
}

func (in *responsesRequest) tools(out *chat.Request) error {
	for i, t := range in.Tools {
		switch {
		case t.Type == "":
			return chat.InElement("tools", i, chat.Errorf("type", "is missing"))
		case t.Type != "function":
			return chat.InElement("tools", i, chat.Errorf("type", `%q is not supported: the engine has no tools of its own; leave it out, or define a function`, t.Type))
		case t.Name == "":
			return chat.InElement("tools", i, chat.Errorf("name", "is missing"))
		case !chat.IsNull(t.Parameters) && t.Parameters.Kind() != '{':
			return chat.InElement("tools", i, chat.Errorf("parameters", "must be an object"))
		}
		if chat.IsNull(t.Parameters) {
			t.Parameters = jsontext.Value(`{"type":"object","properties":{}}`)
		}
		out.Tools = append(out.Tools, chat.Tool{Type: t.Type, Function: chat.Definition{Name: t.Name, Description: t.Description, Parameters: t.Parameters, Strict: t.Strict}})
	}
	return nil
}

func (in *responsesRequest) toolChoice(out *chat.Request) error {
	if chat.IsNull(in.ToolChoice) {
		return nil
	}
	word, choice := "", struct {
		Type  string          `json:"type"`
		Name  string          `json:"name"`
		Mode  string          `json:"mode"`
		Tools []responsesTool `json:"tools"`
	}{}
	if in.ToolChoice.Kind() == '"' {
		if err := chat.Decode(in.ToolChoice, &word); err != nil {
			return chat.In("tool_choice", err)
		}
		choice.Type = word
	} else if err := chat.Decode(in.ToolChoice, &choice); err != nil {
		return chat.In("tool_choice", err)
	}
	var names []string
	for i, t := range choice.Tools {
		if t.Type != "function" {
			return chat.InElement("tool_choice.tools", i, chat.Errorf("type", "%q is not supported: the engine has no tools of its own", t.Type))
		}
		names = append(names, t.Name)
	}
	switch {
	case word == "auto", word == "none":
		out.ToolChoice = word
		return nil
	case word == "required":
		return out.RequireTools()
	case word == "" && choice.Type == "function":
		return out.RequireTools(choice.Name)
	case word == "" && choice.Type == "allowed_tools" && len(names) > 0 && choice.Mode == "required":
		return out.RequireTools(names...)
	case word == "" && choice.Type == "allowed_tools" && len(names) > 0 && choice.Mode == "auto":
		out.ToolChoice = "auto"
		return out.AllowTools(names...)
	}
	return chat.Errorf("tool_choice", `of type %q is not supported: it must be "auto", "none", "required", a function, or allowed_tools with a mode and functions`, choice.Type)
}

func (in *responsesRequest) format(out *chat.Request) error {
	f := in.Text.Format
	if f == nil || f.Type == "text" {
		return nil
	}
	switch {
	case f.Type == "json_object":
		out.ResponseFormat = &chat.ResponseFormat{Type: f.Type}
	case f.Type == "json_schema" && f.Schema.Kind() == '{':
		name := f.Name
		if name == "" {
			name = "answer"
		}
		out.ResponseFormat = &chat.ResponseFormat{Type: f.Type, JSONSchema: &chat.JSONSchema{Name: name, Description: f.Description, Schema: f.Schema, Strict: f.Strict}}
	default:
		return chat.Errorf("text.format", `of type %q is not supported: it must be "text", "json_object", or "json_schema" with a schema`, f.Type)
	}
	return nil
}

func (in *responsesRequest) effort(out *chat.Request) (err error) {
	if in.Reasoning.Effort == "none" {
		out.NoThinking()
		return nil
	}
	out.ReasoningEffort, err = chat.Effort("reasoning.effort", in.Reasoning.Effort)
	return err
}
