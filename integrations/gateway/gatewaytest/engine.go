package gatewaytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// Engine says which engine it is. The zero value serves every path.
type Engine struct {
	// Name is what its answers call the model. "": "stand-in".
	Name string
	// Without are paths that it lacks, together with all below them. It answers 404
	// there, as an older llama-server does.
	Without []string
}

// asEngine is the first argument of a process that is to be an engine.
const asEngine = "gatewaytest-engine"

// Command returns the command of an engine, for a configuration or a process.Engine, whose
// program is this one. It lacks the paths of without. The program has to call [Main].
func Command(without ...string) []string {
	return append([]string{os.Args[0], asEngine, "{port}", "{name}"}, without...)
}

// Main makes this process an engine if [Command] has started it, and does not return then.
// In any other process it does nothing. It is called before flags are parsed.
func Main() {
	if len(os.Args) < 4 || os.Args[1] != asEngine {
		return
	}
	engine := Engine{Name: os.Args[3], Without: os.Args[4:]}
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Args[2], engine.Handler()))
	os.Exit(1)
}

// Handler returns the engine. It may serve many requests at once.
func (e Engine) Handler() http.Handler {
	if e.Name == "" {
		e.Name = "stand-in"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { reply(w, object{"status": "ok"}) })
	for path, answer := range map[string]func(http.ResponseWriter, *http.Request, object){
		"/v1/chat/completions":      e.chat,
		"/chat/completions":         e.chat,
		"/v1/completions":           e.completion,
		"/completion":               e.plainCompletion,
		"/completions":              e.plainCompletion,
		"/infill":                   e.infill,
		"/v1/responses":             e.response,
		"/responses":                e.response,
		"/v1/messages":              e.message,
		"/v1/messages/count_tokens": e.countTokens,
		"/v1/embeddings":            e.embeddings,
		"/embeddings":               e.plainEmbeddings,
		"/v1/rerank":                e.rerank,
		"/v1/reranking":             e.rerank,
		"/rerank":                   e.rerank,
		"/reranking":                e.rerank,
		"/tokenize":                 e.tokenize,
		"/detokenize":               e.detokenize,
		"/apply-template":           e.applyTemplate,
		"/v1/audio/speech":          e.speech,
		"/v1/images/generations":    e.images,
	} {
		mux.HandleFunc("POST "+path, withBody(answer))
	}
	mux.HandleFunc("POST /v1/audio/transcriptions", e.transcription)
	mux.HandleFunc("POST /v1/images/edits", e.edit)
	mux.HandleFunc("GET /v1/models", e.models)
	mux.HandleFunc("GET /models", e.models)
	mux.HandleFunc("GET /props", e.props)
	mux.HandleFunc("GET /slots", e.slots)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "File Not Found") })

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "llama.cpp")
		for _, path := range e.Without {
			if r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/") {
				refuse(w, http.StatusNotFound, "File Not Found")
				return
			}
		}
		switch fault := r.Header.Get(Fault); {
		case r.Header.Get("Upgrade") != "":
			upgrade(w, r)
		case fault != "":
			fail(w, r, fault, mux)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// withBody reads a request's JSON for what answers it.
func withBody(answer func(http.ResponseWriter, *http.Request, object)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body object
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body == nil {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("the body is no JSON object: %v", err))
			return
		}
		answer(w, r, body)
	}
}

// reply answers with JSON.
func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(answer)
}

// refuse answers with an error as llama-server words it.
func refuse(w http.ResponseWriter, status int, message string) {
	kinds := map[int]string{
		http.StatusBadRequest:          "invalid_request_error",
		http.StatusNotFound:            "not_found_error",
		http.StatusInternalServerError: "server_error",
		http.StatusNotImplemented:      "not_supported_error",
		http.StatusServiceUnavailable:  "unavailable_error",
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(object{"error": object{"code": status, "message": message, "type": kinds[status]}})
}

// event is one of a stream's. Those of chat and completions have no name.
type event struct {
	name string
	data any
}

// stream sends events one by one, until the client has left.
func stream(w http.ResponseWriter, r *http.Request, events []event) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range events {
		if e.name != "" {
			fmt.Fprintf(w, "event: %s\n", e.name)
		}
		b, _ := json.Marshal(e.data)
		fmt.Fprintf(w, "data: %s\n\n", b)
		if http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
			return
		}
	}
}
