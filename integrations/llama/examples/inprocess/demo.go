package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier/examples/demo"
)

// demoModels makes five models of random weights, once: they say words, and no sense.
func demoModels(ctx context.Context, dir string) (string, error) {
	for _, name := range []string{"ada", "ben", "cleo", "dan", "eve"} {
		path := filepath.Join(dir, name, name+".gguf")
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		f, err := os.Create(path + ".part")
		if err != nil {
			return "", err
		}
		shape := demo.Llama{Name: name, Width: 512, Inner: 1536, Layers: 8}
		if err := errors.Join(shape.Write(ctx, f, nil), f.Sync(), f.Close()); err != nil {
			return "", err
		}
		if err := os.Rename(path+".part", path); err != nil {
			return "", err
		}
	}
	return dir, nil
}
