package llamatest_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"
	yzma "github.com/hybridgroup/yzma/pkg/llama"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
)

// shape is a model without weights: its metadata and the names of its tensors, from
// which llama.cpp says what it would allocate.
type shape struct {
	name, arch string
	keys       map[string]any
	sizes      map[string]int // by a name that tensors use for a dimension
	// tensors are "NAME:DIMENSION,…", of the model and of each layer. A layer's may be
	// for some layers only: those for which of says so.
	model, layer string
	of           map[string]func(layer int) bool
	sized        func(layer int) map[string]int // sizes that differ by layer
}

const (
	attention = "attn_norm.weight:E attn_q.weight:E,Q attn_k.weight:E,K attn_v.weight:E,K attn_output.weight:Q,E "
	biases    = "attn_q.bias:Q attn_k.bias:K attn_v.bias:K "
	norms     = "attn_q_norm.weight:D attn_k_norm.weight:D "
	forward   = "ffn_norm.weight:E ffn_gate.weight:E,F ffn_up.weight:E,F ffn_down.weight:F,E "
	afterward = "post_attention_norm.weight:E post_ffw_norm.weight:E "
	experts   = "ffn_norm.weight:E ffn_gate_inp.weight:E,N ffn_gate_exps.weight:E,G,N ffn_up_exps.weight:E,G,N ffn_down_exps.weight:G,E,N "
	tied      = "token_embd.weight:E,V output_norm.weight:E "
	untied    = tied + "output.weight:E,V "
)

// dense returns the metadata of attention and a feed-forward layer.
func dense(layers, width, inner, heads, kv, head int) map[string]any {
	return map[string]any{
		"block_count": layers, "embedding_length": width, "feed_forward_length": inner, "attention.head_count": heads, "attention.head_count_kv": kv,
		"attention.key_length": head, "attention.value_length": head, "context_length": 131072, "rope.dimension_count": head,
		"attention.layer_norm_rms_epsilon": float32(1e-6), "attention.layer_norm_epsilon": float32(1e-6), "vocab_size": 32000,
	}
}

func with(keys map[string]any, more map[string]any) map[string]any {
	maps.Copy(keys, more)
	return keys
}

