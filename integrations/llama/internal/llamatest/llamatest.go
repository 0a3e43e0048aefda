// Package llamatest has what tests of a live llama.cpp need: its libraries, and
// models of random weights. A test skips where the libraries cannot be had.
package llamatest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama"
)

// Libraries returns the folder of the libraries, in the user's cache.
func Libraries(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir, err := llama.Fetch(ctx, filepath.Join(cache, "modeltier", "llama"))
	if err != nil {
		t.Skip("llama.cpp cannot be had here: ", err)
	}
	return dir
}

// Open opens the libraries.
func Open(t testing.TB) *llama.Library {
	t.Helper()
	l, err := llama.Open(Libraries(t))
	if err != nil {
		t.Skip(err)
	}
	return l
}

// Load opens a model of random weights until the test's end.
func Load(t testing.TB, shape demo.Llama, o llama.Options) *llama.Model {
	t.Helper()
	l := Open(t)
	m, err := l.Load(t.Context(), File(t, shape), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// File returns the path of a model of random weights.
func File(t testing.TB, shape demo.Llama) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "random.gguf")
	Write(t, shape, path)
	return path
}

// Write writes a model of random weights.
func Write(t testing.TB, shape demo.Llama, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(shape.Write(t.Context(), f, nil), f.Sync()); err != nil { // dirty pages cannot be paged out
		t.Fatal(err)
	}
}

// Without returns a folder of the libraries that lacks a variant for some processors,
// such as "sapphirerapids": without it llama.cpp copies no weights of eight bits on
// processors with AMX.
func Without(t testing.TB, variant string) string {
	t.Helper()
	from, to := Libraries(t), t.TempDir()
	files, err := filepath.Glob(filepath.Join(from, "*.so"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name == "libggml-cpu-"+variant+".so" {
			continue
		}
		if err := os.Symlink(file, filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
