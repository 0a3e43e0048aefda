package hotload

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// EngineKind is what serves a model, as far as its memory follows other rules.
type EngineKind string

const (
	// LlamaServer is llama.cpp's server.
	LlamaServer EngineKind = "llama-server"
	// LlamaLibrary is llama.cpp in a process, with the defaults of its library: one
	// sequence, a cache for the whole context in windowed layers too, and room for the
	// logits of each token of a batch. The engine of integrations/llama is one.
	LlamaLibrary EngineKind = "llama.cpp"
	// OtherEngine is any other, of which nothing is known.
	OtherEngine EngineKind = "other"
)

// EstimateOptions are how an engine is to serve a model. The zero value is llama-server
// without flags, for a GGUF file, and else an engine of which nothing is known.
type EstimateOptions struct {
	// Engine is what serves it. "": LlamaServer for GGUF files, OtherEngine for others.
	Engine EngineKind
	// Context is the tokens of context of all slots together (-c), up to 2^30. 0: what
	// the model was trained for.
	Context int
	// Slots is how many sequences are served at once (-np), up to 256. 0: llama-server's
	// 4, which share the context (Unified); with LlamaLibrary 1.
	Slots int
	// Unified: the slots share the context, and none has a part of it to itself
	// (--kv-unified). It is so where Slots is 0.
	Unified bool
	// CacheTypeK and CacheTypeV are how the cache is stored (-ctk, -ctv): f32, f16, bf16,
	// q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl. "": f16.
	CacheTypeK, CacheTypeV string
	// BatchTokens is how many tokens of prompts are computed at once (-ub), up to 2^20.
	// 0: 512.
	BatchTokens int
	// FlashAttention is "on", "off" or "auto" (-fa). "": auto, which is on for all that a
	// processor computes.
	FlashAttention string
	// FullWindow: layers that attend to a window have a cache for the whole context
	// (--swa-full). It is so with LlamaLibrary.
	FullWindow bool
	// AllOutputs: a batch may want the logits of each of its tokens. It is so with
	// LlamaLibrary.
	AllOutputs bool

	// NoMmap: the weights are read into memory of the engine, and not mapped (--no-mmap).
	NoMmap bool
	// NoRepack: weights are not copied for the processor (--no-repack).
	NoRepack bool
	// Processor is what the engine computes with, and Libraries the folder of llama.cpp's
	// libraries, which may lack the variant for it; "": it has all, or was built for it.
	Processor Processor
	Libraries string
}

// Bounds of options. Source: LLAMA_MAX_SEQ in llama-cparams.h; the others are far above
// any real value.
const (
	maxSlots       = 256
	maxBatchTokens = 1 << 20
)

// storage is how an element is stored: in blocks of so many elements, each of so many
// bytes.
type storage struct{ block, bytes uint64 }

// cacheTypes are the types that a cache may have. Source: kv_cache_types in llama.cpp's
// common/arg.cpp; the sizes are those of ggmlTypes.
var cacheTypes = map[string]storage{
	"f32": {1, 4}, "f16": {1, 2}, "bf16": {1, 2}, "q8_0": {32, 34}, "q5_1": {32, 24},
	"q5_0": {32, 22}, "q4_1": {32, 20}, "q4_0": {32, 18}, "iq4_nl": {32, 18},
}

func (s storage) quantised() bool { return s.block > 1 }

// withDefaults returns the options with nothing left open but Context, and every fault of
// them.
func (o EstimateOptions) withDefaults(format Format) (EstimateOptions, error) {
	var errs []error
	fault := func(field string, value any, rule string) {
		errs = append(errs, &tier.InvalidError{Field: field, Value: fmt.Sprintf("%.100q", fmt.Sprint(value)), Rule: rule})
	}
	within := func(field string, n, most int) {
		if n < 0 || n > most {
			fault(field, n, fmt.Sprintf("must be 1 to %d, or 0 for the default", most))
		}
	}
	if o.Engine == "" {
		if o.Engine = OtherEngine; format == FormatGGUF {
			o.Engine = LlamaServer
		}
	}
	switch o.Engine {
	case LlamaServer:
		o.Unified = o.Unified || o.Slots == 0
		o.Slots = cmp.Or(o.Slots, 4)
	case LlamaLibrary:
		o.Slots = cmp.Or(o.Slots, 1)
		o.FullWindow, o.AllOutputs = true, true
	case OtherEngine:
		o.Slots = cmp.Or(o.Slots, 1)
	default:
		fault("Engine", o.Engine, fmt.Sprintf("must be %q, %q or %q", LlamaServer, LlamaLibrary, OtherEngine))
	}
	within("Context", o.Context, maxContext)
	within("Slots", o.Slots, maxSlots)
	within("BatchTokens", o.BatchTokens, maxBatchTokens)
	o.BatchTokens = cmp.Or(o.BatchTokens, 512)
	const known = "must be one of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl"
	o.CacheTypeK, o.CacheTypeV = cmp.Or(o.CacheTypeK, "f16"), cmp.Or(o.CacheTypeV, "f16")
	if cacheTypes[o.CacheTypeK].block == 0 {
		fault("CacheTypeK", o.CacheTypeK, known)
	}
	if cacheTypes[o.CacheTypeV].block == 0 {
		fault("CacheTypeV", o.CacheTypeV, known)
	}
	switch o.FlashAttention {
	case "", "auto":
		o.FlashAttention = "on"
	case "on":
	case "off":
		if cacheTypes[o.CacheTypeV].quantised() {
			fault("CacheTypeV", o.CacheTypeV, `must be f32, f16 or bf16 if FlashAttention is "off"`)
		}
	default:
		fault("FlashAttention", o.FlashAttention, `must be "on", "off" or "auto"`)
	}
	if rankOf(o.Processor) == len(processors) && o.Processor != ThisProcessor {
		fault("Processor", o.Processor, fmt.Sprintf("must be one of %q, or empty for this machine's", processors))
	}
	o.Processor = cmp.Or(o.Processor, thisProcessor())
	used, err := o.Processor.usedBy(o.Libraries)
	if err != nil {
		errs = append(errs, err)
	}
	o.Processor = used
	return o, errors.Join(errs...)
}

