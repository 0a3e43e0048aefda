package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/examples/server/demo"
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
	if len(lib.models) != 1 || lib.models[0].Name != "other" {
		t.Errorf("served are %+v", lib.models)
	}
	if got := told.String(); !strings.Contains(got, "auto.gguf") || !strings.Contains(got, errAuto.Error()) {
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
		{quoted(os.Args[0]) + " {prot} {port}", []string{`"{prot}"`, "{path}, {port}"}},
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
		lib.withEngine(engineConfig{}, demoRuntime)
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
