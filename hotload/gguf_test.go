package hotload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func readGGUF(b []byte) (Info, error) { return ReadGGUF(bytes.NewReader(b), int64(len(b))) }

func TestReadGGUF_ChatModel_SaysWhatItIs(t *testing.T) {
	for version := uint32(2); version <= 3; version++ {
		g := smallLlama()
		g.version = version
		got, err := readGGUF(g.bytes())
		if err != nil {
			t.Fatal(err)
		}
		want := Info{
			Format: FormatGGUF, Title: "Small Llama", Architecture: "llama",
			TensorBytes: 4*144 + 1024, Tensors: 2, Parameters: 1024 + 256, ContextLength: 4096,
			Quantisation: "Q4_K_M", Capabilities: []string{"text-generation", "chat"}, ChatTemplate: true,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d (-want +got):\n%s", version, diff)
		}
	}
}

func TestReadGGUF_KindsOfModels_CapabilitiesAndRoles(t *testing.T) {
	for _, tt := range []struct {
		name string
		file *ggufFile
		role Role
		want []string
	}{
		{"language model without a template", newGGUF("qwen3").set("qwen3.context_length", uint64(8)), RoleModel, []string{"text-generation"}},
		{"known architecture alone", newGGUF("gpt2"), RoleModel, []string{"text-generation"}},
		{"unknown architecture alone", newGGUF("zyx"), RoleModel, nil},
		{"no architecture", newGGUF(""), RoleModel, nil},
		{"encoder", newGGUF("bert").set("tokenizer.ggml.model", "bert"), RoleModel, []string{"embeddings"}},
		{"language model made for embeddings", newGGUF("qwen3").set("qwen3.pooling_type", uint32(3)).set("tokenizer.chat_template", "x"), RoleModel, []string{"embeddings"}},
		{"pooling before the architecture's name", newGGUF("").set("qwen3.pooling_type", uint32(1)).set("general.architecture", "qwen3"), RoleModel, []string{"embeddings"}},
		{"pooling none", newGGUF("qwen3").set("qwen3.pooling_type", uint32(0)).set("qwen3.context_length", int32(8)), RoleModel, []string{"text-generation"}},
		{"another's pooling", newGGUF("llama").set("bert.pooling_type", uint32(1)), RoleModel, []string{"text-generation"}},
		{"reranker", newGGUF("bert").set("bert.pooling_type", uint32(4)), RoleModel, []string{"reranking"}},
		{"speech", newGGUF("whisper"), RoleModel, []string{"transcription"}},
		{"pictures", newGGUF("flux"), RoleModel, []string{"image-generation"}},
		{"projector that sees", newGGUF("clip").set("clip.has_vision_encoder", true), RoleProjector, []string{"vision"}},
		{"projector that hears", newGGUF("clip").set("clip.has_audio_encoder", true), RoleProjector, []string{"audio"}},
		{"projector that does both", newGGUF("clip").set("clip.has_audio_encoder", true).set("clip.has_vision_encoder", true), RoleProjector, []string{"vision", "audio"}},
		{"projector without flags", newGGUF("clip"), RoleProjector, []string{"vision"}},
		{"projector by type", newGGUF("x").set("general.type", "mmproj"), RoleProjector, []string{"vision"}},
		{"adapter", newGGUF("llama").set("general.type", "adapter"), RoleAdapter, nil},
		{"importance matrix", newGGUF("llama").set("general.type", "imatrix"), RoleAuxiliary, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			info, err := readGGUF(tt.file.tensor("t", 0, 8).bytes())
			if err != nil {
				t.Fatal(err)
			}
			if info.Role != tt.role {
				t.Errorf("role %v, want %v", info.Role, tt.role)
			}
			if diff := cmp.Diff(tt.want, info.Capabilities); diff != "" {
				t.Errorf("capabilities (-want +got):\n%s", diff)
			}
		})
	}
	info, err := readGGUF(smallLlama().header()[:0:0])
	if err == nil {
		t.Errorf("an empty file is %+v", info)
	}
	vocabulary := newGGUF("llama").set("tokenizer.ggml.model", "gpt2")
	if info, err := readGGUF(vocabulary.bytes()); err != nil || info.Role != RoleAuxiliary || info.Capabilities != nil {
		t.Errorf("a vocabulary is %+v, %v", info, err)
	}
}

