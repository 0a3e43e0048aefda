package modeltier

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// FuzzEachField holds the walk through an object against encoding/json.
func FuzzEachField(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a" : [1, {"b": "}"}] , "c":"\"\\" }`, `{"a":-1.5e3,"b":true,"c":null,"d":"\u00e9"}`,
		`{"a":1,"a":2}`, `{"\u0061":1,"a":2}`, "{\"\xff\":1}", `[]`, `1`, `{"a":{"a":{"a":[]}}}`, `{"a":1}x`, "{\n\t\"a\"\r: \"b\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := map[string]json.RawMessage{}
		err := eachField("request", raw, func(key string, value json.RawMessage) error {
			got[key] = value
			return nil
		})
		var want map[string]json.RawMessage
		if json.Unmarshal(raw, &want) != nil || want == nil {
			if !errors.Is(err, tier.ErrInvalid) {
				t.Fatalf("%q is no object, and no error: %v", raw, err)
			}
			return
		}
		if err != nil {
			return // a key that stands twice
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d fields, want %d", raw, len(got), len(want))
		}
		for key, value := range want {
			if !bytes.Equal(got[key], value) {
				t.Fatalf("%q: %q is %q, want %q", raw, key, got[key], value)
			}
			var s string
			if text, err := text("x", value); (err == nil) != (json.Unmarshal(value, &s) == nil && string(value) != "null") || err == nil && text != s {
				t.Fatalf("%q as a string is %q, want %q", value, text, s)
			}
			var list []*string
			listed, err := texts("x", value)
			if wrong := json.Unmarshal(value, &list) != nil || list == nil; wrong && err == nil {
				t.Fatalf("%q is read as the list %q", value, listed)
			}
		}
	})
}
