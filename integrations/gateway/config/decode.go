package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/modeltier/modeltier/tier"
)

// decoder makes a File of a document, by the types of its fields and their tags:
//
//	json    the key
//	old     a key that means the same, whose name has the unit of its number
//	need    the key must be there
//	short   a text in place of the mapping is the value of this key
//	secret  the value is not shown
type decoder struct {
	file     *File
	anchors  map[string]ast.Node
	depth    int // of aliases
	aliased  int // nodes that were read by an alias
	faults   []*Fault
	faulty   map[string]bool // keys of values that could not be read
	count    int             // of all faults
	warnings []Warning
}

// Bounds on what aliases stand for: a few lines could mean more than memory holds.
const (
	maxAliasDepth = 8
	maxAliased    = 10_000
)

var tooMuch = fmt.Sprintf("stands for too much: aliases may lead to %d values, and to others %d times", maxAliased, maxAliasDepth)

// decode sets to by a node, which may be nil. old says that its key has the unit.
func (d *decoder) decode(n ast.Node, to reflect.Value, path []string, old bool) {
	switch x := n.(type) {
	case *ast.AnchorNode:
		d.decode(x.Value, to, path, old)
		return
	case *ast.AliasNode:
		if d.depth >= maxAliasDepth {
			d.fault(path, n, tooMuch)
			return
		}
		d.depth++
		defer func() { d.depth-- }()
		d.decode(d.target(x), to, path, old)
		return
	case *ast.TagNode:
		if tag := x.GetToken().Value; !strings.HasPrefix(tag, "!!") {
			d.fault(path, n, "must have no tag: none means anything here")
			return
		}
		d.decode(x.Value, to, path, old)
		return
	case nil, *ast.NullNode:
		return
	}
	if d.depth > 0 && !d.spend(1, path, n) {
		return
	}
	if to.Kind() == reflect.Pointer {
		to.Set(reflect.New(to.Type().Elem()))
		to = to.Elem()
	}
	text, scalar := textOf(n)
	switch v := to.Addr().Interface().(type) {
	case value:
		if scalar {
			d.check(path, n, v.set(text, old))
			return
		}
	case encoding.TextUnmarshaler:
		if scalar {
			d.check(path, n, v.UnmarshalText([]byte(text)))
			return
		}
	case *Environment:
		if _, mapping := n.(ast.MapNode); mapping {
			for _, e := range d.entries(n, path) {
				text, ok := textOf(d.plain(e.value))
				if !ok {
					d.fault(append(path, e.key), e.value, "must be a text")
				}
				*v = append(*v, e.key+"="+text)
			}
			return
		}
	case *Body:
		if scalar {
			*v = Body(text)
		} else {
			b, _ := json.Marshal(d.any(n, path)) // of texts, numbers, lists and mappings
			*v = Body(b)
		}
		return
	}
	switch to.Kind() {
	case reflect.Struct:
		d.structure(n, to, path)
	case reflect.Map:
		d.mapping(n, to, path)
	case reflect.Slice:
		d.list(n, to, path)
	default:
		if !scalar {
			d.fault(path, n, notText(n))
			return
		}
		d.check(path, n, setScalar(to, text))
	}
}

// spend counts values that are read by an alias. If there are too many it notes the first
// that is, and returns false.
func (d *decoder) spend(values int, path []string, n ast.Node) bool {
	if before := d.aliased; before <= maxAliased {
		if d.aliased += values; d.aliased > maxAliased {
			d.fault(path, n, tooMuch)
		}
	}
	return d.aliased <= maxAliased
}

func (d *decoder) check(path []string, n ast.Node, err error) {
	if err == nil {
		return
	}
	rule := err.Error()
	if invalid, ok := errors.AsType[*tier.InvalidError](err); ok {
		rule = invalid.Rule
	}
	d.fault(path, n, rule)
}

func setScalar(to reflect.Value, text string) (err error) {
	switch to.Kind() {
	case reflect.String:
		to.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("must be true or false")
		}
		to.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return errors.New("must be a whole number")
		}
		to.SetInt(n)
	case reflect.Float64:
		n, err := setFloat(text)
		to.SetFloat(n)
		return err
	}
	return nil
}

