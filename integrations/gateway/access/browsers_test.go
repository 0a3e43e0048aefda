package access

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// Without a key, a page that can make the user's browser send a request could else use
// the server.
func TestGuard_WithoutKeys_WebPagesStayOut(t *testing.T) {
	s := newSite(t, Options{Loopback: true})
	for _, c := range []struct {
		name, method string
		headers      []string
		want         int
	}{
		{"curl", "POST", []string{"Host: 127.0.0.1:8080"}, 200},
		{"by name", "POST", []string{"Host: localhost:8080"}, 200},
		{"in upper case", "POST", []string{"Host: LOCALHOST"}, 200},
		{"by the full name", "POST", []string{"Host: localhost.:8080"}, 200},
		{"by IPv6", "GET", []string{"Host: [::1]:8080"}, 200},
		{"by IPv6 without a port", "GET", []string{"Host: [::1]"}, 200},
		{"by IPv6 in full", "GET", []string{"Host: [0:0:0:0:0:0:0:1]:80"}, 200},
		{"by IPv4 in IPv6", "GET", []string{"Host: [::ffff:127.0.0.1]:80"}, 200},
		{"page of another site", "POST", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"page of an old browser", "POST", []string{"Origin: https://evil.example"}, 403},
		{"picture in a page of another site", "GET", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"picture in a page at another port", "GET", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"script of a page at another port", "POST", []string{"Sec-Fetch-Site: same-site", "Origin: http://localhost:3000"}, 403},
		{"its head", "HEAD", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"script of an old browser", "GET", []string{"Origin: https://evil.example"}, 403},
		{"page of a file, or in a sandbox", "POST", []string{"Origin: null"}, 403},
		{"address that the user typed", "GET", []string{"Sec-Fetch-Site: none"}, 200},
		{"a page of the server's own", "GET", []string{"Sec-Fetch-Site: same-origin"}, 200},
		{"the same in an old browser", "GET", []string{"Host: 127.0.0.1:8080", "Origin: http://127.0.0.1:8080"}, 200},
		{"name that resolves to us", "GET", []string{"Host: evil.example:8080"}, 403},
		{"a page of that name", "GET", []string{"Host: evil.example:8080", "Origin: http://evil.example:8080", "Sec-Fetch-Site: same-origin"}, 403},
		{"name that begins like ours", "GET", []string{"Host: localhost.evil.example"}, 403},
		{"name that ends like ours", "GET", []string{"Host: evil-localhost"}, 403},
		{"number that begins like ours", "GET", []string{"Host: 127.0.0.1.evil.example:80"}, 403},
		{"user that is called like us", "GET", []string{"Host: localhost@evil.example"}, 403},
		{"two ports", "GET", []string{"Host: localhost:80:80"}, 403},
		{"another address", "GET", []string{"Host: 192.0.2.1:8080"}, 403},
		{"every address", "GET", []string{"Host: 0.0.0.0:8080"}, 403},
		{"another IPv6", "GET", []string{"Host: [fe80::1%25lo]:8080"}, 403},
		{"none", "GET", []string{"Host: "}, 403},
		{"docker's name for the host", "GET", []string{"Host: host.docker.internal:8080"}, 403},
	} {
		if w := s.ask(c.method, "http://127.0.0.1:8080/v1/models", c.headers...); w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.name, w.Code, c.want)
		}
		if w := s.ask(c.method, "http://127.0.0.1:8080/v1/models", c.headers...); w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: its script may read the answer", c.name)
		}
	}
}

func TestGuard_NamedHosts(t *testing.T) {
	s := newSite(t, Options{Loopback: true, Hosts: []string{"host.docker.internal", "NAS", "192.0.2.1", "[2001:db8::1]"}})
	for host, want := range map[string]int{
		"host.docker.internal:8080": 200, "HOST.Docker.Internal": 200, "nas.:80": 200, "192.0.2.1:8080": 200, "[2001:DB8:0::1]:8080": 200, "localhost": 200,
		"docker.internal": 403, "x.nas": 403, "192.0.2.2": 403,
	} {
		if w := s.ask("GET", "/v1/models", "Host: "+host); w.Code != want {
			t.Errorf("%s: %d, want %d", host, w.Code, want)
		}
	}
	if w := s.ask("GET", "/v1/models", "Host: nas", "Sec-Fetch-Site: cross-site"); w.Code != 403 {
		t.Errorf("a page that knows the host: %d", w.Code)
	}
	// curl names no host that a socket in the file system would have.
	r := httptest.NewRequest("GET", "http://engine-room/v1/models", nil)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/run/m"})))
	if w.Code != 200 {
		t.Errorf("on a Unix socket: %d", w.Code)
	}
	if w := newSite(t, Options{Keys: three}).ask("GET", "http://any.example/v1/models", "x-api-key: secret-of-chat"); w.Code != 200 {
		t.Errorf("with a key: %d", w.Code)
	}
}

