package room

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory and buffer nothing.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// parted is an engine that answers part after part, each as late as it says. It says how
// long its answer is: else a lock would be held while a part is sent, and virtual time stand.
type parted struct {
	late  time.Duration
	parts int
	end   time.Duration // after the last; more than 0: it does not say how long the answer is
}

// RoundTrip implements http.RoundTripper.
func (e parted) RoundTrip(r *http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	part := strings.Repeat("x", 64<<10)
	go func() {
		for range e.parts {
			select {
			case <-time.After(e.late):
			case <-r.Context().Done():
				in.CloseWithError(r.Context().Err())
				return
			}
			if _, err := io.WriteString(in, part); err != nil {
				return
			}
		}
		time.Sleep(e.end)
		in.Close()
	}()
	length := int64(e.parts * len(part))
	if e.end > 0 {
		length = -1
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: length, Body: out, Request: r}, nil
}

// stalling serves one request of a client over a room with such an engine, and returns the
// client's end.
func stalling(t *testing.T, engine parted) (*Room, net.Conn) {
	room := newRoom(t, "http://engine", Options{})
	room.engines = engine
	conns := make(pipes)
	srv := &http.Server{WriteTimeout: 30 * time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { room.Serve(w, r, plain{}, named) })}
	go srv.Serve(conns)
	t.Cleanup(func() {
		close(conns) // which Close waits for
		srv.Close()
	})
	client, server := net.Pipe()
	conns <- server
	const body = `{"model":"m","stream":true}`
	io.WriteString(client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 27\r\n\r\n"+body)
	return room, client
}

func (room *Room) leases() int {
	s, _ := room.m.Model("m")
	return s.Leases
}

func TestServe_ClientTakesNothing_LeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room, client := stalling(t, parted{late: time.Millisecond, parts: 1000})
		time.Sleep(takeLimit / 2)
		if room.leases() != 1 {
			t.Error("it is not being served")
		}
		time.Sleep(takeLimit)
		if n := room.leases(); n != 0 {
			t.Errorf("%d leases after %v", n, takeLimit*3/2)
		}
		client.Close()
	})
}

func TestServe_EngineTakesItsTime_AnswerIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := stalling(t, parted{late: 40 * time.Minute, parts: 3})
		res, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || len(b) != 3*64<<10 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		client.Close()
	})
}

// An engine that has said all may end its answer later than a client may take to take it.
func TestServe_EngineEndsLateAfterItsLastPart_AnswerIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := stalling(t, parted{late: time.Second, parts: 1, end: 2 * takeLimit})
		res, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || len(b) != 64<<10 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		client.Close()
	})
}
