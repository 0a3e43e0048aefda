package modeltier_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// pipes is a listener whose connections are within the process, so that an HTTP server
// can be tested in virtual time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.IPAddr{} }

// listen serves the rig's Handler and returns a client of it.
func (r *rig) listen() *http.Client {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: r.Handler(), WriteTimeout: time.Minute}
	ended := make(chan struct{})
	go func() { defer close(ended); srv.Serve(p) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		p.conns <- theirs
		return ours, nil
	}}
	r.t.Cleanup(func() {
		transport.CloseIdleConnections()
		srv.Close()
		<-ended
	})
	return &http.Client{Transport: transport}
}

// send sends a request with a body.
func (r *rig) send(ctx context.Context, c *http.Client, method, path, body string) *http.Response {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://server"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s %s: %v", method, path, body, err)
	}
	r.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// answer reads the first line of an answer.
func answer(t *testing.T, from io.Reader) (a map[string]any) {
	t.Helper()
	line, err := bufio.NewReader(from).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return a
}

func TestHandler_ReservationWithHold_EndsWithItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		c := r.listen()
		ctx, leave := context.WithCancel(t.Context())
		resp := r.send(ctx, c, "POST", "/v1/reservations", `{"gb": 3, "reason": "a game", "hold": true}`)
		a := answer(t, resp.Body) // though the answer has not ended
		go io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusOK || a["status"] != "success" || a["granted_gb"] != 3.0 || a["expires_in"] != nil {
			t.Errorf("%d %v", resp.StatusCode, a)
		}
		time.Sleep(time.Hour) // longer than the server lets an answer take
		if s := r.Status(); len(s.Reservations) != 1 || s.Reservations[0].ID != a["reservation"] || s.Reservations[0].Reason != "a game" {
			t.Errorf("%+v", s.Reservations)
		}
		leave()
		synctest.Wait()
		if s := r.Status(); len(s.Reservations) > 0 || s.RAM.Used > 0 {
			t.Errorf("the client has left: %+v, %v used", s.Reservations, s.RAM.Used)
		}
	})
}

func TestHandler_HeldReservationExpiresOrTheManagerEnds_TheAnswerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		c := r.listen()
		resp := r.send(t.Context(), c, "POST", "/v1/reservations", `{"gb": 1, "for_s": 90, "hold": true}`)
		began := time.Now()
		if _, err := io.ReadAll(resp.Body); err != nil || time.Since(began) != 90*time.Second {
			t.Errorf("the answer ended after %v: %v", time.Since(began), err)
		}
		resp = r.send(t.Context(), c, "POST", "/v1/reservations", `{"gb": 1, "hold": true}`)
		time.AfterFunc(time.Second, func() { r.Shutdown(context.Background()) })
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Errorf("the answer ended with %v", err)
		}
	})
}

// Its connection may break without a word, and the server does not notice by itself that
// a client leaves which has sent more than its request.
func TestHandler_HeldReservation_ClientLeavesUnnoticed_EndsWithTheNextCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for after, leave := range map[string]func(net.Conn){
			"one byte more": func(c net.Conn) { io.WriteString(c, "\n"); c.Close() },
			"nothing":       func(net.Conn) {}, // it receives nothing any more
		} {
			r := newRig(t, onlyRAM())
			conn, err := r.listen().Transport.(*http.Transport).DialContext(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			body := `{"gb": 3, "hold": true}`
			go fmt.Fprintf(conn, "POST /v1/reservations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if a := answer(t, resp.Body); a["status"] != "success" || len(r.Status().Reservations) != 1 {
				t.Fatalf("%v", a)
			}
			leave(conn)
			time.Sleep(time.Minute)
			if s := r.Status(); len(s.Reservations) > 0 {
				t.Errorf("after %s the client has left: %+v", after, s.Reservations)
			}
			conn.Close()
		}
	})
}

