package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is an engine that does on its nth connection, from 0, what it is told.
type script struct {
	url string

	mu   sync.Mutex
	open []net.Conn
}

func newScript(t *testing.T, do func(n int, c *end)) *script {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{url: "http://" + ln.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			all.Go(func() {
				defer c.Close()
				do(n, &end{c, bufio.NewReader(c)})
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for _, c := range s.open {
			c.Close()
		}
		s.mu.Unlock()
		all.Wait()
	})
	return s
}

// connections is how many have been made.
func (s *script) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// end is the engine's end of a connection.
type end struct {
	net.Conn
	r *bufio.Reader
}

// request reads one, with its body; "": there is none.
func (e *end) request() string {
	r, err := http.ReadRequest(e.r)
	if err != nil {
		return ""
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return ""
	}
	return r.Method + " " + r.RequestURI + " " + string(b)
}

func (e *end) say(text string) { io.WriteString(e.Conn, text) }

// gone waits until the other end has closed.
func (e *end) gone() { io.Copy(io.Discard, e.r) }

// ask posts a body and returns the whole answer.
func ask(t *testing.T, tr *Transport, url, body string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/p?q=1", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// want asks, and fails the test unless it is answered so.
func want(t *testing.T, tr *Transport, url, answer string) {
	t.Helper()
	if got, err := ask(t, tr, url, "body"); got != answer || err != nil {
		t.Errorf("%q, %v, want %q", got, err, answer)
	}
}

func TestTransport_AnswersReadToTheirEnd_UseOneConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"length":      ok,
		"chunks":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
		"no body":     "HTTP/1.1 204 No Content\r\n\r\n",
		"interim":     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok,
		"1.0 kept":    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		"long header": "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\nContent-Length: 2\r\n\r\nok",
	} {
		e := newScript(t, func(_ int, c *end) {
			for c.request() == "POST /p?q=1 body" {
				c.say(answer)
			}
		})
		var tr Transport
		for range 3 {
			if name == "no body" {
				want(t, &tr, e.url, "")
			} else {
				want(t, &tr, e.url, "ok")
			}
		}
		if n := e.connections(); n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

// What may be wrong with a connection after an answer must not reach the next one.
func TestTransport_AnswersAfterWhichAConnectionIsOver_AreWhole(t *testing.T) {
	for name, answer := range map[string]string{
		"close":            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"1.0":              "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"longer than said": ok + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother",
		"after chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother",
		"after no body":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n",
	} {
		e := newScript(t, func(_ int, c *end) {
			c.request()
			c.say(answer)
			c.gone()
		})
		var tr Transport
		for range 3 {
			want(t, &tr, e.url, "ok")
		}
		if n := e.connections(); n != 3 {
			t.Errorf("%s: %d connections, want 3", name, n)
		}
	}
	e := newScript(t, func(_ int, c *end) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\n\r\nok") // to the end of the connection
	})
	want(t, new(Transport), e.url, "ok")
}

func TestTransport_KeptConnectionIsSpokenOnUnasked_IsNotUsed(t *testing.T) {
	read, said := make(chan struct{}), make(chan struct{})
	e := newScript(t, func(n int, c *end) {
		c.request()
		c.say(ok)
		if n == 0 {
			<-read
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")
			close(said)
		}
		c.gone()
	})
	var tr Transport
	want(t, &tr, e.url, "ok")
	close(read)
	<-said
	want(t, &tr, e.url, "ok")
	if n := e.connections(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestTransport_EngineClosesWhatIsKept_IsLetGo(t *testing.T) {
	read, gone := make(chan struct{}), make(chan struct{})
	e := newScript(t, func(_ int, c *end) {
		defer close(gone)
		c.request()
		c.say(ok)
		<-read
		c.Conn.(*net.TCPConn).CloseWrite()
		c.gone()
	})
	var tr Transport
	want(t, &tr, e.url, "ok")
	close(read)
	<-gone // which the timer sees to
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.idle) != 0 || tr.aged != nil {
		t.Errorf("kept %v, and a timer: %v", tr.idle, tr.aged != nil)
	}
}

func TestTransport_KeptConnectionEndsWithoutAnswer_IsToldAndTheNextRequestHasANewOne(t *testing.T) {
	const kept = 3
	var arrived sync.WaitGroup
	arrived.Add(kept)
	e := newScript(t, func(n int, c *end) {
		c.request()
		if n < kept {
			arrived.Done()
			arrived.Wait()
		}
		c.say(ok)
		c.request() // which it drops
	})
	var tr Transport
	var all sync.WaitGroup
	for range kept {
		all.Go(func() { want(t, &tr, e.url, "ok") })
	}
	all.Wait()
	if _, err := ask(t, &tr, e.url, "body"); !errors.Is(err, ErrDropped) || errors.Is(err, ErrUnreached) {
		t.Error(err)
	}
	want(t, &tr, e.url, "ok")
	if n := e.connections(); n != kept+1 {
		t.Errorf("%d connections, want %d", n, kept+1)
	}
}

func TestTransport_AnswerIsNotOne_IsAnErrorAndTheConnectionCloses(t *testing.T) {
	endless := map[string]string{
		"endless header": strings.Repeat("a", 1<<10), "endless headers": "X-A: b\r\n", "endless interims": "HTTP/1.1 102 Processing\r\n\r\n",
	}
	for name, answer := range map[string]string{
		"nothing":          "",
		"half a head":      "HTTP/1.1 200 OK\r\nContent-Le",
		"garbage":          "\x00\x01\x02\r\n\r\n",
		"another protocol": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"two lengths":      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok.",
		"endless header":   "HTTP/1.1 200 OK\r\nX-A: ",
		"endless headers":  "HTTP/1.1 200 OK\r\n",
		"endless interims": "",
		"short":            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
		"cut chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
		"wrong chunk":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nok",
	} {
		e := newScript(t, func(_ int, c *end) {
			c.request()
			c.say(answer)
			if more := endless[name]; more != "" {
				for _, err := io.WriteString(c, more); err == nil; {
					_, err = io.WriteString(c, more)
				}
			}
			c.Conn.(*net.TCPConn).CloseWrite()
			c.gone()
		})
		var tr Transport
		if got, err := ask(t, &tr, e.url, "body"); err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDropped) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if len(tr.idle) > 0 || e.connections() != 1 {
			t.Errorf("%s: %d connections, kept %v", name, e.connections(), tr.idle)
		}
	}
}

func TestTransport_ContextEnds_EngineIsLetGo(t *testing.T) {
	for _, head := range []string{"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n"} {
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		e := newScript(t, func(_ int, c *end) {
			defer close(gone)
			c.request()
			c.say(head)
			cancel()
			c.gone()
		})
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		var tr Transport
		res, err := tr.RoundTrip(r)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", head, err)
		}
		<-gone
	}
}