var shapes = []shape{
	{name: "llama, grouped attention", arch: "llama", keys: dense(16, 2048, 8192, 32, 8, 64), model: untied, layer: attention + forward},
	{name: "qwen2, two heads of keys", arch: "qwen2", keys: dense(12, 1536, 8960, 12, 2, 128), model: untied, layer: attention + biases + forward},
	{name: "qwen3, heads of a width of their own", arch: "qwen3", keys: dense(28, 1024, 3072, 16, 8, 128), model: tied, layer: attention + norms + forward},
	{name: "qwen3moe", arch: "qwen3moe", keys: with(dense(8, 2048, 6144, 32, 4, 128), map[string]any{"expert_count": 64, "expert_used_count": 8, "expert_feed_forward_length": 768}),
		sizes: map[string]int{"N": 64, "G": 768}, model: untied, layer: attention + norms + experts},
	{name: "phi3", arch: "phi3", keys: with(dense(8, 3072, 8192, 32, 32, 96), map[string]any{"attention.sliding_window": 2047}), sizes: map[string]int{"P": 3 * 3072, "U": 2 * 8192},
		model: untied, layer: "attn_norm.weight:E attn_qkv.weight:E,P attn_output.weight:Q,E ffn_norm.weight:E ffn_up.weight:E,U ffn_down.weight:F,E "},
	{name: "gemma2, every other layer a window", arch: "gemma2", keys: with(dense(26, 2304, 9216, 8, 4, 256), map[string]any{"attention.sliding_window": 4096, "attn_logit_softcapping": float32(50), "final_logit_softcapping": float32(30)}),
		model: tied, layer: attention + forward + afterward},
	{name: "gemma3, five of six", arch: "gemma3", keys: with(dense(26, 1152, 6912, 4, 1, 256), map[string]any{"attention.sliding_window": 512}), model: tied, layer: attention + norms + forward + afterward},
	{name: "cohere2, three of four", arch: "cohere2", keys: with(dense(32, 4096, 14336, 32, 8, 128), map[string]any{"attention.sliding_window": 4096, "logit_scale": float32(1)}), model: tied,
		layer: attention + "ffn_gate.weight:E,F ffn_up.weight:E,F ffn_down.weight:F,E "},
	{name: "olmo2, of the third kind", arch: "olmo2", keys: with(dense(16, 4096, 11008, 32, 32, 128), map[string]any{"attention.sliding_window": 4096}), model: untied,
		layer: "attn_q.weight:E,Q attn_k.weight:E,K attn_v.weight:E,K attn_output.weight:Q,E attn_q_norm.weight:Q attn_k_norm.weight:K ffn_gate.weight:E,F ffn_up.weight:E,F ffn_down.weight:F,E " + afterward},
	{name: "deepseek2, one latent", arch: "deepseek2", keys: with(dense(27, 2048, 10944, 16, 1, 576), map[string]any{"attention.value_length": 512, "attention.key_length_mla": 192, "attention.value_length_mla": 128,
		"attention.kv_lora_rank": 512, "rope.dimension_count": 64, "leading_dense_block_count": 27, "expert_count": 64, "expert_used_count": 6, "expert_feed_forward_length": 1408, "expert_shared_count": 2, "expert_weights_scale": float32(1), "expert_gating_func": 1}),
		sizes: map[string]int{"A": 16 * 192, "B": 576, "C": 512, "O": 128, "H": 16, "W": 16 * 128},
		model: untied, layer: "attn_norm.weight:E attn_q.weight:E,A attn_kv_a_mqa.weight:E,B attn_kv_a_norm.weight:C attn_k_b.weight:O,C,H attn_v_b.weight:C,O,H attn_output.weight:W,E " + forward},
	{name: "mamba", arch: "mamba", keys: map[string]any{"block_count": 24, "embedding_length": 768, "feed_forward_length": 0, "attention.head_count": 0, "context_length": 1 << 20, "ssm.conv_kernel": 4, "ssm.inner_size": 1536,
		"ssm.state_size": 16, "ssm.time_step_rank": 48, "attention.layer_norm_rms_epsilon": float32(1e-5), "vocab_size": 32000}, sizes: map[string]int{"J": 3072, "I": 1536, "T": 48, "S": 16, "X": 80, "C": 4}, model: tied,
		layer: "attn_norm.weight:E ssm_in.weight:E,J ssm_conv1d.weight:C,I ssm_conv1d.bias:I ssm_x.weight:I,X ssm_dt.weight:T,I ssm_dt.bias:I ssm_a:S,I ssm_d:I ssm_out.weight:I,E "},
	{name: "lfm2, short convolutions", arch: "lfm2", keys: with(dense(16, 2048, 8192, 32, 8, 64), map[string]any{"attention.head_count_kv": []int32{0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0}, "shortconv.l_cache": 3}),
		sizes: map[string]int{"L": 3, "M": 3 * 2048}, model: "token_embd.weight:E,V token_embd_norm.weight:E ",
		layer: attention[len("attn_norm.weight:E "):] + norms + "shortconv.conv.weight:L,E shortconv.in_proj.weight:E,M shortconv.out_proj.weight:E,E attn_norm.weight:E " + forward,
		of:    map[string]func(int) bool{"shortconv": func(i int) bool { return i%3 != 2 && i < 9 || i > 8 && i%2 == 1 || i == 9 }, "attn_": func(i int) bool { return i < 9 && i%3 == 2 || i > 9 && i%2 == 0 }, "attn_norm": func(int) bool { return true }}},
	{name: "falcon-h1, both in each layer", arch: "falcon-h1", keys: with(dense(24, 2048, 4096, 8, 2, 128), map[string]any{"ssm.conv_kernel": 4, "ssm.inner_size": 3072, "ssm.state_size": 256, "ssm.group_count": 1, "ssm.time_step_rank": 48}),
		sizes: map[string]int{"C": 4, "J": 2*3072 + 2*256 + 48, "X": 3072 + 2*256, "T": 48, "I": 3072, "1": 1}, model: untied,
		layer: attention + forward[len("ffn_norm.weight:E "):] + "ffn_norm:E ssm_in.weight:E,J ssm_conv1d.weight:C,X ssm_conv1d.bias:X ssm_dt.bias:T ssm_a:1,T ssm_d:1,T ssm_out.weight:I,E "},
	{name: "bert, no cache", arch: "bert", keys: map[string]any{"block_count": 12, "embedding_length": 384, "feed_forward_length": 1536, "attention.head_count": 12, "context_length": 512, "attention.causal": false, "pooling_type": 1,
		"attention.layer_norm_epsilon": float32(1e-12), "vocab_size": 32000}, sizes: map[string]int{"Y": 2, "Z": 512, "K": 384, "Q": 384}, model: "token_embd.weight:E,V token_types.weight:E,Y position_embd.weight:E,Z token_embd_norm.weight:E token_embd_norm.bias:E ",
		layer: "attn_q.weight:E,E attn_k.weight:E,E attn_v.weight:E,E attn_output.weight:E,E attn_output.bias:E attn_output_norm.weight:E attn_output_norm.bias:E ffn_up.weight:E,F ffn_up.bias:F ffn_down.weight:F,E ffn_down.bias:E layer_output_norm.weight:E layer_output_norm.bias:E " + biases},
	{name: "gpt2, no gate", arch: "gpt2", keys: with(dense(12, 768, 3072, 12, 12, 64), map[string]any{"context_length": 1024}), sizes: map[string]int{"P": 3 * 768, "Z": 1024},
		model: "token_embd.weight:E,V position_embd.weight:E,Z output_norm.weight:E output_norm.bias:E ",
		layer: "attn_norm.weight:E attn_norm.bias:E attn_qkv.weight:E,P attn_qkv.bias:P attn_output.weight:E,E attn_output.bias:E ffn_norm.weight:E ffn_norm.bias:E ffn_up.weight:E,F ffn_up.bias:F ffn_down.weight:F,E ffn_down.bias:E "},
	{name: "falcon, one head of keys", arch: "falcon", keys: dense(32, 4544, 4*4544, 71, 1, 64), sizes: map[string]int{"P": 4544 + 128}, model: "token_embd.weight:E,V output_norm.weight:E output_norm.bias:E output.weight:E,V ",
		layer: "attn_norm.weight:E attn_norm.bias:E attn_qkv.weight:E,P attn_output.weight:E,E ffn_up.weight:E,F ffn_down.weight:F,E "},
	{name: "starcoder2", arch: "starcoder2", keys: dense(30, 3072, 12288, 24, 2, 128), model: untied + "output_norm.bias:E ",
		layer: attention + biases + "attn_norm.bias:E attn_output.bias:E ffn_norm.weight:E ffn_norm.bias:E ffn_up.weight:E,F ffn_up.bias:F ffn_down.weight:F,E ffn_down.bias:E "},
	{name: "nomic-bert, a gate", arch: "nomic-bert", keys: map[string]any{"block_count": 12, "embedding_length": 768, "feed_forward_length": 3072, "attention.head_count": 12, "context_length": 2048, "attention.causal": false, "pooling_type": 1,
		"attention.layer_norm_epsilon": float32(1e-12), "vocab_size": 32000}, sizes: map[string]int{"Y": 2, "P": 3 * 768}, model: "token_embd.weight:E,V token_types.weight:E,Y token_embd_norm.weight:E token_embd_norm.bias:E ",
		layer: "attn_qkv.weight:E,P attn_output.weight:E,E attn_output_norm.weight:E attn_output_norm.bias:E ffn_up.weight:E,F ffn_gate.weight:E,F ffn_down.weight:F,E layer_output_norm.weight:E layer_output_norm.bias:E "},
	{name: "modern-bert", arch: "modern-bert", keys: map[string]any{"block_count": 22, "embedding_length": 768, "feed_forward_length": 1152, "attention.head_count": 12, "context_length": 8192, "attention.causal": false, "pooling_type": 1,
		"attention.layer_norm_epsilon": float32(1e-5), "attention.sliding_window": 128, "rope.freq_base_swa": float32(10000), "vocab_size": 32000}, sizes: map[string]int{"P": 3 * 768, "U": 2 * 1152}, model: "token_embd.weight:E,V token_embd_norm.weight:E output_norm.weight:E ",
		layer: "attn_norm.weight:E attn_qkv.weight:E,P attn_output.weight:E,E ffn_norm.weight:E ffn_up.weight:E,U ffn_down.weight:F,E "},
	{name: "mamba2", arch: "mamba2", keys: map[string]any{"block_count": 24, "embedding_length": 2560, "feed_forward_length": 0, "attention.head_count": 0, "context_length": 1 << 20, "ssm.conv_kernel": 4, "ssm.inner_size": 5120,
		"ssm.state_size": 128, "ssm.time_step_rank": 80, "ssm.group_count": 1, "attention.layer_norm_rms_epsilon": float32(1e-5), "vocab_size": 32000},
		sizes: map[string]int{"J": 2*5120 + 2*128 + 80, "I": 5120, "T": 80, "X": 5120 + 256, "C": 4, "1": 1}, model: tied,
		layer: "attn_norm.weight:E ssm_in.weight:E,J ssm_conv1d.weight:C,X ssm_conv1d.bias:X ssm_dt.bias:T ssm_a:1,T ssm_d:1,T ssm_norm.weight:I,1 ssm_out.weight:I,E "},
	{name: "gpt-oss", arch: "gpt-oss", keys: with(dense(24, 2880, 2880, 64, 8, 64), map[string]any{"attention.sliding_window": 128, "expert_count": 32, "expert_used_count": 4, "expert_feed_forward_length": 2880}),
		sizes: map[string]int{"N": 32, "G": 2880, "H": 64}, model: untied,
		layer: attention + biases + "attn_output.bias:E attn_sinks.weight:H post_attention_norm.weight:E ffn_gate_inp.weight:E,N ffn_gate_inp.bias:N ffn_gate_exps.weight:E,G,N ffn_up_exps.weight:E,G,N ffn_down_exps.weight:G,E,N ffn_gate_exps.bias:G,N ffn_up_exps.bias:G,N ffn_down_exps.bias:E,N "},
	{name: "exaone4, three of four", arch: "exaone4", keys: with(dense(64, 5120, 27392, 40, 8, 128), map[string]any{"attention.sliding_window": 4096}), model: untied,
		layer: "attn_q.weight:E,Q attn_k.weight:E,K attn_v.weight:E,K attn_output.weight:Q,E " + norms + afterward + "ffn_gate.weight:E,F ffn_up.weight:E,F ffn_down.weight:F,E "},
	{name: "command-r", arch: "command-r", keys: with(dense(16, 8192, 22528, 64, 8, 128), map[string]any{"logit_scale": float32(1)}), model: tied, layer: attention + "ffn_gate.weight:E,F ffn_up.weight:E,F ffn_down.weight:F,E "},
	{name: "glm4", arch: "glm4", keys: dense(16, 4096, 13696, 32, 2, 128), sizes: map[string]int{"U": 2 * 13696}, model: untied,
		layer: attention + afterward + "ffn_norm.weight:E ffn_up.weight:E,U ffn_down.weight:F,E "},
	{name: "minicpm3, latents without a cache of them", arch: "minicpm3", keys: with(dense(16, 2560, 6400, 40, 40, 96), map[string]any{"attention.value_length": 64, "attention.q_lora_rank": 768, "attention.kv_lora_rank": 256, "rope.dimension_count": 32}),
		sizes: map[string]int{"R": 768, "A": 40 * 96, "B": 256 + 32, "C": 256, "J": 40 * (64 + 64), "W": 40 * 64, "1": 16}, model: tied,
		layer: "attn_norm.weight:E attn_q_a.weight:E,R attn_q_a_norm.weight:R attn_q_b.weight:R,A attn_kv_a_mqa.weight:E,B attn_kv_a_norm.weight:C attn_kv_b.weight:C,J attn_output.weight:W,E " + forward},
	{name: "starcoder2, attention wider than the rest", arch: "starcoder2", keys: dense(30, 3072, 3072, 24, 24, 128), model: untied + "output_norm.bias:E ",
		layer: attention + biases + "attn_norm.bias:E attn_output.bias:E ffn_norm.weight:E ffn_norm.bias:E ffn_up.weight:E,F ffn_up.bias:F ffn_down.weight:F,E ffn_down.bias:E "},
	{name: "bert, wide within", arch: "bert", keys: map[string]any{"block_count": 12, "embedding_length": 384, "feed_forward_length": 4096, "attention.head_count": 12, "context_length": 512, "attention.causal": false, "pooling_type": 1,
		"attention.layer_norm_epsilon": float32(1e-12), "vocab_size": 32000}, sizes: map[string]int{"Y": 2, "Z": 512, "K": 384, "Q": 384}, model: "token_embd.weight:E,V token_types.weight:E,Y position_embd.weight:E,Z token_embd_norm.weight:E token_embd_norm.bias:E ",
		layer: "attn_q.weight:E,E attn_k.weight:E,E attn_v.weight:E,E attn_output.weight:E,E attn_output.bias:E attn_output_norm.weight:E attn_output_norm.bias:E ffn_up.weight:E,F ffn_up.bias:F ffn_down.weight:F,E ffn_down.bias:E layer_output_norm.weight:E layer_output_norm.bias:E " + biases},
	{name: "gptneox, side by side", arch: "gptneox", keys: with(dense(12, 2048, 5000, 16, 16, 128), map[string]any{"use_parallel_residual": true}), sizes: map[string]int{"P": 3 * 2048}, model: untied + "output_norm.bias:E ",
		layer: "attn_norm.weight:E attn_norm.bias:E attn_qkv.weight:E,P attn_qkv.bias:P attn_output.weight:E,E attn_output.bias:E ffn_norm.weight:E ffn_norm.bias:E ffn_up.weight:E,F ffn_up.bias:F ffn_down.weight:F,E ffn_down.bias:E "},
	{name: "stablelm, side by side", arch: "stablelm", keys: with(dense(12, 2048, 5632, 32, 32, 64), map[string]any{"use_parallel_residual": true}), model: untied + "output_norm.bias:E ",
		layer: attention + "attn_norm.bias:E ffn_gate.weight:E,F ffn_up.weight:E,F ffn_down.weight:F,E "},
	{name: "llama4, chunks", arch: "llama4", keys: with(dense(12, 5120, 16384, 40, 8, 128), map[string]any{"expert_count": 16, "expert_used_count": 1, "expert_feed_forward_length": 8192, "interleave_moe_layer_step": 1}),
		sizes: map[string]int{"N": 16, "G": 8192}, model: untied, layer: attention + experts + "ffn_gate_shexp.weight:E,G ffn_up_shexp.weight:E,G ffn_down_shexp.weight:G,E "},
	{name: "smallthinker, the first of four is full", arch: "smallthinker", keys: with(dense(12, 2560, 768, 28, 4, 128), map[string]any{"expert_count": 64, "expert_used_count": 6, "expert_feed_forward_length": 768, "attention.sliding_window": 4096, "expert_gating_func": 2}),
		sizes: map[string]int{"N": 64, "G": 768}, model: untied, layer: attention + experts},
	{name: "nemotron_h, three kinds of layers", arch: "nemotron_h", keys: with(dense(8, 3072, 0, 32, 8, 128), map[string]any{"attention.head_count_kv": []int32{0, 0, 0, 8, 0, 0, 0, 0}, "feed_forward_length": []int32{0, 12288, 0, 0, 0, 12288, 0, 12288},
		"ssm.conv_kernel": 4, "ssm.inner_size": 6144, "ssm.state_size": 128, "ssm.group_count": 8, "ssm.time_step_rank": 96}),
		sizes: map[string]int{"F": 12288, "C": 4, "I": 6144, "J": 2*6144 + 2*8*128 + 96, "X": 6144 + 2*8*128, "T": 96, "1": 1, "a": 6144 / 8, "b": 8}, model: untied,
		layer: attention + "ffn_up.weight:E,F ffn_down.weight:F,E ssm_in.weight:E,J ssm_conv1d.weight:C,X ssm_conv1d.bias:X ssm_dt.bias:T ssm_a:1,T ssm_d:1,T ssm_norm.weight:a,b ssm_out.weight:I,E ",
		of:    map[string]func(int) bool{"attn_norm": func(int) bool { return true }, "attn_": func(i int) bool { return i == 3 }, "ffn_": func(i int) bool { return i == 1 || i == 5 || i == 7 }, "ssm_": func(i int) bool { return i%2 == 0 }}},
	{name: "gemma4, layers that share", arch: "gemma4", keys: with(dense(12, 1536, 6144, 8, 1, 512), map[string]any{"attention.key_length_swa": 256, "attention.value_length_swa": 256, "attention.sliding_window": 512, "attention.shared_kv_layers": 4,
		"attention.sliding_window_pattern": []bool{true, true, true, false, true, true, true, false, true, true, true, false}, "embedding_length_per_layer_input": 256, "rope.dimension_count_swa": 256}),
		sized: func(i int) map[string]int {
			if i%4 == 3 {
				return map[string]int{"Q": 8 * 512, "K": 512, "D": 512}
			}
			return map[string]int{"Q": 8 * 256, "K": 256, "D": 256}
		}, sizes: map[string]int{"p": 256 * 12, "r": 256, "e": 256}, model: tied + "per_layer_token_embd.weight:p,V per_layer_model_proj.weight:E,p per_layer_proj_norm.weight:e rope_freqs.weight:r ",
		layer: attention[len("attn_norm.weight:E "):] + norms + "attn_norm.weight:E " + forward + afterward + "inp_gate.weight:E,e proj.weight:e,E post_norm.weight:E ",
	},
}

