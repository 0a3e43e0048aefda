package hotload

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

func blobOf(content string) string {
	return fmt.Sprintf("blobs/sha256-%x", sha256.Sum256([]byte(content)))
}

func TestScan_OllamaModelsShareBlobs_NoneVanishesWithoutAReason(t *testing.T) {
	dir := t.TempDir()
	a, b := llama(), llama()+"2"
	plant(t, dir, ollamaStore(map[string][][2]string{
		"registry.ollama.ai/library/a/8b":     {{"projector", projector()}, {"model", a}, {"projector", projector()}},
		"registry.ollama.ai/library/a/latest": {{"projector", projector()}, {"model", a}},
		"registry.ollama.ai/library/b/8b":     {{"projector", projector()}, {"model", b}},
	}, "{}"))
	models, skipped := sets(t, dir)
	sees := ", sees by " + blobOf(projector())
	if diff := cmp.Diff(map[string]string{"a:8b": blobOf(a) + sees, "b:8b": blobOf(b) + sees}, models); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	if len(skipped) > 0 {
		t.Errorf("left out: %q", skipped)
	}
	found, _, err := Scan(t.Context(), dir)
	must(t, err)
	for _, m := range found {
		if tags := strings.Join(m.Aliases, " "); (m.Name == "a:8b") != (tags == "a:latest") {
			t.Errorf("%s is also called %q", m.Name, tags)
		}
		var sum int64
		for _, path := range append(m.Parts, m.Path) {
			stat, err := os.Stat(path)
			must(t, err)
			sum += stat.Size()
		}
		if int64(m.Size) != sum {
			t.Errorf("%s has %d bytes, its files %d", m.Name, m.Size, sum)
		}
	}
}

func TestScan_OllamaModelIsNoWholeModel_LeftOut(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, ollamaStore(map[string][][2]string{
		"h/n/shard/t":   {{"model", ggufShard(1, 2)}},
		"h/n/adapter/t": {{"model", ggufOf("llama", "adapter")}},
		"h/n/eyes/t":    {{"model", projector()}},
	}, "{}"))
	models, skipped := sets(t, dir)
	if len(models) > 0 {
		t.Errorf("models: %q", models)
	}
	for name, reason := range map[string]string{"shard": "shard 1 of 2", "adapter": `role "adapter"`, "eyes": `role "projector"`} {
		if got := skipped["manifests/h/n/"+name+"/t"]; !strings.Contains(got, reason) {
			t.Errorf("%s was left out because it %q; want something about %q", name, got, reason)
		}
	}
}

func TestWatch_OllamaTagsComeAndGo_AreNamesOfOneModel(t *testing.T) {
	content := llama()
	tag := func(name string) map[string]string {
		return ollamaStore(map[string][][2]string{"registry.ollama.ai/library/a/" + name: {{"model", content}}}, "{}")
	}
	dir := t.TempDir()
	plant(t, dir, tag("latest"))
	w, err := NewWatcher(dir, nil, nil)
	must(t, err)
	said := func() string {
		t.Helper()
		c, err := w.Scan(t.Context())
		must(t, err)
		var out []string
		for sign, models := range map[string][]tier.Model{"+": c.Added, "~": c.Changed, "-": c.Removed} {
			for _, m := range models {
				out = append(out, sign+m.Name+fmt.Sprint(m.Aliases))
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "+a:latest[]"},
		{func() { plant(t, dir, tag("8b")) }, "~a:latest[a:8b]"}, // it goes first, and the model keeps its name
		{func() { plant(t, dir, tag("9b")) }, "~a:latest[a:8b a:9b]"},
		{func() { must(t, os.Remove(filepath.Join(dir, "manifests/registry.ollama.ai/library/a/latest"))) }, "+a:8b[a:9b] -a:latest[a:8b a:9b]"},
		{func() { must(t, os.Remove(filepath.Join(dir, "manifests/registry.ollama.ai/library/a/9b"))) }, "~a:8b[]"},
	} {
		step.do()
		if got := said(); got != step.want {
			t.Errorf("reported %q, want %q", got, step.want)
		}
	}
}
