package serve

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestListen_WithoutToken_LoopbackOnly(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.9.9.9:0"} {
		ln, err := listen(addr, "")
		if err != nil {
			if strings.Contains(err.Error(), "assign") { // not every system has all of 127/8
				continue
			}
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if !ln.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("%s listens on %v", addr, ln.Addr())
		}
		ln.Close()
	}
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "8.8.8.8:80"} {
		ln, err := listen(addr, "")
		if err == nil {
			ln.Close()
			t.Errorf("%s: was opened", addr)
		} else if !strings.Contains(err.Error(), tokenVariable) {
			t.Errorf("%s: %v does not say what to do", addr, err)
		}
	}
}

func TestRun_PublicAddressWithoutToken_EndsBeforeItMakesAnything(t *testing.T) {
	cache := t.TempDir()
	for _, name := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} {
		t.Setenv(name, cache)
	}
	err := run(t.Context(), t.Context(), nil, &options{demo: true, addr: "0.0.0.0:0", scale: 4096}, noEnv, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), tokenVariable) {
		t.Errorf("got %v", err)
	}
	if there, err := os.ReadDir(cache); err != nil || len(there) > 0 {
		t.Errorf("it made %v, %v", there, err)
	}
}

func TestListen_WithToken_Anywhere(t *testing.T) {
	ln, err := listen("0.0.0.0:0", "secret")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestRun_TokenOfTheEnvironment_IsNotLeftThereForEngines(t *testing.T) {
	t.Setenv(tokenVariable, "secret")
	if err := run(t.Context(), t.Context(), nil, &options{demo: true, addr: "nowhere", scale: 4096}, os.LookupEnv, io.Discard, io.Discard); err == nil {
		t.Fatal("it ran")
	}
	if _, left := os.LookupEnv(tokenVariable); left {
		t.Error("it is there")
	}
}

func TestListen_PortTaken_SaysWhatToDo(t *testing.T) {
	ln, err := listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := listen(ln.Addr().String(), ""); err == nil || !strings.Contains(err.Error(), "127.0.0.1:0") {
		t.Errorf("got %v", err)
	}
}

func TestListen_NoAddress_IsAnError(t *testing.T) {
	for _, addr := range []string{"8080", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:http:80"} {
		if ln, err := listen(addr, "secret"); err == nil {
			ln.Close()
			t.Errorf("%q was opened", addr)
		}
	}
}

func TestBearer_OnlyTheTokenComesIn(t *testing.T) {
	s := newSite(t, "the-secret")
	for _, c := range []struct {
		header string
		status int
	}{
		{"Bearer the-secret", 200},
		{"bearer the-secret", 200},
		{"", 401},
		{"the-secret", 401},
		{"Bearer", 401},
		{"Bearer ", 401},
		{"Bearer the-secre", 401},
		{"Bearer the-secretx", 401},
		{"Bearer the-SECRET", 401},
		{"Bearer  the-secret", 401},
		{"Basic the-secret", 401},
	} {
		for _, path := range []string{"/status", "/v1/models", "/v1/models/gpt2-small/digest"} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", c.header)
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%s with %q: %d, want %d", path, c.header, resp.StatusCode, c.status)
			}
			if want := c.status == 401; (resp.Header.Get("WWW-Authenticate") != "") != want {
				t.Errorf("%s with %q: WWW-Authenticate %q", path, c.header, resp.Header.Get("WWW-Authenticate"))
			}
		}
	}
	s.token = "wrong"
	if status, a := s.object(t, "POST", "/v1/chat/completions", "{}"); status != 401 || a["error"].(map[string]any)["code"] != "unauthorized" {
		t.Errorf("chat: %d %v", status, a)
	}
	if status, a := s.object(t, "POST", "/", `{"move_tier": {"model_name": "gpt2-small", "target_tier": "storage"}}`); status != 401 || a["code"] != "unauthorized" {
		t.Errorf("POST: %d %v", status, a)
	}
}

func TestBearer_OnlyProbesAreFree(t *testing.T) {
	h := bearer("secret", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/readyz/": 401, "/readyzz": 401, "/healthz/": 401, "//healthz": 401, "/healthz/../status": 401, "/healthz%2F..%2Fstatus": 401, "/HEALTHZ": 401, "/": 401,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func TestSame(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"secret", "secret", true}, {"secret", "secreT", false}, {"secret", "secre", false}, {"", "secret", false}, {"secret\x00", "secret", false},
	} {
		if same(c.a, c.b) != c.want || same(c.b, c.a) != c.want {
			t.Errorf("same(%q, %q) is not %v", c.a, c.b, c.want)
		}
	}
}

// Without a token, a page that can make the user's browser send a request could else
// use the server.
func TestLocal_WebPagesStayOut(t *testing.T) {
	h := local(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, c := range []struct {
		name, method, host string
		header             [2]string
		want               int
	}{
		{"curl", "POST", "127.0.0.1:8080", [2]string{}, 200},
		{"by name", "POST", "localhost:8080", [2]string{}, 200},
		{"by another name", "POST", "LOCALHOST", [2]string{}, 200},
		{"by IPv6", "GET", "[::1]:8080", [2]string{}, 200},
		{"page of another site", "POST", "127.0.0.1:8080", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"page of an old browser", "POST", "127.0.0.1:8080", [2]string{"Origin", "https://evil.example"}, 403},
		{"picture in a page of another site", "GET", "127.0.0.1:8080", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"picture in a page at another port", "GET", "localhost:8080", [2]string{"Sec-Fetch-Site", "same-site"}, 403},
		{"its head", "HEAD", "127.0.0.1:8080", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"script of an old browser", "GET", "127.0.0.1:8080", [2]string{"Origin", "https://evil.example"}, 403},
		{"address that the user typed", "GET", "127.0.0.1:8080", [2]string{"Sec-Fetch-Site", "none"}, 200},
		{"a page of the server's own", "GET", "127.0.0.1:8080", [2]string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"the same in an old browser", "GET", "127.0.0.1:8080", [2]string{"Origin", "http://127.0.0.1:8080"}, 200},
		{"name that resolves to us", "GET", "evil.example:8080", [2]string{}, 403},
		{"name that begins like ours", "GET", "localhost.evil.example", [2]string{}, 403},
		{"number that begins like ours", "GET", "127.0.0.1.evil.example:80", [2]string{}, 403},
		{"another address", "GET", "192.0.2.1:8080", [2]string{}, 403},
		{"nobody", "GET", "", [2]string{}, 403},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		r.Host = c.host
		if c.header[0] != "" {
			r.Header.Set(c.header[0], c.header[1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.name, w.Code, c.want)
		}
	}
	r := httptest.NewRequest("GET", "http://127.0.0.1:8080/healthz", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Errorf("whether it lives: %d", w.Code)
	}
}

// limited is a ResponseWriter that knows until when the body may come.
type limited struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (l *limited) SetReadDeadline(t time.Time) error { l.read = t; return nil }

// Who is turned away could else keep the connection by never ending the body.
func TestGuard_BodyOfWhoeverIsTurnedAway_HasToCome(t *testing.T) {
	for token, status := range map[string]int{"": http.StatusForbidden, "secret": http.StatusUnauthorized} {
		w := &limited{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("POST", "http://evil.example/", strings.NewReader("body"))
		guard(token, http.NotFoundHandler()).ServeHTTP(w, r)
		if left := time.Until(w.read); w.Code != status || left > time.Minute || w.read.IsZero() {
			t.Errorf("token %q: %d, the body may come for %v", token, w.Code, left)
		}
	}
}
