//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// begin starts the command; end sends it a signal and waits for its end.
func begin(t *testing.T, env []string, args ...string) (out io.Reader, end func(syscall.Signal) (code int, stderr string)) {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err = cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return out, func(s syscall.Signal) (int, string) {
		t.Helper()
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // its code tells
		return cmd.ProcessState.ExitCode(), stderr.String()
	}
}

// sees reads lines until one has the prefix, and returns what follows that.
func sees(t *testing.T, lines *bufio.Scanner, prefix string) string {
	t.Helper()
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			return rest
		}
	}
	t.Fatalf("there is no line %q: %v", prefix, lines.Err())
	return ""
}

func TestModeltier_Demo_IsAskedAndSteered(t *testing.T) {
	home := t.TempDir() // the library is made in the user's cache
	cache := []string{"HOME=" + home, "XDG_CACHE_HOME=" + home, "MODELTIER_TOKEN=sesame"}
	out, stop := begin(t, cache, "demo", "-scale", "256", "-engine", "none", "-state", "none", "-addr", "127.0.0.1:0")
	env := append(cache, "MODELTIER_SERVER="+sees(t, bufio.NewScanner(out), "listening on "))
	for _, step := range []struct {
		args, words string
		code        int
	}{
		{"load gpt2-small", "gpt2-small is ready", 0},
		{"ps", "gpt2-small", 0},
		{"show gpt2-small --json", `"name": "gpt2-small"`, 0},
		{"load gpt2smal", "Did you mean gpt2-small?", 1},
		{"move gpt2-small storage", "gpt2-small is in storage", 0},
		{"move gpt2-small storage", "already", 0},
		{"limits -ram 30MB", "30.0 MiB", 0},
		{"unload --all", "", 0},
		{"reserve 2MB -- false", "", 1},
	} {
		code, out, stderr := modeltier(t, env, strings.Fields(step.args)...)
		if code != step.code || !strings.Contains(out+stderr, step.words) {
			t.Errorf("%s: exit %d, %q, %q", step.args, code, out, stderr)
		}
	}
	if code, _, stderr := modeltier(t, append(env, "MODELTIER_TOKEN="), "ps"); code != 1 || !strings.Contains(stderr, "--key-file") {
		t.Errorf("without a key: exit %d, %q", code, stderr)
	}
	held, release := begin(t, env, "reserve", "2MB", "--reason", "a game")
	sees(t, bufio.NewScanner(held), "2.0 MiB is yours")
	if _, out, _ := modeltier(t, env, "ps"); !strings.Contains(out, "(a game)") {
		t.Errorf("ps while it is reserved: %s", out)
	}
	if code, stderr := release(syscall.SIGINT); code != 0 {
		t.Errorf("a reservation that Ctrl-C ends: exit %d, %q", code, stderr)
	}
	if code, stderr := stop(syscall.SIGTERM); code != 0 {
		t.Errorf("the server ends with %d: %s", code, stderr)
	}
}

func TestModeltier_CtrlC_EndsAWait(t *testing.T) {
	asked := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that its end is noticed
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		_, end := begin(t, []string{"MODELTIER_SERVER=" + server.URL}, "load", "a")
		<-asked
		if got, stderr := end(signal); got != code || !strings.Contains(stderr, "withdrawn") {
			t.Errorf("%v: exit %d, %q", signal, got, stderr)
		}
	}
}
