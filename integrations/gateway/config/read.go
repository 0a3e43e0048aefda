package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/modeltier/modeltier/tier"
)

// Fault is something in a file that is wrong. An error of Parse is one or more of them,
// joined.
type Fault struct {
	File         string
	Line, Column int    // from 1
	Key          string // such as models[2].size; "": it is about no key
	Value        string // what is there; "": nothing, or a secret
	Rule         string // what it must be
}

// Error returns it as FILE:LINE:COLUMN: and what is wrong.
func (f *Fault) Error() string {
	b := fmt.Appendf(nil, "%s:%d:%d:", f.File, f.Line, f.Column)
	if f.Key != "" {
		b = append(append(b, ' '), f.Key...)
	}
	if f.Value != "" {
		b = append(append(b, ' '), f.Value...)
	}
	if !strings.HasPrefix(f.Rule, ":") {
		b = append(b, ' ')
	}
	return string(append(b, f.Rule...))
}

// Unwrap returns tier.ErrInvalid.
func (f *Fault) Unwrap() error { return tier.ErrInvalid }

// Warning is something in a file that may not be what was meant. The file is used.
type Warning Fault

// String returns it as FILE:LINE:COLUMN: and what it is about.
func (w Warning) String() string { f := Fault(w); return f.Error() }

// Bounds of a file.
const (
	maxFile    = 1 << 20
	maxFaults  = 100    // that are told
	maxNesting = 64     // of brackets, and of what stands in one line outside of them
	maxEntries = 20_000 // of a mapping outside of brackets: the parser is quadratic in them
)

// Read returns the configuration of a file, as Parse does. It does not open what is no regular file: to
// open a FIFO would block, and to read a device would have effects.
func Read(path string) (*File, []Warning, error) {
	if err := checkKind(path, "a regular file", fs.FileMode.IsRegular); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	file, warnings, err := Parse(path, b, dir)
	if file != nil {
		file.info = info
	}
	return file, warnings, err
}

// checkKind returns an error that names path if it is not there or is not what it must be.
func checkKind(path, want string, is func(fs.FileMode) bool) error {
	info, err := os.Stat(path)
	if err == nil && !is(info.Mode()) {
		err = fmt.Errorf("%s must be %s", path, want)
	}
	return err
}

// Parse reads a configuration that lies in dir; name is for its faults, all of which its
// error names, each a *Fault. With such an error the File is what could be read, for File.Check
// alone, or nil. It looks at no file but to tell whether a model's path is one.
func Parse(name string, b []byte, dir string) (*File, []Warning, error) {
	f := &File{name: name}
	d := &decoder{file: f}
	if root, fault := parse(name, b); fault != nil {
		return nil, nil, fault
	} else {
		f.root = root
		d.anchor(root)
		d.decode(root, reflect.ValueOf(f).Elem(), nil, false)
	}
	f.settle(dir)
	if d.count <= maxFaults {
		d.validate()
	}
	f.read = d
	return f, d.warnings, d.err()
}

