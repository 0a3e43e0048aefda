package llama

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ardanlabs/jinja"
	yzma "github.com/hybridgroup/yzma/pkg/llama"

	"github.com/modeltier/modeltier/tier"
)

// Options are how a model is loaded. The zero value is one slot of the model's own
// context, with a thread for each CPU, and the weights as llama.cpp likes them.
type Options struct {
	Context int // tokens, which the slots share, in 256s; 0: what the model was trained for
	Threads int // 0: one for each CPU
	Slots   int // sequences at once; 0: 1

	// NoMmap reads the weights into memory of this process, and does not map the file.
	NoMmap bool
	// NoRepack turns llama.cpp's extra buffers off: the copies of weights that it makes
	// in another order for some processors. Without them the mapped file is all there is.
	NoRepack bool

	// Progress, if not nil, is called while the weights are read, on the goroutine that
	// loads, with the share that is done, 0 to 1.
	Progress func(share float64)
}

// Memory is what a model takes, as llama.cpp says.
type Memory struct {
	Mapped  tier.Bytes // weights where their file is mapped, present or not
	Copied  tier.Bytes // weights in memory of their own
	Context tier.Bytes // the cache of its slots, and what it computes in
}

// Model is a model that llama.cpp has opened, with a context of one or more slots.
// Its methods may be called at once; they wait for a slot, first come, first served.
type Model struct {
	l      *Library
	path   string
	print  [sha256.Size]byte // the fingerprint of its files
	number uintptr           // by which abort finds it
	queue  *queue

	model   yzma.Model
	vocab   yzma.Vocab
	context yzma.Context
	memory  yzma.Memory
	takes   Memory
	spans   []span // where its files are mapped, as long as it is not closed; nil: not known
	tokens  int    // that it knows
	size    int    // of a slot, in tokens
	chunk   int    // how many tokens are computed at once

	template    *jinja.Template
	templateErr error
	bos, eos    string
	addsBOS     bool

	mu     sync.Mutex // guards the rest and all calls that read or change the context
	phase  phase
	batch  yzma.Batch
	embeds bool            // the context gives embeddings, and no logits
	asking context.Context // whose tokens are computed just now
}

// phase is how far the end of a model is.
type phase int

const (
	open   phase = iota
	ending       // it computes nothing more, and what its slots hold can be saved; may be open again
	closed       // it is freed
)

