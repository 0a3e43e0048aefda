package modeltier

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/modeltier/modeltier/tier"
)

// bad is an error of a request that can be seen to be wrong.
func bad(field, value, rule string) error {
	return &tier.InvalidError{Field: field, Value: value, Rule: rule}
}

// worded is bad with a sentence that the contract fixes.
func worded(reason string, help ...string) error {
	return &tier.InvalidError{Reason: reason, Help: help}
}

// excerpt is a value from outside, short enough for an error.
func excerpt(raw []byte) string {
	const most = 40
	if len(raw) > most {
		return string(bytes.ToValidUTF8(raw[:most], nil)) + "…"
	}
	return string(bytes.ToValidUTF8(raw, nil))
}

// eachField calls take for the fields of a JSON object in order. A key that
// stands twice, and anything behind the object, is an error.
func eachField(name string, raw []byte, take func(key string, value json.RawMessage) error) error {
	if !json.Valid(raw) {
		return broken(raw)
	}
	// From here on the text is known to be JSON: walking it needs no more checks.
	raw = bytes.TrimSpace(raw)
	if raw[0] != '{' {
		return bad(name, excerpt(raw), "must be a JSON object")
	}
	var few [8]string // most objects have few keys: no map for them
	seen := few[:0]
	var many map[string]bool
	for rest := skipTo(raw[1:]); rest[0] != '}'; {
		n := valueLength(rest)
		key := unquote(rest[:n])
		rest = skipTo(rest[n:]) // the colon
		rest = skipTo(rest[1:]) // the value
		n = valueLength(rest)   //
		value := rest[:n:n]     //
		rest = skipTo(rest[n:]) // a comma or the end
		if rest[0] == ',' {
			rest = skipTo(rest[1:])
		}
		switch {
		case many[key] || slices.Contains(seen, key):
			return bad("key", strconv.Quote(excerpt([]byte(key))), "must not stand twice in one object")
		case len(seen) < cap(seen):
			seen = append(seen, key)
		default:
			if many == nil {
				many = make(map[string]bool)
			}
			many[key] = true
		}
		if err := take(key, value); err != nil {
			return err
		}
	}
	return nil
}

// skipTo returns s from its first byte on that is not JSON white space.
func skipTo(s []byte) []byte {
	for s[0] == ' ' || s[0] == '\t' || s[0] == '\n' || s[0] == '\r' {
		s = s[1:]
	}
	return s
}

// valueLength returns how long the value is that valid JSON begins with.
func valueLength(s []byte) int {
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
				return i // behind a number, true, false or null
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

// unquote decodes a JSON string that is known to be one.
func unquote(s []byte) string {
	if plain := s[1 : len(s)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return string(plain)
	}
	var out string
	if err := json.Unmarshal(s, &out); err != nil {
		return string(s) // cannot be: it is valid
	}
	return out
}

// broken says what is wrong with what is not JSON.
func broken(raw []byte) error {
	var v any
	err := json.Unmarshal(raw, &v)
	if len(bytes.TrimSpace(raw)) == 0 {
		err = errors.New("it is empty")
	}
	return &tier.InvalidError{Reason: fmt.Sprintf("Request is not valid JSON: %v", err), Help: []string{"Send one JSON object, such as {\"auto_select\": true}."}}
}

func text(field string, raw json.RawMessage) (string, error) {
	if raw[0] != '"' {
		return "", bad(field, excerpt(raw), "must be a string")
	}
	return unquote(raw), nil
}

func texts(field string, raw json.RawMessage) ([]string, error) {
	if raw[0] != '[' {
		return nil, bad(field, excerpt(raw), "must be a list of strings")
	}
	out := []string{}
	for rest := skipTo(raw[1:]); rest[0] != ']'; {
		n := valueLength(rest)
		s, err := text(field, rest[:n])
		if err != nil {
			return nil, bad(field, excerpt(raw), "must be a list of strings")
		}
		if out = append(out, s); len(out) > tier.MaxCapabilities {
			return nil, bad(field, fmt.Sprint("with more than ", tier.MaxCapabilities, " names"), fmt.Sprint("must have ", tier.MaxCapabilities, " at most"))
		}
		if rest = skipTo(rest[n:]); rest[0] == ',' {
			rest = skipTo(rest[1:])
		}
	}
	return out, nil
}

func number(field string, raw json.RawMessage) (float64, error) {
	var f *float64
	if err := json.Unmarshal(raw, &f); err != nil || f == nil {
		return 0, bad(field, excerpt(raw), "must be a number")
	}
	return *f, nil
}

func flag(field string, raw json.RawMessage) (bool, error) {
	var b *bool
	if err := json.Unmarshal(raw, &b); err != nil || b == nil {
		return false, bad(field, excerpt(raw), "must be true or false")
	}
	return *b, nil
}

func onlyTrue(field string, raw json.RawMessage) error {
	if on, err := flag(field, raw); err != nil || !on {
		return bad(field, excerpt(raw), "must be true, or be left out")
	}
	return nil
}

// size reads a positive number of GB.
func size(field string, raw json.RawMessage) (tier.Bytes, error) {
	gb, err := number(field, raw)
	if err != nil {
		return 0, err
	}
	b, err := tier.FromGB(gb)
	if err != nil || b <= 0 {
		return 0, bad(field, excerpt(raw), "must be a positive number of GB")
	}
	return b, nil
}

func unknownKey(where, key, known string) error {
	return &tier.InvalidError{
		Reason: fmt.Sprintf("Unknown key %s in %s", strconv.Quote(excerpt([]byte(key))), where),
		Help:   []string{"Keys of " + where + " are " + known + "."},
	}
}

func name(field string, raw json.RawMessage) (string, error) {
	s, err := text(field, raw)
	if err == nil && s == "" {
		err = bad(field, `""`, "must not be empty")
	}
	return s, err
}
