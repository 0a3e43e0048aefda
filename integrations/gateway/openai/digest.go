package openai

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
)

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

// weights are the instance of a leased model whose files are in memory.
type weights interface {
	io.ReaderAt
	Size() int64
}

// digest answers GET /v1/models/NAME/digest. It does with a model what an engine does: it
// takes a lease, reads all the weights where they are, and gives the lease back.
func (m *models) digest(w http.ResponseWriter, r *http.Request, name string) {
	lease, err := m.m.Acquire(r.Context(), modeltier.Request{Model: name})
	if err != nil {
		room.WriteProblem(w, Face{}, room.ProblemOf(err))
		return
	}
	defer lease.Release()
	weights, ok := modeltier.Instance[weights](lease)
	if !ok {
		room.WriteProblem(w, Face{}, &room.Problem{
			Status: http.StatusNotImplemented, Code: "not_supported", Message: "The engine of '" + lease.Model().Name + "' does not show its weights",
			Suggestions: []string{"A digest is of files that the server has in memory itself: serve the folder without -engine."},
		})
		return
	}
	a, err := digestOf(r.Context(), lease, weights)
	if err != nil { // the file is at fault, and not the request
		p := room.ProblemOf(err)
		p.Status = http.StatusInternalServerError
		room.WriteProblem(w, Face{}, p)
		return
	}
	room.WriteJSON(w, http.StatusOK, a)
}

func digestOf(ctx context.Context, lease *modeltier.Lease, weights weights) (*digest, error) {
	name := lease.Model().Name // it may have been asked for by an alias
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
