package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sync/semaphore"
)

const embeddingsPath = "/v1/embeddings"

// enginePaths are those of OpenAI's API that engines answer.
var enginePaths = []string{"/v1/chat/completions", "/v1/completions", embeddingsPath}

// shouldRetry is a header that OpenAI's own clients go by.
const shouldRetry = "X-Should-Retry"

// proxy passes OpenAI's requests on to the engine of their model, once that is
// ready. It holds a lease until the answer has ended, or its client has left.
type proxy struct {
	m *modeltier.Manager
	// use begins a request to the engine of a leased model.
	use func(model string) (engineUse, bool)
	out *httputil.ReverseProxy
	// since is when the Manager was made, in Unix time: when models count as created.
	since int64
	// bodies is the room for those of all requests.
	bodies *semaphore.Weighted
}

func newProxy(m *modeltier.Manager, use func(model string) (engineUse, bool), log *slog.Logger) *proxy {
	s := m.Status()
	p := &proxy{m: m, use: use, since: s.At.Add(-s.Uptime).Unix(), bodies: semaphore.NewWeighted(maxPrompts)}
	p.out = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Header.Del("Authorization") // is between the client and us
			// curl -d says it is a form, of which engines take little.
			r.Out.Header.Set("Content-Type", "application/json")
		},
		// Engines are on this machine, and asked directly. Connections are kept: an
		// engine that was frozen goes on with them.
		Transport:     kept{&http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, DisableCompression: true}},
		FlushInterval: -1, // a token is passed on when it comes
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode != http.StatusSwitchingProtocols {
				r.Body = r.Request.Context().Value(useKey{}).(engineUse).Body(r.Body)
			}
			return lastWord(r)
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the client has left
			}
			log.Warn("an engine failed a request", "err", err)
			writeProblem(w, http.StatusBadGateway, "engine_failed", "The engine did not answer: "+err.Error(), "Try again: it is being restarted.")
		},
	}
	return p
}

// kept sends a request again if the kept connection that it was sent on ends without an
// answer: an engine may close one just then. What asks a model for words has no effect
// that a second time would repeat.
type kept struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (k kept) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		reused := false
		traced := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
		})
		res, err := k.RoundTripper.RoundTrip(r.WithContext(traced))
		if err == nil || !reused || r.GetBody == nil || r.Context().Err() != nil {
			return res, err
		}
		body, e := r.GetBody()
		if e != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
}

// engineUse is a *process.Use.
type engineUse interface {
	URL() string
	Body(io.ReadCloser) io.ReadCloser
	End()
}

// useOf returns what begins a request to an engine.
func useOf(engines *engineMover) func(model string) (engineUse, bool) {
	return func(model string) (engineUse, bool) {
		u, ok := engines.Use(model)
		return u, ok
	}
}

// useKey is the key of a request's engineUse in its context.
type useKey struct{}

// handler answers what the Manager's own Handler does, and passes on the rest of
// OpenAI's API.
func (p *proxy) handler() http.Handler {
	mux := http.NewServeMux()
	own := p.m.Handler()
	mux.Handle("/", own)
	mux.Handle("/v1/models", own) // else it is taken for the folder of the next
	mux.HandleFunc("GET /v1/models/{name...}", p.serveModel)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { // clients try a connection so
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	for _, path := range enginePaths {
		mux.Handle("POST "+path, p)
	}
	return mux
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = flowing{w}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute))
	in := &charged{from: http.MaxBytesReader(w, r.Body, maxPrompt), room: p.bodies}
	defer in.release()
	body, err := io.ReadAll(in)
	if errors.Is(err, errPrompts) {
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusTooManyRequests, tier.Code(modeltier.ErrBusy), "The body cannot be taken now: "+err.Error(), "Come back when some of them have their answers.")
		return
	}
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		writeProblem(w, http.StatusRequestEntityTooLarge, "invalid_request", "The body is too long")
		return
	}
	if err != nil {
		writeProblem(w, http.StatusBadRequest, "invalid_request", "The body did not come whole: "+err.Error())
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	req, stream, err := understand(r, body)
	if err != nil {
		writeProblem(w, http.StatusBadRequest, "invalid_request", err.Error(), `Send a JSON object with "model": the name of a model, or "auto".`)
		return
	}
	var lease *modeltier.Lease
	if stream && r.Header.Get(progressHeader) != "" {
		var b *begun
		if lease, b, err = p.acquireTelling(w, r, req); b != nil {
			w = b
			defer b.end()
		}
	} else {
		lease, err = p.m.Acquire(r.Context(), req)
	}
	if err != nil {
		if r.Context().Err() == nil {
			writeFailure(w, err)
		}
		return
	}
	defer lease.Release()
	model := lease.Model().Name
	use, ok := p.use(model)
	if !ok { // it crashed in this very moment
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, "engine_failed", "The engine of '"+model+"' has just ended", "Try again: it is being restarted.")
		return
	}
	defer use.End()
	if req.Model != model { // it was selected, or an alias
		body = renamed(body, model)
	}
	w.Header().Set("X-Model", model)
	out := r.Clone(context.WithValue(r.Context(), useKey{}, use))
	out.URL.Scheme, out.URL.Host = "http", strings.TrimPrefix(use.URL(), "http://")
	out.Host = out.URL.Host
	// With GetBody it is sent again if a kept connection turns out to be dead: see kept.
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	out.ContentLength, out.TransferEncoding = int64(len(body)), nil
	p.out.ServeHTTP(w, out)
}

