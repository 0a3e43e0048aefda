package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/gatewaytest"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// wire is the gateway on a listener, with a key and an engine that records what it is
// asked.
type wire struct {
	addr string
	m    *modeltier.Manager

	mu    sync.Mutex
	asked []*http.Request
	sent  []string // the bodies of them
}

const wireKey = "secret-of-wire"

type instanceAt string

func (a instanceAt) URL() (string, bool) { return string(a), true }

// newWire has an engine that answers so, after it was recorded; nil: with its path.
func newWire(t *testing.T, answer http.HandlerFunc) *wire {
	t.Helper()
	f := &wire{}
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the engine's request is not whole: %v", err)
		}
		f.mu.Lock()
		f.asked, f.sent = append(f.asked, r), append(f.sent, string(body))
		f.mu.Unlock()
		if answer != nil {
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			answer(w, r)
			return
		}
		fmt.Fprintf(w, "answer of %s", r.URL.Path)
	}))
	t.Cleanup(engine.Close)
	var err error
	f.m, err = modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "m", Path: "m", Size: tier.MiB}},
		Mover: tier.MoverFrom(tier.Loader[instanceAt]{
			Load: func(context.Context, tier.Model, func(tier.Bytes)) (instanceAt, error) {
				return instanceAt(engine.URL), nil
			},
			Unload: func(context.Context, tier.Model, instanceAt) error { return nil },
		}),
		Probe: tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB}),
	})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := access.New(access.Options{
		Keys:    []access.Key{{Name: "wire", Secret: wireKey, Scopes: []access.Scope{access.Use, access.Watch}}},
		ScopeOf: gateway.ScopeOf, Deny: gateway.Deny,
	})
	if err != nil {
		t.Fatal(err)
	}
	lns, err := access.Listen([]string{"127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	f.addr = lns[0].Addr().String()
	srv := access.Server(guard.Handler(gateway.New(f.m, gateway.Config{})), slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(lns[0])
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
		if err := f.m.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// bye is a request after which the server ends the connection.
const bye = "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

// raw sends bytes and returns all that comes back. Of the bytes one request has to end the
// connection: a client that ends its side of it has left.
func (f *wire) raw(t *testing.T, bytes string) string {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	go io.WriteString(c, bytes)
	answer, _ := io.ReadAll(c) // a reset ends it as well
	return string(answer)
}

// ask sends a request for the model with headers, each a line.
func (f *wire) ask(t *testing.T, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	answer := f.raw(t, method+" "+path+" HTTP/1.1\r\nHost: h\r\nX-Api-Key: "+wireKey+"\r\nConnection: close\r\nContent-Length: "+fmt.Sprint(len(body))+"\r\n"+
		strings.Join(append(headers, ""), "\r\n")+"\r\n"+body)
	r := bufio.NewReader(strings.NewReader(answer))
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	for err == nil && res.StatusCode < 200 {
		res, err = http.ReadResponse(r, &http.Request{Method: method})
	}
	if err != nil {
		t.Fatalf("%v: %q", err, answer)
	}
	return res
}

// last is what the engine was asked last.
func (f *wire) last(t *testing.T) *http.Request {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		t.Fatal("the engine was not asked")
	}
	return f.asked[len(f.asked)-1]
}

// free waits until nothing holds a lease.
func (f *wire) free(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s, _ := f.m.Model("m"); s.Leases == 0 {
			return
		}
	}
	t.Error("a lease is kept")
}

const chat = `{"model":"m","messages":[]}`

func TestForward_WhatIsBetweenClientAndGateway_DoesNotReachTheEngine(t *testing.T) {
	f := newWire(t, nil)
	f.ask(t, "POST", "/v1/chat/completions?key=x&api_key="+wireKey, chat,
		"Authorization: Bearer "+wireKey, "Proxy-Authorization: Basic eDp5", "Cookie: session=of-another-port", "Origin: http://localhost:3000", "Referer: http://localhost:3000/page",
		"Sec-Fetch-Site: same-site", "Expect: 100-continue", "Connection: X-Private, Upgrade", "X-Private: y", "Upgrade: websocket", "TE: trailers, deflate", "Trailer: X-Sum",
		"Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil.example", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
		"X-Mine: kept", "Traceparent: 00-1-2-01", "Content-Type: application/x-www-form-urlencoded")
	got := f.last(t)
	for _, name := range []string{
		"Authorization", "X-Api-Key", "Proxy-Authorization", "Cookie", "Origin", "Referer", "Sec-Fetch-Site", "Expect", "X-Private", "Upgrade", "Connection", "Trailer",
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Keep-Alive", "Proxy-Connection", "Idempotency-Key",
	} {
		if v := got.Header[name]; v != nil {
			t.Errorf("%s: %q", name, v)
		}
	}
	if got.Header.Get("X-Mine") != "kept" || got.Header.Get("Traceparent") != "00-1-2-01" || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %v", got.Header)
	}
	if got.RequestURI != "/v1/chat/completions" || got.Host == "h" {
		t.Errorf("it was asked %s of %s", got.RequestURI, got.Host)
	}
}

