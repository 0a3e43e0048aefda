package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

func TestMain(m *testing.M) {
	enginetest.Main()
	os.Exit(m.Run())
}

// front is the front end of two models of which one fits into memory.
type front struct {
	*httptest.Server
	m       *modeltier.Manager
	engines *engines.Mover
	models  []tier.Model
	limits  tier.Limits
}

// newFront has engines that are this binary, with these further settings.
func newFront(t *testing.T, settings ...func(*config.Engine)) *front {
	t.Helper()
	dir := t.TempDir()
	f := &front{limits: tier.Limits{RAM: 150 * tier.MiB, Swap: tier.GiB, Reserved: 10 * tier.MiB, MaxModel: tier.GiB}}
	for _, name := range []string{"small", "large"} {
		path := filepath.Join(dir, name+".bin")
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		f.models = append(f.models, tier.Model{Name: name, Path: path, Runtime: 100 * tier.MiB, Capabilities: []string{"text-generation", name}})
	}
	engine := config.Engine{Command: []string{os.Args[0]}, Env: enginetest.Env}
	for _, set := range settings {
		set(&engine)
	}
	log := slog.New(slog.DiscardHandler)
	var m atomic.Pointer[modeltier.Manager]
	crashed := func(model string, cause error) {
		if m := m.Load(); m != nil {
			m.ReportCrash(model, cause)
		}
	}
	var err error
	if f.engines, err = engines.New(engines.Options{Engines: map[string]config.Engine{"fake": engine}, Crashed: crashed, Logger: log}); err != nil {
		t.Fatal(err)
	}
	if f.m, err = modeltier.New(modeltier.Config{Models: f.models, Limits: f.limits, Mover: f.engines, Probe: enginetest.Plenty()}); err != nil {
		t.Fatal(err)
	}
	m.Store(f.m)
	f.Server = httptest.NewServer(gateway.New(f.m, gateway.Config{}))
	t.Cleanup(func() {
		f.Close()
		if err := f.m.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *front) post(t *testing.T, ctx context.Context, path, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// idle waits until no lease is held.
func (f *front) idle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		leases := 0
		for s := range f.m.Models() {
			leases += s.Leases
		}
		if leases == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d leases are still held", leases)
		case <-time.After(time.Millisecond):
		}
	}
}

func whole(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// problem is an error as OpenAI's clients read it.
type problem struct {
	Error struct {
		Message, Type, Code string
		Suggestions         []string
	}
}

// servedAt returns a front end of one model, m, whose engine is at a URL.
func servedAt(tb testing.TB, url string) http.Handler {
	m, err := modeltier.New(modeltier.Config{Models: []tier.Model{{Name: "m", Size: tier.MiB, Capabilities: []string{"text-generation"}}}, Mover: enginetest.At(url), Probe: enginetest.Plenty()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return gateway.New(m, gateway.Config{})
}
