package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sync/semaphore"
)

// fakePort is the variable that makes this binary an engine, on its port.
const fakePort = "MODELTIER_TEST_ENGINE_PORT"

// fakeGate is the variable with a file without which an engine is not ready.
const fakeGate = "MODELTIER_TEST_ENGINE_GATE"

// fakeEngine answers completions with their request, and streams as the prompt
// says: some chunks, for ever, or until it dies.
func fakeEngine(port string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if gate := os.Getenv(fakeGate); gate != "" {
			if _, err := os.Stat(gate); err != nil {
				http.Error(w, "not yet", http.StatusServiceUnavailable)
			}
		}
	})
	mux.HandleFunc("/v1/completions", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"auth":%q,"type":%q,"body":`, r.Header.Get("Authorization"), r.Header.Get("Content-Type"))
		io.Copy(w, r.Body)
		io.WriteString(w, "}")
	})
	mux.HandleFunc("/v1/embeddings", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":{"message":"no embeddings"}}`, http.StatusNotImplemented)
	})
	mux.HandleFunc("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if bytes.Contains(b, []byte("refuse")) {
			writeProblem(w, http.StatusBadRequest, "refused", "not this")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		chunks := math.MaxInt
		for prompt, n := range map[string]int{"short": 3, "long": 500} {
			if bytes.Contains(b, []byte(prompt)) {
				chunks = n
			}
		}
		for i := range chunks {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			if i == 3 && bytes.Contains(b, []byte("die")) {
				os.Exit(3)
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
		io.WriteString(w, "data: [DONE]\n\n")
	})
	return http.ListenAndServe("127.0.0.1:"+port, mux)
}

// fakeUse is a use of an engine at a URL.
type fakeUse string

func (u fakeUse) URL() string                         { return string(u) }
func (u fakeUse) Body(of io.ReadCloser) io.ReadCloser { return of }
func (u fakeUse) End()                                {}

// front is the front end of two models of which one fits into memory.
type front struct {
	*httptest.Server
	m       *modeltier.Manager
	engines *engines.Mover
	again   *reloader
	path    string // of its configuration
	config  map[string]any
}

// newFront has an engine with these further settings.
func newFront(t *testing.T, settings ...map[string]any) *front {
	t.Helper()
	dir := t.TempDir()
	var models []map[string]any
	for _, name := range []string{"small", "large"} {
		path := filepath.Join(dir, name+".bin")
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		models = append(models, map[string]any{"name": name, "path": name + ".bin", "runtime_gb": 0.1, "capabilities": []string{"text-generation", name}})
	}
	engine := map[string]any{"command": []string{os.Args[0]}, "env": []string{fakePort + "={port}", "GORACE=atexit_sleep_ms=0"}}
	for _, more := range settings {
		maps.Copy(engine, more)
	}
	f := &front{path: filepath.Join(dir, "config.json"), config: map[string]any{
		"engines": map[string]any{"fake": engine},
		"models":  models,
		"limits":  map[string]any{"ram_gb": 0.15, "swap_gb": 1, "reserved_gb": 0.01},
	}}
	f.write(t)
	served := serveFront(t, &options{config: f.path})
	served.path, served.config = f.path, f.config
	return served
}

