package chat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
)

// maxBody bounds an answer that is no stream.
const maxBody = 32 << 20

// Face is how the answers of POST /v1/chat/completions are translated.
type Face struct {
	Answer func(body []byte) ([]byte, error)      // one that is whole; its errors are EngineErrors
	Stream func(body io.ReadCloser) io.ReadCloser // an event stream
	Error  func(e *EngineError) []byte            // one that is an error
}

// Translate makes an engine's answer, which is not compressed, one of the face. An engine
// that is asked for a stream and answers with something else is at fault, and the other way
// round. An error is a connection that broke, or an answer beyond all bounds.
func (f *Face) Translate(res *http.Response, wantStream bool) error {
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if wantStream && kind == "text/event-stream" && res.StatusCode == http.StatusOK {
		res.Body = f.Stream(res.Body)
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	res.Body.Close()
	switch {
	case err != nil:
		return fmt.Errorf("the engine ended in the middle of its answer: %w", err)
	case len(body) > maxBody:
		return fmt.Errorf("the engine's answer is longer than %d MiB", maxBody>>20)
	}
	var out []byte
	switch {
	case res.StatusCode < http.StatusBadRequest && res.StatusCode != http.StatusOK:
		err = enginef("the engine answered %d, which is neither an answer nor an error", res.StatusCode)
	case res.StatusCode != http.StatusOK:
		out = f.Error(ParseError(res.StatusCode, body))
	case wantStream:
		err = enginef("the engine was asked for an event stream, and answered with %q", kind)
	default:
		out, err = f.Answer(body)
	}
	if e, ok := errors.AsType[*EngineError](err); ok {
		res.StatusCode, out = e.Status, f.Error(e)
	} else if err != nil {
		return err
	}
	res.Header.Set("Content-Type", "application/json")
	res.Header.Set("Content-Length", strconv.Itoa(len(out)))
	res.ContentLength, res.Body = int64(len(out)), io.NopCloser(bytes.NewReader(out))
	return nil
}
