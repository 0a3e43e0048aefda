package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Scope is a set of things that a key is good for. No scope includes another.
type Scope uint8

const (
	// Use is asking models.
	Use Scope = 1 << iota
	// Manage is changing what is where: loads, unloads, limits, reservations.
	Manage
	// Watch is seeing how things stand: status and lists.
	Watch
)

// scopes are the words for the scopes, in the order in which they are told.
var scopes = []struct {
	scope Scope
	word  string
}{{Use, "use"}, {Manage, "manage"}, {Watch, "watch"}}

// ParseScope returns the scope of a word: use, manage or watch.
func ParseScope(word string) (Scope, error) {
	for _, s := range scopes {
		if s.word == word {
			return s.scope, nil
		}
	}
	return 0, fmt.Errorf("scope %q: must be use, manage or watch", word)
}

// String returns the words of a set, with commas.
func (s Scope) String() string {
	var words []string
	for _, known := range scopes {
		if s&known.scope != 0 {
			words = append(words, known.word)
		}
	}
	return strings.Join(words, ", ")
}

// Secret is what a client has to know. It shows itself to no printer, logger or encoder.
type Secret string

const hidden = "[secret]"

// Format implements fmt.Formatter.
func (Secret) Format(s fmt.State, _ rune) { io.WriteString(s, hidden) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// Key admits a client.
type Key struct {
	// Name is for logs and errors: at most 64 printable bytes, of one key only.
	Name string
	// Secret is of visible ASCII characters, without a space, and of one key only.
	Secret Secret
	// Scopes are what the key is good for, at least one.
	Scopes []Scope
	// Class is the priority class of the requests that come with the key; "" is the
	// default one. It is not interpreted here.
	Class string
}

// Caller is the holder of a key.
type Caller struct {
	Name   string // of the key
	Scopes Scope
	Class  string
}

// maxName bounds the name of a key, in bytes.
const maxName = 64

// keyring finds the Caller of a secret, in a time that tells nothing of the secrets.
type keyring struct {
	digests [][sha256.Size]byte
	callers []*Caller
}

// newKeyring checks all the keys and reports every fault. No fault shows a secret.
func newKeyring(keys []Key) (*keyring, error) {
	ring := &keyring{}
	var faults []error
	names, secrets := map[string]int{}, map[Secret]int{}
	for i, k := range keys {
		secrets[k.Secret] = i
	}
	for i, k := range keys {
		fault := func(format string, a ...any) {
			faults = append(faults, fmt.Errorf("keys[%d].%s", i, fmt.Sprintf(format, a...)))
		}
		first, twice := names[k.Name]
		switch _, secret := secrets[Secret(k.Name)]; {
		case k.Name == "" || len(k.Name) > maxName || !printable(k.Name):
			fault("name: must be 1 to %d printable bytes: it is written to logs", maxName)
		case secret:
			fault("name: is the secret of a key: names are written to logs; choose another name")
		case twice:
			fault("name: is the name of keys[%d] already; each key needs a name of its own", first)
		}
		if !twice {
			names[k.Name] = i
		}
		switch at := strings.IndexFunc(string(k.Secret), func(c rune) bool { return c <= ' ' || c > '~' }); {
		case k.Secret == "":
			fault("secret: is empty: anyone would have it; give 16 random characters or more")
		case at >= 0:
			fault("secret: the character at byte %d is a space, a line break or no ASCII: not every header carries it; use visible ASCII characters", at)
		case secrets[k.Secret] != i:
			fault("secret: is that of keys[%d] as well; it could not be told whose request it is", secrets[k.Secret])
		}
		var set Scope
		for _, s := range k.Scopes {
			set |= s
		}
		if set == 0 || set&^(Use|Manage|Watch) != 0 {
			fault("scopes: must be one or more of use, manage, watch")
		}
		ring.digests = append(ring.digests, sha256.Sum256([]byte(k.Secret)))
		ring.callers = append(ring.callers, &Caller{Name: k.Name, Scopes: set, Class: k.Class})
	}
	return ring, errors.Join(faults...)
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// find returns the Caller of a secret, or nil. It compares digests, which hides the length
// of the secrets, and all of them, which hides the order.
func (k *keyring) find(secret string) *Caller {
	if secret == "" {
		return nil
	}
	digest, found := sha256.Sum256([]byte(secret)), -1
	for i := range k.digests {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(k.digests[i][:], digest[:]), i, found)
	}
	if found < 0 {
		return nil
	}
	return k.callers[found]
}

// offer is what a request says to be admitted.
type offer struct {
	secrets [2]string // of Authorization and X-Api-Key; "" is none
	// basic reports that the first came as a password, which a browser adds by itself to
	// all requests once its user has typed it.
	basic bool
}

// take returns what a request offers, and removes it from the request. Of a header that
// is there twice it takes none: whatever checks it before us may go by the other one.
func take(h http.Header) (o offer) {
	if v := h["Authorization"]; len(v) == 1 {
		o.secrets[0], o.basic = parseAuthorization(v[0])
	}
	if v := h["X-Api-Key"]; len(v) == 1 {
		o.secrets[1] = v[0]
	}
	delete(h, "Authorization")
	delete(h, "X-Api-Key")
	return o
}

// parseAuthorization returns the secret of a header Authorization, of the schemes Bearer
// (RFC 6750) and Basic (RFC 7617: the password, of whatever user).
func parseAuthorization(value string) (secret string, basic bool) {
	scheme, rest, _ := strings.Cut(value, " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return rest, false
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return "", true
		}
		_, password, _ := strings.Cut(string(pair), ":")
		return password, true
	}
	return "", false
}