func TestReadGGUF_Inspection_WhatIsThere(t *testing.T) {
	g := newGGUF("qwen3").set("general.organization", "Qwen").set("general.author", "A. Person").set("general.license", "apache-2.0").
		set("qwen3.block_count", uint32(28)).set("qwen3.embedding_length", uint32(1024)).set("qwen3.context_length", uint32(4096)).
		set("llama.block_count", uint32(5)).set("qwen3.vision.block_count", uint32(12)).
		set("tokenizer.chat_template", strings.Repeat(" ", 100_000)+"{% if tools %}{{ tools }}{% endif %}").tensor("t", 0, 8)
	info, err := readGGUF(g.bytes())
	if err != nil || info.Layers != 28 || info.Width != 1024 || info.Maker != "Qwen" || info.Licence != "apache-2.0" || !info.ChatTemplate || !info.Tools {
		t.Errorf("%+v, %v", info, err)
	}
	if diff := cmp.Diff([]string{"text-generation", "chat", "tools", "vision"}, info.Capabilities); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
	labels := info.Model("/m").Labels
	if labels["layers"] != "28" || labels["maker"] != "Qwen" || labels["licence"] != "apache-2.0" {
		t.Errorf("labels: %v", labels)
	}
	if info, err := readGGUF(newGGUF("llama").set("general.author", "A. Person").tensor("t", 0, 8).bytes()); err != nil || info.Maker != "A. Person" {
		t.Errorf("without an organisation: %+v, %v", info, err)
	}
}

func TestReadGGUF_ChatTemplate_MentionsToolsOrNot(t *testing.T) {
	for _, tt := range []struct {
		templates []string // by key, from tokenizer.chat_template on
		tools     bool
	}{
		{[]string{"{{ messages }}"}, false},
		{[]string{"{%- if tools is defined %}"}, true},
		{[]string{"{{ message.tool_calls }}"}, true},
		{[]string{"{{ message['tool_call'] }}"}, true},
		{[]string{"stools and toolset, tools_of_trade, mytools"}, false},
		{[]string{strings.Repeat("x", bufferBytes/2-3) + " tools "}, true}, // across two pieces
		{[]string{strings.Repeat(" ", ggufMaxTemplate) + "tools"}, false},  // beyond what is searched
		{[]string{"plain", "{{ tools }}"}, true},                           // a template of its own for that
	} {
		g := newGGUF("llama")
		for i, text := range tt.templates {
			g.set("tokenizer.chat_template"+[]string{"", ".tool_use"}[i], text)
		}
		info, err := readGGUF(g.set("llama.context_length", uint32(7)).tensor("t", 0, 8).bytes())
		if err != nil || info.Tools != tt.tools || !info.ChatTemplate || info.ContextLength != 7 {
			t.Errorf("%.60q: %+v, %v", tt.templates, info, err)
		}
	}
}

func TestReadGGUF_EveryValueType_IsReadOrPassedOver(t *testing.T) {
	values := []any{uint8(1), int8(-1), uint16(2), int16(-2), uint32(3), int32(-3), float32(1.5), true, "text",
		uint64(4), int64(-4), 2.5, []string{"a", "", "c"}, []int32{1, 2}, [][]string{{"a"}, {}, {"b", "c"}}}
	g := newGGUF("llama")
	for i, v := range values {
		g.set("some.key"+strings.Repeat("x", i), v)
		g.set("a"+strings.Repeat("x", i)+".context_length", v) // one that is kept
	}
	g.set("llama.context_length", uint64(77))
	info, err := readGGUF(g.tensor("t", 1, 4).bytes())
	if err != nil || info.ContextLength != 77 || info.Parameters != 4 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestReadGGUF_ContextLength_OfAnyIntegerType(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  int64
	}{
		{uint8(200), 200}, {int8(5), 5}, {uint16(40000), 40000}, {int16(300), 300}, {uint32(1 << 20), 1 << 20},
		{int32(4096), 4096}, {uint64(131072), 131072}, {int64(8192), 8192},
		{int8(-1), 0}, {int16(-2), 0}, {int32(-1), 0}, {int64(math.MinInt64), 0}, {uint64(math.MaxUint64), 0}, {float32(4096), 0}, {"4096", 0},
	} {
		info, err := readGGUF(newGGUF("llama").set("llama.context_length", tt.value).tensor("t", 1, 4).bytes())
		if err != nil || info.ContextLength != tt.want {
			t.Errorf("context length of %T %v is %d, %v; want %d", tt.value, tt.value, info.ContextLength, err, tt.want)
		}
	}
}

