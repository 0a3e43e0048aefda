package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/modeltier/modeltier/tier"
)

// The functions in this file read JSON that is known to be valid, so that they need
// not check it again. encoding/json would not do: it accepts duplicate keys, and
// matches keys without regard to case.

// check returns the error of a request that is not valid JSON.
func check(raw []byte) error {
	if json.Valid(raw) {
		return nil
	}
	var v any
	err := json.Unmarshal(raw, &v)
	if len(bytes.TrimSpace(raw)) == 0 {
		err = errors.New("it is empty")
	}
	return Invalid(fmt.Sprintf("Request is not valid JSON: %v", err), `Send one JSON object, such as {"auto_select": true}.`)
}

// eachField calls take for the fields of an object, in order. A duplicate key is an
// error.
func eachField(name string, raw []byte, take func(key string, value []byte) error) error {
	rest := skip(raw)
	if rest[0] != '{' {
		return invalid(name, raw, "must be a JSON object")
	}
	seen := make(map[string]bool)
	var quoted, value []byte
	for rest = skip(rest[1:]); rest[0] != '}'; {
		quoted, rest = next(rest)
		value, rest = next(rest)
		key := unquote(quoted)
		if seen[key] {
			return invalid("key", []byte(strconv.Quote(excerpt([]byte(key)))), "must not stand twice in one object")
		}
		seen[key] = true
		if err := take(key, value); err != nil {
			return err
		}
	}
	return nil
}

// next splits the first value off s, and moves on to the one behind it, or to the
// end of the object or list.
func next(s []byte) (value, rest []byte) {
	n := length(s)
	return s[:n:n], skip(s[n:])
}

// skip returns s without the white space and separators that it begins with.
func skip(s []byte) []byte {
	for len(s) > 0 && (s[0] == ' ' || s[0] == ',' || s[0] == ':' || s[0] == '\n' || s[0] == '\t' || s[0] == '\r') {
		s = s[1:]
	}
	return s
}

// length returns the length of the value that s begins with.
func length(s []byte) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			for i++; s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // after a number, true, false or null
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(s)
}

// unquote decodes a JSON string.
func unquote(s []byte) string {
	if plain := s[1 : len(s)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return string(plain)
	}
	var out string
	if err := json.Unmarshal(s, &out); err != nil {
		return string(s) // impossible: s is valid
	}
	return out
}

// field is a key that an object may have, and what takes its value.
type field struct {
	key  string
	read func(key string, raw []byte) error
}

// readObject reads an object that has no keys but those of fields.
func readObject(name string, raw []byte, fields []field) error {
	return eachField(name, raw, func(key string, value []byte) error {
		keys := make([]string, len(fields))
		for i, f := range fields {
			if f.key == key {
				return f.read(key, value)
			}
			keys[i] = f.key
		}
		return unknownKey(name, key, strings.Join(keys, ", "))
	})
}

// into has a value that read accepts stored.
func into[T any](to *T, read func(field string, raw []byte) (T, error)) func(string, []byte) error {
	return func(key string, raw []byte) (err error) {
		*to, err = read(key, raw)
		return err
	}
}

// ruled is read for values that obey a rule.
func ruled[T any](read func(string, []byte) (T, error), obeys func(T) bool, rule string) func(string, []byte) (T, error) {
	return func(field string, raw []byte) (T, error) {
		v, err := read(field, raw)
		if err == nil && !obeys(v) {
			err = invalid(field, raw, rule)
		}
		return v, err
	}
}

// The functions below read one type of value each. field names it in the error.

func asIs(_ string, raw []byte) ([]byte, error) { return raw, nil }

func text(field string, raw []byte) (string, error) {
	if raw[0] != '"' {
		return "", invalid(field, raw, "must be a string")
	}
	return unquote(raw), nil
}

// nonEmpty is text, but for "".
var nonEmpty = ruled(text, func(s string) bool { return s != "" }, "must not be empty")

func texts(field string, raw []byte) ([]string, error) { return list(field, raw, tier.MaxCapabilities) }