func TestTransport_BodyIsClosedBeforeItsEnd_EngineIsLetGo(t *testing.T) {
	gone := make(chan struct{})
	e := newScript(t, func(_ int, c *end) {
		defer close(gone)
		c.request()
		c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n")
		c.gone()
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := new(Transport).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	<-gone
	if n, err := res.Body.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a read afterwards: %d, %v", n, err)
	}
}

// An engine may answer while it reads: neither may wait for the other.
func TestTransport_LongBodyIsEchoed_ComesBackWhole(t *testing.T) {
	e := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		io.Copy(w, r.Body)
	}))
	defer e.Close()
	var tr Transport
	long := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<20))
	for range 2 {
		if got, err := ask(t, &tr, e.URL, long); got != long || err != nil {
			t.Errorf("%d bytes of %d: %v", len(got), len(long), err)
		}
	}
}

func TestTransport_EngineAnswersWithoutReadingALongBody_AnswerCounts(t *testing.T) {
	e := newScript(t, func(_ int, c *end) {
		c.say("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nok")
		c.gone()
	})
	var tr Transport
	for range 2 {
		if got, err := ask(t, &tr, e.url, strings.Repeat("a", 64<<20)); got != "ok" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if n := e.connections(); n != 2 {
		t.Errorf("%d connections, want 2: the rest of a body would be taken for a request", n)
	}
}

func TestTransport_Trailer_IsThatOfTheAnswer(t *testing.T) {
	e := newScript(t, func(_ int, c *end) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n")
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := new(Transport).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil || res.Trailer.Get("X-Sum") != "7" {
		t.Errorf("%q, %v, %v", b, err, res.Trailer)
	}
}

func TestTransport_ConnectionsThatAreNotUsed_AreFewAndClosedInTime(t *testing.T) {
	const many = maxIdle + 8
	var arrived sync.WaitGroup
	arrived.Add(many)
	var ended sync.WaitGroup
	e := newScript(t, func(_ int, c *end) {
		ended.Add(1)
		defer ended.Done()
		c.request()
		arrived.Done()
		arrived.Wait()
		c.say(ok)
		c.gone()
	})
	var tr Transport
	var all sync.WaitGroup
	for range many {
		all.Go(func() { want(t, &tr, e.url, "ok") })
	}
	all.Wait()
	addr := strings.TrimPrefix(e.url, "http://")
	if n := len(tr.idle[addr]); n != maxIdle {
		t.Errorf("%d are kept, want %d", n, maxIdle)
	}
	tr.mu.Lock()
	for _, c := range tr.idle[addr][:maxIdle-1] {
		c.since = c.since.Add(-idleLimit)
	}
	tr.mu.Unlock()
	tr.age()
	if n := len(tr.idle[addr]); n != 1 {
		t.Errorf("%d are kept, want the one that is not old", n)
	}
	tr.idle[addr][0].since = time.Time{}
	tr.age()
	if len(tr.idle) != 0 || tr.aged != nil {
		t.Errorf("kept %v, and a timer: %v", tr.idle, tr.aged != nil)
	}
	ended.Wait()
}

func TestTransport_NoEngine_IsAnErrorThatNamesIt(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	if _, err := ask(t, new(Transport), "http://"+addr, "body"); !errors.Is(err, ErrUnreached) || !strings.Contains(fmt.Sprint(err), addr) {
		t.Error(err)
	}
}
