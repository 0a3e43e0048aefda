package anthropic

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// block is a content block of a message, of any type.
type block struct {
	Type      string               `json:"type"`
	Text      string               `json:"text"`
	Thinking  string               `json:"thinking"`
	Source    jsontext.Value       `json:"source"` // an object; in search results a string
	Title     string               `json:"title"`
	Context   string               `json:"context"`
	Citations jsontext.Value       `json:"citations"` // an object that asks for them, or those of an answer
	ID        string               `json:"id"`
	Name      string               `json:"name"`
	Input     jsontext.Value       `json:"input"`
	ToolUseID string               `json:"tool_use_id"`
	IsError   bool                 `json:"is_error"`
	Content   *chat.Content[block] `json:"content"`
}

// CountedByDecode implements chat.Counted.
func (*block) CountedByDecode() {}

// source is where an image or a document is.
type source struct {
	Type      string              `json:"type"`
	MediaType string              `json:"media_type"`
	Data      string              `json:"data"`
	URL       string              `json:"url"`
	Content   chat.Content[block] `json:"content"`
}

// blocks returns content as blocks. In Anthropic's API a string is short for one of text.
func blocks(c *chat.Content[block]) []block {
	switch {
	case c == nil:
		return nil
	case c.String != nil:
		return []block{{Type: "text", Text: *c.String}}
	}
	return c.Parts
}

func (m *message) translate(out *chat.Request) error {
	if m.Content.IsMissing() {
		return chat.Errorf("content", "is missing")
	}
	switch m.Role {
	case "user":
		return m.user(out)
	case "assistant":
		return m.assistant(out)
	case "system":
		for i, b := range blocks(&m.Content) {
			if b.Type != "text" {
				return chat.InElement("content", i, b.refused())
			}
			out.System(b.Text)
		}
		return nil
	}
	return chat.Errorf("role", `is %q, but must be "user", "assistant" or "system"`, m.Role)
}

// user translates what the user says. The results of tools go first: chat templates have
// them follow the calls.
func (m *message) user(out *chat.Request) error {
	var said chat.Parts
	all := blocks(&m.Content)
	for i := range all {
		b := &all[i]
		if b.Type != "tool_result" {
			parts, err := b.parts()
			if err != nil {
				return chat.InElement("content", i, err)
			}
			said = append(said, parts...)
			continue
		}
		result, err := b.result()
		if err != nil {
			return chat.InElement("content", i, err)
		}
		out.Messages = append(out.Messages, result)
	}
	if len(said) > 0 || len(all) == 0 {
		out.Messages = append(out.Messages, chat.Message{Role: "user", Content: said})
	}
	return nil
}

func (b *block) result() (chat.Message, error) {
	if b.ToolUseID == "" {
		return chat.Message{}, chat.Errorf("tool_use_id", "is missing")
	}
	m := chat.Message{Role: "tool", ToolCallID: b.ToolUseID}
	if b.IsError { // for which the message of a tool has no field
		m.Content = append(m.Content, chat.Text("Error:"))
	}
	for i, inner := range blocks(b.Content) {
		if inner.Type == "tool_result" {
			return m, chat.InElement("content", i, inner.refused())
		}
		parts, err := inner.parts()
		if err != nil {
			return m, chat.InElement("content", i, err)
		}
		m.Content = append(m.Content, parts...)
	}
	return m, nil
}

