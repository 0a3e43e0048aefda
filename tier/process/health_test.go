package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// askPipe queries a health page of an engine that sends an answer in pieces, with
// pauses between them, and then holds the connection open.
func askPipe(t *testing.T, pause time.Duration, pieces ...string) (took time.Duration, err error) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			defer theirs.Close()
			if _, err := http.ReadRequest(bufio.NewReader(theirs)); err != nil {
				return
			}
			for _, piece := range pieces {
				if _, err := io.WriteString(theirs, piece); err != nil {
					return
				}
				time.Sleep(pause)
			}
			io.Copy(io.Discard, theirs)
		}()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:1/health", nil)
		began := time.Now()
		err = exchange(ours, req, quietLimit)
		took = time.Since(began)
		<-served
	})
	return took, err
}

func TestHealth_SaneAnswer_Ready(t *testing.T) {
	for name, pieces := range map[string][]string{
		"Plain":          {okAnswer},
		"EarlyHints":     {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + okAnswer},
		"Continue":       {"HTTP/1.1 100 Continue\r\n\r\n", okAnswer},
		"SeveralInterim": {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), okAnswer},
		"LargeHeaders":   {"HTTP/1.1 200 OK\r\nSet-Cookie: " + strings.Repeat("y", 200<<10) + "\r\nContent-Length: 2\r\n\r\nok"},
		"Dribbled":       strings.Split(okAnswer, ""),
		"NoContent":      {"HTTP/1.1 204 No Content\r\n\r\n"},
		"NoLength":       {"HTTP/1.0 200 OK\r\n\r\nok"},
		"EndlessBody":    {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("y", 1<<20)},
		"Chunked":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if took, err := askPipe(t, quietLimit/2, pieces...); err != nil {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

func TestHealth_AnyOtherAnswer_NotReadyAndSaysWhy(t *testing.T) {
	for name, c := range map[string]struct{ answer, says string }{
		"Redirect":       {"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n", "302"},
		"Switching":      {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "101"},
		"Loading":        {"HTTP/1.1 503 Service Unavailable\r\n\r\nLoading model", `503 "Loading model"`},
		"InterimOnly":    {"HTTP/1.1 103 Early Hints\r\n\r\n", "no answer"},
		"EndlessInterim": {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100_000), "more than 256 KiB"},
		"EndlessHeader":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1<<20), "more than 256 KiB"},
		"Garbage":        {"220 mail.example ready\r\n", "malformed HTTP"},
		"Silence":        {"", "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			took, err := askPipe(t, 0, c.answer)
			if err == nil || !strings.Contains(err.Error(), c.says) || took > quietLimit {
				t.Errorf("after %v: %v, want %q", took, err, c.says)
			}
		})
	}
}

func TestHealth_RefusalWithABodyWithoutEnd_NotReadyInTime(t *testing.T) {
	head := "HTTP/1.1 503 Service Unavailable\r\n\r\n"
	for name, pieces := range map[string][]string{
		"Trickles": append([]string{head}, strings.Split(strings.Repeat("y", 1000), "")...),
		"Floods":   {head + strings.Repeat("y", 10<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			took, err := askPipe(t, quietLimit/4, pieces...)
			if err == nil || !strings.Contains(err.Error(), "503") || len(err.Error()) > 1000 || took > 2*quietLimit {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

// An answer that never ends does not keep the wait from its limit, from its checks
// or from the end of its context, and leaves no goroutine.
func TestAwaitReady_AnswerNeverEnds_WaitEndsInTime(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
					_, err = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n")
				}
			}()
		}
	}()
	defer func() { l.Close(); <-served }()
	m := &Mover{}
	c := &child{model: "m", url: "http://" + l.Addr().String(), tail: &logtail{}, exited: make(chan struct{})}
	stopped, cancelled := errors.New("stopped by a check"), errors.New("cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	checks := 0
	if err := m.awaitReady(ctx, c, &Engine{}, time.Hour, NeverReady, func() error {
		if checks++; checks == 3 {
			return stopped
		}
		return nil
	}); !errors.Is(err, stopped) {
		t.Errorf("with a check that fails: %v", err)
	}
	err = m.awaitReady(ctx, c, &Engine{}, 20*time.Millisecond, NeverReady, nil)
	if ee, ok := errors.AsType[*EngineError](err); !ok || ee.Fault != NeverReady || ee.Health == "" {
		t.Errorf("after its limit: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { cancel(cancelled) })
	if err := m.awaitReady(ctx, c, &Engine{}, time.Hour, NeverReady, nil); !errors.Is(err, cancelled) {
		t.Errorf("after the end of its context: %v", err)
	}
}

func TestHTTPSleeper_SendsItsRequestsInOrderUntilOneFails(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), body))
		switch r.URL.Path {
		case "/fail":
			http.Error(w, "no "+strings.Repeat("x", 1<<20), http.StatusConflict)
		case "/elsewhere":
			http.Redirect(w, r, "/sleep", http.StatusFound)
		}
	}))
	defer server.Close()
	s := HTTPSleeper{
		ToSleep: []Request{{Path: "/sleep?level=1"}, {Method: "PUT", Path: "/unload", Body: `{"model":"{name}"}`}},
		ToWake:  []Request{{Path: "/fail"}, {Path: "/never"}},
	}
	if err := s.Sleep(t.Context(), server.URL, `a "b" \c`); err != nil {
		t.Error(err)
	}
	err := s.Wake(t.Context(), server.URL, "a")
	if err == nil || !strings.Contains(err.Error(), "409") || !strings.Contains(err.Error(), "no xx") || len(err.Error()) > 1000 {
		t.Errorf("the wake-up returned %v", err)
	}
	want := []string{
		"POST /sleep?level=1  ",
		`PUT /unload application/json {"model":"a \"b\" \\c"}`,
		"POST /fail  ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s.ToWake = []Request{{Path: "/elsewhere"}}
	if err := s.Wake(t.Context(), server.URL, "a"); err == nil {
		t.Error("a redirect counts as done")
	}
}
