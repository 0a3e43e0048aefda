package serve

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/tier"
)

func TestEngine_Command_ServesAFolderOfModels(t *testing.T) {
	o, err := parse([]string{"-models", made.Dir, "-state", "none", "-engine", fakePort + "={port} GORACE=atexit_sleep_ms=0 " + quoted(os.Args[0])}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	f := serveFront(t, o)
	for _, model := range []string{"gpt2-small", "llama-7b", "custom-model"} {
		res := f.post(t, t.Context(), "/v1/completions", `{"model":"`+model+`"}`, "Content-Type", "application/x-www-form-urlencoded")
		if got := whole(t, res); res.StatusCode != http.StatusOK || !strings.Contains(got, model) || !strings.Contains(got, `"type":"application/json"`) {
			t.Errorf("%s: %d %s", model, res.StatusCode, got)
		}
	}
}

func TestOpenLibrary_FileThatWouldBeCalledAuto_LeftOutWithAReason(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(made.Dir, "gpt2-small.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"auto.gguf", "other.gguf"} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := parse([]string{"-models", dir, "-state", "none", "-engine", quoted(os.Args[0]) + " {port}"}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	lib, err := openLibrary(t.Context(), o, &told)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := newEngines(lib, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := m.Status()
	m.Close()
	lib.tellLeftOut(&told, now)
	if len(now.Models) != 1 || now.Models[0].Name != "other" {
		t.Errorf("served are %+v", now.Models)
	}
	if got := told.String(); !strings.Contains(got, "auto.gguf") || !strings.Contains(got, `name "auto" must be another`) {
		t.Errorf("it says %q", got)
	}
}

func TestOpenLibrary_EngineThatCannotBe_SaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		engine string
		says   []string
	}{
		{"no-such-engine {path} {port}", []string{"-engine", `"no-such-engine"`, "install it"}},
		{"/no/such/engine {port}", []string{"/no/such/engine", "install it"}},
		{quoted(os.Args[0]) + " -m {path}", []string{"must hold {port}"}},
		{quoted(os.Args[0]) + " {prot} {port}", []string{`"{prot}"`, "{path}, {mmproj}"}},
	} {
		o, err := parse([]string{"-engine", c.engine, "-models", made.Dir}, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		_, err = openLibrary(t.Context(), o, io.Discard)
		for _, want := range c.says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error that says %q", c.engine, err, want)
			}
		}
	}
}

func TestOpenLibrary_LlamacppOutsideACheckout_SaysWhatToDo(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("it runs on linux/amd64 and linux/arm64 only")
	}
	bin := t.TempDir()
	for _, program := range []string{"go", "npm"} {
		if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Chdir(t.TempDir())
	_, err := openLibrary(t.Context(), &options{engine: llamacpp, scale: 4096}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "checkout") || !strings.Contains(err.Error(), "-engine '") {
		t.Errorf("outside a checkout: %v", err)
	}
	if err := os.Remove(filepath.Join(bin, "npm")); err != nil {
		t.Fatal(err)
	}
	_, err = openLibrary(t.Context(), &options{engine: llamacpp, scale: 4096}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "npm") || !strings.Contains(err.Error(), "-engine '") {
		t.Errorf("without npm: %v", err)
	}
}

