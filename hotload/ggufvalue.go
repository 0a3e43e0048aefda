package hotload

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The value types of GGUF metadata (docs/gguf.md in ggml).
const (
	ggufUint8 = iota
	ggufInt8
	ggufUint16
	ggufInt16
	ggufUint32
	ggufInt32
	ggufFloat32
	ggufBool
	ggufString
	ggufArray
	ggufUint64
	ggufInt64
	ggufFloat64
)

// ggufWidths are bytes by value type; 0: of no fixed width.
var ggufWidths = [...]int{
	ggufUint8: 1, ggufInt8: 1, ggufUint16: 2, ggufInt16: 2, ggufUint32: 4, ggufInt32: 4,
	ggufFloat32: 4, ggufBool: 1, ggufString: 0, ggufArray: 0, ggufUint64: 8, ggufInt64: 8, ggufFloat64: 8,
}

func ggufWidth(kind uint32) (int, error) {
	if kind >= uint32(len(ggufWidths)) {
		return 0, &FileError{Reason: fmt.Sprintf("has a metadata value of the unknown type %d", kind)}
	}
	return ggufWidths[kind], nil
}

// skipValue passes over a value; depth is how many arrays it is in.
func (g *ggufReader) skipValue(kind uint32, depth int) error {
	width, err := ggufWidth(kind)
	switch {
	case err != nil:
		return err
	case kind == ggufString:
		n, err := g.uint64()
		if err != nil {
			return err
		}
		return g.skip("bytes of a text", n)
	case kind == ggufArray:
		return g.skipArray(depth + 1)
	}
	return g.skip("bytes of a value", uint64(width))
}

func (g *ggufReader) skipArray(depth int) error {
	if depth > ggufMaxNesting {
		return &FileError{Reason: fmt.Sprintf("has metadata arrays nested deeper than %d", ggufMaxNesting)}
	}
	kind, err := g.uint32()
	if err != nil {
		return err
	}
	count, err := g.uint64()
	if err != nil {
		return err
	}
	width, err := ggufWidth(kind)
	if err != nil {
		return err
	}
	if width > 0 {
		if count > math.MaxInt64/8 {
			count = math.MaxInt64 / 8 // longer than any file all the same
		}
		return g.skip("bytes of an array", count*uint64(width))
	}
	least := 8 // a text's length
	if kind == ggufArray {
		least = 4 + 8
	}
	if err := g.expect("array elements", count, uint64(least)); err != nil {
		return err
	}
	for range count {
		if err := g.skipValue(kind, depth); err != nil {
			return err
		}
	}
	return nil
}

// readScalar reads a value that is not an array. A text that is too long to be of
// use, and a number that is negative or a fraction, is passed over and reads as
// the zero of its type.
func (g *ggufReader) readScalar(kind uint32) (ggufValue, error) {
	var v ggufValue
	width, err := ggufWidth(kind)
	if err != nil {
		return v, err
	}
	if kind == ggufString {
		n, err := g.uint64()
		if err != nil {
			return v, err
		}
		if n > ggufMaxText {
			return v, g.skip("bytes of a text", n)
		}
		raw, err := g.take(int(n))
		v.text = string(raw)
		return v, err
	}
	raw, err := g.take(width)
	if err != nil {
		return v, err
	}
	var whole [8]byte
	copy(whole[:], raw)
	v.number = binary.LittleEndian.Uint64(whole[:])
	switch kind {
	case ggufBool:
		if v.number > 1 {
			return v, &FileError{Reason: fmt.Sprintf("has a truth value of %d", v.number)}
		}
	case ggufInt8, ggufInt16, ggufInt32, ggufInt64:
		if raw[width-1]&0x80 != 0 {
			v.number = 0
		}
	case ggufFloat32, ggufFloat64:
		v.number = 0
	}
	return v, nil
}
