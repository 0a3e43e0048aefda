package access

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answered is what a handler behind a Guard saw of a request.
type answered struct {
	caller Caller
	known  bool
	header http.Header
	uri    string
	url    string
}

// site is a Guard before a handler that answers 200.
type site struct {
	*Guard
	handler http.Handler
	seen    *answered // nil: the request was not admitted
	denied  []string  // all that Deny was given
}

func newSite(t *testing.T, o Options) *site {
	t.Helper()
	s := &site{}
	g, err := New(s.with(o))
	if err != nil {
		t.Fatal(err)
	}
	s.Guard = g
	s.handler = g.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.seen = &answered{header: r.Header, uri: r.RequestURI, url: r.URL.String()}
		s.seen.caller, s.seen.known = From(r.Context())
	}))
	return s
}

// with fills in what a gateway gives: /status is to watch, /v1/models to use or to watch,
// /load to manage, /unlisted is in no table, and the rest is to use.
func (s *site) with(o Options) Options {
	o.ScopeOf = func(r *http.Request) Scope {
		switch r.URL.Path {
		case "/status":
			return Watch
		case "/v1/models":
			return Use | Watch
		case "/load":
			return Manage
		case "/unlisted":
			return 0
		}
		return Use
	}
	o.Deny = func(w http.ResponseWriter, r *http.Request, status int, code, reason string, suggestions ...string) {
		s.denied = append(s.denied, fmt.Sprint(code, reason, suggestions, r.URL, r.RequestURI, r.Header))
		http.Error(w, code+": "+reason, status)
	}
	return o
}

// ask sends a request with headers, each "Name: value".
func (s *site) ask(method, url string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	s.seen = nil
	s.handler.ServeHTTP(w, r)
	return w
}

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// All is every scope there is.
var all = []Scope{Use, Manage, Watch}

// three are keys of three people.
var three = []Key{
	{Name: "chat", Secret: "secret-of-chat", Scopes: []Scope{Use}, Class: "interactive"},
	{Name: "graphs", Secret: "secret-of-graphs", Scopes: []Scope{Watch}},
	{Name: "owner", Secret: "secret:of-owner", Scopes: all, Class: "batch"},
}
