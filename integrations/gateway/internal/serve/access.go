package serve

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// listen opens the address. Without a token only the loopback interface is
// allowed; that is judged by the very address that is then opened, so that no
// name can lead elsewhere in between.
func listen(addr, token string) (net.Listener, error) {
	to, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("-addr %q: %w", addr, err)
	}
	if token == "" && !to.IP.IsLoopback() { // no IP is every interface
		return nil, fmt.Errorf("-addr %q can be reached from other machines, and anyone there could load and unload models: "+
			"give a token with %s or -token, or listen on 127.0.0.1", addr, tokenVariable)
	}
	ln, err := net.ListenTCP("tcp", to)
	if err != nil {
		return nil, fmt.Errorf("%w (-addr 127.0.0.1:0 takes any free port)", err)
	}
	return ln, nil
}

// guard keeps out who may not use the server, and has no patience with the bodies
// of those either.
func guard(token string, next http.Handler) http.Handler {
	if token == "" {
		return impatient(local(next))
	}
	return impatient(bearer(token, next))
}

// impatient bounds how long a body may take to come that its request has no use
// for: the server reads it to the end before it takes the next request. One that
// is read sets a bound of its own.
func impatient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Not every ResponseWriter has a deadline to set; then there is no connection.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second))
		}
		next.ServeHTTP(w, r)
	})
}

// isProbe reports whether a path is one that supervisors and load balancers ask, without
// a token. The answer tells no more than whether the server takes requests.
func isProbe(path string) bool { return path == "/healthz" || path == "/readyz" }

// bearer wants the token on every path but those of probes.
func bearer(token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "Bearer") && same(given, token) || isProbe(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		deny(w, r, http.StatusUnauthorized, "unauthorized", "The token is missing or wrong", "Send the header Authorization: Bearer TOKEN.")
	})
}

// deny answers as the clients of the path read errors: OpenAI's, or the contract's.
func deny(w http.ResponseWriter, r *http.Request, status int, code, reason, suggestion string) {
	room.WriteProblem(w, gateway.FaceOf(r.URL.Path), &room.Problem{Status: status, Code: code, Message: reason, Suggestions: []string{suggestion}})
}

// same compares in a time that tells nothing of where the two differ, nor of how
// long they are.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// local keeps web pages out of a server that trusts its own machine: one that
// sends its visitor's browser here says in the request where it comes from, and
// one whose name was made to resolve to this machine asks for a host of that
// name. That is so for a GET as well: what a page shows as a picture can be the
// digest of a model, which others make room for.
func local(next http.Handler) http.Handler {
	pages := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.Host) {
			deny(w, r, http.StatusForbidden, "forbidden", "Without a token the server answers to localhost and loopback addresses only", "Ask for localhost, or start the server with a token.")
			return
		}
		changing := r.WithContext(r.Context()) // a copy
		changing.Method = http.MethodPost      // a GET would be let by unseen
		if !isProbe(r.URL.Path) && pages.Check(changing) != nil {
			deny(w, r, http.StatusForbidden, "forbidden", "A web page may not send requests here", "Start the server with a token, and have the page's own server ask.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback reports whether the host of a request names this machine's loopback.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}
