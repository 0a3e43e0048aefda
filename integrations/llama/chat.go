package llama

import (
	"fmt"
	"strings"

	"github.com/ardanlabs/jinja"
	yzma "github.com/hybridgroup/yzma/pkg/llama"
)

// chatML is the template of a file that has none, which is llama-server's as well.
const chatML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

// Chat returns the prompt that the model's chat template makes of messages, with
// the beginning of the answer. A message has at least "role" and "content".
func (m *Model) Chat(messages []map[string]any) (string, error) {
	if m.templateErr != nil {
		return "", m.templateErr
	}
	list := make([]any, len(messages))
	for i, message := range messages {
		list[i] = message
	}
	out, err := m.template.Render(map[string]any{
		"messages": list, "add_generation_prompt": true, "bos_token": m.bos, "eos_token": m.eos,
	})
	if err != nil {
		return "", fmt.Errorf("the chat template: %w", err)
	}
	if m.addsBOS {
		out = strings.TrimPrefix(out, m.bos) // Tokenize adds it again
	}
	return out, nil
}

// readTemplate compiles the chat template of the file.
func (m *Model) readTemplate() {
	source := yzma.ModelChatTemplate(m.model, "")
	if source == "" {
		source = chatML
	}
	if m.template, m.templateErr = jinja.Compile(source); m.templateErr != nil {
		m.templateErr = fmt.Errorf("the chat template of %s: %w", m.path, m.templateErr)
	}
	m.addsBOS = yzma.VocabGetAddBOS(m.vocab)
	m.bos = yzma.VocabGetText(m.vocab, yzma.VocabBOS(m.vocab))
	m.eos = yzma.VocabGetText(m.vocab, yzma.VocabEOS(m.vocab))
}
