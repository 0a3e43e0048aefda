package room

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

var byteOrderMark = []byte("\xef\xbb\xbf") // which editors on Windows put before a text

// Understand makes an Ask of a JSON object for a path of the engine's: of its "model" and
// its "stream" and, if the model is "auto", of what else it holds (see Wants) and of the
// headers X-Capabilities (with commas) and X-Priority, which go before what the body says.
// Keys count in their exact case.
func Understand(r *http.Request, body []byte, path string) (*Ask, error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if err := CheckObject(body); err != nil {
		return nil, err
	}
	ask := &Ask{Path: path, Body: body}
	model := ""
	for key, value := range Members(body) {
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
		req, err := Wished(r.Header, path, body)
		if err != nil {
			return nil, err
		}
		ask.Request = req
		ask.Named = func(body []byte, name string) ([]byte, error) {
			return Renamed(body, name, "capabilities", "priority")
		}
		return ask, nil
	}
	ask.Request.Model = model
	ask.Named = func(body []byte, name string) ([]byte, error) {
		if name == model {
			return body, nil
		}
		return Renamed(body, name)
	}
	return ask, nil
}

// maxWish bounds the capabilities of a wish, in bytes, which take many times that in memory.
const maxWish = 64 << 10

// Wished is the request of a body that has a model selected, with the "capabilities" and
// the "priority" of the body; with another model, these words are the engine's.
func Wished(h http.Header, path string, body []byte) (req modeltier.Request, err error) {
	for key, value := range Members(body) {
		switch key {
		case "capabilities":
			if len(value) > maxWish {
				return modeltier.Request{}, fmt.Errorf("capabilities are %d bytes, and must be at most %d", len(value), maxWish)
			}
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
		req.Capabilities = Wants(path, body)
	}
	return req, nil
}
