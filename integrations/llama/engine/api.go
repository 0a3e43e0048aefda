package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/modeltier/modeltier/integrations/llama"
)

// engine is the HTTP half: it serves a model once that is loaded. Its answers have
// the shapes of llama-server's.
type engine struct {
	path string
	serving
	model atomic.Pointer[llama.Model] // nil: it loads
}

func (e *engine) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", e.handle(func(*llama.Model, *http.Request, []byte) (any, error) {
		return map[string]any{"status": "ok"}, nil
	}))
	mux.HandleFunc("GET /v1/models", e.handle(e.models))
	mux.HandleFunc("POST /v1/completions", e.complete)
	mux.HandleFunc("POST /v1/chat/completions", e.complete)
	mux.HandleFunc("POST /v1/embeddings", e.handle(e.embed))
	mux.HandleFunc("POST /tokenize", e.handle(tokenize))
	mux.HandleFunc("GET /slots", e.handle(slots))
	mux.HandleFunc("POST /slots/{id}", e.handle(e.slot))
	return mux
}

const maxBody = 1 << 20

// open reads a request's body, to its end: only then is it seen that a client goes
// away. It returns the model too.
func (e *engine) open(w http.ResponseWriter, r *http.Request) (*llama.Model, []byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, nil, invalid("the body: %v", err)
	}
	model := e.model.Load()
	if model == nil {
		return nil, nil, &refusal{http.StatusServiceUnavailable, "unavailable_error", "Loading model"}
	}
	return model, body, nil
}

// handle makes a handler of what answers with one object.
func (e *engine) handle(answer func(m *llama.Model, r *http.Request, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		model, body, err := e.open(w, r)
		var out any
		if err == nil {
			out, err = answer(model, r, body)
		}
		if err != nil {
			refuse(w, r, err)
			return
		}
		send(w, http.StatusOK, out)
	}
}

// refusal is an error with how it is answered.
type refusal struct {
	status        int
	kind, message string
}

func (r *refusal) Error() string { return r.message }

func invalid(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, "invalid_request_error", fmt.Sprintf(format, args...)}
}

// refuse answers with an error, unless its client has gone.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		status, body := problem(err)
		send(w, status, body)
	}
}

// problem returns an error as it is answered.
func problem(err error) (status int, body any) {
	of := map[string]any{"message": err.Error()}
	status, of["type"] = http.StatusInternalServerError, "server_error"
	if r, ok := errors.AsType[*refusal](err); ok {
		status, of["type"] = r.status, r.kind
	} else if long, ok := errors.AsType[*llama.TooLongError](err); ok {
		status, of["type"] = http.StatusBadRequest, "exceed_context_size_error"
		of["n_prompt_tokens"], of["n_ctx"] = long.Tokens, long.Context
	} else if errors.Is(err, llama.ErrNoText) || errors.Is(err, llama.ErrNoSlot) || errors.Is(err, llama.ErrNoRestore) || errors.Is(err, llama.ErrNoRoom) {
		status, of["type"] = http.StatusBadRequest, "invalid_request_error"
	} else if errors.Is(err, llama.ErrClosed) {
		status, of["type"] = http.StatusServiceUnavailable, "unavailable_error"
	}
	of["code"] = status
	return status, map[string]any{"error": of}
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (e *engine) models(m *llama.Model, _ *http.Request, _ []byte) (any, error) {
	return map[string]any{"object": "list", "data": []any{map[string]any{
		"id": filepath.Base(e.path), "object": "model", "created": time.Now().Unix(),
		"owned_by": "modeltier's test engine", "meta": map[string]any{"n_ctx": m.Context()},
	}}}, nil
}

// input is what is made into tokens: a text, tokens, or a list of such.
type input []prompt

// prompt is one text, or tokens.
type prompt struct {
	text   string
	tokens []int32 // nil: text
}

func (p *prompt) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &p.text) == nil {
		return nil
	}
	return json.Unmarshal(b, &p.tokens)
}

func (in *input) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var one prompt
	if json.Unmarshal(b, &one) == nil && (len(one.tokens) > 0 || one.tokens == nil) {
		*in = input{one}
		return nil
	}
	return json.Unmarshal(b, (*[]prompt)(in))
}

// of returns the tokens for a model.
func (p *prompt) of(m *llama.Model) ([]int32, error) {
	if p.tokens != nil {
		return p.tokens, nil
	}
	return m.Tokenize(p.text, true, true)
}

