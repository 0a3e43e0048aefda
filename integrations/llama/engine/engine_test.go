package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/tier"
)

func TestHealth_WhileItLoads_IsUnavailable(t *testing.T) {
	h := handler(options{}, new(atomic.Pointer[llama.Model]))
	for _, c := range []struct{ method, path string }{{"GET", "/health"}, {"POST", "/v1/completions"}, {"POST", "/slots/0?action=save"}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(`{"prompt":"a"}`)))
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `"unavailable_error"`) {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
	}
}

// Loads take minutes: an engine that is told to end while it loads ends then.
func TestRun_ToldToEndWhileItLoads_Ends(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	never := make(chan struct{})
	defer close(never)
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, options{host: "127.0.0.1", libs: "-"}, func(context.Context, options) (*llama.Model, error) {
			cancel()
			<-never
			return nil, errors.New("the end of the test")
		})
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
	}
}

func TestParse_NamesOfLlamaServer(t *testing.T) {
	dir := t.TempDir()
	want := options{path: "x.gguf", host: "::1", port: 9, load: llama.Options{Context: 1024, Threads: 2, Slots: 3, NoMmap: true, NoRepack: true}, saves: llama.Saves{Dir: dir, Max: 8 * tier.GiB}, maxTokens: -1}
	for _, line := range []string{
		"-m x.gguf --port 9 --host ::1 -c 1024 -t 2 -np 3 --no-mmap --no-repack --slot-save-path " + dir + " -n -1",
		"--model x.gguf -port 9 -host ::1 --ctx-size 1024 --threads 2 --parallel 3 -no-mmap -no-repack -slot-save-path " + dir + " --predict -1",
	} {
		if got, err := parse(strings.Fields(line), io.Discard); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "-m x extra", "-m x --slot-save-path /nowhere/at/all", "-m x --slot-save-max -1", "-m x --no-such-flag"} {
		if got, err := parse(strings.Fields(line), io.Discard); err == nil {
			t.Errorf("%q: %+v", line, got)
		}
	}
	var help strings.Builder
	parse([]string{"-h"}, &help)
	if !strings.Contains(help.String(), "test engine") {
		t.Errorf("the help does not say what it is: %s", &help)
	}
}
