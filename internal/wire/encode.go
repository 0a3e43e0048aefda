package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Encode is json.Marshal without HTML escaping, so that "a > b" stays readable.
func Encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), err
}

// object is a JSON object under construction, whose keys keep their order. It
// encodes as encoding/json does, to the byte, and saves a request for a resident
// model half of its time.
type object []byte

// key adds a key; a value has to follow.
func (o object) key(key string) object {
	switch {
	case o == nil:
		o = append(make(object, 0, 256), '{')
	case len(o) > 1:
		o = append(o, ',')
	}
	return append(o.quote(key), ':')
}

func (o object) text(key, s string) object { return o.key(key).quote(s) }

func (o object) flag(key string, on bool) object { return strconv.AppendBool(o.key(key), on) }

func (o object) whole(key string, n int64) object { return strconv.AppendInt(o.key(key), n, 10) }

// number adds a finite number.
func (o object) number(key string, f float64) object {
	o = o.key(key)
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		return o.marshal(f) // with an exponent
	}
	return strconv.AppendFloat(o, f, 'f', -1, 64)
}

// gb adds a size in GB, rounded to the KiB: 1.3 and not 1.2999999998.
func (o object) gb(key string, b tier.Bytes) object {
	return o.number(key, math.Round(b.GB()*1e6)/1e6)
}

func (o object) seconds(key string, d time.Duration) object { return o.number(key, d.Seconds()) }

func (o object) tier(key string, t tier.Tier) object { return o.text(key, t.String()) }

// list adds a list of strings, which is never null.
func (o object) list(key string, list []string) object {
	o = append(o.key(key), '[')
	for i, s := range list {
		if i > 0 {
			o = append(o, ',')
		}
		o = o.quote(s)
	}
	return append(o, ']')
}

// object adds an object that was ended.
func (o object) object(key string, value object) object { return append(o.key(key), value...) }

// value adds what no other method does.
func (o object) value(key string, v any) object { return o.key(key).marshal(v) }

func (o object) end() object { return append(o, '}') }

func (o object) quote(s string) object {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return o.marshal(s)
		}
	}
	return append(append(append(o, '"'), s...), '"')
}

func (o object) marshal(v any) object {
	out, err := Encode(v)
	if err != nil {
		out = []byte("null") // impossible: only strings and finite numbers come here
	}
	return append(o, out...)
}
