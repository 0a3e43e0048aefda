package clients

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// standIn is the variable that makes this binary an engine, on its port.
const standIn = "MODELTIER_TEST_ENGINE_PORT"

func TestMain(m *testing.M) {
	if port := os.Getenv(standIn); port != "" {
		fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+port, engine()))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "server-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = filepath.Join(dir, "server")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// bin is where the server is built, once.
var bin string

// root is the checkout, where -engine llamacpp finds its source.
const root = "../.."

var build = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", bin, "./examples/server")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// engine answers in OpenAI's shapes: five words, and an embedding of three
// numbers.
func engine() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		if !strings.Contains(body.String(), `"stream":true`) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"id":"x","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"one two three four five"}}]}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; i < 5 || strings.Contains(body.String(), "for ever"); i++ {
			fmt.Fprintf(w, `data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" %d"}}]}`+"\n\n", i)
			if http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
				return
			}
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	})
	mux.HandleFunc("/v1/embeddings", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,0.5,0.7]}]}`)
	})
	return mux
}

// serve runs the example server, with a cache of its own but for
// what is fetched, until the test's end. It returns its URL.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append(args, "-addr", "127.0.0.1:0", "-state", "none")...)
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