func TestForward_WhatIsBetweenGatewayAndEngine_DoesNotReachTheClient(t *testing.T) {
	f := newWire(t, func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range map[string]string{
			"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "*", "Set-Cookie": "a=b",
			"Connection": "X-Private", "X-Private": "y", "X-Model": "a name of the engine's own", "X-Own": "kept", "Keep-Alive": "timeout=5",
			"Strict-Transport-Security": "max-age=1", "Alt-Svc": "h3=\":1\"", "Clear-Site-Data": "\"*\"",
		} {
			w.Header().Set(name, value)
		}
		io.WriteString(w, "{}")
	})
	for _, origin := range []string{"http://localhost:3000", "https://evil.example"} {
		res := f.ask(t, "POST", "/v1/chat/completions", chat, "Origin: "+origin)
		for _, name := range []string{"Access-Control-Allow-Credentials", "Set-Cookie", "X-Private", "Keep-Alive", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data"} {
			if v := res.Header[name]; v != nil {
				t.Errorf("%s: %s: %q", origin, name, v)
			}
		}
		want := []string{"http://localhost:3000"}
		if origin != want[0] {
			want = nil
		}
		if got := res.Header["Access-Control-Allow-Origin"]; !slices.Equal(got, want) {
			t.Errorf("%s: allowed %q", origin, got)
		}
		if got := res.Header["X-Model"]; len(got) != 1 || got[0] != "m" || res.Header.Get("X-Own") != "kept" {
			t.Errorf("%s: %v", origin, res.Header)
		}
	}
}

func TestForward_InterimAnswersOfTheEngine_TakeNothingAway(t *testing.T) {
	f := newWire(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		for _, status := range []int{100, 102, 103} {
			w.WriteHeader(status)
		}
		w.Header().Del("Access-Control-Allow-Origin")
		io.WriteString(w, "{}")
	})
	res := f.ask(t, "POST", "/v1/chat/completions", chat, "Origin: http://localhost:3000", "Expect: 100-continue")
	if res.StatusCode != 200 || res.Header.Get("Access-Control-Allow-Origin") != "http://localhost:3000" || res.Header.Get("X-Model") != "m" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func TestForward_EngineSwitchesProtocols_IsRefusedAndLetGo(t *testing.T) {
	ended := make(chan error, 1)
	f := newWire(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			c.SetDeadline(time.Now().Add(10 * time.Second))
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
	})
	res := f.ask(t, "POST", "/v1/chat/completions", chat, "Connection: Upgrade", "Upgrade: websocket")
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 502 || !strings.Contains(string(body), "engine_failed") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if err := <-ended; err != io.EOF {
		t.Errorf("the engine's connection: %v", err)
	}
	f.free(t)
}

