package hotload

import (
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on a GGUF header. The vocabulary is what makes real ones large, up to
// some tens of MiB; lengths of keys and the count of dimensions are from the
// specification (docs/gguf.md in ggml).
const (
	ggufMaxHeader     = 128 << 20
	ggufMaxKey        = 1<<16 - 1
	ggufMaxTensorName = 1 << 10
	ggufMaxDimensions = 4
	ggufMaxNesting    = 4 // arrays in arrays
	ggufMaxText       = 1 << 10
	ggufMaxKept       = 64
	ggufMaxShards     = 1 << 16
)

const ggufDefaultAlignment = 32

// ReadGGUF reads the header of a GGUF file, version 2 or 3, of size bytes. It
// checks the header in full, and that the file is long enough for the tensors
// that the header promises; the weights are not read. It holds a window of 64 KiB
// of the file in memory, whatever the file claims. An error is a *FileError, with
// Missing set where the file is truncated.
//
// Name, Size and Files of the Info are left to Inspect.
func ReadGGUF(r io.ReaderAt, size int64) (Info, error) {
	g := &ggufReader{window: window{r: r, size: size, limit: ggufMaxHeader}}
	info, err := g.read()
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// ggufReader reads one header from front to end.
type ggufReader struct {
	window
	kept map[string]ggufValue // what was worth keeping of the metadata
}

// ggufValue is one scalar of the metadata.
type ggufValue struct {
	text   string
	number uint64 // of an unsigned integer, a positive integer or a bool
}

func (g *ggufReader) read() (Info, error) {
	info := Info{Format: FormatGGUF}
	magic, err := g.take(4)
	if err != nil {
		return info, err
	}
	if string(magic) != "GGUF" {
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
	if err := g.readMetadata(pairs); err != nil {
		return info, err
	}
	if err := g.describe(&info, tensors); err != nil {
		return info, err
	}
	return info, g.readTensors(&info, tensors)
}

// keeps reports whether the value of the key is wanted. Some keys begin with the
// architecture, whose name may come later in the file, so a number of any that end
// like them are kept.
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
		var key string
		if g.keeps(string(raw)) {
			key = string(raw)
		}
		kind, err := g.uint32()
		if err != nil {
			return err
		}
		if key == "" || kind == ggufArray {
			err = g.skipValue(kind, 0)
		} else if _, dup := g.kept[key]; dup {
			err = &FileError{Reason: fmt.Sprintf("has the metadata key %q twice", key)}
		} else {
			g.kept[key], err = g.readScalar(kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// describe fills in what the metadata says.
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

// readTensors walks the tensor descriptions and checks that the file holds what
// they promise.
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
	for range tensors {
		t, err := g.readTensor(alignment)
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
		most := 0
		for i := range perType {
			if perType[i] > perType[most] {
				most = i
			}
		}
		if perType[most] > 0 {
			info.Quantisation = ggmlTypes[most].name
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

func (g *ggufReader) readTensor(alignment uint64) (ggufTensor, error) {
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
	// A type that is newer than this table has no known size: the file is then only
	// known to reach to where the tensor begins.
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
