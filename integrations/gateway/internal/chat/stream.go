package chat

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Sink is what a face makes of a stream. Start comes first and once; then the parts, one
// after the other, each with Open, any number of Deltas and Close; then End. Fail may come
// at any time, even first, with a part open, and is the last.
type Sink interface {
	Start(id string, created int64)
	Open(Opening)
	Delta(text string)
	Close()
	End(Finish)
	Fail(*EngineError)
	// Idle says that the engine is there and has nothing to say: a comment in its stream.
	Idle()
}

// Reader is the stream of a face, made of an engine's. What it yields does not depend on
// how the engine's stream is cut into reads, and comes as soon as there is some. A stream
// that is an error, makes no sense or is cut ends with an error in the face's shape, and
// then with io.EOF.
type Reader struct {
	body io.Closer
	in   *bufio.Reader
	out  bytes.Buffer
	sink Sink

	data []byte // of the event that is being read
	seq  sequence
	done bool
}

// Bounds on an engine's stream.
const (
	maxEvent  = 4 << 20  // bytes of an event
	maxAnswer = 16 << 20 // bytes of all the text of an answer, and of what its parts take
	maxKept   = 64 << 10 // bytes of an event that are kept for the next
	partSize  = 512      // bytes that a sink may keep of a part beside its text and names
)

// NewReader returns a Reader of an engine's event stream, which it closes when it is
// closed. A sink writes to what it was made with.
func NewReader(body io.ReadCloser, sink func(out *bytes.Buffer) Sink) *Reader {
	r := &Reader{body: body, in: bufio.NewReader(body)}
	r.sink = sink(&r.out)
	r.seq.sink = r.sink
	return r
}

// Close implements io.Closer.
func (r *Reader) Close() error { return r.body.Close() }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for len(p) > 0 && r.out.Len() == 0 {
		if r.done {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			r.fail(err)
		}
	}
	return r.out.Read(p)
}

func (r *Reader) fail(err error) {
	e, ok := errors.AsType[*EngineError](err)
	if !ok {
		e = enginef("the engine's answer cannot be read: %v", err).(*EngineError)
	}
	r.sink.Fail(e)
	r.done = true
}

