package hotload

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	second := "manifests/registry.ollama.ai/library/a/latest"
	if len(skipped) != 1 || !strings.Contains(skipped[second], "same file") || !strings.Contains(skipped[second], filepath.Join("a", "8b")) {
		t.Errorf("left out: %q, want %s, and the manifest that goes first", skipped, second)
	}
	found, _, err := Scan(t.Context(), dir)
	must(t, err)
	for _, m := range found {
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
