//go:build amd64 || arm64

package llama

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// params are a struct that grows from release to release, which C passes by value
// and returns. A callee reads and writes as much of it as it knows, and as an
// argument it comes last: so room for more than any release has, filled in by the
// library, serves without knowing what is in it. Only the first word is: n_ctx, of
// a context.
//
// That holds for each calling convention that takes a struct so large as memory and
// not in registers. On amd64 (System V) it lies on the stack, and the callee fills
// in what a hidden first argument points to. On arm64 (AAPCS64) an argument points
// to a copy, and register x8 to the result. purego knows both.
type params struct {
	words [26]uintptr // on amd64, what purego's 32 arguments leave beside 6 registers
}

// Library is llama.cpp, loaded into this process, where it stays until the end.
type Library struct {
	modelDefaults, contextDefaults     func() params
	loadModel                          func(path *byte, p params) (model uintptr)
	newContext                         func(model uintptr, p params) (context uintptr)
	decode                             func(context uintptr, batch params) int32
	freeModel, freeContext             uintptr
	getVocab, vocabSize, isEnd         uintptr
	tokenize, toPiece, getMemory       uintptr
	clearMemory, logits                uintptr
	setThreads, nCtx, batch, setLogger uintptr
	setEmbeddings, embedding, width    uintptr

	mu   sync.Mutex // guards said, and that one model is loaded at a time
	load sync.Mutex
	said []string
}

// Open loads the libraries in the folder.
func Open(dir string) (*Library, error) {
	handles := map[string]uintptr{}
	for _, name := range []string{"libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so"} {
		h, err := purego.Dlopen(filepath.Join(dir, name), purego.RTLD_NOW|purego.RTLD_GLOBAL)
		if err != nil {
			return nil, fmt.Errorf("llama.cpp cannot be loaded here: %w", err)
		}
		handles[name] = h
	}
	l := &Library{}
	var start, backends uintptr
	llama, ggml := handles["libllama.v0.5.0.so"], handles["libggml.v0.5.0.so"]
	for _, f := range []struct {
		from uintptr
		name string
		to   any
	}{
		{ggml, "ggml_backend_load_all_from_path", &backends},
		{llama, "llama_backend_init", &start},
		{llama, "llama_log_set", &l.setLogger},
		{llama, "llama_model_default_params", &l.modelDefaults},
		{llama, "llama_context_default_params", &l.contextDefaults},
		{llama, "llama_model_load_from_file", &l.loadModel},
		{llama, "llama_init_from_model", &l.newContext},
		{llama, "llama_model_free", &l.freeModel},
		{llama, "llama_free", &l.freeContext},
		{llama, "llama_model_get_vocab", &l.getVocab},
		{llama, "llama_vocab_n_tokens", &l.vocabSize},
		{llama, "llama_vocab_is_eog", &l.isEnd},
		{llama, "llama_tokenize", &l.tokenize},
		{llama, "llama_token_to_piece", &l.toPiece},
		{llama, "llama_get_memory", &l.getMemory},
		{llama, "llama_memory_clear", &l.clearMemory},
		{llama, "llama_decode", &l.decode},
		{llama, "llama_get_logits_ith", &l.logits},
		{llama, "llama_set_n_threads", &l.setThreads},
		{llama, "llama_n_ctx", &l.nCtx},
		{llama, "llama_n_batch", &l.batch},
		{llama, "llama_set_embeddings", &l.setEmbeddings},
		{llama, "llama_get_embeddings_ith", &l.embedding},
		{llama, "llama_model_n_embd", &l.width},
	} {
		at, err := purego.Dlsym(f.from, f.name)
		if err != nil {
			return nil, fmt.Errorf("this llama.cpp has no %s: %w", f.name, err)
		}
		if to, ok := f.to.(*uintptr); ok {
			*to = at
		} else {
			purego.RegisterFunc(f.to, at)
		}
	}
	purego.SyscallN(l.setLogger, purego.NewCallback(l.hear), 0)
	purego.SyscallN(start)
	path := append([]byte(dir), 0)
	purego.SyscallN(backends, uintptr(unsafe.Pointer(&path[0])))
	return l, nil
}

// hear keeps the last lines that the library logs, for the errors of a load.
func (l *Library) hear(_ int32, text *byte, _ uintptr) uintptr {
	line := strings.TrimSpace(goString(text))
	l.mu.Lock()
	defer l.mu.Unlock()
	if line != "" && line != "." {
		const most = 8
		l.said = append(l.said, line)
		l.said = l.said[max(0, len(l.said)-most):]
	}
	return 0
}

func goString(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	const most = 1024
	for n < most && *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

func (l *Library) fail(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Errorf("llama.cpp %s: %s", what, strings.Join(l.said, " / "))
}

// Model is a model that llama.cpp has mapped, with one context to generate in.
type Model struct {
	l             *Library
	path          string
	model, vocab  uintptr
	tokens, batch int

	mu      sync.Mutex // guards the rest: one generates at a time
	context uintptr    // 0: closed
}

// Load maps a GGUF file. size is the context in tokens, and threads how many
// generate; 0 is the model's own, and one for each CPU.
func (l *Library) Load(path string, size, threads int) (*Model, error) {
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("a path must not hold a zero byte")
	}
	l.load.Lock()
	defer l.load.Unlock()
	l.mu.Lock()
	l.said = nil
	l.mu.Unlock()
	m := &Model{l: l, path: path}
	name := append([]byte(path), 0)
	if m.model = l.loadModel(&name[0], l.modelDefaults()); m.model == 0 {
		return nil, l.fail("cannot load " + path)
	}
	p := l.contextDefaults()
	*(*uint32)(unsafe.Pointer(&p)) = uint32(max(size, 0))
	if m.context = l.newContext(m.model, p); m.context == 0 {
		err := l.fail("cannot make a context for " + path)
		purego.SyscallN(l.freeModel, m.model)
		return nil, err
	}
	if threads <= 0 {
		threads = runtime.NumCPU()
	}
	purego.SyscallN(l.setThreads, m.context, uintptr(threads), uintptr(threads))
	m.vocab, _, _ = purego.SyscallN(l.getVocab, m.model)
	n, _, _ := purego.SyscallN(l.vocabSize, m.vocab)
	m.tokens = int(int32(n))
	n, _, _ = purego.SyscallN(l.batch, m.context)
	m.batch = int(uint32(n))
	return m, nil
}

