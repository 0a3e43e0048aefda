package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier/process"
)

// pass is a request on its way to an engine.
type pass struct {
	room   *Room
	face   Face
	ask    *Ask
	id     string // see requestID
	caller string
	class  *Class // nil: that of the model

	model string // that serves it
	lease *modeltier.Lease
	turn  string // the model at whose engine it has a turn; "": none
	url   string // of the engine
	use   *process.Use
	way   way
}

type passKey struct{}

// enter waits for a turn at the engine and takes the lease. progress is that of the
// request, if it is not nil.
func (p *pass) enter(ctx context.Context, req *modeltier.Request) error {
	if req == nil {
		req = &p.ask.Request
	}
	q := &p.room.queues
	// Before the lease, which would keep the model from leaving while the request waits.
	if req.Model != "" {
		if err := p.enterQueue(ctx, req.Model); err != nil {
			return err
		}
	}
	lease, err := p.room.m.Acquire(ctx, *req)
	if err != nil {
		return err
	}
	name := lease.Model().Name
	if p.turn == "" && q.tryEnter(name) {
		p.turn = name
	}
	if p.turn == "" { // it was chosen, and its engine is busy
		lease.Release()
		if err := p.enterQueue(ctx, name); err != nil {
			return err
		}
		if lease, err = p.room.m.Acquire(ctx, requestFor(name, req)); err != nil {
			return err
		}
	}
	p.lease, p.model = lease, name
	return nil
}

// requestFor is what is asked for once a wish has been given a model.
func requestFor(model string, wish *modeltier.Request) modeltier.Request {
	return modeltier.Request{Model: model, KeepAlive: wish.KeepAlive, Background: wish.Background, Progress: wish.Progress}
}

// enterQueue waits for a turn at the engine of a model, of whatever name. What has no such
// model is left to Acquire.
func (p *pass) enterQueue(ctx context.Context, name string) error {
	choice, err := p.room.m.Select(modeltier.Request{Model: name})
	if err != nil {
		return nil
	}
	name = choice.Model
	class := Normal
	if p.class != nil {
		class = *p.class
	} else {
		class = p.room.class(name)
	}
	if err := p.room.queues.enter(ctx, name, p.caller, class); err != nil {
		return err
	}
	p.turn = name
	return nil
}

// point finds the engine of the lease.
func (p *pass) point() error {
	switch at := p.lease.Instance().(type) {
	case used:
		if use, ok := at.Use(); ok {
			p.use, p.url = use, use.URL()
			return nil
		}
	case endpoint:
		if url, ok := at.URL(); ok {
			p.url = url
			return nil
		}
	}
	return errEnded(p.model)
}

// end gives back what the request holds.
func (p *pass) end() {
	if p.use != nil {
		p.use.End()
		p.use = nil
	}
	p.lease.Release()
	p.lease = nil
	if p.turn != "" {
		p.room.queues.leave(p.turn)
		p.turn = ""
	}
}

// newTransports returns what asks engines. They are on this machine, and asked directly.
// Connections are kept: an engine that was frozen goes on with them. anew asks by one that
// is made for the request.
func newTransports() (kept, anew http.RoundTripper) {
	return &http.Transport{MaxIdleConnsPerHost: maxUnanswered, IdleConnTimeout: time.Minute, DisableCompression: true},
		&http.Transport{DisableKeepAlives: true, DisableCompression: true}
}

// way is how the last attempt of a pass has reached its engine.
type way struct {
	connected, kept bool
	answered        atomic.Bool // with a first byte
}

// dropped reports whether a kept connection has ended without an answer: as a rule the
// engine had closed it when the request came. What it did with the request is unknown.
func (w *way) dropped() bool { return w.kept && !w.answered.Load() }

// trace has the attempts of a pass tell their way.
func (p *pass) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(untraced{ctx}, &httptrace.ClientTrace{
		GotConn:              func(c httptrace.GotConnInfo) { p.way.connected, p.way.kept = true, c.Reused },
		GotFirstResponseByte: func() { p.way.answered.Store(true) },
	})
}

