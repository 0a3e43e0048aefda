package engines

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

func TestCommanded_Assignments_GoToTheEnvironment(t *testing.T) {
	e := Commanded([]string{"A=1", "PORT={port}", "srv", "B=2"})
	if strings.Join(e.Env, " ") != "A=1 PORT={port}" || strings.Join(e.Command, " ") != "srv B=2" {
		t.Errorf("%+v", e)
	}
	if e := Commanded([]string{"./a=b", "x"}); len(e.Env) > 0 {
		t.Errorf("%+v", e)
	}
}

func TestEngine_Estimate_ByItsFlags(t *testing.T) {
	for _, c := range []struct {
		name string
		e    Config
		want hotload.EstimateOptions
		ok   bool
	}{
		{"llama-server", Config{Command: []string{"/usr/bin/llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}", "-np", "2"}, Context: 8192},
			hotload.EstimateOptions{Engine: hotload.LlamaServer, Context: 8192, Slots: 2}, true},
		{"without a context of its own", Config{Command: []string{"llama-server", "--ctx-size", "{context}"}}, hotload.EstimateOptions{Engine: hotload.LlamaServer, Context: 4096}, true},
		{"behind another program", Config{Command: []string{"nice", "-n", "5", "llama-server", "-ctk", "q8_0"}}, hotload.EstimateOptions{Engine: hotload.LlamaServer, CacheTypeK: "q8_0"}, true},
		{"the test engine", Config{Command: []string{"/cache/engine", "--no-repack", "-c", "512"}, Kind: hotload.LlamaLibrary}, hotload.EstimateOptions{Engine: hotload.LlamaLibrary, Context: 512, NoRepack: true}, true},
		{"any other", Config{Command: []string{"vllm", "serve", "-c", "512"}}, hotload.EstimateOptions{}, false},
		{"flags that it will refuse", Config{Command: []string{"llama-server", "-c", "much"}}, hotload.EstimateOptions{}, false},
	} {
		if got, ok := c.e.Estimate(); ok != c.ok || ok && got != c.want {
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
	var r Mover
	r.Name(map[string]Config{
		"small": {Command: []string{"llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}"}, Context: 512},
		"large": {Command: []string{"llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}"}, Context: 1 << 20},
		"other": {Command: []string{"vllm", "{port}"}},
	})
	runtimeOf := func(engine, path string, declared tier.Bytes, parts ...string) tier.Bytes {
		e, err := r.EngineOf(&tier.Model{Name: "m", Path: path, Parts: parts, Runtime: declared, Mover: engine})
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
}