// What one reader takes for the end of a request, and another for a part of it, could put
// a request of a client's making before that of another client.
func TestForward_RequestsOfTwoReadings_AreRefusedOrOneReading(t *testing.T) {
	f := newWire(t, nil)
	const hidden = "POST /slots/0?action=erase HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + wireKey + "\r\nContent-Length: 0\r\n\r\n"
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + wireKey + "\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(chat), chat)
	for name, raw := range map[string]string{
		"length and chunks":         head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden,
		"chunks and length":         head + "Transfer-Encoding: chunked\r\nContent-Length: " + fmt.Sprint(len(chunked)+len(hidden)) + "\r\n\r\n" + chunked + hidden,
		"two lengths":               head + fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n\r\n", len(chat), len(chat)+len(hidden)) + chat + hidden,
		"two lengths in one":        head + fmt.Sprintf("Content-Length: %d, %d\r\n\r\n", len(chat), len(chat)+len(hidden)) + chat + hidden,
		"signed length":             head + fmt.Sprintf("Content-Length: +%d\r\n\r\n", len(chat)) + chat + hidden,
		"chunks by another name":    head + "Transfer-Encoding: xchunked\r\n\r\n" + chunked + hidden,
		"chunks twice":              head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden,
		"chunks and identity":       head + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunked + hidden,
		"space before the colon":    head + "Transfer-Encoding : chunked\r\nContent-Length: " + fmt.Sprint(len(chat)) + "\r\n\r\n" + chat + hidden,
		"folded line":               head + "X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: " + fmt.Sprint(len(chat)) + "\r\n\r\n" + chat + hidden,
		"lone line feeds":           strings.ReplaceAll(head, "\r\n", "\n") + "Content-Length: " + fmt.Sprint(len(chat)) + "\n\n" + chat + hidden,
		"carriage return in header": head + "X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: " + fmt.Sprint(len(chat)) + "\r\n\r\n" + chat + hidden,
		"long chunk extension":      head + "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x;%s\r\n%s\r\n0\r\n\r\n", len(chat), strings.Repeat("a", 100), chat) + hidden,
		"chunk size of two lines":   head + "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\n%s\r\n0\r\n\r\n", len(chat), chat) + hidden,
		"trailer that is a request": head + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\nContent-Length: 9\r\nHost: x\r\n\r\n", len(chat), chat) + hidden,
		"second request in a GET":   "GET /props?model=m HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + wireKey + "\r\nContent-Length: " + fmt.Sprint(len(hidden)) + "\r\n\r\n" + hidden,
		"path with a line":          "POST /v1/chat/completions%20HTTP/1.1%0d%0aX:%20 HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + wireKey + "\r\nContent-Length: 0\r\n\r\n",
		"header with a NUL":         head + "X-A: b\x00c\r\nContent-Length: " + fmt.Sprint(len(chat)) + "\r\n\r\n" + chat,
		"host of two lines":         "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nHost: i\r\nX-Api-Key: " + wireKey + "\r\nContent-Length: " + fmt.Sprint(len(chat)) + "\r\n\r\n" + chat,
	} {
		f.raw(t, raw+bye)
		f.free(t)
		f.mu.Lock()
		for i, r := range f.asked {
			whole := f.sent[i] == chat && r.RequestURI == "/v1/chat/completions" || f.sent[i] == "" && r.RequestURI == "/props"
			if !whole || r.Header["Transfer-Encoding"] != nil || len(r.Trailer) > 0 {
				t.Errorf("%s: the engine was asked %s %s with %q", name, r.Method, r.RequestURI, f.sent[i])
			}
		}
		f.asked, f.sent = nil, nil
		f.mu.Unlock()
	}
}