// write writes a file with that header, and nothing where the weights would be.
func (s *shape) write(t *testing.T, path string) {
	t.Helper()
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	pairs, meta := 0, []byte(nil)
	pair := func(key string, value any) {
		pairs++
		meta = text(meta, key)
		switch v := value.(type) {
		case int:
			meta = le.AppendUint32(le.AppendUint32(meta, 4), uint32(v))
		case float32:
			meta = le.AppendUint32(le.AppendUint32(meta, 6), math.Float32bits(v))
		case bool:
			meta = append(le.AppendUint32(meta, 7), map[bool]byte{true: 1}[v])
		case string:
			meta = text(le.AppendUint32(meta, 8), v)
		case []int32:
			meta = le.AppendUint64(le.AppendUint32(le.AppendUint32(meta, 9), 5), uint64(len(v)))
			for _, n := range v {
				meta = le.AppendUint32(meta, uint32(n))
			}
		case []bool:
			meta = le.AppendUint64(le.AppendUint32(le.AppendUint32(meta, 9), 7), uint64(len(v)))
			for _, n := range v {
				meta = append(meta, map[bool]byte{true: 1}[n])
			}
		default:
			t.Fatalf("%T has no place in a header here", value)
		}
	}
	pair("general.architecture", s.arch)
	pair("tokenizer.ggml.model", "no_vocab")
	pair("tokenizer.ggml.token_type_count", 2)
	for key, v := range s.keys {
		pair(s.arch+"."+key, v)
	}
	number := func(key string) int { n, _ := s.keys[key].(int); return n }
	sizes := map[string]int{"E": number("embedding_length"), "F": number("feed_forward_length"), "V": 32000, "D": number("attention.key_length"),
		"Q": number("attention.head_count") * number("attention.key_length"), "K": number("attention.head_count_kv") * number("attention.key_length")}
	if list, ok := s.keys["attention.head_count_kv"].([]int32); ok {
		for _, n := range list {
			sizes["K"] = max(sizes["K"], int(n)*number("attention.key_length"))
		}
	}
	maps.Copy(sizes, s.sizes)
	count, at, infos := 0, int64(0), []byte(nil)
	add := func(name, dims string) {
		count++
		list := strings.Split(dims, ",")
		infos = le.AppendUint32(text(infos, name), uint32(len(list)))
		kind, bytes := uint32(1), int64(2) // F16
		if len(list) == 1 || strings.Contains(name, "ssm_") && !strings.Contains(name, "_in") && !strings.Contains(name, "_out") && !strings.Contains(name, "_x.") || strings.Contains(name, "gate_inp") || strings.Contains(name, "shortconv.conv") {
			kind, bytes = 0, 4
		}
		for _, d := range list {
			n, ok := sizes[d]
			if !ok || n == 0 {
				t.Fatalf("%s: there is no size %s", name, d)
			}
			infos = le.AppendUint64(infos, uint64(n))
			bytes *= int64(n)
		}
		infos = le.AppendUint64(le.AppendUint32(infos, kind), uint64(at))
		at += (bytes + 31) / 32 * 32
	}
	for _, d := range strings.Fields(s.model) {
		name, dims, _ := strings.Cut(d, ":")
		add(name, dims)
	}
	for i := range number("block_count") {
		if s.sized != nil {
			maps.Copy(sizes, s.sized(i))
		}
		for _, d := range strings.Fields(s.layer) {
			name, dims, _ := strings.Cut(d, ":")
			has, longest := true, 0
			for prefix, of := range s.of {
				if strings.HasPrefix(name, prefix) && len(prefix) > longest {
					has, longest = of(i), len(prefix)
				}
			}
			if has {
				add(fmt.Sprintf("blk.%d.%s", i, name), dims)
			}
		}
	}
	b := le.AppendUint32([]byte("GGUF"), 3)
	b = le.AppendUint64(le.AppendUint64(b, uint64(count)), uint64(pairs))
	b = append(append(b, meta...), infos...)
	b = append(b, make([]byte, -len(b)&31)...)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(b))+at); err != nil { // a hole
		t.Fatal(err)
	}
}