// serveFront serves what the options say, on a machine that has memory.
func serveFront(t *testing.T, o *options) *front {
	t.Helper()
	lib, err := openLibrary(t.Context(), o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	lib.probe = plenty()
	log := slog.New(slog.DiscardHandler)
	m, engines, err := newEngines(lib, log)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{m: m, engines: engines, again: &reloader{open: lib.again, manager: m, engines: engines, state: lib.state}}
	f.Server = httptest.NewServer(guard("", newProxy(m, useOf(engines), log).handler()))
	t.Cleanup(func() {
		f.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// write writes the configuration.
func (f *front) write(t *testing.T) {
	t.Helper()
	b, err := json.Marshal(f.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *front) post(t *testing.T, ctx context.Context, path, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// idle waits until no lease is held.
func (f *front) idle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		leases := 0
		for s := range f.m.Models() {
			leases += s.Leases
		}
		if leases == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d leases are still held", leases)
		case <-time.After(time.Millisecond):
		}
	}
}

func whole(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProxy_NamedModels_ServedInTurnThoughOneFits(t *testing.T) {
	f := newFront(t)
	for _, name := range []string{"small", "large", "small"} {
		body := `{"model":"` + name + `","prompt":"hello","priority":7}`
		res := f.post(t, t.Context(), "/v1/completions", body, "Authorization", "Bearer of the client")
		if got, want := whole(t, res), `{"auth":"","type":"application/json","body":`+body+`}`; got != want || res.StatusCode != http.StatusOK {
			t.Errorf("%d %s, want %s", res.StatusCode, got, want)
		}
		if got := res.Header.Get("X-Model"); got != name {
			t.Errorf("it says that %q served", got)
		}
	}
	f.idle(t)
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
		if got, want := whole(t, res), `{"auth":"","type":"application/json","body":{"model":"large","prompt":"x"}}`; got != want {
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
	if got, want := whole(t, res), `{"auth":"","type":"application/json","body":{"model":"large","prompt":"x"}}`; got != want {
		t.Errorf("%d %s, want %s", res.StatusCode, got, want)
	}
	res, err := f.Client().Get(f.URL + "/v1/models/chat")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := whole(t, res); !strings.Contains(got, `"id":"large"`) {
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
	f.idle(t)

	res = f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","messages":"short"}`)
	if got := whole(t, res); !strings.HasSuffix(got, "data: 2\n\ndata: [DONE]\n\n") || res.Header.Get("Content-Type") != "text/event-stream" {
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
	if got := whole(t, res); !strings.HasSuffix(got, "data: [DONE]\n\n") {
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
	f.idle(t)
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
		got := whole(t, res)
		if res.StatusCode == http.StatusOK {
			break
		}
		if !strings.Contains(got, `"code":"`) {
			t.Fatalf("%d %s", res.StatusCode, got)
		}
	}
	f.idle(t)
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
		{"/v1/completions", `{"model":"auto","priority":"haste"}`, nil, http.StatusBadRequest, "invalid_request"},
		{"/v1/completions", `{"model":"auto"}`, []string{"X-Priority", "haste"}, http.StatusBadRequest, "invalid_request"},
		{"/v1/completions", `{"model":"auto","capabilities":["flight"]}`, nil, http.StatusNotFound, tier.Code(tier.ErrNoCapableModel)},
		{"/v1/completions", `{"model":"auto","capabilities":[""]}`, nil, http.StatusBadRequest, "invalid_request"},
	} {
		res := f.post(t, t.Context(), c.path, c.body, c.header...)
		var p problem
		if err := json.Unmarshal([]byte(whole(t, res)), &p); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.status || p.Error.Code != c.code || p.Error.Message == "" {
			t.Errorf("%s: %d %+v", c.body, res.StatusCode, p.Error)
		}
	}
	// What the engine refuses is the engine's to word.
	res := f.post(t, t.Context(), "/v1/embeddings", `{"model":"small"}`)
	if got := whole(t, res); res.StatusCode != http.StatusNotImplemented || !strings.Contains(got, "no embeddings") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}

func TestWriteFailure_SaysWhetherAndWhenToComeBack(t *testing.T) {
	for _, c := range []struct {
		err          error
		status       int
		after, again string
	}{
		{&tier.BusyError{RetryAfter: 300 * time.Millisecond}, http.StatusTooManyRequests, "1", ""},
		{&tier.BusyError{}, http.StatusTooManyRequests, "1", ""},
		{&tier.BusyError{RetryAfter: 2100 * time.Millisecond}, http.StatusTooManyRequests, "3", ""},
		{&tier.CapacityError{Model: "a"}, http.StatusServiceUnavailable, "1", ""},
		{tier.ErrClosed, http.StatusServiceUnavailable, "1", ""},
		{&tier.CapacityError{Model: "a", Never: true}, http.StatusInsufficientStorage, "", "false"},
		{&tier.NotFoundError{What: "model", Name: "a"}, http.StatusNotFound, "", "false"},
		{&tier.MoveError{Model: "a", Err: errors.New("broken")}, http.StatusInternalServerError, "", "false"},
	} {
		w := httptest.NewRecorder()
		writeFailure(w, c.err)
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		h := w.Header()
		if w.Code != c.status || h.Get("Retry-After") != c.after || h.Get("X-Should-Retry") != c.again || p.Error.Code != tier.Code(c.err) {
			t.Errorf("%v: %d %v %+v", c.err, w.Code, h, p.Error)
		}
	}
}

// servedBy returns a Manager of one model, m, and the address of an engine that
// answers so.
func servedBy(tb testing.TB, answer http.HandlerFunc) (m *modeltier.Manager, engine string) {
	e := httptest.NewServer(answer)
	tb.Cleanup(e.Close)
	path := filepath.Join(tb.TempDir(), "m.bin")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		tb.Fatal(err)
	}
	m, err := modeltier.New(modeltier.Config{Models: []tier.Model{{Name: "m", Path: path}}, Probe: plenty()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m, e.URL
}

// BenchmarkProxy measures what the front end adds to a hot request, against the
// engine asked directly in the same run.
func BenchmarkProxy(b *testing.B) {
	m, engine := servedBy(b, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	log := slog.New(slog.DiscardHandler)
	through := httptest.NewServer(newProxy(m, func(string) (engineUse, bool) { return fakeUse(engine), true }, log).handler())
	defer through.Close()
	body := []byte(`{"model":"m","prompt":"` + strings.Repeat("word ", 200) + `"}`)
	ask := func(url string) time.Duration {
		began := time.Now()
		res, err := http.Post(url+"/v1/completions", "application/json", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return time.Since(began)
	}
	ask(through.URL)
	var direct, added []time.Duration
	for b.Loop() {
		direct = append(direct, ask(engine))
		added = append(added, ask(through.URL))
	}
	b.ReportMetric(0, "ns/op")
	for _, q := range []struct {
		name string
		part int
	}{{"p50", 50}, {"p99", 99}} {
		b.ReportMetric(float64(quantile(added, q.part)-quantile(direct, q.part))/1e3, "added-"+q.name+"-µs")
	}
}

func quantile(all []time.Duration, percent int) time.Duration {
	slices.Sort(all)
	return all[(len(all)-1)*percent/100]
}

// Bodies are held until their answers end, and what thousands of them take would
// else stand in no account.
func TestProxy_BodiesOfAllRequests_HeldWithinABound(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	m, engine := servedBy(t, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); strings.Contains(string(b), "wait") {
			asked <- struct{}{}
			<-answer
		}
		io.WriteString(w, "{}")
	})
	const room = 1000
	p := newProxy(m, func(string) (engineUse, bool) { return fakeUse(engine), true }, slog.New(slog.DiscardHandler))
	p.bodies = semaphore.NewWeighted(room)
	h := p.handler()
	ask := func(prompt string, length int, body io.Reader) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		if body == nil {
			body = strings.NewReader(`{"model":"m","prompt":"` + prompt + strings.Repeat("x", length) + `"}`)
		}
		h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/completions", body))
		return w
	}
	first := make(chan int)
	go func() { first <- ask("wait", 600, nil).Code }()
	<-asked
	for name, body := range map[string]io.Reader{
		"announced":  nil,
		"in chunks":  struct{ io.Reader }{strings.NewReader(`{"model":"m","prompt":"` + strings.Repeat("x", 600) + `"}`)},
		"in trickle": io.MultiReader(strings.NewReader(`{"model":"m","prompt":"`), strings.NewReader(strings.Repeat("x", 300)), strings.NewReader(strings.Repeat("x", 300)), strings.NewReader(`"}`)),
	} {
		w := ask("", 600, body)
		var got problem
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || got.Error.Code != tier.Code(modeltier.ErrBusy) {
			t.Errorf("%s: %d %v %+v", name, w.Code, w.Header(), got.Error)
		}
	}
	if w := ask("", 100, nil); w.Code != http.StatusOK {
		t.Errorf("one for which there is room: %d %s", w.Code, w.Body)
	}
	close(answer)
	if code := <-first; code != http.StatusOK {
		t.Errorf("the one that holds the room: %d", code)
	}
	ask("", 0, strings.NewReader("no JSON"))
	if !p.bodies.TryAcquire(room) {
		t.Error("some of the room is not given back")
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
		if err := json.Unmarshal([]byte(whole(t, res)), into); err != nil {
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
	if got := res.Header.Get(noBuffering); got != "no" {
		t.Errorf("%s is %q", noBuffering, got)
	}
	res = f.post(t, t.Context(), "/v1/completions", `{"model":"small"}`)
	if got := res.Header.Get(noBuffering); got != "" {
		t.Errorf("what is no stream has %q", got)
	}
}

// An engine closes a connection that was kept just as the next request comes on it.
func TestProxy_KeptConnectionIsClosed_RequestIsSentAgain(t *testing.T) {
	m, _ := servedBy(t, nil)
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
	use := func(string) (engineUse, bool) { return fakeUse(engine.URL), true }
	h := newProxy(m, use, slog.New(slog.DiscardHandler)).handler()
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
