package access

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/rs/cors"
)

// exposed are the headers of an answer that scripts of other origins may read.
var exposed = []string{"X-Model", "X-Request-Id", "X-Should-Retry", "Retry-After"}

// preflightAge is how long a browser may remember the answer to a preflight, in seconds,
// also after a change of the origins.
const preflightAge = 600

// newCORS lets the scripts of pages read answers. The browser's own credentials are not
// among what a page may send: the page has to know the key.
func newCORS(pages origins) *cors.Cors {
	return cors.New(cors.Options{
		AllowOriginFunc:     pages.allowed,
		AllowedMethods:      []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders:      []string{"*"},
		ExposedHeaders:      exposed,
		MaxAge:              preflightAge,
		AllowPrivateNetwork: true, // who allows an origin means it
	})
}

// origins are the web pages that may ask.
//
// With keys, localhost is allowed at any port: a page has to send a key that a person gave
// it, and the origin admits nothing. Without keys it is not, unlike in Ollama: the origin
// says only that some port of this machine shows the page, which is also that of another
// user, of a container, of a site that ssh or an editor forwards here, or of a development
// server that shows what others wrote; and all of them could then load, unload and remove
// models. An operator who wants it names it: "http://localhost:3000".
type origins struct {
	patterns []origin
	all      bool
	keys     bool
}

// origin is one of them, in lower case. host begins with "*." if every name below it is
// meant, and may be "*"; port may be "*", and is "" for that of the scheme.
type origin struct{ scheme, host, port string }

func newOrigins(list []string, keys bool) (origins, error) {
	o := origins{keys: keys}
	var faults []error
	for i, s := range list {
		if err := CheckOrigin(s, keys); err != nil {
			faults = append(faults, fmt.Errorf("origins[%d] %q: %w", i, s, err))
		} else if s == "*" {
			o.all = true
		} else {
			p, _ := parseOrigin(s)
			o.patterns = append(o.patterns, p)
		}
	}
	return o, errors.Join(faults...)
}

// CheckOrigin returns what is wrong with one of Options.Origins; keys says whether there
// are keys.
func CheckOrigin(s string, keys bool) error {
	p, ok := parseOrigin(s)
	every := s == "*" || ok && p.host == "*" && (p.scheme == "http" || p.scheme == "https")
	stars := strings.Count(strings.TrimPrefix(p.host, "*"), "*") // only as the first label
	switch {
	case every && !keys:
		return errors.New("without a key every web page could load and unload models; name the pages, or configure a key")
	case s != "*" && (!ok || stars > 0 || strings.HasPrefix(p.host, "*") && p.host != "*" && !strings.HasPrefix(p.host, "*.")):
		return errors.New("must be SCHEME://HOST or SCHEME://HOST:PORT, without a path; HOST may begin with \"*.\", and PORT may be \"*\"")
	}
	return nil
}

// parseOrigin returns the parts of an origin, as browsers write them (RFC 6454, section
// 6.2), or of a pattern.
func parseOrigin(s string) (origin, bool) {
	scheme, host, ok := strings.Cut(strings.ToLower(s), "://")
	if !ok || scheme == "" || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) || strings.ContainsAny(host, `/\?#@,`) {
		return origin{}, false
	}
	port := ""
	if at := strings.LastIndexByte(host, ':'); at > strings.LastIndexByte(host, ']') {
		host, port = host[:at], host[at+1:]
		if port != "*" && (port == "" || strings.Trim(port, "0123456789") != "") {
			return origin{}, false
		}
	}
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		port = ""
	}
	return origin{scheme, host, port}, host != "" && (host[0] == '[' || !strings.Contains(host, ":"))
}

// named reports whether an origin is one of those that were named one by one.
func (o *origins) named(s string) bool {
	if s == "" || len(o.patterns) == 0 {
		return false
	}
	at, ok := parseOrigin(s)
	if !ok {
		return false
	}
	for _, p := range o.patterns {
		host := p.host == at.host || p.host == "*" || p.host[0] == '*' && strings.HasSuffix(at.host, p.host[1:]) && len(at.host) >= len(p.host)
		if host && p.scheme == at.scheme && (p.port == at.port || p.port == "*") {
			return true
		}
	}
	return false
}

// allowed reports whether the scripts of an origin may read answers.
func (o *origins) allowed(s string) bool {
	if s == "" {
		return false
	}
	if o.all || o.named(s) {
		return true
	}
	at, ok := parseOrigin(s)
	return ok && o.keys && (at.scheme == "http" || at.scheme == "https") && isLoopback(strings.Trim(at.host, "[]"))
}

// newHosts returns the hosts that requests may be for, as hostOf returns them.
func newHosts(list []string) (map[string]bool, error) {
	hosts := map[string]bool{}
	var faults []error
	for i, s := range list {
		if err := CheckHost(s); err != nil {
			faults = append(faults, fmt.Errorf("hosts[%d] %q: %w", i, s, err))
			continue
		}
		hosts[hostOf(s)] = true
	}
	return hosts, errors.Join(faults...)
}

// CheckHost returns what is wrong with one of Options.Hosts.
func CheckHost(s string) error {
	host := hostOf(s)
	_, err := netip.ParseAddr(host)
	if host == "" || err != nil && strings.ContainsFunc(strings.ToLower(s), func(c rune) bool { return !isNameByte(c) }) {
		return errors.New("must be the name or the address of a host, without a scheme, a port, a path or \"*\"")
	}
	return nil
}

func isNameByte(c rune) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_'
}

// hostOf returns the name, in lower case and without the dot that ends a full one, or the
// address of a Host header.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// isLoopback reports whether a host, as hostOf returns it, is this machine's loopback.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
