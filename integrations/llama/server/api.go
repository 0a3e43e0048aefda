package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/llama"
)

// Config is what Handler serves.
type Config struct {
	// Acquire returns the model that a request names, or "" if it names none; the request
	// ends its use. It waits no longer than ctx. Required.
	Acquire func(ctx context.Context, name string) (Use, error)
	// Models returns the names of the models, in the order in which they are listed.
	Models func() []string
	// Ready returns why no request can be served yet. nil: they can.
	Ready func() error
	// Saves is where slots are saved; zero: they are not.
	Saves llama.Saves
	// MaxTokens bounds an answer whose request does not say. 0: 64; negative: where its
	// slot is full.
	MaxTokens int
}

// Use is the use of a model by one request.
type Use struct {
	Name    string // in the answer
	Model   *llama.Model
	Release func() // or nil
}

type handler struct{ Config }

// Handler serves completions, chats and embeddings as OpenAI does, and llama-server's
// /tokenize, /health and /slots. A request whose body names no model may name it in its
// query ("?model="). Errors have OpenAI's shape.
func Handler(c Config) http.Handler {
	h := &handler{c}
	if h.MaxTokens == 0 {
		h.MaxTokens = 64
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", h.health)
	mux.HandleFunc("GET /v1/models", h.models)
	mux.HandleFunc("POST /v1/completions", h.complete)
	mux.HandleFunc("POST /v1/chat/completions", h.complete)
	mux.HandleFunc("POST /v1/embeddings", h.handle(embed))
	mux.HandleFunc("POST /tokenize", h.handle(tokenize))
	mux.HandleFunc("GET /slots", h.handle(slots))
	mux.HandleFunc("POST /slots/{id}", h.handle(h.slot))
	return mux
}

const maxBody = 1 << 20

// open reads a request's body, to its end: only then is it seen that a client goes
// away. It returns the use of the model that is asked for, too, which the caller ends.
func (h *handler) open(w http.ResponseWriter, r *http.Request) (Use, []byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return Use{}, nil, invalid("the body: %v", err)
	}
	var q struct {
		Model string `json:"model"`
	}
	json.Unmarshal(body, &q) // what is wrong with it is told by its reader
	use, err := h.Acquire(r.Context(), cmp.Or(q.Model, r.URL.Query().Get("model")))
	if err != nil {
		return Use{}, nil, err
	}
	if use.Release == nil {
		use.Release = func() {}
	}
	return use, body, nil
}

// handle makes a handler of what answers with one object.
func (h *handler) handle(answer func(use Use, r *http.Request, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		use, body, err := h.open(w, r)
		var out any
		if err == nil {
			defer use.Release()
			out, err = answer(use, r, body)
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
	if r.Context().Err() != nil {
		return
	}
	status, body := problem(err)
	if _, again := modeltier.HTTPStatus(err); again > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(again/time.Second)))
	}
	send(w, status, body)
}

// kinds are the types of a Manager's errors, by their status.
var kinds = map[int]string{
	http.StatusBadRequest:          "invalid_request_error",
	http.StatusNotFound:            "not_found_error",
	http.StatusConflict:            "invalid_request_error",
	http.StatusTooManyRequests:     "unavailable_error",
	http.StatusServiceUnavailable:  "unavailable_error",
	http.StatusGatewayTimeout:      "unavailable_error",
	http.StatusInsufficientStorage: "unavailable_error",
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
	} else {
		status, _ = modeltier.HTTPStatus(err)
		of["type"] = cmp.Or(kinds[status], "server_error")
	}
	of["code"] = status
	return status, map[string]any{"error": of}
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (h *handler) health(w http.ResponseWriter, r *http.Request) {
	if h.Ready != nil {
		if err := h.Ready(); err != nil {
			refuse(w, r, err)
			return
		}
	}
	send(w, http.StatusOK, map[string]any{"status": "ok"})
}

func (h *handler) models(w http.ResponseWriter, _ *http.Request) {
	list := []any{}
	if h.Models != nil {
		for _, name := range h.Models() {
			list = append(list, map[string]any{"id": name, "object": "model", "created": time.Now().Unix(), "owned_by": "modeltier"})
		}
	}
	send(w, http.StatusOK, map[string]any{"object": "list", "data": list})
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

func embed(use Use, r *http.Request, body []byte) (any, error) {
	var q struct {
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
		tokens, err := q.Input[i].of(use.Model)
		if err != nil {
			return nil, err
		}
		v, err := use.Model.Embed(r.Context(), tokens)
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
	return map[string]any{"object": "list", "model": use.Name, "data": list,
		"usage": map[string]any{"prompt_tokens": total, "total_tokens": total}}, nil
}

func tokenize(use Use, _ *http.Request, body []byte) (any, error) {
	q := struct {
		Content      string `json:"content"`
		AddSpecial   bool   `json:"add_special"`
		ParseSpecial bool   `json:"parse_special"`
		WithPieces   bool   `json:"with_pieces"`
	}{ParseSpecial: true}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, invalid("%v", err)
	}
	tokens, err := use.Model.Tokenize(q.Content, q.AddSpecial, q.ParseSpecial)
	if err != nil || !q.WithPieces {
		return map[string]any{"tokens": tokens}, err
	}
	pieces := make([]any, len(tokens))
	for i, token := range tokens {
		var as any = use.Model.Piece(token)
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

func slots(use Use, _ *http.Request, _ []byte) (any, error) {
	list := []any{}
	for _, s := range use.Model.Slots() {
		list = append(list, map[string]any{"id": s.ID, "n_ctx": use.Model.Context(), "is_processing": s.Busy, "n_prompt_tokens": s.Tokens})
	}
	return list, nil
}

// slot saves, restores or erases a slot.
func (h *handler) slot(use Use, r *http.Request, body []byte) (any, error) {
	if h.Saves.Dir == "" {
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
		n, err := use.Model.Erase(r.Context(), id)
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
	path := filepath.Join(h.Saves.Dir, q.Filename)
	if action == "save" {
		st, err := use.Model.Save(r.Context(), id, path, func() (int64, error) { return h.Saves.Room(q.Filename) })
		return map[string]any{"id_slot": id, "filename": q.Filename, "n_saved": st.Tokens, "n_written": st.Bytes, "timings": took("save_ms")}, err
	}
	st, err := use.Model.Restore(r.Context(), id, path)
	return map[string]any{"id_slot": id, "filename": q.Filename, "n_restored": st.Tokens, "n_read": st.Bytes, "timings": took("restore_ms")}, err
}

// plain reports whether a name is one of a file in a folder, and of no other.
func plain(name string) bool {
	return len(name) <= 200 && name == filepath.Base(name) && filepath.IsLocal(name) && name != "." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || strings.ContainsRune(`/\:*?"<>|`, r) })
}
