package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Models of faces, named after what they do.
const (
	talker   = "talker"
	seer     = "seer"
	embedder = "embedder"
	ranker   = "ranker"
	speaker  = "speaker"
	listener = "listener"
	painter  = "painter"
)

// faces runs the server over a model for each kind of path, whose engines are stand-ins
// that lack the paths of without. It returns the server's URL.
func faces(t *testing.T, without ...string) string {
	t.Helper()
	if err := buildStandIn(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var models []any
	for name, capabilities := range map[string][]string{
		talker:   {"text-generation", "tools"},
		seer:     {"text-generation", "vision"},
		embedder: {"embeddings"},
		ranker:   {"rerank"},
		speaker:  {"speech"},
		listener: {"transcription"},
		painter:  {"images"},
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".bin"), make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		models = append(models, map[string]any{"name": name, "path": name + ".bin", "capabilities": capabilities})
	}
	return configured(t, dir, map[string]any{
		"engines": map[string]any{"stand-in": map[string]any{"command": append([]string{standIn, "gatewaytest-engine", "{port}", "{name}"}, without...)}},
		"models":  models,
	})
}

// configured runs the server by a configuration in dir.
func configured(t *testing.T, dir string, config map[string]any) string {
	t.Helper()
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return serve(t, "serve", "-config", file)
}