func TestReadGGUF_ManyKeysThatLookWanted_MemoryIsBoundedAndTheRestIsRead(t *testing.T) {
	g := newGGUF("llama").set("llama.context_length", uint32(77))
	for i := range 1000 {
		g.set(fmt.Sprint("x", i, ".context_length"), uint32(1))
	}
	g.alignment = 256
	g.set("general.alignment", uint32(256)).set("general.name", "Late").tensor("a", 0, 8).tensor("b", 0, 8)
	info, err := readGGUF(g.bytes())
	if err != nil || info.ContextLength != 77 || info.Title != "Late" || info.Tensors != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	r := &ggufReader{bufReader: bufReader{r: bytes.NewReader(g.bytes()), size: int64(len(g.bytes())), limit: ggufMaxHeader}}
	if _, err := r.read(); err != nil || len(r.kept) > ggufMaxKept+10 {
		t.Errorf("%d keys were kept, %v", len(r.kept), err)
	}
}

func TestReadGGUF_Quantisation_ByFileTypeElseByMostBytes(t *testing.T) {
	for _, tt := range []struct {
		name string
		file *ggufFile
		want string
	}{
		{"file type", newGGUF("x").set("general.file_type", uint32(7)).tensor("t", 12, 256), "Q8_0"},
		{"guessed file type", newGGUF("x").set("general.file_type", uint32(1024+15)).tensor("t", 12, 256), "Q4_K_M"},
		{"unknown file type", newGGUF("x").set("general.file_type", uint32(999)).tensor("a", 12, 2560).tensor("b", 0, 10), "Q4_K"},
		{"none", newGGUF("x").tensor("a", 12, 256).tensor("b", 0, 1000), "F32"},
		{"unknown types only", newGGUF("x").tensor("a", 1000, 256), ""},
	} {
		info, err := readGGUF(tt.file.bytes())
		if err != nil || info.Quantisation != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, info.Quantisation, err, tt.want)
		}
	}
}

func TestReadGGUF_CutAnywhere_SaysTruncatedAndHowMuch(t *testing.T) {
	whole := smallLlama().bytes()
	header := len(smallLlama().header())
	for n := range whole {
		_, err := readGGUF(whole[:n])
		e, ok := errors.AsType[*FileError](err)
		if !ok || !errors.Is(err, tier.ErrInvalid) || e.Missing <= 0 {
			t.Fatalf("cut to %d of %d: %v", n, len(whole), err)
		}
		if int(e.Missing) > len(whole)-n {
			t.Errorf("cut to %d of %d: says that %d are missing", n, len(whole), e.Missing)
		}
		if n >= header && int(e.Missing) != len(whole)-n {
			t.Errorf("cut to %d of %d, behind the header: says that %d are missing", n, len(whole), e.Missing)
		}
	}
	if _, err := readGGUF(append(whole, make([]byte, 100)...)); err != nil {
		t.Errorf("padding at the end: %v", err)
	}
}