// newForward returns what passes a pass on.
func newForward(room *Room) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			h := r.Out.Header
			cleanRequest(h)
			h.Set(requestID, r.In.Context().Value(passKey{}).(*pass).id)
		},
		Transport:      roundTripper{room},
		BufferPool:     &buffers,
		ModifyResponse: func(res *http.Response) error { return res.Request.Context().Value(passKey{}).(*pass).answer(res) },
		ErrorLog:       slog.NewLogLogger(room.log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the client has left
			}
			p := r.Context().Value(passKey{}).(*pass)
			problem := failed("The engine did not answer: " + err.Error())
			if own, ok := errors.AsType[*problemError](err); ok {
				problem = own.Problem
			} else {
				room.log.Warn("an engine failed a request", "model", p.model, "id", p.id, "err", err)
			}
			WriteProblem(w, p.face, problem)
		},
	}
}

// buffers are what answers are copied by.
var buffers pool

type pool struct{ sync.Pool }

// bufferSize is small, as each stream that is idle holds one.
const bufferSize = 8 << 10

// Get implements httputil.BufferPool.
func (p *pool) Get() []byte {
	if b, ok := p.Pool.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (p *pool) Put(b []byte) { p.Pool.Put((*[bufferSize]byte)(b)) }

// roundTripper asks the engine of a pass, and asks again if it may.
type roundTripper struct{ room *Room }

// RoundTrip implements http.RoundTripper.
func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	p := r.Context().Value(passKey{}).(*pass)
	r = r.WithContext(p.trace(r.Context()))
	taken := 0 // attempts that may have reached an engine, without an answer
	restarted, anew := false, false
	for {
		if p.ask.Instead != nil && p.room.isLacking(p) {
			if err := p.turnTo(p.ask.Instead()); err != nil {
				return nil, err
			}
		}
		res, err := p.send(r, anew)
		if err == nil {
			taken, anew = 0, false
		} else if p.way.connected {
			taken++
		}
		switch {
		case err != nil && taken < 2 && !anew && p.way.dropped() && r.Context().Err() == nil:
			anew = true // the others that are kept may have ended as well
		case err != nil && taken < 2 && !restarted && p.crashed(r.Context()):
			restarted, anew = true, false
			if err := p.reenter(r.Context()); err != nil {
				return nil, Refuse(ProblemOf(err))
			}
		case err != nil:
			return nil, err
		case isLack(res.StatusCode) && p.ask.Instead != nil:
			drain(res)
			p.room.lacks.Store(lack{p.model, p.path()}, p.url)
		case isLack(res.StatusCode) && res.StatusCode != http.StatusNotImplemented: // else it says so itself
			return nil, p.unsupported(res)
		case res.StatusCode == http.StatusOK && p.ask.Next != nil:
			answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
			res.Body.Close()
			if err == nil {
				err = p.turnTo(p.ask.Next(answer))
			}
			if err != nil {
				return nil, err
			}
		default:
			return res, nil
		}
		r = r.Clone(r.Context()) // of the one before something may yet be sent
	}
}

// path is where the engine is asked, without the query.
func (p *pass) path() string {
	path, _, _ := strings.Cut(p.ask.Path, "?")
	return path
}

// drain reads what little an answer holds that is not wanted, so that its connection is
// kept.
func drain(res *http.Response) []byte {
	b, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	res.Body.Close()
	return b
}

// send asks the engine as it is now, anew by a connection that is not kept.
func (p *pass) send(r *http.Request, anew bool) (*http.Response, error) {
	body := p.ask.Body
	if p.ask.Named != nil {
		var err error
		if body, err = p.ask.Named(body, p.model); err != nil {
			return nil, err
		}
	}
	path, query, _ := strings.Cut(p.ask.Path, "?")
	r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(p.url, "http://")
	r.URL.Path, r.URL.RawPath, r.URL.RawQuery = path, "", query
	r.Host = r.URL.Host
	if len(body) > 0 {
		// curl -d says it is a form, of which engines take little.
		kind := p.ask.Type
		if kind == "" {
			kind = "application/json"
		}
		r.Header["Content-Type"] = []string{kind}
		// Without GetBody the transport does not send it again by itself, which it would do
		// on one kept connection after the other.
		r.Body, r.GetBody = io.NopCloser(bytes.NewReader(body)), nil
	} else {
		r.Body = nil
	}
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	if p.ask.Answer != nil || p.ask.Stream {
		r.Header.Del("Accept-Encoding") // it is read here
	}
	p.way.connected, p.way.kept = false, false
	p.way.answered.Store(false)
	if anew {
		return p.room.anew.RoundTrip(r)
	}
	return p.room.engines.RoundTrip(r)
}

