package room

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
)

// CheckObject returns an error unless b is a JSON object.
func CheckObject(b []byte) error {
	if trimmed := bytes.TrimLeft(b, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(b) {
		return nil
	}
	return json.Unmarshal(b, new(struct{})) // which says what is wrong
}

// Members yields the keys and values of a JSON object that is known to be valid. To
// encoding/json "Model" is "model", and the last of them counts: the engine would be given
// a model that it is not.
func Members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(key string, value []byte) bool) {
		key, named := "", false
		depth, start := 0, 0
		for i := 0; i < len(object); i++ {
			c := object[i]
			switch c {
			case '"':
				for i++; object[i] != '"'; i++ {
					if object[i] == '\\' {
						i++
					}
				}
			case '{', '[':
				if depth++; depth == 1 {
					start = i + 1
				}
			case ':':
				if depth == 1 {
					named = json.Unmarshal(object[start:i], &key) == nil
					start = i + 1
				}
			case ',', '}', ']':
				if depth == 1 {
					if named && !yield(key, object[start:i]) {
						return
					}
					named, start = false, i+1
				}
				if c != ',' {
					depth--
				}
			}
		}
	}
}

// Renamed is a JSON object in which another model stands, and without the keys that were
// for us. The object is known to be valid.
func Renamed(object []byte, model string, without ...string) ([]byte, error) {
	name, err := json.Marshal(model)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(object)+len(name)+16), '{')
	for key, value := range Members(object) {
		if slices.Contains(without, key) {
			continue
		}
		if key == "model" {
			value = name
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		quoted, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, quoted...), ':'), value...)
	}
	return append(out, '}'), nil
}
