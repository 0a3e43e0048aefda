package access

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestListen_WithoutKeys_LoopbackOnly(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.9.9.9:0", "[::1]:0"} {
		lns, err := Listen([]string{addr}, false)
		if err != nil {
			if strings.Contains(err.Error(), "assign") { // not every system has all of 127/8, or IPv6
				continue
			}
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if !lns[0].Addr().(*net.TCPAddr).IP.IsLoopback() || !Local(lns) {
			t.Errorf("%s listens on %v", addr, lns[0].Addr())
		}
		lns[0].Close()
	}
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "8.8.8.8:80", "[2001:db8::1]:80"} {
		lns, err := Listen([]string{addr}, false)
		if err == nil {
			lns[0].Close()
			t.Errorf("%s: was opened", addr)
		} else if !strings.Contains(err.Error(), "MODELTIER_TOKEN") || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: %v does not say what to do", addr, err)
		}
	}
}

func TestListen_WithKeys_Anywhere(t *testing.T) {
	lns, err := Listen([]string{"0.0.0.0:0", "127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(lns) != 2 || Local(lns) || !Local(lns[1:]) {
		t.Errorf("got %v", lns)
	}
	for _, ln := range lns {
		ln.Close()
	}
}

func TestListen_OneOfSeveralFails_NoneStaysOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if lns, err := Listen([]string{"unix:" + path, "0.0.0.0:0"}, false); err == nil || lns != nil {
		t.Fatalf("got %v, %v", lns, err)
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("the first is open")
	}
}

func TestListen_PortTaken_SaysWhatToDo(t *testing.T) {
	lns, err := Listen([]string{"127.0.0.1:0"}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer lns[0].Close()
	if _, err := Listen([]string{lns[0].Addr().String()}, false); err == nil || !strings.Contains(err.Error(), "127.0.0.1:0") {
		t.Errorf("got %v", err)
	}
}

func TestListen_NoAddress_IsAnError(t *testing.T) {
	for _, addr := range []string{"", "8080", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:http:80", "unix:", "unix:@abstract"} {
		lns, err := Listen([]string{addr}, true)
		if err == nil {
			lns[0].Close()
			t.Errorf("%q was opened", addr)
		} else if strings.HasPrefix(addr, "unix:") && !strings.Contains(err.Error(), "path of a file") {
			t.Errorf("%q: %v does not say what is right", addr, err)
		}
	}
	if _, err := Listen(nil, true); err == nil {
		t.Error("no address at all was opened")
	}
}

func TestListen_UnixSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	modes := map[bool]fs.FileMode{false: 0o600, true: 0o666}
	for keys, mode := range modes {
		lns, err := Listen([]string{"unix:" + path}, keys)
		if err != nil {
			t.Fatal(err)
		}
		if at, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && at.Mode().Perm() != mode {
			t.Errorf("keys %v: %v, %v", keys, at.Mode(), err)
		}
		if !Local(lns) {
			t.Error("it is not local")
		}
		if _, err := Listen([]string{"unix:" + path}, keys); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("a second one: %v", err)
		}
		lns[0].Close()
	}

	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close() // as a process that was killed leaves it
	lns, err := Listen([]string{"unix:" + path}, false)
	if err != nil {
		t.Fatalf("one that was left behind: %v", err)
	}
	lns[0].Close()

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen([]string{"unix:" + file}, false); err == nil {
		t.Error("a file was replaced")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file has %q, %v", b, err)
	}
}

// served is a server with a bound on its connections, whose requests for /wait end with
// the test.
func served(t *testing.T, connections int) (addr string, waiting chan struct{}, d *door) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lns := limit(connections, []net.Listener{ln})
	waiting, end := make(chan struct{}, 10), make(chan struct{})
	srv := Server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			waiting <- struct{}{}
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
	}), slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.Serve(lns[0])
	}()
	t.Cleanup(func() {
		close(end)
		srv.Close()
		<-ended
	})
	return ln.Addr().String(), waiting, lns[0].(*listener).door
}

// awaitWaiting returns when a connection waits for a slot.
func (d *door) awaitWaiting() {
	for waits := 0; waits == 0; runtime.Gosched() {
		d.mu.Lock()
		waits = d.waiting
		d.mu.Unlock()
	}
}

type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return client{c, bufio.NewReader(c)}
}

func (c client) ask(t *testing.T, path string) {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

func (c client) answer(t *testing.T) {
	t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("got %s", res.Status)
	}
}

func (c client) ended(t *testing.T) {
	t.Helper()
	if b, err := c.in.ReadByte(); err != io.EOF {
		t.Fatalf("it goes on: %q, %v", b, err)
	}
}

