package main

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// handler answers the JSON contract, /status and the probes, and one path of its own.
func handler(m *modeltier.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", m.Handler())
	mux.HandleFunc("GET /first/{name...}", func(w http.ResponseWriter, r *http.Request) { first(m, w, r) })
	return mux
}

// weights are what serves a leased model here: its mapped files.
type weights interface {
	io.ReaderAt
	Size() int64
}

// answer says what a model was served from.
type answer struct {
	Model  string    `json:"model"`
	Tier   tier.Tier `json:"tier"`
	Waited float64   `json:"waited_seconds"`
	Magic  string    `json:"magic"` // the first four bytes of its weights
}

// first shows what a server of one's own does with a request: it takes a lease, which
// loads the model if need be and keeps it where it is, uses what serves the model, and
// gives the lease back.
func first(m *modeltier.Manager, w http.ResponseWriter, r *http.Request) {
	lease, err := m.Acquire(r.Context(), modeltier.Request{Model: r.PathValue("name")})
	if err != nil {
		status, _ := modeltier.HTTPStatus(err)
		http.Error(w, err.Error(), status)
		return
	}
	defer lease.Release()
	var magic [4]byte
	if at, ok := modeltier.Instance[weights](lease); ok {
		_, err = at.ReadAt(magic[:], 0)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer{lease.Model().Name, lease.Tier(), lease.Waited().Seconds(), string(magic[:])})
}