// next takes one line of the stream.
func (r *Reader) next() error {
	line, err := r.line()
	switch {
	case err != nil && r.seq.finished:
		r.end()
		return nil
	case errors.Is(err, io.EOF):
		return enginef("the engine ended in the middle of its answer")
	case errors.Is(err, errLong):
		return err
	case err != nil:
		return enginef("the engine ended in the middle of its answer: %v", err)
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch {
	case len(line) == 0:
		data := r.data
		if r.data = r.data[:0]; cap(r.data) > maxKept {
			r.data = nil
		}
		return r.event(data)
	case len(name) == 0:
		r.sink.Idle()
	case string(name) == "data":
		if len(r.data)+len(value) > maxEvent {
			return errLong
		}
		if len(r.data) > 0 {
			r.data = append(r.data, '\n')
		}
		r.data = append(r.data, value...)
	case string(name) == "error": // llama-server's, until 2025
		return failureOf(bytes.TrimSpace(value))
	}
	return nil
}

var errLong = enginef("the engine's answer has an event of more than %d MiB", maxEvent>>20)

// line returns a line without its end, valid until the next. What is left of one when the
// stream ends is none.
func (r *Reader) line() ([]byte, error) {
	var long []byte
	for {
		part, err := r.in.ReadSlice('\n')
		if len(long)+len(part) > maxEvent {
			return nil, errLong
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if err != nil {
			return nil, err
		}
		if long != nil {
			part = append(long, part...)
		}
		return bytes.TrimSuffix(part[:len(part)-1], []byte("\r")), nil
	}
}

// event takes an event that is whole.
func (r *Reader) event(data []byte) error {
	data = bytes.TrimSpace(data)
	switch {
	case len(data) == 0:
		return nil
	case string(data) == "[DONE]":
		if !r.seq.started {
			return enginef("the engine's answer is empty")
		}
		r.end()
		return nil
	}
	w, err := decodeAnswer(data)
	if err != nil {
		return err
	}
	return r.seq.chunk(w)
}

func (r *Reader) end() {
	r.seq.closePart()
	r.sink.End(r.seq.finish())
	r.done = true
}

// sequence makes parts that follow each other of the deltas of an answer.
type sequence struct {
	sink     Sink
	id       string
	started  bool
	open     Kind // 0: none
	call     wireCall
	calls    map[int]string // the ID of the last call at each index
	count    int            // of calls
	size     int            // bytes of text, and what the parts take
	refused  bool
	finished bool
	last     wireChoice // that had a reason to finish
	usage    *wireUsage
}

func (s *sequence) finish() Finish {
	f := finishOf(&s.last, s.count > 0, s.refused)
	f.Usage = usageOf(s.usage)
	return f
}

func (s *sequence) chunk(w *wireAnswer) error {
	if !s.started {
		s.started, s.id = true, idOf(w.ID)
		s.sink.Start(s.id, createdOf(w.Created))
	}
	if w.Usage != nil {
		s.usage = w.Usage
	}
	for i := range w.Choices {
		c := &w.Choices[i]
		if c.Index != 0 || s.finished { // only one was asked for
			continue
		}
		d := &c.Delta
		s.refused = s.refused || d.Refusal != ""
		s.text(KindReasoning, d.reasoning())
		s.text(KindText, d.Content)
		s.text(KindRefusal, d.Refusal)
		for j := range d.ToolCalls {
			if err := s.tool(&d.ToolCalls[j]); err != nil {
				return err
			}
		}
		if s.size > maxAnswer {
			return enginef("the engine's answer has more than %d MiB", maxAnswer>>20)
		}
		if c.FinishReason != "" {
			s.closePart()
			s.finished, s.last = true, wireChoice{FinishReason: c.FinishReason, StopReason: bytes.Clone(c.StopReason)}
		}
	}
	return nil
}

func (s *sequence) closePart() {
	if s.open != 0 {
		s.sink.Close()
		s.open = 0
	}
}

func (s *sequence) begin(o Opening) {
	s.closePart()
	s.open = o.Kind
	s.size += partSize + len(o.CallID) + len(o.Name)
	s.sink.Open(o)
}

func (s *sequence) text(kind Kind, text string) {
	if text == "" {
		return
	}
	if s.open != kind {
		s.begin(Opening{Kind: kind})
	}
	s.delta(text)
}

func (s *sequence) delta(text string) {
	s.size += len(text)
	s.sink.Delta(text)
}

// tool takes a delta of a tool call. Which call it belongs to is in its index; some
// engines leave that out, or have 0 for all and tell them apart by their IDs.
func (s *sequence) tool(c *wireCall) error {
	arguments, err := c.arguments()
	if err != nil {
		return err
	}
	if !s.belongs(c) {
		if c.Function.Name == "" && arguments == "" {
			return nil
		}
		index := s.count
		if c.Index != nil {
			index = *c.Index
		}
		id, known := s.calls[index]
		switch {
		case known && (c.ID == "" || c.ID == id):
			return enginef("the engine's answer has tool calls that are mixed with each other")
		case c.Function.Name == "":
			return enginef("the engine's answer has a tool call without a name")
		case s.count == maxCalls:
			return enginef("the engine's answer has more than %d tool calls", maxCalls)
		}
		if s.calls == nil {
			s.calls = make(map[int]string)
		}
		s.calls[index] = c.ID
		s.call = wireCall{Index: &index, ID: c.ID}
		s.begin(Opening{KindToolCall, callID(c.ID, s.id, s.count), c.Function.Name})
		s.count++
	}
	if arguments != "" {
		s.delta(arguments)
	}
	return nil
}

// belongs reports whether a delta is of the call that is open.
func (s *sequence) belongs(c *wireCall) bool {
	switch {
	case s.open != KindToolCall:
		return false
	case c.ID != "" && c.ID != s.call.ID:
		return false
	case c.Index != nil:
		return *c.Index == *s.call.Index
	}
	return c.ID != "" || c.Function.Name == ""
}
