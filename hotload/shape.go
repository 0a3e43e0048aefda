package hotload

import (
	"fmt"
	"slices"
)

// shapeKeys are the metadata keys, without the architecture before them, that tell the
// shape of a model. Source: llama-arch.cpp of llama.cpp.
var shapeKeys = func() map[string]bool {
	keys := make(map[string]bool)
	for _, k := range []string{
		"context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "pooling_type",
		"decoder_block_count", "nextn_predict_layers", "embedding_length_per_layer_input",
		"expert_count", "expert_used_count", "expert_feed_forward_length", "interleave_moe_layer_step",
		"attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
		"attention.key_length_swa", "attention.value_length_swa", "attention.key_length_mla", "attention.value_length_mla",
		"attention.sliding_window", "attention.sliding_window_pattern", "attention.shared_kv_layers",
		"attention.recurrent_layers", "attention.indexer.key_length", "full_attention_interval",
		"ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count", "ssm.time_step_rank",
		"shortconv.l_cache", "kda.head_dim", "wkv.head_size", "token_shift_count",
		"vision.block_count", "vision.embedding_length", "vision.feed_forward_length", "vision.image_size",
		"vision.patch_size", "vision.projector_type", "vision.projection_dim", "audio.projection_dim", "vision.n_wa_pattern", "projector_type",
		"audio.embedding_length", "audio.feed_forward_length",
	} {
		keys[k] = true
	}
	return keys
}()

// family is what llama.cpp knows of an architecture without a key that says it.
// Source: load_arch_hparams in models/*.cpp and create_memory in llama-model.cpp, b10256.
type family struct {
	// Without a key sliding_window_pattern every period-th layer attends to all, and the
	// others to a window; 0: windows need the key. denseFirst: it is the first of a period.
	period     uint64
	denseFirst bool
	window     uint64 // if the file says none
	// cached is how many layers have a cache of their own, the others use theirs; 0: all.
	cached int
	// trunk: the layers that predict further tokens have no cache.
	trunk bool
	// full is the interval of the layers with attention among recurrent ones, if the file
	// says none.
	full uint64
	// recurrent: no layer has attention. parallel: each has attention and a state.
	recurrent, parallel bool
	// cacheless: nothing is kept from token to token. encoder: there are no logits either.
	cacheless, encoder bool
	// ungated: feed-forward layers have no gate. wider is how many embeddings of a token
	// more than in a llama are in use at once.
	ungated bool
	wider   uint64
}

// families are those whose buffers were compared with what llama.cpp reports, and others
// that need a word, of which one embedding more is assumed.
var families = map[string]family{
	"llama": {}, "qwen2": {}, "qwen3": {}, "qwen3moe": {}, "olmoe": {}, "phi3": {}, "deepseek2": {}, "lfm2": {}, "granitehybrid": {},
	"glm4": {}, "minicpm3": {}, "stablelm": {}, "nomic-bert": encoder, "gpt2": {ungated: true}, "falcon": {ungated: true}, "starcoder2": {ungated: true},

	"gemma2": {period: 2, window: 4096}, "gemma3": {period: 6}, "gemma3n": {period: 5, cached: 20, wider: 10},
	"gpt-oss": {period: 2}, "exaone4": {period: 4}, "cohere2": {period: 4, wider: 1}, "olmo2": {period: 4, wider: 1},
	"cohere2moe": {period: 4, wider: 1}, "llama4": {period: 4, window: 8192, wider: 1}, "exaone-moe": {period: 4, wider: 1},
	"afmoe": {period: 4, wider: 1}, "smallthinker": {period: 4, denseFirst: true, wider: 1}, "plamo3": {period: 8, wider: 1},

	"qwen3next": {full: 4, trunk: true}, "qwen35": {full: 4, trunk: true}, "qwen35moe": {full: 4, trunk: true},
	"step35": {trunk: true, wider: 1}, "hy-v3": {trunk: true, wider: 1}, "glm-dsa": {trunk: true, wider: 1},
	"mimo2": {trunk: true, wider: 1}, "deepseek32": {trunk: true, wider: 1},

	"mamba": {recurrent: true}, "mamba2": {recurrent: true}, "falcon-h1": {parallel: true},
	"rwkv6": {recurrent: true, wider: 1}, "rwkv6qwen2": {recurrent: true, wider: 1},
	"rwkv7": {recurrent: true, wider: 1}, "arwkv7": {recurrent: true, wider: 1},

	"gptneox": {ungated: true, wider: 1}, "starcoder": {ungated: true, wider: 1}, "mpt": {ungated: true, wider: 1},
	"bloom": {ungated: true, wider: 1}, "phi2": {ungated: true, wider: 1}, "codeshell": {ungated: true, wider: 1},
	"nemotron": {ungated: true, wider: 1}, "arcee": {ungated: true, wider: 1}, "apertus": {ungated: true, wider: 1},

	"dream": {cacheless: true, wider: 1}, "llada": {cacheless: true, wider: 1}, "llada-moe": {cacheless: true, wider: 1}, "rnd1": {cacheless: true, wider: 1},
	"bert": {cacheless: true, encoder: true, ungated: true}, "jina-bert-v3": {cacheless: true, encoder: true, ungated: true},
	"jina-bert-v2": encoder, "nomic-bert-moe": encoder, "neo-bert": encoder, "eurobert": encoder, "t5encoder": encoder,
	"llama-embed": encoder, "wavtokenizer-dec": encoder,
	"modern-bert":     {period: 3, denseFirst: true, cacheless: true, encoder: true},
	"gemma-embedding": {period: 6, cacheless: true, encoder: true},
}