func TestLimit_AllIdle_TheLongestGivesWay(t *testing.T) {
	addr, _, _ := served(t, 2)
	first, second := dial(t, addr), dial(t, addr)
	first.ask(t, "/")
	first.answer(t)
	second.ask(t, "/")
	second.answer(t)
	first.ask(t, "/") // now the second has been idle longer
	first.answer(t)
	third := dial(t, addr)
	third.ask(t, "/")
	third.answer(t)
	second.ended(t)
	first.ask(t, "/")
	first.answer(t)
}

func TestLimit_AllBusy_TheNextWaitsForOneToEnd(t *testing.T) {
	addr, waiting, door := served(t, 2)
	first, second := dial(t, addr), dial(t, addr)
	first.ask(t, "/wait")
	second.ask(t, "/wait")
	<-waiting
	<-waiting
	third := dial(t, addr)
	third.ask(t, "/wait")
	door.awaitWaiting()
	if len(waiting) > 0 {
		t.Fatal("a third is served")
	}
	first.Close()
	<-waiting
	fourth := dial(t, addr)
	fourth.ask(t, "/")
	second.Close()
	fourth.answer(t)
}

func TestLimit_BusyOneBecomesIdleWhileOthersWait_GivesWay(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inside, goOn := make(chan struct{}), make(chan struct{})
	lns := limit(1, []net.Listener{ln})
	srv := Server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			close(inside)
			<-goOn
		}
	}), slog.New(slog.DiscardHandler))
	go srv.Serve(lns[0])
	defer srv.Close()
	first := dial(t, ln.Addr().String())
	first.ask(t, "/first")
	<-inside
	second := dial(t, ln.Addr().String())
	second.ask(t, "/")
	lns[0].(*listener).door.awaitWaiting()
	close(goOn)
	first.answer(t)
	second.answer(t)
	first.ended(t)
}

func TestLimit_ClosedWhileOneWaits_AcceptEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limit(1, []net.Listener{ln})[0]
	dial(t, ln.Addr().String())
	one, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	dial(t, ln.Addr().String())
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	d := l.(*listener).door
	d.awaitWaiting()
	l.Close()
	l.Close()
	if err := <-accepted; err == nil {
		t.Error("a connection came in")
	}
	one.Close()
	one.Close()
	if n := len(d.slots); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

func TestServer_LargeHeaders_AreRefused(t *testing.T) {
	addr, _, _ := served(t, 10)
	for size, want := range map[int]string{16 << 10: "200", 40 << 10: "431"} {
		c := dial(t, addr)
		go io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nX-Long: "+strings.Repeat("x", size)+"\r\n\r\n")
		if line, err := c.in.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Errorf("%d bytes: %q, %v", size, line, err)
		}
	}
}

func TestMaxConnections_LeavesFilesForEngines(t *testing.T) {
	if n := MaxConnections(); n < 16 || n > 4096 || n > openFiles()/2 {
		t.Errorf("%d of %d files", n, openFiles())
	}
}

// answering is a server whose requests are told of, by their context, and answered with
// their path when that is let go.
func answering(t *testing.T) (addr string, asked chan context.Context, letGo chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, letGo = make(chan context.Context, 10), make(chan struct{}, 10)
	srv := Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Context()
		select {
		case <-letGo:
			io.WriteString(w, r.URL.Path)
		case <-r.Context().Done():
		}
	}), slog.New(slog.DiscardHandler))
	go srv.Serve(limit(10, []net.Listener{ln})[0])
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String(), asked, letGo
}

func TestServer_ClientHasSentMore_ItsEndIsNoticed(t *testing.T) {
	for name, more := range map[string]string{"a byte": "x", "a request": "GET /next HTTP/1.1\r\n\r\n", "without end": strings.Repeat("x", maxAhead+8<<10)} {
		addr, asked, _ := answering(t)
		c := dial(t, addr)
		c.ask(t, "/")
		ctx := <-asked
		io.WriteString(c, more)
		if name != "without end" {
			c.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
			t.Errorf("%s: the request goes on", name)
		}
	}
}

func TestServer_RequestsSentAhead_AreAnsweredInOrder(t *testing.T) {
	addr, asked, letGo := answering(t)
	c := dial(t, addr)
	const requests = 5
	c.ask(t, "/0")
	<-asked
	for i := 1; i < requests; i++ { // each while the first is answered
		c.ask(t, fmt.Sprintf("/%d?%s", i, strings.Repeat("x", 2000)))
	}
	for i := range requests {
		letGo <- struct{}{}
		res, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if want := fmt.Sprintf("/%d", i); err != nil || string(body) != want {
			t.Fatalf("%s: got %q, %v", want, body, err)
		}
		if i < requests-1 {
			<-asked
		}
	}
	c.ask(t, "/after")
	letGo <- struct{}{}
	c.answer(t)
}
