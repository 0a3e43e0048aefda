package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxIdle is how many connections to an engine are kept: as many as a gateway lets be
	// without an answer at one.
	maxIdle = 64
	// idleLimit is how long a connection is kept that is not used.
	idleLimit = time.Minute
	// lookEvery is how often the connections that are kept are looked at.
	lookEvery = 5 * time.Second
	// dialLimit bounds a connect where the engine's socket takes no more.
	dialLimit = 30 * time.Second
)

// Transport is an http.RoundTripper. Its zero value is ready; its methods may be called
// from any number of goroutines. It sends nothing again by itself.
type Transport struct {
	mu   sync.Mutex         // guards the rest
	idle map[string][]*conn // by host and port, the one that was used last at the end
	aged *time.Timer        // for those that are kept too long; nil: there are none
}

// ErrUnreached is of a request of which nothing was sent.
var ErrUnreached = errors.New("it takes no connection")

// ErrDropped is of a request whose connection was kept, and has ended without a byte of an
// answer: as a rule the engine had closed it when the request came. What it did with the
// request is unknown. The others that were kept are closed by then, as they may have ended
// as well: the next request has a new connection.
var ErrDropped = fmt.Errorf("%w on a connection that was kept", errNoAnswer)

var errNoAnswer = errors.New("it closed the connection without an answer")

// RoundTrip implements http.RoundTripper. Its error is that of the request's context if
// that has ended, of a Read of the answer's body as well. The request is not used any more
// when it has returned an error, or the body has ended or was closed.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if c := t.take(r.URL.Host); c != nil {
		res, err := c.ask(r)
		if errors.Is(err, errNoAnswer) {
			t.forget(r.URL.Host)
			err = ErrDropped
		}
		return res, err
	}
	c, err := t.dial(r.Context(), r.URL.Host)
	if err != nil {
		return nil, err
	}
	return c.ask(r)
}

// dialer has no keep-alive: where the other end is on this machine it is known when it ends.
var dialer = net.Dialer{Timeout: dialLimit, KeepAlive: -1}

func (t *Transport) dial(ctx context.Context, addr string) (*conn, error) {
	nc, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreached, err)
	}
	c := &conn{Conn: nc, of: t, addr: addr}
	c.r = bufio.NewReaderSize(c, readerSize)
	return c, nil
}

// take returns a connection that was kept, nil if there is none. One on which something
// has come that was not asked for is none: it could be taken for an answer.
func (t *Transport) take(addr string) *conn {
	for {
		t.mu.Lock()
		kept := t.idle[addr]
		if len(kept) == 0 {
			t.mu.Unlock()
			return nil
		}
		c := kept[len(kept)-1]
		kept[len(kept)-1] = nil
		t.keep(addr, kept[:len(kept)-1])
		t.mu.Unlock()
		if quiet(c.Conn) {
			return c
		}
		c.Close()
	}
}

// put keeps a connection whose answer has ended.
func (t *Transport) put(c *conn) {
	c.since = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.idle[c.addr]
	if len(kept) >= maxIdle {
		c.Close()
		return
	}
	t.keep(c.addr, append(kept, c))
	if t.aged == nil {
		t.aged = time.AfterFunc(lookEvery, t.age)
	}
}

// forget closes what is kept to an address.
func (t *Transport) forget(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.idle[addr] {
		c.Close()
	}
	delete(t.idle, addr)
}

// age closes what was kept too long, and what the engine has closed or spoken on.
func (t *Transport) age() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for addr, kept := range t.idle {
		t.keep(addr, slices.DeleteFunc(kept, func(c *conn) bool {
			over := now.Sub(c.since) >= idleLimit || !quiet(c.Conn)
			if over {
				c.Close()
			}
			return over
		}))
	}
	if t.aged = nil; len(t.idle) > 0 {
		t.aged = time.AfterFunc(lookEvery, t.age)
	}
}

// keep is what is kept to an address. mu is held.
func (t *Transport) keep(addr string, kept []*conn) {
	if len(kept) == 0 {
		delete(t.idle, addr)
		return
	}
	if t.idle == nil {
		t.idle = make(map[string][]*conn)
	}
	t.idle[addr] = kept
}