func TestReadGGUF_Broken_ErrorNamesWhatIsWrong(t *testing.T) {
	le := binary.LittleEndian
	pair := func(key string, kind uint32, value ...byte) *ggufFile {
		g := newGGUF("llama")
		g.pairs = append(g.pairs, ggufPair(key, kind, value))
		return g.tensor("t", 0, 8)
	}
	tensor := func(info []byte) *ggufFile {
		g := newGGUF("llama")
		g.tensors = append(g.tensors, info)
		g.data = 4096
		return g
	}
	version := func(v uint32) *ggufFile {
		g := smallLlama()
		g.version = v
		return g
	}
	claims := func(pairs, tensors uint64) *ggufFile {
		g := smallLlama()
		g.claimPairs, g.claimTensors = pairs, tensors
		return g
	}
	nested := le.AppendUint32(nil, ggufArray)
	for range 10 {
		nested = le.AppendUint64(nested, 1)
		nested = le.AppendUint32(nested, ggufArray)
	}
	for _, tt := range []struct {
		name string
		file *ggufFile
		want string
	}{
		{"version 1", version(1), "version 1"},
		{"version 4", version(4), "version 4"},
		{"version 0", version(0), "version 0"},
		{"big-endian", version(3 << 24), "big-endian"},
		{"more pairs than any header", claims(math.MaxUint64, 0), "metadata pairs"},
		{"more tensors than any header", claims(0, math.MaxUint64), "tensors"},
		{"pairs whose bytes overflow", claims(math.MaxUint64/13+1, 0), "metadata pairs"},
		{"empty key", pair("", ggufUint8, 1), "key of 0 bytes"},
		{"long key", pair(strings.Repeat("k", 1<<16), ggufUint8, 1), "key of 65536 bytes"},
		{"unknown type", pair("a", 13, 1), "unknown type 13"},
		{"unknown type in an array", pair("a", ggufArray, 99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0), "unknown type 99"},
		{"text longer than any header", pair("a", ggufString, le.AppendUint64(nil, math.MaxUint64)...), "bytes of a text"},
		{"name longer than any header", pair("general.name", ggufString, le.AppendUint64(nil, 1<<40)...), "bytes of a text"},
		{"array longer than any header", pair("a", ggufArray, le.AppendUint64(le.AppendUint32(nil, ggufFloat64), math.MaxUint64/4)...), "bytes of an array"},
		{"array of texts longer than any header", pair("a", ggufArray, le.AppendUint64(le.AppendUint32(nil, ggufString), 1<<60)...), "array elements"},
		{"deep arrays", pair("a", ggufArray, nested...), "nested deeper"},
		{"truth value", pair("clip.has_vision_encoder", ggufBool, 2), "truth value of 2"},
		{"alignment 0", newGGUF("x").set("general.alignment", uint32(0)).tensor("t", 0, 8), "alignment"},
		{"alignment 12", newGGUF("x").set("general.alignment", uint32(12)).tensor("t", 0, 8), "alignment"},
		{"alignment of text", newGGUF("x").set("general.alignment", "32").tensor("t", 0, 8), "alignment"},
		{"key twice", newGGUF("x").set("general.architecture", "y").tensor("t", 0, 8), `metadata key "general.architecture" twice`},
		{"key twice that is not used", newGGUF("x").set("a.b", "y").set("a.c", "y").set("a.b", uint32(1)).tensor("t", 0, 8), `metadata key "a.b" twice`},
		{"tensor twice", newGGUF("x").tensor("t", 0, 8).tensor("u", 0, 8).tensor("t", 0, 8), `tensor "t" twice`},
		{"more tensors than any model", claims(0, ggufMaxNames+1), "1048576 are allowed"},
		{"shard 3 of 2", newGGUF("x").set("split.no", uint16(2)).set("split.count", uint16(2)).tensor("t", 0, 8), "shard 3 of 2"},
		{"five dimensions", tensor(ggufTensorInfo("t", 0, 0, 1, 1, 1, 1, 1)), "5 dimensions"},
		{"four billion dimensions", tensor(append(ggufText(nil, "t"), 255, 255, 255, 255)), "dimensions"},
		{"long tensor name", tensor(ggufTensorInfo(strings.Repeat("n", 2000), 0, 0, 1)), "name of 2000 bytes"},
		{"too many elements", tensor(ggufTensorInfo("t", 0, 0, 1<<32, 1<<32)), "elements"},
		{"one element too many", tensor(ggufTensorInfo("t", 24, 0, 1<<32, 1<<31)), "elements"},
		{"too many bytes", tensor(ggufTensorInfo("t", 28, 0, 1<<62)), "bytes than can be counted"},
		{"part of a block", tensor(ggufTensorInfo("t", 12, 0, 100)), "multiple of the 256"},
		{"offset between", tensor(ggufTensorInfo("t", 0, 8, 1)), "multiple of 32"},
		{"offset that overflows", tensor(ggufTensorInfo("t", 0, math.MaxUint64-31, 64)), "beyond the end"},
		{"offset far away", tensor(ggufTensorInfo("t", 0, 1<<63-32, 1)), "beyond the end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.file.header()
			b = append(b, make([]byte, 8192)...)
			info, err := readGGUF(b)
			if !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, error %v; want one about %q", info, err, tt.want)
			}
			if len(tier.Suggestions(err)) == 0 {
				t.Error("no way out is suggested")
			}
		})
	}
	if _, err := readGGUF([]byte("GGML and more")); err == nil || !strings.Contains(err.Error(), "GGUF") {
		t.Errorf("another format: %v", err)
	}
}

func TestReadGGUF_TensorsInOnePlace_IsAnError(t *testing.T) {
	for want, size := range map[string]uint64{"overlap": 64, "can be counted": 1 << 62} {
		g := newGGUF("x")
		for i := range 3 {
			g.tensors = append(g.tensors, ggufTensorInfo(fmt.Sprint("t", i), 24, 0, size))
		}
		_, err := ReadGGUF(sparse{g.header()}, math.MaxInt64)
		if !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("three tensors of %d bytes: %v, want one about %q", size, err, want)
		}
	}
}

// sparse is a file of any size that is zero behind its head.
type sparse struct{ head []byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	return len(p), nil
}

