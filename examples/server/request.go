package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// understand makes a request for a model of a body, and of the headers
// X-Capabilities (with commas) and X-Priority, which count for "auto" and go
// before what the body says. It also tells whether a stream is wanted.
func understand(r *http.Request, body []byte) (req modeltier.Request, stream bool, err error) {
	if err := json.Unmarshal(body, new(struct{})); err != nil { // it is no JSON, or no object
		return req, false, err
	}
	model := ""
	for key, value := range members(body) {
		switch key {
		case "model":
			err = json.Unmarshal(value, &model)
		case "stream":
			err = json.Unmarshal(value, &stream)
		}
		if err != nil {
			return req, false, fmt.Errorf("%s: %w", key, err)
		}
	}
	switch model {
	case "":
		return req, false, errors.New("the body names no model")
	case tier.AutoName:
		req, err = wished(r, body)
		return req, stream, err
	}
	return modeltier.Request{Model: model}, stream, nil
}

// members yields the keys and values of a JSON object that is known to be valid. To
// encoding/json "Model" is "model", and the last of them counts: the engine would be given
// a model that it is not.
func members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(key string, value []byte) bool) {
		key, named := "", false
		depth, start := 0, 0
		for i := 0; i < len(object); i++ {
			c := object[i]
			switch c {
			case '"':
				for i++; object[i] != '"'; i++ {
					if object[i] == '\\' {
						i++
					}
				}
			case '{', '[':
				if depth++; depth == 1 {
					start = i + 1
				}
			case ':':
				if depth == 1 {
					named = json.Unmarshal(object[start:i], &key) == nil
					start = i + 1
				}
			case ',', '}', ']':
				if depth == 1 {
					if named && !yield(key, object[start:i]) {
						return
					}
					named, start = false, i+1
				}
				if c != ',' {
					depth--
				}
			}
		}
	}
}

// wished is the request of a body that has a model selected, with the "capabilities" and
// the "priority" of the body; with another model, these words are the engine's. One for
// embeddings that names no capabilities wants those.
func wished(r *http.Request, body []byte) (modeltier.Request, error) {
	h := r.Header
	var req modeltier.Request
	for key, value := range members(body) {
		var err error
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
		var err error
		if req.Priority, err = tier.ParsePriority(name); err != nil {
			return modeltier.Request{}, err
		}
	}
	if len(req.Capabilities) == 0 && r.URL.Path == embeddingsPath {
		req.Capabilities = []string{"embeddings"}
	}
	return req, nil
}

// renamed is the body of a request for "auto", or for an alias, with the model that
// serves it, and without what was for us. The body is known to be a JSON object.
func renamed(body []byte, model string) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return body
	}
	delete(fields, "capabilities")
	delete(fields, "priority")
	name, err := json.Marshal(model)
	if err != nil {
		return body
	}
	fields["model"] = name
	if out, err := json.Marshal(fields); err == nil {
		return out
	}
	return body
}
