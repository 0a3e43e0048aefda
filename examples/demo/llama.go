package demo

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/modeltier/modeltier/tier"
)

// Llama is the shape of a model of random weights: a llama with a small tokenizer
// of its own, real in all but what it says.
type Llama struct {
	// Name decides the weights: the same shape of the same name has the same.
	Name string
	// Width is that of an embedding, Inner that of a feed-forward layer: multiples of
	// 32. A layer takes about 4 × Width² + 3 × Width × Inner bytes.
	Width, Inner, Layers int
	// Q4 makes weights of four bits (Q4_0) and not of eight (Q8_0), in half the bytes.
	// On nearly all processors llama.cpp copies such weights when it loads them.
	Q4 bool
}

// Bounds of a shape, and the tokens of context that a model says it has.
const (
	maxWidth  = 8192
	maxInner  = 8 * maxWidth
	maxLayers = 256
	maxTokens = 2048
)

// Validate returns an error that says what is wrong with the shape.
func (m *Llama) Validate() error {
	ok := func(n, most int) bool { return n > 0 && n <= most && n%32 == 0 }
	if !ok(m.Width, maxWidth) || !ok(m.Inner, maxInner) || m.Layers < 1 || m.Layers > maxLayers {
		return fmt.Errorf("a llama of width %d, inner width %d and %d layers cannot be made", m.Width, m.Inner, m.Layers)
	}
	return nil
}

// Size returns the bytes of the file.
func (m *Llama) Size() tier.Bytes {
	sum := tier.Bytes(len(m.header()))
	for _, t := range m.tensors() {
		sum = sum.Plus(tier.Bytes(t.bytes()))
	}
	return sum
}

// fitted returns the shape of the largest model of that many bytes at most, as
// wide as leaves it a few layers.
func fitted(name string, size tier.Bytes) Llama {
	m := Llama{Name: name, Width: 32, Inner: 32, Layers: 1}
	for _, width := range []int{64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096} {
		wider := Llama{Name: name, Width: width, Inner: 3 * width, Layers: 4}
		if wider.Size() > size {
			break
		}
		m.Width = width
	}
	// What is left is for layers, each of about 3 times the width within.
	each := func(inner int) tier.Bytes { return tier.Bytes(m.blocks().of(4*m.Width*m.Width + 3*m.Width*inner)) }
	left := size - m.Size() + each(m.Inner)
	m.Layers = min(max(int(left/each(3*m.Width)), 1), 4+m.Width/64)
	for step := 1 << 15; step >= 32; step /= 2 {
		wider := m
		if wider.Inner += step; wider.Inner <= maxInner && wider.Size() <= size {
			m = wider
		}
	}
	return m
}

// The kinds of GGUF values and tensors that are used here. Source: docs/gguf.md.
const (
	ggufVersion = 3
	ggufUint32  = 4
	ggufInt32   = 5
	ggufFloat32 = 6
	ggufString  = 8
	ggufArray   = 9
	alignment   = 32 // of tensors, the format's default

	float32s     = 0
	blockNumbers = 32 // in a block of weights
)

// blocks are a way to store weights: blocks of 32, each a scale of 16 bits and the
// numbers that it scales. Source: the structs block_q8_0 and block_q4_0 in ggml.
type blocks struct {
	kind, fileType uint32
	bytes          int
	scale          byte // the upper byte of one that makes weights of at most 1/16
}

var (
	eights = blocks{kind: 8, fileType: 7, bytes: 34, scale: 0x0c} // 1/4096 to 1/2048
	fours  = blocks{kind: 2, fileType: 2, bytes: 18, scale: 0x1c} // 1/256 to 1/128
)

func (m *Llama) blocks() blocks {
	if m.Q4 {
		return fours
	}
	return eights
}

// of returns the bytes of that many weights.
func (b blocks) of(numbers int) int64 { return int64(numbers) / blockNumbers * int64(b.bytes) }

type tensor struct {
	name string
	dims []int // one: a norm, of 32-bit floats; two: weights, in blocks
	mute int   // of its rows, the first so many are as good as zero
	in   blocks
}

func (t *tensor) kind() uint32 {
	if len(t.dims) == 1 {
		return float32s
	}
	return t.in.kind
}