// Account is a kind of memory that a Term is of.
type Account string

const (
	// InRAM is memory of the engine's own, which it has when it is ready or has computed
	// its first batch.
	InRAM Account = "ram"
	// Mapped is pages of files, which are the kernel's to take.
	Mapped Account = "mapped"
	// Growth is memory of the engine's own that comes later, up to that much, and is not
	// there at the start.
	Growth Account = "growth"
)

// Term is one thing that takes memory.
type Term struct {
	Name    string // "KV cache"
	Account Account
	Bytes   tier.Bytes
	// Exact: the engine allocates just that. Else it is a bound, or measured elsewhere.
	Exact bool
	// Source says how the bytes come about, and where that is from.
	Source string
}

// Estimation is what serving a model should take.
type Estimation struct {
	// Name and Size are the model's.
	Name string
	Size tier.Bytes
	// Options are those asked for, with the defaults in force filled in.
	Options EstimateOptions
	Terms   []Term
}

// weightsTerm is the name of the term for the weights, which Model.Size has already.
const weightsTerm = "weights"

// Of returns the sum of the terms of an account.
func (e *Estimation) Of(a Account) (sum tier.Bytes) {
	for _, t := range e.Terms {
		if t.Account == a {
			sum = sum.Plus(t.Bytes)
		}
	}
	return sum
}

// Runtime returns what is needed beyond the weights when the engine is ready and has
// computed a batch, as tier.Model.Runtime has it: the account InRAM without the weights.
func (e *Estimation) Runtime() (sum tier.Bytes) {
	for _, t := range e.Terms {
		if t.Account == InRAM && t.Name != weightsTerm {
			sum = sum.Plus(t.Bytes)
		}
	}
	return sum
}

// String returns the estimation as a table of its terms.
func (e *Estimation) String() string {
	var b strings.Builder
	o := &e.Options
	fmt.Fprintf(&b, "%s with %s", e.Name, o.Engine)
	if o.Engine != OtherEngine {
		shared := "each with its part of it"
		if o.Unified {
			shared = "which share it"
		}
		fmt.Fprintf(&b, ", context %d, slots %d (%s), cache %s and %s, %d tokens at once, flash attention %s, processor %s",
			o.Context, o.Slots, shared, o.CacheTypeK, o.CacheTypeV, o.BatchTokens, o.FlashAttention, o.Processor)
	}
	fmt.Fprintf(&b, ": %v beyond %v of weights\n", e.Runtime(), e.Size)
	for _, t := range e.Terms {
		sign := "≤"
		if t.Exact {
			sign = "="
		}
		fmt.Fprintf(&b, "  %-6s  %-18s %s %10v  %s\n", t.Account, t.Name, sign, t.Bytes, t.Source)
	}
	return b.String()
}

// add adds a term that takes something.
func (e *Estimation) add(name string, account Account, bytes tier.Bytes, exact bool, source string, args ...any) {
	if bytes > 0 {
		e.Terms = append(e.Terms, Term{name, account, bytes, exact, fmt.Sprintf(source, args...)})
	}
}

