package hotload

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on a GGUF header. Real ones are large because of the vocabulary, up to some
// tens of MiB; the length of keys and the number of dimensions are from the
// specification (docs/gguf.md in ggml).
const (
	ggufMaxHeader     = 128 << 20
	ggufMaxNames      = 1 << 20 // metadata keys, and tensors; large models have some 10 000
	ggufMaxKey        = 1<<16 - 1
	ggufMaxTensorName = 1 << 10
	ggufMaxDimensions = 4
	ggufMaxNesting    = 4 // arrays in arrays
	ggufMaxText       = 1 << 10
	ggufMaxKept       = 64
	ggufMaxShards     = 1 << 16
)

const (
	ggufMagic            = "GGUF"
	ggufDefaultAlignment = 32
)

// ReadGGUF reads the header of a GGUF file, version 2 or 3, of size bytes. It checks
// the whole header, and that the file is long enough for the tensors in it; it does
// not read the weights. It keeps 64 KiB of the file in memory and some 16 bytes for
// each metadata key and tensor that is really there. An error is a *FileError, with
// Missing set if the file is truncated.
//
// Name, Size and Files of the Info are left to Inspect.
func ReadGGUF(r io.ReaderAt, size int64) (Info, error) {
	g := &ggufReader{bufReader: bufReader{r: r, size: size, limit: ggufMaxHeader}}
	defer g.close()
	info, err := g.read()
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// ggufReader reads one header from start to end.
type ggufReader struct {
	bufReader
	kept map[string]ggufValue // the metadata that is used
}

// uniqueNames finds names that repeat. It keeps hashes: a header may hold a hundred
// MiB of names. Two different names have the same hash in one of 10^7 headers of a
// million names.
type uniqueNames struct {
	seed maphash.Seed
	seen map[uint64]struct{}
}

func newUniqueNames() *uniqueNames {
	return &uniqueNames{maphash.MakeSeed(), make(map[uint64]struct{})}
}

// add returns an error if the name, of what, was added before.
func (u *uniqueNames) add(what, name string) error {
	before := len(u.seen)
	if u.seen[maphash.String(u.seed, name)] = struct{}{}; len(u.seen) == before {
		return &FileError{Reason: fmt.Sprintf("has the %s %.100q twice", what, name)}
	}
	return nil
}

// ggufValue is one scalar of the metadata.
type ggufValue struct {
	text   string
	number uint64 // of an unsigned integer, a positive integer or a bool
}

func (g *ggufReader) read() (Info, error) {
	info := Info{Format: FormatGGUF}
	magic, err := g.take(len(ggufMagic))
	if err != nil {
		return info, err
	}
	if string(magic) != ggufMagic {
		return info, &FileError{Reason: "does not begin with GGUF"}
	}
	version, err := g.uint32()
	switch {
	case err != nil:
		return info, err
	case version != 0 && version&0xffff == 0:
		return info, &FileError{Reason: "is a big-endian GGUF file, which is not supported", Help: "Convert the file to little-endian."}
	case version != 2 && version != 3:
		return info, &FileError{Reason: fmt.Sprintf("has GGUF version %d, and 2 and 3 are supported", version), Help: "Convert the model with a current converter."}
	}
	tensors, err := g.uint64()
	if err != nil {
		return info, err
	}
	pairs, err := g.uint64()
	if err != nil {
		return info, err
	}
	if pairs > ggufMaxNames || tensors > ggufMaxNames {
		return info, &FileError{Reason: fmt.Sprintf("claims %d metadata pairs and %d tensors; %d are allowed", pairs, tensors, ggufMaxNames)}
	}
	if err := g.readMetadata(pairs); err != nil {
		return info, err
	}
	if err := g.describe(&info, tensors); err != nil {
		return info, err
	}
	return info, g.readTensors(&info, tensors)
}

// keeps reports whether the value of the key is used. Some keys begin with the name
// of the architecture, which may follow later in the file: a number of those that
// end like them are kept.
func (g *ggufReader) keeps(key string) bool {
	switch key {
	case "general.architecture", "general.name", "general.type", "general.file_type", "general.alignment",
		"split.no", "split.count", "tokenizer.chat_template", "tokenizer.ggml.model",
		"clip.has_vision_encoder", "clip.has_audio_encoder":
		return true
	}
	return len(g.kept) < ggufMaxKept && (strings.HasSuffix(key, ".context_length") || strings.HasSuffix(key, ".pooling_type"))
}

func (g *ggufReader) readMetadata(pairs uint64) error {
	const least = 8 + 4 + 1 // bytes of a pair with an empty key and a one-byte value
	if err := g.expect("metadata pairs", pairs, least); err != nil {
		return err
	}
	g.kept = make(map[string]ggufValue)
	keys := newUniqueNames()
	for range pairs {
		n, err := g.uint64()
		if err != nil {
			return err
		}
		if n == 0 || n > ggufMaxKey {
			return &FileError{Reason: fmt.Sprintf("has a metadata key of %d bytes; 1 to %d are allowed", n, ggufMaxKey)}
		}
		raw, err := g.take(int(n))
		if err != nil {
			return err
		}
		key := string(raw)
		if err := keys.add("metadata key", key); err != nil {
			return err
		}
		kind, err := g.uint32()
		if err != nil {
			return err
		}
		if !g.keeps(key) || kind == ggufArray {
			err = g.skipValue(kind, 0)
		} else {
			g.kept[key], err = g.readScalar(kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// describe fills in the Info from the metadata.
func (g *ggufReader) describe(info *Info, tensors uint64) error {
	text := func(key string) string { return printable(g.kept[key].text) }
	number := func(key string) uint64 { return g.kept[key].number }

	info.Architecture = text("general.architecture")
	info.Title = text("general.name")
	if v, ok := g.kept["general.file_type"]; ok {
		info.Quantisation = fileTypeName(v.number)
	}
	if n := number(info.Architecture + ".context_length"); n <= math.MaxInt32 {
		info.ContextLength = int64(n)
	}

	if count, no := number("split.count"), number("split.no"); count > 1 {
		if count > ggufMaxShards || no >= count {
			return &FileError{Reason: fmt.Sprintf("says that it is shard %d of %d", no+1, count)}
		}
		info.Shard, info.Shards = int(no)+1, int(count)
	}
	switch {
	case text("general.type") == "adapter":
		info.Role = RoleAdapter
	case text("general.type") == "mmproj" || info.Architecture == "clip":
		info.Role = RoleProjector
	case text("general.type") == "imatrix" || tensors == 0 && info.Shards == 0:
		info.Role = RoleAuxiliary
	}
	_, tokenizer := g.kept["tokenizer.ggml.model"]
	_, template := g.kept["tokenizer.chat_template"]
	info.Capabilities = ggufCapabilities(ggufTraits{
		architecture: info.Architecture,
		role:         info.Role,
		pooling:      number(info.Architecture + ".pooling_type"),
		speaks:       tokenizer || info.ContextLength > 0,
		chatTemplate: template,
		sees:         number("clip.has_vision_encoder") == 1,
		hears:        number("clip.has_audio_encoder") == 1,
	})
	return nil
}

// readTensors reads the tensor descriptions and checks that the file holds the
// tensors.
func (g *ggufReader) readTensors(info *Info, tensors uint64) error {
	const least = 8 + 4 + 4 + 8 // bytes of a description with no name and no dimension
	if err := g.expect("tensors", tensors, least); err != nil {
		return err
	}
	alignment := uint64(ggufDefaultAlignment)
	if v, ok := g.kept["general.alignment"]; ok {
		alignment = v.number
		if alignment == 0 || alignment%8 != 0 || alignment > math.MaxUint32 {
			return &FileError{Reason: fmt.Sprintf("has an alignment of %d, which is no multiple of 8", alignment)}
		}
	}
	var (
		end        uint64 // of the tensor that ends last, from where the data begins
		bytesTotal uint64
		parameters uint64
		perType    [len(ggmlTypes)]uint64 // bytes by type
	)
	names := newUniqueNames()
	for range tensors {
		t, err := g.readTensor(alignment, names)
		if err != nil {
			return err
		}
		end = max(end, t.end)
		var carry1, carry2 uint64
		bytesTotal, carry1 = bits.Add64(bytesTotal, t.bytes, 0)
		parameters, carry2 = bits.Add64(parameters, t.elements, 0)
		if carry1+carry2 > 0 || bytesTotal > math.MaxInt64 || parameters > math.MaxInt64 {
			return &FileError{Reason: "has tensors of more bytes than can be counted"}
		}
		if t.kind < uint32(len(perType)) {
			perType[t.kind] += t.bytes
		}
	}
	info.Tensors = int64(tensors)
	info.Parameters = int64(parameters)
	info.TensorBytes = tier.Bytes(bytesTotal)
	if info.Quantisation == "" {
		widest := 0
		for i := range perType {
			if perType[i] > perType[widest] {
				widest = i
			}
		}
		if perType[widest] > 0 {
			info.Quantisation = ggmlTypes[widest].name
		}
	}

	if bytesTotal > end {
		return &FileError{Reason: "has tensors that overlap"}
	}
	data := (uint64(g.pos) + alignment - 1) / alignment * alignment
	if tensors == 0 {
		return nil
	}
	need, carry := bits.Add64(data, end, 0)
	if carry > 0 || need > math.MaxInt64 {
		return &FileError{Reason: "has tensors beyond the end of any file"}
	}
	if missing := tier.Bytes(need) - tier.Bytes(g.size); missing > 0 {
		return &FileError{Missing: missing, Reason: fmt.Sprintf("is truncated: %d bytes (%v) are missing of %d", int64(missing), missing, need)}
	}
	return nil
}

type ggufTensor struct {
	kind                 uint32
	elements, bytes, end uint64
}

func (g *ggufReader) readTensor(alignment uint64, names *uniqueNames) (ggufTensor, error) {
	var t ggufTensor
	n, err := g.uint64()
	if err != nil {
		return t, err
	}
	if n > ggufMaxTensorName {
		return t, &FileError{Reason: fmt.Sprintf("has a tensor name of %d bytes; %d are allowed", n, ggufMaxTensorName)}
	}
	raw, err := g.take(int(n))
	if err != nil {
		return t, err
	}
	name := string(raw)
	if err := names.add("tensor", name); err != nil {
		return t, err
	}
	fault := func(format string, args ...any) error {
		return &FileError{Reason: fmt.Sprintf("has a tensor %.100q ", name) + fmt.Sprintf(format, args...)}
	}
	dimensions, err := g.uint32()
	if err != nil {
		return t, err
	}
	if dimensions > ggufMaxDimensions {
		return t, fault("of %d dimensions; %d are allowed", dimensions, ggufMaxDimensions)
	}
	t.elements = 1
	row := uint64(1)
	for i := range dimensions {
		d, err := g.uint64()
		if err != nil {
			return t, err
		}
		if i == 0 {
			row = d
		}
		over, product := bits.Mul64(t.elements, d)
		if over > 0 || product > math.MaxInt64 {
			return t, fault("of more elements than can be counted")
		}
		t.elements = product
	}
	if t.kind, err = g.uint32(); err != nil {
		return t, err
	}
	offset, err := g.uint64()
	if err != nil {
		return t, err
	}
	if offset%alignment != 0 {
		return t, fault("at offset %d, which is no multiple of %d", offset, alignment)
	}
	// A type that is newer than the table has no known size: all that can be checked
	// then is that the file reaches to the tensor.
	if kind := ggmlTypeOf(t.kind); kind.block != 0 {
		if row%kind.block != 0 {
			return t, fault("with rows of %d elements, which is no multiple of the %d in a block of %s", row, kind.block, kind.name)
		}
		over, product := bits.Mul64(t.elements/kind.block, kind.bytes)
		if over > 0 {
			return t, fault("of more bytes than can be counted")
		}
		t.bytes = product
	}
	end, carry := bits.Add64(offset, t.bytes, 0)
	if carry > 0 {
		return t, fault("beyond the end of any file")
	}
	t.end = end
	return t, nil
}

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

// ggufWidths are bytes by value type; 0: no fixed width.
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

// skipValue passes over a value that is nested in depth arrays.
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
			count = math.MaxInt64 / 8 // still longer than any file
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

// readScalar reads a value that is not an array. A text that is too long, a negative
// number and a fraction are skipped and read as zero.
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

// ggmlType tells how a tensor is stored: in blocks of so many elements, each block
// of so many bytes.
type ggmlType struct {
	name         string
	block, bytes uint64
}

// ggmlTypes are the tensor types by number. Numbers: enum ggml_type in ggml.h;
// sizes: the block structs in ggml-common.h. Missing numbers were withdrawn or belong
// to forks.
var ggmlTypes = [...]ggmlType{
	0:  {"F32", 1, 4},
	1:  {"F16", 1, 2},
	2:  {"Q4_0", 32, 18},
	3:  {"Q4_1", 32, 20},
	6:  {"Q5_0", 32, 22},
	7:  {"Q5_1", 32, 24},
	8:  {"Q8_0", 32, 34},
	9:  {"Q8_1", 32, 36},
	10: {"Q2_K", 256, 84},
	11: {"Q3_K", 256, 110},
	12: {"Q4_K", 256, 144},
	13: {"Q5_K", 256, 176},
	14: {"Q6_K", 256, 210},
	15: {"Q8_K", 256, 292},
	16: {"IQ2_XXS", 256, 66},
	17: {"IQ2_XS", 256, 74},
	18: {"IQ3_XXS", 256, 98},
	19: {"IQ1_S", 256, 50},
	20: {"IQ4_NL", 32, 18},
	21: {"IQ3_S", 256, 110},
	22: {"IQ2_S", 256, 82},
	23: {"IQ4_XS", 256, 136},
	24: {"I8", 1, 1},
	25: {"I16", 1, 2},
	26: {"I32", 1, 4},
	27: {"I64", 1, 8},
	28: {"F64", 1, 8},
	29: {"IQ1_M", 256, 56},
	30: {"BF16", 1, 2},
	34: {"TQ1_0", 256, 54},
	35: {"TQ2_0", 256, 66},
	39: {"MXFP4", 32, 17},
	40: {"NVFP4", 64, 36},
	41: {"Q1_0", 128, 18},
	42: {"Q2_0", 64, 18},
}

// ggmlTypeOf returns the type with that number; if it is unknown, one with a name
// and without a size.
func ggmlTypeOf(number uint32) ggmlType {
	if number < uint32(len(ggmlTypes)) && ggmlTypes[number].block != 0 {
		return ggmlTypes[number]
	}
	return ggmlType{name: "type " + strconv.FormatUint(uint64(number), 10)}
}

// fileTypes name general.file_type. Source: enum llama_ftype in llama.h, without
// its LLAMA_FTYPE_ and MOSTLY_.
var fileTypes = [...]string{
	0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
	10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S",
	15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
	20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S",
	25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
	30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
	38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}

// fileTypeGuessed is a bit that marks a file type the writer has guessed.
const fileTypeGuessed = 1024

// fileTypeName returns "" for an unknown number.
func fileTypeName(number uint64) string {
	number &^= fileTypeGuessed
	if number < uint64(len(fileTypes)) {
		return fileTypes[number]
	}
	return ""
}
