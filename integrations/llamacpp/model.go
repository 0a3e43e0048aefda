package llamacpp

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
)

// Spec is the shape of a model of random weights.
type Spec struct {
	Width  int    // of an embedding: a multiple of 256
	Layers int    // about 26 × Width² bytes each
	Seed   uint64 // of the weights
}

// The kinds of GGUF values and tensors that are used here. Source: docs/gguf.md
// in ggml.
const (
	kindUint32, kindInt32, kindFloat32, kindString, kindArray = 4, 5, 6, 8, 9
	float32s, float16s                                        = 0, 1
	aligned                                                   = 32
)

type tensor struct {
	name string
	kind uint32
	dims []uint64
}

func (t tensor) bytes() (n uint64) {
	n = 4
	if t.kind == float16s {
		n = 2
	}
	for _, d := range t.dims {
		n *= d
	}
	return n
}

// words are what the tokenizer knows beside single bytes.
const words = "the a of and to in is it that was for on are as with his they at be this have from or one had by word but not what all were we when your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into time has look two more write go see number no way could people my than first water been call who oil its now find long down day did get come made may part"

// WriteModel writes a llama of random weights, in half precision, as a GGUF file:
// a real model in all but what it says. The same Spec gives the same file.
func WriteModel(path string, s Spec) error {
	if s.Width <= 0 || s.Width%256 != 0 || s.Width > 8192 || s.Layers <= 0 || s.Layers > 256 {
		return fmt.Errorf("a model of width %d with %d layers cannot be made", s.Width, s.Layers)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	ts, vocab := s.tensors()
	h := s.header(ts, vocab)
	w.Write(h)
	random := rand.New(rand.NewPCG(s.Seed, 1))
	for _, t := range ts {
		n := t.bytes()
		for i := uint64(0); i < n; i += 8 {
			v := uint64(0x3f8000003f800000) // norms: 1.0, twice
			if t.kind == float16s {
				// Four halves of either sign, of 1/64 to 1/32 in size.
				v = random.Uint64()&0x83ff83ff83ff83ff | 0x2400240024002400
			}
			w.Write(binary.LittleEndian.AppendUint64(w.AvailableBuffer(), v))
		}
	}
	if err := w.Flush(); err != nil { // which returns the first error of all writes
		return err
	}
	return f.Close()
}

// tensors are all multiples of 32 bytes, so none needs padding.
func (s Spec) tensors() (ts []tensor, vocab []string) {
	vocab = []string{"<unk>", "<s>", "</s>"}
	for i := range 256 {
		vocab = append(vocab, fmt.Sprintf("<0x%02X>", i))
	}
	for c := 'a'; c <= 'z'; c++ {
		vocab = append(vocab, string(c))
	}
	vocab = append(vocab, "▁")
	for _, word := range strings.Fields(words) {
		vocab = append(vocab, "▁"+word)
	}
	for len(vocab)%16 != 0 {
		vocab = append(vocab, fmt.Sprintf("▁word%d", len(vocab)))
	}
	width, inner, n := uint64(s.Width), uint64(s.inner()), uint64(len(vocab))
	add := func(name string, dims ...uint64) {
		kind := uint32(float16s)
		if len(dims) == 1 {
			kind = float32s
		}
		ts = append(ts, tensor{name + ".weight", kind, dims})
	}
	add("token_embd", width, n)
	for i := range s.Layers {
		in := fmt.Sprintf("blk.%d.", i)
		add(in+"attn_norm", width)
		for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output"} {
			add(in+name, width, width)
		}
		add(in+"ffn_norm", width)
		add(in+"ffn_gate", width, inner)
		add(in+"ffn_up", width, inner)
		add(in+"ffn_down", inner, width)
	}
	add("output_norm", width)
	add("output", width, n)
	return ts, vocab
}

func (s Spec) inner() int { return s.Width * 3 }

func (s Spec) header(ts []tensor, vocab []string) []byte {
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	var meta []byte
	pairs := uint64(0)
	pair := func(key string, kind uint32, value []byte) {
		pairs++
		meta = append(le.AppendUint32(text(meta, key), kind), value...)
	}
	number := func(key string, n int) { pair(key, kindUint32, le.AppendUint32(nil, uint32(n))) }
	list := func(key string, kind uint32, each func(b []byte, i int) []byte) {
		b := le.AppendUint64(le.AppendUint32(nil, kind), uint64(len(vocab)))
		for i := range vocab {
			b = each(b, i)
		}
		pair(key, kindArray, b)
	}
	pair("general.architecture", kindString, text(nil, "llama"))
	pair("general.name", kindString, text(nil, "random weights"))
	number("general.file_type", 1)
	number("llama.context_length", 2048)
	number("llama.embedding_length", s.Width)
	number("llama.block_count", s.Layers)
	number("llama.feed_forward_length", s.inner())
	number("llama.attention.head_count", s.Width/64)
	number("llama.attention.head_count_kv", s.Width/64)
	number("llama.rope.dimension_count", 64)
	number("llama.vocab_size", len(vocab))
	pair("llama.attention.layer_norm_rms_epsilon", kindFloat32, le.AppendUint32(nil, math.Float32bits(1e-5)))
	pair("tokenizer.ggml.model", kindString, text(nil, "llama"))
	list("tokenizer.ggml.tokens", kindString, func(b []byte, i int) []byte { return text(b, vocab[i]) })
	list("tokenizer.ggml.scores", kindFloat32, func(b []byte, i int) []byte { return le.AppendUint32(b, math.Float32bits(-float32(i))) })
	list("tokenizer.ggml.token_type", kindInt32, func(b []byte, i int) []byte {
		const unknown, control, bytes, normal = 2, 3, 6, 1
		kind := uint32(normal)
		switch {
		case i == 0:
			kind = unknown
		case i < 3:
			kind = control
		case i < 3+256:
			kind = bytes
		}
		return le.AppendUint32(b, kind)
	})
	number("tokenizer.ggml.bos_token_id", 1)
	number("tokenizer.ggml.eos_token_id", 2)

	b := le.AppendUint32([]byte("GGUF"), 3)
	b = le.AppendUint64(le.AppendUint64(b, uint64(len(ts))), pairs)
	b = append(b, meta...)
	at := uint64(0)
	for _, t := range ts {
		b = le.AppendUint32(text(b, t.name), uint32(len(t.dims)))
		for _, d := range t.dims {
			b = le.AppendUint64(b, d)
		}
		b = le.AppendUint64(le.AppendUint32(b, t.kind), at)
		at += t.bytes()
	}
	return append(b, make([]byte, (aligned-len(b)%aligned)%aligned)...)
}
