// Command engine serves one GGUF model over HTTP with llama.cpp, as small as an
// engine can be: a health page, and completions, plain and streamed, in the shape
// of OpenAI's. It is what modeltier's tests run behind tier/process where there
// is no llama-server.
//
//	engine -m model.gguf -port 8081 -libs FOLDER
//
// Its answers are greedy, and its chat is the messages one after the other.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/modeltier/modeltier/integrations/llamacpp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	path := flag.String("m", "", "the GGUF `FILE`")
	port := flag.Int("port", 8081, "listen on this `PORT` of the loopback address")
	libs := flag.String("libs", "", "the `FOLDER` of llama.cpp's libraries, as Fetch makes it")
	size := flag.Int("c", 512, "context, in `TOKENS`")
	threads := flag.Int("t", 0, "this many `THREADS` generate (default one for each CPU)")
	flag.Parse()
	if *path == "" || *libs == "" {
		return errors.New("-m and -libs are needed")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(*port))
	if err != nil {
		return err
	}
	e := &engine{}
	srv := &http.Server{Handler: e.routes(), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	library, err := llamacpp.Open(*libs)
	if err != nil {
		return err
	}
	model, err := library.Load(*path, *size, *threads)
	if err != nil {
		return err
	}
	defer model.Close()
	e.model.Store(model)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(grace), srv.Close())
}

type engine struct {
	model atomic.Pointer[llamacpp.Model] // nil: it loads
}

func (e *engine) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if e.model.Load() == nil {
			http.Error(w, `{"error":{"message":"Loading model"}}`, http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /v1/completions", e.complete)
	mux.HandleFunc("POST /v1/chat/completions", e.complete)
	return mux
}

// question is what is understood of a request.
type question struct {
	Model    string `json:"model"`
	Prompt   string `json:"prompt"`
	Messages []struct {
		Content string `json:"content"`
	} `json:"messages"`
	Most   int  `json:"max_tokens"`
	Stream bool `json:"stream"`
}

const maxQuestion = 1 << 20

func (e *engine) complete(w http.ResponseWriter, r *http.Request) {
	var q question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion)).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	model := e.model.Load()
	if model == nil {
		http.Error(w, "the model loads", http.StatusServiceUnavailable)
		return
	}
	chat := strings.HasPrefix(r.URL.Path, "/v1/chat/")
	for _, m := range q.Messages {
		q.Prompt += m.Content + "\n"
	}
	if q.Most <= 0 {
		q.Most = 64
	}
	if q.Stream {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	var all strings.Builder
	n := 0
	err := model.Generate(r.Context(), q.Prompt, q.Most, func(_ int32, piece string) error {
		n++
		if !q.Stream {
			all.WriteString(piece)
			return nil
		}
		return event(w, answer(q.Model, chat, "delta", piece, nil))
	})
	switch {
	case err != nil && (n > 0 && q.Stream || r.Context().Err() != nil):
		panic(http.ErrAbortHandler) // too late to say so: the client sees its answer cut
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case q.Stream:
		event(w, answer(q.Model, chat, "delta", "", "stop"))
		fmt.Fprint(w, "data: [DONE]\n\n")
	default:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer(q.Model, chat, "message", all.String(), "stop"))
	}
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

func answer(model string, chat bool, part, text string, finish any) any {
	choice := map[string]any{"index": 0, "finish_reason": finish}
	object := "text_completion"
	if chat {
		object = "chat.completion"
		if part == "delta" {
			object += ".chunk"
		}
		choice[part] = map[string]any{"role": "assistant", "content": text}
	} else {
		choice["text"] = text
	}
	return map[string]any{"id": "engine", "object": object, "created": time.Now().Unix(), "model": model, "choices": []any{choice}}
}
