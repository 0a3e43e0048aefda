package access

import (
	"container/list"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// MaxConnections returns how many connections are accepted at once: 4096, or fewer where
// the process may not open that many files. A request in progress takes two, the client's
// connection and the engine's, and a quarter is left to models.
func MaxConnections() int { return max(16, min(4096, openFiles()*3/8)) }

// limit bounds the connections of all listeners together. If another one comes, the one
// that has been idle longest is closed for it; if none is idle it waits until one ends,
// and those behind it wait in the kernel.
func limit(n int, lns []net.Listener) []net.Listener {
	d := &door{slots: make(chan struct{}, n)}
	limited := make([]net.Listener, len(lns))
	for i, ln := range lns {
		limited[i] = &listener{Listener: ln, door: d, closed: make(chan struct{})}
	}
	return limited
}

// door counts connections.
type door struct {
	slots chan struct{} // holds one for each open connection

	mu      sync.Mutex
	waiting int       // connections that wait for a slot
	idle    list.List // of *conn: those between two requests, the longest first
}

type listener struct {
	net.Listener
	door   *door
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.door.enter(l.closed) {
		c.Close()
		return nil, net.ErrClosed
	}
	return &conn{Conn: c, door: l.door}, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// enter takes a slot, and reports false if closed was closed before there was one.
func (d *door) enter(closed <-chan struct{}) bool {
	select {
	case d.slots <- struct{}{}:
		return true
	default:
	}
	d.mu.Lock()
	d.waiting++
	var victim *conn
	if first := d.idle.Front(); first != nil {
		victim = first.Value.(*conn)
		d.forget(victim) // another that comes takes another
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.waiting--
		d.mu.Unlock()
	}()
	if victim != nil {
		victim.Close()
	}
	select {
	case d.slots <- struct{}{}:
		return true
	case <-closed:
		return false
	}
}

// forget takes a connection from those that are idle. d.mu is held.
func (d *door) forget(c *conn) {
	if c.idle != nil {
		d.idle.Remove(c.idle)
		c.idle = nil
	}
}

// conn is a connection that has a slot.
type conn struct {
	net.Conn
	door *door
	idle *list.Element // in door.idle; guarded by door.mu
	once sync.Once
	// active is set while a request is answered; ahead is what its client has sent after it.
	// http.Server has one Read at a time.
	active atomic.Bool
	ahead  []byte
}

// maxAhead bounds what a client may send before it has its answer.
const maxAhead = 64 << 10

var errAhead = errors.New("the client sent too much before it had its answer")

// Read implements net.Conn. While a request is answered http.Server reads a single byte, to
// notice that the client leaves. If one comes, it would look no further, and a client that
// has sent one and left would have its engine at work for as long as that likes. So that
// read goes on here, until the client leaves or the server, by a deadline, ends it.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n != 1 || len(p) != 1 || err != nil || !c.active.Load() {
		return n, err
	}
	for more := make([]byte, 4<<10); len(c.ahead) < maxAhead; {
		n, err := c.Conn.Read(more)
		c.ahead = append(c.ahead, more[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 1, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, errAhead
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.door.mu.Lock()
		c.door.forget(c)
		c.door.mu.Unlock()
		<-c.door.slots
	})
	return c.Conn.Close()
}

// CloseWrite is for http.Server, which ends its side before it closes a connection that
// has more to be read: else the client could lose the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// noteState is the ConnState of a server: it tells which connections are in use. One that
// becomes idle while others wait is closed.
func noteState(nc net.Conn, state http.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	c.active.Store(state == http.StateActive)
	d := c.door
	d.mu.Lock()
	d.forget(c)
	full := false
	if state == http.StateIdle {
		if full = d.waiting > 0; !full {
			c.idle = d.idle.PushBack(c)
		}
	}
	d.mu.Unlock()
	if full {
		c.Close()
	}
}
