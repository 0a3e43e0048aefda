package openai

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
)

// maxField bounds a field of a form that is read here.
const maxField = 4 << 10

// understandForm makes an Ask of a multipart form whose field "model" says which.
func understandForm(r *http.Request, body []byte, path string) (*room.Ask, error) {
	kind := r.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(kind)
	if err != nil || media != "multipart/form-data" || params["boundary"] == "" {
		return nil, fmt.Errorf("the Content-Type %q must be multipart/form-data with a boundary", kind)
	}
	if err := multipart.NewWriter(io.Discard).SetBoundary(params["boundary"]); err != nil { // it would be found where the model is renamed
		return nil, fmt.Errorf("the Content-Type %q: %w", kind, err)
	}
	ask := &room.Ask{Path: path, Body: body, Type: kind}
	model := ""
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the form is not whole: %w", err)
		}
		var field *string
		stream := ""
		switch part.FormName() {
		case "model":
			field = &model
		case "stream":
			field = &stream
		default:
			continue
		}
		b, err := io.ReadAll(io.LimitReader(part, maxField))
		if err != nil {
			return nil, fmt.Errorf("the form is not whole: %w", err)
		}
		*field = string(b)
		ask.Stream = ask.Stream || stream == "true" || stream == "1"
	}
	switch model {
	case "":
		return nil, errors.New(`the form has no field "model"`)
	case tier.AutoName:
		if ask.Request, err = room.Wished(r.Header, path, nil); err != nil {
			return nil, err
		}
	default:
		ask.Request = modeltier.Request{Model: model}
	}
	ask.Named = func(body []byte, name string) ([]byte, error) {
		if name == model {
			return body, nil
		}
		return renamedForm(body, params["boundary"], name)
	}
	return ask, nil
}

// renamedForm is a form, known to be whole, with another model in it.
func renamedForm(body []byte, boundary, model string) ([]byte, error) {
	var out bytes.Buffer
	to := multipart.NewWriter(&out)
	if err := to.SetBoundary(boundary); err != nil {
		return nil, err
	}
	for parts := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			err := to.Close()
			return out.Bytes(), err
		}
		if err != nil {
			return nil, err
		}
		w, err := to.CreatePart(part.Header)
		if err != nil {
			return nil, err
		}
		if part.FormName() == "model" {
			_, err = io.WriteString(w, model)
		} else {
			_, err = io.Copy(w, part)
		}
		if err != nil {
			return nil, err
		}
	}
}
