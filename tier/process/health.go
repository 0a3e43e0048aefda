package process

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// quietLimit ends a query of the health page if the engine sends nothing for
	// that long. An answer that arrives slowly is still read.
	quietLimit = 2 * time.Second
	// maxAnswer bounds what is read of one answer: interim responses, headers, body.
	maxAnswer = 256 << 10
	// maxExcerpt bounds the part of a body that may appear in an error.
	maxExcerpt = 16 << 10
	// minPoll and maxPoll bound the interval between two queries of the health page.
	minPoll = 5 * time.Millisecond
	maxPoll = 250 * time.Millisecond
)

// pollAfter returns the interval between queries: short at first, later as long as
// adds 1/16 to the wait so far.
func pollAfter(elapsed time.Duration) time.Duration {
	return min(max(elapsed/16, minPoll), maxPoll)
}

var (
	errNoAnswer   = fmt.Errorf("no answer within %v", quietLimit)
	errLongAnswer = fmt.Errorf("an answer of more than %d KiB", maxAnswer>>10)
)

// awaitReady polls the health page until it answers 2xx. The wait fails if the
// engine exits, limit passes, ctx ends, or between returns an error; between, if not
// nil, is called at least every maxPoll, also while an answer is on its way.
func (m *Mover) awaitReady(ctx context.Context, c *child, engine *Engine, limit time.Duration, fault Fault, between func() error) error {
	began := time.Now()
	late := time.NewTimer(limit)
	defer late.Stop()
	life, cancel := c.while(ctx)
	answers, asking := make(chan error, 1), false
	defer func() {
		cancel()
		if asking {
			<-answers
		}
	}()
	last := errNoAnswer
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		if c.hasExited() {
			if fault == NeverReady {
				fault = ExitedEarly
			}
			return m.exitOf(c, fault, began)
		}
		select {
		case err := <-answers:
			asking = false
			if err == nil && !c.hasExited() {
				return nil
			}
			last = cmp.Or(err, last)
			poll.Reset(pollAfter(time.Since(began)))
		case <-poll.C:
			if !asking {
				asking = true
				go func() { answers <- askHealth(life, c.url+cmp.Or(engine.Health, "/health")) }()
			}
			poll.Reset(pollAfter(time.Since(began)))
		case <-c.exited:
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			err := c.fail(fault, began, nil)
			err.Health = last.Error()
			return err
		}
		if between != nil {
			if err := between(); err != nil {
				return err
			}
		}
	}
}

// askHealth queries a health page once. nil means ready.
func askHealth(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	conn, err := dial(req)
	if err != nil {
		return causeOf(ctx, err)
	}
	return healthOn(conn, req)
}

// healthOn queries a health page on a connection, which it closes.
func healthOn(conn net.Conn, req *http.Request) error {
	res, err := exchange(conn, req, quietLimit)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errNoAnswer
		}
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 == 2 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxExcerpt)) // as much as arrives
	return fmt.Errorf("%d %s", res.StatusCode, quote(string(body)))
}

func dial(req *http.Request) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(req.Context(), "tcp", req.URL.Host)
}

// exchange sends a request and returns the final response: interim responses (1xx)
// are skipped and redirects are not followed. It owns conn, which ends with the
// request's context or with the response's body. If quiet is not 0, the engine has
// to send something that often.
//
// http.Transport is not used, as it logs to the standard error of the host what a
// server sends before it was asked.
func exchange(conn net.Conn, req *http.Request, quiet time.Duration) (*http.Response, error) {
	ctx := req.Context()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	fail := func(err error) error {
		stop()
		conn.Close()
		return causeOf(ctx, err)
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return nil, fail(err)
	}
	from := &answer{conn: conn, quiet: quiet, left: maxAnswer}
	in := bufio.NewReader(from)
	for {
		res, err := http.ReadResponse(in, req)
		if err != nil {
			if from.left == 0 { // whatever it makes of the part that was read
				err = errLongAnswer
			}
			return nil, fail(err)
		}
		if res.StatusCode/100 == 1 && res.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		res.Body = body{res.Body, func() error { stop(); return conn.Close() }}
		return res, nil
	}
}

