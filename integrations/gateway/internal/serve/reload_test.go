package serve

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

// reload takes up the configuration as it is now, and returns what is said of it.
func (f *front) reload(t *testing.T) string {
	t.Helper()
	var said strings.Builder
	f.again.said, f.again.told = &said, &said
	f.again.reload(t.Context())
	return said.String()
}

// configured returns the configuration of a model, to be changed.
func (f *front) configured(i int) map[string]any { return f.config["models"].([]map[string]any)[i] }

// pid returns the process of a model's engine, 0 where there is none.
func (f *front) pid(model string) int {
	for _, e := range f.engines.Status().Engines {
		if e.Name == model {
			return e.Pid
		}
	}
	return 0
}

func TestReload_WhatIsTheSame_KeepsItsEngineAndItsStreams(t *testing.T) {
	f := newFront(t)
	res := f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","stream":true}`)
	lines := bufio.NewReader(res.Body)
	next := func() {
		t.Helper()
		if line, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("the stream is broken: %q, %v", line, err)
		}
	}
	next()
	before := f.pid("small")
	if got := f.reload(t); got != "reloaded: nothing has changed\n" {
		t.Error(got)
	}
	// large is replaced, third is new, and the limits are others.
	f.configured(1)["runtime_gb"] = 0.11
	f.config["models"] = append(f.config["models"].([]map[string]any), map[string]any{"name": "third", "path": "small.bin", "capabilities": []string{"x"}})
	f.config["limits"] = map[string]any{"ram_gb": 0.16, "swap_gb": 1, "reserved_gb": 0.01}
	f.write(t)
	if got := f.reload(t); !strings.HasPrefix(got, "reloaded: added third; replaced large; limits: ram 163.8 MiB,") {
		t.Error(got)
	}
	for range 10 {
		next()
	}
	if now := f.pid("small"); before == 0 || now != before {
		t.Errorf("its engine was %d and is %d", before, now)
	}
	res.Body.Close()
	enginetest.Idle(t, f.m)
	for _, model := range []string{"third", "large", "small"} {
		if res := f.post(t, t.Context(), "/v1/completions", `{"model":"`+model+`"}`); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", model, res.StatusCode, enginetest.Whole(t, res))
		}
	}
}