func TestNew_FaultyHostsAndOrigins_AreNamed(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want []string
	}{
		{Options{Loopback: true, Hosts: []string{"ok", "http://nas", "*", "", "a/b", "a b", "nas:80"}}, []string{"hosts[1]", "hosts[2]", "hosts[3]", "hosts[4]", "hosts[5]", "hosts[6]"}},
		{Options{Loopback: true, Origins: []string{"*", "http://*", "https://*:*"}}, []string{"origins[0]", "origins[1]", "origins[2]", "without a key every web page"}},
		{Options{Keys: three, Origins: []string{"app.example", "https://app.example/", "https://", "null", "", "https://a*.example", "https://a.*.example", "https://*.*.example",
			"https://a.example:http", "https://a.example:", "https://a b", "https://u@a.example", "https://a,https://b", "https://::1"}},
			[]string{"origins[0]", "origins[1]", "origins[2]", "origins[3]", "origins[4]", "origins[5]", "origins[6]", "origins[7]", "origins[8]", "origins[9]", "origins[10]", "origins[11]", "origins[12]", "origins[13]", "without a path"}},
	} {
		_, err := New((&site{}).with(c.o))
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %s", err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), `"ok"`) {
			t.Errorf("what is right is told: %v", err)
		}
	}
	if _, err := New((&site{}).with(Options{Keys: three, Origins: []string{"*", "http://*", "https://*:*", "https://*.a.example", "http://[::1]:*", "chrome-extension://*"}})); err != nil {
		t.Errorf("with keys: %v", err)
	}
}

func TestGuard_Origins_WhoseScriptsMayReadAnswers(t *testing.T) {
	named := []string{"https://app.example", "https://*.team.example", "http://lan.example:*", "chrome-extension://*", "https://default.example:443"}
	keyed := newSite(t, Options{Keys: three, Origins: named})
	open := newSite(t, Options{Loopback: true, Origins: named})
	every := newSite(t, Options{Keys: three, Origins: []string{"*"}})
	const yes, no = true, false
	for _, c := range []struct {
		origin             string
		keyed, open, every bool
	}{
		{"https://app.example", yes, yes, yes},
		{"HTTPS://APP.example", yes, yes, yes},
		{"https://app.example:8443", no, no, yes},
		{"http://app.example", no, no, yes},
		{"https://app.example.evil.example", no, no, yes},
		{"https://evil-app.example", no, no, yes},
		{"https://a.team.example", yes, yes, yes},
		{"https://a.b.team.example", yes, yes, yes},
		{"https://team.example", no, no, yes},
		{"https://.team.example", no, no, yes},
		{"https://evilteam.example", no, no, yes},
		{"http://lan.example:1234", yes, yes, yes},
		{"http://lan.example", yes, yes, yes},
		{"chrome-extension://abcdef", yes, yes, yes},
		{"moz-extension://abcdef", no, no, yes},
		{"https://default.example", yes, yes, yes},
		{"https://evil.example", no, no, yes},
		{"null", no, no, yes},
		{"http://localhost:3000", yes, no, yes},
		{"https://localhost", yes, no, yes},
		{"http://127.0.0.1:5173", yes, no, yes},
		{"http://[::1]:5173", yes, no, yes},
		{"http://localhost.evil.example", no, no, yes},
		{"ftp://localhost", no, no, yes},
		{"", no, no, no},
	} {
		for name, at := range map[string]struct {
			*site
			want bool
		}{"with keys": {keyed, c.keyed}, "without": {open, c.open}, "all": {every, c.every}} {
			headers := []string{"Origin: " + c.origin, "Sec-Fetch-Site: cross-site"}
			w := at.ask("GET", "http://localhost/v1/models", append(headers, "x-api-key: secret-of-chat")...)
			allow, vary := w.Header()["Access-Control-Allow-Origin"], w.Header()["Vary"]
			if (len(allow) == 1 && allow[0] == c.origin) != at.want || !slices.Contains(vary, "Origin") {
				t.Errorf("%s: %q: allowed %q, Vary %q", name, c.origin, allow, vary)
			}
			if admitted := w.Code == 200; admitted != (at.want || at.keys()) {
				t.Errorf("%s: %q: %d", name, c.origin, w.Code)
			}
			if at.want && w.Header().Get("Access-Control-Expose-Headers") != "X-Model, X-Request-Id, X-Should-Retry, Retry-After" {
				t.Errorf("%s: exposed %q", name, w.Header().Get("Access-Control-Expose-Headers"))
			}
			if w.Header().Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: %q: the browser's own credentials may be sent", name, c.origin)
			}
		}
	}
}

func (s *site) keys() bool { return len(s.rules.Load().keys.callers) > 0 }