// assistant translates what the model said before.
func (m *message) assistant(out *chat.Request) error {
	to := chat.Message{Role: "assistant"}
	for i, b := range blocks(&m.Content) {
		switch b.Type {
		case "text":
			to.Content = append(to.Content, chat.Text(b.Text))
		case "thinking":
			to.ReasoningContent = append(to.ReasoningContent, b.Thinking)
		case "redacted_thinking": // can be read by the one who wrote it alone
		case "tool_use":
			switch {
			case b.ID == "" || b.Name == "":
				return chat.InElement("content", i, chat.Errorf("", "must have an id and a name"))
			case !chat.IsNull(b.Input) && b.Input.Kind() != '{':
				return chat.InElement("content", i, chat.Errorf("input", "must be an object"))
			}
			arguments := "{}"
			if !chat.IsNull(b.Input) {
				arguments = string(b.Input)
			}
			to.ToolCalls = append(to.ToolCalls, chat.Call(b.ID, b.Name, arguments))
		default:
			return chat.InElement("content", i, b.refused())
		}
	}
	out.Messages = append(out.Messages, to)
	return nil
}

// refused is the error of a block that stands where it cannot, or that chat/completions
// has no word for.
func (b *block) refused() error {
	if b.Type == "" {
		return chat.Errorf("type", "is missing")
	}
	return chat.Errorf("type", "%q is not supported here", b.Type)
}

// parts translates a block of text, an image, a document or a search result.
func (b *block) parts() ([]chat.Part, error) {
	if b.Type == "document" || b.Type == "search_result" {
		var c struct {
			Enabled bool `json:"enabled"`
		}
		if err := inner("citations", b.Citations, &c); err != nil {
			return nil, err
		}
		if c.Enabled {
			return nil, chat.Errorf("citations.enabled", "is not supported: the engine cites nothing")
		}
	}
	switch b.Type {
	case "text":
		return []chat.Part{chat.Text(b.Text)}, nil
	case "image":
		url, err := b.image()
		return []chat.Part{chat.Image(url, "")}, err
	case "document":
		return b.document()
	case "search_result":
		var from string
		if err := inner("source", b.Source, &from); err != nil {
			return nil, err
		}
		return texts("content", b.Content, b.Title, from)
	}
	return nil, b.refused()
}

func (b *block) image() (url string, err error) {
	var s source
	if err := inner("source", b.Source, &s); err != nil {
		return "", err
	}
	switch {
	case s.Type == "base64" && s.MediaType != "" && s.Data != "":
		return "data:" + s.MediaType + ";base64," + s.Data, nil
	case s.Type == "url" && s.URL != "":
		return s.URL, nil
	}
	return "", s.refused(`"base64", with media_type and data, or "url"`)
}

func (b *block) document() ([]chat.Part, error) {
	var s source
	if err := inner("source", b.Source, &s); err != nil {
		return nil, err
	}
	switch {
	case s.Type == "text":
		return texts("source.content", &chat.Content[block]{String: &s.Data}, b.Title, b.Context)
	case s.Type == "content":
		return texts("source.content", &s.Content, b.Title, b.Context)
	case s.Type == "base64" && s.MediaType != "" && s.Data != "":
		file := &chat.File{Filename: b.Title, FileData: "data:" + s.MediaType + ";base64," + s.Data}
		return []chat.Part{{Type: "file", File: file}}, nil
	}
	return nil, s.refused(`"text", "content" or "base64", with media_type and data`)
}

func (s *source) refused(want string) error {
	return chat.Errorf("source", "of type %q is not supported: it must be %s", s.Type, want)
}

// texts returns the parts of a text, or of text with images, under what is known of it.
func texts(field string, c *chat.Content[block], about ...string) ([]chat.Part, error) {
	var parts []chat.Part
	for _, line := range about {
		if line != "" {
			parts = append(parts, chat.Text(line))
		}
	}
	for i, b := range blocks(c) {
		if b.Type != "text" && b.Type != "image" {
			return nil, chat.InElement(field, i, b.refused())
		}
		more, err := b.parts()
		if err != nil {
			return nil, chat.InElement(field, i, err)
		}
		parts = append(parts, more...)
	}
	return parts, nil
}

// inner decodes a value whose shape depends on the type of its block.
func inner(field string, v jsontext.Value, to any) error {
	if chat.IsNull(v) {
		return nil
	}
	return chat.In(field, chat.Decode(v, to))
}