func parts(field string, raw []byte) ([]string, error) { return list(field, raw, tier.MaxParts) }

func list(field string, raw []byte, most int) ([]string, error) {
	if raw[0] != '[' {
		return nil, invalid(field, raw, "must be a list of strings")
	}
	out, value := []string{}, raw
	for rest := skip(raw[1:]); rest[0] != ']'; {
		if value, rest = next(rest); value[0] != '"' {
			return nil, invalid(field, raw, "must be a list of strings")
		}
		if out = append(out, unquote(value)); len(out) > most {
			return nil, invalid(field, fmt.Appendf(nil, "with more than %d names", most), fmt.Sprintf("must have %d at most", most))
		}
	}
	return out, nil
}

func labels(field string, raw []byte) (map[string]string, error) {
	out := make(map[string]string)
	return out, eachField(field, raw, func(key string, value []byte) (err error) {
		out[key], err = text("label "+strconv.Quote(excerpt([]byte(key))), value)
		return err
	})
}

// digests reads what files should hold, by path.
func digests(field string, raw []byte) (map[string]tier.Digest, error) {
	out := make(map[string]tier.Digest)
	return out, eachField(field, raw, func(path string, value []byte) error {
		sum, err := text("digest of "+strconv.Quote(excerpt([]byte(path))), value)
		out[path] = tier.Digest{SHA256: sum}
		return err
	})
}

func number(field string, raw []byte) (float64, error) {
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil { // another type, or out of the range of a float64
		return 0, invalid(field, raw, "must be a number")
	}
	return f, nil
}

// size reads a positive number of GB.
func size(field string, raw []byte) (b tier.Bytes, err error) {
	gb, err := number(field, raw)
	if err == nil {
		if b, err = tier.FromGB(gb); err != nil || b <= 0 {
			err = invalid(field, raw, "must be a positive number of GB")
		}
	}
	return b, err
}

// limit reads a number of GB, 0 or more. Its result is at least 1 byte, since zero
// stands for "unchanged" in a tier.Limits; the floors refuse either.
func limit(field string, raw []byte) (b tier.Bytes, err error) {
	gb, err := number(field, raw)
	if err == nil {
		if b, err = tier.FromGB(gb); err != nil {
			err = invalid(field, raw, "must be a finite number of GB below 2^33")
		} else if gb < 0 {
			err = invalid(field, raw, "must not be negative")
		}
	}
	return max(b, 1), err
}

func flag(field string, raw []byte) (bool, error) {
	on := string(raw) == "true"
	if !on && string(raw) != "false" {
		return false, invalid(field, raw, "must be true or false")
	}
	return on, nil
}

var onlyTrue = ruled(asIs, func(raw []byte) bool { return string(raw) == "true" }, "must be true, or be left out")

func tierName(field string, raw []byte) (tier.Tier, error) {
	name, err := text(field, raw)
	if err != nil {
		return 0, err
	}
	return parseTier(name)
}

func parseTier(name string) (tier.Tier, error) {
	t, err := tier.ParseTier(name)
	if err != nil {
		err = Invalid("Unknown target tier: "+excerpt([]byte(name)), "Tiers are ram, swap and storage.")
	}
	return t, err
}

// Invalid is the error of a request with a sentence and suggestions of its own.
func Invalid(reason string, help ...string) error {
	return &tier.InvalidError{Reason: reason, Help: help}
}

// invalid is the error of a value that breaks the rule of its field.
func invalid(field string, value []byte, rule string) error {
	return &tier.InvalidError{Field: field, Value: excerpt(value), Rule: rule}
}

func unknownKey(where, key, known string) error {
	return Invalid(fmt.Sprintf("Unknown key %q in %s", excerpt([]byte(key)), where), "Keys of "+where+" are "+known+".")
}

// excerpt bounds how much of a request an error quotes.
func excerpt(raw []byte) string {
	const max = 40
	if len(raw) > max {
		return string(bytes.ToValidUTF8(raw[:max], nil)) + "…"
	}
	return string(bytes.ToValidUTF8(raw, nil))
}
