package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// readerSize is what a connection reads by when the receiver of its answer has no
	// larger buffer. A line of a chunk's size, and the trailer, have to fit.
	readerSize = 1 << 10
	// maxHead bounds the head of an answer, with all interim ones before it.
	maxHead = 1 << 20
	// soonSent is how long a body may be to be sent before the answer is read: sockets hold
	// it. An engine that answers while it reads would else wait for us while we wait for it.
	soonSent = 32 << 10
)

// conn is a connection to an engine. One goroutine uses it at a time, but for Close.
type conn struct {
	net.Conn
	of   *Transport
	addr string
	r    *bufio.Reader
	head int       // the bytes that may come yet of an answer's head; -1: it has come
	got  bool      // a byte has come since the request
	sent chan bool // has a value when a long body has been sent, or could not be

	since time.Time // when its last answer ended
}

// Read implements io.Reader, for r.
func (c *conn) Read(p []byte) (int, error) {
	if c.head == 0 {
		return 0, fmt.Errorf("the head of its answer is longer than %d bytes", maxHead)
	}
	if c.head > 0 {
		p = p[:min(len(p), c.head)]
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.got = true
		if c.head > 0 {
			c.head -= n
		}
	}
	return n, err
}

// ask sends a request and reads the head of its answer.
func (c *conn) ask(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	b := &body{conn: c, ctx: ctx, stop: context.AfterFunc(ctx, func() { c.Close() })}
	c.head, c.got = maxHead, false
	res, err := c.exchange(r)
	if err != nil {
		b.end(false)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !c.got:
			return nil, errNoAnswer
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, errors.New("it closed the connection in the middle of its answer's head")
		}
		return nil, err
	}
	c.head = -1
	if b.ReadCloser = res.Body; res.Body == http.NoBody {
		b.end(!res.Close)
		return res, nil
	}
	b.keep, res.Body = !res.Close, b
	return res, nil
}

// writers are what requests are written by.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}

func (c *conn) exchange(r *http.Request) (*http.Response, error) {
	send := func() error {
		w := writers.Get().(*bufio.Writer)
		w.Reset(c.Conn)
		err := r.Write(w)
		if err == nil {
			err = w.Flush()
		}
		w.Reset(nil)
		writers.Put(w)
		return err
	}
	var unsent error
	if r.ContentLength <= soonSent {
		c.sent = nil
		unsent = send()
	} else {
		sent := make(chan bool, 1)
		c.sent = sent
		go func() { sent <- send() == nil }()
	}
	for {
		res, err := http.ReadResponse(c.r, r)
		switch {
		case err != nil:
			if unsent != nil {
				err = unsent
			}
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("it switched protocols, which it was not asked to")
		case res.StatusCode >= http.StatusOK:
			if unsent != nil {
				res.Close = true
			}
			return res, nil
		}
	}
}

// body is that of an answer.
type body struct {
	io.ReadCloser
	conn *conn // nil: it has ended
	ctx  context.Context
	stop func() bool // of the Close that follows the end of ctx
	keep bool        // the connection, if it is read to its end
	err  error       // of its end
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.conn == nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	if err != io.EOF && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	b.err = err
	b.end(b.keep && err == io.EOF)
	return n, err
}

// Close implements io.Closer. An answer that is not read to its end takes its connection
// along: it may be endless.
func (b *body) Close() error {
	if b.conn != nil {
		b.err = http.ErrBodyReadAfterClose
		b.end(false)
	}
	return nil
}

// end lets go of the connection.
func (b *body) end(keep bool) {
	c := b.conn
	b.conn = nil
	keep = b.stop() && keep && c.r.Buffered() == 0
	if keep && c.sent != nil {
		select {
		case whole := <-c.sent:
			c.sent, keep = nil, whole
		default:
			keep = false
		}
	}
	if keep {
		c.of.put(c)
		return
	}
	c.Close()
	if c.sent != nil {
		<-c.sent // what it sends from belongs to the caller
	}
}
