package room

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// codeOf returns the code of a problem.
func codeOf(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var p plainProblem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return p.Code
}

// An engine of llama.cpp's has 512 places for connections that wait, and others fewer.
func TestServe_BurstAtOneEngine_NoErrorAndNeverMoreThanItsLimit(t *testing.T) {
	for name, c := range map[string]struct {
		parallel func(string) int
		most     int64
	}{
		"with a limit": {func(string) int { return 4 }, 4},
		"without one":  {nil, maxUnanswered},
	} {
		t.Run(name, func(t *testing.T) {
			var running, most atomic.Int64
			room := engineOf(t, Options{Parallel: c.parallel}, func(w http.ResponseWriter, _ *http.Request) {
				now := running.Add(1)
				for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
				}
				time.Sleep(time.Millisecond) // so that they meet
				running.Add(-1)
				io.WriteString(w, "{}")
			})
			var all sync.WaitGroup
			for range 500 {
				all.Go(func() {
					if w := room.ask("/v1/completions", `{"model":"m"}`); w.Code != http.StatusOK {
						t.Errorf("%d %s", w.Code, w.Body)
					}
				})
			}
			all.Wait()
			if n := most.Load(); n > c.most || n < min(c.most, 4) {
				t.Errorf("the engine had %d at once, the limit is %d", n, c.most)
			}
			if len(room.queues.byModel) > 0 {
				t.Errorf("turns are left: %+v", room.queues.byModel["m"])
			}
		})
	}
}

// waiting waits until that many requests wait for their turn.
func (room *Room) waiting(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		room.queues.mu.Lock()
		m := room.queues.byModel["m"]
		is := m != nil && m.waiting == n
		room.queues.mu.Unlock()
		if is {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never %d requests wait", n)
		}
	}
}

func TestServe_LoneCaller_IsAnsweredBeforeTheRestOfABurst(t *testing.T) {
	step := make(chan string)
	room := engineOf(t, Options{
		Parallel: func(string) int { return 1 },
		Caller:   func(r *http.Request) (string, *Class) { return r.Header.Get("From"), nil },
	}, func(w http.ResponseWriter, r *http.Request) { step <- r.Header.Get("From") })
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() { room.ask("/", `{"model":"m"}`, "From", "busy") })
	}
	room.waiting(t, 99)
	for range 5 {
		<-step
	}
	room.waiting(t, 94)
	all.Go(func() { room.ask("/", `{"model":"m"}`, "From", "lone") })
	room.waiting(t, 95)
	lone := -1
	for i := range 96 {
		if from := <-step; from == "lone" {
			lone = i
		}
	}
	all.Wait()
	if lone < 0 || lone > 3 {
		t.Errorf("%d of the burst were answered before it", lone)
	}
}

func TestServe_WaitingClientLeaves_NothingIsHeld(t *testing.T) {
	step := make(chan struct{})
	room := engineOf(t, Options{Parallel: func(string) int { return 1 }}, func(http.ResponseWriter, *http.Request) { step <- struct{}{} })
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { room.ask("/", `{"model":"m"}`) })
	}
	room.waiting(t, 1)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		r := httptest.NewRequestWithContext(ctx, "POST", "/", strings.NewReader(`{"model":"m"}`))
		room.Serve(httptest.NewRecorder(), r, plain{}, named)
	}()
	room.waiting(t, 2)
	leave()
	<-left
	room.waiting(t, 1)
	for range 2 {
		<-step
	}
	all.Wait()
	if s, _ := room.m.Model("m"); s.Leases != 0 || len(room.queues.byModel) > 0 {
		t.Errorf("%d leases, %+v", s.Leases, room.queues.byModel["m"])
	}
}

