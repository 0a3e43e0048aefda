package server

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/modeltier/modeltier/integrations/llama"
)

// question is what is understood of a request for a completion or a chat.
type question struct {
	Prompt        input            `json:"prompt"`
	Messages      []map[string]any `json:"messages"`
	MaxTokens     *int             `json:"max_tokens"`
	MaxCompletion *int             `json:"max_completion_tokens"` // its newer name
	Temperature   float32          `json:"temperature"`
	TopP          float32          `json:"top_p"`
	Seed          *int64           `json:"seed"`
	Stop          stops            `json:"stop"`
	N             int              `json:"n"`
	Stream        bool             `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`

	// llama-server's own.
	Slot        *int  `json:"id_slot"`
	CachePrompt *bool `json:"cache_prompt"`
}

// stops is one stop word or a list of them.
type stops []string

func (s *stops) UnmarshalJSON(b []byte) error {
	var one *string
	if json.Unmarshal(b, &one) == nil {
		if one != nil {
			*s = stops{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// request returns what the model is asked for.
func (h *handler) request(m *llama.Model, q *question, chat bool) (r llama.Request, err error) {
	switch {
	case chat && len(q.Messages) == 0:
		return r, invalid(`"messages" is needed`)
	case !chat && len(q.Prompt) != 1:
		return r, invalid(`"prompt" is needed, one of them`)
	case q.N > 1:
		return r, invalid(`"n" is %d: this engine gives one answer`, q.N)
	}
	r = llama.Request{
		MaxTokens: h.MaxTokens, Stop: q.Stop, Temperature: q.Temperature, TopP: q.TopP,
		Seed: math.MaxUint32, Slot: llama.AnySlot, Fresh: q.CachePrompt != nil && !*q.CachePrompt,
	}
	for _, n := range []*int{q.MaxTokens, q.MaxCompletion} {
		if n != nil {
			r.MaxTokens = *n
		}
	}
	if r.MaxTokens < 0 {
		r.MaxTokens = math.MaxInt
	}
	if q.Seed != nil {
		r.Seed = uint32(*q.Seed)
	}
	if q.Slot != nil && *q.Slot >= 0 {
		r.Slot = *q.Slot
	}
	if !chat {
		r.Prompt, err = q.Prompt[0].of(m)
		return r, err
	}
	for _, message := range q.Messages {
		if err := flatten(message); err != nil {
			return r, err
		}
	}
	text, err := m.Chat(q.Messages)
	if err != nil {
		return r, invalid("%v", err)
	}
	r.Prompt, err = m.Tokenize(text, true, true)
	return r, err
}

// flatten makes the content of a message a text, as templates want it.
func flatten(message map[string]any) error {
	if _, ok := message["role"].(string); !ok {
		return invalid(`a message needs a "role"`)
	}
	switch content := message["content"].(type) {
	case string:
		return nil
	case nil:
		message["content"] = ""
		return nil
	case []any:
		var all strings.Builder
		for _, part := range content {
			p, _ := part.(map[string]any)
			text, ok := p["text"].(string)
			if !ok || p["type"] != "text" {
				return invalid("a message has content that is no text")
			}
			all.WriteString(text)
		}
		message["content"] = all.String()
		return nil
	default:
		return invalid("a message has content that is no text")
	}
}

// complete answers a prompt or a chat, as a whole or as a stream.
func (h *handler) complete(w http.ResponseWriter, r *http.Request) {
	use, body, err := h.open(w, r)
	var q question
	if err == nil {
		defer use.Release()
		if bad := json.Unmarshal(body, &q); bad != nil {
			err = invalid("%v", bad)
		}
	}
	chat := strings.HasPrefix(r.URL.Path, "/v1/chat/")
	var ask llama.Request
	if err == nil {
		ask, err = h.request(use.Model, &q, chat)
	}
	if err != nil {
		refuse(w, r, err)
		return
	}
	a := answer{id: "cmpl-" + rand.Text(), model: use.Name, created: time.Now().Unix(), prompt: len(ask.Prompt), chat: chat}
	if chat {
		a.id = "chat" + a.id
	}
	if q.Stream {
		stream(w, r, use.Model, ask, a, q.StreamOptions.IncludeUsage)
		return
	}
	var all strings.Builder
	done, err := use.Model.Generate(r.Context(), ask, func(piece string) error {
		all.WriteString(piece)
		return nil
	})
	if err != nil {
		refuse(w, r, err)
		return
	}
	out := a.whole(all.String(), done)
	out["usage"], out["timings"] = a.usage(done), a.timings(done)
	send(w, http.StatusOK, out)
}

// stream answers in events. An error before the first of them is answered as any;
// one after it is an event, after which there is no end.
func stream(w http.ResponseWriter, r *http.Request, model *llama.Model, ask llama.Request, a answer, usage bool) {
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		w.Header().Set("Content-Type", "text/event-stream")
		if a.chat {
			return event(w, a.part(map[string]any{"role": "assistant", "content": nil}, "", nil))
		}
		return nil
	}
	done, err := model.Generate(r.Context(), ask, func(piece string) error {
		if err := begin(); err != nil {
			return err
		}
		return event(w, a.part(map[string]any{"content": piece}, piece, nil))
	})
	if err != nil {
		if !begun {
			refuse(w, r, err)
		} else if r.Context().Err() == nil {
			_, body := problem(err)
			event(w, body)
		}
		return
	}
	begin()
	last := a.part(map[string]any{}, "", finish(done))
	last["timings"] = a.timings(done)
	event(w, last)
	if usage {
		out := a.part(nil, "", nil)
		out["choices"], out["usage"] = []any{}, a.usage(done)
		event(w, out)
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func event(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// answer makes the objects of one answer.
type answer struct {
	id, model string
	created   int64
	prompt    int // tokens of it
	chat      bool
}

// part is an object of a stream: a delta of a chat, or a text.
func (a *answer) part(delta any, text string, finish any) map[string]any {
	if a.chat {
		return a.object("chat.completion.chunk", "delta", delta, finish)
	}
	return a.object("text_completion", "text", text, finish)
}

// whole is the object of an answer that is no stream.
func (a *answer) whole(text string, done llama.Answer) map[string]any {
	if a.chat {
		return a.object("chat.completion", "message", map[string]any{"role": "assistant", "content": text}, finish(done))
	}
	return a.object("text_completion", "text", text, finish(done))
}

func (a *answer) object(kind, key string, value, finish any) map[string]any {
	choice := map[string]any{"index": 0, key: value, "finish_reason": finish}
	return map[string]any{"id": a.id, "object": kind, "created": a.created, "model": a.model, "choices": []any{choice}}
}

func finish(done llama.Answer) string {
	if done.Ended {
		return "stop"
	}
	return "length"
}

func (a *answer) usage(done llama.Answer) any {
	return map[string]any{
		"prompt_tokens": a.prompt, "completion_tokens": done.Tokens, "total_tokens": a.prompt + done.Tokens,
		"prompt_tokens_details": map[string]any{"cached_tokens": done.Cached},
	}
}

func (a *answer) timings(done llama.Answer) any {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return map[string]any{
		"cache_n": done.Cached, "prompt_n": a.prompt - done.Cached, "prompt_ms": ms(done.PromptTime),
		"predicted_n": done.Tokens, "predicted_ms": ms(done.TokensTime),
	}
}
