package room

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sync/semaphore"
)

// maxBody bounds a body: a long context, a few pictures, or half an hour of speech.
const maxBody = 64 << 20

// maxBodies bounds what is held of all bodies at once. A body is kept until its
// answer has ended, so without it a queue of long ones would be memory that stands
// in no account.
const maxBodies = 256 << 20

// bodyLimit is how long a body may take to come.
const bodyLimit = time.Minute

// errBodies is what reading a body ends with if the others leave it no room.
var errBodies = errors.New("the bodies of the requests in progress are too large together")

// read reads the body of a request. What it charges to the room of all bodies is to be
// released when the body is no longer held.
func (room *Room) read(w http.ResponseWriter, r *http.Request) (body []byte, held *charged, p *Problem) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, &charged{room: room.bodies}, nil
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, nil, &Problem{
			Status: http.StatusUnsupportedMediaType, Code: tier.Code(tier.ErrInvalid), Message: fmt.Sprintf("The body is compressed (Content-Encoding %q)", encoding),
			Suggestions: []string{"Send it as it is: models are asked without compression."},
		}
	}
	tooLong := &Problem{Status: http.StatusRequestEntityTooLarge, Code: tier.Code(tier.ErrInvalid), Message: "The body is longer than 64 MiB"}
	if r.ContentLength > maxBody { // a client that asks first (Expect) has sent nothing yet
		return nil, nil, tooLong
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyLimit))
	held = &charged{from: http.MaxBytesReader(w, r.Body, maxBody), room: room.bodies}
	body, err := readAll(held, r.ContentLength)
	if err == nil {
		_ = control.SetReadDeadline(time.Time{})
		return body, held, nil
	}
	held.release()
	if errors.Is(err, errBodies) {
		return nil, nil, &Problem{
			Status: http.StatusTooManyRequests, Code: tier.Code(tier.ErrBusy), RetryAfter: time.Second,
			Message: "The body cannot be taken now: " + err.Error(), Suggestions: []string{"Come back when some of them have their answers."},
		}
	}
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		return nil, nil, tooLong
	}
	return nil, nil, Invalid(errors.New("the body did not come whole: " + err.Error()))
}

// readAll reads r to its end. The length that was announced, -1 if none was, saves copies,
// and is believed up to 64 KiB.
func readAll(r io.Reader, announced int64) ([]byte, error) {
	b := make([]byte, 0, min(max(announced, 511), 64<<10)+1) // one more, to see the end
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return b, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// charged reads a body, and charges what it has read to the room of all of them
// until it is released. What is only announced costs nothing.
type charged struct {
	from io.Reader
	room *semaphore.Weighted
	held int64
}

// Read implements io.Reader.
func (c *charged) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if n > 0 && !c.room.TryAcquire(int64(n)) {
		return 0, errBodies
	}
	c.held += int64(n)
	return n, err
}

func (c *charged) release() {
	c.room.Release(c.held)
	c.held = 0
}
