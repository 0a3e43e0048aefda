package room

import (
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
)

// ofConnection are the headers that are about one connection (RFC 9110, section 7.6.1, and
// what else is taken for such). Those that a Connection header names are, too.
var ofConnection = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// fromClient are headers of a request that are between its client and us: credentials, what
// a browser says of the page, what proxies say of the way, and what we have done for the
// client.
var fromClient = []string{
	"Authorization", "X-Api-Key", "Cookie",
	"Origin", "Referer", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-User",
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
	"Expect",
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

// forEngine returns the headers of a request as its engine gets them. The values are those
// of the client's.
func forEngine(of http.Header) http.Header {
	h := maps.Clone(of)
	cleanConnection(h)
	for _, name := range fromClient {
		delete(h, name)
	}
	if h["User-Agent"] == nil {
		h["User-Agent"] = []string{""} // else net/http says that it is the client
	}
	return h
}

func cleanAnswer(h http.Header) {
	cleanConnection(h)
	for _, name := range fromEngine {
		delete(h, name)
	}
	for name := range h {
		if strings.HasPrefix(name, corsHeaders) {
			delete(h, name)
		}
	}
}

func cleanConnection(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range ofConnection {
		delete(h, name)
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
