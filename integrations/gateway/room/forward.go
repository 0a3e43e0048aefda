package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/internal/upstream"
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
}

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

// reach asks the engine of the lease, and asks again if it may.
func (p *pass) reach(r *http.Request) (*http.Response, error) {
	taken := 0 // attempts that may have reached an engine, without an answer
	restarted := false
	for {
		if p.ask.Instead != nil && p.room.isLacking(p) {
			if err := p.turnTo(p.ask.Instead()); err != nil {
				return nil, err
			}
		}
		res, err := p.send(r)
		if err == nil {
			taken = 0
		} else if !errors.Is(err, upstream.ErrUnreached) {
			taken++
		}
		switch {
		case err != nil && taken < 2 && errors.Is(err, upstream.ErrDropped):
		case err != nil && taken < 2 && !restarted && p.crashed(r.Context()):
			restarted = true
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

// send asks the engine as it is now.
func (p *pass) send(r *http.Request) (*http.Response, error) {
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
		r.Body = &sending{*bytes.NewReader(body)}
	} else {
		r.Body = nil
	}
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	if p.ask.Answer != nil || p.ask.Stream {
		r.Header.Del("Accept-Encoding") // it is read here
	}
	return p.room.engines.RoundTrip(r)
}

// sending is the body of a request to an engine. What is closed, as it is when it has been
// sent, is not held by the answer, which has the request.
type sending struct{ bytes.Reader }

// Close implements io.Closer.
func (s *sending) Close() error {
	s.Reset(nil)
	return nil
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
