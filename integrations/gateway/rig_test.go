package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

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
	return enginetest.Post(t, ctx, f.Server, path, body, header...)
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
