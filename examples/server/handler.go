package main

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// handler answers what the Manager's own Handler does (POST /, /v1/models,
// /healthz, /readyz, /status), and the digest of a model.
func handler(m *modeltier.Manager, weights *mapped.Mover) http.Handler {
	mux := http.NewServeMux()
	own := m.Handler()
	mux.Handle("/", own)
	mux.Handle("/v1/models", own) // else it is taken for the folder of the next
	mux.Handle("GET /v1/models/{name...}", &digests{m: m, weights: weights})
	return mux
}

// refusal is an error on the wire, of the contract's shape.
type refusal struct {
	Status      string   `json:"status"`
	Reason      string   `json:"reason"`
	Code        string   `json:"code"`
	Suggestions []string `json:"suggestions"`
}

func writeRefusal(w http.ResponseWriter, status int, code, reason string, suggestions ...string) {
	writeJSON(w, status, &refusal{"error", reason, code, suggestions})
}

// writeError answers with an error of the Manager's.
func writeError(w http.ResponseWriter, err error) {
	status := statusOf(w.Header(), err)
	writeRefusal(w, status, tier.Code(err), err.Error(), tier.Suggestions(err)...)
}

// statusOf returns the status that an error of the Manager's has over HTTP, and
// sets Retry-After where the error knows when.
func statusOf(h http.Header, err error) int {
	if busy, ok := errors.AsType[*tier.BusyError](err); ok {
		h.Set("Retry-After", strconv.Itoa(max(int(math.Ceil(busy.RetryAfter.Seconds())), 1)))
	}
	for _, c := range []struct {
		err    error
		status int
	}{
		{modeltier.ErrNotFound, http.StatusNotFound},
		{modeltier.ErrNoCapableModel, http.StatusNotFound},
		{modeltier.ErrTooLarge, http.StatusInsufficientStorage},
		{modeltier.ErrNoCapacity, http.StatusServiceUnavailable},
		{modeltier.ErrBusy, http.StatusServiceUnavailable},
		{modeltier.ErrClosed, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, c.err) {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
