package chat

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// FieldError says what is wrong with a field of a request.
type FieldError struct {
	Field  string // "messages.3.content.0.source"; "": all of it
	Reason string // a predicate: "must be an array"
}

// Error implements error.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return "the body " + e.Reason
	}
	return e.Field + " " + e.Reason
}

// Errorf returns a FieldError.
func Errorf(field, format string, args ...any) error {
	return &FieldError{field, short(fmt.Sprintf(format, args...))}
}

// maxMessage bounds what is told of an error, in bytes: it may have words of a client's or
// of an engine's in it.
const maxMessage = 1000

// short returns the beginning of a message.
func short(message string) string {
	if len(message) > maxMessage {
		message = message[:maxMessage] + "…"
	}
	return strings.ToValidUTF8(message, "\uFFFD")
}

// In puts the name of an object, or of an array, before the field that an error is about.
func In(field string, err error) error {
	if e, ok := errors.AsType[*FieldError](err); ok {
		return &FieldError{strings.TrimSuffix(field+"."+e.Field, "."), e.Reason}
	}
	return err
}

// InElement is In for an element of an array.
func InElement(field string, i int, err error) error {
	return In(field, In(strconv.Itoa(i), err))
}

// maxItems bounds how many objects of a request are decoded. An empty one takes two bytes
// on the wire and a hundred times as many in memory. What is only passed on, as the schema
// of a tool, does not count.
const maxItems = 100_000

// Counted is a type whose values Decode counts.
type Counted interface{ CountedByDecode() }

// Word is a string of an array, which Decode counts.
type Word string

// CountedByDecode implements Counted.
func (*Word) CountedByDecode() {}

var errTooMany = errors.New("too many parts")

// Decode reads a request into v. Keys count in their exact case, a key that comes twice is
// an error, and so are more than 100 000 values of Counted types. What is no Unicode, as
// half of an emoji where a text was cut, is replaced. Errors are FieldErrors.
func Decode(body []byte, v any) error {
	return decode(body, v, maxItems, jsontext.AllowInvalidUTF8(true))
}

// Marshal returns v as JSON. Values in it that are JSON already were valid when they came.
func Marshal(v any) ([]byte, error) {
	return json.Marshal(v, lenient)
}

// lenient takes what engines send, and what was taken from a client, as it is.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// Arguments returns the arguments of a tool call as a value, if they are an object.
func Arguments(text string) (jsontext.Value, bool) {
	v := jsontext.Value(text)
	return v, v.IsValid(lenient) && v.Kind() == '{'
}

func decode(body []byte, v any, limit int, options ...json.Options) error {
	count := 0
	counting := json.WithUnmarshalers(json.UnmarshalFromFunc(func(_ *jsontext.Decoder, _ Counted) error {
		if count++; count > limit {
			return errTooMany
		}
		return errors.ErrUnsupported // and decode it as without this function
	}))
	err := json.Unmarshal(body, v, append(options, counting)...)
	if err == nil {
		return nil
	}
	if errors.Is(err, errTooMany) {
		return Errorf("", "has more than %d parts", limit)
	}
	if s, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(s.Err, jsontext.ErrDuplicateName) {
			return Errorf(dotted(s.JSONPointer), "comes twice")
		}
		return &FieldError{dotted(s.JSONPointer), fmt.Sprintf("is not valid JSON: %v, at byte %d", s.Err, s.ByteOffset)}
	}
	if s, ok := errors.AsType[*json.SemanticError](err); ok {
		if own, ok := errors.AsType[*FieldError](s.Err); ok {
			return In(dotted(s.JSONPointer), own)
		}
		return &FieldError{dotted(s.JSONPointer), "is " + kindName(s.JSONKind) + ", but must be " + typeName(s.GoType)}
	}
	return &FieldError{"", err.Error()}
}

// maxPath bounds the name of a field in a message.
const maxPath = 200

func dotted(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		if b.Len() > maxPath {
			return b.String() + "…"
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token[:min(len(token), maxPath)])
	}
	return b.String()
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "something else"
}

func typeName(t reflect.Type) string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return "of another kind"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int64, reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// Content is what a message of a request has to say: an array of parts, or a string.
type Content[Part any] struct {
	Parts  []Part
	String *string // nil: it is an array, or absent
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (c *Content[Part]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case 'n':
		return dec.SkipValue()
	case '"':
		c.String = new(string)
		return json.UnmarshalDecode(dec, c.String)
	case '[':
		return json.UnmarshalDecode(dec, &c.Parts)
	}
	return Errorf("", "must be a string or an array")
}

// IsMissing reports whether there was none.
func (c *Content[Part]) IsMissing() bool { return c.String == nil && c.Parts == nil }

// IsNull reports whether a value is absent or null.
func IsNull(v jsontext.Value) bool { return len(v) == 0 || v.Kind() == 'n' }
