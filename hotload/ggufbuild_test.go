package hotload

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// ggufFile builds GGUF files, right ones and wrong ones.
type ggufFile struct {
	version   uint32
	alignment uint64 // of the data
	pairs     [][]byte
	tensors   [][]byte
	data      uint64 // bytes of data
	// Claims, if they differ from the content.
	claimPairs, claimTensors uint64
}

func newGGUF(architecture string) *ggufFile {
	g := &ggufFile{version: 3, alignment: ggufDefaultAlignment}
	if architecture != "" {
		g.set("general.architecture", architecture)
	}
	return g
}

func ggufText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func ggufPair(key string, kind uint32, value []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(ggufText(nil, key), kind), value...)
}

// set adds a pair of the metadata.
func (g *ggufFile) set(key string, value any) *ggufFile {
	kind, raw := ggufEncode(value)
	g.pairs = append(g.pairs, ggufPair(key, kind, raw))
	return g
}

func ggufEncode(value any) (kind uint32, raw []byte) {
	switch v := value.(type) {
	case string:
		return ggufString, ggufText(nil, v)
	case bool:
		return ggufBool, ggufFixed(v)
	case []string:
		raw = binary.LittleEndian.AppendUint32(nil, ggufString)
		raw = binary.LittleEndian.AppendUint64(raw, uint64(len(v)))
		for _, s := range v {
			raw = ggufText(raw, s)
		}
		return ggufArray, raw
	case []int32:
		raw = binary.LittleEndian.AppendUint32(nil, ggufInt32)
		raw = binary.LittleEndian.AppendUint64(raw, uint64(len(v)))
		return ggufArray, append(raw, ggufFixed(v)...)
	case []bool:
		raw = binary.LittleEndian.AppendUint32(nil, ggufBool)
		raw = binary.LittleEndian.AppendUint64(raw, uint64(len(v)))
		return ggufArray, append(raw, ggufFixed(v)...)
	case [][]string:
		raw = binary.LittleEndian.AppendUint32(nil, ggufArray)
		raw = binary.LittleEndian.AppendUint64(raw, uint64(len(v)))
		for _, inner := range v {
			_, b := ggufEncode(inner)
			raw = append(raw, b...)
		}
		return ggufArray, raw
	}
	kinds := map[any]uint32{}
	switch value.(type) {
	case uint8:
		kinds[0] = ggufUint8
	case int8:
		kinds[0] = ggufInt8
	case uint16:
		kinds[0] = ggufUint16
	case int16:
		kinds[0] = ggufInt16
	case uint32:
		kinds[0] = ggufUint32
	case int32:
		kinds[0] = ggufInt32
	case float32:
		kinds[0] = ggufFloat32
	case uint64:
		kinds[0] = ggufUint64
	case int64:
		kinds[0] = ggufInt64
	case float64:
		kinds[0] = ggufFloat64
	default:
		panic("no GGUF type for this")
	}
	return kinds[0], ggufFixed(value)
}

func ggufFixed(v any) []byte {
	var buf bytes.Buffer
	if err := binary.Write(&buf, binary.LittleEndian, v); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// tensor adds a tensor at the end of the data.
func (g *ggufFile) tensor(name string, kind uint32, dimensions ...uint64) *ggufFile {
	size := ggmlTypeOf(kind).bytes
	if block := ggmlTypeOf(kind).block; block > 0 {
		for i, d := range dimensions {
			if i == 0 {
				d /= block
			}
			size *= d
		}
	}
	g.data = (g.data + g.alignment - 1) / g.alignment * g.alignment
	g.tensors = append(g.tensors, ggufTensorInfo(name, kind, g.data, dimensions...))
	g.data += size
	return g
}

func ggufTensorInfo(name string, kind uint32, offset uint64, dimensions ...uint64) []byte {
	b := ggufText(nil, name)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(dimensions)))
	for _, d := range dimensions {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	b = binary.LittleEndian.AppendUint32(b, kind)
	return binary.LittleEndian.AppendUint64(b, offset)
}

// header is the file without its data.
func (g *ggufFile) header() []byte {
	b := []byte("GGUF")
	b = binary.LittleEndian.AppendUint32(b, g.version)
	b = binary.LittleEndian.AppendUint64(b, max(g.claimTensors, uint64(len(g.tensors))))
	b = binary.LittleEndian.AppendUint64(b, max(g.claimPairs, uint64(len(g.pairs))))
	b = append(b, slices.Concat(g.pairs...)...)
	return append(b, slices.Concat(g.tensors...)...)
}

// bytes is the whole file.
func (g *ggufFile) bytes() []byte {
	b := g.header()
	if len(g.tensors) > 0 {
		b = append(b, make([]byte, -uint64(len(b))%g.alignment)...)
	}
	return append(b, make([]byte, g.data)...)
}

// smallLlama is a right file of a chat model.
func smallLlama() *ggufFile {
	return newGGUF("llama").
		set("general.name", "Small Llama").
		set("general.file_type", uint32(15)).
		set("llama.context_length", uint32(4096)).
		set("tokenizer.ggml.model", "gpt2").
		set("tokenizer.ggml.tokens", []string{"<s>", "a", "b"}).
		set("tokenizer.ggml.token_type", []int32{3, 1, 1}).
		set("tokenizer.chat_template", "{{ messages }}").
		tensor("token_embd.weight", 12, 256, 4).
		tensor("output_norm.weight", 0, 256)
}
