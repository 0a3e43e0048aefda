package access

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/cors"
)

// Options say who may.
type Options struct {
	// Keys are the keys that admit; without any, all that is on this machine and no web
	// page may do everything.
	Keys []Key
	// Origins are those of the web pages that may ask: "https://app.example",
	// "https://*.app.example", "http://localhost:*", "chrome-extension://*". With keys
	// localhost at any port needs no mention, and "*" is every page. Without keys a page
	// that is named may do everything, and "*" is refused.
	Origins []string
	// Hosts are names and addresses, besides those of the loopback interface, that
	// requests may be for if there are no keys: that of a proxy that passes its own on, or
	// host.docker.internal.
	Hosts []string
	// Loopback says that nothing but this machine reaches the listeners (see Local).
	// There have to be keys if it does not hold.
	Loopback bool
	// ScopeOf returns what a request needs: one scope, or several of which any will do. 0,
	// which is what a table returns for what it does not list, is Manage. It is called
	// concurrently, for requests that no key is in any more.
	ScopeOf func(*http.Request) Scope
	// Deny answers a request that is not admitted, in the shape of the face that its path
	// belongs to. Some headers of the answer may be set already.
	Deny func(w http.ResponseWriter, r *http.Request, status int, code, reason string, suggestions ...string)
}

// Guard admits requests to a handler. Its methods may be called concurrently.
type Guard struct{ rules atomic.Pointer[rules] }

// rules are Options that were understood.
type rules struct {
	Options
	keys  *keyring
	hosts map[string]bool
	pages origins
	cors  *cors.Cors
	// foreign finds requests of web pages that are not our own.
	foreign *http.CrossOriginProtection
}

// New returns a Guard, or an error with every fault of the options.
func New(o Options) (*Guard, error) {
	g := &Guard{}
	if err := g.Set(o); err != nil {
		return nil, err
	}
	return g, nil
}

// Set puts other options in force for the requests that begin from now on. If they have
// faults nothing changes, and the error has every one.
func (g *Guard) Set(o Options) error {
	keys, err := newKeyring(o.Keys)
	hosts, err2 := newHosts(o.Hosts)
	pages, err3 := newOrigins(o.Origins, len(o.Keys) > 0)
	var err4 error
	if len(o.Keys) == 0 && !o.Loopback {
		err4 = errors.New("keys: there is none, and other machines reach the listener: anyone there could load and unload models; give a key")
	}
	if o.ScopeOf == nil || o.Deny == nil {
		return errors.New("ScopeOf, Deny: must be given")
	}
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return err
	}
	o.Keys = nil // the digests do
	g.rules.Store(&rules{Options: o, keys: keys, hosts: hosts, pages: pages, cors: newCORS(pages), foreign: http.NewCrossOriginProtection()})
	return nil
}

// Handler returns next behind the Guard. /healthz, /readyz and /health are for everyone:
// they have to tell no more than whether the server takes requests. A preflight is
// answered here, without a key. Requests reach next without the headers Authorization and
// X-Api-Key and without what looks like a key in their URL.
//
// Who reads a body has to set a read deadline of its own and to take it away afterwards.
// A body that is not read has 10 s to arrive, because the server reads it to the end before
// it takes the next request of the connection.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Not every ResponseWriter has a deadline to set; then there is no connection.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
		}
		offered := take(r.Header)
		inURL := cleanURL(r)
		rules := g.rules.Load()
		rules.cors.ServeHTTP(w, r, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case isProbe(r):
				next.ServeHTTP(w, r)
			case len(rules.keys.callers) == 0:
				rules.admitLocal(w, r, next)
			default:
				rules.admitKey(w, r, offered, inURL, next)
			}
		})
	})
}

// bodyTime is how long a body that has no reader may take to arrive.
const bodyTime = 10 * time.Second

func isProbe(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	return r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || r.URL.Path == "/health"
}

// callerKey is the key of a Caller in the context of its request.
type callerKey struct{}

// From returns whose key the request of a context came with. There is none if no key is
// needed.
func From(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(*Caller)
	if !ok {
		return Caller{}, false
	}
	return *c, true
}

const (
	codeUnauthorized = "unauthorized"
	codeForbidden    = "forbidden"
)