// tellEvery is how often a client is told how far a load is while its phase stays.
const tellEvery = 500 * time.Millisecond

// acquireTelling acquires a model, and tells the client how far it is while it
// waits. Where that has begun the answer has, too.
func (p *proxy) acquireTelling(w http.ResponseWriter, r *http.Request, req modeltier.Request) (*modeltier.Lease, *begun, error) {
	var (
		lease *modeltier.Lease
		err   error
		b     *begun
		last  tier.Waiting
		at    time.Time // when the client was last told
	)
	ready, waits := make(chan struct{}), make(chan tier.Waiting, 1)
	req.Progress = func(w tier.Waiting) { // not for the answer itself: it may run yet when Acquire has returned
		select {
		case waits <- w:
		default:
		}
	}
	go func() {
		defer close(ready)
		lease, err = p.m.Acquire(r.Context(), req)
	}()
	for {
		select {
		case <-ready:
			if b != nil && err == nil {
				b.comment("ready", loading{Model: lease.Model().Name, Phase: "ready", JobID: last.Job, Progress: 1, Done: last.Total, Total: last.Total})
			}
			return lease, b, err
		case now := <-waits:
			if now.Model == "" || now.Phase == last.Phase && now.Job == last.Job && time.Since(at) < tellEvery {
				continue
			}
			if b == nil {
				b = begin(w)
			}
			what := "loading"
			if now.Job == "" {
				what = "waiting"
			}
			b.comment(what, loadingAt(now))
			last, at = now, time.Now()
		}
	}
}

// problem is an error as OpenAI's clients read it, with our code.
type problem struct {
	Error struct {
		Message     string   `json:"message"`
		Type        string   `json:"type"`
		Code        string   `json:"code"`
		Suggestions []string `json:"suggestions,omitempty"`
	} `json:"error"`
}

func writeProblem(w http.ResponseWriter, status int, code, message string, suggestions ...string) {
	var p problem
	p.Error.Message, p.Error.Code, p.Error.Suggestions = message, code, suggestions
	p.Error.Type = "invalid_request_error"
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		p.Error.Type = "server_error"
	}
	writeJSON(w, status, &p)
}

// writeFailure answers with an error of the Manager's, with Retry-After where it may work
// later.
func writeFailure(w http.ResponseWriter, err error) {
	status, after := modeltier.HTTPStatus(err)
	if setRetryAfter(w.Header(), after); after == 0 {
		w.Header().Set(shouldRetry, "false") // to OpenAI's own clients: it would be the same
	}
	writeProblem(w, status, tier.Code(err), err.Error(), tier.Suggestions(err)...)
}

// maxPrompt bounds a body: a long context, or a few pictures.
const maxPrompt = 32 << 20

// maxPrompts bounds what is held of all bodies at once. A body is kept until its
// answer has ended, so without it a queue of long ones would be memory that stands
// in no account.
const maxPrompts = 256 << 20

// errPrompts is what reading a body ends with where the others leave it no room.
var errPrompts = errors.New("the bodies of the requests in progress are too large together")

// charged reads a body, and charges what it has read to the room of all of them
// until it is released. What is only announced costs nothing.
type charged struct {
	from io.Reader
	room *semaphore.Weighted
	held int64
}

// Read implements io.Reader.
func (c *charged) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if !c.room.TryAcquire(int64(n)) {
		return 0, errPrompts
	}
	c.held += int64(n)
	return n, err
}

func (c *charged) release() {
	c.room.Release(c.held)
	c.held = 0
}
