package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

const referenceHead = `# The configuration

` + "`modeltier serve -config FILE`" + ` serves what a file says. It is YAML, of which JSON is a part; [modeltier.example.yaml](../integrations/gateway/modeltier.example.yaml) is one to
start from, [schema.json](../integrations/gateway/config/schema.json) is for editors, and ` + "`modeltier check FILE`" + ` tells what is wrong with one. This page is made from the types that
the file is read into.

- A fault names file, line, column, value and what would be right, and all of them are told at once. A key that is not known is a
  warning, with the nearest that is. Keys count in their exact case; one that is there twice is a fault.
- A **size** is 5GiB, 320MiB or 0.5G; 1 GB is 2^30 bytes. A **time** is 90s, 15m, 1h30m or 2d. A list of one text needs no brackets.
- Anchors, aliases and merges (` + "`<<`" + `) are followed; a key of the file that begins with ` + "`x-`" + ` is not read, and is a place for anchors.
- In a list in brackets, a text that begins with ` + "`{`" + ` has to be in quotes: ` + "`[--port, \"{port}\"]`" + `.
- A file that was changed is taken up while the server runs, once it looks the same twice: only what is another is replaced, when it is not in use.
  One that has a fault, is empty or cannot be read changes nothing. Only a regular file is opened, of 1 MiB at most.
`

// Reference returns the page about the configuration, in Markdown.
func Reference() ([]byte, error) {
	docs, err := readComments()
	if err != nil {
		return nil, err
	}
	b := bytes.NewBufferString(referenceHead)
	older := bytes.NewBuffer(nil)
	for _, t := range structures() {
		fmt.Fprintf(b, "\n## %s\n\n%s\n\n| key | value | what it is |\n| --- | --- | --- |\n", t.Name(), docs[t.Name()])
		for _, f := range fieldsOf(t) {
			needed := ""
			if f.need {
				needed = " (needed)"
			}
			fmt.Fprintf(b, "| `%s`%s | %s | %s |\n", f.key, needed, described(f.Type), strings.ReplaceAll(docs[t.Name()+"."+f.Name], "|", `\|`))
			if f.old != "" {
				fmt.Fprintf(older, "| `%s` of %s | `%s` |\n", f.old, t.Name(), f.key)
			}
		}
	}
	fmt.Fprintf(b, "\n## Older spellings\n\nTaken as well: their numbers are GB (2^30 bytes), where 0 is the default, or seconds.\n\n| key | today |\n| --- | --- |\n%s", older)
	return b.Bytes(), nil
}

// described says what is written for a type.
func described(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Limit]():
		return "size, `none` or `unlimited`"
	case reflect.TypeFor[Duration]():
		return "time"
	case reflect.TypeFor[KeepAlive]():
		return "time, 0 (at once) or `forever`"
	case reflect.TypeFor[Command]():
		return "command line, or list"
	case reflect.TypeFor[Environment]():
		return "list, or mapping"
	case reflect.TypeFor[Body]():
		return "text, or what is sent as JSON"
	case reflect.TypeFor[tier.Tier]():
		return "`ram`, `swap` or `storage`"
	}
	if e, ok := reflect.Zero(t).Interface().(enumerated); ok {
		return "`" + strings.Join(e.words(), "`, `") + "`"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return described(t.Elem())
	case reflect.Slice:
		return "list of " + described(t.Elem())
	case reflect.Map:
		return "mapping of names to " + described(t.Elem())
	case reflect.Struct:
		return fmt.Sprintf("[%s](#%s)", t.Name(), strings.ToLower(t.Name()))
	case reflect.Bool:
		return "`true` or `false`"
	case reflect.Int:
		return "whole number"
	case reflect.Float64:
		return "number"
	}
	return "text"
}
