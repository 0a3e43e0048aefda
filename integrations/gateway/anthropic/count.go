package anthropic

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// TemplateRequest translates the body of POST /v1/messages/count_tokens to that of
// llama-server's POST /apply-template, which makes the prompt of the messages, the tools
// among them. An image is an error: how many tokens it takes cannot be told before it is
// decoded.
func TemplateRequest(body []byte) ([]byte, error) {
	out, err := translate(body)
	if err != nil {
		return nil, err
	}
	for _, m := range out.Messages {
		for _, p := range m.Content {
			if p.Type != "text" {
				return nil, chat.Errorf("messages", "have an image or a file, whose tokens the engine cannot count")
			}
		}
	}
	out.Stream = false
	return out.Marshal()
}

// TokenizeRequest makes the body of llama-server's POST /tokenize of the answer of POST
// /apply-template. The prompt begins as it does in a chat, with the model's first token.
func TokenizeRequest(applied []byte) ([]byte, error) {
	var in struct {
		Prompt *string `json:"prompt"`
	}
	if err := json.Unmarshal(applied, &in, jsontext.AllowInvalidUTF8(true)); err != nil || in.Prompt == nil {
		return nil, &chat.EngineError{Status: http.StatusBadGateway, Message: "the engine's answer to /apply-template has no prompt"}
	}
	return json.Marshal(struct {
		Content      string `json:"content"`
		AddSpecial   bool   `json:"add_special"`
		ParseSpecial bool   `json:"parse_special"`
	}{*in.Prompt, true, true})
}

// CountResponse makes the answer of POST /v1/messages/count_tokens of that of llama-server's
// POST /tokenize.
func CountResponse(tokenized []byte) ([]byte, error) {
	var in struct {
		Tokens *length `json:"tokens"`
	}
	if err := json.Unmarshal(tokenized, &in); err != nil || in.Tokens == nil {
		return nil, &chat.EngineError{Status: http.StatusBadGateway, Message: "the engine's answer to /tokenize has no tokens"}
	}
	return json.Marshal(struct {
		InputTokens length `json:"input_tokens"`
	}{*in.Tokens})
}

// length is that of an array, whose elements are not kept.
type length int

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (n *length) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if kind := dec.PeekKind(); kind != '[' {
		return fmt.Errorf("not an array: %v", kind)
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for *n = 0; dec.PeekKind() != ']'; *n++ {
		if err := dec.SkipValue(); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}
