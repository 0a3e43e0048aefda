package room

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
)

// fromClient are headers of a request that are between its client and us: credentials, what
// a browser says of the page, and what we have done for the client.
var fromClient = []string{
	"Authorization", "X-Api-Key", "Cookie",
	"Origin", "Referer", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-User",
	"Expect", "Upgrade", "Connection", // no path of ours has another protocol
}

// fromEngine are headers of an answer that an engine has no say in: they are about our own
// name, which pages and cookies of others may share. With those that begin as corsHeaders
// do llama-server lets any page read its answers.
var fromEngine = []string{modelHeader, requestID, "Set-Cookie", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data"}

const corsHeaders = "Access-Control-"

// requestID is the header with a request's name, for logs: its client's, or a new one. The
// engine is told it, and the answer has it whatever comes of the request.
const requestID = "X-Request-Id"

// modelHeader is the header of an answer that says which model gave it.
const modelHeader = "X-Model"

func cleanRequest(h http.Header) {
	for _, name := range fromClient {
		delete(h, name)
	}
}

func cleanAnswer(h http.Header) {
	for _, name := range fromEngine {
		delete(h, name)
	}
	for name := range h {
		if strings.HasPrefix(name, corsHeaders) {
			delete(h, name)
		}
	}
}

// decompress makes an answer that is to be read here plain. It was asked for plain; an
// engine behind a proxy of its own may compress all the same.
func decompress(res *http.Response) error {
	switch encoding := res.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return nil
	case "gzip":
		zip, err := gzip.NewReader(res.Body)
		if err != nil {
			return fmt.Errorf("its answer is not the gzip that it is said to be: %w", err)
		}
		res.Body = struct {
			io.Reader
			io.Closer
		}{zip, res.Body}
	default:
		return fmt.Errorf("its answer is compressed by %q, which it was not asked for", encoding)
	}
	res.Header.Del("Content-Encoding")
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	return nil
}

// untraced hides a client trace. By that of httputil.ReverseProxy an engine's interim
// answers (1xx) would go to the client, with headers of the engine's, and take away those
// that our answer has already.
type untraced struct{ context.Context }

// Value implements context.Context.
func (u untraced) Value(key any) any {
	v := u.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}