// Load opens a GGUF file. Models are loaded one after the other. When ctx ends, the load
// does, with context.Cause(ctx): at once while weights are read into memory; a file that
// is mapped is read by the kernel, in one piece, unless it is in the page cache.
func (l *Library) Load(ctx context.Context, path string, o Options) (*Model, error) {
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("a path must not hold a zero byte")
	}
	if o.Context < 0 || o.Context > math.MaxInt32 || o.Slots < 0 || uint64(o.Slots) > yzma.MaxParallelSequences() || o.Threads < 0 || o.Threads > 512 {
		return nil, fmt.Errorf("a context of %d tokens with %d slots and %d threads cannot be made", o.Context, o.Slots, o.Threads)
	}
	slots, threads := max(o.Slots, 1), o.Threads
	if threads == 0 {
		threads = runtime.NumCPU()
	}
	select {
	case l.load <- struct{}{}:
		defer func() { <-l.load }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	load := &loading{ctx: ctx, progress: o.Progress}
	l.begin(load)
	defer l.begin(nil)
	m := &Model{l: l, path: path, queue: newQueue(slots)}
	p := yzma.ModelDefaultParams()
	p.ProgressCallback = l.progressed
	if o.NoMmap {
		p.LoadMode = yzma.LoadModeNone
	}
	if o.NoRepack {
		p.UseExtraBufts = 0
	}
	var err error
	if m.print, err = fingerprint(path); err != nil {
		return nil, fmt.Errorf("cannot load %s: %w", path, err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	before, mapErr := spans(path)
	if m.model, err = yzma.ModelLoadFromFile(path, p); err != nil {
		if load.panicked != nil {
			panic(load.panicked)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, errors.Join(l.fail("cannot load "+path), err)
	}
	if mapErr == nil {
		m.spans = ownSpans(path, before)
	}
	m.number = l.number(m)
	c := yzma.ContextDefaultParams()
	c.NCtx, c.NSeqMax = uint32(o.Context), uint32(slots)
	c.NThreads, c.NThreadsBatch = int32(threads), int32(threads)
	c.AbortCallback, c.AbortCallbackData = l.aborted, m.number
	if m.context, err = yzma.InitFromModel(m.model, c); err != nil {
		l.drop(m.number)
		yzma.ModelFree(m.model)
		return nil, errors.Join(l.fail("cannot make a context for "+path), err)
	}
	m.takes = l.takes()
	m.memory, _ = yzma.GetMemory(m.context) // 0 for a model that only embeds
	m.vocab = yzma.ModelGetVocab(m.model)
	m.tokens = int(yzma.VocabNTokens(m.vocab))
	m.size = int(yzma.NCtxSeq(m.context))
	m.chunk = int(yzma.NUBatch(m.context))
	m.batch = yzma.BatchInit(int32(m.chunk), 0, 1)
	m.readTemplate()
	return m, nil
}

// Close frees the model. What it generates just now ends with ErrClosed, after the
// token that it is at. Close is idempotent.
func (m *Model) Close() {
	m.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == closed {
		return
	}
	m.phase = closed
	m.l.drop(m.number)
	yzma.BatchFree(m.batch)
	yzma.Free(m.context)
	yzma.ModelFree(m.model)
}

// end has the model compute nothing more, after the token that it is at: all that is
// asked of it ends with ErrClosed, and so does who waits for a slot.
func (m *Model) end() {
	m.queue.end(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == open {
		m.phase = ending
	}
}

// resume takes end back, unless the model is closed.
func (m *Model) resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == ending {
		m.phase = open
		m.queue.end(false)
	}
}

// Memory returns what the model takes.
func (m *Model) Memory() Memory { return m.takes }

// Context returns the tokens that a slot has room for.
func (m *Model) Context() int { return m.size }

// Tokenize returns the tokens of a text: with those that begin and end one as the
// model wants it if whole, and with the text of special tokens taken for such if
// special.
func (m *Model) Tokenize(text string, whole, special bool) ([]int32, error) {
	if strings.ContainsRune(text, 0) {
		return nil, fmt.Errorf("%w: it holds a zero byte", ErrNoText)
	}
	m.mu.Lock() // against Close
	defer m.mu.Unlock()
	if m.phase == closed {
		return nil, ErrClosed
	}
	return ints(yzma.Tokenize(m.vocab, text, whole, special)), nil
}

func ints(tokens []yzma.Token) []int32 {
	out := make([]int32, len(tokens))
	for i, t := range tokens {
		out[i] = int32(t)
	}
	return out
}

// Piece returns a token as text: bytes, which may be a part of a character.
func (m *Model) Piece(token int32) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == closed {
		return ""
	}
	return m.piece(yzma.Token(token))
}

func (m *Model) piece(token yzma.Token) string {
	b := make([]byte, 256)
	n := yzma.TokenToPiece(m.vocab, token, b, 0, false)
	return string(b[:max(n, 0)])
}

// Request is what Generate is asked for.
type Request struct {
	Prompt    []int32  // as Tokenize returns it, or of one's own
	MaxTokens int      // 0: the prompt is computed and kept in the slot
	Stop      []string // texts before which the answer ends

	// Temperature 0 takes the likeliest token each time. Above it TopP, if not 0,
	// leaves only the likeliest that have that probability together, and the same Seed
	// makes the same choices. Seed 0xFFFFFFFF is another one each time.
	Temperature, TopP float32
	Seed              uint32

	// Slot is that which must answer, or AnySlot.
	Slot int
	// Fresh computes the whole prompt. Else what the slot has of it already is kept,
	// which may come out otherwise in the last digits.
	Fresh bool
}

// Answer is what Generate did.
type Answer struct {
	Slot   int
	Cached int  // tokens of the prompt that the slot had already
	Tokens int  // that were generated, with one that ends the text
	Ended  bool // by the model or a stop word, and not for want of room

	// What was computed took that long: of the prompt with the first token, and of the
	// others.
	PromptTime, TokensTime time.Duration
}

// Generate continues a prompt and calls emit with each piece of text, of whole
// characters. It ends where the model or a stop word says so, after MaxTokens,
// where its slot is full, when ctx ends (within a token), or with emit's error.
func (m *Model) Generate(ctx context.Context, r Request, emit func(piece string) error) (a Answer, err error) {
	prompt, err := m.check(r.Prompt)
	if err != nil {
		return a, err
	}
	s, err := m.queue.take(ctx, r.Slot, prompt)
	if err != nil {
		return a, err
	}
	defer m.queue.give(s)
	a.Slot = int(s.id)
	if a.Cached, err = m.begin(s, prompt, r.Fresh); err != nil {
		return a, err
	}
	sampler := r.sampler()
	defer yzma.SamplerFree(sampler)
	var token yzma.Token
	var piece string
	next := func() error {
		token = yzma.SamplerSample(sampler, m.context, -1)
		a.Ended, piece = yzma.VocabIsEOG(m.vocab, token), m.piece(token)
		return nil
	}
	text := outlet{stop: slices.DeleteFunc(slices.Clone(r.Stop), func(word string) bool { return word == "" })}
	tokens, began := prompt[a.Cached:], time.Now()
	defer func() {
		if a.PromptTime > 0 {
			a.TokensTime = time.Since(began) - a.PromptTime
		}
	}()
	if r.MaxTokens <= 0 {
		err := m.take(ctx, s, tokens, false, func() error { return nil })
		a.PromptTime = time.Since(began)
		return a, err
	}
	for a.Tokens < r.MaxTokens && len(s.tokens)+len(tokens) <= m.size {
		if err := m.take(ctx, s, tokens, false, next); err != nil {
			return a, err
		}
		if a.Tokens++; a.Tokens == 1 {
			a.PromptTime = time.Since(began)
		}
		if a.Ended {
			break
		}
		var out string
		out, a.Ended = text.add(piece)
		if out != "" {
			if err := emit(out); err != nil {
				return a, err
			}
		}
		if a.Ended {
			return a, nil
		}
		tokens = []yzma.Token{token}
	}
	if out := text.rest(); out != "" {
		return a, emit(out)
	}
	return a, nil
}

// sampler returns what chooses tokens.
func (r *Request) sampler() yzma.Sampler {
	chain := yzma.SamplerChainInit(yzma.SamplerChainDefaultParams())
	if r.Temperature <= 0 {
		yzma.SamplerChainAdd(chain, yzma.SamplerInitGreedy())
		return chain
	}
	if r.TopP > 0 && r.TopP < 1 {
		yzma.SamplerChainAdd(chain, yzma.SamplerInitTopP(r.TopP, 1))
	}
	yzma.SamplerChainAdd(chain, yzma.SamplerInitTemp(r.Temperature))
	yzma.SamplerChainAdd(chain, yzma.SamplerInitDist(r.Seed))
	return chain
}

// Embed returns what the model makes of a text: its state after the last token, or
// what its file says to make of all of them, scaled to the length 1.
func (m *Model) Embed(ctx context.Context, tokens []int32) ([]float32, error) {
	prompt, err := m.check(tokens)
	if err != nil {
		return nil, err
	}
	s, err := m.queue.take(ctx, AnySlot, nil)
	if err != nil {
		return nil, err
	}
	defer m.queue.give(s)
	if _, err := m.begin(s, prompt, true); err != nil {
		return nil, err
	}
	var out []float32
	err = m.take(ctx, s, prompt, true, func() error {
		width := yzma.ModelNEmbdOut(m.model)
		var of []float32 // memory of llama.cpp's, good until it computes again
		if yzma.GetPoolingType(m.context) == yzma.PoolingTypeNone {
			of, _ = yzma.GetEmbeddingsIth(m.context, -1, width)
		} else {
			of, _ = yzma.GetEmbeddingsSeq(m.context, s.id, width)
		}
		if of == nil {
			return m.l.fail("has no embedding")
		}
		out = slices.Clone(of)
		return nil
	})
	if err != nil {
		return nil, err
	}
	sum := 0.0
	for _, v := range out {
		sum += float64(v) * float64(v)
	}
	for i := range out {
		out[i] /= float32(max(math.Sqrt(sum), 1e-12))
	}
	return out, nil
}

// check returns a prompt as tokens that a slot has room for.
func (m *Model) check(prompt []int32) ([]yzma.Token, error) {
	if len(prompt) == 0 {
		return nil, fmt.Errorf("%w: it has no tokens", ErrNoText)
	}
	if len(prompt) >= m.size {
		return nil, &TooLongError{Tokens: len(prompt), Context: m.size}
	}
	out := make([]yzma.Token, len(prompt))
	for i, t := range prompt {
		if t < 0 || int(t) >= m.tokens {
			return nil, fmt.Errorf("%w: %d is none of its %d tokens", ErrNoText, t, m.tokens)
		}
		out[i] = yzma.Token(t)
	}
	return out, nil
}

// begin makes a slot hold the beginning of a prompt, what it has of it already or
// nothing, and returns how many tokens that is. At least one is left, for what
// follows it has to be computed. What a computation that was ended has left goes.
func (m *Model) begin(s *slot, prompt []yzma.Token, fresh bool) (cached int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != open {
		return 0, ErrClosed
	}
	if !fresh {
		cached = min(common(s.tokens, prompt), len(prompt)-1)
	}
	if !m.cut(s, cached) { // of some models a part cannot be taken back
		cached = 0
		m.cut(s, 0)
	}
	return cached, nil
}

// cut takes all but the first n tokens out of a slot.
func (m *Model) cut(s *slot, n int) bool {
	if m.memory != 0 {
		if ok, _ := yzma.MemorySeqRm(m.memory, s.id, yzma.Pos(n), -1); !ok {
			return false
		}
	}
	s.tokens = s.tokens[:n]
	return true
}

// take computes tokens that follow in a slot, and calls then while what it gave is
// there.
func (m *Model) take(ctx context.Context, s *slot, tokens []yzma.Token, embed bool, then func() error) error {
	for len(tokens) > m.chunk {
		if err := m.step(ctx, s, tokens[:m.chunk], embed, func() error { return nil }); err != nil {
			return err
		}
		tokens = tokens[m.chunk:]
	}
	return m.step(ctx, s, tokens, embed, then)
}

// step computes no more tokens than fit at once.
func (m *Model) step(ctx context.Context, s *slot, tokens []yzma.Token, embed bool, then func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != open {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.batch.Clear()
	for i, token := range tokens {
		if err := m.batch.Add(token, yzma.Pos(len(s.tokens)+i), []yzma.SeqId{s.id}, i == len(tokens)-1); err != nil {
			return err
		}
	}
	if m.embeds != embed {
		yzma.SetEmbeddings(m.context, embed)
		m.embeds = embed
	}
	m.asking = ctx
	r, err := yzma.Decode(m.context, m.batch)
	m.asking = nil
	if err != nil || r != 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.Join(m.l.fail(fmt.Sprintf("cannot decode (%d)", r)), err)
	}
	s.tokens = append(s.tokens, tokens...)
	return then()
}
