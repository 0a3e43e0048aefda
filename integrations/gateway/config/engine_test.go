package config

import (
	"slices"
	"testing"

	"github.com/modeltier/modeltier/hotload"
)

func TestCommanded_Assignments_GoToTheEnvironment(t *testing.T) {
	e, err := Commanded("A=1 PORT={port} srv B=2")
	if err != nil || !slices.Equal(e.Env, []string{"A=1", "PORT={port}"}) || !slices.Equal(e.Command, []string{"srv", "B=2"}) {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := Commanded("./a=b x"); err != nil || len(e.Env) > 0 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := Commanded("a | b"); err == nil {
		t.Error("a pipe is taken")
	}
}

func TestEngine_Estimate_ByItsFlags(t *testing.T) {
	for _, c := range []struct {
		name string
		e    Engine
		want hotload.EstimateOptions
		ok   bool
	}{
		{"llama-server", Engine{Command: []string{"/usr/bin/llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}", "-np", "2"}, Context: 8192},
			hotload.EstimateOptions{Engine: hotload.LlamaServer, Context: 8192, Slots: 2}, true},
		{"without a context of its own", Engine{Command: []string{"llama-server", "--ctx-size", "{context}"}}, hotload.EstimateOptions{Engine: hotload.LlamaServer, Context: 4096}, true},
		{"behind another program", Engine{Command: []string{"nice", "-n", "5", "llama-server", "-ctk", "q8_0"}}, hotload.EstimateOptions{Engine: hotload.LlamaServer, CacheTypeK: "q8_0"}, true},
		{"the test engine", Engine{Command: []string{"/cache/engine", "--no-repack", "-c", "512"}, Kind: hotload.LlamaLibrary}, hotload.EstimateOptions{Engine: hotload.LlamaLibrary, Context: 512, NoRepack: true}, true},
		{"any other", Engine{Command: []string{"vllm", "serve", "-c", "512"}}, hotload.EstimateOptions{}, false},
		{"flags that it will refuse", Engine{Command: []string{"llama-server", "-c", "much"}}, hotload.EstimateOptions{}, false},
	} {
		if got, ok := c.e.Estimate(); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, ok, c.want)
		}
	}
}
