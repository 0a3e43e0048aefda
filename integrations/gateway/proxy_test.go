package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

func TestProxy_NamedModels_ServedInTurnThoughOneFits(t *testing.T) {
	f := newFront(t)
	for _, name := range []string{"small", "large", "small"} {
		body := `{"model":"` + name + `","prompt":"hello","priority":7}`
		res := f.post(t, t.Context(), "/v1/completions", body, "Authorization", "Bearer of the client")
		if got, want := enginetest.Whole(t, res), `{"auth":"","type":"application/json","body":`+body+`}`; got != want || res.StatusCode != http.StatusOK {
			t.Errorf("%d %s, want %s", res.StatusCode, got, want)
		}
		if got := res.Header.Get("X-Model"); got != name {
			t.Errorf("it says that %q served", got)
		}
	}
	enginetest.Idle(t, f.m)
}

func TestProxy_Auto_EngineIsToldWhichModelAndNothingElse(t *testing.T) {
	f := newFront(t)
	for _, c := range []struct {
		body   string
		header []string
	}{
		{`{"model":"auto","prompt":"x","capabilities":["large"],"priority":"speed"}`, nil},
		{`{"model":"auto","prompt":"x","capabilities":["small"]}`, []string{"X-Capabilities", "text-generation, large", "X-Priority", "quality"}},
	} {
		res := f.post(t, t.Context(), "/v1/completions", c.body, c.header...)
		if got, want := enginetest.Whole(t, res), `{"auth":"","type":"application/json","body":{"model":"large","prompt":"x"}}`; got != want {
			t.Errorf("%d %s, want %s", res.StatusCode, got, want)
		}
	}
}

func TestProxy_Alias_EngineIsToldTheModel(t *testing.T) {
	f := newFront(t)
	if err := f.m.SetAlias(t.Context(), "chat", "large"); err != nil {
		t.Fatal(err)
	}
	res := f.post(t, t.Context(), "/v1/completions", `{"model":"chat","prompt":"x"}`)
	if got, want := enginetest.Whole(t, res), `{"auth":"","type":"application/json","body":{"model":"large","prompt":"x"}}`; got != want {
		t.Errorf("%d %s, want %s", res.StatusCode, got, want)
	}
	res, err := f.Client().Get(f.URL + "/v1/models/chat")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := enginetest.Whole(t, res); !strings.Contains(got, `"id":"large"`) {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}

func TestProxy_Stream_LeaseHeldUntilItsEnd(t *testing.T) {
	f := newFront(t)
	ctx, leave := context.WithCancel(t.Context())
	res := f.post(t, ctx, "/v1/chat/completions", `{"model":"small","stream":true}`)
	lines := bufio.NewReader(res.Body)
	if line, err := lines.ReadString('\n'); line != "data: 0\n" {
		t.Fatalf("%q %v", line, err)
	}
	held := 0
	for s := range f.m.Models() {
		held += s.Leases
	}
	if held != 1 {
		t.Errorf("%d leases are held while it streams", held)
	}
	leave() // as a client that has read enough
	enginetest.Idle(t, f.m)

	res = f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","messages":"short"}`)
	if got := enginetest.Whole(t, res); !strings.HasSuffix(got, "data: 2\n\ndata: [DONE]\n\n") || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("the stream was %q", got)
	}
}

