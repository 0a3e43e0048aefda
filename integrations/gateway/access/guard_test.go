package access

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestGuard_EveryFormOfAKey_Admits(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	for _, c := range []struct {
		headers []string
		name    string
	}{
		{[]string{"Authorization: Bearer secret-of-chat"}, "chat"},
		{[]string{"Authorization: bearer secret-of-chat"}, "chat"},
		{[]string{"Authorization: BEARER   secret-of-chat"}, "chat"},
		{[]string{"Authorization: Bearer secret:of-owner"}, "owner"},
		{[]string{basic("", "secret-of-chat")}, "chat"},
		{[]string{basic("any user", "secret-of-chat")}, "chat"},
		{[]string{basic("u", "secret:of-owner")}, "owner"},
		{[]string{"x-api-key: secret-of-chat"}, "chat"},
		{[]string{"X-API-KEY: secret-of-chat"}, "chat"},
		{[]string{"Authorization: Bearer of-another-service", "x-api-key: secret-of-chat"}, "chat"},
		{[]string{"Authorization: Bearer secret-of-chat", "x-api-key: of-another-service"}, "chat"},
		{[]string{"Authorization: Bearer secret-of-chat", "x-api-key: secret:of-owner"}, "chat"},

		{nil, ""},
		{[]string{"Authorization: secret-of-chat"}, ""},
		{[]string{"Authorization: Bearer"}, ""},
		{[]string{"Authorization: Bearer "}, ""},
		{[]string{"Authorization: Bearer secret-of-cha"}, ""},
		{[]string{"Authorization: Bearer secret-of-chatx"}, ""},
		{[]string{"Authorization: Bearer SECRET-OF-CHAT"}, ""},
		{[]string{"Authorization: Bearer secret-of-chat x"}, ""},
		{[]string{"Authorization: Bearer chat"}, ""},
		{[]string{"Authorization: Bearer secret-of-chat,secret-of-graphs"}, ""},
		{[]string{"Authorization: Bearer\tsecret-of-chat"}, ""},
		{[]string{"Authorization: Basic secret-of-chat"}, ""},
		{[]string{basic("secret-of-chat", "")}, ""},
		{[]string{basic("a:b", "secret-of-chat")}, ""},
		{[]string{"Authorization: Digest secret-of-chat"}, ""},
		{[]string{"Authorization: Bearer secret-of-chat", "Authorization: Bearer secret-of-chat"}, ""},
		{[]string{"x-api-key: secret-of-chat", "x-api-key: secret-of-graphs"}, ""},
		{[]string{"x-api-key: "}, ""},
		{[]string{"api-key: secret-of-chat"}, ""},
		{[]string{"X_Api_Key: secret-of-chat"}, ""},
		{[]string{"Proxy-Authorization: Bearer secret-of-chat"}, ""},
		{[]string{"Cookie: key=secret-of-chat"}, ""},
	} {
		w := s.ask("POST", "http://any.host/v1/chat/completions", c.headers...)
		if c.name == "" {
			if w.Code != 401 || s.seen != nil {
				t.Errorf("%q: %d, %v", c.headers, w.Code, s.seen)
			}
			if a := w.Header()["Www-Authenticate"]; len(a) != 2 || !strings.HasPrefix(a[0], "Bearer ") || !strings.HasPrefix(a[1], "Basic realm=") {
				t.Errorf("%q: WWW-Authenticate %q", c.headers, a)
			}
			continue
		}
		if w.Code != 200 || s.seen == nil || !s.seen.known || s.seen.caller.Name != c.name {
			t.Errorf("%q: %d, %+v", c.headers, w.Code, s.seen)
		}
	}
}

func TestGuard_ScopesAndPaths(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	type row = map[string]int
	for secret, paths := range map[Secret]row{
		"secret-of-chat":   {"/v1/chat/completions": 200, "/v1/models": 200, "/status": 403, "/load": 403, "/unlisted": 403},
		"secret-of-graphs": {"/v1/chat/completions": 403, "/v1/models": 200, "/status": 200, "/load": 403, "/unlisted": 403},
		"secret:of-owner":  {"/v1/chat/completions": 200, "/v1/models": 200, "/status": 200, "/load": 200, "/unlisted": 200},
		"wrong":            {"/v1/chat/completions": 401, "/v1/models": 401, "/status": 401, "/load": 401, "/unlisted": 401},
	} {
		for path, want := range paths {
			w := s.ask("GET", "http://any.host"+path, "Authorization: Bearer "+string(secret))
			if w.Code != want || (s.seen != nil) != (want == 200) {
				t.Errorf("%v %s: %d, want %d", string(secret), path, w.Code, want)
			}
		}
	}
	w := s.ask("GET", "http://any.host/load", "x-api-key: secret-of-chat")
	if body := w.Body.String(); !strings.Contains(body, "'chat'") || !strings.Contains(body, "scope manage") {
		t.Errorf("it does not say whose key lacks what: %s", body)
	}
}

