package room

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestStream_HowItEnds_SaidBetweenEventsAndOnlyIfItWasCut(t *testing.T) {
	reset := errors.New("connection reset")
	for name, c := range map[string]struct {
		sent string
		end  error
		kind string
		says bool
	}{
		"between events":  {"data: 1\n\n", reset, "text/event-stream", true},
		"with carriages":  {"data: 1\r\n\r\n", reset, "text/event-stream; charset=utf-8", true},
		"before any":      {"", reset, "text/event-stream", true},
		"within an event": {"data: 1\n\ndata: 2", reset, "text/event-stream", false},
		"after its line":  {"data: 1\n\ndata: 2\n", reset, "text/event-stream", false},
		"whole":           {"data: 1\n\n", nil, "text/event-stream", false},
		"no stream":       {"{}\n\n", reset, "application/json", false},
	} {
		for small, reader := range map[bool]func(io.Reader) io.Reader{false: func(r io.Reader) io.Reader { return r }, true: iotest.OneByteReader} {
			end := c.end
			if end == nil {
				end = io.EOF
			}
			body := reader(io.MultiReader(strings.NewReader(c.sent), iotest.ErrReader(end)))
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res := &http.Response{Request: req, Header: http.Header{"Content-Type": {c.kind}}, Body: io.NopCloser(body)}
			if err := (&pass{face: plain{}, ask: &Ask{}}).answer(res); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(reader(res.Body))
			rest, sent := bytes.CutPrefix(b, []byte(c.sent))
			if !sent || !errors.Is(err, c.end) || bytes.Contains(rest, []byte("engine_failed")) != c.says || !c.says && len(rest) > 0 {
				t.Errorf("%s, by bytes %v: %q, %v", name, small, b, err)
			}
		}
	}
}
