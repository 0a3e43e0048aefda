package serve

import (
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
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

func TestEngine_Command_ServesAFolderOfModels(t *testing.T) {
	o, err := parse([]string{"serve", "--models", made.Dir, "--state", "none", "--engine", fakeCommand()}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	f := serveFront(t, o)
	for _, model := range []string{"gpt2-small", "llama-7b", "custom-model"} {
		res := f.post(t, t.Context(), "/v1/completions", `{"model":"`+model+`"}`, "Content-Type", "application/x-www-form-urlencoded")
		if got := enginetest.Whole(t, res); res.StatusCode != http.StatusOK || !strings.Contains(got, model) || !strings.Contains(got, `"type":"application/json"`) {
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
	o, err := parse([]string{"serve", "--models", dir, "--state", "none", "--engine", quoted(os.Args[0]) + " {port}"}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	lib, err := openLibrary(t.Context(), o, &told)
	if err != nil {
		t.Fatal(err)
	}
	r := &reloader{}
	_, err = startEngines(lib, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := r.manager.Status()
	r.manager.Close()
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
		o, err := parse([]string{"serve", "--engine", c.engine, "--models", made.Dir}, noEnv, io.Discard)
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
	if source, ok := checkout(here); !ok || source != filepath.Join(here, "..", "..", "..", "llama") {
		t.Errorf("found %q, %v", source, ok)
	}
}

// The demo has room for each of its models with an engine, and not for all.
func TestRoomForEngines_EachFitsAndNotAll(t *testing.T) {
	for scale := 1; scale <= demo.MaxScale; scale *= 2 {
		d := demo.Library{Scale: scale}
		lib := &library{file: &config.File{}, models: d.Models(), limits: d.Limits()}
		lib.withEngine(config.Engine{}, demoRuntime)
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

// What a server's user reads names the keys of his configuration.
func TestEngineErrors_OnTheWire_NameTheKeysOfTheConfiguration(t *testing.T) {
	f := newFront(t, map[string]any{"command": []string{"/bin/false", "{port}"}})
	res := f.post(t, t.Context(), "/v1/completions", `{"model":"small"}`)
	if got := enginetest.Whole(t, res); res.StatusCode < 500 || strings.Contains(got, "Engine.") || !strings.Contains(got, "suggestions") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}