func TestGuard_Caller_HasNameScopesAndClass(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	s.ask("GET", "http://any.host/v1/models", "x-api-key: secret-of-chat")
	if want := (Caller{Name: "chat", Scopes: Use, Class: "interactive"}); s.seen.caller != want {
		t.Errorf("got %+v", s.seen.caller)
	}
	if _, ok := From(context.Background()); ok {
		t.Error("a context without a request has a caller")
	}
	open := newSite(t, Options{Loopback: true})
	if open.ask("GET", "http://localhost/v1/models", "x-api-key: secret-of-chat"); open.seen == nil || open.seen.known {
		t.Errorf("without keys: %+v", open.seen)
	}
}

func TestGuard_KeyInTheURL_AdmitsNobodyAndGoesNoFurther(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	for _, query := range []string{
		"key=secret-of-chat", "api_key=secret-of-chat", "API_KEY=secret-of-chat", "model=m&key=secret-of-chat", "%6Bey=secret-of-chat", "model=m;key=secret-of-chat", "apikey=secret-of-chat", "access_token=secret-of-chat",
	} {
		if w := s.ask("GET", "http://any.host/v1/models?"+query); w.Code != 401 || !strings.Contains(w.Body.String(), "URL") {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
		s.ask("GET", "http://any.host/v1/models?"+query, "Authorization: Bearer secret-of-chat")
		if s.seen == nil || strings.Contains(s.seen.url+s.seen.uri, "secret") || strings.Contains(query, "model=m&") && s.seen.uri != "/v1/models?model=m" {
			t.Errorf("%s: %+v", query, s.seen)
		}
	}
	if w := s.ask("GET", "http://u:secret-of-chat@any.host/v1/models"); w.Code != 401 {
		t.Errorf("in the address: %d", w.Code)
	}
	s.ask("GET", "http://u:secret-of-chat@any.host/v1/models", "Authorization: Bearer secret-of-chat")
	if s.seen == nil || strings.Contains(s.seen.url+s.seen.uri, "secret") {
		t.Errorf("in the address: %+v", s.seen)
	}
	const kept = "/v1/models?model=a%20b&&monkey=1&keys=2&x"
	if s.ask("GET", "http://any.host"+kept, "x-api-key: secret-of-chat"); !strings.HasSuffix(s.seen.url, kept) {
		t.Errorf("what is no key went: %s", s.seen.url)
	}
	if kept := s.rules.Load().Keys; kept != nil {
		t.Error("the keys are kept")
	}
	for _, said := range s.denied {
		if strings.Contains(said, "secret") {
			t.Errorf("a refusal was told the key: %s", said)
		}
	}
}

func TestGuard_Key_GoesNoFurther(t *testing.T) {
	for name, s := range map[string]*site{
		"with keys": newSite(t, Options{Keys: three}), "without": newSite(t, Options{Loopback: true}),
	} {
		for _, path := range []string{"/v1/models", "/healthz"} {
			s.ask("GET", "http://localhost"+path, "Authorization: Bearer secret-of-chat", "x-api-key: secret-of-graphs", "X-Other: stays")
			if s.seen == nil || len(s.seen.header) != 1 {
				t.Errorf("%s: %s: %+v", name, path, s.seen)
			}
		}
	}
}

func TestGuard_OnlyProbesNeedNoKey(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/health": 200, "/readyz/": 401, "/readyzz": 401, "/healthz/": 401, "/healthz/../status": 401,
		"/healthz%2F..%2Fstatus": 401, "/HEALTHZ": 401, "/": 401, "/status": 401, "/healthz?x": 200,
	} {
		if w := s.ask("GET", "http://any.host"+path); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	for method, want := range map[string]int{"HEAD": 200, "POST": 401, "DELETE": 401, "OPTIONS": 401} {
		if w := s.ask(method, "http://any.host/healthz"); w.Code != want {
			t.Errorf("%s: %d, want %d", method, w.Code, want)
		}
	}
	if w := newSite(t, Options{Loopback: true}).ask("GET", "http://pod.example/healthz", "Sec-Fetch-Site: cross-site"); w.Code != 200 {
		t.Errorf("without keys: %d", w.Code)
	}
}

func TestNew_WithoutKeysBeyondThisMachine_IsRefused(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	if err := s.Set(s.with(Options{})); err == nil || !strings.Contains(err.Error(), "give a key") {
		t.Fatalf("the last key went: %v", err)
	}
	if w := s.ask("GET", "http://localhost/v1/models"); w.Code != 401 {
		t.Errorf("a change that was refused counts: %d", w.Code)
	}
	if err := s.Set(s.with(Options{Loopback: true})); err != nil {
		t.Errorf("on loopback: %v", err)
	}
}

func TestSet_WhileARequestRuns_TheNextGoesByTheNewRules(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	inside, goOn := make(chan struct{}), make(chan struct{})
	h := s.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-goOn
		if c, ok := From(r.Context()); !ok || c.Name != "chat" {
			t.Errorf("its caller is %+v now", c)
		}
	}))
	w := httptest.NewRecorder()
	var ended sync.WaitGroup
	ended.Go(func() {
		r := httptest.NewRequest("GET", "/v1/models", nil)
		r.Header.Set("X-Api-Key", "secret-of-chat")
		h.ServeHTTP(w, r)
	})
	<-inside
	if err := s.Set(s.with(Options{Keys: []Key{{Name: "new", Secret: "the-new-one", Scopes: all}}, Origins: []string{"https://new.example"}})); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	ended.Wait()
	if w.Code != 200 {
		t.Errorf("it ended with %d", w.Code)
	}
	if w := s.ask("GET", "/v1/models", "x-api-key: secret-of-chat"); w.Code != 401 {
		t.Errorf("the old key: %d", w.Code)
	}
	w = s.ask("GET", "/v1/models", "x-api-key: the-new-one", "Origin: https://new.example")
	if w.Code != 200 || w.Header().Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("the new key and origin: %d %v", w.Code, w.Header())
	}
}