// notText says what to do about a mapping or a list where there should be a text.
func notText(n ast.Node) string {
	if m, ok := n.(*ast.MappingNode); ok && m.IsFlowStyle {
		return "must be a text: what begins with { or [ has to be in quotes"
	}
	return "must be a text"
}

// field is a field of a structure, by its key.
type field struct {
	reflect.StructField
	key, old            string
	need, short, secret bool
}

// fieldsOf returns what the keys of a structure may be.
func fieldsOf(t reflect.Type) (fields []field) {
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key == "" || key == "-" {
			continue
		}
		fields = append(fields, field{f, key, f.Tag.Get("old"), f.Tag.Get("need") != "", f.Tag.Get("short") != "", f.Tag.Get("secret") != ""})
	}
	return fields
}

func (d *decoder) structure(n ast.Node, to reflect.Value, path []string) {
	fields := fieldsOf(to.Type())
	if _, ok := n.(ast.MapNode); !ok {
		text, scalar := textOf(n)
		short := slices.IndexFunc(fields, func(f field) bool { return f.short })
		if !scalar || short < 0 {
			d.fault(path, n, "must be a mapping, with keys such as "+fields[0].key)
			return
		}
		to.FieldByIndex(fields[short].Index).SetString(text)
		return
	}
	var keys []string
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	given := map[string]string{}
	entries := d.entries(n, path)
	for _, e := range entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key || f.old == e.key && e.key != "" })
		switch {
		case i < 0 && len(path) == 0 && strings.HasPrefix(e.key, "x-"): // for anchors
		case i < 0:
			d.unknown(e, keys)
		case given[fields[i].key] != "":
			d.note(append(path, e.key), e.name, "means the same as "+given[fields[i].key]+", which is there as well")
		default:
			given[fields[i].key] = e.key
			d.value(e, to.FieldByIndex(fields[i].Index), path, fields[i].old == e.key)
		}
	}
	if len(path) == 0 && len(entries) > 0 && len(given) == 0 {
		d.fault(path, n, "is no configuration: it has none of the keys "+strings.Join(keys, ", "))
	}
	for _, f := range fields {
		if f.need && given[f.key] == "" {
			d.fault(append(path, f.key), n, "is missing")
		}
	}
}

// value sets to by the value of an entry of the mapping at path.
func (d *decoder) value(e entry, to reflect.Value, path []string, old bool) {
	if e.merged {
		d.depth++
		defer func() { d.depth-- }()
	}
	d.decode(e.value, to, append(path, e.key), old)
}

// unknown warns of a key that is none of keys.
func (d *decoder) unknown(e entry, keys []string) {
	rule := fmt.Sprintf("unknown key '%s'", shorten(e.key))
	if near := tier.Nearest(e.key, keys); len(near) > 0 {
		rule += fmt.Sprintf(" (did you mean '%s'?)", near[0])
	}
	if len(d.warnings) < maxFaults {
		w := Warning(*d.at(nil, e.name, rule))
		w.Value = ""
		d.warnings = append(d.warnings, w)
	}
}

func (d *decoder) mapping(n ast.Node, to reflect.Value, path []string) {
	if _, ok := n.(ast.MapNode); !ok {
		d.fault(path, n, "must be a mapping of names")
		return
	}
	to.Set(reflect.MakeMap(to.Type()))
	for _, e := range d.entries(n, path) {
		v := reflect.New(to.Type().Elem()).Elem()
		d.value(e, v, path, false)
		to.SetMapIndex(reflect.ValueOf(e.key), v)
	}
}

func (d *decoder) list(n ast.Node, to reflect.Value, path []string) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, mapping := n.(ast.MapNode); mapping {
			d.fault(path, n, "must be a list")
			return
		}
		// A list of one needs no brackets.
		v := reflect.New(to.Type().Elem()).Elem()
		d.decode(n, v, path, false)
		to.Set(reflect.Append(reflect.MakeSlice(to.Type(), 0, 1), v))
		return
	}
	items := reflect.MakeSlice(to.Type(), 0, min(len(list.Values), 1024))
	for i, item := range list.Values {
		at := append(path, fmt.Sprintf("[%d]", i))
		if _, null := d.plain(item).(*ast.NullNode); null {
			d.fault(at, item, "must not be empty")
		}
		v := reflect.New(to.Type().Elem()).Elem()
		d.decode(item, v, at, false)
		items = reflect.Append(items, v)
		if v.Kind() == reflect.String && d.faulty[keyOf(at)] {
			d.faulty[keyOf(path)] = true // a command that lacks a word is none
		}
	}
	to.Set(items)
}

