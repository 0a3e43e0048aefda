package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// handler answers what the Manager's own Handler does (POST /, /v1/models,
// /healthz, /readyz, /status), and the digest of a model. To clients of OpenAI's API it
// says that there is no engine.
func handler(m *modeltier.Manager, weights *mapped.Mover) http.Handler {
	mux := http.NewServeMux()
	own := m.Handler()
	mux.Handle("/", own)
	mux.Handle("/v1/models", own) // else it is taken for the folder of the next
	mux.Handle("GET /v1/models/{name...}", &digests{m: m, weights: weights})
	for _, path := range enginePaths {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(shouldRetry, "false")
			writeProblem(w, http.StatusNotImplemented, "no_engine", "This server has no engine: it keeps files in memory, and nothing answers for their models",
				"Start it with -engine, such as -engine 'llama-server -m {path} --port {port}', or with -config.")
		})
	}
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
	status, after := modeltier.HTTPStatus(err)
	setRetryAfter(w.Header(), after)
	writeRefusal(w, status, tier.Code(err), err.Error(), tier.Suggestions(err)...)
}

// setRetryAfter says when to come back, if that is of use.
func setRetryAfter(h http.Header, after time.Duration) {
	if after > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(after/time.Second), 10))
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// digests answers GET /v1/models/{name}/digest. It does with a model what an
// engine does: it takes a lease, reads all the weights where they are, and gives
// the lease back.
type digests struct {
	m       *modeltier.Manager
	weights *mapped.Mover
}

// digest is the answer.
type digest struct {
	Status string    `json:"status"`
	Model  string    `json:"model"`
	Tier   tier.Tier `json:"tier"`  // that it was served from
	Moved  bool      `json:"moved"` // weights had to move for it
	// Waited is how long it took until the model was ready, Seconds how long the
	// reading took then. GB are of 2^30 bytes.
	Waited  float64    `json:"waited_seconds"`
	Bytes   tier.Bytes `json:"bytes"`
	Seconds float64    `json:"seconds"`
	Rate    float64    `json:"gb_per_second"`
	// SHA256 is that of the file; of several files, that of one behind the other in
	// the order of their names.
	SHA256 string `json:"sha256"`
}

func (d *digests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, asked := strings.CutSuffix(r.PathValue("name"), "/digest")
	if !asked || name == "" {
		writeRefusal(w, http.StatusNotFound, "not_found", "There is nothing at this path", "GET /v1/models lists the models, GET /v1/models/NAME/digest reads one.")
		return
	}
	lease, err := d.m.Acquire(r.Context(), modeltier.Request{Model: name})
	if err != nil {
		writeError(w, err)
		return
	}
	defer lease.Release()
	a, err := d.digest(r.Context(), lease)
	if err != nil { // the file is at fault, and not the request
		writeRefusal(w, http.StatusInternalServerError, tier.Code(err), err.Error(), tier.Suggestions(err)...)
		return
	}
	writeJSON(w, http.StatusOK, a)
}

func (d *digests) digest(ctx context.Context, lease *modeltier.Lease) (*digest, error) {
	name := lease.Model().Name // it may have been asked for by an alias
	weights, err := d.weights.Weights(name)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	sum, err := sha256Of(ctx, weights, weights.Size())
	if err != nil {
		return nil, err
	}
	a := &digest{
		Status: "success", Model: name, Tier: lease.Tier(), Moved: lease.Moved(), Waited: lease.Waited().Seconds(),
		Bytes: tier.Bytes(weights.Size()), Seconds: time.Since(began).Seconds(), SHA256: hex.EncodeToString(sum),
	}
	a.Rate = a.Bytes.GB() / max(a.Seconds, 1e-9)
	return a, nil
}

// sha256Of reads r to its end, and stops early when ctx does: the client has gone
// and the model is wanted elsewhere.
func sha256Of(ctx context.Context, r io.ReaderAt, size int64) ([]byte, error) {
	sum := sha256.New()
	buf := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(buf)) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		buf = buf[:min(int64(len(buf)), size-off)]
		if _, err := r.ReadAt(buf, off); err != nil {
			return nil, err
		}
		sum.Write(buf)
	}
	return sum.Sum(nil), nil
}
