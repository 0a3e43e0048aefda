package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is the built server in a process of its own.
type child struct {
	cmd    *exec.Cmd
	url    string
	stderr bytes.Buffer
	read   chan struct{} // closed when all that it printed was read
}

// build makes the binary.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the server")
	}
	bin := filepath.Join(t.TempDir(), "modeltier")
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/modeltier").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// program runs the binary with a cache folder of the test's.
func program(ctx context.Context, bin, cache string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, bin, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, tokenVariable) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+cache, "HOME="+cache, "LocalAppData="+cache)
	return cmd
}

// launch starts the server and waits until it says where it listens.
func launch(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{cmd: cmd, read: make(chan struct{})}
	c.cmd.Stderr = &c.stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url := make(chan string, 1)
	go func() {
		defer close(c.read)
		defer close(url)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if at, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
				url <- at
			}
		}
	}()
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.cmd.Process.Kill()
			c.wait()
		}
	})
	if c.url = <-url; c.url == "" {
		c.wait()
		t.Fatalf("it does not listen: %v: %s", c.cmd.ProcessState, &c.stderr)
	}
	return c
}

// wait waits until the process has ended. Its state says how.
func (c *child) wait() {
	<-c.read // Wait closes the pipe, so what is in it is read first
	c.cmd.Wait()
}

func (c *child) do(t *testing.T, method, path, body string) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatalf("%s %s: %v", path, body, err)
	}
	return v
}

// job starts a job and polls it to its end, as a client has to.
func (c *child) job(t *testing.T, request, poll string) {
	t.Helper()
	a := c.do(t, "POST", "/", request)
	id, ok := a["job_id"].(string)
	if !ok {
		t.Fatalf("%s: %v", request, a)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		a = c.do(t, "POST", "/", fmt.Sprintf(`{%q: %q}`, poll, id))
		if a["status"] == "success" {
			return
		}
		if a["status"] != "loading" && a["status"] != "running" {
			t.Fatalf("%s: %v", request, a)
		}
	}
	t.Fatalf("%s: not done in time, %v", request, a)
}

// homes returns the home tier of each model.
func (c *child) homes(t *testing.T) map[string]any {
	t.Helper()
	homes := map[string]any{}
	for name, m := range c.do(t, "POST", "/", `{"list_models": true}`)["models"].(map[string]any) {
		homes[name] = m.(map[string]any)["tier"]
	}
	return homes
}

// The life of a server: made, used, killed, started again, ended in order.
func TestChild_KilledAndRestarted_KnowsWhatItAcknowledged(t *testing.T) {
	bin, cache := build(t), t.TempDir()
	served := func() *exec.Cmd {
		return program(t.Context(), bin, cache, "demo", "-engine", "none", "-addr", "127.0.0.1:0", "-scale", "4096")
	}
	c := launch(t, served())
	// Served, it has come home: a move that runs is not to be overtaken.
	if a := c.do(t, "GET", "/v1/models/gpt2-small/digest", ""); a["status"] != "success" {
		t.Fatal(a)
	}
	c.job(t, `{"hot_load": {"model_name": "custom-model", "model_config": {"path": "spare/custom-model.gguf", "tier": "ram", "capabilities": ["custom-task"]}}}`, "load_status")
	c.job(t, `{"move_tier": {"model_name": "gpt2-small", "target_tier": "storage"}}`, "tier_job_status")
	limits := c.do(t, "POST", "/", `{"update_limits": {"ram_max_gb": 0.0015}}`)
	if limits["status"] != "success" {
		t.Fatal(limits)
	}
	first := c.do(t, "GET", "/v1/models/custom-model/digest", "")
	if first["status"] != "success" {
		t.Fatal(first)
	}
	if err := c.cmd.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	c.wait()

	c = launch(t, served())
	homes := c.homes(t)
	if len(homes) != 7 || homes["custom-model"] != "ram" || homes["gpt2-small"] != "storage" || homes["gpt2-medium"] != "ram" {
		t.Errorf("after the restart: %v", homes)
	}
	again := c.do(t, "POST", "/", `{"update_limits": {"ram_max_gb": 0.0015}}`)
	if old := again["old_limits"].(map[string]any); old["ram_max_gb"] != 0.0015 {
		t.Errorf("limits after the restart: %v", old)
	}
	if d := c.do(t, "GET", "/v1/models/custom-model/digest", ""); d["sha256"] != first["sha256"] {
		t.Errorf("digest was %v and is %v", first, d)
	}

	// The folder is this server's while it runs.
	short, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := program(short, bin, cache, "demo", "-engine", "none", "-addr", "127.0.0.1:0", "-scale", "4096").CombinedOutput()
	if err == nil || strings.Contains(string(out), "listening") {
		t.Errorf("a second server on the same state: %v %s", err, out)
	}

	if runtime.GOOS == "windows" {
		return // it has no SIGTERM to send
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.wait()
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("SIGTERM: exit code %d: %s", code, &c.stderr)
	}
	if resp, err := http.Get(c.url + "/healthz"); err == nil {
		resp.Body.Close()
		t.Error("it still answers")
	}
}
