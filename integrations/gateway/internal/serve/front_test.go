package serve

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
)

// front is the front end of two models of which one fits into memory.
type front struct {
	*httptest.Server
	m       *modeltier.Manager
	engines *engines.Mover
	again   *reloader
	path    string // of its configuration
	config  map[string]any
}

// newFront has an engine with these further settings.
func newFront(t *testing.T, settings ...map[string]any) *front {
	t.Helper()
	dir := t.TempDir()
	var models []map[string]any
	for _, name := range []string{"small", "large"} {
		path := filepath.Join(dir, name+".bin")
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		models = append(models, map[string]any{"name": name, "path": name + ".bin", "runtime_gb": 0.1, "capabilities": []string{"text-generation", name}})
	}
	engine := map[string]any{"command": []string{os.Args[0]}, "env": enginetest.Env}
	for _, more := range settings {
		maps.Copy(engine, more)
	}
	f := &front{path: filepath.Join(dir, "config.json"), config: map[string]any{
		"engines": map[string]any{"fake": engine},
		"models":  models,
		"limits":  map[string]any{"ram_gb": 0.15, "swap_gb": 1, "reserved_gb": 0.01},
	}}
	f.write(t)
	served := serveFront(t, &options{env: noEnv, config: f.path})
	served.path, served.config = f.path, f.config
	return served
}

// serveFront serves what the options say, on a machine that has memory.
func serveFront(t *testing.T, o *options) *front {
	t.Helper()
	lib, err := openLibrary(t.Context(), o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	lib.probe = enginetest.Plenty()
	r := &reloader{open: lib.again, lib: lib}
	h, err := startEngines(lib, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pin(t.Context(), r.manager, &config.File{}, lib.file, io.Discard)
	f := &front{m: r.manager, engines: r.engines, again: r}
	f.Server = httptest.NewServer(guarded(t, "", h))
	t.Cleanup(func() {
		f.Close()
		if err := f.m.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// write writes the configuration.
func (f *front) write(t *testing.T) {
	t.Helper()
	b, err := json.Marshal(f.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *front) post(t *testing.T, ctx context.Context, path, body string, header ...string) *http.Response {
	t.Helper()
	return enginetest.Post(t, ctx, f.Server, path, body, header...)
}

// fakeCommand is the -engine that is this binary.
func fakeCommand() string {
	return strings.Join(enginetest.Env, " ") + " " + quoted(os.Args[0])
}