// A turn that has been waited for is at an engine that may have gone meanwhile.
func TestServe_AutoAtABusyEngine_WaitsForIt(t *testing.T) {
	step := make(chan struct{})
	room := engineOf(t, Options{Parallel: func(string) int { return 1 }}, func(w http.ResponseWriter, _ *http.Request) {
		step <- struct{}{}
		io.WriteString(w, "{}")
	})
	var all sync.WaitGroup
	all.Go(func() { room.ask("/", `{"model":"m"}`) })
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		room.queues.mu.Lock()
		begun = room.queues.byModel["m"] != nil
		room.queues.mu.Unlock()
	}
	all.Go(func() {
		w := httptest.NewRecorder()
		room.Serve(w, httptest.NewRequest("POST", "/", strings.NewReader("{}")), plain{}, func(_ *http.Request, body []byte) (*Ask, error) {
			return &Ask{Request: modeltier.Request{Preferred: "m", Fallback: true}, Body: body}, nil
		})
		if w.Code != http.StatusOK || w.Header().Get(modelHeader) != "m" {
			t.Errorf("%d from %q: %s", w.Code, w.Header().Get(modelHeader), w.Body)
		}
	})
	room.waiting(t, 1)
	if s, _ := room.m.Model("m"); s.Leases != 1 {
		t.Errorf("while one waits for its turn, %d leases are held", s.Leases)
	}
	<-step
	<-step
	all.Wait()
}

// crashing answers all but the first n requests; with each of those the engine ends.
func crashing(t *testing.T, n int, before func(w http.ResponseWriter)) (room *Room, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	room = engineOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if asked.Add(1) <= int64(n) {
			before(w)
			if err := room.m.ReportCrash("m", errors.New("exit status 3")); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		}
		w.Write(b)
	})
	return room, asked
}

func TestServe_EngineCrashesBeforeTheFirstByte_SentAgainOnce(t *testing.T) {
	for crashes, want := range map[int]struct {
		status int
		asked  int64
	}{1: {http.StatusOK, 2}, 2: {http.StatusBadGateway, 2}} {
		room, asked := crashing(t, crashes, func(http.ResponseWriter) {})
		const body = `{"model":"m","prompt":"as it was"}`
		w := room.ask("/v1/completions", body)
		if w.Code != want.status || asked.Load() != want.asked {
			t.Errorf("%d crashes: %d %s, asked %d times", crashes, w.Code, w.Body, asked.Load())
		}
		if want.status == http.StatusOK && w.Body.String() != body {
			t.Errorf("the second time it was sent %q", w.Body)
		}
		if want.status != http.StatusOK && (codeOf(t, w) != "engine_failed" || w.Header().Get("Retry-After") == "") {
			t.Errorf("%v %s", w.Header(), w.Body)
		}
		if s, _ := room.m.Model("m"); s.Leases != 0 || len(room.queues.byModel) > 0 {
			t.Errorf("%d leases are held, turns: %+v", s.Leases, room.queues.byModel["m"])
		}
	}
}

