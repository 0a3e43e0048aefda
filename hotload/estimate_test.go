package hotload

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// keys are metadata of one architecture, without its name before them.
type keys map[string]any

func shaped(architecture string, vocab int, k keys) *ggufFile {
	g := newGGUF(architecture).set("tokenizer.ggml.tokens", make([]string, vocab))
	for key, value := range k {
		if n, ok := value.(int); ok {
			value = uint32(n)
		}
		g.set(architecture+"."+key, value)
	}
	return g.tensor("token_embd.weight", 1, 32, 32)
}

func planted(t testing.TB, g *ggufFile) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.gguf")
	must(t, os.WriteFile(path, g.bytes(), 0o644))
	return path
}

// The shapes of public models, and what their caches take by the formulas: worked out by
// hand from the dimensions, and where a name is that of a model equal to what llama.cpp
// has logged for it.
func TestEstimate_ByHand_CacheAndState(t *testing.T) {
	const mib = 1 << 20
	list := func(n int, of func(i int) int32) (all []int32) {
		for i := range n {
			all = append(all, of(i))
		}
		return all
	}
	gemma := keys{"block_count": 34, "embedding_length": 2560, "feed_forward_length": 10240, "attention.head_count": 8,
		"attention.head_count_kv": 4, "attention.key_length": 256, "attention.value_length": 256, "attention.sliding_window": 1024}
	gemma4 := keys{"block_count": 6, "embedding_length": 1024, "attention.head_count": 8, "attention.head_count_kv": []int32{2, 2, 2, 2, 2, 2},
		"attention.key_length": 512, "attention.value_length": 512, "attention.key_length_swa": 256, "attention.value_length_swa": 256,
		"attention.sliding_window": 512, "attention.sliding_window_pattern": []bool{true, true, false, true, true, false}, "attention.shared_kv_layers": 2}
	one := EstimateOptions{Context: 4096, Slots: 1}
	at := func(context, slots int, k, v string) EstimateOptions {
		return EstimateOptions{Context: context, Slots: slots, CacheTypeK: k, CacheTypeV: v}
	}
	for _, c := range []struct {
		name, arch   string
		keys         keys
		o            EstimateOptions
		cache, state float64 // bytes
	}{
		{"grouped attention, 8 bits: Llama-3.3-70B", "llama", keys{"block_count": 80, "embedding_length": 8192, "attention.head_count": 64, "attention.head_count_kv": 8},
			at(32768, 1, "q8_0", "q8_0"), 5440 * mib, 0},
		{"head of its own width: Qwen3-0.6B", "qwen3", keys{"block_count": 28, "embedding_length": 1024, "attention.head_count": 16, "attention.head_count_kv": 8,
			"attention.key_length": 128, "attention.value_length": 128}, one, 448 * mib, 0},
		{"one head of keys", "falcon", keys{"block_count": 32, "embedding_length": 4544, "attention.head_count": 71, "attention.head_count_kv": 1}, one, 32 * 64 * 2 * 2 * 4096, 0},
		{"all heads, none named", "gpt2", keys{"block_count": 12, "embedding_length": 768, "attention.head_count": 12}, one, 12 * 768 * 2 * 2 * 4096, 0},
		{"other types for K and V", "qwen3", keys{"block_count": 1, "embedding_length": 1024, "attention.head_count": 16}, at(256, 1, "q4_0", "q5_1"), 256 * (1024*18/32 + 1024*24/32), 0},
		{"heads by layer", "openelm", keys{"block_count": 3, "embedding_length": 1024, "attention.head_count": []int32{8, 12, 16}, "attention.head_count_kv": []int32{2, 3, 4},
			"attention.key_length": 64, "attention.value_length": 64}, one, 9 * 64 * 2 * 2 * 4096, 0},
		{"context rounded up, parts of it too", "gpt2", keys{"block_count": 1, "embedding_length": 64, "attention.head_count": 1}, at(1000, 3, "", ""), 3 * 512 * 64 * 2 * 2, 0},
		{"shared by the slots", "gpt2", keys{"block_count": 1, "embedding_length": 64, "attention.head_count": 1}, EstimateOptions{Context: 1000, Slots: 3, Unified: true}, 1024 * 64 * 2 * 2, 0},

		{"windows, as llama-server has it: Gemma-3-4B", "gemma3", gemma, EstimateOptions{Context: 8192}, 682 * mib, 0},
		{"the same, of the library", "gemma3", gemma, EstimateOptions{Context: 8192, Engine: LlamaLibrary}, 1088 * mib, 0},
		{"the same, one slot", "gemma3", gemma, at(32768, 1, "", ""), (640 + 174) * mib, 0},
		{"the same, a full window", "gemma3", gemma, EstimateOptions{Context: 32768, Slots: 1, FullWindow: true}, (640 + 3712) * mib, 0},
		{"window that llama.cpp does not use", "phi3", keys{"block_count": 32, "embedding_length": 3072, "attention.head_count": 32, "attention.sliding_window": 2047}, one, 1536 * mib, 0},
		{"period that the file says", "zyx", keys{"block_count": 4, "embedding_length": 64, "attention.head_count": 1, "attention.sliding_window": 200, "attention.sliding_window_pattern": 2}, at(8192, 1, "", ""),
			(2*8192 + 2*768) * 64 * 4, 0},
		{"first of a period is full", "smallthinker", keys{"block_count": 5, "embedding_length": 64, "attention.head_count": 1, "attention.sliding_window": 200}, at(8192, 1, "", ""),
			(2*8192 + 3*768) * 64 * 4, 0},
		{"layers that share, windows of other widths", "gemma4", gemma4, at(8192, 1, "", ""), 3*1024*2*(512+512) + 8192*2*(1024+1024), 0},
		{"the same, V as wide everywhere without flash attention", "gemma4", gemma4, EstimateOptions{Context: 8192, Slots: 1, FlashAttention: "off"}, 3*1024*2*(512+1024) + 8192*2*(1024+1024), 0},

		{"one latent for K and V: DeepSeek-V2-Lite", "deepseek2", keys{"block_count": 27, "embedding_length": 2048, "attention.head_count": 16, "attention.head_count_kv": 1,
			"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192, "attention.value_length_mla": 128}, at(32768, 1, "", ""), 972 * mib, 0},
		{"an old file of the kind", "deepseek2", keys{"block_count": 61, "embedding_length": 7168, "attention.head_count": 128, "attention.head_count_kv": 128,
			"attention.key_length": 192, "attention.value_length": 128}, one, 61 * 4096 * 2 * (24576 + 16384), 0},
		{"indexer", "glm-dsa", keys{"block_count": 3, "nextn_predict_layers": 1, "embedding_length": 512, "attention.head_count": 4, "attention.head_count_kv": 1, "attention.key_length": 576,
			"attention.value_length": 512, "attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.indexer.key_length": 128}, one, 2 * 4096 * 2 * (576 + 128), 0},

		{"state in all layers: Mamba2-2.7B", "mamba2", keys{"block_count": 64, "embedding_length": 2560, "attention.head_count": 0, "ssm.conv_kernel": 4, "ssm.inner_size": 5120, "ssm.state_size": 128, "ssm.group_count": 1},
			one, 0, 64 * 4 * (3*(5120+256) + 128*5120)},
		{"state and cache in all: Falcon-H1-1.5B", "falcon-h1", keys{"block_count": 24, "embedding_length": 2048, "attention.head_count": 8, "attention.head_count_kv": 2, "attention.key_length": 128,
			"attention.value_length": 128, "ssm.conv_kernel": 4, "ssm.inner_size": 3072, "ssm.state_size": 256, "ssm.group_count": 1}, at(32768, 4, "", ""), 768 * mib, 4 * 24 * 4 * (3*(3072+512) + 256*3072)},
		{"one of four has attention, one predicts ahead: Qwen3.6-27B", "qwen35", keys{"block_count": 65, "nextn_predict_layers": 1, "embedding_length": 5120, "attention.head_count": 24, "attention.head_count_kv": 4,
			"attention.key_length": 256, "attention.value_length": 256, "ssm.conv_kernel": 4, "ssm.inner_size": 6144, "ssm.state_size": 128, "ssm.group_count": 16}, EstimateOptions{Context: 262144},
			16384 * mib, 598.5 * mib},
		{"layers named", "qwen35", keys{"block_count": 3, "embedding_length": 64, "attention.head_count": 1, "attention.recurrent_layers": []bool{true, false, true}, "ssm.conv_kernel": 4,
			"ssm.inner_size": 64, "ssm.state_size": 16}, one, 4096 * 64 * 4, 2 * 4 * (3*64 + 16*64)},
		{"short convolutions: LFM2-1.2B", "lfm2", keys{"block_count": 16, "embedding_length": 2048, "attention.head_count": 32, "shortconv.l_cache": 3,
			"attention.head_count_kv": list(16, func(i int) int32 { return map[bool]int32{true: 8}[slices.Contains([]int{2, 5, 8, 10, 12, 14}, i)] })},
			at(32768, 1, "", ""), 384 * mib, 10 * 4 * 2048 * 2},
		{"layers that only feed forward", "nemotron_h", keys{"block_count": 4, "embedding_length": 256, "attention.head_count": 4, "attention.head_count_kv": []int32{0, 0, 2, 0},
			"feed_forward_length": []int32{0, 1024, 0, 0}, "ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 64, "ssm.group_count": 2}, one, 4096 * 2 * 64 * 4, 2 * 4 * (3*(512+256) + 64*512)},
		{"delta attention: Kimi-Linear's kind", "kimi-linear", keys{"block_count": 24, "embedding_length": 2304, "attention.head_count": 32, "attention.head_count_kv": list(24, func(int) int32 { return 0 }),
			"ssm.conv_kernel": 3, "kda.head_dim": 128}, one, 0, 52_690_944},
		{"rwkv", "rwkv7", keys{"block_count": 24, "embedding_length": 2048, "wkv.head_size": 64}, at(4096, 2, "", ""), 0, 2 * 24 * 4 * (2*2048 + 64*2048)},
		{"state that nothing says where", "zyx", keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16}, one, 2 * 4096 * 64 * 4, 2 * 4 * (3*64 + 16*64)},

		{"encoder", "bert", keys{"block_count": 12, "embedding_length": 384, "attention.head_count": 12, "feed_forward_length": 1536, "pooling_type": 2}, one, 0, 0},
		{"embeddings of a model with a cache", "qwen3", keys{"block_count": 28, "embedding_length": 1024, "attention.head_count": 16, "attention.head_count_kv": 8, "attention.key_length": 128,
			"attention.value_length": 128, "pooling_type": 3}, one, 448 * mib, 0},
		{"decoder of another depth", "t5", keys{"block_count": 2, "decoder_block_count": 3, "embedding_length": 64, "attention.head_count": 1}, one, 3 * 4096 * 64 * 4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := Estimate(planted(t, shaped(c.arch, 1000, c.keys)), c.o)
			if err != nil {
				t.Fatal(err)
			}
			for what, want := range map[string]float64{"cache": c.cache, "state": c.state} {
				got := e.named("recurrent state") * mib
				if what == "cache" {
					got = e.named("KV cache", "windowed KV cache", "indexer cache") * mib
				}
				if got != want {
					t.Errorf("the %s is %.0f bytes, want %.0f\n%v", what, got, want, &e)
				}
			}
		})
	}
}

// The bound of the compute buffer, worked out by hand: numbers of a token at once, masks.
func TestEstimate_ByHand_ComputeBuffer(t *testing.T) {
	llama := keys{"block_count": 2, "embedding_length": 1024, "feed_forward_length": 4096, "attention.head_count": 16}
	for _, c := range []struct {
		name, arch string
		keys       keys
		o          EstimateOptions
		want       float64
	}{
		{"dense", "llama", llama, EstimateOptions{Context: 4096, Slots: 1}, 4*512*(3*4096+4*1024) + 2*512*4096},
		{"dense, few at once", "llama", llama, EstimateOptions{Context: 4096, Slots: 1, BatchTokens: 64}, 4*64*(3*4096+4*1024) + 2*64*4096},
		{"context shorter than a batch", "llama", llama, EstimateOptions{Context: 256, Slots: 1}, 4*256*(3*4096+4*1024) + 2*256*256},
		{"no flash attention", "llama", llama, EstimateOptions{Context: 4096, Slots: 1, FlashAttention: "off"}, 4*512*(3*4096+4*1024) + 4*512*4096*17},
		{"8 bits", "llama", llama, EstimateOptions{Context: 4096, Slots: 1, CacheTypeK: "q8_0"}, 4*512*(3*4096+5*1024) + 2*512*4096},
		{"all outputs", "llama", llama, EstimateOptions{Context: 4096, Slots: 1, AllOutputs: true}, 4*512*30_000 + 2*512*(3*4096+4*1024)},
		{"experts", "qwen3moe", keys{"block_count": 2, "embedding_length": 1024, "feed_forward_length": 1024, "attention.head_count": 16, "expert_used_count": 8, "expert_feed_forward_length": 768},
			EstimateOptions{Context: 4096, Slots: 1}, 4*512*2*8*(1024+768) + 2*512*4096},
		{"encoder", "bert", keys{"block_count": 2, "embedding_length": 384, "feed_forward_length": 1536, "attention.head_count": 12}, EstimateOptions{Context: 4096, Engine: LlamaLibrary},
			4*512*(1536+4*384) + 2*512*512},
		{"recurrent, of 3", "mamba2", keys{"block_count": 2, "embedding_length": 64, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 1, "ssm.time_step_rank": 8},
			EstimateOptions{Context: 4096, Slots: 3}, 4*512*4*(2*128+2*16+8) + 3*4*(3*(128+32)+16*128)},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := Estimate(planted(t, shaped(c.arch, 30_000, c.keys)), c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.named("compute buffer") * (1 << 20); got != c.want {
				t.Errorf("%.0f bytes, want %.0f\n%v", got, c.want, &e)
			}
		})
	}
}

func TestEstimate_ZeroOptions_AreThoseOfLlamaServer(t *testing.T) {
	path := planted(t, shaped("llama", 1000, keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "context_length": 2048}))
	e, err := Estimate(path, EstimateOptions{Processor: ProcessorPlain})
	if err != nil {
		t.Fatal(err)
	}
	want := EstimateOptions{Engine: LlamaServer, Context: 2048, Slots: 4, Unified: true, CacheTypeK: "f16", CacheTypeV: "f16",
		BatchTokens: 512, FlashAttention: "on", Processor: ProcessorPlain}
	if e.Options != want {
		t.Errorf("%+v, want %+v", e.Options, want)
	}
	if cache := e.named("KV cache") * (1 << 20); cache != 2*2048*64*4 {
		t.Errorf("a cache of %.0f bytes", cache)
	}
	if growth := e.Of(Growth); growth != 8*tier.GiB {
		t.Errorf("it is said to grow by %v", growth)
	}
	if e.Of(Mapped) != e.Size || e.Runtime() != e.Of(InRAM) {
		t.Errorf("%v", &e)
	}
	one, err := Estimate(path, EstimateOptions{Slots: 1, NoMmap: true})
	if err != nil {
		t.Fatal(err)
	}
	if one.Options.Unified || one.Of(Mapped) != 0 || one.Of(InRAM) != one.Runtime()+one.Size {
		t.Errorf("a slot that was asked for shares with none: %v", &one)
	}
	for _, word := range []string{"m with llama-server", "context 2048", "slots 4", "KV cache", "compute buffer", "growth", "llama-kv-cache.cpp"} {
		if text := e.String(); !strings.Contains(text, word) {
			t.Errorf("%q is not in\n%s", word, text)
		}
	}
}