func TestSet_UnderLoad_EveryRequestHasOneSetOfRules(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	h := s.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	stop := make(chan struct{})
	var ended sync.WaitGroup
	for range 4 {
		ended.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := httptest.NewRequest("GET", "/v1/models", nil)
				r.Header.Set("X-Api-Key", "secret-of-chat")
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code != 200 {
					t.Errorf("a key that stays was refused: %d", w.Code)
					return
				}
			}
		})
	}
	for i := range 200 {
		if err := s.Set(s.with(Options{Keys: three[:1+i%3]})); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	ended.Wait()
}

// limited is a ResponseWriter that knows until when the body may come.
type limited struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (l *limited) SetReadDeadline(t time.Time) error { l.read = t; return nil }

// A client that is turned away could else keep the connection by never ending the body.
func TestGuard_BodyOfARequestThatIsTurnedAway_HasToCome(t *testing.T) {
	for status, o := range map[int]Options{http.StatusForbidden: {Loopback: true}, http.StatusUnauthorized: {Keys: three}} {
		w := &limited{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("POST", "http://evil.example/", strings.NewReader("body"))
		newSite(t, o).handler.ServeHTTP(w, r)
		if left := time.Until(w.read); w.Code != status || left > time.Minute || w.read.IsZero() {
			t.Errorf("%d, the body may come for %v", w.Code, left)
		}
	}
}

// A real server and clients that do all they can to have a key logged.
func TestServer_WhateverIsSent_NoKeyIsLogged(t *testing.T) {
	var logged syncBuffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	lns, err := Listen([]string{"127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, Options{Keys: three})
	srv := Server(s.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		log.Debug("request", "uri", r.RequestURI, "url", r.URL, "headers", r.Header, "request", r)
		if r.URL.Path == "/panic" {
			panic(r.Header)
		}
	})), log)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lns[0]) }()
	const key = "secret-of-chat"
	for _, raw := range []string{
		"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + key + "\r\n\r\n",
		"GET /panic HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + key + "\r\n\r\n",
		"GET /panic?key=" + key + " HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + key + "\r\n\r\n",
		"GET http://u:" + key + "@h/panic HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + key + "\r\n\r\n",
		"GET /v1/models?api_key=" + key + " HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + key + "\x00\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + key + "\r\nAuthorization : " + key + "\r\n\r\n",
		"GET /v1/models HTTP/9.9\r\nHost: h\r\nAuthorization: Bearer " + key + "\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + strings.Repeat(key, 5000) + "\r\n\r\n",
		key + "\r\n\r\n",
	} {
		c, err := net.Dial("tcp", lns[0].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, raw)
		c.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(c) // a panic resets the connection
		c.Close()
		if bytes.Contains(answer, []byte(key)) {
			t.Errorf("%.60q: the key is in the answer: %s", raw, answer)
		}
	}
	srv.Close()
	<-served
	if out := logged.String(); strings.Contains(out, key) || !strings.Contains(out, "panic") {
		t.Errorf("the log: %s", out)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func BenchmarkGuard(b *testing.B) {
	g, err := New((&site{}).with(Options{Keys: three}))
	if err != nil {
		b.Fatal(err)
	}
	h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("POST", "/v1/chat/completions", nil)
	b.ReportAllocs()
	for b.Loop() {
		r.Header.Set("Authorization", "Bearer secret-of-chat")
		h.ServeHTTP(discard{}, r)
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
