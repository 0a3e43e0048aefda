package room

import (
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Loading is how far a model is on its way into memory.
type Loading struct {
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

// LoadingAt says how far a request is that waits.
func LoadingAt(w tier.Waiting) Loading {
	at := Loading{
		Model: w.Model, Phase: w.Phase.String(), Position: w.Position, Behind: w.Behind, JobID: w.Job, Done: w.Done, Total: w.Total,
		Left: math.Round(w.Left.Seconds()*10) / 10,
	}
	if w.Total > 0 {
		at.Progress = min(float64(w.Done)/float64(w.Total), 0.99)
	}
	return at
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
	face   Face
}

// begin starts a stream.
func begin(w http.ResponseWriter, face Face) *begun {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set(noBuffering, "no")
	w.WriteHeader(http.StatusOK)
	return &begun{ResponseWriter: w, header: http.Header{}, face: face}
}

// comment tells where the load is: whether the model is waiting, loading or ready.
func (b *begun) comment(what string, at Loading) {
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
	if whole := json.RawMessage(b.other); json.Valid(whole) {
		name := ""
		if b.status >= http.StatusBadRequest {
			name = "event: error\n" // Anthropic's clients skip what has no name
		}
		b.ResponseWriter.Write([]byte(name + "data: " + text(whole) + "\n\n"))
	} else {
		b.ResponseWriter.Write(b.face.Event(failed(string(b.other))))
	}
	b.FlushError()
}

func isStream(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
}

// text is v as JSON. It is given what has no error to give.
func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// tellEvery is how often a client is told how far a load is while its phase stays.
const tellEvery = 500 * time.Millisecond

// enterTelling is enter, and tells the client how far its model is while it waits. If that
// has begun the answer has, too.
func (p *pass) enterTelling(w http.ResponseWriter, r *http.Request) (b *begun, err error) {
	var (
		last tier.Waiting
		at   time.Time // when the client was last told
	)
	ready, waits := make(chan error, 1), make(chan tier.Waiting, 1)
	req := p.ask.Request
	req.Progress = func(w tier.Waiting) { // not for the answer itself: it may run yet when Acquire has returned
		select {
		case waits <- w:
		default:
		}
	}
	go func() { ready <- p.enter(r.Context(), &req) }()
	for {
		select {
		case err := <-ready:
			if b != nil && err == nil {
				b.comment("ready", Loading{Model: p.model, Phase: "ready", JobID: last.Job, Progress: 1, Done: last.Total, Total: last.Total})
			}
			return b, err
		case now := <-waits:
			if now.Model == "" || now.Phase == last.Phase && now.Job == last.Job && time.Since(at) < tellEvery {
				continue
			}
			if b == nil {
				b = begin(w, p.face)
			}
			what := "loading"
			if now.Job == "" {
				what = "waiting"
			}
			b.comment(what, LoadingAt(now))
			last, at = now, time.Now()
		}
	}
}
