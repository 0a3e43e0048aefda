package demo

import (
	"encoding/binary"
	"fmt"

	"github.com/modeltier/modeltier/tier"
)

// What the header of a GGUF file is made of. Source: docs/gguf.md in ggml.
const (
	ggufVersion = 3
	ggufUint32  = 4  // of a value in the metadata
	ggufString  = 8  // the same
	ggufInt8    = 24 // of a tensor: any byte is a number, and none is NaN
	alignment   = 32 // of tensors, the format's default
)

// layers is how many tensors the weights are split into.
const layers = 16

// header returns the first bytes of a GGUF file of that size; the rest of the
// file is tensors, and any bytes will do for them.
func header(e entry, size tier.Bytes) []byte {
	b := []byte("GGUF")
	b = binary.LittleEndian.AppendUint32(b, ggufVersion)
	b = binary.LittleEndian.AppendUint64(b, layers)
	b = binary.LittleEndian.AppendUint64(b, 3) // pairs of metadata
	b = pair(b, "general.architecture", ggufString)
	b = text(b, e.architecture)
	b = pair(b, "general.name", ggufString)
	b = text(b, "modeltier demo of "+e.name)
	b = pair(b, e.architecture+".context_length", ggufUint32)
	b = binary.LittleEndian.AppendUint32(b, 1024)

	// The descriptions of the tensors are all of one length, so where the data
	// begins is known before what they say.
	each := len(tensor(nil, 0, 0, 0))
	start := align(int64(len(b) + layers*each))
	data := int64(size) - start
	share := align(data / layers)
	for i := range int64(layers) {
		elements := share
		if i == layers-1 {
			elements = data - i*share
		}
		b = tensor(b, i, elements, i*share)
	}
	return append(b, make([]byte, start-int64(len(b)))...)
}

func tensor(b []byte, layer, elements, offset int64) []byte {
	b = text(b, fmt.Sprintf("blk.%02d.weight", layer))
	b = binary.LittleEndian.AppendUint32(b, 1) // dimension
	b = binary.LittleEndian.AppendUint64(b, uint64(elements))
	b = binary.LittleEndian.AppendUint32(b, ggufInt8)
	return binary.LittleEndian.AppendUint64(b, uint64(offset))
}

func pair(b []byte, key string, kind uint32) []byte {
	return binary.LittleEndian.AppendUint32(text(b, key), kind)
}

func text(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func align(n int64) int64 { return (n + alignment - 1) / alignment * alignment }
