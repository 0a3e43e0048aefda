package room

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

// plain is a Face whose errors are objects with a code and a message.
type plain struct{}

type plainProblem struct{ Code, Message string }

func (plain) Problem(p *Problem) any { return plainProblem{p.Code, p.Message} }
func (plain) Event(p *Problem) []byte {
	return fmt.Appendf(nil, "data: {\"code\":%q}\n\n", p.Code)
}

// named understands an object with the name of a model.
func named(_ *http.Request, body []byte) (*Ask, error) {
	var v struct {
		Model  string
		Stream bool
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, err
	}
	return &Ask{Request: modeltier.Request{Model: v.Model}, Stream: v.Stream, Body: body}, nil
}

// newRoom returns a room over the models m and n, whose engines are at a URL.
func newRoom(tb testing.TB, url string, o Options) *Room {
	tb.Helper()
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "m", Size: tier.MiB}, {Name: "n", Size: tier.MiB}},
		Mover:  enginetest.At(url), Probe: enginetest.Plenty(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return New(m, o)
}

// engineOf is newRoom over an engine that answers so.
func engineOf(tb testing.TB, o Options, answer http.HandlerFunc) *Room {
	tb.Helper()
	e := httptest.NewServer(answer)
	tb.Cleanup(e.Close)
	return newRoom(tb, e.URL, o)
}

// ask sends a body to a path, with these headers, and returns the answer.
func (room *Room) ask(path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	room.Serve(w, r, plain{}, named)
	return w
}