// crashLimit is how long an engine that did not answer may take to be known as ended.
const crashLimit = 2 * time.Second

// crashed reports whether the engine has ended.
func (p *pass) crashed(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	late := time.NewTimer(crashLimit)
	defer late.Stop()
	select {
	case <-p.lease.Done():
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// reenter takes a new lease of the same model, of which the engine has ended.
func (p *pass) reenter(ctx context.Context) error {
	if p.use != nil {
		p.use.End()
		p.use = nil
	}
	p.lease.Release()
	p.lease = nil
	lease, err := p.room.m.Acquire(ctx, requestFor(p.model, &p.ask.Request))
	if err != nil {
		return err
	}
	p.lease = lease
	return p.point()
}

// lack is a path that the engine of a model does not have, while it has the same URL.
type lack struct{ model, path string }

func (room *Room) isLacking(p *pass) bool {
	url, ok := room.lacks.Load(lack{p.model, p.path()})
	return ok && url == p.url
}

// isLack reports whether an engine says by a status that it does not have the path.
func isLack(status int) bool {
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented
}

// unsupported is the error of a request whose path the engine does not have.
func (p *pass) unsupported(res *http.Response) error {
	said := ""
	if b := drain(res); len(b) > 0 {
		said = fmt.Sprintf("; it says %d: %.200q", res.StatusCode, b)
	}
	return Refuse(&Problem{
		Status: http.StatusNotImplemented, Code: "not_supported",
		Message:     fmt.Sprintf("The engine of '%s' does not have %s%s", p.model, p.path(), said),
		Suggestions: []string{"Ask a model whose engine has it."},
	})
}

// turnTo asks the engine for something else. err is why there is nothing to ask for.
func (p *pass) turnTo(other *Ask, err error) error {
	if err != nil {
		if _, ok := errors.AsType[*problemError](err); ok {
			return err
		}
		return Refuse(Invalid(err))
	}
	ask := *p.ask
	ask.Path, ask.Body, ask.Named, ask.Type, ask.Answer, ask.Instead, ask.Next = other.Path, other.Body, other.Named, other.Type, other.Answer, nil, other.Next
	p.ask = &ask
	return nil
}

// answer prepares the engine's answer for the client.
func (p *pass) answer(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("it switched protocols, which it was not asked to")
	}
	cleanAnswer(res.Header)
	if p.turn != "" && p.room.queues.begun(p.turn) {
		p.turn = ""
	}
	if p.use != nil {
		res.Body = p.use.Body(res.Body)
	}
	if isStream(res.Header) {
		res.Header.Set(noBuffering, "no")
	}
	if p.ask.Answer != nil || p.ask.Stream { // that of a stream may have begun, with comments
		if err := decompress(res); err != nil {
			return err
		}
	}
	if p.ask.Answer != nil {
		return p.ask.Answer(res, p.model)
	}
	if isStream(res.Header) && res.Header.Get("Content-Encoding") == "" {
		res.Body = &stream{ReadCloser: res.Body, ctx: res.Request.Context(), face: p.face}
	}
	return nil
}

// takeLimit is how long a client may take to take a part of its answer, beyond what fits
// into the buffers on the way: until then its model cannot give way to others. The time to
// the next part, which its engine takes, does not count.
const takeLimit = 2 * time.Minute

// flowing is an answer that may take for ever, as long as its client takes it.
type flowing struct {
	http.ResponseWriter
	set time.Time // when its deadline was last set
}

func (f *flowing) Write(p []byte) (int, error) {
	f.goOn()
	return f.ResponseWriter.Write(p)
}

// FlushError is for http.ResponseController.
func (f *flowing) FlushError() error {
	f.goOn()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

func (f *flowing) goOn() {
	now := time.Now()
	if now.Sub(f.set) < takeLimit/4 { // a token comes more often than that is worth
		return
	}
	f.set = now
	// Where there is no deadline to set, there is no connection.
	_ = http.NewResponseController(f.ResponseWriter).SetWriteDeadline(now.Add(takeLimit))
}

// Unwrap is for http.ResponseController, too.
func (f *flowing) Unwrap() http.ResponseWriter { return f.ResponseWriter }
