package room

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// through asks the engine, and passes its answer on. It does what httputil.ReverseProxy
// would, less what is not wanted here, and by less memory: an answer may be a stream that
// is idle for hours. That is why what is done before and after is in functions of their
// own: a stack of 8 KiB has to do, of which net/http takes half when it sends a head.
func (p *pass) through(w http.ResponseWriter, r *http.Request) {
	res, err := p.begin(r)
	if err != nil {
		p.fail(r.Context(), w, err)
		return
	}
	defer res.Body.Close()
	announced := lead(w.Header(), res)
	w.WriteHeader(res.StatusCode)
	if err := p.pour(r.Context(), w, res); err != nil {
		panic(http.ErrAbortHandler) // nothing else tells a client that an answer is not whole
	}
	if len(res.Trailer) > 0 {
		trail(w, res, announced)
	}
}

// begin asks the engine until its answer begins.
func (p *pass) begin(r *http.Request) (*http.Response, error) {
	out := (&http.Request{Method: r.Method, URL: &url.URL{}, Header: forEngine(r.Header)}).WithContext(r.Context())
	out.Header.Set(requestID, p.id)
	res, err := p.reach(out)
	if err != nil {
		return nil, err
	}
	if err := p.answer(res); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// lead puts the head of an answer into h. It returns the names of the trailers that are
// announced.
//
//go:noinline
func lead(h http.Header, res *http.Response) (announced []string) {
	for name, values := range res.Header {
		h[name] = append(h[name], values...)
	}
	for name := range res.Trailer {
		announced = append(announced, name)
	}
	if announced != nil {
		h["Trailer"] = announced
	}
	return announced
}

// trail sends the trailer of an answer.
func trail(w http.ResponseWriter, res *http.Response, announced []string) {
	_ = http.NewResponseController(w).Flush() // an answer that has a length has no trailer
	cleanAnswer(http.Header(res.Trailer))
	for name, values := range res.Trailer {
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		w.Header()[name] = values
	}
}

// fail tells the client that its engine did not answer.
func (p *pass) fail(ctx context.Context, w http.ResponseWriter, err error) {
	if ctx.Err() != nil {
		return // the client has left
	}
	problem := failed("The engine did not answer: " + err.Error())
	if own, ok := errors.AsType[*problemError](err); ok {
		problem = own.Problem
	} else {
		p.room.log.Warn("an engine failed a request", "model", p.model, "id", p.id, "err", err)
	}
	WriteProblem(w, p.face, problem)
}

// Answers are poured by small buffers, of which each stream that is idle holds one, and by
// large ones while they come faster than that.
var (
	small = sync.Pool{New: func() any { return new([1 << 10]byte) }}
	large = sync.Pool{New: func() any { return new([32 << 10]byte) }}
)

// pour passes the body of an answer on as it comes.
func (p *pass) pour(ctx context.Context, w http.ResponseWriter, res *http.Response) error {
	control, flows := http.NewResponseController(w), isStream(res.Header) || res.ContentLength < 0
	if flows {
		_ = control.Flush() // the head: the first part may take long. A writer that cannot is told more by Write
	}
	least, most := small.Get().(*[1 << 10]byte), (*[32 << 10]byte)(nil)
	defer small.Put(least)
	for {
		b := least[:]
		if most != nil {
			b = most[:]
		}
		n, err := res.Body.Read(b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			if ctx.Err() == nil {
				p.room.log.Warn("an engine ended in the middle of its answer", "model", p.model, "id", p.id, "err", err)
			}
			return err
		case n == len(b) && most == nil:
			most = large.Get().(*[32 << 10]byte)
		case n < len(b) && most != nil:
			large.Put(most)
			most = nil
		}
		if flows && n > 0 {
			_ = control.Flush()
		}
	}
}

// takeLimit is how long a client may take to take a part of its answer, beyond what fits
// into the buffers on the way: until then its model cannot give way to others. The time to
// the next part, which its engine takes, does not count.
const takeLimit = 2 * time.Minute

// flowing is an answer that may take for ever, as long as its client takes it.
type flowing struct {
	http.ResponseWriter
	set time.Time // when its deadline was last set
}

func (f *flowing) Write(p []byte) (int, error) {
	f.goOn()
	return f.ResponseWriter.Write(p)
}

// FlushError is for http.ResponseController.
func (f *flowing) FlushError() error {
	f.goOn()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

func (f *flowing) goOn() {
	now := time.Now()
	if now.Sub(f.set) < takeLimit/4 { // a token comes more often than that is worth
		return
	}
	f.set = now
	// Where there is no deadline to set, there is no connection.
	_ = http.NewResponseController(f.ResponseWriter).SetWriteDeadline(now.Add(takeLimit))
}

// Unwrap is for http.ResponseController, too.
func (f *flowing) Unwrap() http.ResponseWriter { return f.ResponseWriter }
