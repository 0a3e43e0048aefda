package openai

import (
	"errors"
	"net/http"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// paths are those with a JSON body, each with and without the /v1 before it. What is
// not there in llama-server is in engines like it.
var paths = []string{
	chatPath, "/v1/completions", responsesPath, "/v1/embeddings", "/v1/rerank", "/v1/reranking",
	"/v1/audio/speech", "/v1/images/generations",
	"/infill", "/completion", "/tokenize", "/detokenize", "/apply-template",
}

// Paths of the two APIs to chat with a model.
const (
	chatPath      = "/v1/chat/completions"
	responsesPath = "/v1/responses"
)

// forms are the paths with a multipart form.
var forms = []string{"/v1/audio/transcriptions", "/v1/images/edits"}

// queries are the paths that a GET asks, for the engine of ?model=.
var queries = []string{"/props", "/v1/audio/voices"}

// Mount has a mux answer the paths of OpenAI's clients by engines, and the list of models.
func Mount(mux room.Mux, r *room.Room) {
	for _, path := range paths {
		serve := func(w http.ResponseWriter, req *http.Request) {
			r.Serve(w, req, Face{}, func(req *http.Request, body []byte) (*room.Ask, error) {
				ask, err := room.Understand(req, body, path)
				if err == nil && path == responsesPath {
					ask.Instead = func() (*room.Ask, error) { return chatInstead(ask) }
				}
				return ask, err
			})
		}
		mux.HandleFunc("POST "+path, serve)
		if short, ok := strings.CutPrefix(path, "/v1"); ok {
			mux.HandleFunc("POST "+short, serve)
			mux.HandleFunc("POST /v"+short, serve) // llama-swap's spelling
		}
	}
	for _, path := range []string{responsesPath, strings.TrimPrefix(responsesPath, "/v1")} {
		mux.HandleFunc(path+"/{id...}", notKept)
	}
	for _, path := range forms {
		serve := func(w http.ResponseWriter, req *http.Request) {
			r.Serve(w, req, Face{}, func(req *http.Request, body []byte) (*room.Ask, error) { return understandForm(req, body, path) })
		}
		mux.HandleFunc("POST "+path, serve)
		mux.HandleFunc("POST "+strings.TrimPrefix(path, "/v1"), serve)
	}
	for _, path := range queries {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) {
			r.Serve(w, req, Face{}, func(req *http.Request, _ []byte) (*room.Ask, error) {
				name := req.URL.Query().Get("model")
				if name == "" {
					return nil, room.Refuse(room.Invalid(errors.New("the query names no model"), "Ask "+path+"?model=NAME."))
				}
				return &room.Ask{Request: modeltier.Request{Model: name}, Path: path}, nil
			})
		})
	}
	m := &models{m: r.Manager()}
	s := m.m.Status()
	m.since = s.At.Add(-s.Uptime).Unix()
	for _, path := range []string{"/v1/models", "/models"} {
		mux.HandleFunc("GET "+path, m.list)
		mux.HandleFunc("GET "+path+"/{name...}", m.one)
	}
}

// chatInstead asks an engine by chat/completions for what it lacks responses for.
func chatInstead(ask *room.Ask) (*room.Ask, error) {
	in, err := ParseResponses(ask.Body)
	if err != nil {
		return nil, err
	}
	return &room.Ask{Path: chatPath, Body: in.Chat, Named: ask.Named, Answer: in.Translate}, nil
}
