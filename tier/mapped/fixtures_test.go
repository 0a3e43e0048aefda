package mapped

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// onDisk returns a temporary folder on a filesystem with a device.
func onDisk(t testing.TB) string {
	t.Helper()
	sys := newSystem()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		dir, err := os.MkdirTemp(parent, "mapped-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		memory := sys.filesystem != nil && sys.filesystem(d).inMemory
		d.Close()
		if !memory {
			return dir
		}
	}
	t.Skip("no folder that is not in memory")
	return ""
}

// content returns size bytes that do not repeat by the page.
func content(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	r.Read(b)
	return b
}

// writeFile writes size bytes to the device and drops them from the page cache.
func writeFile(t testing.TB, path string, size int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const piece = 8 << 20
	for left := size; left > 0; left -= piece {
		if _, err := f.Write(content(min(left, piece))); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	chill(t, f)
}

// chill drops a file from the page cache.
func chill(t testing.TB, f *os.File) {
	t.Helper()
	if sys := newSystem(); sys.dropCached != nil {
		if err := sys.dropCached(f, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func chillPath(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chill(t, f)
}

// model returns a model of one cold file.
func model(t testing.TB, name string, size tier.Bytes) tier.Model {
	t.Helper()
	path := filepath.Join(onDisk(t), name+".gguf")
	writeFile(t, path, int(size))
	return tier.Model{Name: name, Path: path, Size: size}
}

// sharded returns a model of cold shards of that many bytes each.
func sharded(t testing.TB, name string, sizes ...int) tier.Model {
	t.Helper()
	dir := filepath.Join(onDisk(t), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := tier.Model{Name: name, Path: dir}
	for i, size := range sizes {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(sizes))), size)
		m.Size += tier.Bytes(size)
	}
	return m
}

func newTestMover(t testing.TB, sys *system, opts Options) *Mover {
	t.Helper()
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := newMover(sys, opts)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func mustMove(t testing.TB, m *Mover, mod tier.Model, to tier.Tier, keep tier.Bytes) {
	t.Helper()
	if err := m.Move(context.Background(), tier.Move{Model: mod, To: to, Keep: keep}, nil); err != nil {
		t.Fatalf("move to %v: %v", to, err)
	}
}

// sameWeights fails if the mapped bytes of the model differ from its files.
func sameWeights(t testing.TB, m *Mover, mod tier.Model) {
	t.Helper()
	paths, err := findShards(mod.Name, mod.Path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Bytes(mod.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(paths) {
		t.Fatalf("%d shards, want %d", len(got), len(paths))
	}
	for i, path := range paths {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[i], want) {
			t.Fatalf("shard %d differs from %s", i, path)
		}
	}
}