// TestReadGGUF_HugeClaims_MemoryStaysSmall reads headers that claim and that have
// a lot.
func TestReadGGUF_HugeClaims_MemoryStaysSmall(t *testing.T) {
	claim := func(kind uint32, value ...byte) []byte {
		g := newGGUF("llama")
		g.pairs = append(g.pairs, ggufPair("a.b", kind, value))
		return g.header()
	}
	le := binary.LittleEndian
	texts := le.AppendUint64(le.AppendUint32(nil, ggufString), 20<<20)
	for name, head := range map[string][]byte{
		"a long text":     claim(ggufString, le.AppendUint64(nil, 200<<20)...),
		"many texts":      claim(ggufArray, texts...),
		"many of tensors": func() []byte { g := newGGUF("x"); g.claimTensors = 8 << 20; return g.header() }(),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ReadGGUF(sparse{head}, 1<<40)
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
}

func TestReadGGUF_ReadFails_ErrorOfTheDeviceComesBack(t *testing.T) {
	broken := errors.New("input/output error")
	_, err := ReadGGUF(readerAt(func([]byte, int64) (int, error) { return 0, broken }), 100)
	if !errors.Is(err, broken) || !errors.Is(err, tier.ErrInvalid) {
		t.Error(err)
	}
	_, err = ReadGGUF(readerAt(func([]byte, int64) (int, error) { return 0, io.EOF }), 100)
	if e, ok := errors.AsType[*FileError](err); !ok || e.Missing <= 0 {
		t.Errorf("a file that shrank: %v", err)
	}
}

type readerAt func([]byte, int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// TestReadGGUF_AnyFile_SumsMatchTheBuilder reads files of any make-up.
func TestReadGGUF_AnyFile_SumsMatchTheBuilder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGGUF("llama")
		g.alignment = uint64(8 << rapid.IntRange(0, 6).Draw(t, "alignment"))
		g.set("general.alignment", uint32(g.alignment))
		for range rapid.IntRange(0, 4).Draw(t, "pairs") {
			g.set(fmt.Sprint("k", len(g.pairs), ".", rapid.StringMatching(`[a-z]{1,200}`).Draw(t, "key")), rapid.SliceOfN(rapid.String(), 0, 50).Draw(t, "texts"))
		}
		var want Info
		for range rapid.IntRange(1, 5).Draw(t, "tensors") {
			kind := rapid.SampledFrom([]uint32{0, 1, 2, 8, 12, 14, 24, 28, 39, 41}).Draw(t, "type")
			row := rapid.Uint64Range(1, 4).Draw(t, "row") * ggmlTypeOf(kind).block
			rows := rapid.Uint64Range(0, 5).Draw(t, "rows")
			g.tensor(fmt.Sprint("t", want.Tensors), kind, row, rows)
			want.Tensors++
			want.Parameters += int64(row * rows)
			want.TensorBytes += tier.Bytes(row / ggmlTypeOf(kind).block * ggmlTypeOf(kind).bytes * rows)
		}
		b := g.bytes()
		got, err := readGGUF(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.Tensors != want.Tensors || got.Parameters != want.Parameters || got.TensorBytes != want.TensorBytes {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if g.data > 0 {
			if _, err := readGGUF(b[:len(b)-1]); err == nil {
				t.Fatal("a byte less is no error")
			}
		}
	})
}

func FuzzReadGGUF(f *testing.F) {
	f.Add(smallLlama().bytes())
	f.Add(newGGUF("clip").set("x", [][]string{{"a"}, {}}).set("split.count", uint16(2)).tensor("t", 39, 32, 2).bytes())
	f.Add(newGGUF("").bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readGGUF(data)
		if err != nil {
			if e, ok := errors.AsType[*FileError](err); !ok || e.Missing < 0 {
				t.Fatalf("error %v of type %T", err, err)
			}
			return
		}
		if info.TensorBytes < 0 || int64(info.TensorBytes) > int64(len(data)) && info.Tensors < 2 || info.Parameters < 0 || info.Tensors < 0 || info.Shard > info.Shards {
			t.Fatalf("%+v of %d bytes", info, len(data))
		}
		info.Name, info.Size = "a", 1
		m := info.Model("a")
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkReadGGUF reads a header with a vocabulary of 128 000 tokens, as that of
// a current language model has.
func BenchmarkReadGGUF(b *testing.B) {
	tokens := make([]string, 128_000)
	for i := range tokens {
		tokens[i] = strings.Repeat("t", i%11)
	}
	g := smallLlama().set("tokenizer.ggml.merges", tokens).set("tokenizer.ggml.scores", make([]int32, len(tokens)))
	for i := range 300 {
		g.tensor(fmt.Sprintf("blk.%d.ffn_down.weight", i), 12, 4096)
	}
	data := g.bytes()
	b.ReportAllocs()
	b.SetBytes(int64(len(g.header())))
	for b.Loop() {
		if _, err := readGGUF(data); err != nil {
			b.Fatal(err)
		}
	}
}
