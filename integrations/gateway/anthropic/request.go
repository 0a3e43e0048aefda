package anthropic

import (
	"cmp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// request is the body of POST /v1/messages, and of count_tokens.
type request struct {
	Model         string                    `json:"model"`
	System        chat.Content[systemBlock] `json:"system"`
	Messages      []message                 `json:"messages"`
	MaxTokens     *int64                    `json:"max_tokens"`
	StopSequences []chat.Word               `json:"stop_sequences"`
	Temperature   *float64                  `json:"temperature"`
	TopP          *float64                  `json:"top_p"`
	Stream        bool                      `json:"stream"`
	Tools         []tool                    `json:"tools"`
	ToolChoice    *toolChoice               `json:"tool_choice"`
	Thinking      *thinking                 `json:"thinking"`
	OutputConfig  struct {
		Effort string  `json:"effort"`
		Format *format `json:"format"`
	} `json:"output_config"`
	OutputFormat *format        `json:"output_format"` // as output_config.format was called at first
	Container    jsontext.Value `json:"container"`
	MCPServers   []mcpServer    `json:"mcp_servers"`
	chat.Extras  `json:",embed"`
}

// mcpServer is a server with tools; that there is one is enough to refuse it.
type mcpServer struct{}

// CountedByDecode implements chat.Counted.
func (*mcpServer) CountedByDecode() {}

type systemBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// CountedByDecode implements chat.Counted.
func (*systemBlock) CountedByDecode() {}

type message struct {
	Role    string              `json:"role"`
	Content chat.Content[block] `json:"content"`
}

// CountedByDecode implements chat.Counted.
func (*message) CountedByDecode() {}

type tool struct {
	Type        string         `json:"type"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	InputSchema jsontext.Value `json:"input_schema"`
	Strict      *bool          `json:"strict"`
}

// CountedByDecode implements chat.Counted.
func (*tool) CountedByDecode() {}

type toolChoice struct {
	Type            string `json:"type"`
	Name            string `json:"name"`
	DisableParallel bool   `json:"disable_parallel_tool_use"`
}

type thinking struct {
	Type string `json:"type"`
}

type format struct {
	Type   string         `json:"type"`
	Schema jsontext.Value `json:"schema"`
}

// ChatRequest translates the body of POST /v1/messages to that of POST
// /v1/chat/completions. Its errors name the field that is wrong, or that cannot be
// translated: they are the client's.
func ChatRequest(body []byte) ([]byte, error) {
	out, err := translate(body)
	if err != nil {
		return nil, err
	}
	return out.Marshal()
}

func translate(body []byte) (*chat.Request, error) {
	var in request
	if err := chat.Decode(body, &in); err != nil {
		return nil, err
	}
	switch {
	case in.Model == "":
		return nil, chat.Errorf("model", "is missing")
	case len(in.Messages) == 0:
		return nil, chat.Errorf("messages", "must have at least one message")
	case !chat.IsNull(in.Container):
		return nil, chat.Errorf("container", "is not supported: the engine runs no code")
	case len(in.MCPServers) > 0:
		return nil, chat.Errorf("mcp_servers", "is not supported: the engine calls no servers; give their tools in tools")
	}
	if err := chat.AtLeastOne("max_tokens", in.MaxTokens); err != nil {
		return nil, err
	}
	out := &chat.Request{
		Model: in.Model, MaxTokens: in.MaxTokens, Stop: in.StopSequences, Stream: in.Stream,
		Temperature: in.Temperature, TopP: in.TopP, Extras: in.Extras,
	}
	if err := in.system(out); err != nil {
		return nil, err
	}
	for i := range in.Messages {
		if err := in.Messages[i].translate(out); err != nil {
			return nil, chat.InElement("messages", i, err)
		}
	}
	if err := in.tools(out); err != nil {
		return nil, err
	}
	return out, in.output(out)
}

// attribution begins a part of the system prompt that Claude Code sends for its maker. It
// differs in each request, so that with it no engine's prompt cache would ever serve (seen
// in llama.cpp's pull request 21793).
const attribution = "x-anthropic-billing-header:"

func (in *request) system(out *chat.Request) error {
	var texts []string
	if in.System.String != nil {
		texts = append(texts, *in.System.String)
	}
	for i, b := range in.System.Parts {
		if b.Type != "text" {
			return chat.InElement("system", i, chat.Errorf("type", `is %q, but must be "text"`, b.Type))
		}
		if !strings.HasPrefix(b.Text, attribution) || strings.Contains(b.Text, "\n") {
			texts = append(texts, b.Text)
		}
	}
	if text := strings.Join(texts, "\n\n"); text != "" {
		out.System(text)
	}
	return nil
}

func (in *request) tools(out *chat.Request) error {
	for i, t := range in.Tools {
		switch {
		case t.Type != "" && t.Type != "custom":
			return chat.InElement("tools", i, chat.Errorf("type", `%q is not supported: it is a tool of Anthropic's own; define it with a name and an input_schema`, t.Type))
		case t.Name == "":
			return chat.InElement("tools", i, chat.Errorf("name", "is missing"))
		case !chat.IsNull(t.InputSchema) && t.InputSchema.Kind() != '{':
			return chat.InElement("tools", i, chat.Errorf("input_schema", "must be an object"))
		}
		schema := t.InputSchema
		if chat.IsNull(schema) {
			schema = jsontext.Value(`{"type":"object","properties":{}}`)
		}
		out.Tools = append(out.Tools, chat.Tool{Type: "function", Function: chat.Definition{Name: t.Name, Description: t.Description, Parameters: schema, Strict: t.Strict}})
	}
	c := in.ToolChoice
	if c == nil {
		return nil
	}
	if c.DisableParallel {
		out.ParallelToolCalls = new(bool)
	}
	switch c.Type {
	case "auto", "none":
		out.ToolChoice = c.Type
	case "any":
		return out.RequireTools()
	case "tool":
		return out.RequireTools(c.Name)
	default:
		return chat.Errorf("tool_choice.type", `is %q, but must be "auto", "any", "tool" or "none"`, c.Type)
	}
	return nil
}

// output translates how the answer is to be made. A budget for thinking is a hint, which
// chat/completions has no word for.
func (in *request) output(out *chat.Request) (err error) {
	if in.Thinking != nil && in.Thinking.Type == "disabled" {
		out.NoThinking()
	}
	if out.ReasoningEffort, err = chat.Effort("output_config.effort", in.OutputConfig.Effort); err != nil {
		return err
	}
	if f := cmp.Or(in.OutputConfig.Format, in.OutputFormat); f != nil {
		if f.Type != "json_schema" || f.Schema.Kind() != '{' {
			return chat.Errorf("output_config.format", `must have the type "json_schema" and a schema`)
		}
		out.ResponseFormat = &chat.ResponseFormat{Type: f.Type, JSONSchema: &chat.JSONSchema{Name: "answer", Schema: f.Schema}}
	}
	return nil
}