// Close frees the model. It waits for a Generate that runs, and is idempotent.
func (m *Model) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.context == 0 {
		return
	}
	purego.SyscallN(m.l.freeContext, m.context)
	purego.SyscallN(m.l.freeModel, m.model)
	m.context = 0
}

// Generate continues the prompt by up to most tokens, each time with the likeliest
// one, and calls emit with each as text. It ends early where the model says so,
// where its context is full, when ctx ends (within one token), or with emit's
// error.
func (m *Model) Generate(ctx context.Context, prompt string, most int, emit func(token int32, piece string) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.context == 0 {
		return ErrClosed
	}
	tokens, room, err := m.begin(prompt)
	if err != nil {
		return err
	}
	for range min(most, room) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		token, err := m.next(tokens)
		if err != nil {
			return err
		}
		if end, _, _ := purego.SyscallN(m.l.isEnd, m.vocab, uintptr(token)); byte(end) != 0 {
			return nil
		}
		if err := emit(token, m.piece(token)); err != nil {
			return err
		}
		tokens = []int32{token}
	}
	return nil
}

// Embed returns what the model makes of a text: its state after the last token,
// scaled to the length 1.
func (m *Model) Embed(text string) ([]float32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.context == 0 {
		return nil, ErrClosed
	}
	tokens, _, err := m.begin(text)
	if err != nil {
		return nil, err
	}
	purego.SyscallN(m.l.setEmbeddings, m.context, 1)
	defer purego.SyscallN(m.l.setEmbeddings, m.context, 0)
	if err := m.take(tokens); err != nil {
		return nil, err
	}
	p, _, _ := purego.SyscallN(m.l.embedding, m.context, last)
	if p == 0 {
		return nil, m.l.fail("has no embedding")
	}
	n, _, _ := purego.SyscallN(m.l.width, m.model)
	// Memory of the library's, which is good until the next decode.
	out := slices.Clone(unsafe.Slice(*(**float32)(unsafe.Pointer(&p)), int(int32(n))))
	sum := 0.0
	for _, v := range out {
		sum += float64(v) * float64(v)
	}
	for i := range out {
		out[i] /= float32(max(math.Sqrt(sum), 1e-12))
	}
	return out, nil
}

// begin forgets what was said, and returns the tokens of a text and the room that
// the context has beside them.
func (m *Model) begin(text string) (tokens []int32, room int, err error) {
	memory, _, _ := purego.SyscallN(m.l.getMemory, m.context)
	purego.SyscallN(m.l.clearMemory, memory, 1)
	if tokens, err = m.split(text); err != nil {
		return nil, 0, err
	}
	n, _, _ := purego.SyscallN(m.l.nCtx, m.context)
	if room = int(uint32(n)) - len(tokens); room <= 0 {
		return nil, 0, fmt.Errorf("%w: %d tokens, and a context of %d", ErrTooLong, len(tokens), n)
	}
	return tokens, room, nil
}

// split returns the tokens of a text.
func (m *Model) split(text string) ([]int32, error) {
	// A blank may come as three bytes, each a token; a few more are added.
	out, in := make([]int32, 3*len(text)+8), append([]byte(text), 0)
	n, _, _ := purego.SyscallN(m.l.tokenize, m.vocab, uintptr(unsafe.Pointer(&in[0])), uintptr(len(text)),
		uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), 1, 0)
	if int32(n) <= 0 {
		return nil, errors.New("the prompt has no tokens")
	}
	return out[:int32(n)], nil
}

// last is the last of the tokens that were taken in.
const last = ^uintptr(0)

// take takes tokens in.
func (m *Model) take(tokens []int32) error {
	for len(tokens) > 0 {
		part := tokens[:min(len(tokens), m.batch)]
		tokens = tokens[len(part):]
		pinned := new(runtime.Pinner)
		pinned.Pin(&part[0])
		// struct llama_batch: how many, which, and five arrays that default.
		var batch params
		batch.words[0], batch.words[1] = uintptr(uint32(len(part))), uintptr(unsafe.Pointer(&part[0]))
		r := m.l.decode(m.context, batch)
		pinned.Unpin()
		if r != 0 {
			return m.l.fail(fmt.Sprintf("cannot decode (%d)", r))
		}
	}
	return nil
}

// next takes tokens in, and returns the likeliest to follow.
func (m *Model) next(tokens []int32) (int32, error) {
	if err := m.take(tokens); err != nil {
		return 0, err
	}
	p, _, _ := purego.SyscallN(m.l.logits, m.context, last)
	if p == 0 {
		return 0, m.l.fail("has no logits")
	}
	// Memory of the library's, which is good until the next decode.
	logits := unsafe.Slice(*(**float32)(unsafe.Pointer(&p)), m.tokens)
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best), nil
}

func (m *Model) piece(token int32) string {
	b := make([]byte, 256)
	n, _, _ := purego.SyscallN(m.l.toPiece, m.vocab, uintptr(token), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0)
	return string(b[:max(int32(n), 0)])
}
