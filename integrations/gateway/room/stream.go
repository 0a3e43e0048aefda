package room

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// noBuffering is a header that says "no" to nginx, and to what does as it does: a proxy
// that buffers passes a stream on when it has ended.
const noBuffering = "X-Accel-Buffering"

// stream reads the event stream of an engine. If that ends in the middle of its answer, it
// says so, in an event of the face's, before it is cut.
type stream struct {
	io.ReadCloser
	ctx  context.Context // of its client
	face Face
	tail []byte // the last bytes that were read, at most four
	word []byte // what is left to say of err
	err  error  // that ended it
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (n int, err error) {
	if s.err == nil {
		n, err = s.ReadCloser.Read(p)
		s.tail = append(s.tail, p[max(n-4, 0):n]...)
		s.tail = append(s.tail[:0], s.tail[max(len(s.tail)-4, 0):]...)
		if err == nil || errors.Is(err, io.EOF) || s.ctx.Err() != nil || !s.between() {
			return n, err
		}
		s.word, s.err = s.face.Event(failed("The engine ended in the middle of its answer: "+err.Error())), err
		if n > 0 {
			return n, nil
		}
	}
	if len(s.word) == 0 {
		return 0, s.err
	}
	n = copy(p, s.word)
	s.word = s.word[n:]
	return n, nil
}

// between reports whether no event has begun: one that is cut must not be ended.
func (s *stream) between() bool {
	return len(s.tail) == 0 || bytes.HasSuffix(s.tail, []byte("\n\n")) || bytes.HasSuffix(s.tail, []byte("\r\n\r\n"))
}
