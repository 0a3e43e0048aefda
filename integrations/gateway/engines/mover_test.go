package engines

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
)

// What an engine needs beyond the weights is estimated where its owner has not declared
// it; what is not known has no estimate.
func TestMover_EngineOf_EstimatesWhatIsNotDeclared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	llama := demo.Llama{Name: "m", Width: 64, Inner: 64, Layers: 2}
	if err := errors.Join(llama.Write(t.Context(), f, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	var m Mover
	m.SetNames(map[string]config.Engine{
		"small": {Command: []string{"llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}"}, Context: 512},
		"large": {Command: []string{"llama-server", "-m", "{path}", "--port", "{port}", "-c", "{context}"}, Context: 1 << 20},
		"other": {Command: []string{"vllm", "{port}"}},
	}, "")
	runtimeOf := func(engine, path string, declared tier.Bytes, parts ...string) tier.Bytes {
		e, err := m.EngineOf(&tier.Model{Name: "m", Path: path, Parts: parts, Runtime: declared, Mover: engine})
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

// Until its turn to be replaced has come, a model has the engine that it had.
func TestMover_AnotherConfiguration_ModelsKeepTheEngineOfTheirLabel(t *testing.T) {
	old, now := config.Engine{Command: []string{"old", "{port}"}}, config.Engine{Command: []string{"new", "{port}"}}
	var m Mover
	m.Add(map[string]config.Engine{"e": old})
	m.SetNames(map[string]config.Engine{"e": old}, "")
	m.Add(map[string]config.Engine{"e": now})
	conf := config.Model{Name: "m", Engine: "e"}
	before, after := conf.Tier(&old), conf.Tier(&now)
	bare := tier.Model{Name: "m", Mover: "e"}
	program := func(model *tier.Model) string {
		t.Helper()
		e, err := m.EngineOf(model)
		if err != nil {
			t.Fatal(err)
		}
		return e.Command[0]
	}
	if a, b, c := program(&before), program(&after), program(&bare); a != "old" || b != "new" || c != "old" {
		t.Errorf("%s, %s, %s", a, b, c)
	}
	m.SetNames(map[string]config.Engine{"e": now, "f": old}, "")
	if a, b, c := program(&before), program(&after), program(&bare); a != "old" || b != "new" || c != "new" {
		t.Errorf("%s, %s, %s", a, b, c)
	}
	if err := m.CheckModel(&tier.Model{Name: "m"}); err == nil || err.Error() == "" {
		t.Error("a model without an engine is taken, though there are two")
	}
}

// Models of a watched folder name no engine.
func TestEngineOf_ModelWithoutAnEngine_HasTheOnlyOneOrThatForOthers(t *testing.T) {
	two := map[string]config.Engine{"a": {Command: []string{"a", "{port}"}}, "b": {Command: []string{"b", "{port}"}}}
	one := map[string]config.Engine{"a": two["a"]}
	for _, c := range []struct {
		engines map[string]config.Engine
		other   string
		want    string // "": it has none
	}{{one, "", "a"}, {two, "", ""}, {two, "b", "b"}, {two, "none", ""}} {
		var m Mover
		m.SetNames(c.engines, c.other)
		e, err := m.EngineOf(&tier.Model{Name: "m"})
		if got := append(e.Command, "")[0]; got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("of %d engines, %q for others: %q, %v; want %q", len(c.engines), c.other, got, err, c.want)
		}
	}
}
