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
	late := time.After(limit)
	life, cancel := c.while(ctx)
	answers, asking := make(chan error, 1), false
	defer func() {
		cancel()
		if asking {
			<-answers
		}
	}()
	last := errNoAnswer
	health := Request{Method: http.MethodGet, Path: cmp.Or(engine.Health, "/health")}
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
		case <-poll.C:
			if !asking {
				asking = true
				go func() { answers <- health.send(life, c.url, c.model, quietLimit) }()
			}
		case <-c.exited:
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late:
			err := c.fail(fault, began, nil)
			err.Health = last.Error()
			return err
		}
		poll.Reset(pollAfter(time.Since(began)))
		if between != nil {
			if err := between(); err != nil {
				return err
			}
		}
	}
}

// exchange sends a request and returns nil if the final response is 2xx: interim
// responses (1xx) are skipped and redirects are not followed. It closes conn. If quiet
// is not 0, the engine has to send something that often.
//
// http.Transport is not used, as it logs to the standard error of the host what a
// server sends before it was asked.
func exchange(conn net.Conn, req *http.Request, quiet time.Duration) error {
	defer conn.Close()
	ctx := req.Context()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req.Close = true
	if err := req.Write(conn); err != nil {
		return causeOf(ctx, err)
	}
	from := &io.LimitedReader{R: answer{conn, quiet}, N: maxAnswer}
	in := bufio.NewReader(from)
	for {
		res, err := http.ReadResponse(in, req)
		switch {
		case err != nil && from.N == 0: // whatever it makes of the part that was read
			return errLongAnswer
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errNoAnswer
		case err != nil:
			return causeOf(ctx, err)
		case res.StatusCode/100 == 1 && res.StatusCode != http.StatusSwitchingProtocols:
			continue
		case res.StatusCode/100 == 2:
			return nil
		}
		if quiet > 0 { // a body that trickles must not keep the next query
			defer time.AfterFunc(quiet, func() { conn.Close() }).Stop()
		}
		excerpt, _ := io.ReadAll(io.LimitReader(res.Body, maxExcerpt)) // as much as arrives
		return &statusError{res.StatusCode, string(excerpt)}
	}
}

// statusError is an answer that is not 2xx.
type statusError struct {
	status int
	body   string // its beginning
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s", e.status, quote(e.body)) }

// answer reads what an engine sends, with a bound on its pauses.
type answer struct {
	net.Conn
	quiet time.Duration
}

func (a answer) Read(b []byte) (int, error) {
	if a.quiet > 0 {
		a.SetReadDeadline(time.Now().Add(a.quiet))
	}
	return a.Conn.Read(b)
}

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
		if err := r.send(ctx, url, model, 0); err != nil {
			return fmt.Errorf("%s: %w", r.Path, err)
		}
	}
	return nil
}

func (r Request) send(ctx context.Context, url, model string, quiet time.Duration) error {
	name, _ := json.Marshal(model) // a string always marshals
	text := strings.ReplaceAll(r.Body, "{name}", string(name[1:len(name)-1]))
	req, err := http.NewRequestWithContext(ctx, cmp.Or(r.Method, http.MethodPost), url+r.Path, strings.NewReader(text))
	if err != nil {
		return err
	}
	if text != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	// An engine that does not accept yet may have a full queue, with our last queries in
	// it. The kernel asks it again ever more rarely; a new connection asks at once.
	dialer := net.Dialer{Timeout: quiet}
	conn, err := dialer.DialContext(ctx, "tcp", req.URL.Host)
	if err != nil {
		return causeOf(ctx, err)
	}
	return exchange(conn, req, quiet)
}

// causeOf returns why ctx ended, if it has, or else err.
func causeOf(ctx context.Context, err error) error {
	return cmp.Or(context.Cause(ctx), err)
}