var encoder = family{cacheless: true, encoder: true}

// familyOf returns what is known of an architecture.
func familyOf(arch string) family {
	f, known := families[arch]
	if !known {
		f.wider = 1 // as command-r, where attention and feed-forward are side by side
	}
	return f
}

// Bounds on what a header claims: the layers are LLAMA_MAX_LAYERS, no other size of a
// real model comes near. Products of three dimensions fit 63 bits.
const (
	maxModelLayers = 512
	maxDimension   = 1 << 20
	maxContext     = 1 << 30 // tokens
)

// shape is the dimensions of a language model, as far as memory depends on them.
type shape struct {
	family
	arch    string
	context uint64 // that it was trained for
	width   uint64 // of an embedding
	vocab   uint64
	inner   uint64 // widest feed-forward layer
	heads   uint64 // most of a layer
	key     uint64 // width of a head's
	value   uint64
	layers  []layer

	mla                bool   // the cache holds one latent for K and V
	experts, expert    uint64 // that are used of a layer's, and the width of one
	window             uint64 // of windowed layers; 0: there are none
	conv, state        uint64 // floats that a recurrent layer keeps for a sequence
	scan               uint64 // floats of a token in a recurrent layer, at once
	indexer            uint64 // elements of a token in the keys that choose what to attend to
	perLayer, encoders uint64 // width of embeddings for each layer; of the encoder's output
}

// layer is one block.
type layer struct {
	keys, values uint64 // elements of a token in the cache
	windowed     bool
	recurrent    bool
}

// metadata reads values of one architecture.
type metadata struct {
	arch string
	kept map[string]ggufValue
	err  error
}

// number returns a value, or the largest of a list; or otherwise, if there is none.
func (m *metadata) number(key string, otherwise uint64) uint64 {
	v, ok := m.kept[m.arch+"."+key]
	if !ok {
		return otherwise
	}
	n := v.number
	if len(v.list) > 0 {
		n = slices.Max(v.list)
	}
	most := uint64(maxDimension)
	if key == "context_length" {
		most = maxContext
	}
	if n > most && m.err == nil {
		m.err = &FileError{Reason: fmt.Sprintf("claims %s.%s of %d; at most %d can be", m.arch, key, n, most)}
	}
	return min(n, most)
}

func (m *metadata) text(key string) string { return m.kept[m.arch+"."+key].text }

// perLayer returns a value for each of n layers.
func (m *metadata) perLayer(key string, n int, otherwise uint64) []uint64 {
	all := slices.Repeat([]uint64{m.number(key, otherwise)}, n)
	if v := m.kept[m.arch+"."+key]; len(v.list) > 0 {
		for i := range all {
			all[i] = 0
			if i < len(v.list) {
				all[i] = min(v.list[i], maxDimension)
			}
		}
	}
	return all
}

// newShape returns the shape that the metadata tells.
func newShape(kept map[string]ggufValue) (*shape, error) {
	m := &metadata{arch: kept["general.architecture"].text, kept: kept}
	s := &shape{arch: m.arch, family: familyOf(m.arch)}
	blocks, width := m.number("block_count", 0), m.number("embedding_length", 0)
	if m.arch == "t5" && blocks > 0 {
		blocks, s.encoders = m.number("decoder_block_count", blocks), width
	}
	switch {
	case blocks == 0 || width == 0:
		return nil, &FileError{
			Reason: fmt.Sprintf("does not say how many layers it has, or how wide they are (%s.block_count, %[1]s.embedding_length)", printable(m.arch)),
			Help:   "Declare what serving it takes: Model.Runtime.",
		}
	case blocks > maxModelLayers:
		return nil, &FileError{Reason: fmt.Sprintf("claims %d layers; at most %d can be", blocks, maxModelLayers)}
	}
	s.width, s.context = width, m.number("context_length", 0)
	s.vocab = m.number("vocab_size", 0)
	if v := kept["tokenizer.ggml.tokens"].count; v > 0 {
		s.vocab = min(v, maxDimension)
	}
	s.inner, s.heads = m.number("feed_forward_length", 0), m.number("attention.head_count", 0)
	if s.experts = m.number("expert_used_count", 0); s.experts > 0 {
		s.expert = m.number("expert_feed_forward_length", s.inner)
		if m.number("interleave_moe_layer_step", 0) == 1 { // llama4: no layer is without experts
			s.inner = s.expert
		}
	}
	s.perLayer = m.number("embedding_length_per_layer_input", 0)
	if s.trunk {
		blocks -= min(m.number("nextn_predict_layers", 0), blocks-1)
	}
	s.layers = make([]layer, blocks)
	s.readWindows(m)
	s.readStates(m)
	s.readCache(m)
	return s, m.err
}

