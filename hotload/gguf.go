package hotload

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
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
	ggufMaxTemplate   = 1 << 20 // of a chat template that is searched; real ones have some 10 KiB
	ggufMaxKept       = 128     // values that are kept of keys that look wanted
	ggufMaxList       = 512     // elements of an array that is kept: one for each layer, of which llama.cpp has no more
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
	info, _, err := readGGUFHeader(r, size)
	return info, err
}

// readGGUFHeader is ReadGGUF, and says how long the header is.
func readGGUFHeader(r io.ReaderAt, size int64) (info Info, header int64, err error) {
	g := &ggufReader{bufReader: bufReader{r: r, size: size, limit: ggufMaxHeader}}
	defer g.close()
	info, err = g.read()
	return info, g.pos, err
}

// ggufReader reads one header from start to end.
type ggufReader struct {
	bufReader
	info  Info
	kept  map[string]ggufValue // the metadata that is used
	tally *weightTally         // of the tensors; nil: it is not wanted
}

// ggufValue is one value of the metadata.
type ggufValue struct {
	text   string
	number uint64   // of an unsigned integer, a positive integer or a bool
	list   []uint64 // of an array of those, if it is kept
	count  uint64   // of the elements of an array, kept or not
}

func (g *ggufReader) read() (Info, error) {
	g.info.Format = FormatGGUF
	if magic := string(g.take(len(ggufMagic))); magic != ggufMagic {
		g.fault("does not begin with GGUF")
	}
	switch version := g.uint32(); {
	case version != 0 && version&0xffff == 0:
		g.fail(&FileError{Reason: "is a big-endian GGUF file, which is not supported", Help: "Convert the file to little-endian."})
	case version != 2 && version != 3:
		g.fail(&FileError{Reason: fmt.Sprintf("has GGUF version %d, and 2 and 3 are supported", version), Help: "Convert the model with a current converter."})
	}
	tensors, pairs := g.uint64(), g.uint64()
	if pairs > ggufMaxNames || tensors > ggufMaxNames {
		g.fault("claims %d metadata pairs and %d tensors; %d are allowed", pairs, tensors, ggufMaxNames)
	}
	g.readMetadata(pairs)
	g.describe(tensors)
	g.readTensors(tensors)
	if g.err != nil {
		return Info{}, g.err
	}
	return g.info, nil
}

// keeps reports whether the value of the key is used. Some keys begin with the name
// of the architecture, which may follow later in the file: until then a number of those
// that end like them are kept.
func (g *ggufReader) keeps(key string) bool {
	switch key {
	case "general.architecture", "general.name", "general.type", "general.file_type", "general.alignment",
		"general.license", "general.author", "general.organization",
		"split.no", "split.count", "tokenizer.ggml.model", "tokenizer.ggml.tokens",
		"clip.has_vision_encoder", "clip.has_audio_encoder":
		return true
	}
	prefix, rest, _ := strings.Cut(key, ".")
	if a, known := g.kept["general.architecture"]; known && a.text != prefix {
		return false
	}
	return len(g.kept) < ggufMaxKept && shapeKeys[rest]
}

func (g *ggufReader) readMetadata(pairs uint64) {
	const least = 8 + 4 + 1 // bytes of a pair with an empty key and a one-byte value
	g.expect("metadata pairs", pairs, least)
	g.kept = make(map[string]ggufValue)
	keys := newUniqueNames()
	for i := uint64(0); i < pairs && g.err == nil; i++ {
		key := g.name("metadata key", 1, ggufMaxKey)
		g.fail(keys.add("metadata key", key))
		switch kind := g.uint32(); {
		case strings.HasPrefix(key, chatTemplateKey) && kind == ggufString:
			g.readTemplate(key)
		case !g.keeps(key):
			g.skipValue(kind, 0)
		case kind == ggufArray:
			g.kept[key] = g.readList()
		default:
			g.kept[key] = g.readScalar(kind)
		}
	}
}

