package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// running is a server that serve runs, with a handler of the test's.
type running struct {
	url           string
	manager       *modeltier.Manager
	end, hurry    context.CancelCauseFunc
	ended         chan error
	entered, left chan struct{}
}

// start serves a handler that enters and then waits until it may leave or its
// client has gone.
func start(t *testing.T) *running {
	t.Helper()
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "a", Size: tier.MiB}},
		Mover:  &tiertest.Mover{},
		Probe:  tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{url: "http://" + ln.Addr().String(), manager: m, ended: make(chan error, 1), entered: make(chan struct{}), left: make(chan struct{})}
	h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.entered <- struct{}{}
		select {
		case <-r.left:
		case <-req.Context().Done():
		}
	})
	stop, end := context.WithCancelCause(context.Background())
	now, hurry := context.WithCancelCause(context.Background())
	r.end, r.hurry = end, hurry
	go func() {
		r.ended <- serve(stop, now, []net.Listener{ln}, h, m, 30*time.Second, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() { end(nil); hurry(nil); m.Close() })
	return r
}

// ask sends a request and returns what comes of it.
func (r *running) ask(t *testing.T) <-chan error {
	got := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.url, nil)
		if err == nil {
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		got <- err
	}()
	return got
}

func (r *running) isClosed() bool {
	_, err := r.manager.Acquire(context.Background(), modeltier.Request{Model: "a"})
	return errors.Is(err, modeltier.ErrClosed)
}

func TestServe_ToldToStop_LetsRequestsFinish(t *testing.T) {
	r := start(t)
	answer := r.ask(t)
	<-r.entered
	r.end(errors.New("told to"))
	close(r.left)
	if err := <-answer; err != nil {
		t.Errorf("the running request: %v", err)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := <-r.ask(t); err == nil {
		t.Error("a new request was answered")
	}
	if !r.isClosed() {
		t.Error("the Manager is not closed")
	}
}

func TestServe_ToldTwice_CutsRequestsOff(t *testing.T) {
	r := start(t)
	lease, err := r.manager.Acquire(t.Context(), modeltier.Request{Model: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	answer := r.ask(t)
	<-r.entered
	r.end(errors.New("told to"))
	r.hurry(errors.New("told again"))
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "told again") {
		t.Errorf("serve: %v", err)
	}
	if err := <-answer; err == nil {
		t.Error("the running request was answered")
	}
	if !r.isClosed() {
		t.Error("the Manager is not closed")
	}
}

func TestServe_ListenerFails_ClosesTheManager(t *testing.T) {
	r := start(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := serve(t.Context(), t.Context(), []net.Listener{ln}, http.NotFoundHandler(), r.manager, time.Second, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
	if !r.isClosed() {
		t.Error("the Manager is not closed")
	}
}

func TestStart_Stuck_EndsAllTheSame(t *testing.T) {
	told, again := errors.New("told to"), errors.New("told again")
	for name, c := range map[string]struct {
		takes    time.Duration // the start
		hurry    time.Duration // after the first signal; 0: no second one
		want     error
		wantTime time.Duration
	}{
		"it is stuck":            {takes: time.Hour, want: told, wantTime: time.Second + startLimit},
		"it is stuck, and twice": {takes: time.Hour, hurry: time.Second, want: told, wantTime: 2 * time.Second},
		"it returns soon":        {takes: 2 * time.Second, wantTime: 2 * time.Second},
		"it is not ended":        {takes: time.Millisecond, wantTime: time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			stop, end := context.WithCancelCause(t.Context())
			now, hurry := context.WithCancelCause(t.Context())
			defer hurry(nil)
			time.AfterFunc(time.Second, func() { end(told) })
			if c.hurry > 0 {
				time.AfterFunc(time.Second+c.hurry, func() { hurry(again) })
			}
			began := time.Now()
			serving, err := startWithin(startLimit, stop, now, func() (func() error, error) {
				time.Sleep(c.takes)
				return func() error { return nil }, nil
			})
			if took := time.Since(began); took != c.wantTime || !errors.Is(err, c.want) || (serving == nil) != (err != nil) {
				t.Errorf("%s: %v after %v, want %v after %v", name, err, took, c.want, c.wantTime)
			}
			time.Sleep(c.takes) // a stuck start must not outlive the bubble
		})
	}
}
