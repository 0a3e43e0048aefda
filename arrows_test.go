package modeltier_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrows says which packages of this module a folder may import; "…" stands for
// the folders below. What is not listed may import none.
var arrows = map[string][]string{
	".":                {"tier", "internal/core", "internal/wire", "internal/state", "internal/outbox", "internal/digest", "selector", "safety", "hotload", "optimizer", "tier/mapped"},
	"internal/asuser":  {},
	"internal/core":    {"tier"},
	"internal/wire":    {"tier"},
	"internal/state":   {"tier", "internal/regular"},
	"internal/digest":  {"internal/regular"},
	"internal/outbox":  {},
	"internal/regular": {},
	"selector":         {"tier"},
	"safety":           {"tier"},
	"hotload":          {"tier", "internal/regular"},
	"optimizer":        {"tier"},
	"jetson":           {"tier"},
	"tier":             {},
	"tier/mapped":      {"tier", "internal/regular"},
	"tier/process":     {"tier", "internal/outbox", "internal/regular"},
	"tier/tiertest":    {"tier"},
	"modeltiertest":    {".", "tier", "tier/tiertest"},
}

// tops are the folders that stand above the root and import what they like.
var tops = []string{"examples", "benchmarks"}

const module = "github.com/modeltier/modeltier"

func TestHouse_ArrowsPointDownOnly(t *testing.T) {
	checked := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "integrations") {
				return filepath.SkipDir
			}
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		top, _, _ := strings.Cut(dir, "/")
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || slices.Contains(tops, top) {
			return nil
		}
		allowed, listed := arrows[dir]
		if !listed { // a subfolder follows the rules of its parent
			parent := filepath.ToSlash(filepath.Dir(dir))
			if allowed, listed = arrows[parent]; !listed {
				t.Errorf("%s: the folder is not listed in arrows", path)
			}
			allowed = append(slices.Clone(allowed), parent)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			checked++
			imported := strings.Trim(spec.Path.Value, `"`)
			if imported == module {
				imported = module + "/."
			}
			if own, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(allowed, own) && !strings.HasPrefix(own, dir+"/") {
				t.Errorf("%s imports %s; %s may import %v", path, own, dir, allowed)
			}
			if dir == "tier" && strings.Contains(imported, ".") {
				t.Errorf("%s imports %s; tier imports the standard library only", path, imported)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 100 {
		t.Errorf("only %d imports were looked at", checked)
	}
}
