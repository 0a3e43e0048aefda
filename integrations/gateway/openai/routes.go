package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
)

// api is a path whose requests are passed on to the engine of their model.
type api struct {
	path  string
	wants []string // capabilities of a model that is selected, if its request names none
}

// paths are those with a JSON body, each with and without the /v1 before it. What is
// not there in llama-server is in engines like it.
var paths = []api{
	{"/v1/chat/completions", []string{"text-generation"}},
	{"/v1/completions", []string{"text-generation"}},
	{"/v1/responses", []string{"text-generation"}},
	{"/v1/embeddings", []string{"embeddings"}},
	{"/v1/rerank", []string{"rerank"}},
	{"/v1/reranking", []string{"rerank"}},
	{"/v1/audio/speech", nil},
	{"/v1/images/generations", nil},
	{"/infill", []string{"text-generation"}},
	{"/completion", []string{"text-generation"}},
	{"/tokenize", nil},
	{"/detokenize", nil},
	{"/apply-template", nil},
}

// forms are the paths with a multipart form.
var forms = []string{"/v1/audio/transcriptions", "/v1/images/edits"}

// queries are the paths that a GET asks, for the engine of ?model=.
var queries = []string{"/props", "/v1/audio/voices"}

// Mount has a mux answer the paths of OpenAI's clients by engines, and the list of models.
func Mount(mux *http.ServeMux, r *room.Room) {
	for _, a := range paths {
		serve := func(w http.ResponseWriter, req *http.Request) {
			r.Serve(w, req, Face{}, func(req *http.Request, body []byte) (*room.Ask, error) {
				ask, err := understand(req, body, a.wants)
				if err == nil {
					ask.Path = a.path
				}
				return ask, err
			})
		}
		mux.HandleFunc("POST "+a.path, serve)
		if short, ok := strings.CutPrefix(a.path, "/v1"); ok {
			mux.HandleFunc("POST "+short, serve)
			mux.HandleFunc("POST /v"+short, serve) // llama-swap's spelling
		}
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
					return nil, errors.New("the query names no model: " + path + "?model=NAME")
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

var byteOrderMark = []byte("\xef\xbb\xbf") // which editors on Windows put before a text

// understand makes an Ask of a JSON body, and, for "auto", of the headers X-Capabilities
// (with commas) and X-Priority, which go before what the body says.
func understand(r *http.Request, body []byte, wants []string) (*room.Ask, error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if err := room.CheckObject(body); err != nil {
		return nil, err
	}
	ask := &room.Ask{Body: body}
	model := ""
	for key, value := range room.Members(body) {
		var err error
		switch key {
		case "model":
			err = json.Unmarshal(value, &model)
		case "stream":
			err = json.Unmarshal(value, &ask.Stream)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	switch model {
	case "":
		return nil, errors.New("the body names no model")
	case tier.AutoName:
		req, err := wished(r.Header, body, wants)
		if err != nil {
			return nil, err
		}
		ask.Request = req
		ask.Named = func(body []byte, name string) ([]byte, error) {
			return room.Renamed(body, name, "capabilities", "priority")
		}
		return ask, nil
	}
	ask.Request.Model = model
	ask.Named = func(body []byte, name string) ([]byte, error) {
		if name == model {
			return body, nil
		}
		return room.Renamed(body, name)
	}
	return ask, nil
}

// wished is the request of a body that has a model selected, with the "capabilities" and
// the "priority" of the body; with another model, these words are the engine's.
func wished(h http.Header, body []byte, wants []string) (req modeltier.Request, err error) {
	for key, value := range room.Members(body) {
		switch key {
		case "capabilities":
			err = json.Unmarshal(value, &req.Capabilities)
		case "priority":
			err = json.Unmarshal(value, &req.Priority)
		}
		if err != nil {
			return modeltier.Request{}, fmt.Errorf("%s: %w", key, err)
		}
	}
	if list := h.Get("X-Capabilities"); list != "" {
		req.Capabilities = nil
		for c := range strings.SplitSeq(list, ",") {
			req.Capabilities = append(req.Capabilities, strings.TrimSpace(c))
		}
	}
	if name := h.Get("X-Priority"); name != "" {
		if req.Priority, err = tier.ParsePriority(name); err != nil {
			return modeltier.Request{}, err
		}
	}
	if len(req.Capabilities) == 0 {
		req.Capabilities = wants
	}
	return req, nil
}