func TestServe_EngineCrashesAfterAByte_NotSentAgain(t *testing.T) {
	room, asked := crashing(t, 1, func(w http.ResponseWriter) {
		io.WriteString(w, `{"half":`)
		http.NewResponseController(w).Flush()
	})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { room.Serve(w, r, plain{}, named) }))
	defer front.Close()
	res, err := http.Post(front.URL, "application/json", strings.NewReader(`{"model":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil || string(b) != `{"half":` {
		t.Errorf("the answer is %q, %v", b, err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the engine was asked %d times", n)
	}
}

// One that closes connections and goes on may have taken the request.
func TestServe_EngineHangsUpAndGoesOn_NotSentAgain(t *testing.T) {
	var asked atomic.Int64
	room := engineOf(t, Options{}, func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	})
	if w := room.ask("/", `{"model":"m"}`); w.Code != http.StatusBadGateway || codeOf(t, w) != "engine_failed" || asked.Load() != 1 {
		t.Errorf("%d %s, asked %d times", w.Code, w.Body, asked.Load())
	}
}

func TestServe_EngineLacksThePath_SaysSo(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} {
		room := engineOf(t, Options{}, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "File Not Found", status) })
		w := room.ask("/v1/rerank?x=1", `{"model":"m"}`)
		for _, want := range []string{"'m'", "/v1/rerank", "does not have", "File Not Found"} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%d: it does not say %q: %s", status, want, w.Body)
			}
		}
		if w.Code != http.StatusNotImplemented || codeOf(t, w) != "not_supported" || w.Header().Get(shouldRetry) != "false" {
			t.Errorf("%d: %d %v", status, w.Code, w.Header())
		}
	}
	// An engine that says it in its own words is better understood.
	room := engineOf(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "start me with --embeddings", http.StatusNotImplemented)
	})
	if w := room.ask("/v1/embeddings", `{"model":"m"}`); w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "--embeddings") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestServe_Instead_AskedWhereThePathIsMissingAndRemembered(t *testing.T) {
	var paths []string
	room := engineOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) { // one request at a time
		paths = append(paths, r.URL.Path)
		if r.URL.Path == "/v1/messages" {
			http.NotFound(w, r)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s of %s", b, r.Header.Get("Content-Type"))
	})
	var refusal error
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		room.Serve(w, httptest.NewRequest("POST", "/v1/messages", strings.NewReader(`{"model":"m"}`)), plain{}, func(r *http.Request, body []byte) (*Ask, error) {
			ask, err := named(r, body)
			ask.Instead = func() (*Ask, error) {
				return &Ask{
					Path: "/v1/chat/completions", Body: []byte("translated"), Type: "text/plain",
					Named:  func(body []byte, model string) ([]byte, error) { return append(body, " for "+model...), nil },
					Answer: func(res *http.Response, model string) error { res.Header.Set("X-Translated", model); return nil },
				}, refusal
			}
			return ask, err
		})
		return w
	}
	for range 2 {
		if w := ask(); w.Code != http.StatusOK || w.Body.String() != "translated for m of text/plain" || w.Header().Get("X-Translated") != "m" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if got, want := strings.Join(paths, " "), "/v1/messages /v1/chat/completions /v1/chat/completions"; got != want {
		t.Errorf("asked were %s, want %s", got, want)
	}
	refusal = errors.New("it cannot be said otherwise")
	if w := ask(); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "said otherwise") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	refusal = Refuse(&Problem{Status: http.StatusTeapot, Code: "teapot", Message: "short"})
	if w := ask(); w.Code != http.StatusTeapot || codeOf(t, w) != "teapot" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestServe_Next_IsAskedWithTheAnswerOfTheFirst(t *testing.T) {
	room := engineOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s(%s)", r.URL.Path, b)
	})
	for first, want := range map[string]string{"/one": "200 /two(/one(body))", "/broken": "500 broken\n"} {
		w := httptest.NewRecorder()
		room.Serve(w, httptest.NewRequest("POST", "/x", strings.NewReader("body")), plain{}, func(_ *http.Request, body []byte) (*Ask, error) {
			return &Ask{
				Request: modeltier.Request{Model: "m"}, Path: first, Body: body,
				Next: func(answer []byte) (*Ask, error) { return &Ask{Path: "/two", Body: answer}, nil },
			}, nil
		})
		if got := fmt.Sprint(w.Code, " ", w.Body); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestServe_RequestID_IsOneForClientEngineAndAnswer(t *testing.T) {
	seen := ""
	room := engineOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get(requestID) + " " + r.Header.Get("Traceparent")
		w.Header().Set(requestID, "the engine's own")
		io.WriteString(w, "{}")
	})
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w := room.ask("/", `{"model":"m"}`, requestID, "mine", "Traceparent", trace)
	if got := w.Header().Values(requestID); seen != "mine "+trace || len(got) != 1 || got[0] != "mine" {
		t.Errorf("the engine saw %q, the answer has %q", seen, got)
	}
	w = room.ask("/", `{"model":"m"}`)
	first := w.Header().Get(requestID)
	if len(first) < 16 || seen != first+" " {
		t.Errorf("the engine saw %q, the answer has %q", seen, first)
	}
	// What failed is asked about most.
	if w = room.ask("/", `{"model":"no such"}`); len(w.Header().Get(requestID)) < 16 || w.Header().Get(requestID) == first {
		t.Errorf("an error has %q", w.Header().Get(requestID))
	}
	if w = room.ask("/", `no JSON`, requestID, "mine"); w.Header().Get(requestID) != "mine" {
		t.Errorf("an error has %q", w.Header().Get(requestID))
	}
}

func TestServe_Class_IsTheHeadersTheCallersOrTheModels(t *testing.T) {
	for _, c := range []struct {
		name, header string
		caller       *Class
		model, want  Class
	}{
		{"none", "", nil, Normal, Normal},
		{"the model's", "", nil, Low, Low},
		{"the header's before the model's", "high", nil, Low, High},
		{"the caller's before the model's", "", new(High), Low, High},
		{"a lower one than the caller's", "low", new(High), Normal, Low},
		{"a normal one of a high caller", "normal", new(High), Low, Normal},
		{"no higher one than the caller's", "high", new(Low), Normal, Low},
		{"no higher one than a normal caller's", "high", new(Normal), Low, Normal},
		{"a normal caller's before the model's", "", new(Normal), High, Normal},
	} {
		room := engineOf(t, Options{
			Caller:     func(*http.Request) (string, *Class) { return "a", c.caller },
			ModelClass: func(string) Class { return c.model },
		}, func(http.ResponseWriter, *http.Request) {})
		r := httptest.NewRequest("POST", "/", nil)
		if c.header != "" {
			r.Header.Set(classHeader, c.header)
		}
		_, class, err := room.classOf(r)
		if err != nil {
			t.Fatal(err)
		}
		if class == nil {
			class = new(room.class("m"))
		}
		if *class != c.want {
			t.Errorf("%s: %v, want %v", c.name, *class, c.want)
		}
	}
	room := engineOf(t, Options{}, func(http.ResponseWriter, *http.Request) { t.Error("the engine is asked") })
	if w := room.ask("/", `{"model":"m"}`, classHeader, "urgent"); w.Code != http.StatusBadRequest || codeOf(t, w) != "invalid_request" || !strings.Contains(w.Body.String(), "high, normal or low") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// The header of a request tells the queue, and not only classOf.
func TestServe_HighRequest_GoesBeforeLowOnes(t *testing.T) {
	step := make(chan string)
	room := engineOf(t, Options{Parallel: func(string) int { return 1 }}, func(_ http.ResponseWriter, r *http.Request) { step <- r.Header.Get("From") })
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { room.ask("/", `{"model":"m"}`, "From", "low", classHeader, "low") })
	}
	room.waiting(t, 19)
	all.Go(func() { room.ask("/", `{"model":"m"}`, "From", "high", classHeader, "high") })
	room.waiting(t, 20)
	at := -1
	for i := range 21 {
		if <-step == "high" {
			at = i
		}
	}
	all.Wait()
	if at < 0 || at > 2 {
		t.Errorf("its turn was after %d others", at)
	}
}

func TestServe_KeepAlive_IsTheHeaders(t *testing.T) {
	for text, want := range map[string]time.Duration{"10m": 10 * time.Minute, "0": tier.AtOnce, "0s": tier.AtOnce, "-1s": -time.Second} {
		if got, err := ParseKeepAlive(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	room := engineOf(t, Options{}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	if w := room.ask("/", `{"model":"m"}`, keepAliveHeader, "soon"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "10m") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := room.ask("/", `{"model":"m"}`, keepAliveHeader, "1h"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestServe_NoEngines_AllAreRefusedInTheirFace(t *testing.T) {
	room := newRoom(t, "http://127.0.0.1:1", Options{Refusal: &Problem{Status: http.StatusNotImplemented, Code: "no_engine", Message: "none"}})
	if w := room.ask("/", `{"model":"m"}`); w.Code != http.StatusNotImplemented || codeOf(t, w) != "no_engine" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestServe_BodyTooLong_IsRefused(t *testing.T) {
	room := engineOf(t, Options{}, func(http.ResponseWriter, *http.Request) { t.Error("the engine is asked") })
	w := httptest.NewRecorder()
	room.Serve(w, httptest.NewRequest("POST", "/", io.LimitReader(zeros{}, maxBody+1)), plain{}, named)
	if w.Code != http.StatusRequestEntityTooLarge || !bytes.Contains(w.Body.Bytes(), []byte("64 MiB")) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !room.bodies.TryAcquire(maxBodies) {
		t.Error("its room is not given back")
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