func TestHandler_ReservationWaitsLongerThanTheServersWriteTimeout_ClientIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4))
		cfg.MaxWait = 10 * time.Minute
		r := newRig(t, cfg)
		c := r.listen()
		lease := r.get("a")
		resp := r.send(t.Context(), c, "POST", "/v1/reservations", `{"gb": 3}`)
		if a := answer(t, resp.Body); resp.StatusCode != http.StatusServiceUnavailable || a["code"] != "busy" {
			t.Errorf("%d %v", resp.StatusCode, a)
		}
		time.AfterFunc(5*time.Minute, lease.Release)
		resp = r.send(t.Context(), c, "POST", "/v1/reservations", `{"gb": 3}`)
		if a := answer(t, resp.Body); a["status"] != "success" || a["reservation"] != r.Status().Reservations[0].ID {
			t.Errorf("%v", a)
		}
	})
}

// leaver is a client that leaves, or cannot be written to, as it is told.
type leaver struct {
	*httptest.ResponseRecorder
	leave func()
	flush error
}

func (w leaver) Write(b []byte) (int, error) {
	w.leave()
	return w.ResponseRecorder.Write(b)
}

func (w leaver) FlushError() error { return w.flush }

func TestHandler_ClientIsGoneWhenItIsToldOfItsReservation_HasNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		for _, c := range []struct {
			leaves bool
			flush  error
			held   int
		}{{true, nil, 0}, {false, net.ErrClosed, 0}, {false, http.ErrNotSupported, 1}} {
			ctx, leave := context.WithCancel(t.Context())
			if !c.leaves {
				leave = func() {}
			}
			req := httptest.NewRequestWithContext(ctx, "POST", "/v1/reservations", strings.NewReader(`{"gb": 1}`))
			r.Handler().ServeHTTP(leaver{httptest.NewRecorder(), leave, c.flush}, req)
			synctest.Wait()
			if n := len(r.Status().Reservations); n != c.held {
				t.Errorf("%+v: %d are held", c, n)
			}
		}
	})
}

func TestHandler_Reservations_StatusCodesAndErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		ask := func(method, path, body string) (int, map[string]any) {
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			return w.Code, answer(t, w.Body)
		}
		status, a := ask("POST", "/v1/reservations", `{"gb": 4}`)
		id, _ := a["reservation"].(string)
		if status != http.StatusOK || id == "" {
			t.Fatalf("%d %v", status, a)
		}
		for _, c := range []struct {
			method, path, body string
			status             int
			code, in           string
		}{
			{"POST", "/v1/reservations", `{"gb": 2}`, http.StatusServiceUnavailable, "no_capacity", id},
			{"POST", "/v1/reservations", `{"gb": 9}`, http.StatusInsufficientStorage, "too_large", "5.0 GiB"},
			{"POST", "/v1/reservations", `{"gb": "much"}`, http.StatusBadRequest, "invalid_request", "gb"},
			{"POST", "/v1/reservations", `{"gb": 1, "hold": "yes"}`, http.StatusBadRequest, "invalid_request", "hold"},
			{"POST", "/v1/reservations", `{"gb": 1, "forever": true}`, http.StatusBadRequest, "invalid_request", "forever"},
			{"POST", "/v1/reservations", strings.Repeat(" ", 2<<20), http.StatusRequestEntityTooLarge, "invalid_request", ""},
			{"DELETE", "/v1/reservations/r-unknown", "", http.StatusNotFound, "not_found", ""},
			{"DELETE", "/v1/reservations/" + id, "", http.StatusOK, "", ""},
			{"DELETE", "/v1/reservations/" + id, "", http.StatusNotFound, "not_found", ""},
		} {
			status, a := ask(c.method, c.path, c.body)
			code, _ := a["code"].(string)
			text, _ := json.Marshal(a)
			if status != c.status || code != c.code || !strings.Contains(string(text), c.in) {
				t.Errorf("%s %s %.40s: %d %s, want %d %s with %q", c.method, c.path, c.body, status, text, c.status, c.code, c.in)
			}
		}
	})
}

