package main

import (
	"encoding/json"
	"math"
	"mime"
	"net/http"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// loading is how far a model is on its way into memory.
type loading struct {
	Model string `json:"model"`
	// Phase is one of tier.Phase, or "ready".
	Phase string `json:"phase"`
	// Position is the model's place among those that are queued, from 1; Behind are
	// those that go first or that have the room, or, while room is made, that leave.
	Position int      `json:"position,omitempty"`
	Behind   []string `json:"behind,omitempty"`
	// JobID is for the contract's tier_job_status; "": the load has not begun.
	JobID    string     `json:"job_id,omitempty"`
	Progress float64    `json:"progress"` // 0 to 1, which is only told when the model is ready
	Done     tier.Bytes `json:"bytes_done"`
	Total    tier.Bytes `json:"bytes_total"`
	Left     float64    `json:"time_left,omitempty"` // seconds; none: unknown
}

// loadingAt says how far a request is that waits.
func loadingAt(w tier.Waiting) loading {
	at := loading{
		Model: w.Model, Phase: w.Phase.String(), Position: w.Position, Behind: w.Behind, JobID: w.Job, Done: w.Done, Total: w.Total,
		Left: math.Round(w.Left.Seconds()*10) / 10,
	}
	if w.Total > 0 {
		at.Progress = min(float64(w.Done)/float64(w.Total), 0.99)
	}
	return at
}

// serveModel answers GET /v1/models/{name}: one entry of OpenAI's list, and, while
// the model is loaded or waited for, how far that is.
func (p *proxy) serveModel(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if s, ok := p.m.Model(name); ok {
		entry := struct {
			ID           string            `json:"id"`
			Object       string            `json:"object"`
			Created      int64             `json:"created"`
			OwnedBy      string            `json:"owned_by"`
			Capabilities []string          `json:"capabilities"`
			Resident     tier.Tier         `json:"resident_tier"`
			Labels       map[string]string `json:"labels,omitempty"`
			Loading      *loading          `json:"loading,omitempty"`
		}{s.Name, "model", p.since, "modeltier", append([]string{}, s.Capabilities...), s.Tier, s.Labels, nil}
		if s.Waiting != nil {
			at := loadingAt(*s.Waiting)
			entry.Loading = &at
		}
		writeJSON(w, http.StatusOK, &entry)
		return
	}
	_, err := p.m.Select(modeltier.Request{Model: name})
	if err == nil { // it came in this very moment
		err = &tier.NotFoundError{What: "model", Name: name}
	}
	writeFailure(w, err)
}

// progressHeader is the header of a request whose client wants to know how far its
// model is while it waits.
const progressHeader = "X-Load-Progress"

// begun is the answer of a stream that has begun before its engine was asked: with
// comments, which readers of event streams skip. What the engine answers follows;
// where that is no stream, it is an error, and follows as an event.
type begun struct {
	http.ResponseWriter
	header http.Header // the engine's, too late to be sent
	status int
	other  []byte // what is no stream
}

// begin starts a stream.
func begin(w http.ResponseWriter) *begun {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set(noBuffering, "no")
	w.WriteHeader(http.StatusOK)
	return &begun{ResponseWriter: w, header: http.Header{}}
}

// comment tells where the load is: whether the model is waiting, loading or ready.
func (b *begun) comment(what string, at loading) {
	b.ResponseWriter.Write([]byte(": " + what + " " + text(at) + "\n\n"))
	b.FlushError()
}

func (b *begun) Header() http.Header { return b.header }

func (b *begun) WriteHeader(status int) {
	if status >= http.StatusOK && b.status == 0 {
		b.status = status
	}
}

// mostOther bounds an answer that is no stream.
const mostOther = 64 << 10

func (b *begun) Write(p []byte) (int, error) {
	if b.status == 0 || b.status == http.StatusOK && isStream(b.header) {
		return b.ResponseWriter.Write(p)
	}
	b.other = append(b.other, p[:min(len(p), mostOther-len(b.other))]...)
	return len(p), nil
}

// FlushError is for http.ResponseController.
func (b *begun) FlushError() error { return http.NewResponseController(b.ResponseWriter).Flush() }

// end sends what was no stream.
func (b *begun) end() {
	if len(b.other) == 0 {
		return
	}
	var whole json.RawMessage
	if json.Unmarshal(b.other, &whole) != nil {
		var p problem
		p.Error.Message, p.Error.Type, p.Error.Code = string(b.other), "server_error", "engine_failed"
		whole = json.RawMessage(text(&p))
	}
	b.ResponseWriter.Write([]byte("data: " + text(whole) + "\n\n"))
	b.FlushError()
}

func isStream(h http.Header) bool {
	kind, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return kind == "text/event-stream"
}
