package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/integrations/llama"
)

// engine is the HTTP half: it serves a model once that is loaded.
type engine struct {
	model atomic.Pointer[llama.Model] // nil: it loads
}

func (e *engine) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if e.model.Load() == nil {
			refuse(w, errLoading)
		}
	})
	mux.HandleFunc("POST /v1/completions", e.complete)
	mux.HandleFunc("POST /v1/chat/completions", e.complete)
	mux.HandleFunc("POST /v1/embeddings", e.embed)
	return mux
}

// question is what is understood of a request.
type question struct {
	Model    string `json:"model"`
	Prompt   string `json:"prompt"`
	Messages []struct {
		Content string `json:"content"`
	} `json:"messages"`
	Most      int   `json:"max_tokens"`
	MostAgain int   `json:"max_completion_tokens"` // its newer name
	Stream    bool  `json:"stream"`
	Input     texts `json:"input"`
}

// texts is one text or a list of them.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = texts{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

const maxQuestion = 1 << 20

var errLoading = errors.New("the model loads")

// unreadable is a request that is none.
type unreadable struct{ error }

// refuse answers with an error as OpenAI's clients read it.
func refuse(w http.ResponseWriter, err error) {
	status, kind := http.StatusInternalServerError, "server_error"
	_, unread := errors.AsType[*unreadable](err)
	switch {
	case errors.Is(err, errLoading) || errors.Is(err, llama.ErrClosed):
		status = http.StatusServiceUnavailable
	case unread || errors.Is(err, llama.ErrTooLong):
		status, kind = http.StatusBadRequest, "invalid_request_error"
	}
	send(w, status, map[string]any{"error": map[string]any{"message": err.Error(), "type": kind}})
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// understand reads a request, and returns the model that answers it.
func (e *engine) understand(w http.ResponseWriter, r *http.Request) (question, *llama.Model, error) {
	var q question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion)).Decode(&q); err != nil {
		return q, nil, &unreadable{err}
	}
	model := e.model.Load()
	if model == nil {
		return q, nil, errLoading
	}
	return q, model, nil
}

func (e *engine) complete(w http.ResponseWriter, r *http.Request) {
	q, model, err := e.understand(w, r)
	if err != nil {
		refuse(w, err)
		return
	}
	chat := strings.HasPrefix(r.URL.Path, "/v1/chat/")
	for _, m := range q.Messages {
		q.Prompt += m.Content + "\n"
	}
	most := max(q.Most, q.MostAgain)
	if most <= 0 {
		most = 64
	}
	a := answer{model: q.Model, chat: chat}
	var all strings.Builder
	n := 0
	err = model.Generate(r.Context(), q.Prompt, most, func(_ int32, piece string) error {
		if n++; !q.Stream {
			all.WriteString(piece)
			return nil
		}
		if n == 1 {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		return event(w, a.part(piece, nil))
	})
	finish := "length"
	if n < most {
		finish = "stop"
	}
	switch {
	case err != nil && (n > 0 && q.Stream || r.Context().Err() != nil):
		panic(http.ErrAbortHandler) // too late to say so: the client sees its answer cut
	case err != nil:
		refuse(w, err)
	case q.Stream:
		w.Header().Set("Content-Type", "text/event-stream")
		event(w, a.part("", finish))
		fmt.Fprint(w, "data: [DONE]\n\n")
	default:
		send(w, http.StatusOK, a.whole(all.String(), finish))
	}
}

func (e *engine) embed(w http.ResponseWriter, r *http.Request) {
	q, model, err := e.understand(w, r)
	var list []any
	for i := 0; err == nil && i < len(q.Input); i++ {
		var v []float32
		if v, err = model.Embed(q.Input[i]); err == nil {
			list = append(list, map[string]any{"object": "embedding", "index": i, "embedding": v})
		}
	}
	if err != nil {
		refuse(w, err)
		return
	}
	send(w, http.StatusOK, map[string]any{"object": "list", "model": q.Model, "data": list})
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
	model string
	chat  bool
}

// part is a piece of a stream.
func (a answer) part(text string, finish any) any {
	if a.chat {
		return a.object("chat.completion.chunk", "delta", text, finish)
	}
	return a.object("text_completion", "", text, finish)
}

// whole is an answer that is none.
func (a answer) whole(text, finish string) any {
	if a.chat {
		return a.object("chat.completion", "message", text, finish)
	}
	return a.object("text_completion", "", text, finish)
}

// object is one of OpenAI's, with the text as a message of that name, or plain.
func (a answer) object(kind, message, text string, finish any) any {
	choice := map[string]any{"index": 0, "finish_reason": finish}
	if message == "" {
		choice["text"] = text
	} else {
		choice[message] = map[string]any{"role": "assistant", "content": text}
	}
	return map[string]any{"id": "engine", "object": kind, "created": time.Now().Unix(), "model": a.model, "choices": []any{choice}}
}
