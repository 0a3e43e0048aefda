package regular

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// List returns entries of a folder, by name: all of them, if there are fewer than
// limit.
func List(dir string, limit int) ([]fs.DirEntry, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(limit)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// Weights returns the format of weights that a file's name indicates: "gguf",
// "safetensors", or "" if it is none of them. In a folder with such files, they are
// the model.
func Weights(path string) (format string) {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".gguf", ".safetensors":
		return ext[1:]
	}
	return ""
}
