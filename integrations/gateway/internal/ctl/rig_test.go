package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write what is printed into testdata")

// outcome is what a command came to.
type outcome struct {
	code        int
	out, stderr string
}

// modeltierWith runs a command line until it ends, or ctx does.
func modeltierWith(ctx context.Context, args ...string) outcome {
	return modeltierSaying(ctx, &output{}, args...)
}

// output is what a command has written so far. It is safe for concurrent use.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// modeltierSaying is modeltierWith whose output is seen meanwhile.
func modeltierSaying(ctx context.Context, out *output, args ...string) outcome {
	root := &cobra.Command{Use: "modeltier", RunE: func(*cobra.Command, []string) error { return nil }}
	AddTo(root)
	var stderr bytes.Buffer
	root.SetOut(out)
	root.SetErr(&stderr)
	root.SetContext(ctx)
	code := Main(root, args)
	return outcome{code, out.String(), stderr.String()}
}

// at runs command lines against the server at a URL.
func at(t *testing.T, url string) func(args ...string) outcome {
	t.Helper()
	t.Setenv(serverVariable, url)
	t.Setenv(keyVariable, "")
	return func(args ...string) outcome {
		t.Helper()
		return modeltierWith(t.Context(), args...)
	}
}

// golden holds an outcome against a file of testdata.
func golden(t *testing.T, name string, got outcome) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	text := got.out
	if got.stderr != "" {
		text += "-- stderr --\n" + got.stderr
	}
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if d := cmp.Diff(string(want), text); d != "" {
		t.Errorf("%s: %s", path, d)
	}
}

const gib = tier.GiB

// library are the models of the tests.
func library() []tier.Model {
	return []tier.Model{
		{Name: "small", Size: gib / 2, Capabilities: []string{"chat", "fast"}},
		{Name: "large", Size: 3 * gib, Capabilities: []string{"chat"}},
		{Name: "words", Size: 2 * gib, Capabilities: []string{"embeddings"}},
	}
}

// live is a Manager behind its own Handler, over a mover that takes no time but where it
// is held up.
type live struct {
	*modeltier.Manager
	url string
	// hold, if set, is received from by each move of a model before it goes on.
	hold atomic.Pointer[chan struct{}]
	// posts counts requests of the contract.
	posts atomic.Int32
}

// heldMover has each move wait for hold, until it is called off.
type heldMover struct {
	*tiertest.Mover
	hold *atomic.Pointer[chan struct{}]
}

func (h *heldMover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if hold := h.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return h.Mover.Move(ctx, mv, progress)
}

func serveModels(t *testing.T) *live {
	t.Helper()
	l := &live{}
	mover := &heldMover{&tiertest.Mover{Time: func(tier.Move) time.Duration { return 0 }, OnlyRAM: true}, &l.hold}
	m, err := modeltier.New(modeltier.Config{
		Models: library(), Mover: mover, Probe: tiertest.NewProbe(tier.Memory{Total: 8 * gib, Available: 8 * gib}),
		Limits: tier.Limits{RAM: 5 * gib, Swap: tier.None, Reserved: gib},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Manager = m
	own := m.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			l.posts.Add(1)
		}
		own.ServeHTTP(w, r)
	}))
	l.url = server.URL
	t.Cleanup(func() {
		m.Close() // ends what holds a connection
		server.Close()
	})
	return l
}

// until20s waits for a condition that the world has to come to.
func until20s(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func decode[T any](t *testing.T, o outcome) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.out), &v); err != nil {
		t.Fatalf("%v in %q (%q)", err, o.out, o.stderr)
	}
	return v
}

// answering is a server that says the same to everything.
func answering(t *testing.T, status int, kind, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return server.URL
}
