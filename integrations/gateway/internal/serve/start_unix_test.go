//go:build unix

package serve

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// To open a FIFO without a writer blocks for ever.
func TestRun_PathOfTheWrongKind_IsNamedAtOnce(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	model := filepath.Join(dir, "model.json")
	config := fmt.Sprintf(`{"engines": {"e": {"command": [%q, "{path}", "{port}"]}}, "models": [{"name": "m", "path": "fifo", "size_gb": 1}]}`, os.Args[0])
	if err := os.WriteFile(model, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flag, path, named, says string }{
		{"-config", fifo, fifo, "must be a regular file"},
		{"-config", os.DevNull, os.DevNull, "must be a regular file"},
		{"-config", dir, dir, "must be a regular file"},
		{"-config", model, fifo, `models[0].path "fifo": ` + fifo + " must be a regular file or a folder"},
		{"-models", fifo, fifo, "must be a folder"},
		{"-models", model, model, "must be a folder"},
		{"-state", fifo, fifo, "must be a folder"},
	} {
		ended := make(chan error, 1)
		args := []string{"serve", "--addr", "127.0.0.1:0", "-" + c.flag, c.path}
		if c.flag == "-state" {
			args = append(args, "--models", dir)
		}
		o, err := parse(args, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- run(t.Context(), t.Context(), nil, o, noEnv, io.Discard, io.Discard) }()
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), c.named) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s %s: %v, want an error that says %q", c.flag, c.path, err, c.says)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s %s: the start hangs", c.flag, c.path)
		}
	}
}
