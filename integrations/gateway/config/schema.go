package config

import (
	"embed"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/modeltier/modeltier/tier"
)

// source is where the comments of the types are.
//
//go:embed file.go engine.go values.go
var source embed.FS

// comments are those of types and, as TYPE.FIELD, of their fields.
type comments map[string]string

func readComments() (comments, error) {
	all := comments{}
	files, err := source.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := source.ReadFile(f.Name())
		if err != nil {
			return nil, err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), b, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, decl := range parsed.Decls {
			types, ok := decl.(*ast.GenDecl)
			if !ok || types.Tok != token.TYPE {
				continue
			}
			for _, spec := range types.Specs {
				t := spec.(*ast.TypeSpec)
				all[t.Name.Name] = oneLine(types.Doc)
				fields, ok := t.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, f := range fields.Fields.List {
					for _, name := range f.Names {
						all[t.Name.Name+"."+name.Name] = oneLine(f.Doc)
					}
				}
			}
		}
	}
	return all, nil
}

func oneLine(doc *ast.CommentGroup) string { return strings.Join(strings.Fields(doc.Text()), " ") }

// Schema returns the JSON Schema of a File, for editors: 2020-12, indented. It allows what
// Parse takes without a warning, but for names that are written as numbers, and describes
// every key.
func Schema() ([]byte, error) {
	docs, err := readComments()
	if err != nil {
		return nil, err
	}
	r := jsonschema.Reflector{
		Anonymous: true, ExpandedStruct: true, Mapper: valueSchema,
		LookupComment: func(t reflect.Type, field string) string {
			if field == "" {
				return docs[t.Name()]
			}
			return docs[t.Name()+"."+field]
		},
	}
	s := r.Reflect(&File{})
	s.Title = "The configuration of modeltier"
	s.PatternProperties = map[string]*jsonschema.Schema{"^x-": {Description: "Not read: a place for anchors."}}
	complete(s, reflect.TypeFor[File]())
	for _, t := range structures() {
		if def := s.Definitions[t.Name()]; def != nil {
			complete(def, t)
		}
	}
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// structures returns the types of a File that are structures, itself first, each once, in
// the order in which they are met.
func structures() []reflect.Type {
	var all []reflect.Type
	seen := map[reflect.Type]bool{}
	var visit func(t reflect.Type)
	visit = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || seen[t] {
			return
		}
		seen[t] = true
		all = append(all, t)
		for _, f := range fieldsOf(t) {
			visit(f.Type)
		}
	}
	visit(reflect.TypeFor[File]())
	return all
}

// complete adds to the schema of a structure what its types do not say: keys of before,
// and texts in the place of lists and structures.
func complete(s *jsonschema.Schema, t reflect.Type) {
	for _, f := range fieldsOf(t) {
		property, _ := s.Properties.Get(f.key)
		if property.Items != nil && f.Type.Kind() == reflect.Slice {
			if elem := f.Type.Elem(); elem.Kind() == reflect.Struct && hasShort(elem) {
				property.Items = anyOf(&jsonschema.Schema{Type: "string"}, property.Items)
			}
			if elem := f.Type.Elem(); elem.Kind() == reflect.String || elem.Kind() == reflect.Struct && hasShort(elem) {
				list := anyOf(property.Items, &jsonschema.Schema{Type: "array", Items: property.Items})
				list.Description = property.Description
				s.Properties.Set(f.key, list)
			}
		}
		if f.old != "" {
			unit := "seconds"
			if strings.HasSuffix(f.old, "_gb") {
				unit = "GB"
			}
			s.Properties.Set(f.old, &jsonschema.Schema{Type: "number", Deprecated: true, Description: f.key + ", in " + unit + "."})
		}
	}
}

func hasShort(t reflect.Type) bool {
	for _, f := range fieldsOf(t) {
		if f.short {
			return true
		}
	}
	return false
}

func anyOf(of ...*jsonschema.Schema) *jsonschema.Schema { return &jsonschema.Schema{AnyOf: of} }

// Patterns of values, which the schema tells editors. What is right is what Parse takes.
const (
	sizePattern = `^[0-9]*\.?[0-9]+ *([kKmMgGtT]([iI]?[bB])?|[bB])$`
	timePattern = `^([0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h))+$|^[0-9]*\.?[0-9]+d$`
)

// valueSchema returns the schema of a type that is written otherwise than its kind says; nil
// for others.
func valueSchema(t reflect.Type) *jsonschema.Schema {
	text := func(pattern string) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Pattern: pattern} }
	words := func(words ...string) *jsonschema.Schema {
		s := &jsonschema.Schema{Type: "string"}
		for _, w := range words {
			s.Enum = append(s.Enum, w)
		}
		return s
	}
	zero := &jsonschema.Schema{Const: 0}
	scalar := anyOf(&jsonschema.Schema{Type: "string"}, &jsonschema.Schema{Type: "number"}, &jsonschema.Schema{Type: "boolean"})
	list := &jsonschema.Schema{Type: "array", Items: scalar}
	switch t {
	case reflect.TypeFor[Size]():
		return anyOf(text(sizePattern), zero)
	case reflect.TypeFor[Limit]():
		return anyOf(text(sizePattern), zero, words("none", "unlimited"))
	case reflect.TypeFor[Duration]():
		return anyOf(text(timePattern), zero)
	case reflect.TypeFor[KeepAlive]():
		return anyOf(text(timePattern), zero, &jsonschema.Schema{Const: -1}, words("forever"))
	case reflect.TypeFor[Command]():
		return anyOf(&jsonschema.Schema{Type: "string"}, list)
	case reflect.TypeFor[Environment]():
		return anyOf(list, &jsonschema.Schema{Type: "object", AdditionalProperties: scalar})
	case reflect.TypeFor[Body]():
		return &jsonschema.Schema{}
	case reflect.TypeFor[tier.Tier]():
		return words(tier.RAM.String(), tier.Swap.String(), tier.Storage.String())
	}
	if e, ok := reflect.Zero(t).Interface().(enumerated); ok {
		return words(e.words()...)
	}
	return nil
}