// answer reads what an engine sends, with bounds on its length and its pauses.
type answer struct {
	conn  net.Conn
	quiet time.Duration
	left  int
}

func (a *answer) Read(b []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	if a.quiet > 0 {
		a.conn.SetReadDeadline(time.Now().Add(a.quiet))
	}
	n, err := a.conn.Read(b[:min(len(b), a.left)])
	a.left -= n
	return n, err
}

// body closes the connection with the body of its response.
type body struct {
	io.Reader
	close func() error
}

func (b body) Close() error { return b.close() }

// Sleeper is a sleep mode that an engine has of its own: it frees its weights and
// keeps running.
//
// Sleep and Wake are called during moves, with no lock held and on a goroutine of
// their own, never both at once for one model. url is the base URL of the engine
// ("http://127.0.0.1:port"). Sleep returns when the memory is free, Wake when the
// health page can be trusted again: the engine is ready once that answers 2xx. Both
// return soon after ctx ends; one that does not is abandoned after a second. An
// engine whose Sleep or Wake fails is stopped.
type Sleeper interface {
	Sleep(ctx context.Context, url, model string) error
	Wake(ctx context.Context, url, model string) error
}

// HTTPSleeper is a Sleeper that sends requests, in order. Each has to be answered
// with 2xx. For vLLM (started with --enable-sleep-mode and in its development mode),
// level 1 keeps the weights in memory of the CPU, which is of use only if a GPU has
// memory of its own:
//
//	HTTPSleeper{
//		ToSleep: []Request{{Path: "/sleep?level=1"}},
//		ToWake:  []Request{{Path: "/wake_up"}},
//	}
//
// For the router of llama.cpp, which answers a load before it is done, so that the
// first request waits for the rest:
//
//	HTTPSleeper{
//		ToSleep: []Request{{Path: "/models/unload", Body: `{"model":"{name}"}`}},
//		ToWake:  []Request{{Path: "/models/load", Body: `{"model":"{name}"}`}},
//	}
type HTTPSleeper struct {
	ToSleep, ToWake []Request
}

// Sleep implements Sleeper.
func (s HTTPSleeper) Sleep(ctx context.Context, url, model string) error {
	return sendAll(ctx, url, model, s.ToSleep)
}

// Wake implements Sleeper.
func (s HTTPSleeper) Wake(ctx context.Context, url, model string) error {
	return sendAll(ctx, url, model, s.ToWake)
}

// Request is one HTTP request to an engine. In Body {name} is replaced by the
// model's name as the inside of a JSON string.
type Request struct {
	Method string // "": POST
	Path   string // with a query, if any: "/sleep?level=1"
	Body   string // sent as JSON; "": none
}

func sendAll(ctx context.Context, url, model string, requests []Request) error {
	for _, r := range requests {
		if err := r.send(ctx, url, model); err != nil {
			return err
		}
	}
	return nil
}

func (r Request) send(ctx context.Context, url, model string) error {
	method := cmp.Or(r.Method, http.MethodPost)
	name, _ := json.Marshal(model) // a string always marshals
	text := strings.ReplaceAll(r.Body, "{name}", string(name[1:len(name)-1]))
	req, err := http.NewRequestWithContext(ctx, method, url+r.Path, strings.NewReader(text))
	if err != nil {
		return err
	}
	if text != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	conn, err := dial(req)
	if err != nil {
		return causeOf(ctx, err)
	}
	res, err := exchange(conn, req, 0)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	excerpt, _ := io.ReadAll(io.LimitReader(res.Body, maxExcerpt))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s was answered with %d: %s", method, r.Path, res.StatusCode, quote(string(excerpt)))
	}
	return nil
}

// causeOf returns why ctx ended, if it has, or else err.
func causeOf(ctx context.Context, err error) error {
	return cmp.Or(context.Cause(ctx), err)
}
