package hotload

import (
	"cmp"
	"math"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// What llama.cpp allocates, by its formulas. Read in build 10256 (llama-context.cpp,
// llama-kv-cache.cpp, llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp), and held
// against what llama.cpp 0.5.0 reports for models of 40 shapes.

// cells is how long the caches are, in tokens.
type cells struct {
	context  uint64 // of all sequences
	full     uint64 // of a sequence
	windowed uint64 // of a windowed layer, of a sequence
	streams  uint64 // caches of that length
	batch    uint64 // tokens that are computed at once
}

// pad rounds up as llama.cpp does with the length of a cache.
func pad(n uint64) uint64 { return (n + 255) / 256 * 256 }

func (s *shape) cells(o *EstimateOptions) cells {
	seqs := uint64(o.Slots)
	c := cells{context: pad(uint64(o.Context)), streams: seqs}
	c.batch = min(uint64(o.BatchTokens), c.context)
	if c.full = pad(c.context / seqs); o.Unified {
		c.full, c.streams = c.context, 1
	}
	c.windowed = c.full
	if !o.FullWindow {
		c.windowed = s.windowOf(c.full, c.batch, seqs/c.streams)
	}
	return c
}

// windowOf returns the cells of a windowed layer for that many sequences in one cache.
func (s *shape) windowOf(full, batch, seqs uint64) uint64 {
	return pad(min(full, s.window*seqs+batch))
}

// of returns the bytes of a number of rows.
func (t storage) of(rows, width uint64) tier.Bytes {
	return times(rows, (width+t.block-1)/t.block, t.bytes)
}

// cacheBytes returns the bytes of the caches that the layers which match have.
func (s *shape) cacheBytes(o *EstimateOptions, c cells, matches func(l *layer) bool) (sum tier.Bytes) {
	k, v := cacheTypes[o.CacheTypeK], cacheTypes[o.CacheTypeV]
	widest, differ := uint64(0), false
	for _, l := range s.layers {
		if l.values > 0 {
			differ = differ || widest > 0 && widest != l.values
			widest = max(widest, l.values)
		}
	}
	for i := range s.layers {
		l := &s.layers[i]
		if l.keys == 0 || !matches(l) {
			continue
		}
		rows, values := c.full, l.values
		if l.windowed {
			rows = c.windowed
		}
		// Without flash attention V is transposed, in rows for the widest layer.
		if o.FlashAttention == "off" && differ && values > 0 {
			values = widest
		}
		sum = sum.Plus(k.of(rows*c.streams, l.keys)).Plus(v.of(rows*c.streams, values))
	}
	return sum
}

// stateBytes returns what one recurrent layer keeps of a sequence, and how many there are.
func (s *shape) stateBytes() (each tier.Bytes, layers uint64) {
	for _, l := range s.layers {
		if l.recurrent {
			layers++
		}
	}
	return times(4, s.conv+s.state), layers
}

// floats returns how many numbers of a token are in use at once, at most, while a layer
// is computed: by a feed-forward layer, by attention, by experts, by a scan of states, or
// by attention to latents. With a cache of fewer bits queries are rotated, into as many
// more. See computeBytes.
func (s *shape) floats(o *EstimateOptions) uint64 {
	forward := 3 * s.inner
	if s.ungated {
		forward = s.inner
	}
	query, kept := s.heads*s.key, uint64(0)
	for _, l := range s.layers {
		kept = max(kept, l.keys+l.values)
	}
	most := max(forward+3*s.width+max(s.width, query), 3*s.width+query+kept) + s.wider*s.width
	if cacheTypes[o.CacheTypeK].quantised() || cacheTypes[o.CacheTypeV].quantised() {
		most += query
	}
	most = max(most, 2*s.experts*(s.width+s.expert), s.scan)
	if s.mla {
		most = max(most, s.heads*(2*s.key+s.value))
	}
	return most
}

// computeBytes returns a bound of the buffer for computing: of the numbers that are in
// use at once in the widest layer, the masks, without flash attention the scores, and the
// logits if those of all tokens are wanted.
func (s *shape) computeBytes(o *EstimateOptions, c cells) tier.Bytes {
	each, _ := s.stateBytes()
	base := times(4, c.batch, s.floats(o)).Plus(times(uint64(o.Slots), uint64(each)))
	attends := func(windowed bool) bool {
		return slices.ContainsFunc(s.layers, func(l layer) bool {
			return l.windowed == windowed && (l.keys > 0 || s.cacheless)
		})
	}
	var full, windowed uint64
	if attends(false) {
		full = c.full
	}
	if attends(true) {
		windowed = c.windowed
	}
	if s.cacheless {
		full, windowed = min(full, c.batch), min(windowed, c.batch)
	}
	mask := times(2, c.batch, full+windowed)
	if o.FlashAttention == "off" {
		mask = times(4, c.batch, full, s.heads+1).Plus(times(2, c.batch, windowed))
	}
	sum := base.Plus(mask)
	if o.AllOutputs && !s.encoder {
		sum = max(sum, times(4, c.batch, s.vocab).Plus(base/2))
	}
	return sum
}

// addLlama adds what llama.cpp takes.
func (e *Estimation) addLlama(h *headers) error {
	o, s := &e.Options, h.shape
	if s == nil {
		return &FileError{Reason: "does not say what it is", Help: "Declare what serving it takes: Model.Runtime."}
	}
	if o.Context == 0 {
		o.Context = int(s.context)
	}
	if o.Context == 0 {
		return &FileError{Reason: "does not say what context it was trained for", Help: "Name the context: EstimateOptions.Context."}
	}
	c := s.cells(o)
	o.Context = int(c.context)
	if o.NoMmap {
		e.add(weightsTerm, InRAM, e.Size, true, "read into memory")
	} else {
		e.add(weightsTerm, Mapped, e.Size, true, "the files, mapped")
	}
	if !o.NoRepack {
		e.add("copies of weights", InRAM, h.tally.copied(o.Processor), false,
			"what llama.cpp repacks for %s; ggml-cpu/repack.cpp, amx; measured with 0.5.0", o.Processor)
	}
	e.add("KV cache", InRAM, s.cacheBytes(o, c, func(l *layer) bool { return !l.windowed }), true,
		"%d cells × %d; llama-kv-cache.cpp", c.full, c.streams)
	e.add("windowed KV cache", InRAM, s.cacheBytes(o, c, func(l *layer) bool { return l.windowed }), true,
		"%d cells × %d, window %d; llama-kv-cache-iswa.cpp", c.windowed, c.streams, s.window)
	cached := uint64(0)
	for _, l := range s.layers {
		if l.keys > 0 {
			cached++
		}
	}
	e.add("indexer cache", InRAM, cacheTypes[o.CacheTypeK].of(c.full*c.streams*cached, s.indexer), false,
		"%d keys of %d elements a token; llama-kv-cache-dsa.cpp", cached, s.indexer)
	state, recurrent := s.stateBytes()
	e.add("recurrent state", InRAM, times(uint64(state), recurrent, uint64(o.Slots)), true,
		"%d layers × %d sequences of 32-bit floats; llama-memory-recurrent.cpp", recurrent, o.Slots)
	e.add("compute buffer", InRAM, s.computeBytes(o, c), false,
		"%d tokens at once; bound, 0.97 to 1.5 of what 0.5.0 reports", c.batch)
	e.add("output buffer", InRAM, times(4, s.vocab, uint64(o.Slots)), true, "logits of %d sequences of %d tokens; llama-context.cpp", o.Slots, s.vocab)
	e.add("encoder's output", InRAM, times(4, c.batch, s.encoders), false, "%d tokens; llama-context.cpp", c.batch)
	for _, p := range h.projectors {
		e.add("projector", InRAM, projectorBytes(p), false, "the largest image or 30 s of sound; bound of what tools/mtmd was seen to take with flash attention")
	}
	e.add("engine", InRAM, baseBytes(s.vocab), false, "what it takes without a model, and its table of %d tokens; measured with 0.5.0", s.vocab)
	if o.Engine == LlamaServer {
		one := c
		one.streams, one.windowed = 1, s.windowOf(c.full, c.batch, 1)
		kept := s.cacheBytes(o, one, func(l *layer) bool { return l.windowed }).Plus(times(uint64(state), recurrent))
		e.add("prompt cache", Growth, promptCache, false, "llama-server's --cache-ram, and one state beyond it; common.h")
		e.add("checkpoints", Growth, times(uint64(kept), checkpoints, uint64(o.Slots)), false,
			"%d for each slot (--ctx-checkpoints), of windows or recurrent state; common.h", checkpoints)
	}
	if e.Runtime().Plus(e.Size) == math.MaxInt64 {
		return &FileError{Reason: "would take more memory than can be counted"}
	}
	return nil
}

// Defaults of llama-server. Source: common.h, b10256.
const (
	promptCache = 8192 * tier.MiB // --cache-ram
	checkpoints = 32              // --ctx-checkpoints, for each slot
)

// baseBytes is what the engine takes by itself, and for its table of tokens. Measured with
// the engine of integrations/llama: 6 MiB, and 310 bytes a token with merges; a server of
// its own has more beside it.
func baseBytes(vocab uint64) tier.Bytes {
	return 16*tier.MiB + times(vocab, 320)
}

// fixedSize are the projectors (clip.projector_type) that see an image in tiles of one
// size. Others see it as large as it is, up to dynamicPatches.
var fixedSize = map[string]bool{
	"mlp": true, "ldp": true, "ldpv2": true, "resampler": true, "adapter": true, "gemma3": true, "gemma3nv": true,
	"idefics3": true, "internvl": true, "janus_pro": true, "llama4": true,
}

const dynamicPatches = 92 * 92 // that tools/mtmd reserves for: 46 × 46 tokens of 2 × 2 patches

// projectorBytes bounds what encoding the largest image, or 30 s of sound, takes, with
// flash attention. Without that it may be several GiB. Fitted to what was seen of four
// models: gemma3 121 MiB, Qwen3-VL-4B 322, Qwen3-VL 323, Qwen2.5-VL 705.
func projectorBytes(kept map[string]ggufValue) (most tier.Bytes) {
	m := &metadata{arch: "clip", kept: kept}
	if width := m.number("vision.embedding_length", 0); width > 0 {
		inner := m.number("vision.feed_forward_length", 4*width)
		side := m.number("vision.image_size", 0) / max(m.number("vision.patch_size", 14), 1)
		patches := side * side
		floats := 3*width + inner
		var mask tier.Bytes
		if !fixedSize[cmp.Or(m.text("vision.projector_type"), m.text("projector_type"))] {
			patches = max(patches, dynamicPatches)
			floats = 6*width + inner
			if m.number("vision.n_wa_pattern", 0) > 0 {
				mask = times(6, patches, patches)
			}
		}
		most = times(4, patches, floats).Plus(mask)
	}
	if width := m.number("audio.embedding_length", 0); width > 0 {
		const frames = 1500 // of 30 s
		most = max(most, times(4, frames, 6*width+m.number("audio.feed_forward_length", 4*width)))
	}
	return most
}