// An engine that is built again is another one only if it is: what was measured of it and
// what it saved are kept by its program's file.
func TestBuildEngine_SameAgain_FileStays(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	bin, to := t.TempDir(), t.TempDir()
	build := func(content string) fs.FileInfo {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\necho "+content+" >\"$3\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		program, err := buildEngine(t.Context(), t.TempDir(), to, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(program)
		if err != nil || string(b) != content+"\n" {
			t.Fatalf("it is %q: %v", b, err)
		}
		info, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	first, again, other := build("one"), build("one"), build("two")
	if !os.SameFile(first, again) || os.SameFile(again, other) {
		t.Errorf("%v, %v, %v", first.ModTime(), again.ModTime(), other.ModTime())
	}
}

func TestCheckout_IsFoundFromWithin(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if source, ok := checkout(here); !ok || source != filepath.Join(here, "..", "..", "integrations", "llama") {
		t.Errorf("found %q, %v", source, ok)
	}
}

// The demo has room for each of its models with an engine, and not for all.
func TestRoomForEngines_EachFitsAndNotAll(t *testing.T) {
	for scale := 1; scale <= demo.MaxScale; scale *= 2 {
		d := demo.Library{Scale: scale}
		lib := &library{models: d.Models(), limits: d.Limits()}
		lib.withEngine(engines.Config{}, demoRuntime)
		room, sum := roomForEngines(lib), tier.Bytes(0)
		for i := range lib.models {
			m := &lib.models[i]
			if sum += m.Size + m.Runtime; m.Size+m.Runtime > room {
				t.Errorf("1/%d: %s needs %v of %v", scale, m.Name, m.Size+m.Runtime, room)
			}
		}
		if sum <= room {
			t.Errorf("1/%d: all of them fit into %v", scale, room)
		}
	}
}

func TestCommanded_Assignments_GoToTheEnvironment(t *testing.T) {
	e := commanded([]string{"A=1", "PORT={port}", "srv", "B=2"})
	if strings.Join(e.Env, " ") != "A=1 PORT={port}" || strings.Join(e.Command, " ") != "srv B=2" {
		t.Errorf("%+v", e)
	}
	if e := commanded([]string{"./a=b", "x"}); len(e.Env) > 0 {
		t.Errorf("%+v", e)
	}
}

func TestEngine_Estimate_ByItsFlags(t *testing.T) {
	for _, c := range []struct {
		name string
		e    engines.Config
		want hotload.EstimateOptions
		ok   bool
	}{
		{"llama-server", engines.Config{Command: []string{"/usr/bin/llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}", "-np", "2"}, Context: 8192},
			hotload.EstimateOptions{Engine: hotload.LlamaServer, Context: 8192, Slots: 2}, true},
		{"without a context of its own", engines.Config{Command: []string{"llama-server", "--ctx-size", "{context}"}}, hotload.EstimateOptions{Engine: hotload.LlamaServer, Context: 4096}, true},
		{"behind another program", engines.Config{Command: []string{"nice", "-n", "5", "llama-server", "-ctk", "q8_0"}}, hotload.EstimateOptions{Engine: hotload.LlamaServer, CacheTypeK: "q8_0"}, true},
		{"the test engine", engines.Config{Command: []string{"/cache/engine", "--no-repack", "-c", "512"}, kind: hotload.LlamaLibrary}, hotload.EstimateOptions{Engine: hotload.LlamaLibrary, Context: 512, NoRepack: true}, true},
		{"any other", engines.Config{Command: []string{"vllm", "serve", "-c", "512"}}, hotload.EstimateOptions{}, false},
		{"flags that it will refuse", engines.Config{Command: []string{"llama-server", "-c", "much"}}, hotload.EstimateOptions{}, false},
	} {
		if got, ok := c.e.estimate(); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, ok, c.want)
		}
	}
}

// What an engine needs beyond the weights is estimated where its owner has not declared
// it; what is not known has no estimate.
func TestRegistry_EngineOf_EstimatesWhatIsNotDeclared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	llama := demo.Llama{Name: "m", Width: 64, Inner: 64, Layers: 2}
	if err := errors.Join(llama.Write(t.Context(), f, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	var r engines.Mover
	r.name(map[string]engines.Config{
		"small": {Command: []string{"llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}"}, Context: 512},
		"large": {Command: []string{"llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}"}, Context: 1 << 20},
		"other": {Command: []string{"vllm", "{port}"}},
	})
	runtimeOf := func(engine, path string, declared tier.Bytes, parts ...string) tier.Bytes {
		e, err := r.engineOf(&tier.Model{Name: "m", Path: path, Parts: parts, Runtime: declared, Mover: engine})
		if err != nil {
			t.Fatal(err)
		}
		return e.Runtime
	}
	// A token takes 2 × 64 numbers of 2 bytes in each of the 2 layers.
	small, large := runtimeOf("small", path, 0), runtimeOf("large", path, 0)
	if cache := tier.Bytes(1<<20-512) * 2 * 64 * 2 * 2; small <= 0 || large-small < cache || large-small > 4*cache {
		t.Errorf("%v and %v, of which %v for the cache", small, large, cache)
	}
	for what, got := range map[string]tier.Bytes{"declared": runtimeOf("small", path, 5), "another engine": runtimeOf("other", path, 0), "no file": runtimeOf("small", path+"x", 0), "a part is not there": runtimeOf("small", path, 0, path+"x")} {
		if got != 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// What a server's user reads names the keys of his configuration.
func TestEngineErrors_NameTheKeysOfTheConfiguration(t *testing.T) {
	for _, say := range []string{
		"raise Engine.IdleCheck, SilenceLimit or SlowFactor", "set Engine.Standby to StandbyStop", "set Engine.Processes", "Check that Engine.Command names",
		"Engine.Health names a page", `StateDir "" is needed by Engine.Save`, "fewer slots. Options.Excess bounds what is tolerated.", "Engine.StartTimeout -1s must be positive, or zero for Options.StartTimeout",
	} {
		err := byKeys{&tier.InvalidError{Reason: say, Help: []string{say}}}
		for _, got := range append(tier.Suggestions(err), err.Error()) {
			if strings.Contains(got, "Engine.") || strings.Contains(got, "Options.") || strings.Contains(got, "StateDir") || got == say {
				t.Errorf("%q", got)
			}
		}
		if tier.Code(err) != "invalid_request" {
			t.Errorf("its code is %s", tier.Code(err))
		}
	}
	f := newFront(t, map[string]any{"command": []string{"/bin/false", "{port}"}})
	res := f.post(t, t.Context(), "/v1/completions", `{"model":"small"}`)
	if got := whole(t, res); res.StatusCode < 500 || strings.Contains(got, "Engine.") || !strings.Contains(got, "suggestions") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}
