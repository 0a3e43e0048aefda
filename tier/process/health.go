package process

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// How long an engine has to answer one question, how much of an answer is read,
// and when it is asked again: soon at first, later as rarely as costs a waiter
// 1/16 of what it has waited already.
const (
	answerLimit = 2 * time.Second
	maxAnswer   = 16 << 10
	pollFirst   = 5 * time.Millisecond
	pollMost    = 250 * time.Millisecond
)

func pollAfter(elapsed time.Duration) time.Duration {
	return min(max(elapsed/16, pollFirst), pollMost)
}

// ask asks the health page once. nil means ready. It has a connection of its own,
// as http.Transport would log to the host's standard error what an engine says
// that speaks no HTTP.
func (m *Mover) ask(ctx context.Context, c *child, page string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, errNoAnswer)
	defer cancel()
	status, body, err := get(ctx, c.port, cmp.Or(page, "/health"))
	switch {
	case err != nil:
		return causeOf(ctx, err)
	case status/100 == 2:
		return nil
	}
	return fmt.Errorf("%d %s", status, quote(string(body)))
}

// get returns the status of a page, and the beginning of its body.
func get(ctx context.Context, port int, page string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL(port)+page, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Close = true
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", req.URL.Host)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := req.Write(conn); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		body, _ = io.ReadAll(res.Body) // what there is of it
	}
	return res.StatusCode, body, nil
}

func baseURL(port int) string { return "http://127.0.0.1:" + strconv.Itoa(port) }

var errNoAnswer = fmt.Errorf("no answer within %v", answerLimit)

// awaitReady polls the health page until it says ready, the engine ends, limit is
// over, or ctx is. between is called after every no, and may end the wait with an
// error.
func (m *Mover) awaitReady(ctx context.Context, c *child, engine *Engine, limit time.Duration, fault Fault, between func() error) error {
	began := time.Now()
	late := time.NewTimer(limit)
	defer late.Stop()
	life, cancel := c.while(ctx)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		last := m.ask(life, c, engine.Health)
		if c.hasEnded() {
			if err := m.kill(c); err != nil { // waits until it is gone, so that all of its output is there
				return err
			}
			if fault == NeverReady {
				fault = ExitedEarly
			}
			return c.fail(fault, began, c.exited())
		}
		if last == nil {
			return nil
		}
		if between != nil {
			if err := between(); err != nil {
				return err
			}
		}
		timer.Reset(pollAfter(time.Since(began)))
		select {
		case <-timer.C:
		case <-c.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			err := c.fail(fault, began, nil)
			err.Health = last.Error()
			return err
		}
	}
}
