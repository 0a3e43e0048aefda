package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
)

// Of what a stream costs that is idle, net/http's connection to its client is two thirds:
// buffers of 10 KiB, a stack of 8 and one of 2 to 4. The bound is half as much again as is
// measured in a quiet moment.
func TestServe_ManyIdleStreams_CostLittleMemory(t *testing.T) {
	const streams, most = 2000, 52 << 10 // bytes each
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if files.Max < 4*streams {
		t.Skipf("the process may open %d files only", files.Max)
	}
	bin, dir := build(t), t.TempDir()
	file, err := json.Marshal(map[string]any{
		"engines": map[string]any{"e": map[string]any{"command": []string{os.Args[0]}, "env": enginetest.Env}},
		"models":  []map[string]any{{"name": "m", "path": "m.bin", "capabilities": []string{"text-generation"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "modeltier.json")
	for path, content := range map[string][]byte{config: file, filepath.Join(dir, "m.bin"): make([]byte, 1<<20)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := launch(t, program(t.Context(), bin, dir, "serve", "-addr", "127.0.0.1:0", "-config", config, "-state", "none"))
	ctx, cancel := context.WithCancel(t.Context())
	var open sync.Map
	defer open.Range(func(body, _ any) bool { return body.(interface{ Close() error }).Close() == nil })
	defer cancel()
	stream := func() error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[{"role":"user","content":"idle"}]}`))
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		open.Store(res.Body, nil)
		if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %q, %w", res.Status, line, err)
		}
		return nil
	}
	if err := stream(); err != nil { // which loads the model
		t.Fatal(err)
	}
	before := resident(t, c.cmd.Process.Pid)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range streams / 50 {
				if err := stream(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	after := resident(t, c.cmd.Process.Pid)
	each := (after - before) / streams
	t.Logf("%d streams: from %d to %d KiB, %d bytes each", streams, before>>10, after>>10, each)
	if each > most {
		t.Errorf("a stream that is idle costs %d bytes, want at most %d", each, most)
	}
}

// resident is the memory of a process, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