func (s *rules) admitKey(w http.ResponseWriter, r *http.Request, offered offer, inURL bool, next http.Handler) {
	// Both are looked for: a client may hold a key of another service in one of them.
	first, second := s.keys.find(offered.secrets[0]), s.keys.find(offered.secrets[1])
	caller := first
	if caller == nil {
		caller = second
	}
	if caller == nil {
		challenge(w.Header(), r.Header)
		reason := "The key is missing or wrong"
		if inURL {
			reason = "A key is not taken from the URL, which others log"
		}
		s.Deny(w, r, http.StatusUnauthorized, codeUnauthorized, reason, "Send the header Authorization: Bearer KEY, or x-api-key: KEY.")
		return
	}
	if second == nil && offered.basic && s.isForeign(r) {
		s.Deny(w, r, http.StatusForbidden, codeForbidden, "A password that the browser adds by itself does not admit the pages of other sites",
			"Have the page send the header Authorization: Bearer KEY, or add its origin to the allowed origins.")
		return
	}
	want := s.ScopeOf(r)
	if want == 0 {
		want = Manage
	}
	if caller.Scopes&want == 0 {
		s.Deny(w, r, http.StatusForbidden, codeForbidden, "The key '"+caller.Name+"' has not the scope "+strings.ReplaceAll(want.String(), ", ", " or "),
			"Use a key that has it, or add it to the scopes of this one.")
		return
	}
	next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
}

// challenge asks for a key. A password is asked for only where the user looks at what was
// requested: else any page could have the browser ask for it, and a page of ours that sends
// requests could not ask for the key itself.
func challenge(answer, request http.Header) {
	answer.Add("WWW-Authenticate", `Bearer realm="modeltier"`)
	if to := request.Get("Sec-Fetch-Dest"); to == "" || to == "document" {
		answer.Add("WWW-Authenticate", `Basic realm="modeltier", charset="UTF-8"`)
	}
}

// admitLocal keeps web pages out of a server that trusts its own machine: one that sends
// its visitor's browser here says in the request where it comes from, and one whose name
// was made to resolve to this machine asks for a host of that name. That is so for a GET as
// well: what a page shows as a picture can have models give way to another.
func (s *rules) admitLocal(w http.ResponseWriter, r *http.Request, next http.Handler) {
	switch {
	case !s.isOurs(r):
		s.Deny(w, r, http.StatusForbidden, codeForbidden, "Without keys the server answers for localhost and loopback addresses only, and this request is for another host",
			"Ask for localhost, add the host to the allowed hosts, or configure a key.")
	case s.isForeign(r):
		s.Deny(w, r, http.StatusForbidden, codeForbidden, "A web page may not send requests here",
			"Add the page's origin to the allowed origins, or configure a key that the page sends.")
	default:
		next.ServeHTTP(w, r)
	}
}

// isOurs reports whether the host of a request is one that this server answers for without
// a key. No web page reaches a Unix socket.
func (s *rules) isOurs(r *http.Request) bool {
	host := hostOf(r.Host)
	if isLoopback(host) || s.hosts[host] {
		return true
	}
	_, ok := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
	return ok
}

// isForeign reports whether a request is that of a web page that is neither our own nor of
// a named origin.
func (s *rules) isForeign(r *http.Request) bool {
	if s.pages.named(r.Header.Get("Origin")) {
		return false
	}
	// A GET would be let by unseen.
	return s.foreign.Check(&http.Request{Method: http.MethodPost, Host: r.Host, URL: r.URL, Header: r.Header}) != nil
}

// cleanURL removes from a URL what a client may have put there as its key, and reports
// whether there was any: URLs are logged, here and by engines.
func cleanURL(r *http.Request) (found bool) {
	if r.URL.User != nil {
		r.URL.User, found = nil, true
	}
	if q := r.URL.RawQuery; q != "" {
		var kept []string
		for part := range strings.SplitSeq(q, "&") {
			if !isKeyParameter(part) {
				kept = append(kept, part)
			}
		}
		if clean := strings.Join(kept, "&"); len(clean) < len(q) {
			r.URL.RawQuery, found = clean, true
		}
	}
	if found {
		r.RequestURI = r.URL.RequestURI()
	}
	return found
}

// isKeyParameter reports whether a part of a query, name=value, is a key to those who put
// one there. A ";" parts as well for some readers, and could hide one.
func isKeyParameter(part string) bool {
	for p := range strings.SplitSeq(part, ";") {
		name, _, _ := strings.Cut(p, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		switch strings.ToLower(name) {
		case "key", "api_key", "api-key", "apikey", "x-api-key", "access_token":
			return true
		}
	}
	return false
}
