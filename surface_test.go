package modeltier_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateSurface = flag.Bool("update-surface", false, "write testdata/surface.txt")

// public are the folders that programs import.
var public = []string{".", "tier", "tier/mapped", "tier/process", "tier/tiertest", "modeltiertest", "selector", "safety", "hotload", "optimizer", "jetson"}

// What programs compile against does not go or change by accident. An addition is fine,
// but for one to an interface, which they may implement.
func TestSurface_NothingThatProgramsCompileAgainst_HasGone(t *testing.T) {
	now := make(map[string]bool)
	for _, folder := range public {
		for _, line := range surface(t, folder) {
			now[line] = true
		}
	}
	path := filepath.Join("testdata", "surface.txt")
	if *updateSurface {
		lines := make([]string, 0, len(now))
		for line := range now {
			lines = append(lines, line+"\n")
		}
		slices.Sort(lines)
		if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(kept)) {
		if line = strings.TrimSpace(line); !now[line] {
			t.Errorf("gone, or different by now: %s", line)
		}
	}
	if t.Failed() {
		t.Error("if that is meant, say so in CHANGELOG.md and run: go test -run Surface -update-surface .")
	}
}

// parsedFiles returns the files of a folder but its tests.
func parsedFiles(t *testing.T, folder string) (parsed []*ast.File) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", folder, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	return parsed
}

// surface returns what a folder exports, a line for each name and each field.
func surface(t *testing.T, folder string) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, folder+": "+fmt.Sprintf(format, args...)) }
	for _, parsed := range parsedFiles(t, folder) {
		for _, d := range parsed.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if of := receiver(d); d.Name.IsExported() && (of == "" || token.IsExported(strings.TrimPrefix(of, "*"))) {
					add("func %s%s", strings.TrimPrefix("("+of+") ", "() "), signature(d.Name.Name, d.Type))
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							if name.IsExported() {
								add("%s %s", d.Tok, name.Name)
							}
						}
					case *ast.TypeSpec:
						if spec.Name.IsExported() {
							addType(add, spec)
						}
					}
				}
			}
		}
	}
	return lines
}

func addType(add func(string, ...any), spec *ast.TypeSpec) {
	name := spec.Name.Name
	switch of := spec.Type.(type) {
	case *ast.StructType:
		add("type %s struct", name)
		for _, f := range of.Fields.List {
			for _, field := range f.Names {
				if field.IsExported() {
					add("type %s struct, %s %s", name, field.Name, expression(f.Type))
				}
			}
			if len(f.Names) == 0 {
				add("type %s struct, embedded %s", name, expression(f.Type))
			}
		}
	case *ast.InterfaceType:
		var methods []string
		for _, m := range of.Methods.List {
			if f, ok := m.Type.(*ast.FuncType); ok {
				methods = append(methods, signature(m.Names[0].Name, f))
			} else {
				methods = append(methods, expression(m.Type))
			}
		}
		slices.Sort(methods)
		add("type %s interface { %s }", name, strings.Join(methods, "; "))
	default:
		equal := ""
		if spec.Assign.IsValid() {
			equal = "= "
		}
		add("type %s %s%s", name, equal, expression(spec.Type))
	}
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	return types.ExprString(d.Recv.List[0].Type)
}

func signature(name string, f *ast.FuncType) string {
	return name + strings.TrimPrefix(expression(f), "func")
}

// expression returns a type as text, without the names of parameters.
func expression(e ast.Expr) string {
	ast.Inspect(e, func(n ast.Node) bool {
		f, ok := n.(*ast.FuncType)
		if !ok {
			return true
		}
		for _, list := range []*ast.FieldList{f.Params, f.Results} {
			if list == nil {
				continue
			}
			var bare []*ast.Field
			for _, p := range list.List {
				for range max(len(p.Names), 1) {
					bare = append(bare, &ast.Field{Type: p.Type})
				}
			}
			list.List = bare
		}
		return true
	})
	return types.ExprString(e)
}
