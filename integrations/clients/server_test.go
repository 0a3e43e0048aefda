package clients

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "clients-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server, standIn = filepath.Join(dir, "modeltier"), filepath.Join(dir, "standin")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// server and standIn are where the server and its engine are built, once.
var server, standIn string

// root is the checkout, where -engine llamacpp finds its source.
const root = "../.."

var (
	buildServer  = sync.OnceValue(func() error { return build(server, "./integrations/gateway/cmd/modeltier") })
	buildStandIn = sync.OnceValue(func() error { return build(standIn, "./integrations/gateway/gatewaytest/standin") })
)

func build(bin, of string) error {
	cmd := exec.Command("go", "build", "-o", bin, of)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// serve runs a command of the server, with a cache of its own but for what is fetched,
// until the test's end. It returns its URL.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	if err := buildServer(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, append(args, "-addr", "127.0.0.1:0", "-state", "none")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache(t), "GOCACHE="+goCache(t))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url, read := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(read)
		defer close(url)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if at, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
				url <- at
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-read
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("the server: %v: %s", err, &stderr)
		}
	})
	at, ok := <-url
	if !ok {
		t.Fatalf("the server does not listen: %s", &stderr)
	}
	calm(t, at)
	return at
}

// calm waits until the machine's memory is not pressed by others: no model
// is loaded while it is. It skips the test where that lasts.
func calm(t *testing.T, url string) {
	t.Helper()
	const mostWait = 3 * time.Minute
	for end := time.Now().Add(mostWait); ; time.Sleep(time.Second) {
		level := statusOf(t, url).Memory.Pressure.Level
		if level != "high" {
			return
		}
		if time.Now().After(end) {
			t.Skipf("this machine's memory has been under %s pressure for %v", level, mostWait)
		}
	}
}

// cache is a cache folder in which the llama.cpp that was fetched before is.
func cache(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	user, err := os.UserCacheDir()
	if err != nil {
		return dir
	}
	libs := filepath.Join(user, "modeltier", "llama")
	if err := os.MkdirAll(libs, 0o755); err != nil {
		return dir
	}
	if err := os.Mkdir(filepath.Join(dir, "modeltier"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(libs, filepath.Join(dir, "modeltier", "llama")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func goCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
