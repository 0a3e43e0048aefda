package process

import (
	"io"
	"sync"
	"time"
)

// traffic is what the holders of leases tell of their requests to an engine.
type traffic struct {
	mu      sync.Mutex // guards the rest; may be taken under Mover.mu
	uses    int
	waiting int           // uses that wait for something from the engine
	since   time.Time     // when the first of them began to, or any was last sent something
	waited  time.Duration // before since, for nothing: by requests that were given up
}

// wait counts one use more that waits, or, heard or not, one less.
func (t *traffic) wait(more int, heard bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case heard:
		t.waited, t.since = 0, now
	case t.waiting == 0:
		t.since = now
	case t.waiting+more == 0:
		t.waited += now.Sub(t.since)
	}
	t.waiting += more
}

// now returns how many uses there are, and for how long some have waited for nothing.
func (t *traffic) now() (uses int, silence time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting > 0 {
		silence = t.waited + time.Since(t.since)
	}
	return t.uses, silence
}

// Use is one request to an engine, from before it is sent until its answer has been read.
// The holder of a lease tells by it what the Mover cannot see: that the engine is in use,
// and that it sends something. Engine.IdleCheck and Engine.SilenceLimit go by that. Its
// methods may be called from any goroutine, but End not during a Read of a Body.
type Use struct {
	url string
	of  *traffic
	end sync.Once

	mu      sync.Mutex // guards waiting
	waiting bool
}

// Use begins a request to the engine of a model in ram. It returns false if that does not
// run, as URL does. The caller holds a lease, and calls End.
func (m *Mover) Use(model string) (*Use, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.serving(model)
	if c == nil {
		return nil, false
	}
	return c.use(), true
}

// use begins a request to an engine that serves. Mover.mu is held.
func (c *child) use() *Use {
	u := &Use{url: c.url, of: &c.traffic}
	u.of.mu.Lock()
	u.of.uses++
	u.of.mu.Unlock()
	u.waits(true, false)
	return u
}

// URL returns where the engine takes requests, as "http://127.0.0.1:port".
func (u *Use) URL() string { return u.url }

// Body returns the body of the engine's answer, which has begun. While it is not read, as
// its receiver is slow, the engine is not waited for.
func (u *Use) Body(of io.ReadCloser) io.ReadCloser {
	u.waits(false, true)
	return &useBody{of, u}
}

// End ends the use. It is idempotent.
func (u *Use) End() {
	u.end.Do(func() {
		u.waits(false, false)
		u.of.mu.Lock()
		defer u.of.mu.Unlock()
		u.of.uses--
	})
}

// waits tells if the engine is waited for from now on, and if it has sent something.
func (u *Use) waits(waiting, heard bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if waiting == u.waiting {
		return
	}
	u.waiting = waiting
	more := -1
	if waiting {
		more = 1
	}
	u.of.wait(more, heard)
}

type useBody struct {
	io.ReadCloser
	use *Use
}

// Read implements io.Reader.
func (b *useBody) Read(p []byte) (n int, err error) {
	b.use.waits(true, false)
	defer func() { b.use.waits(false, n > 0 || err == io.EOF) }()
	return b.ReadCloser.Read(p)
}