// Estimate returns what serving the model at path should take: a file, or a folder with
// the files of one model. parts are the files that belong to it beside that, as
// tier.Model.Parts has them; without any, they are those that Inspect finds. Of a GGUF file with llama.cpp, the cache and the recurrent state
// are exact, and the buffers for computing a bound, at most 3 % less and half more than
// what llama.cpp 0.5.0 allocates, for computing on processors. A GPU's memory, and what a
// driver takes, are not known here. Of anything else it is a rule of thumb.
//
// Scan puts no estimate into Model.Runtime: a mover of mapped files needs none of this,
// and what an owner declares is not lowered by what is measured. With tier/process it
// belongs into Engine.Runtime, where what is measured replaces it.
//
// Only headers are read. A fault of the options is a *tier.InvalidError for each, joined;
// one of the files, as Inspect finds it or if they do not tell enough, a *FileError.
func Estimate(path string, o EstimateOptions, parts ...string) (Estimation, error) {
	t := newTree()
	t.metadata = make(map[string]ggufMetadata)
	info, err := t.inspectNamed(path, parts)
	if err != nil {
		return Estimation{}, err
	}
	return t.estimate(path, &info, o)
}

// inspectNamed is inspectPath of a model that names its parts, if it does.
func (t *tree) inspectNamed(path string, parts []string) (Info, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return Info{}, fileError(path, err)
	}
	if t.opened != nil {
		t.opened[path] = stat // a link may lead elsewhere later
	}
	if len(parts) == 0 {
		return t.inspectPath(path)
	}
	var info Info
	if stat.IsDir() {
		info, err = t.inspectPath(path)
	} else {
		info, err = t.inspect(&file{path: path, real: path})
	}
	for _, part := range parts {
		if err != nil {
			return Info{}, err
		}
		if !slices.Contains(info.Files, part) {
			var more Info
			more, err = t.inspect(&file{path: part, real: part})
			info.add(&more)
		}
	}
	return info, err
}

// estimate returns what serving the model should take whose headers were read.
func (t *tree) estimate(path string, info *Info, o EstimateOptions) (Estimation, error) {
	o, err := o.withDefaults(info.Format)
	if err != nil {
		return Estimation{}, err
	}
	e := Estimation{Name: info.Name, Size: info.Size, Options: o}
	if o.Engine == OtherEngine {
		e.addUnknown(info)
		return e, nil
	}
	if info.Format != FormatGGUF {
		return Estimation{}, &FileError{Path: path, Reason: fmt.Sprintf("is no GGUF file, which %s needs", o.Engine), Help: fmt.Sprintf("Estimate it for the engine %q.", OtherEngine)}
	}
	h := newHeaders()
	for _, file := range info.Files {
		if err := h.add(t.metadata[file]); err != nil {
			return Estimation{}, fileError(file, err)
		}
	}
	if err := e.addLlama(h); err != nil {
		return Estimation{}, fileError(path, err)
	}
	return e, nil
}

// addUnknown adds what an engine is taken to need of which nothing is known.
func (e *Estimation) addUnknown(info *Info) {
	e.add(weightsTerm, InRAM, info.Size, false, "in memory of the engine's own")
	e.add("serving", InRAM, max(512*tier.MiB, info.Size/5), false, "512 MiB, or a fifth of the weights: an unknown engine")
}

// ggufMetadata is what one header says, as far as an estimate needs it.
type ggufMetadata struct {
	role  Role
	kept  map[string]ggufValue
	tally *weightTally

	header int64 // bytes
}

// readGGUF is ReadGGUF, and keeps the metadata if that is wanted.
func (t *tree) readGGUF(path string, r io.ReaderAt, size int64) (info Info, header int64, err error) {
	if t.metadata == nil {
		return readGGUFHeader(r, size)
	}
	info, m, err := readMetadata(r, size)
	if err == nil {
		t.metadata[path] = m
	}
	return info, m.header, err
}

func readMetadata(r io.ReaderAt, size int64) (Info, ggufMetadata, error) {
	g := &ggufReader{bufReader: bufReader{r: r, size: size, limit: ggufMaxHeader}, tally: newWeightTally()}
	defer g.close()
	info, err := g.read()
	return info, ggufMetadata{info.Role, g.kept, g.tally, g.pos}, err
}

// headers is what the headers of a model's files say.
type headers struct {
	shape      *shape // nil: no file has it
	tally      *weightTally
	projectors []map[string]ggufValue
}

func newHeaders() *headers { return &headers{tally: newWeightTally()} }

// add adds one header; that of a file without one, which is zero, adds nothing.
func (h *headers) add(m ggufMetadata) (err error) {
	switch {
	case m.role == RoleProjector:
		h.projectors = append(h.projectors, m.kept)
	case m.role == RoleModel && m.kept != nil:
		h.tally.join(m.tally)
		if h.shape == nil && m.kept["general.architecture"].text != "" { // of shards, the first has it
			h.shape, err = newShape(m.kept)
		}
	}
	return err
}

// times multiplies, saturated.
func times(factors ...uint64) tier.Bytes {
	if n, ok := product(factors...); ok {
		return tier.Bytes(n)
	}
	return math.MaxInt64
}