// entry is one of a mapping.
type entry struct {
	key    string
	name   ast.Node // the key
	value  ast.Node
	merged bool // it is another mapping's
}

// told is called with what is wrong with a key of a mapping.
type told func(key string, n ast.Node, rule string)

func untold(string, ast.Node, string) {}

// entries returns those of a mapping, each key once, and notes what is wrong with them.
func (d *decoder) entries(n ast.Node, path []string) []entry {
	return d.pairs(n, func(key string, n ast.Node, rule string) { d.note(append(path, key), n, rule) })
}

// pairs returns the entries of a mapping, each key once: those that are written there go
// before those that are merged in.
func (d *decoder) pairs(n ast.Node, fault told) []entry {
	var own, merged []entry
	seen := map[string]bool{}
	for it := n.(ast.MapNode).MapRange(); it.Next(); {
		name := it.Key()
		if name.IsMergeKey() {
			merged = append(merged, d.merged(it.Value(), fault)...)
			continue
		}
		key, ok := textOf(name)
		if !ok {
			key = name.GetToken().Value // null, by any of its names
		}
		e := entry{key, name, it.Value(), false}
		if seen[e.key] {
			fault(e.key, name, "is there twice")
			continue
		}
		seen[e.key] = true
		own = append(own, e)
	}
	for _, e := range merged {
		if !seen[e.key] {
			seen[e.key] = true
			e.merged = true
			own = append(own, e)
		}
	}
	return own
}

// merged returns the entries of what stands at a merge key: a mapping, or a list of them,
// of which the first counts most.
func (d *decoder) merged(n ast.Node, fault told) (all []entry) {
	if d.depth >= maxAliasDepth {
		fault(mergeKey, n, tooMuch)
		return nil
	}
	d.depth++
	defer func() { d.depth-- }()
	switch x := d.plain(n).(type) {
	case ast.MapNode:
		if all = d.pairs(x.(ast.Node), fault); !d.spend(len(all), []string{mergeKey}, n) {
			return nil
		}
	case *ast.SequenceNode:
		for _, item := range x.Values {
			all = append(all, d.merged(item, fault)...)
		}
	default:
		fault(mergeKey, n, "must be a mapping, or a list of them")
	}
	return all
}

const mergeKey = "<<"

// plain returns what an anchor, an alias or a tag is about.
func (d *decoder) plain(n ast.Node) ast.Node {
	for range maxAliasDepth {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.TagNode:
			n = x.Value
		case *ast.AliasNode:
			n = d.target(x)
		default:
			return n
		}
	}
	return nil
}

// target returns what an alias stands for, nil: there is no such anchor. Of a name that is
// there twice, the last counts.
func (d *decoder) target(alias *ast.AliasNode) ast.Node {
	name, _ := textOf(alias.Value)
	return d.anchors[name]
}

// anchor takes note of what aliases stand for, and of those that stand for nothing.
func (d *decoder) anchor(root ast.Node) {
	d.anchors = make(map[string]ast.Node)
	var aliases []*ast.AliasNode
	ast.Walk(visitor(func(n ast.Node) {
		switch n := n.(type) {
		case *ast.AnchorNode:
			name, _ := textOf(n.Name)
			d.anchors[name] = n.Value
		case *ast.AliasNode:
			aliases = append(aliases, n)
		}
	}), root)
	for _, alias := range aliases {
		if d.target(alias) == nil {
			d.note(nil, alias, fmt.Sprintf("*%s is the alias of no anchor", shorten(alias.Value.GetToken().Value)))
		}
	}
}

type visitor func(ast.Node)

func (v visitor) Visit(n ast.Node) ast.Visitor {
	v(n)
	return v
}