// said collects what llama.cpp logs.
var said struct {
	sync.Mutex
	lines strings.Builder
}

var hear = sync.OnceValue(func() uintptr {
	return purego.NewCallback(func(level int32, text *byte, _ uintptr) uintptr {
		said.Lock()
		defer said.Unlock()
		for n := 0; text != nil && n < 1<<12; n++ {
			c := *(*byte)(unsafe.Add(unsafe.Pointer(text), n))
			if c == 0 {
				break
			}
			said.lines.WriteByte(c)
		}
		return 0
	})
})

// Buffers that are not allocated are said to be empty, but for the cache its size is
// told beside that.
var (
	bufferLine = regexp.MustCompile(`(RS|compute|output) +buffer size *= *([0-9.]+) MiB`)
	cacheLine  = regexp.MustCompile(`(kv_cache[a-z_]*): size *= *([0-9.]+) MiB`)
)

// allocated returns what llama.cpp says it allocates for the model, in MiB by kind.
func allocated(t *testing.T, path string, o hotload.EstimateOptions) map[string]float64 {
	t.Helper()
	said.Lock()
	said.lines.Reset()
	said.Unlock()
	p := yzma.ModelDefaultParams()
	p.NoAlloc, p.UseExtraBufts, p.LoadMode = 1, 0, yzma.LoadModeNone
	fail := func(what string, err error) {
		said.Lock()
		defer said.Unlock()
		lines := strings.Split(strings.TrimSpace(said.lines.String()), "\n")
		t.Fatalf("%s: %v\n%s", what, err, strings.Join(lines[max(0, len(lines)-6):], "\n"))
	}
	m, err := yzma.ModelLoadFromFile(path, p)
	if err != nil || m == 0 {
		fail("the header is not taken", err)
	}
	defer yzma.ModelFree(m)
	c := yzma.ContextDefaultParams()
	c.NCtx, c.NSeqMax, c.NUbatch, c.NBatch = uint32(o.Context), uint32(max(o.Slots, 1)), 512, 2048
	c.SwaFull, c.NOutputsMax, c.KVUnified = 0, uint32(max(o.Slots, 1)), 0
	if o.Engine == hotload.LlamaLibrary {
		c.SwaFull, c.NOutputsMax = 1, 0
	}
	if o.Unified {
		c.KVUnified = 1
	}
	if o.CacheTypeK == "q8_0" {
		c.TypeK, c.TypeV = yzma.GGMLTypeQ8_0, yzma.GGMLTypeQ8_0
	}
	c.FlashAttentionType = yzma.FlashAttentionTypeEnabled
	if o.FlashAttention == "off" {
		c.FlashAttentionType = yzma.FlashAttentionTypeDisabled
	}
	ctx, err := yzma.InitFromModel(m, c)
	if err != nil || ctx == 0 {
		fail("there is no context", err)
	}
	yzma.Free(ctx)
	said.Lock()
	defer said.Unlock()
	sums := map[string]float64{}
	text := said.lines.String()
	for _, line := range append(bufferLine.FindAllStringSubmatch(text, -1), cacheLine.FindAllStringSubmatch(text, -1)...) {
		n, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		kind := line[1]
		if strings.HasPrefix(kind, "kv_cache") {
			kind = "KV"
		}
		sums[kind] += n
	}
	return sums
}

