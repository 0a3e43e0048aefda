package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/benchmarks/service/engines"
	"github.com/modeltier/modeltier/benchmarks/service/with"
	"github.com/modeltier/modeltier/benchmarks/service/without"
)

// role is the environment variable that makes another program of the test's.
const role = "MODELTIER_SERVICE_ROLE"

// pace is the one of engines.Pace.
const pace = "MODELTIER_SERVICE_PACE"

// maxWait is how long a request may wait, whichever way the service is written.
const maxWait = time.Minute

func TestMain(m *testing.M) {
	if text, set := os.LookupEnv(pace); set {
		d, err := time.ParseDuration(text)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		engines.Pace = d
	}
	var err error
	switch as := os.Getenv(role); as {
	case "":
		os.Exit(m.Run())
	case "engine":
		err = engines.ServeChat(os.Args[1], os.Args[2])
	default:
		err = serve(as, os.Args[1], os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is the service as a program: it ends in order when its standard input does.
func serve(way, dir, size, limit string) error {
	weights, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	memory, err := strconv.ParseInt(limit, 10, 64)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Setenv(role, "engine"); err != nil { // for its children
		return err
	}
	var service interface {
		http.Handler
		Charged() int64
		Close(ctx context.Context) error
	}
	models := engines.Models(dir, weights)
	if way == "with" {
		service, err = with.New(models, memory, maxWait, self)
	} else {
		service, err = without.New(models, memory, maxWait, self)
	}
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /{kind}/{model}", service)
	mux.HandleFunc("GET /charged", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, service.Charged()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	fmt.Println(listener.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	return service.Close(ctx)
}

// server is a running service.
type server struct {
	way, base string
	cmd       *exec.Cmd
	stdin     io.Closer
	client    *http.Client
	ended     chan error
}

func start(t *testing.T, way, dir string, size, limit int64) *server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{way: way, ended: make(chan error, 1), client: &http.Client{Timeout: maxWait + maxWait/2, Transport: &http.Transport{MaxIdleConnsPerHost: clients}}}
	s.cmd = exec.Command(self, dir, strconv.FormatInt(size, 10), strconv.FormatInt(limit, 10))
	s.cmd.Env = append(os.Environ(), role+"="+way)
	s.cmd.Stderr = os.Stderr
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { s.ended <- s.cmd.Wait() }()
	if err != nil {
		t.Fatalf("%s: the server did not start: %v, %v", way, err, <-s.ended)
	}
	s.base = "http://" + strings.TrimSpace(line)
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		_ = s.cmd.Process.Kill() // it has ended, usually
	})
	return s
}

// stop ends the server in order.
func (s *server) stop(t *testing.T) {
	t.Helper()
	s.client.CloseIdleConnections()
	_ = s.stdin.Close()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("%s: the end of the server: %v", s.way, err)
		}
	case <-time.After(2 * maxWait):
		t.Errorf("%s: the server does not end", s.way)
	}
}

// kill ends it as the kernel would for want of memory.
func (s *server) kill(t *testing.T) {
	t.Helper()
	s.client.CloseIdleConnections()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-s.ended
}

func (s *server) charged(t *testing.T) int64 {
	t.Helper()
	res, err := s.client.Get(s.base + "/charged")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(string(body), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// watched is a connection to a chat engine, which tells when that ends.
type watched struct {
	conn net.Conn
	addr string
}

func watch(t *testing.T, engine string) *watched {
	t.Helper()
	conn, err := net.Dial("tcp", engine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &watched{conn, engine}
}

// orphan reports whether the engine is still there, 5 s after its server has ended, and
// ends it.
func (w *watched) orphan(t *testing.T) bool {
	t.Helper()
	if err := w.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := w.conn.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	if !ok || !timeout.Timeout() {
		return false
	}
	if _, err := http.Post("http://"+w.addr+"/exit", "", nil); err == nil {
		t.Error("the engine answered, and was to exit")
	}
	return true
}