// What a checkpoint keeps is the state and the windows of one sequence.
func TestEstimate_Checkpoints_OfStateAndWindows(t *testing.T) {
	path := planted(t, shaped("qwen35", 1000, keys{"block_count": 4, "embedding_length": 64, "attention.head_count": 1, "ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16}))
	e, err := Estimate(path, EstimateOptions{Context: 4096, Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.Of(Growth), 8*tier.GiB+2*32*3*4*(3*64+16*64); got != want {
		t.Errorf("it is said to grow by %d, want %d", got, want)
	}
}

func TestEstimate_CheckpointsOfSlotsThatShare_EachIsOfOneWindow(t *testing.T) {
	path := planted(t, shaped("gemma3", 1000, keys{"block_count": 6, "embedding_length": 64, "attention.head_count": 1, "attention.sliding_window": 1024}))
	e, err := Estimate(path, EstimateOptions{Context: 32768})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.Of(Growth), 8*tier.GiB+4*32*5*(1024+512)*64*2*2; got != want {
		t.Errorf("it is said to grow by %d, want %d", got, want)
	}
}

func TestEstimate_BadOptions_EachIsNamed(t *testing.T) {
	path := planted(t, shaped("llama", 10, keys{"block_count": 2, "embedding_length": 64, "context_length": 512}))
	for field, o := range map[string]EstimateOptions{
		"Context":        {Context: -1},
		"Slots":          {Slots: 257},
		"BatchTokens":    {BatchTokens: -5},
		"CacheTypeK":     {CacheTypeK: "q3_k"},
		"CacheTypeV":     {CacheTypeV: "q8_0", FlashAttention: "off"},
		"FlashAttention": {FlashAttention: "yes"},
		"Engine":         {Engine: "vllm"},
		"Processor":      {Processor: "z80"},
		"Libraries":      {Libraries: filepath.Join(t.TempDir(), "none")},
	} {
		_, err := Estimate(path, o)
		fault, ok := errors.AsType[*tier.InvalidError](err)
		if !ok || fault.Field != field || fault.Rule == "" || fault.Value == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
	_, err := Estimate(path, EstimateOptions{Context: math.MinInt, Slots: math.MinInt, CacheTypeK: "x", CacheTypeV: "y"})
	for _, field := range []string{"Context", "Slots", "CacheTypeK", "CacheTypeV"} {
		if !strings.Contains(fmt.Sprint(err), field) {
			t.Errorf("%s is not in %v", field, err)
		}
	}
}

func TestEstimate_HeaderThatLiesOrSaysTooLittle_IsRefused(t *testing.T) {
	good := keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "context_length": 512}
	for name, more := range map[string]keys{
		"layers":         {"block_count": uint32(math.MaxUint32)},
		"more layers":    {"block_count": 513},
		"no layers":      {"block_count": 0},
		"width":          {"embedding_length": uint64(math.MaxUint64)},
		"heads":          {"attention.head_count_kv": uint64(1) << 40},
		"heads of one":   {"attention.head_count_kv": []int32{1, math.MaxInt32}},
		"context":        {"context_length": uint64(1) << 40},
		"no context":     {"context_length": 0},
		"negative width": {"embedding_length": int32(-64)},
		"no sum of all":  {"block_count": 512, "context_length": 1 << 30, "attention.head_count_kv": 1 << 20, "attention.key_length": 1 << 20, "attention.value_length": 1 << 20},
	} {
		k := keys{}
		for _, from := range []keys{good, more} {
			for key, v := range from {
				k[key] = v
			}
		}
		e, err := Estimate(planted(t, shaped("llama", 10, k)), EstimateOptions{})
		if fault, ok := errors.AsType[*FileError](err); !ok || fault.Path == "" || !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, &e, err)
		}
	}
	headless := shaped("t5", 10, keys{"block_count": 2, "decoder_block_count": 0, "embedding_length": 64, "context_length": 512, "attention.shared_kv_layers": 5})
	if e, err := Estimate(planted(t, headless), EstimateOptions{}); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("a decoder without layers has the estimate %v, %v", &e, err)
	}
	if _, err := Estimate(planted(t, newGGUF("flux").tensor("t", 1, 8)), EstimateOptions{}); err == nil {
		t.Error("a model without layers has an estimate")
	}
}

func TestEstimate_Set_AllFilesCount(t *testing.T) {
	dir := t.TempDir()
	first := shaped("llama", 1000, keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "context_length": 512}).
		tensor("blk.0.ffn_up.weight", 2, 64, 64)
	second := newGGUF("").tensor("blk.1.ffn_up.weight", 2, 64, 64)
	for i, g := range []*ggufFile{first, second} {
		g.set("split.no", uint16(i)).set("split.count", uint16(2))
	}
	eye := newGGUF("clip").set("clip.has_vision_encoder", true).set("clip.projector_type", "gemma3").set("clip.vision.image_size", uint32(896)).
		set("clip.vision.patch_size", uint32(14)).set("clip.vision.embedding_length", uint32(1152)).set("clip.vision.feed_forward_length", uint32(4304)).tensor("v", 1, 32, 32)
	plant(t, dir, map[string]string{"m-00001-of-00002.gguf": string(first.bytes()), "m-00002-of-00002.gguf": string(second.bytes()), "mmproj-m.gguf": string(eye.bytes())})
	e, err := Estimate(dir, EstimateOptions{Processor: ProcessorAVX2})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.named("copies of weights")*(1<<20), 2.0*64*64/32*18; got != want {
		t.Errorf("%.0f bytes are copied, want %.0f", got, want)
	}
	if got := e.named("projector"); got < 121 || got > 122 { // 121 were seen
		t.Errorf("the projector takes %.1f MiB", got)
	}
	for _, name := range []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"} {
		if part, err := Estimate(filepath.Join(dir, name), EstimateOptions{Processor: ProcessorAVX2}); err != nil || part.Runtime() != e.Runtime() {
			t.Errorf("by %s: %v, %v", name, &part, err)
		}
	}
	// The same files where no name tells what belongs together, as Ollama keeps them.
	blobs := t.TempDir()
	plant(t, blobs, map[string]string{"a": string(first.bytes()), "b": string(second.bytes()), "c": string(eye.bytes())})
	a, b, c := filepath.Join(blobs, "a"), filepath.Join(blobs, "b"), filepath.Join(blobs, "c")
	if all, err := Estimate(a, EstimateOptions{Processor: ProcessorAVX2}, a, b, b, c); err != nil || all.Runtime() != e.Runtime() || all.Size != e.Size {
		t.Errorf("by its parts: %v, %v; want %v", &all, err, &e)
	}
	if _, err := Estimate(a, EstimateOptions{}, b, filepath.Join(blobs, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a part that is not there: %v", err)
	}
	if _, err := Estimate(a, EstimateOptions{}, filepath.Join(blobs, "gone"), b); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a part that is not there: %v", err)
	}
}