func TestContract_Reserve_ExpiresOrIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3)))
		ask := func(request string) map[string]any {
			return answer(t, strings.NewReader(string(r.HandleRequest(t.Context(), []byte(request)))+"\n"))
		}
		a := ask(`{"reserve": {"gb": 4, "reason": "a game", "for_s": 600}}`)
		id, _ := a["reservation"].(string)
		if a["status"] != "success" || id == "" || a["granted_gb"] != 4.0 || a["expires_in"] != 600.0 {
			t.Errorf("%v", a)
		}
		if a := ask(`{"model": "a"}`); a["code"] != "no_capacity" || !strings.Contains(a["suggestions"].([]any)[0].(string), id) {
			t.Errorf("%v", a)
		}
		told := ask(`{"tier_status": true}`)["reservations"].([]any)[0].(map[string]any)
		if told["reservation"] != id || told["gb"] != 4.0 || told["reason"] != "a game" || told["until"] == nil {
			t.Errorf("%v", told)
		}
		time.Sleep(10*time.Minute - time.Nanosecond)
		synctest.Wait()
		r.wantUsed(4 * tier.GiB)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		r.wantUsed(0)
		if a := ask(`{"release": "` + id + `"}`); a["code"] != "not_found" {
			t.Errorf("%v", a)
		}

		a = ask(`{"reserve": {"gb": 1}}`)
		if again := ask(`{"release": "` + a["reservation"].(string) + `"}`); a["expires_in"] != 600.0 || again["status"] != "success" || again["reservation"] != a["reservation"] {
			t.Errorf("%v, %v", a, again)
		}
		r.wantUsed(0)
		if told := ask(`{"tier_status": true}`); told["reservations"] != nil {
			t.Errorf("%v", told)
		}
		r.use("a")
	})
}

// What is not there any more after a restart cannot be released either.
func TestReserve_Restart_ReservationsAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM()
		cfg.StateDir = t.TempDir()
		id := ""
		func() {
			r := newRig(t, cfg)
			id = r.reserve(3).ID()
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		r := newRig(t, cfg)
		if s := r.Status(); len(s.Reservations) > 0 || s.RAM.Used > 0 {
			t.Errorf("%+v, %v used", s.Reservations, s.RAM.Used)
		}
		if a := r.HandleRequest(t.Context(), []byte(`{"release": "`+id+`"}`)); !strings.Contains(string(a), `"not_found"`) {
			t.Errorf("%s", a)
		}
	})
}

// unflushed is a ResponseWriter that sends nothing before the answer ends.
type unflushed struct {
	header http.Header
	status int
	body   strings.Builder
}

func (u *unflushed) Header() http.Header         { return u.header }
func (u *unflushed) WriteHeader(status int)      { u.status = status }
func (u *unflushed) Write(p []byte) (int, error) { return u.body.Write(p) }

func TestHandler_HoldWithoutAWayToSendAtOnce_IsRefusedAndNothingIsReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		for body, want := range map[string]int{`{"gb": 1, "hold": true}`: http.StatusNotImplemented, `{"gb": 1, "for_s": 60}`: http.StatusOK} {
			w := &unflushed{header: http.Header{}}
			r.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/v1/reservations", strings.NewReader(body)))
			if w.status != want || want != http.StatusOK && !strings.Contains(w.body.String(), "for_s") {
				t.Errorf("%s: %d %s", body, w.status, w.body.String())
			}
		}
		r.wantUsed(tier.GiB)
	})
}

func TestHandler_OtherMethod_IsToldWhichIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		for _, c := range [][3]string{
			{"GET", "/v1/reservations", "POST"}, {"GET", "/v1/reservations/r-1", "DELETE"}, {"POST", "/status", "GET, HEAD"},
			{"PUT", "/", "POST"}, {"DELETE", "/v1/models", "GET, HEAD"},
		} {
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, httptest.NewRequest(c[0], c[1], nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != c[2] {
				t.Errorf("%s %s: %d, Allow %q", c[0], c[1], w.Code, w.Header().Get("Allow"))
			}
		}
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest("DELETE", "/v1/reservations/r-none", nil))
		if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "r-none") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