// bytes is a multiple of the alignment for any shape, so none needs padding.
func (t *tensor) bytes() int64 {
	if len(t.dims) == 1 {
		return 4 * int64(t.dims[0])
	}
	return t.in.of(t.dims[0] * t.dims[1])
}

// tensors are those of the architecture. The model's last layer is mute about
// tokens that are no words, so that it says words, and never that it has ended.
func (m *Llama) tensors() (all []tensor) {
	tokens, n := vocabulary()
	add := func(mute int, name string, dims ...int) {
		all = append(all, tensor{name + ".weight", dims, mute, m.blocks()})
	}
	add(0, "token_embd", m.Width, len(tokens))
	for i := range m.Layers {
		in := fmt.Sprintf("blk.%d.", i)
		add(0, in+"attn_norm", m.Width)
		for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output"} {
			add(0, in+name, m.Width, m.Width)
		}
		add(0, in+"ffn_norm", m.Width)
		add(0, in+"ffn_gate", m.Width, m.Inner)
		add(0, in+"ffn_up", m.Width, m.Inner)
		add(0, in+"ffn_down", m.Inner, m.Width)
	}
	add(0, "output_norm", m.Width)
	add(n, "output", m.Width, len(tokens))
	return all
}

// header returns the first bytes of the file, up to the tensors' data.
func (m *Llama) header() []byte {
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	var meta []byte
	pairs := uint64(0)
	pair := func(key string, kind uint32, value []byte) {
		pairs++
		meta = append(le.AppendUint32(text(meta, key), kind), value...)
	}
	number := func(key string, n int) { pair(key, ggufUint32, le.AppendUint32(nil, uint32(n))) }
	tokens, _ := vocabulary()
	list := func(key string, kind uint32, each func(b []byte, i int) []byte) {
		b := le.AppendUint64(le.AppendUint32(nil, kind), uint64(len(tokens)))
		for i := range tokens {
			b = each(b, i)
		}
		pair(key, ggufArray, b)
	}
	head := 64
	if m.Width%head != 0 {
		head = 32
	}
	pair("general.architecture", ggufString, text(nil, "llama"))
	pair("general.name", ggufString, text(nil, m.title()))
	number("general.file_type", int(m.blocks().fileType))
	number("llama.context_length", maxTokens)
	number("llama.embedding_length", m.Width)
	number("llama.block_count", m.Layers)
	number("llama.feed_forward_length", m.Inner)
	number("llama.attention.head_count", m.Width/head)
	number("llama.attention.head_count_kv", m.Width/head)
	number("llama.rope.dimension_count", head)
	number("llama.vocab_size", len(tokens))
	pair("llama.attention.layer_norm_rms_epsilon", ggufFloat32, le.AppendUint32(nil, math.Float32bits(1e-5)))
	pair("tokenizer.ggml.model", ggufString, text(nil, "llama"))
	list("tokenizer.ggml.tokens", ggufString, func(b []byte, i int) []byte { return text(b, tokens[i].text) })
	list("tokenizer.ggml.scores", ggufFloat32, func(b []byte, i int) []byte { return le.AppendUint32(b, math.Float32bits(-float32(i))) })
	list("tokenizer.ggml.token_type", ggufInt32, func(b []byte, i int) []byte { return le.AppendUint32(b, tokens[i].kind) })
	number("tokenizer.ggml.bos_token_id", 1)
	number("tokenizer.ggml.eos_token_id", 2)
	pair("tokenizer.chat_template", ggufString, text(nil, chatTemplate))

	all := m.tensors()
	b := le.AppendUint32([]byte("GGUF"), ggufVersion)
	b = le.AppendUint64(le.AppendUint64(b, uint64(len(all))), pairs)
	b = append(b, meta...)
	at := int64(0)
	for i := range all {
		t := &all[i]
		b = le.AppendUint32(text(b, t.name), uint32(len(t.dims)))
		for _, d := range t.dims {
			b = le.AppendUint64(b, uint64(d))
		}
		b = le.AppendUint64(le.AppendUint32(b, t.kind()), uint64(at))
		at += t.bytes()
	}
	return append(b, make([]byte, (alignment-len(b)%alignment)%alignment)...)
}

