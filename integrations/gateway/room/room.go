package room

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/internal/upstream"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
	"golang.org/x/sync/semaphore"
)

// Options are what a Room may be told. The zero value is a good one.
type Options struct {
	// Parallel is how many requests the engine of a model is given at once; more wait for
	// their turn here, fairly. nil, or 0 of it: any number, of which 64 may be without the
	// first byte of an answer, so that a burst does not overrun the engine's socket. It may
	// be called from any goroutine, often, and must not block.
	Parallel func(model string) int
	// Caller tells whose request it is, for turns that are fair between callers, and the
	// class of its requests; nil if it has none of its own. nil: the address that it comes
	// from, and no class.
	Caller func(*http.Request) (name string, class *Class)
	// ModelClass is the class of the requests for a model whose caller has none of its own.
	// nil: Normal.
	ModelClass func(model string) Class
	// Refusal is what all asks are answered, if there are no engines; nil: there are.
	Refusal *Problem
	Logger  *slog.Logger // nil: silent
}

// maxUnanswered is how many requests may be without an answer at an engine that has no
// limit: above what engines answer at once, below what fills the backlog of their sockets.
const maxUnanswered = 64

// Room passes requests on to the engines of leased models. Its methods may be called from
// any number of goroutines.
type Room struct {
	m      *modeltier.Manager
	caller func(*http.Request) (string, *Class)
	class  func(model string) Class
	refuse *Problem
	log    *slog.Logger

	queues  queues
	bodies  *semaphore.Weighted // the room for those of all requests
	engines http.RoundTripper
	lacks   sync.Map // of lack: paths that an engine has been seen to lack
}

// New returns a Room over the engines of a Manager: its leases' instances have a method
// URL() (string, bool), as those of tier/process do.
func New(m *modeltier.Manager, o Options) *Room {
	room := &Room{
		m: m, caller: o.Caller, class: o.ModelClass, refuse: o.Refusal, log: o.Logger,
		bodies: semaphore.NewWeighted(maxBodies),
		queues: queues{byModel: make(map[string]*queue), limit: func(model string) (n int, whole bool) {
			if o.Parallel != nil {
				if n := o.Parallel(model); n > 0 {
					return n, true
				}
			}
			return maxUnanswered, false
		}},
	}
	if room.caller == nil {
		room.caller = func(r *http.Request) (string, *Class) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			return host, nil
		}
	}
	if room.class == nil {
		room.class = func(string) Class { return Normal }
	}
	if room.log == nil {
		room.log = slog.New(slog.DiscardHandler)
	}
	room.engines = new(upstream.Transport)
	return room
}

// Manager returns the Manager whose models answer.
func (room *Room) Manager() *modeltier.Manager { return room.m }

// Ask is what a face made of a request.
type Ask struct {
	Request modeltier.Request // which model is wanted
	Stream  bool              // the answer is an event stream
	// Path is where the engine takes the request, with the query; "": where it came.
	Path string
	Body []byte
	// Named returns the body with the name of the model that serves it: a wish, or an alias,
	// is none that the engine knows. nil: the body names none.
	Named func(body []byte, model string) ([]byte, error)
	// Type is the Content-Type of Body; "": application/json.
	Type string
	// Answer translates the answer of a model's engine, of whatever status. nil: it passes
	// untouched.
	Answer func(res *http.Response, model string) error
	// Instead is what an engine is asked that lacks the path. nil: its client is told so.
	// Next is what it is asked after an answer of 200, which it is given; nil: that answer
	// is the client's. Of both only Path, Body, Named, Type, Answer and Next count.
	Instead func() (*Ask, error)
	Next    func(answer []byte) (*Ask, error)
}

// Headers of a request: its class, and how long its model stays in memory when it is idle
// (a time.Duration such as 10m; 0: not at all; negative: as long as there is room).
const (
	classHeader     = "X-Class"
	keepAliveHeader = "X-Keep-Alive"
)