// parse returns the only document of a file. One that holds nothing is being written, or
// something went wrong: it stands for no configuration.
func parse(name string, b []byte) (root ast.Node, fault *Fault) {
	at := func(tk *token.Token, rule string) *Fault {
		f := &Fault{File: name, Line: 1, Column: 1, Rule: rule}
		if tk != nil && tk.Position != nil {
			f.Line, f.Column = max(tk.Position.Line, 1), max(tk.Position.Column, 1)
		}
		return f
	}
	if len(b) > maxFile {
		return nil, at(nil, fmt.Sprintf("must not be longer than %d bytes", maxFile))
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // which editors on Windows put before a text
	if !utf8.Valid(b) {
		good := len(bytes.ToValidUTF8(b, nil)) // no more than that is before it
		for good = min(good, len(b)); !utf8.Valid(b[:good]); good-- {
		}
		line := 1 + bytes.Count(b[:good], []byte("\n"))
		column := utf8.RuneCount(b[bytes.LastIndexByte(b[:good], '\n')+1:good]) + 1
		return nil, &Fault{File: name, Line: line, Column: column, Rule: "must be text in UTF-8"}
	}
	defer func() {
		if p := recover(); p != nil {
			root, fault = nil, at(nil, fmt.Sprintf("cannot be read as YAML: %.200v", p))
		}
	}()
	tokens := lexer.Tokenize(string(b))
	if tk, rule := beyondBounds(tokens); tk != nil {
		return nil, at(tk, rule)
	}
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // which are told with all else
	if err != nil {
		var syntax interface {
			GetMessage() string
			GetToken() *token.Token
		}
		if errors.As(err, &syntax) {
			return nil, at(syntax.GetToken(), fmt.Sprintf("is no YAML: %.200s", syntax.GetMessage()))
		}
		return nil, at(nil, fmt.Sprintf("is no YAML: %.200v", err))
	}
	for _, doc := range parsed.Docs {
		switch body := doc.Body; {
		case body == nil:
		case root != nil:
			return nil, at(start(body), "is a second document; there must be one")
		default:
			root = body
		}
	}
	if root == nil {
		return nil, at(nil, "is empty: {} is a configuration of nothing")
	}
	return root, nil
}

// beyondBounds returns the first token of a file that the parser should not see: it calls
// itself for what is nested, and takes a time quadratic in some lengths.
func beyondBounds(tokens token.Tokens) (*token.Token, string) {
	depth, line, inLine := 0, 0, 0
	entries := map[int]int{} // of the mappings that are open, by column
	for i, tk := range tokens {
		switch tk.Type {
		case token.MappingStartType, token.SequenceStartType:
			if depth++; depth > maxNesting {
				return tk, fmt.Sprintf("is nested deeper than %d levels", maxNesting)
			}
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.MappingKeyType:
			return tk, "is a ? before a key, which none needs here"
		case token.MappingValueType, token.SequenceEntryType, token.AnchorType, token.AliasType, token.TagType:
			if tk.Position.Line != line {
				line, inLine = tk.Position.Line, 0
			}
			if depth > 0 && tk.Type == token.MappingValueType && i > 0 && tokens[i-1].Type != token.MappingValueType {
				inLine = 0 // an entry of a mapping in brackets
			}
			if inLine++; inLine > maxNesting {
				return tk, fmt.Sprintf("is in a line with more than %d marks", maxNesting)
			}
			if depth > 0 || i == 0 {
				continue
			}
			column := tk.Position.Column
			if tk.Type == token.MappingValueType {
				column = tokens[i-1].Position.Column
				if entries[column]++; entries[column] > maxEntries {
					return tk, fmt.Sprintf("is in a mapping with more than %d entries", maxEntries)
				}
			}
			for c := range entries {
				if c > column {
					delete(entries, c)
				}
			}
		}
	}
	return nil, ""
}

// start returns the first token of a node.
func start(n ast.Node) *token.Token {
	switch n := n.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
}

// fault notes why the value at path cannot be read. n is the value, or what lacks it.
func (d *decoder) fault(path []string, n ast.Node, rule string) {
	if d.faulty == nil {
		d.faulty = make(map[string]bool)
	}
	if len(d.faults) < maxFaults {
		d.faulty[keyOf(path)] = true
	}
	d.note(path, n, rule)
}

func (d *decoder) note(path []string, n ast.Node, rule string) {
	if d.count++; len(d.faults) < maxFaults {
		d.faults = append(d.faults, d.at(path, n, rule))
	}
}

// invalid notes what is wrong with the value at path, which has been read. value is what of
// it is wrong, "": all of it. What could not be read is wrong already.
func (d *decoder) invalid(path []string, value, rule string) {
	for i := range path {
		if d.faulty[keyOf(path[:i+1])] {
			return
		}
	}
	if d.count++; len(d.faults) >= maxFaults {
		return // its place would be looked for, in vain
	}
	n, whole := d.find(path)
	f := d.at(path, n, rule)
	switch {
	case isSecret(path) || !whole && value == "":
		f.Value = ""
	case value != "":
		f.Value = shorten(value)
	}
	d.faults = append(d.faults, f)
}

// at returns a fault at a node.
func (d *decoder) at(path []string, n ast.Node, rule string) *Fault {
	f := &Fault{File: d.file.name, Line: 1, Column: 1, Key: keyOf(path), Value: d.shown(path, n), Rule: rule}
	if tk := start(n); tk != nil && tk.Position != nil {
		f.Line, f.Column = max(tk.Position.Line, 1), max(tk.Position.Column, 1)
	}
	return f
}

// err returns all faults, in the order of the file.
func (d *decoder) err() error {
	slices.SortStableFunc(d.faults, func(a, b *Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	var errs []error
	for _, f := range d.faults {
		errs = append(errs, f)
	}
	if more := d.count - len(d.faults); more > 0 {
		last := *d.faults[len(d.faults)-1]
		last.Key, last.Value, last.Rule = "", "", fmt.Sprintf("and %d more faults", more)
		errs = append(errs, &last)
	}
	return errors.Join(errs...)
}

// keyOf joins a path: models[2].size.
func keyOf(path []string) string {
	var b strings.Builder
	for _, p := range path {
		if b.Len() > 0 && !strings.HasPrefix(p, "[") {
			b.WriteByte('.')
		}
		b.WriteString(shorten(p))
	}
	return b.String()
}

// shorten returns what is shown of a text.
func shorten(text string) string {
	const most = 80
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