// chatTemplateKey is the key of the template, and begins those of further ones, such as
// tokenizer.chat_template.tool_use.
const chatTemplateKey = "tokenizer.chat_template"

// readTemplate notes that there is a chat template, and whether it mentions tools.
func (g *ggufReader) readTemplate(key string) {
	n := g.uint64()
	if !g.expect("bytes of a text", n, 1) {
		return
	}
	end := g.pos + int64(n)
	g.info.ChatTemplate = g.info.ChatTemplate || key == chatTemplateKey
	var tail []byte // of the piece before: a word may lie across
	for left := min(n, ggufMaxTemplate); left > 0 && g.err == nil && !g.info.Tools; {
		piece := min(left, bufferBytes/2)
		tail = append(tail, g.take(int(piece))...)
		g.info.Tools = mentionsTools(tail)
		tail = append(tail[:0], tail[max(len(tail)-maxToolsWord, 0):]...)
		left -= piece
	}
	if g.err == nil {
		g.pos = end
	}
}

// name reads a text of bounded length.
func (g *ggufReader) name(what string, least, most uint64) string {
	n := g.uint64()
	if n < least || n > most {
		g.fault("has a %s of %d bytes; %d to %d are allowed", what, n, least, most)
		return ""
	}
	return string(g.take(int(n)))
}

// describe fills in the Info from the metadata.
func (g *ggufReader) describe(tensors uint64) {
	text := func(key string) string { return printable(g.kept[key].text) }
	number := func(key string) uint64 { return g.kept[key].number }

	info := &g.info
	info.Architecture = text("general.architecture")
	info.Title = text("general.name")
	info.Quantisation = fileTypeName(g.kept)
	for key, to := range map[string]*int64{".context_length": &info.ContextLength, ".block_count": &info.Layers, ".embedding_length": &info.Width} {
		if n := number(info.Architecture + key); n <= math.MaxInt32 {
			*to = int64(n)
		}
	}
	info.Maker = cmp.Or(text("general.organization"), text("general.author"))
	info.Licence = text("general.license")
	if count, no := number("split.count"), number("split.no"); count > ggufMaxShards || count > 1 && no >= count {
		g.fault("says that it is shard %d of %d", no+1, count)
	} else if count > 1 {
		info.Shard, info.Shards = int(no)+1, int(count)
	}
	switch kind := text("general.type"); {
	case kind == "adapter":
		info.Role = RoleAdapter
	case kind == "mmproj" || info.Architecture == "clip":
		info.Role = RoleProjector
		info.Width = g.projectedWidth()
	case info.Architecture == "controlvector":
		info.Role = RoleControlVector
	case drafts[info.Architecture]:
		info.Role = RoleDraft
	case kind == "imatrix" || tensors == 0 && info.Shards == 0:
		info.Role = RoleAuxiliary
	}
	info.Capabilities = g.capabilities()
}

// projectedWidth returns the width of the embeddings that a projector makes; 0: it does
// not say. The first ones, for LLaVA and MobileVLM, say there how wide CLIP's own are.
// Source: convert_hf_to_gguf.py and tools/mtmd/legacy-models of llama.cpp.
func (g *ggufReader) projectedWidth() int64 {
	switch cmp.Or(g.kept["clip.vision.projector_type"].text, g.kept["clip.projector_type"].text) {
	case "", "mlp", "ldp", "ldpv2", "resampler", "adapter":
		return 0
	}
	return int64(min(cmp.Or(g.kept["clip.vision.projection_dim"].number, g.kept["clip.audio.projection_dim"].number), math.MaxInt32))
}

// drafts are architectures that only propose tokens for another model.
var drafts = map[string]bool{"eagle3": true, "eagle": true, "dflash": true, "dspark": true, "medusa": true}