func TestReload_EngineIsConfiguredAnew_ReplacedWhenItsStreamHasEnded(t *testing.T) {
	f := newFront(t)
	res := f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","stream":true}`)
	lines := bufio.NewReader(res.Body)
	before := f.pid("small")
	engine := f.config["engines"].(map[string]any)["fake"].(map[string]any)
	engine["env"] = append(engine["env"].([]string), "MODELTIER_TEST_OTHER=1")
	f.write(t)
	if got := f.reload(t); got != "reloaded: replaced large, small\n" {
		t.Error(got)
	}
	answer := make(chan int)
	go func() {
		res, err := f.Client().Post(f.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"small"}`))
		if err != nil {
			t.Error(err)
			answer <- 0
			return
		}
		res.Body.Close()
		answer <- f.pid("small")
	}()
	for range 20 { // it goes on while the next request waits for it
		if line, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("the stream is broken: %q, %v", line, err)
		}
	}
	if now := f.pid("small"); now != before {
		t.Errorf("under a stream the engine was %d and is %d", before, now)
	}
	res.Body.Close()
	if now := <-answer; now == before || now == 0 {
		t.Errorf("the engine was %d and is %d", before, now)
	}
	if old, err := os.FindProcess(before); err == nil && old.Signal(syscall.Signal(0)) == nil {
		t.Error("the old engine runs beside the new one")
	}
}

func TestReload_Removed_IsNotFoundAndLeavesNoEngine(t *testing.T) {
	f := newFront(t)
	if res := f.post(t, t.Context(), "/v1/completions", `{"model":"small"}`); res.StatusCode != http.StatusOK {
		t.Fatal(enginetest.Whole(t, res))
	}
	f.config["models"] = f.config["models"].([]map[string]any)[1:]
	f.write(t)
	if got := f.reload(t); got != "reloaded: removed small\n" {
		t.Error(got)
	}
	if res := f.post(t, t.Context(), "/v1/completions", `{"model":"small"}`); res.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s", res.StatusCode, enginetest.Whole(t, res))
	}
	// It needs the room that small had.
	if res := f.post(t, t.Context(), "/v1/completions", `{"model":"large"}`); res.StatusCode != http.StatusOK {
		t.Errorf("%d %s", res.StatusCode, enginetest.Whole(t, res))
	}
	if pid := f.pid("small"); pid != 0 {
		t.Errorf("its engine is still there: %d", pid)
	}
}

func TestReload_BrokenFile_ChangesNothingAndSaysWhy(t *testing.T) {
	f := newFront(t)
	lease, err := f.m.Acquire(t.Context(), modeltier.Request{Model: "small"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	before := f.pid("small")
	whole, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for config, says := range map[string]string{
		"":                             "is empty",
		string(whole[:len(whole)-1]):   "is no YAML",
		`{"engine": {}}`:               "none of the keys",
		`{"models": [{"name": "x"}]}`:  "no engine",
		`{"state": "elsewhere"}`:       "while the server runs",
		`{"limits": {"ram_gb": 1e-6}}`: "ram limit",
		strings.Replace(string(whole), `"path":"large.bin"`, `"path":"gone.bin"`, 1): `"gone.bin" is not there`,
		strings.Replace(string(whole), text(os.Args[0]), `"no-such-engine"`, 1):      "no-such-engine",
		strings.Replace(string(whole), `"command":[`, `"command":["x","{prot}",`, 1): "{prot}",
		strings.Replace(string(whole), `"name":"large"`, `"name":"small"`, 1):        "twice",
		strings.Replace(string(whole), `"name":"large"`, `"name":"large\u0007"`, 1):  "printable",
	} {
		if err := os.WriteFile(f.path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		got := f.reload(t)
		if !strings.HasPrefix(got, "not reloaded, nothing was changed: ") || !strings.Contains(got, says) {
			t.Errorf("%.100s…: it says %q, and nothing of %q", config, got, says)
		}
		if s := f.m.Status(); f.pid("small") != before || len(s.Models) != 2 || s.Models[0].Leases != 1 {
			t.Errorf("%.100s…: something has changed: %+v", config, s.Models)
		}
	}
}

func TestReload_FolderHasANewFileOfTheSameName_KnownOneKeepsIt(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(made.Dir, "gpt2-small.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	add := func(folder string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, folder, "llama.gguf"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add("c")
	o, err := parse([]string{"serve", "--models", dir, "--state", "none", "--engine", fakeCommand()}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	f := serveFront(t, o)
	for _, folder := range []string{"b", "a"} { // each stands before those that are there
		add(folder)
		if got, want := f.reload(t), "reloaded: added "+folder+"/llama\n"; got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}

	add("z/hot") // one that came by hot load, under a name that a scan would not give
	hot := tier.Model{Name: "other", Path: filepath.Join(dir, "z", "hot", "llama.gguf"), Size: tier.Bytes(len(b))}
	j, err := f.m.HotLoad(t.Context(), hot)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.reload(t); strings.Contains(got, "added") || strings.Contains(got, "llama") {
		t.Errorf("with a model that was hot loaded, it says %q", got)
	}
}

func TestReload_FileSystemDoesNotAnswer_TheServerEndsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, signals := make(chan struct{}), make(chan os.Signal, 1)
		r := &reloader{said: io.Discard, told: io.Discard, lib: &library{file: &config.File{}}, open: func(context.Context) (*library, error) {
			<-stuck
			return nil, io.EOF
		}}
		end := r.start(t.Context(), signals)
		signals <- syscall.SIGHUP
		synctest.Wait()
		began := time.Now()
		end()
		if took := time.Since(began); took != startLimit {
			t.Errorf("it took %v to end, want %v", took, startLimit)
		}
		close(stuck)
	})
}
