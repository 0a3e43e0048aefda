package gatewaytest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// object is JSON of which keys count in their exact case, as for llama-server.
type object map[string]any

func (o object) text(key string) string {
	s, _ := o[key].(string)
	return s
}

func (o object) is(key string) bool {
	b, _ := o[key].(bool)
	return b
}

func (o object) object(key string) object {
	m, _ := o[key].(map[string]any)
	return m
}

func (o object) list(key string) []any {
	l, _ := o[key].([]any)
	return l
}

// ask is what a request of any face comes to.
type ask struct {
	words  []string // the answer
	cut    bool     // the answer is longer, and max tokens cut it
	prompt int      // words that were said
	tool   string   // that is to be called with the answer; "": none
	stream bool
}

// input returns the arguments that a tool is called with.
func (a ask) input() object { return object{"text": strings.Join(a.words, " ")} }

func (a ask) arguments() string {
	b, _ := json.Marshal(a.input())
	return string(b)
}

// pieces are what the answer's words add to it, one by one.
func (a ask) pieces() []string {
	pieces := slices.Clone(a.words)
	for i := range pieces {
		if i > 0 {
			pieces[i] = " " + pieces[i]
		}
	}
	return pieces
}

func (a ask) answer() string { return strings.Join(a.words, " ") }

// read finds in a request what to say: what its last message, item or prompt says, a line
// that counts the images, or a call of its first tool, unless the last one is the result of
// such a call.
func read(body object, messages []any, said string, limits ...string) ask {
	a := ask{stream: body.is("stream")}
	if s := body["system"]; s != nil {
		text, _ := content(s)
		a.prompt += len(strings.Fields(text))
	}
	result := false
	for _, m := range messages {
		m, _ := m.(map[string]any)
		text, images := content(m["content"])
		if output, ok := m["output"].(string); ok { // of a call, in responses
			text = output
		}
		a.prompt += len(strings.Fields(text))
		if images > 0 {
			text += fmt.Sprintf(" (images: %d)", images)
		}
		said = text
		result = m["role"] == "tool" || m["type"] == "function_call_output" || isResult(m["content"])
	}
	if len(messages) == 0 {
		a.prompt += len(strings.Fields(said))
	}
	a.words = strings.Fields(said)
	for _, limit := range limits {
		if n, ok := body[limit].(float64); ok && n > 0 && int(n) < len(a.words) {
			a.words, a.cut = a.words[:int(n)], true
		}
	}
	if tools := body.list("tools"); len(tools) > 0 && !result && body["tool_choice"] != "none" {
		tool, _ := tools[0].(map[string]any)
		if f := object(tool).object("function"); f != nil { // chat has it one deeper
			tool = f
		}
		a.tool = object(tool).text("name")
	}
	return a
}

// content returns the text of a message's content and how many images are in it.
func content(c any) (text string, images int) {
	switch c := c.(type) {
	case string:
		return c, 0
	case []any:
		var texts []string
		for _, part := range c {
			part, _ := part.(map[string]any)
			switch kind := object(part).text("type"); kind {
			case "image_url", "input_image", "image":
				images++
			case "tool_result":
				t, n := content(part["content"])
				texts, images = append(texts, t), images+n
			default:
				texts = append(texts, object(part).text("text"))
			}
		}
		return strings.Join(texts, " "), images
	}
	return "", 0
}

// isResult reports whether a content of messages is the result of a tool.
func isResult(c any) bool {
	parts, _ := c.([]any)
	return slices.ContainsFunc(parts, func(part any) bool {
		m, _ := part.(map[string]any)
		return m["type"] == "tool_result"
	})
}