// readWindows says which layers attend to a window only.
func (s *shape) readWindows(m *metadata) {
	if s.window = m.number("attention.sliding_window", s.family.window); s.window == 0 {
		return
	}
	period := s.period
	if v, given := m.kept[m.arch+".attention.sliding_window_pattern"]; given && v.count > 0 {
		for i, windowed := range m.perLayer("attention.sliding_window_pattern", len(s.layers), 0) {
			s.layers[i].windowed = windowed != 0
		}
		return
	} else if given {
		period = v.number
	}
	for i := range s.layers {
		at := uint64(i)
		switch {
		case period == 0:
			return // phi3 and others, whose window llama.cpp does not use
		case s.denseFirst:
			s.layers[i].windowed = at%period != 0
		default:
			s.layers[i].windowed = at%period < period-1
		}
	}
}

// readStates says which layers are recurrent, and what they keep of a sequence.
// Source: llama_hparams::n_embd_r and n_embd_s.
func (s *shape) readStates(m *metadata) {
	conv := m.number("ssm.conv_kernel", 0)
	conv -= min(conv, 1)
	state, inner, groups := m.number("ssm.state_size", 0), m.number("ssm.inner_size", 0), m.number("ssm.group_count", 0)
	delta, wkv, short := m.number("kda.head_dim", 0), m.number("wkv.head_size", 0), m.number("shortconv.l_cache", 0)
	switch {
	case wkv > 0:
		s.conv, s.state = m.number("token_shift_count", 2)*s.width, s.width*wkv
	case delta > 0:
		s.conv, s.state = 3*conv*s.heads*delta, s.heads*delta*delta
		s.scan = 4 * 3 * s.heads * delta
	case inner > 0:
		s.conv, s.state = conv*(inner+2*groups*state), state*inner
		s.scan = 4 * (2*inner + 2*groups*state + m.number("ssm.time_step_rank", 0))
	case short > 0:
		s.conv = s.width * (short - 1)
	default:
		return
	}
	kv := m.perLayer("attention.head_count_kv", len(s.layers), s.heads)
	forward := m.perLayer("feed_forward_length", len(s.layers), 0)
	listed := m.kept[m.arch+".attention.recurrent_layers"].list
	interval := m.number("full_attention_interval", s.full)
	// A layer of these with neither attention nor a state is a feed-forward one.
	sparse := m.arch == "nemotron_h" || m.arch == "nemotron_h_moe"
	some := false
	for i := range s.layers {
		l := &s.layers[i]
		switch {
		case s.recurrent || s.parallel:
			l.recurrent = true
		case i < len(listed):
			l.recurrent = listed[i] != 0
		case interval > 0:
			l.recurrent = uint64(i+1)%interval != 0
		default:
			l.recurrent = kv[i] == 0 && !(sparse && forward[i] > 0)
		}
		some = some || l.recurrent
	}
	if !some { // it has a state that nothing says where: in each layer, rather than in none
		s.parallel = true
		for i := range s.layers {
			s.layers[i].recurrent = true
		}
	}
}

// readCache says how wide the cache of each layer is.
func (s *shape) readCache(m *metadata) {
	head := uint64(0)
	if s.heads > 0 {
		head = s.width / s.heads
	}
	s.key = m.number("attention.key_length", head)
	s.value = m.number("attention.value_length", head)
	keyWindow, valueWindow := m.number("attention.key_length_swa", s.key), m.number("attention.value_length_swa", s.value)
	s.mla = m.number("attention.key_length_mla", 0) > 0 && m.number("attention.value_length_mla", 0) > 0
	s.indexer = m.number("attention.indexer.key_length", 0)
	if s.cacheless || s.recurrent {
		return
	}
	// newShape refuses a model without layers, so that this does not wrap.
	cached := s.family.cached
	if cached == 0 {
		cached = len(s.layers) - int(min(m.number("attention.shared_kv_layers", 0), uint64(len(s.layers)-1)))
	}
	heads := m.perLayer("attention.head_count", len(s.layers), 0)
	kv := heads // if it does not say
	if _, given := m.kept[m.arch+".attention.head_count_kv"]; given {
		kv = m.perLayer("attention.head_count_kv", len(s.layers), 0)
	}
	for i := range s.layers[:min(cached, len(s.layers))] {
		l := &s.layers[i]
		if l.recurrent && !s.parallel {
			continue
		}
		l.keys, l.values = kv[i]*s.key, kv[i]*s.value
		if l.windowed {
			l.keys, l.values = kv[i]*keyWindow, kv[i]*valueWindow
		}
		if s.mla {
			l.values = 0
		}
	}
}
