// Package enginetest is an engine for this module's own tests that shows what reached it:
// completions answer with their request, and chat streams numbers. What engines of people
// look like is package gatewaytest's.
//
// As a process of its own it is the test binary: TestMain calls [Main] first, and an engine
// with [Env] in its environment is one. In the test's process it is [Handler], for a model
// that [At] serves.
package enginetest

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"time"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// Port is the variable that makes a test binary an engine, on its port.
const Port = "MODELTIER_TEST_ENGINE_PORT"

// Gate is the variable with a file without which an engine is not ready.
const Gate = "MODELTIER_TEST_ENGINE_GATE"

// Env is what the environment of an engine has to hold, in a configuration. The detector
// of races would else have each process wait a second at its end.
var Env = []string{Port + "={port}", "GORACE=atexit_sleep_ms=0"}

// Main makes this process an engine if its environment says so, and does not return then.
func Main() {
	port := os.Getenv(Port)
	if port == "" {
		return
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+port, Handler()))
	os.Exit(1)
}

// Handler returns the engine. Its streams go on as the request's body says: three numbers
// for "short", 500 for "long", else for ever; with "die" the process ends after four, with
// "idle" no second one comes.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if gate := os.Getenv(Gate); gate != "" {
			if _, err := os.Stat(gate); err != nil {
				http.Error(w, "not yet", http.StatusServiceUnavailable)
			}
		}
	})
	mux.HandleFunc("/v1/completions", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"auth":%q,"type":%q,"body":`, r.Header.Get("Authorization"), r.Header.Get("Content-Type"))
		io.Copy(w, r.Body)
		io.WriteString(w, "}")
	})
	mux.HandleFunc("/v1/embeddings", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":{"message":"no embeddings"}}`, http.StatusNotImplemented)
	})
	mux.HandleFunc("/v1/chat/completions", stream)
	return mux
}

func stream(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	if bytes.Contains(b, []byte("refuse")) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":{"message":"not this","type":"invalid_request_error","code":"refused"}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	events := math.MaxInt
	for prompt, n := range map[string]int{"short": 3, "long": 500} {
		if bytes.Contains(b, []byte(prompt)) {
			events = n
		}
	}
	for i := range events {
		fmt.Fprintf(w, "data: %d\n\n", i)
		http.NewResponseController(w).Flush()
		if bytes.Contains(b, []byte("idle")) {
			<-r.Context().Done()
			return
		}
		if i == 3 && bytes.Contains(b, []byte("die")) {
			os.Exit(3)
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
	io.WriteString(w, "data: [DONE]\n\n")
}

// At returns a Mover whose models are all served at a URL, as soon as they are loaded.
func At(url string) tier.Mover { return &at{url: url} }

type at struct {
	tiertest.Mover
	url string
}

// Instance implements tier.Instancer.
func (a *at) Instance(string) any { return a }

// URL is where the engine takes requests.
func (a *at) URL() (string, bool) { return a.url, true }

// Plenty is a machine that has memory, whatever else this one is doing.
func Plenty() tier.MemoryProbe {
	return tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB})
}
