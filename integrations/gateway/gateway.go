package gateway

import (
	"net/http"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/anthropic"
	"github.com/modeltier/modeltier/integrations/gateway/openai"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
)

// Config is what New may be told. The zero value is a good one.
type Config struct {
	Room room.Options
}

// New returns an http.Handler with all faces over the models of a Manager, and what the
// Manager's own Handler answers: the JSON contract at POST /, /status and the probes. Who
// may ask is the business of an access.Guard before it, with ScopeOf and Deny; the key that
// a request came with then says whose it is, and its class.
func New(m *modeltier.Manager, c Config) http.Handler {
	if c.Room.Caller == nil {
		c.Room.Caller = caller
	}
	mux := &paths{ServeMux: http.NewServeMux()}
	own := m.Handler()
	for _, pattern := range []string{"POST /{$}", "/healthz", "/readyz", "/status", "/v1/reservations", "/v1/reservations/{id...}"} {
		mux.Handle(pattern, own)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { // clients try a connection so
		room.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { // llama-server's and llama-swap's
		r.URL.Path = "/readyz"
		own.ServeHTTP(w, r)
	})
	r := room.New(m, c.Room)
	openai.Mount(mux, r)
	anthropic.Mount(mux, r)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := FaceOf(r.URL.Path).(contract); ok {
			own.ServeHTTP(w, r) // which says what it has
			return
		}
		mux.refuse(w, r)
	})
	return mux
}

// FaceOf returns how the clients of a path read errors.
func FaceOf(path string) room.Face {
	for _, prefix := range []string{"/v1", "/v", ""} {
		if rest, ok := strings.CutPrefix(path, prefix+"/messages"); ok && (rest == "" || rest[0] == '/') {
			return anthropic.Face{}
		}
	}
	if isOfFace(path) {
		return openai.Face{}
	}
	return contract{}
}

// contract is how the JSON contract's clients read errors.
type contract struct{}

// Problem implements room.Face.
func (contract) Problem(p *room.Problem) any {
	return map[string]any{"status": "error", "reason": p.Message, "code": p.Code, "suggestions": append([]string{}, p.Suggestions...)}
}

// Event implements room.Face. The contract has no streams.
func (contract) Event(*room.Problem) []byte { return nil }

// paths is a mux that knows what it was told to answer.
type paths struct {
	*http.ServeMux
	known []string
}

// HandleFunc implements room.Mux.
func (p *paths) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	p.ServeMux.HandleFunc(pattern, handler)
	if _, path, ok := strings.Cut(pattern, " "); ok && !strings.Contains(path, "{") {
		p.known = append(p.known, path)
	}
}

// methods are those that a path may have.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// refuse answers a path, or a method of it, that is not there.
func (p *paths) refuse(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range methods {
		other := *r
		other.Method = method
		if _, pattern := p.Handler(&other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	problem := &room.Problem{Status: http.StatusNotFound, Code: "not_found", Message: "There is nothing at " + r.URL.Path}
	switch near := tier.Nearest(r.URL.Path, p.known); {
	case len(allowed) > 0:
		list := strings.Join(allowed, ", ")
		w.Header().Set("Allow", list)
		problem.Status, problem.Code, problem.Message = http.StatusMethodNotAllowed, "method_not_allowed", r.Method+" is no method of "+r.URL.Path
		problem.Suggestions = []string{"It takes " + list + "."}
	case len(near) > 0:
		problem.Suggestions = []string{"Did you mean " + near[0] + "?"}
	default:
		problem.Suggestions = []string{"GET /v1/models lists the models; POST /v1/chat/completions asks one."}
	}
	room.WriteProblem(w, FaceOf(r.URL.Path), problem)
}
