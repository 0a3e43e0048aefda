package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// launch runs the server over a folder until stop is called, which returns how it ended.
func launch(t *testing.T, models, state string) (url string, stop func() error) {
	t.Helper()
	out, in := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", models, state, slog.New(slog.NewJSONHandler(in, nil)))
		in.Close()
		ended <- err
	}()
	stop = func() error { cancel(); return <-ended }
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var line struct{ Msg, URL string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			go io.Copy(io.Discard, out)
			return line.URL, stop
		}
	}
	t.Fatalf("it does not listen: %v", stop())
	return "", nil
}

// answerTo returns the JSON that a request is answered with.
func answerTo(t *testing.T, method, url, body string) (status int, v map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(b, &v) // what is no JSON is seen by its status
	return res.StatusCode, v
}

func TestServer_ItsWholeLife(t *testing.T) {
	models, state := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(models, "tiny.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join((&demo.Llama{Name: "tiny", Width: 64, Inner: 64, Layers: 2}).Write(t.Context(), f, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	url, stop := launch(t, models, state)
	if status, a := answerTo(t, "GET", url+"/first/tiny", ""); status != http.StatusOK || a["model"] != "tiny" || a["magic"] != "GGUF" || a["tier"] != "ram" {
		t.Errorf("%d %v", status, a)
	}
	if status, _ := answerTo(t, "GET", url+"/first/tine", ""); status != http.StatusNotFound {
		t.Errorf("a model that is not there: %d", status)
	}
	if status, _ := answerTo(t, "GET", url+"/readyz", ""); status != http.StatusOK {
		t.Errorf("it is not ready: %d", status)
	}
	if _, a := answerTo(t, "POST", url, `{"update_limits": {"ram_max_gb": 4.5}}`); a["status"] != "success" {
		t.Errorf("%v", a)
	}
	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if res, err := http.Get(url + "/readyz"); err == nil {
		res.Body.Close()
		t.Error("it answers when it has ended")
	}

	url, stop = launch(t, models, state)
	if _, a := answerTo(t, "POST", url, `{"update_limits": {"ram_max_gb": 4.5}}`); a["old_limits"].(map[string]any)["ram_max_gb"] != 4.5 {
		t.Errorf("the next one has forgotten the limits: %v", a)
	}
	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestRun_CannotStart_IsAnErrorAndLetsTheStateGo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	log, state := slog.New(slog.DiscardHandler), t.TempDir()
	if err := run(t.Context(), taken.Addr().String(), t.TempDir(), state, log); err == nil {
		t.Error("it ran on an address that is taken")
	}
	if err := run(t.Context(), "127.0.0.1:0", filepath.Join(state, "gone"), state, log); err == nil {
		t.Error("it ran over a folder that is not there")
	}
	_, stop := launch(t, t.TempDir(), state)
	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// slow has loads that last until it is told to go on.
type slow struct {
	tiertest.Mover
	began, goOn chan struct{}
}

func (s *slow) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	close(s.began)
	select {
	case <-s.goOn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.Mover.Move(ctx, mv, progress)
}

// A request that waits for its model does not hold up the end.
func TestServe_ToldToStop_AnswersThoseThatWait(t *testing.T) {
	mover := &slow{began: make(chan struct{}), goOn: make(chan struct{})}
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "a", Size: tier.MiB}}, Mover: mover,
		Probe: tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, status := make(chan error, 1), make(chan int, 1)
	go func() { ended <- serve(ctx, ln, m) }()
	go func() {
		s, _ := answerTo(t, "GET", "http://"+ln.Addr().String()+"/first/a", "")
		status <- s
	}()
	<-mover.began
	cancel()
	if s := <-status; s != http.StatusServiceUnavailable {
		t.Errorf("the request that waited: %d", s)
	}
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrClosed) {
		t.Errorf("the Manager is not closed: %v", err)
	}
}