func TestEstimate_NoGGUF_IsARuleOfThumb(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.safetensors")
	must(t, os.WriteFile(path, []byte(safetensorsShard()), 0o644))
	e, err := Estimate(path, EstimateOptions{})
	if err != nil || e.Options.Engine != OtherEngine || e.Runtime() != 512*tier.MiB {
		t.Errorf("%v, %v", &e, err)
	}
	if _, err := Estimate(path, EstimateOptions{Engine: LlamaServer}); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("llama-server serves safetensors: %v", err)
	}
}

func BenchmarkEstimate(b *testing.B) {
	k := keys{"block_count": 80, "embedding_length": 8192, "feed_forward_length": 28672, "attention.head_count": 64, "attention.head_count_kv": 8, "context_length": 131072}
	g := shaped("llama", 128_256, k)
	for i := range 80 {
		for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"} {
			g.tensor(fmt.Sprintf("blk.%d.%s.weight", i, name), 2, 32, 32)
		}
	}
	path := planted(b, g)
	b.Run("WithHeader", func(b *testing.B) {
		for b.Loop() {
			if _, err := Estimate(path, EstimateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	_, m, err := readMetadata(bytes.NewReader(g.bytes()), int64(len(g.bytes())))
	must(b, err)
	h := newHeaders()
	must(b, h.add(m))
	o, err := EstimateOptions{}.withDefaults(FormatGGUF)
	must(b, err)
	b.Run("Alone", func(b *testing.B) {
		for b.Loop() {
			e := Estimation{Options: o}
			if err := e.addLlama(h); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func FuzzEstimate(f *testing.F) {
	f.Add(shaped("llama", 10, keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "context_length": 512}).bytes(), 0, 0, 0)
	f.Add(shaped("gemma3n", 10, keys{"block_count": 2, "embedding_length": 64, "attention.head_count": []int32{1, 2}, "attention.sliding_window": 8, "attention.sliding_window_pattern": []bool{true}}).bytes(), 100, 3, 7)
	f.Add(shaped("qwen35", 10, keys{"block_count": 3, "embedding_length": 64, "attention.head_count": 1, "ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16}).bytes(), 1<<30, 256, 1<<20)
	f.Add(smallLlama().bytes(), 1, 1, 1)
	f.Add(shaped("t5", 10, keys{"block_count": 2, "decoder_block_count": 0, "embedding_length": 64, "context_length": 512, "attention.shared_kv_layers": 5}).bytes(), 0, 0, 0)
	f.Fuzz(func(t *testing.T, data []byte, context, slots, batch int) {
		_, m, err := readMetadata(bytes.NewReader(data), int64(len(data)))
		h := newHeaders()
		if err != nil || h.add(m) != nil || h.shape == nil {
			return
		}
		for _, engine := range []EngineKind{LlamaServer, LlamaLibrary} {
			o, err := EstimateOptions{Engine: engine, Context: context, Slots: slots, BatchTokens: batch}.withDefaults(FormatGGUF)
			e := Estimation{Size: tier.Bytes(len(data)), Options: o}
			if err == nil {
				err = e.addLlama(h)
			}
			if err != nil {
				if !errors.Is(err, tier.ErrInvalid) {
					t.Errorf("an error of no kind: %v", err)
				}
				continue
			}
			for _, term := range e.Terms {
				if term.Bytes <= 0 || term.Source == "" {
					t.Errorf("%+v", term)
				}
			}
			if sum := e.Size.Plus(e.Runtime()); sum <= 0 || sum == math.MaxInt64 {
				t.Errorf("%v", &e)
			}
		}
	})
}
