package hotload

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/modeltier/modeltier/tier"
)

// Estimator is Estimate with a memory: it reads a model's headers again only if one of its
// files, or a folder that it was looked for in, looks different. The zero value is ready.
// It may be used by several goroutines at once.
type Estimator struct {
	mu    sync.Mutex
	known map[estimateKey]estimated
}

type estimateKey struct {
	path  string
	parts string // joined with zero bytes
	o     EstimateOptions
}

type estimated struct {
	seen map[string]fs.FileInfo
	e    Estimation
	err  error
}

// maxEstimated bounds what an Estimator remembers; then it begins again. A header takes
// some ms to read.
const maxEstimated = 4096

// Estimate returns what Estimate does.
func (r *Estimator) Estimate(path string, o EstimateOptions, parts ...string) (Estimation, error) {
	key := estimateKey{path, strings.Join(parts, "\x00"), o}
	r.mu.Lock()
	before, known := r.known[key]
	r.mu.Unlock()
	if known && unchanged(before.seen) {
		return before.e, before.err
	}
	t := newTree()
	t.metadata, t.opened = make(map[string]ggufMetadata), make(map[string]fs.FileInfo)
	info, err := t.inspectNamed(path, parts)
	if err != nil { // which may pass without a change of what was seen
		return Estimation{}, err
	}
	now := estimated{seen: t.seen()}
	now.e, now.err = t.estimate(path, &info, o)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxEstimated {
		r.known = make(map[estimateKey]estimated)
	}
	r.known[key] = now
	return now.e, now.err
}

// seen returns what decided which files the model has, and what they say, as it was
// before it was read: files that were opened, folders and indexes.
func (t *tree) seen() map[string]fs.FileInfo {
	seen := maps.Clone(t.opened)
	for dir, f := range t.listed {
		seen[dir] = f.stat
	}
	return seen
}

// unchanged reports whether all of that looks as it did.
func unchanged(seen map[string]fs.FileInfo) bool {
	for path, before := range seen {
		if now, err := os.Stat(path); err != nil || !same(now, before) {
			return false
		}
	}
	return true
}

// LlamaFlags returns the options with what flags of llama-server say: what it is started
// with, but for the program's name. Flags that an estimate does not depend on are passed
// over, and so is what a GPU takes over (-ngl). An error is a *tier.InvalidError.
func (o EstimateOptions) LlamaFlags(args []string) (EstimateOptions, error) {
	switches := map[string]*bool{
		"kvu": &o.Unified, "kv-unified": &o.Unified, "swa-full": &o.FullWindow,
		"no-mmap": &o.NoMmap, "nr": &o.NoRepack, "no-repack": &o.NoRepack,
	}
	numbers := map[string]*int{
		"c": &o.Context, "ctx-size": &o.Context, "np": &o.Slots, "parallel": &o.Slots, "ub": &o.BatchTokens, "ubatch-size": &o.BatchTokens,
	}
	load := ""
	texts := map[string]*string{
		"ctk": &o.CacheTypeK, "cache-type-k": &o.CacheTypeK, "ctv": &o.CacheTypeV, "cache-type-v": &o.CacheTypeV,
		"fa": &o.FlashAttention, "flash-attn": &o.FlashAttention, "libs": &o.Libraries, "load-mode": &load,
	}
	for len(args) > 0 {
		flag, value, joined := strings.Cut(args[0], "=")
		name := strings.TrimLeft(flag, "-")
		args = args[1:]
		if on := switches[name]; on != nil && name != flag {
			*on = true
			continue
		}
		number, text := numbers[name], texts[name]
		if number == nil && text == nil || name == flag {
			continue
		}
		if !joined && len(args) > 0 && (text != &o.FlashAttention || !strings.HasPrefix(args[0], "-")) {
			value, args = args[0], args[1:]
		}
		switch n, err := strconv.Atoi(value); {
		case number == nil:
			*text = value
		case err != nil:
			return o, &tier.InvalidError{Field: flag, Value: fmt.Sprintf("%.100q", value), Rule: "must be a number"}
		default:
			*number = max(n, 0) // -1 is the default
		}
	}
	switch o.FlashAttention { // other words for it
	case "1", "true", "enabled":
		o.FlashAttention = "on"
	case "0", "false", "disabled":
		o.FlashAttention = "off"
	}
	o.NoMmap = o.NoMmap || load == "none" || load == "dio" || load == "mlock"
	return o, nil
}
