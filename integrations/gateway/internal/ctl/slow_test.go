package ctl

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// transport answers instead of a server, in virtual time.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func sessionOver(t *testing.T, f transport) *session {
	t.Helper()
	c := mustConnect(t, defaultServer)
	c.http.Transport = f
	return &session{client: c, out: io.Discard, err: io.Discard}
}

func says(body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
}

func TestClient_ServerThatNeverAnswers_IsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessionOver(t, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		_, err := s.status(t.Context())
		if exitCode(err) != exitNoServer || time.Since(began) != answerTime {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A machine that has gone sends nothing, and closes nothing.
func TestReserve_ServerGoesSilent_IsAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, server := io.Pipe()
		s := sessionOver(t, func(r *http.Request) (*http.Response, error) {
			context.AfterFunc(r.Context(), func() { server.CloseWithError(r.Context().Err()) })
			return says(body), nil
		})
		go func() {
			io.WriteString(server, `{"status": "success", "reservation": "r-1"}`+"\n")
			for range 10 {
				time.Sleep(15 * time.Second)
				io.WriteString(server, "\n")
			}
		}()
		began := time.Now()
		r, err := s.reserve(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.release()
		err = s.hold(t.Context(), r, tier.GiB, 0)
		if took := time.Since(began); exitCode(err) != exitFailed || took != 150*time.Second+heldQuiet {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// A job is asked after at a pace, and not in a loop.
func TestFollow_JobThatTakesLong_IsAskedAfterAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := sessionOver(t, func(*http.Request) (*http.Response, error) {
			status := "running"
			if asked++; asked > 40 {
				status = "success"
			}
			return says(io.NopCloser(strings.NewReader(`{"job_id": "j", "model_name": "a", "status": "` + status + `"}`))), nil
		})
		began := time.Now()
		if _, err := s.follow(t.Context(), &job{ID: "j"}, s.progress()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 40*pollEvery {
			t.Errorf("40 looks took %v", took)
		}
	})
}

// Where there is no terminal each phase and each tenth has a line, but for what takes a moment.
func TestProgress_WithoutTerminal_IsALineForEachTenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, forPrograms := range []bool{false, true} {
			var out strings.Builder
			p := (&session{err: &out, json: forPrograms}).progress()
			for i := range 40 {
				p.tell("a", &loading{Phase: "loading", Progress: float64(i) / 40, Total: tier.GiB})
				time.Sleep(pollEvery)
			}
			p.tell("a", &loading{Phase: "starting", Progress: 0.99, Left: 2})
			p.end()
			want := "a: loading 10% of 1.0 GiB\na: loading 20% of 1.0 GiB\na: loading 30% of 1.0 GiB\na: loading 40% of 1.0 GiB\na: loading 50% of 1.0 GiB\n" +
				"a: loading 60% of 1.0 GiB\na: loading 70% of 1.0 GiB\na: loading 80% of 1.0 GiB\na: loading 90% of 1.0 GiB\na: starting, 2.0 s left\n"
			if forPrograms {
				want = ""
			}
			if out.String() != want {
				t.Errorf("%q", out.String())
			}
		}
	})
}

// Whatever an answer is, it is an answer or a fault of the server, and steers no terminal.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `{"status":"error","reason":"x\u001b[2J","code":"busy","suggestions":["a"],"retry_after":1}`,
		`{"error":{"message":"x","code":7}}`, `{"models":[{"name":"a\r","tier":"ram","size":-1}],"moves":[{"model":"a"}],"at":"2026-01-01T00:00:00Z"}`,
		`{"models":{}}`, `{"models":[null]}`, `{"tier":"swap","model":"a","kept_gb":1e300}`, `{"old_limits":{"ram_max_gb":-1}}`,
		`{"optimizations":["a\nb"]}`, `{"parts":{"mover":{"engines":[{"Name":"a","PID":-1}]}},"models":[{"name":"a"}]}`, `<html>`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var out strings.Builder
		c, err := newClient(defaultServer, "")
		if err != nil {
			t.Fatal(err)
		}
		c.http.Transport = transport(func(*http.Request) (*http.Response, error) {
			return says(io.NopCloser(strings.NewReader(string(answer)))), nil
		})
		s := &session{client: c, out: &out, err: &out}
		o := &options{}
		for _, of := range []spec{o.ps(), o.ls(), o.show(), o.limits(), o.load(), o.optimize()} {
			if code := exitCode(of.run(t.Context(), s, []string{"a"})); code != exitDone && code != exitFailed && code != exitNoServer {
				t.Errorf("%s exits with %d", of.use, code)
			}
		}
		for _, r := range out.String() {
			if r < ' ' && r != '\n' {
				t.Fatalf("%q is printed", out.String())
			}
		}
	})
}
