package gatewaytest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"
)

// Fault is the header of a request that names how it is to be answered wrongly, by one of
// [Faults].
const Fault = "X-Fault"

// What an engine does on demand. From OneXX on it is no fault but a rare form of a whole
// answer, which a front end has to hand on.
const (
	CloseBeforeAnswer = "close-before-answer" // it takes the request and closes the connection
	ResetBeforeAnswer = "reset-before-answer" // the same, with a TCP reset
	CloseMidStream    = "close-mid-stream"    // half the answer, then the end of the connection
	Stall             = "stall"               // no answer until the client leaves
	StallMidStream    = "stall-mid-stream"    // half the answer, then nothing until the client leaves
	Garbage           = "garbage"             // what is no HTTP
	GarbageMidStream  = "garbage-mid-stream"  // half the answer, then what is no chunk
	WrongLength       = "wrong-length"        // fewer bytes than Content-Length says
	ExtraBytes        = "extra-bytes"         // a second answer after the first, unasked
	Unasked101        = "unasked-101"         // another protocol, unasked
	Endless           = "endless"             // the answer's second event, or all of it, without end
	Error500          = "500"                 // an error in llama-server's shape
	Error503          = "503"                 // "Loading model", as llama-server says while it starts
	HTML500           = "500-html"            // an error page
	Crash             = "crash"               // the process ends; only for an engine of Main
	CrashMidStream    = "crash-mid-stream"    // the same after half the answer

	OneXX       = "1xx"          // 103 with a Link before the answer
	Trailers    = "trailers"     // the trailer X-Sum with the body's length after it
	Gzip        = "gzip"         // a body that is gzipped, asked or not
	SlowHeaders = "slow-headers" // the answer in pieces of a few bytes
	HTTP10      = "http10"       // an answer of HTTP/1.0 without a length
	CloseAfter  = "close-after"  // the answer, then the end of a connection that was to be kept
)

// Faults are all of them but for Crash and CrashMidStream.
var Faults = []string{
	CloseBeforeAnswer, ResetBeforeAnswer, CloseMidStream, Stall, StallMidStream, Garbage, GarbageMidStream, WrongLength, ExtraBytes,
	Unasked101, Endless, Error500, Error503, HTML500, OneXX, Trailers, Gzip, SlowHeaders, HTTP10, CloseAfter,
}

// Smuggled is in the second answer of ExtraBytes: no client may ever see it.
const Smuggled = "this answer belongs to no request"

// slow is how long it takes from one piece to the next where a fault is slow.
const slow = time.Millisecond

// fail answers r with a fault. What it answers apart from that is next's.
func fail(w http.ResponseWriter, r *http.Request, fault string, next http.Handler) {
	switch fault {
	case Error500:
		refuse(w, http.StatusInternalServerError, "the stand-in was told to fail")
		return
	case Error503:
		refuse(w, http.StatusServiceUnavailable, "Loading model")
		return
	case HTML500:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "<html><h1>500 Internal Server Error</h1></html>")
		return
	case OneXX:
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		next.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	body := answer.Body.Bytes()
	half := body[:len(body)/2]
	head := func(more string) string {
		return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\n%s\r\n", answer.Code, http.StatusText(answer.Code), answer.Header().Get("Content-Type"), more)
	}
	chunk := func(b []byte) string { return fmt.Sprintf("%x\r\n%s\r\n", len(b), b) }
	const chunked = "Transfer-Encoding: chunked\r\n"
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }
	switch fault {
	case Stall:
		<-r.Context().Done()
		return
	case Crash:
		os.Exit(3)
	case Trailers:
		w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
		w.Header().Set("Trailer", "X-Sum")
		w.Write(body)
		w.Header().Set("X-Sum", fmt.Sprint(len(body)))
		return
	case Gzip:
		w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
		w.Header().Set("Content-Encoding", "gzip")
		zip := gzip.NewWriter(w)
		zip.Write(body)
		zip.Close()
		return
	case Endless:
		endless(w, r, answer)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer conn.Close()
	write := func(all ...string) {
		for _, s := range all {
			io.WriteString(conn, s)
		}
	}
	switch fault {
	case CloseBeforeAnswer:
	case ResetBeforeAnswer:
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
	case CloseMidStream:
		write(head(chunked), chunk(half))
	case StallMidStream:
		write(head(chunked), chunk(half))
		io.Copy(io.Discard, conn)
	case CrashMidStream:
		write(head(chunked), chunk(half))
		os.Exit(3)
	case Garbage:
		write("\x00\xff\x16\x03 these are not the bytes of HTTP\r\n\r\n")
	case GarbageMidStream:
		write(head(chunked), chunk(half), "zz\r\nno chunk\r\n")
	case Unasked101:
		write(switching("websocket"))
		io.Copy(io.Discard, conn)
	case WrongLength:
		write(head(length(len(body)+100)), string(body))
	case ExtraBytes:
		second := `{"error":{"message":"` + Smuggled + `"}}`
		write(head(length(len(body)))+string(body), head(length(len(second)))+second)
		io.Copy(io.Discard, conn)
	case SlowHeaders:
		for all := head(length(len(body))+"Connection: close\r\n") + string(body); all != ""; {
			n := min(16, len(all))
			write(all[:n])
			all = all[n:]
			time.Sleep(slow)
		}
	case HTTP10:
		write(strings.Replace(head(""), "HTTP/1.1", "HTTP/1.0", 1), string(body))
	case CloseAfter:
		write(head(length(len(body))), string(body))
	default:
		write(head(length(0)))
	}
}

// endless repeats an answer until the client has left; of a stream, its second event, which
// is the first that says something.
func endless(w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder) {
	again := answer.Body.Bytes()
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	if events := bytes.SplitAfter(again, []byte("\n\n")); len(events) > 2 {
		w.Write(events[0])
		again = events[1]
	}
	for ticks := time.NewTicker(slow); ; {
		if _, err := w.Write(again); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticks.C:
		}
	}
}

// upgrade takes the connection over to whatever protocol was asked for, and sends back all
// that comes, as it comes.
func upgrade(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer conn.Close()
	io.WriteString(conn, switching(r.Header.Get("Upgrade")))
	io.Copy(conn, buffered)
}

func switching(to string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + to + "\r\n\r\n"
}