// chatTemplate is of the plainest kind.
const chatTemplate = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"

// title is what the file says it is, by which it is known again.
func (m *Llama) title() string { return "modeltier demo of " + m.Name + ", random weights" }

// chunk is how many blocks are written between two looks at the context.
const chunk = 1 << 15

// Write writes the file, and calls wrote, if it is not nil, with the bytes of
// each piece of it.
func (m *Llama) Write(ctx context.Context, to io.Writer, wrote func(n int)) error {
	if err := m.Validate(); err != nil {
		return err
	}
	w := bufio.NewWriterSize(to, 64<<10)
	put := func(b []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, err := w.Write(b)
		if err == nil && wrote != nil {
			wrote(len(b))
		}
		return err
	}
	if err := put(m.header()); err != nil {
		return err
	}
	noise := rand.NewChaCha8(sha256.Sum256([]byte(m.Name)))
	buf := make([]byte, chunk*m.blocks().bytes)
	for _, t := range m.tensors() {
		mute := t.in.of(t.mute * t.dims[0])
		for at, size := int64(0), t.bytes(); at < size; {
			b := buf[:min(size-at, int64(len(buf)))]
			if t.kind() == float32s {
				ones(b)
			} else {
				noise.Read(b) // it has no error to give
				t.in.rescale(b, int(max(mute-at, 0)))
			}
			if err := put(b); err != nil {
				return err
			}
			at += int64(len(b))
		}
	}
	return w.Flush()
}

// ones fills b with the number 1: a norm that changes nothing.
func ones(b []byte) {
	for i := 0; i < len(b); i += 4 {
		binary.LittleEndian.PutUint32(b[i:], math.Float32bits(1))
	}
}

// rescale makes weights of at most 1/16 of noise in blocks: it gives each its scale,
// and next to none up to mute.
func (b blocks) rescale(noise []byte, mute int) {
	for i := 0; i < len(noise); i += b.bytes {
		noise[i+1] = b.scale | noise[i+1]&3 // the lower byte stays noise
		if i < mute {
			noise[i], noise[i+1] = 1, 0
		}
	}
}

// token is one that the tokenizer knows.
type token struct {
	text string
	kind uint32
}

// Kinds of tokens. Source: enum llama_token_type in llama.h.
const (
	normalToken  = 1
	unknownToken = 2
	controlToken = 3
	byteToken    = 6
)

// words are what the tokenizer knows whole, and what the models say.
const words = "the a of and to in is it that was for on are as with his they at be this have from or one had by word but not what all were we when your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into time has look two more write go see number no way could people my than first water been call who oil its now find long down day did get come made may part over new sound take only little work know place year live me back give most very after thing our just name good sentence man think say great where help through much before line right too mean old any same tell boy follow came want show also around form three small set put end does another well large must big even such because turn here why ask went men read need land different home us move try kind hand picture again change off play spell air away animal house point page letter mother answer found study still learn should world"

// vocabulary returns the tokens, and how many of them are no words: they stand
// first. A word is put together from its letters on the way in, by way of all its
// beginnings, which are tokens too.
var vocabulary = sync.OnceValues(func() (all []token, others int) {
	all = []token{{"<unk>", unknownToken}, {"<s>", controlToken}, {"</s>", controlToken}}
	for i := range 256 {
		all = append(all, token{fmt.Sprintf("<0x%02X>", i), byteToken})
	}
	known := map[string]bool{}
	add := func(text string) {
		if !known[text] {
			known[text] = true
			all = append(all, token{text, normalToken})
		}
	}
	const blank = "▁"
	add(blank)
	for c := 'a'; c <= 'z'; c++ {
		add(string(c))
	}
	list := strings.Fields(words)
	for _, word := range list {
		for n := 1; n < len(word); n++ {
			if !slices.Contains(list, word[:n]) {
				add(blank + word[:n])
			}
		}
	}
	for n := 0; (len(all)+len(list))%16 != 0; n++ { // rows in sixteens need no padding
		add(fmt.Sprintf("<%d>", n))
	}
	others = len(all)
	for _, word := range list {
		add(blank + word)
	}
	return all, others
})
