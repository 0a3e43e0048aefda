package without

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/modeltier/modeltier/benchmarks/service/engines"
)

// Service answers POST /KIND/MODEL.
type Service struct {
	pool  *pool
	kinds map[string]string
}

// New returns the service of models in limit bytes of memory. Command, followed by a
// file and a port, is a chat engine.
func New(models []engines.Model, limit int64, maxWait time.Duration, command ...string) (*Service, error) {
	s := &Service{kinds: map[string]string{}}
	for _, m := range models {
		s.kinds[m.Name] = m.Kind
	}
	s.pool = newPool(models, limit, maxWait, func(ctx context.Context, m engines.Model) (engine, error) {
		if m.Kind == engines.Chat {
			return startChild(ctx, m, command)
		}
		e, err := engines.LoadCopy(ctx, m.Path, m.Size, func(int64) {})
		return inProcess{e}, err
	})
	return s, nil
}

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	input, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := r.PathValue("model")
	e, release, err := s.pool.acquire(r.Context(), name)
	if err != nil {
		status := http.StatusInternalServerError
		switch {
		case errors.Is(err, errUnknown):
			status = http.StatusNotFound
		case errors.Is(err, errTooLarge):
			status = http.StatusInsufficientStorage
		case errors.Is(err, errBusy), errors.Is(err, errClosed):
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", "5")
		}
		http.Error(w, err.Error(), status)
		return
	}
	defer release()
	switch e := e.(type) {
	case inProcess:
		err = engines.Answer(w, s.kinds[name], e, e.Size(), string(input))
	case *child:
		err = engines.Relay(w, r, e.url, input)
	}
	switch {
	case err == nil:
	case errors.Is(err, engines.ErrNoAnswer):
		http.Error(w, err.Error(), http.StatusBadGateway)
	default:
		panic(http.ErrAbortHandler) // the answer has begun
	}
}

// Charged is the most memory that was ever promised.
func (s *Service) Charged() int64 {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.pool.peak
}

// Close lets what runs end, and stops all engines.
func (s *Service) Close(ctx context.Context) error { return s.pool.close(ctx) }

// inProcess is an engine in this process.
type inProcess struct{ *engines.Copy }

func (e inProcess) stop()               { e.Close() }
func (inProcess) done() <-chan struct{} { return nil }

// child is a chat engine.
type child struct {
	cmd   *exec.Cmd
	url   string
	ended chan struct{}
}

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second
)

func startChild(ctx context.Context, m engines.Model, command []string) (engine, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	_ = listener.Close()
	if err != nil {
		return nil, err
	}
	c := &child{url: "http://127.0.0.1:" + port, ended: make(chan struct{})}
	c.cmd = exec.Command(command[0], append(append([]string(nil), command[1:]...), m.Path, port)...)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait() // how it ended shows in its answers
		close(c.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !healthy(ctx, c.url) {
		select {
		case <-c.ended:
			return nil, fmt.Errorf("the engine of %s ended before it was ready: %v", m.Name, c.cmd.ProcessState)
		case <-ctx.Done():
			c.stop()
			return nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return c, nil
}

func healthy(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (c *child) stop() {
	_ = c.cmd.Process.Signal(os.Interrupt) // it may have ended
	select {
	case <-c.ended:
	case <-time.After(stopTimeout):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

func (c *child) done() <-chan struct{} { return c.ended }
