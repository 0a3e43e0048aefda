package gateway

import (
	"net"
	"net/http"
	"strings"

	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// ScopeOf says which scope a request to the handler of New needs: it is for
// access.Options. Asking a model is access.Use, also by a path that is not there, as long as
// it could be one of a face; lists are for access.Use and access.Watch; /status is for
// access.Watch. All else is access.Manage, the whole JSON contract with it, which has one
// path for everything.
func ScopeOf(r *http.Request) access.Scope {
	path, reads := r.URL.Path, r.Method == http.MethodGet || r.Method == http.MethodHead
	lists := path == "/v1/models" || path == "/models"
	model := (strings.HasPrefix(path, "/v1/models/") || strings.HasPrefix(path, "/models/")) && !strings.HasSuffix(path, "/digest")
	switch {
	case path == "/" && reads:
		return access.Use | access.Watch | access.Manage
	case path == "/status" && reads:
		return access.Watch
	case (lists || model) && reads:
		return access.Use | access.Watch
	case lists || model, path == "/v1/reservations", strings.HasPrefix(path, "/v1/reservations/"):
		return access.Manage
	case isOfFace(path):
		return access.Use
	}
	return access.Manage
}

// isOfFace reports whether a path belongs to what the clients of OpenAI, of Anthropic or of
// llama-server ask, or could.
func isOfFace(path string) bool {
	first, _, deeper := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "v1", "v":
		return deeper
	case "models", "chat", "completions", "responses", "embeddings", "rerank", "reranking", "audio", "images", "messages",
		"infill", "completion", "tokenize", "detokenize", "apply-template", "props": // llama-server's own, and those of /v1 without it
		return true
	}
	return false
}

// Deny refuses a request in the shape of the face that its path belongs to: it is for
// access.Options.
func Deny(w http.ResponseWriter, r *http.Request, status int, code, reason string, suggestions ...string) {
	room.WriteProblem(w, FaceOf(r.URL.Path), &room.Problem{Status: status, Code: code, Message: reason, Suggestions: suggestions})
}

// caller is whose request it is: that of a key, with its class, else of an address.
func caller(r *http.Request) (name string, class *room.Class) {
	c, ok := access.From(r.Context())
	if !ok {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		return host, nil
	}
	if own, err := room.ParseClass(c.Class); err == nil && c.Class != "" {
		class = &own
	}
	return "key " + c.Name, class
}