// capabilities derives them from the role and the metadata.
func (g *ggufReader) capabilities() []string {
	has := func(key string) bool { _, ok := g.kept[key]; return ok }
	sees, hears := g.kept["clip.has_vision_encoder"].number == 1, g.kept["clip.has_audio_encoder"].number == 1
	const rank = 4 // of enum llama_pooling_type: 0 none, 1 mean, 2 cls, 3 last, 4 rank
	pooling := g.kept[g.info.Architecture+".pooling_type"].number
	switch role := g.info.Role; {
	case role == RoleProjector && hears && sees:
		return []string{vision, audio}
	case role == RoleProjector && hears:
		return []string{audio}
	case role == RoleProjector: // the first ones had no flag and could only see
		return []string{vision}
	case role != RoleModel:
		return nil
	case pooling == rank:
		return []string{reranking}
	case pooling != 0:
		return []string{embeddings}
	}
	what, known := ggufArchitectures[g.info.Architecture]
	if !known && (g.info.ContextLength > 0 || has("tokenizer.ggml.model")) {
		what = textGeneration
	}
	return generating(what, g.info.ChatTemplate, g.info.Tools, g.kept[g.info.Architecture+".vision.block_count"].number > 0)
}

// readTensors reads the tensor descriptions and checks that the file holds the
// tensors.
func (g *ggufReader) readTensors(tensors uint64) {
	const least = 8 + 4 + 4 + 8 // bytes of a description with no name and no dimension
	g.expect("tensors", tensors, least)
	alignment := uint64(ggufDefaultAlignment)
	if v, ok := g.kept["general.alignment"]; ok {
		alignment = v.number
	}
	if alignment == 0 || alignment%8 != 0 || alignment > math.MaxUint32 {
		g.fault("has an alignment of %d, which is no multiple of 8", alignment)
	}
	var (
		end   uint64 // of the tensor that ends last, from where the data begins
		sum   tensorSum
		names = newUniqueNames()
	)
	for i := uint64(0); i < tensors && g.err == nil; i++ {
		t := g.readTensor(alignment, names)
		end = max(end, t.end)
		g.fail(sum.add(t.kind.name, t.elements, t.bytes))
	}
	if sum.bytes > end {
		g.fault("has tensors that overlap")
	}
	sum.describe(&g.info)
	if g.err != nil || tensors == 0 {
		return
	}
	need := (uint64(g.pos)+alignment-1)/alignment*alignment + end
	if need > math.MaxInt64 {
		g.fault("has tensors beyond the end of any file")
	} else if missing := tier.Bytes(need) - tier.Bytes(g.size); missing > 0 {
		g.fail(&FileError{Missing: missing, Reason: fmt.Sprintf("is truncated: %d bytes (%v) are missing of %d", int64(missing), missing, need)})
	}
}

// ggufTensor is how a tensor is stored. All figures are valid as int64.
type ggufTensor struct {
	kind                 ggmlType
	elements, bytes, end uint64
}

