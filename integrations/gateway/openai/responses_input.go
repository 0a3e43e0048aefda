package openai

import (
	"strings"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// inputItem is an item of the input of a response, of any type.
type inputItem struct {
	Type      string                  `json:"type"`
	Role      string                  `json:"role"`
	Content   chat.Content[inputPart] `json:"content"`
	Summary   []inputPart             `json:"summary"`
	CallID    string                  `json:"call_id"`
	Name      string                  `json:"name"`
	Arguments string                  `json:"arguments"`
	Output    chat.Content[inputPart] `json:"output"`
}

// CountedByDecode implements chat.Counted.
func (*inputItem) CountedByDecode() {}

// inputPart is a part of an item, of any type.
type inputPart struct {
	Type       string      `json:"type"`
	Text       string      `json:"text"`
	Refusal    string      `json:"refusal"`
	ImageURL   string      `json:"image_url"`
	Detail     string      `json:"detail"`
	FileData   string      `json:"file_data"`
	Filename   string      `json:"filename"`
	InputAudio *chat.Audio `json:"input_audio"`
}

// CountedByDecode implements chat.Counted.
func (*inputPart) CountedByDecode() {}

func (it *inputItem) translate(out *chat.Request) error {
	switch {
	case it.Type == "message" || it.Type == "" && it.Role != "":
		return it.message(out)
	case it.Type == "reasoning":
		it.reasoning(out)
		return nil
	case it.Type == "function_call":
		if it.CallID == "" || it.Name == "" {
			return chat.Errorf("", "must have a call_id and a name")
		}
		to := out.Assistant()
		to.ToolCalls = append(to.ToolCalls, chat.Call(it.CallID, it.Name, it.Arguments))
		return nil
	case it.Type == "function_call_output":
		if it.CallID == "" {
			return chat.Errorf("call_id", "is missing")
		}
		parts, err := parts("output", &it.Output)
		if err != nil {
			return err
		}
		out.Messages = append(out.Messages, chat.Message{Role: "tool", ToolCallID: it.CallID, Content: parts})
		return nil
	case it.Type == "":
		return chat.Errorf("type", "is missing")
	case it.Type == "item_reference":
		return chat.Errorf("type", `"item_reference" is not supported: nothing is kept that it could mean; send the item`)
	}
	return chat.Errorf("type", "%q is not supported: the engine has no tools of its own", it.Type)
}

func (it *inputItem) message(out *chat.Request) error {
	if it.Content.IsMissing() {
		return chat.Errorf("content", "is missing")
	}
	content, err := parts("content", &it.Content)
	if err != nil {
		return err
	}
	switch it.Role {
	case "user":
		out.Messages = append(out.Messages, chat.Message{Role: it.Role, Content: content})
		return nil
	case "assistant", "system", "developer":
		for i, p := range content {
			if p.Type != "text" {
				return chat.InElement("content", i, chat.Errorf("", "must be text: the message is not the user's"))
			}
		}
		if it.Role != "assistant" {
			for _, p := range content {
				out.System(p.Text)
			}
			return nil
		}
		to := out.Assistant()
		to.Content = append(to.Content, content...)
		return nil
	}
	return chat.Errorf("role", `is %q, but must be "user", "assistant", "system" or "developer"`, it.Role)
}

// reasoning adds what the model thought to what it then did. What is encrypted can be read
// by the one who wrote it alone.
func (it *inputItem) reasoning(out *chat.Request) {
	thoughts := it.Content.Parts
	if len(thoughts) == 0 {
		thoughts = it.Summary
	}
	var texts []string
	for _, p := range thoughts {
		if p.Text != "" {
			texts = append(texts, p.Text)
		}
	}
	if len(texts) > 0 {
		to := out.Assistant()
		to.ReasoningContent = append(to.ReasoningContent, strings.Join(texts, "\n"))
	}
}

// parts translates content.
func parts(field string, c *chat.Content[inputPart]) (chat.Parts, error) {
	if c.String != nil {
		return chat.Parts{chat.Text(*c.String)}, nil
	}
	var all chat.Parts
	for i := range c.Parts {
		p, err := c.Parts[i].translate()
		if err != nil {
			return nil, chat.InElement(field, i, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func (p *inputPart) translate() (chat.Part, error) {
	switch p.Type {
	case "input_text", "output_text", "text":
		return chat.Text(p.Text), nil
	case "refusal":
		return chat.Text(p.Refusal), nil
	case "input_image":
		if p.ImageURL == "" {
			return chat.Part{}, chat.Errorf("image_url", "is missing: no files are kept that an ID could mean")
		}
		return chat.Image(p.ImageURL, p.Detail), nil
	case "input_audio":
		if p.InputAudio == nil {
			return chat.Part{}, chat.Errorf("input_audio", "is missing")
		}
		return chat.Part{Type: p.Type, InputAudio: p.InputAudio}, nil
	case "input_file":
		if p.FileData == "" {
			return chat.Part{}, chat.Errorf("file_data", "is missing: no files are kept that an ID could mean, and none are fetched")
		}
		return chat.Part{Type: "file", File: &chat.File{Filename: p.Filename, FileData: p.FileData}}, nil
	case "":
		return chat.Part{}, chat.Errorf("type", "is missing")
	}
	return chat.Part{}, chat.Errorf("type", "%q is not supported here", p.Type)
}