// The engine has paths that are not for clients: /slots, its own /models/unload.
func TestForward_WhateverThePath_TheEngineIsAskedForThoseOfItsFacesOnly(t *testing.T) {
	f := newWire(t, nil)
	for _, target := range []string{
		"/slots", "/slots/0?action=erase", "/metrics", "/lora-adapters", "/models/unload", "/health/../slots",
		"/v1/chat/completions/../../slots", "/v1/chat/completions/..%2f..%2fslots", "/v1/chat/completions%2f..%2f..%2fslots", "/v1/chat/completions;/../slots",
		"//slots", "//evil.example/v1/chat/completions", "/\\slots", "/v1//chat/completions", "/v1/./chat/completions", "/v1/chat%2Fcompletions", "/v1/chat/completions/",
		"http://evil.example/slots", "http://evil.example:1/v1/chat/completions", "http://evil.example//slots", "http://u:p@evil.example/v1/chat/completions", "http:slots", "http:///slots",
		"/v1/chat/completions?x=/slots", "/v1/chat/completions?model=m%0d%0aX:1", "/props?model=m&x=../slots", "/v1/chat/completions#/slots", "/v1/%63hat/completions", "slots", "*",
	} {
		for _, method := range []string{"POST", "GET", "CONNECT"} {
			f.raw(t, method+" "+target+" HTTP/1.1\r\nHost: h\r\nX-Api-Key: "+wireKey+"\r\nConnection: close\r\nContent-Length: "+fmt.Sprint(len(chat))+"\r\n\r\n"+chat+bye)
			f.mu.Lock()
			for _, r := range f.asked {
				if r.RequestURI != "/v1/chat/completions" && r.RequestURI != "/props" || strings.Contains(r.Host, "evil") {
					t.Errorf("%s %s: the engine was asked %s of %s", method, target, r.RequestURI, r.Host)
				}
			}
			f.asked = nil
			f.mu.Unlock()
		}
	}
	f.free(t)
}

// What is translated, and each stream, was asked for plain: it may have begun with comments
// of ours. It comes plain.
func TestForward_EngineCompressesUnasked_AnswerIsPlain(t *testing.T) {
	engine := httptest.NewServer(gatewaytest.Engine{Without: []string{"/v1/messages"}}.Handler())
	t.Cleanup(engine.Close)
	h := servedAt(t, engine.URL)
	for _, c := range []struct{ path, stream, want string }{
		{"/v1/messages", "false", `"text":"water"`},
		{"/v1/messages", "true", `"text":"water"`},
		{"/v1/chat/completions", "true", `"content":"water"`},
	} {
		body := `{"model":"m","max_tokens":9,"stream":` + c.stream + `,"messages":[{"role":"user","content":"water"}]}`
		r := httptest.NewRequest("POST", c.path, strings.NewReader(body))
		r.Header.Set(gatewaytest.Fault, gatewaytest.Gzip)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(got, c.want) || w.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s, stream %s: %d %v %q", c.path, c.stream, w.Code, w.Header(), got)
		}
	}
}

// A client that asks before it sends (Expect) is told that its body is too long, and sends
// nothing.
func TestForward_BodyAnnouncedTooLong_IsRefusedBeforeItIsSent(t *testing.T) {
	f := newWire(t, nil)
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, "POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Api-Key: "+wireKey+"\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v, %v", res, err)
	}
}

// The server of net/http watches a connection for its end only until more bytes come on it.
func TestForward_ClientThatSentMoreLeaves_EngineIsLetGo(t *testing.T) {
	left := make(chan struct{})
	inside := make(chan struct{})
	f := newWire(t, func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
		close(left)
	})
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Api-Key: "+wireKey+"\r\nContent-Length: "+fmt.Sprint(len(chat))+"\r\n\r\n"+chat)
	<-inside
	io.WriteString(c, "more")
	c.Close()
	select {
	case <-left:
	case <-time.After(20 * time.Second):
		t.Error("the engine goes on")
	}
	f.free(t)
}