func (g *ggufReader) readTensor(alignment uint64, names *uniqueNames) (t ggufTensor) {
	name := g.name("tensor name", 0, ggufMaxTensorName)
	g.fail(names.add("tensor", name))
	fault := func(format string, args ...any) {
		g.fail(tensorFault(name, format, args...))
	}
	dimensions := g.uint32()
	if dimensions > ggufMaxDimensions {
		fault("of %d dimensions; %d are allowed", dimensions, ggufMaxDimensions)
		return t
	}
	shape := [ggufMaxDimensions]uint64{1, 1, 1, 1}
	for i := range dimensions {
		shape[i] = g.uint64()
	}
	elements, ok := product(shape[:]...)
	if !ok {
		fault("of more elements than can be counted")
	}
	number := g.uint32()
	t.elements, t.kind = elements, ggmlTypeOf(number)
	offset := g.uint64()
	if offset%alignment != 0 {
		fault("at offset %d, which is no multiple of %d", offset, alignment)
	}
	// A type that is newer than the table has no known size: all that can be checked
	// then is that the file reaches to the tensor.
	if t.kind.block > 0 {
		if shape[0]%t.kind.block != 0 {
			fault("with rows of %d elements, which is no multiple of the %d in a block of %s", shape[0], t.kind.block, t.kind.name)
		}
		if t.bytes, ok = product(elements/t.kind.block, t.kind.bytes); !ok {
			fault("of more bytes than can be counted")
		}
	}
	if t.end = offset + t.bytes; max(offset, t.end) > math.MaxInt64 {
		fault("beyond the end of any file")
	}
	if g.tally != nil {
		g.tally.add(name, number, shape, t.bytes)
	}
	return t
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

func (g *ggufReader) width(kind uint32) int {
	if kind >= uint32(len(ggufWidths)) {
		g.fault("has a metadata value of the unknown type %d", kind)
		return 0
	}
	return ggufWidths[kind]
}

// skipValue passes over a value that is nested in depth arrays.
func (g *ggufReader) skipValue(kind uint32, depth int) {
	switch kind {
	case ggufString:
		g.skip("bytes of a text", g.uint64())
	case ggufArray:
		g.skipArray(depth + 1)
	default:
		g.skip("bytes of a value", uint64(g.width(kind)))
	}
}

func (g *ggufReader) skipArray(depth int) {
	if depth > ggufMaxNesting {
		g.fault("has metadata arrays nested deeper than %d", ggufMaxNesting)
		return
	}
	kind, count := g.uint32(), g.uint64()
	g.skipElements(kind, count, depth)
}

func (g *ggufReader) skipElements(kind uint32, count uint64, depth int) {
	if width := g.width(kind); width > 0 {
		g.skip("bytes of an array", min(count, math.MaxInt64/8)*uint64(width)) // still longer than any file
		return
	}
	least := uint64(8) // a text's length
	if kind == ggufArray {
		least = 4 + 8
	}
	g.expect("array elements", count, least)
	for i := uint64(0); i < count && g.err == nil; i++ {
		g.skipValue(kind, depth)
	}
}

// readList reads an array of integers or truth values, if it is short, and else counts
// its elements. A negative element reads as zero.
func (g *ggufReader) readList() (v ggufValue) {
	kind, count := g.uint32(), g.uint64()
	v.count = count
	switch kind {
	case ggufUint8, ggufInt8, ggufUint16, ggufInt16, ggufUint32, ggufInt32, ggufUint64, ggufInt64, ggufBool:
		if count <= ggufMaxList {
			for i := uint64(0); i < count && g.err == nil; i++ {
				v.list = append(v.list, g.readScalar(kind).number)
			}
			return v
		}
	}
	g.skipElements(kind, count, 1)
	return v
}

// readScalar reads a value that is not an array. A text that is too long, a negative
// number and a fraction are skipped and read as zero.
func (g *ggufReader) readScalar(kind uint32) (v ggufValue) {
	if kind == ggufString {
		n := g.uint64()
		if n > ggufMaxText {
			g.skip("bytes of a text", n)
			return v
		}
		v.text = string(g.take(int(n)))
		return v
	}
	width := g.width(kind)
	raw := g.take(width)
	var whole [8]byte
	copy(whole[:], raw)
	v.number = binary.LittleEndian.Uint64(whole[:])
	switch kind {
	case ggufBool:
		if v.number > 1 {
			g.fault("has a truth value of %d", v.number)
		}
	case ggufInt8, ggufInt16, ggufInt32, ggufInt64:
		if raw[width-1]&0x80 != 0 {
			v.number = 0
		}
	case ggufFloat32, ggufFloat64:
		v.number = 0
	}
	return v
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

// ggmlTypeOf returns the type with that number; the zero type if it is unknown.
func ggmlTypeOf(number uint32) ggmlType {
	if number < uint32(len(ggmlTypes)) {
		return ggmlTypes[number]
	}
	return ggmlType{}
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

// fileTypeName returns "" if the file type is not given or unknown.
func fileTypeName(kept map[string]ggufValue) string {
	v, given := kept["general.file_type"]
	if number := v.number &^ fileTypeGuessed; given && number < uint64(len(fileTypes)) {
		return fileTypes[number]
	}
	return ""
}
