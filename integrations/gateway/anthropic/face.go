package anthropic

import (
	"net/http"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// Face is how Anthropic's clients read errors.
type Face struct{}

// Problem implements room.Face.
func (Face) Problem(p *room.Problem) any { return problemOf(p.Status, p.Message, "", p.Suggestions) }

// Event implements room.Face.
func (Face) Event(p *room.Problem) []byte { return ErrorEvent(p.Status, p.Message, p.Suggestions...) }

// Paths of the API, and of the engine that is asked instead.
const (
	messagesPath = "/v1/messages"
	countPath    = "/v1/messages/count_tokens"
	chatPath     = "/v1/chat/completions"
	templatePath = "/apply-template"
	tokenizePath = "/tokenize"
)

// Mount has a mux answer the paths of Anthropic's clients by engines, with and without
// the /v1.
func Mount(mux room.Mux, r *room.Room) {
	for path, instead := range map[string]func(*room.Ask) (*room.Ask, error){messagesPath: chatInstead, countPath: countInstead} {
		serve := func(w http.ResponseWriter, req *http.Request) {
			r.Serve(w, req, Face{}, func(req *http.Request, body []byte) (*room.Ask, error) {
				ask, err := room.Understand(req, body, path)
				if err == nil {
					ask.Instead = func() (*room.Ask, error) { return instead(ask) }
				}
				return ask, err
			})
		}
		short := path[len("/v1"):]
		for _, spelling := range []string{path, short, "/v" + short} {
			mux.HandleFunc("POST "+spelling, serve)
		}
	}
}

// chatInstead asks an engine by chat/completions for what it lacks messages for.
func chatInstead(ask *room.Ask) (*room.Ask, error) {
	body, err := ChatRequest(ask.Body)
	if err != nil {
		return nil, refused(err)
	}
	return &room.Ask{
		Path: chatPath, Body: body, Named: ask.Named,
		Answer: func(res *http.Response, model string) error { return Translate(res, model, ask.Stream) },
	}, nil
}

// countInstead asks an engine to make a prompt of the messages, and then for its tokens.
func countInstead(ask *room.Ask) (*room.Ask, error) {
	body, err := TemplateRequest(ask.Body)
	if err != nil {
		return nil, refused(err)
	}
	return &room.Ask{
		Path: templatePath, Body: body, Named: ask.Named,
		Answer: counted(func(body []byte) ([]byte, error) { return body, nil }), // an error
		Next: func(applied []byte) (*room.Ask, error) {
			body, err := TokenizeRequest(applied)
			if err != nil {
				return nil, refused(err)
			}
			return &room.Ask{Path: tokenizePath, Body: body, Answer: counted(CountResponse)}, nil
		},
	}, nil
}

// counted translates an answer on the way to a count.
func counted(answer func(body []byte) ([]byte, error)) func(*http.Response, string) error {
	return func(res *http.Response, _ string) error {
		face := chat.Face{Answer: answer, Error: func(e *chat.EngineError) []byte {
			return ErrorBody(e.Status, e.Message, res.Request.Header.Get(requestID))
		}}
		return face.Translate(res, false)
	}
}

// refused is the error of a request that cannot be translated, or of an answer.
func refused(err error) error {
	status, message := Error(err)
	return room.Refuse(&room.Problem{Status: status, Code: "invalid_request", Message: message})
}