func TestGuard_Preflight_NeedsNoKeyAndGoesNoFurther(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	w := s.ask("OPTIONS", "http://any.host/v1/chat/completions", "Origin: http://localhost:3000", "Access-Control-Request-Method: POST",
		"Access-Control-Request-Headers: authorization,content-type,x-api-key,x-stainless-lang", "Access-Control-Request-Private-Network: true")
	h := w.Header()
	if w.Code != 204 || s.seen != nil || h.Get("Access-Control-Allow-Origin") != "http://localhost:3000" || h.Get("Access-Control-Allow-Methods") != "POST" ||
		h.Get("Access-Control-Allow-Headers") != "authorization,content-type,x-api-key,x-stainless-lang" || h.Get("Access-Control-Max-Age") != "600" ||
		h.Get("Access-Control-Allow-Private-Network") != "true" {
		t.Errorf("%d %v", w.Code, h)
	}
	if v := h.Get("Vary"); !strings.Contains(v, "Origin") || !strings.Contains(v, "Access-Control-Request-Headers") {
		t.Errorf("Vary: %s", v)
	}
	w = s.ask("OPTIONS", "http://any.host/v1/chat/completions", "Origin: https://evil.example", "Access-Control-Request-Method: POST")
	if s.seen != nil || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("of another page: %d %v", w.Code, w.Header())
	}
	if w := s.ask("OPTIONS", "http://any.host/v1/chat/completions", "Origin: http://localhost:3000"); w.Code != 401 {
		t.Errorf("what is no preflight: %d", w.Code)
	}
}

func TestGuard_Errors_CanBeReadByThePage(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	for path, key := range map[string]string{"/v1/models": "wrong", "/load": "secret-of-chat"} {
		w := s.ask("POST", "http://any.host"+path, "Origin: http://localhost:3000", "x-api-key: "+key)
		if w.Code < 400 || w.Header().Get("Access-Control-Allow-Origin") != "http://localhost:3000" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
}

// The browser adds a password that its user once typed to whatever any page requests.
func TestGuard_Password_DoesNotAdmitPagesOfOtherSites(t *testing.T) {
	s := newSite(t, Options{Keys: three, Origins: []string{"https://app.example"}})
	every := newSite(t, Options{Keys: three, Origins: []string{"*"}})
	for _, c := range []struct {
		site    *site
		headers []string
		want    int
	}{
		{s, []string{}, 200},
		{s, []string{"Sec-Fetch-Site: same-origin"}, 200},
		{s, []string{"Sec-Fetch-Site: none"}, 200},
		{s, []string{"Sec-Fetch-Site: cross-site"}, 403},
		{s, []string{"Sec-Fetch-Site: same-site", "Origin: http://localhost:3000"}, 403},
		{s, []string{"Origin: https://evil.example"}, 403},
		{s, []string{"Sec-Fetch-Site: cross-site", "Origin: https://app.example"}, 200},
		{s, []string{"Sec-Fetch-Site: cross-site", "x-api-key: secret-of-chat"}, 200},
		{every, []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, 403},
	} {
		if w := c.site.ask("POST", "http://any.host/v1/chat/completions", append(c.headers, basic("u", "secret-of-chat"))...); w.Code != c.want {
			t.Errorf("%q: %d, want %d", c.headers, w.Code, c.want)
		}
	}
	if w := s.ask("POST", "http://any.host/v1/chat/completions", "Authorization: Bearer secret-of-chat", "Sec-Fetch-Site: cross-site"); w.Code != 200 {
		t.Errorf("with a header of its own: %d", w.Code)
	}
}

func TestGuard_NoKey_APasswordIsAskedForInTheOpenOnly(t *testing.T) {
	s := newSite(t, Options{Keys: three})
	for to, want := range map[string]int{"": 2, "document": 2, "image": 1, "empty": 1, "iframe": 1} {
		w := s.ask("GET", "http://any.host/v1/models", "Sec-Fetch-Dest: "+to)
		if a := w.Header()["Www-Authenticate"]; len(a) != want {
			t.Errorf("%q: %q", to, a)
		}
	}
}

func FuzzHostAndOrigin(f *testing.F) {
	for _, s := range []string{"", "localhost", "[::1]:80", "127.0.0.1", "http://localhost:3000", "https://*.a.example", "null", "[", "]:", "http://[::1", "a://b:c", "http://[::1]x:80", "http://:80", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if host := hostOf(s); isLoopback(host) && host != "localhost" && strings.Trim(host, "0123456789abcdef.:%") != "" && !strings.Contains(host, "%") {
			t.Errorf("%q is loopback", s)
		}
		// What is named admits itself, and nothing that is no origin is allowed.
		o, err := newOrigins([]string{s}, false)
		if err != nil || strings.Contains(s, "*") {
			return
		}
		if !o.named(s) {
			t.Errorf("%q is not itself", s)
		}
		if o.named(s+".evil.example") || o.named("null") || o.named("") {
			t.Errorf("%q admits others", s)
		}
	})
}
