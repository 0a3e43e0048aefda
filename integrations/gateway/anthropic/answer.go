package anthropic

import (
	"io"
	"net/http"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// requestID is the header with the name of a request.
const requestID = "X-Request-Id"

// Translate makes an engine's answer of POST /v1/chat/completions one of POST /v1/messages,
// whatever its status; model is who it says it is of, and stream whether one was asked
// for. It is for room.Ask's Answer. An error is a connection that
// broke, or an answer beyond all bounds.
func Translate(res *http.Response, model string, stream bool) error {
	id := ""
	if res.Request != nil {
		id = res.Request.Header.Get(requestID)
	}
	face := chat.Face{
		Answer: func(body []byte) ([]byte, error) { return MessagesResponse(body, model) },
		Stream: func(body io.ReadCloser) io.ReadCloser { return NewStream(body, model) },
		Error:  func(e *chat.EngineError) []byte { return ErrorBody(e.Status, e.Message, id) },
	}
	return face.Translate(res, stream)
}
