package modeltier

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// bodyTime is how long a client may take to send its request.
const bodyTime = 10 * time.Second

// Handler returns an http.Handler with the contract and little else:
//
//	POST /           one request of the JSON contract, answered with 200 whatever
//	                 its status says, as its clients expect
//	GET  /v1/models  the library, as an OpenAI-style list
//	GET  /healthz    200 while the Manager lives
//	GET  /readyz     200 while it takes requests, else 503
//	GET  /status     Status
//
// What is wrong with the HTTP request itself has a status code of its own, with
// the contract's error object as its body. A body is limited to Config.MaxBody,
// and has 10 s to come.
func (m *Manager) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", m.serveContract)
	mux.HandleFunc("GET /v1/models", m.serveModels)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-m.loopDone:
			writeError(w, http.StatusServiceUnavailable, tier.ErrClosed)
		default:
			writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if m.closing.Load() {
			writeError(w, http.StatusServiceUnavailable, tier.ErrClosed)
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, m.Status()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.Header().Set("Allow", "POST")
			writeError(w, http.StatusMethodNotAllowed, worded("Method "+r.Method+" is not for this path", "POST one JSON object here."))
			return
		}
		writeError(w, http.StatusNotFound, worded("There is nothing at this path", "POST / takes the JSON contract; GET /v1/models, /status, /healthz and /readyz answer too."))
	})
	return mux
}

func (m *Manager) serveContract(w http.ResponseWriter, r *http.Request) {
	// Not every ResponseWriter has a deadline to set; then the server's own counts.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, m.cfg.MaxBody))
	if err != nil {
		if _, long := errors.AsType[*http.MaxBytesError](err); long {
			writeError(w, http.StatusRequestEntityTooLarge, tooLong(m.cfg.MaxBody))
			return
		}
		writeError(w, http.StatusBadRequest, worded("The body did not come whole: "+err.Error(), "Send the whole request within 10 s."))
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(m.HandleRequest(r.Context(), body), '\n'))
}

// modelEntry is one model in the list that OpenAI clients read.
type modelEntry struct {
	ID           string    `json:"id"`
	Object       string    `json:"object"`
	OwnedBy      string    `json:"owned_by"`
	SizeGB       float64   `json:"size_gb"`
	Capabilities []string  `json:"capabilities"`
	Home         tier.Tier `json:"tier"`
	Resident     tier.Tier `json:"resident_tier"`
}

func (m *Manager) serveModels(w http.ResponseWriter, _ *http.Request) {
	list := []modelEntry{}
	for s := range m.Models() {
		list = append(list, modelEntry{s.Name, "model", "modeltier", gb(s.Size), names(s.Capabilities), s.Home, s.Tier})
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, errorAnswer(err))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	out, err := encode(v)
	if err != nil {
		status = http.StatusInternalServerError
		out, _ = encode(errorAnswer(err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(out, '\n'))
}

// encode is json.Marshal for people: nothing in an answer becomes HTML, so that
// "a > b" may stay as it is.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), err
}