// What is estimated is what llama.cpp says it would allocate, for models of that shape.
func TestEstimate_RealLlamaCpp_SaysTheSame(t *testing.T) {
	llamatest.Open(t)
	yzma.LogSet(hear())
	for _, s := range shapes {
		for what, o := range map[string]hotload.EstimateOptions{
			"one slot":           {Context: 8192, Slots: 1},
			"four that share":    {Context: 16384, Slots: 4, Unified: true},
			"four apart":         {Context: 16384, Slots: 4},
			"no flash attention": {Context: 8192, Slots: 1, FlashAttention: "off"},
			"as the library":     {Context: 4096, Engine: hotload.LlamaLibrary},
			"8 bits":             {Context: 8192, Slots: 1, CacheTypeK: "q8_0", CacheTypeV: "q8_0"},
		} {
			t.Run(s.name+"/"+what, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "shape.gguf")
				s.write(t, path)
				e, err := hotload.Estimate(path, o)
				if err != nil {
					t.Fatal(err)
				}
				real := allocated(t, path, o)
				of := map[string]float64{}
				for _, term := range e.Terms {
					kind := map[string]string{"KV cache": "KV", "windowed KV cache": "KV", "recurrent state": "RS", "compute buffer": "compute", "output buffer": "output"}[term.Name]
					of[kind] += float64(term.Bytes) / (1 << 20)
				}
				for _, kind := range []string{"KV", "RS", "output"} {
					if math.Abs(of[kind]-real[kind]) > 0.03 {
						t.Errorf("%s is estimated at %.2f MiB, and llama.cpp allocates %.2f", kind, of[kind], real[kind])
					}
				}
				ratio := of["compute"] / real["compute"]
				if !(ratio > 0.97 && ratio < 1.5) {
					t.Errorf("compute is estimated at %.2f MiB, and llama.cpp allocates %.2f", of["compute"], real["compute"])
				}
				t.Logf("KV %.2f, RS %.2f, compute %.2f (estimated %.2f, %.2f times)", real["KV"], real["RS"], real["compute"], of["compute"], ratio)
			})
		}
	}
}