// Serve answers a request. understand makes an Ask of it and of its body; its error is
// what the client did wrong. Serve returns when the answer has ended, or its client has
// left.
func (room *Room) Serve(w http.ResponseWriter, r *http.Request, face Face, understand func(r *http.Request, body []byte) (*Ask, error)) {
	id := r.Header.Get(requestID)
	if id == "" {
		id = rand.Text()
	}
	w.Header().Set(requestID, id)
	if room.refuse != nil {
		WriteProblem(w, face, room.refuse)
		return
	}
	flow := &flowing{ResponseWriter: w}
	defer flow.goOn() // for what net/http sends when this has returned: the end of an answer
	w = flow
	pass, held := room.understood(w, r, face, understand)
	if pass == nil {
		return
	}
	defer held.release()
	pass.id = id
	defer pass.end()
	var err error
	if pass.ask.Stream && r.Header.Get(progressHeader) != "" {
		var b *begun
		b, err = pass.enterTelling(w, r)
		if b != nil {
			w = b
			defer b.end()
		}
	} else {
		err = pass.enter(r.Context(), nil)
	}
	if err == nil {
		if err = pass.point(); err != nil && pass.crashed(r.Context()) {
			err = pass.reenter(r.Context())
		}
	}
	if err != nil {
		if r.Context().Err() == nil {
			WriteProblem(w, face, ProblemOf(err))
		}
		return
	}
	w.Header().Set(modelHeader, pass.model)
	pass.through(w, r)
}

// understood reads a request and makes a pass of it, which charges held. It returns nil if it
// has told the client what is wrong with it.
func (room *Room) understood(w http.ResponseWriter, r *http.Request, face Face, understand func(r *http.Request, body []byte) (*Ask, error)) (_ *pass, held *charged) {
	body, held, p := room.read(w, r)
	if p != nil {
		WriteProblem(w, face, p)
		return nil, nil
	}
	pass, err := room.passOf(r, body, understand)
	if err != nil {
		held.release()
		p, ok := errors.AsType[*problemError](err)
		if !ok {
			p = &problemError{Invalid(err)}
		}
		WriteProblem(w, face, p.Problem)
		return nil, nil
	}
	pass.face = face
	return pass, held
}

// passOf makes a pass of what a request says.
func (room *Room) passOf(r *http.Request, body []byte, understand func(r *http.Request, body []byte) (*Ask, error)) (*pass, error) {
	ask, err := understand(r, body)
	if err != nil {
		if _, ok := errors.AsType[*problemError](err); !ok {
			help := tier.Suggestions(err)
			if len(help) == 0 {
				help = []string{`Send a JSON object with "model": the name of a model, or "auto".`}
			}
			err = Refuse(Invalid(err, help...))
		}
		return nil, err
	}
	if ask.Path == "" {
		ask.Path = r.URL.RequestURI()
	}
	caller, class, err := room.classOf(r)
	if err != nil {
		return nil, err
	}
	if word := r.Header.Get(keepAliveHeader); word != "" {
		if ask.Request.KeepAlive, err = ParseKeepAlive(word); err != nil {
			return nil, err
		}
	}
	return &pass{room: room, ask: ask, caller: caller, class: class}, nil
}

// classOf returns whose request it is and its class, nil if neither the caller nor a header
// says one. A caller with a class of its own may ask for a lower one only.
func (room *Room) classOf(r *http.Request) (caller string, class *Class, err error) {
	caller, class = room.caller(r)
	if word := r.Header.Get(classHeader); word != "" {
		asked, err := ParseClass(word)
		if err != nil {
			return "", nil, err
		}
		if class == nil || asked.weight() < class.weight() {
			class = &asked
		}
	}
	return caller, class, nil
}

// problemError is a Problem that understand returned.
type problemError struct{ *Problem }

func (e *problemError) Error() string { return e.Message }

// Refuse returns an error with which an understand function has the client told p.
func Refuse(p *Problem) error { return &problemError{p} }

// Mux is what a face has its paths answered by: an *http.ServeMux is one.
type Mux interface {
	HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request))
}

// endpoint is the instance of a leased model: where its engine takes requests. ok is
// false once it has ended.
type endpoint interface {
	URL() (url string, ok bool)
}

// used is an endpoint that is told of each request, as those of tier/process are.
type used interface {
	Use() (*process.Use, bool)
}

// errEnded is of an engine that ended between its lease and the request.
func errEnded(model string) error {
	return &tier.BusyError{Model: model, Reason: "the engine of '" + model + "' has just ended, and is being restarted"}
}

// ParseKeepAlive returns a tier.Request's KeepAlive of a duration such as "10m"; "0" is
// at once, and a negative one never.
func ParseKeepAlive(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, &tier.InvalidError{Field: "keep-alive", Value: fmt.Sprintf("%q", text), Rule: "must be a duration such as 90s, 10m or -1s"}
	}
	if d == 0 {
		d = tier.AtOnce
	}
	return d, nil
}
