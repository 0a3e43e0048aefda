package hotload

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEverything_FileHandles_GivenBack goes through what opens files, well and
// badly, and counts the handles.
func TestEverything_FileHandles_GivenBack(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"a.gguf": llama(), "cut.gguf": llama()[:99], "m/model.safetensors": safetensorsShard(), "m/config.json": "{}",
		"broken/model.safetensors": safetensorsShard(), "broken/config.json": "{", "broken/model.safetensors.index.json": "{",
	})
	handles := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	round := func() {
		for _, path := range []string{"a.gguf", "cut.gguf", "m", "broken", "gone", "."} {
			Inspect(filepath.Join(dir, path))
			Measure(filepath.Join(dir, path))
			Resolve(dir, path)
		}
		Scan(t.Context(), dir)
		Watch(canceled(errBroken), dir, nil, 0, nil)
	}
	round() // what is opened once and for all
	before := handles()
	for range 10 {
		round()
	}
	if after := handles(); after > before {
		t.Errorf("%d handles are open, %d were before", after, before)
	}
}