// textOf returns the text of a scalar, as it is written: which type it has is what the key
// says. Null is none.
func textOf(n ast.Node) (string, bool) {
	switch x := n.(type) {
	case nil, *ast.NullNode:
		return "", false
	case *ast.StringNode:
		return x.Value, true
	case *ast.LiteralNode:
		return x.Value.Value, true
	case ast.ScalarNode:
		return x.GetToken().Value, true
	}
	return "", false
}

// any returns a node of the value at path as package json writes it.
func (d *decoder) any(n ast.Node, path []string) any {
	if _, alias := n.(*ast.AliasNode); alias {
		if d.depth >= maxAliasDepth {
			d.fault(path, n, tooMuch)
			return nil
		}
		d.depth++
		defer func() { d.depth-- }()
	}
	if d.depth > 0 && !d.spend(1, path, n) {
		return nil
	}
	switch x := d.plain(n).(type) {
	case ast.MapNode:
		object := ordered{}
		for _, e := range d.pairs(x.(ast.Node), untold) {
			object = append(object, member{e.key, d.any(e.value, path)})
		}
		return object
	case *ast.SequenceNode:
		list := []any{}
		for _, item := range x.Values {
			list = append(list, d.any(item, path))
		}
		return list
	case *ast.StringNode, *ast.LiteralNode:
		text, _ := textOf(x)
		return text
	case nil, *ast.NullNode:
		return nil
	default:
		if text, _ := textOf(x); json.Valid([]byte(text)) {
			return json.RawMessage(text)
		}
		text, _ := textOf(x)
		return text
	}
}

// ordered is an object whose members stay in their order.
type ordered []member

type member struct {
	key   string
	value any
}

func (o ordered) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		key, _ := json.Marshal(m.key)
		v, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), v...)
	}
	return append(b, '}'), nil
}

// shown is what a fault shows of a value: no secret, and no key, which it names anyway.
func (d *decoder) shown(path []string, n ast.Node) string {
	if text, ok := textOf(d.plain(n)); ok && !isSecret(path) && (len(path) == 0 || path[len(path)-1] != text) {
		return strconv.Quote(shorten(text))
	}
	return ""
}

// isSecret reports whether the value of a key may be a secret, or have one in it: that of
// a field that is one, what should be a list of keys and is not, an environment.
func isSecret(path []string) bool {
	t := reflect.TypeFor[File]()
	for _, key := range path {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			fields := fieldsOf(t)
			i := slices.IndexFunc(fields, func(f field) bool { return f.key == key || f.old == key })
			if i < 0 {
				return false
			}
			if fields[i].secret {
				return true
			}
			t = fields[i].Type
		case reflect.Map, reflect.Slice:
			t = t.Elem()
		}
	}
	return t == reflect.TypeFor[[]Key]() || t == reflect.TypeFor[Key]() || t == reflect.TypeFor[Environment]()
}

// find returns the value at a path, or the deepest value that is there on the way; whole
// says which.
func (d *decoder) find(path []string) (n ast.Node, whole bool) {
	d.depth, d.aliased = 0, 0 // what was read is within bounds
	n = d.file.root
	t := reflect.TypeFor[File]()
	for _, key := range path {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		old := ""
		switch t.Kind() {
		case reflect.Struct:
			fields := fieldsOf(t)
			if i := slices.IndexFunc(fields, func(f field) bool { return f.key == key }); i >= 0 {
				old, t = fields[i].old, fields[i].Type
			}
		case reflect.Map, reflect.Slice:
			t = t.Elem()
		}
		next, ok := d.step(n, key, old)
		if !ok {
			return n, false
		}
		n = next
	}
	return n, true
}

func (d *decoder) step(n ast.Node, key, old string) (ast.Node, bool) {
	switch x := d.plain(n).(type) {
	case *ast.SequenceNode:
		if i, err := strconv.Atoi(strings.Trim(key, "[]")); err == nil && i < len(x.Values) {
			return x.Values[i], true
		}
	case ast.MapNode:
		for _, e := range d.pairs(x.(ast.Node), untold) {
			if e.key == key || e.key == old && old != "" {
				return e.value, true
			}
		}
	}
	return nil, false
}