func TestProxy_StreamLongerThanAnAnswerMayTake_NotCutWhileItFlows(t *testing.T) {
	f := newFront(t)
	s := httptest.NewUnstartedServer(f.Config.Handler)
	s.Config.WriteTimeout = time.Nanosecond // over before the first part
	s.Start()
	defer s.Close()
	res, err := s.Client().Post(s.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"small","messages":"short"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := enginetest.Whole(t, res); !strings.HasSuffix(got, "data: [DONE]\n\n") {
		t.Errorf("the stream was %q", got)
	}
}

func TestProxy_ManyStreamsWhileModelsChange_NoneIsBroken(t *testing.T) {
	f := newFront(t)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			model := []string{"small", "large"}[i%2]
			res, err := f.Client().Post(f.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"`+model+`","messages":"short"}`))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusOK || !strings.HasSuffix(string(b), "data: [DONE]\n\n") || res.Header.Get("X-Model") != model {
				t.Errorf("%s: %d %q, %v", model, res.StatusCode, b, err)
			}
		})
	}
	all.Wait()
	enginetest.Idle(t, f.m)
	if s := f.m.Status(); s.RAM.Reserved != 0 || s.RAM.Used > s.Limits.RAM || s.RAM.Models != 1 {
		t.Errorf("the account at the end: %+v", s.RAM)
	}
}

func TestProxy_EngineDiesInAStream_ClientSeesItAndTheNextIsServed(t *testing.T) {
	f := newFront(t)
	res := f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","messages":"die"}`)
	b, err := io.ReadAll(res.Body)
	if err == nil {
		t.Errorf("a cut stream looks whole: %q", b)
	}
	events := strings.Split(strings.TrimSuffix(string(b), "\n\n"), "\n\n")
	if last := events[len(events)-1]; !strings.HasPrefix(last, `data: {"error":{`) || !strings.Contains(last, "engine_failed") {
		t.Errorf("its last event is %q", last)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for { // its end is noticed in a moment; until then it is an error with a code
		res := f.post(t, ctx, "/v1/completions", `{"model":"small","prompt":"again"}`)
		got := enginetest.Whole(t, res)
		if res.StatusCode == http.StatusOK {
			break
		}
		if !strings.Contains(got, `"code":"`) {
			t.Fatalf("%d %s", res.StatusCode, got)
		}
	}
	enginetest.Idle(t, f.m)
}

func TestProxy_CannotServe_OpenAIErrorWithCode(t *testing.T) {
	f := newFront(t)
	for _, c := range []struct {
		path, body string
		header     []string
		status     int
		code       string
	}{
		{"/v1/completions", `{"model":"smal"}`, nil, http.StatusNotFound, tier.Code(tier.ErrNotFound)},
		{"/v1/completions", `{"model":`, nil, http.StatusBadRequest, "invalid_request"},
		{"/v1/completions", `{"prompt":"x"}`, nil, http.StatusBadRequest, "invalid_request"},
		{"/v1/completions", `{"model":"small"}`, []string{"Content-Encoding", "gzip"}, http.StatusUnsupportedMediaType, "invalid_request"},
		{"/v1/completions", `{"model":"auto","priority":"haste"}`, nil, http.StatusBadRequest, "invalid_request"},
		{"/v1/completions", `{"model":"auto"}`, []string{"X-Priority", "haste"}, http.StatusBadRequest, "invalid_request"},
		{"/v1/completions", `{"model":"auto","capabilities":["flight"]}`, nil, http.StatusNotFound, tier.Code(tier.ErrNoCapableModel)},
		{"/v1/completions", `{"model":"auto","capabilities":[""]}`, nil, http.StatusBadRequest, "invalid_request"},
	} {
		res := f.post(t, t.Context(), c.path, c.body, c.header...)
		var p problem
		if err := json.Unmarshal([]byte(enginetest.Whole(t, res)), &p); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.status || p.Error.Code != c.code || p.Error.Message == "" {
			t.Errorf("%s: %d %+v", c.body, res.StatusCode, p.Error)
		}
	}
	// What the engine refuses is the engine's to word.
	res := f.post(t, t.Context(), "/v1/embeddings", `{"model":"small"}`)
	if got := enginetest.Whole(t, res); res.StatusCode != http.StatusNotImplemented || !strings.Contains(got, "no embeddings") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}

func TestProxy_WhatClientsAskFirst(t *testing.T) {
	f := newFront(t)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		req, _ := http.NewRequestWithContext(t.Context(), method, f.URL+"/", nil)
		res, err := f.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s /: %d", method, res.StatusCode)
		}
	}
	created := func(path string, into any) {
		res, err := f.Client().Get(f.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(enginetest.Whole(t, res)), into); err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	type entry struct{ Created int64 }
	var list struct{ Data []entry }
	var one entry
	created("/v1/models", &list)
	created("/v1/models/small", &one)
	if age := time.Since(time.Unix(one.Created, 0)); len(list.Data) != 2 || list.Data[0] != one || age < 0 || age > time.Hour {
		t.Errorf("%+v, %+v", list, one)
	}
}

// nginx would keep the words of a stream until it has ended.
func TestProxy_Streams_AreNotToBeBuffered(t *testing.T) {
	f := newFront(t)
	res := f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","stream":true,"prompt":"short"}`)
	if got := res.Header.Get("X-Accel-Buffering"); got != "no" {
		t.Errorf("%s is %q", "X-Accel-Buffering", got)
	}
	res = f.post(t, t.Context(), "/v1/completions", `{"model":"small"}`)
	if got := res.Header.Get("X-Accel-Buffering"); got != "" {
		t.Errorf("what is no stream has %q", got)
	}
}

// An engine closes a connection that was kept just as the next request comes on it.
func TestProxy_KeptConnectionIsClosed_RequestIsSentAgain(t *testing.T) {
	served := make(map[net.Conn]bool)
	var mu sync.Mutex
	engine := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
	engine.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if s == http.StateActive {
			if served[c] {
				c.Close()
			}
			served[c] = true
		}
	}
	engine.Start()
	defer engine.Close()
	h := servedAt(t, engine.URL)
	ask := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/completions", strings.NewReader(`{"model":"m"}`)))
		return w.Code
	}
	for range 6 {
		if code := ask(); code != http.StatusOK {
			t.Errorf("%d", code)
		}
	}
	mu.Lock()
	if n := len(served); n != 6 {
		t.Errorf("%d connections, and nothing was tested", n)
	}
	mu.Unlock()
	engine.Close()
	if code := ask(); code != http.StatusBadGateway {
		t.Errorf("an engine that is gone: %d", code)
	}
}

// The engine is given the model that the body names, and not what only looks like it.
func TestProxy_KeysOfAnotherCase_AreNotTheModel(t *testing.T) {
	f := newFront(t)
	res := f.post(t, t.Context(), "/v1/completions", `{"model":"small","Model":"large","STREAM":true}`)
	if got := res.Header.Get("X-Model"); got != "small" || res.StatusCode != http.StatusOK {
		t.Errorf("%d from %q", res.StatusCode, got)
	}
	res = f.post(t, t.Context(), "/v1/completions", `{"MODEL":"small"}`)
	if got := enginetest.Whole(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(got, "names no model") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	res = f.post(t, t.Context(), "/v1/completions", `{"model":7}`)
	if got := enginetest.Whole(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(got, "model: ") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}