func (e *engine) embed(m *llama.Model, r *http.Request, body []byte) (any, error) {
	var q struct {
		Model          string `json:"model"`
		Input          input  `json:"input"`
		EncodingFormat string `json:"encoding_format"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, invalid("%v", err)
	}
	if len(q.Input) == 0 {
		return nil, invalid(`"input" is needed`)
	}
	if f := q.EncodingFormat; f != "" && f != "float" && f != "base64" {
		return nil, invalid(`"encoding_format" %q: it is "float" or "base64"`, f)
	}
	var list []any
	total := 0
	for i := range q.Input {
		tokens, err := q.Input[i].of(m)
		if err != nil {
			return nil, err
		}
		v, err := m.Embed(r.Context(), tokens)
		if err != nil {
			return nil, err
		}
		total += len(tokens)
		var as any = v
		if q.EncodingFormat == "base64" {
			var b []byte
			for _, f := range v {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
			}
			as = base64.StdEncoding.EncodeToString(b)
		}
		list = append(list, map[string]any{"object": "embedding", "index": i, "embedding": as})
	}
	return map[string]any{"object": "list", "model": e.name(q.Model), "data": list,
		"usage": map[string]any{"prompt_tokens": total, "total_tokens": total}}, nil
}

// name is that of the model in an answer: as the request had it.
func (e *engine) name(asked string) string {
	if asked != "" {
		return asked
	}
	return filepath.Base(e.path)
}

func tokenize(m *llama.Model, _ *http.Request, body []byte) (any, error) {
	q := struct {
		Content      string `json:"content"`
		AddSpecial   bool   `json:"add_special"`
		ParseSpecial bool   `json:"parse_special"`
		WithPieces   bool   `json:"with_pieces"`
	}{ParseSpecial: true}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, invalid("%v", err)
	}
	tokens, err := m.Tokenize(q.Content, q.AddSpecial, q.ParseSpecial)
	if err != nil || !q.WithPieces {
		return map[string]any{"tokens": tokens}, err
	}
	pieces := make([]any, len(tokens))
	for i, token := range tokens {
		var as any = m.Piece(token)
		if piece := as.(string); !utf8.ValidString(piece) { // a part of a character: its bytes
			bytes := make([]int, len(piece))
			for i := range bytes {
				bytes[i] = int(piece[i])
			}
			as = bytes
		}
		pieces[i] = map[string]any{"id": token, "piece": as}
	}
	return map[string]any{"tokens": pieces}, nil
}

func slots(m *llama.Model, _ *http.Request, _ []byte) (any, error) {
	list := []any{}
	for _, s := range m.Slots() {
		list = append(list, map[string]any{"id": s.ID, "n_ctx": m.Context(), "is_processing": s.Busy, "n_prompt_tokens": s.Tokens})
	}
	return list, nil
}

// slot saves, restores or erases a slot.
func (e *engine) slot(m *llama.Model, r *http.Request, body []byte) (any, error) {
	if e.saves == "" {
		return nil, &refusal{http.StatusNotImplemented, "not_supported_error", "This server does not support slots action. Start it with `--slot-save-path`"}
	}
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, invalid("Invalid slot ID")
	}
	action, began := r.URL.Query().Get("action"), time.Now()
	took := func(name string) any {
		return map[string]any{name: float64(time.Since(began).Microseconds()) / 1000}
	}
	if action == "erase" {
		n, err := m.Erase(r.Context(), id)
		return map[string]any{"id_slot": id, "n_erased": n}, err
	}
	if action != "save" && action != "restore" {
		return nil, invalid("Invalid action")
	}
	var q struct {
		Filename string `json:"filename"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, invalid("%v", err)
	}
	if !plain(q.Filename) {
		return nil, invalid("Invalid filename")
	}
	path := filepath.Join(e.saves, q.Filename)
	if action == "save" {
		st, err := m.Save(r.Context(), id, path, func() (int64, error) { return e.room(q.Filename) })
		return map[string]any{"id_slot": id, "filename": q.Filename, "n_saved": st.Tokens, "n_written": st.Bytes, "timings": took("save_ms")}, err
	}
	st, err := m.Restore(r.Context(), id, path)
	return map[string]any{"id_slot": id, "filename": q.Filename, "n_restored": st.Tokens, "n_read": st.Bytes, "timings": took("restore_ms")}, err
}

// room returns how many bytes may be saved under a name, beside the other files of the
// folder.
func (e *engine) room(name string) (int64, error) {
	entries, err := os.ReadDir(e.saves)
	if err != nil {
		return 0, err
	}
	room := int64(e.savesMiB) << 20
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && entry.Name() != name {
			room -= info.Size()
		}
	}
	return room, nil
}

// plain reports whether a name is one of a file in a folder, and of no other.
func plain(name string) bool {
	return len(name) <= 200 && name == filepath.Base(name) && filepath.IsLocal(name) && name != "." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || strings.ContainsRune(`/\:*?"<>|`, r) })
}
