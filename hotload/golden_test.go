package hotload

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// goldenCase is what llama.cpp 0.5.0 reported for a model of that shape.
type goldenCase struct {
	Model, Arch string
	Vocab       int
	Keys        map[string]any
	Options     string
	KV          [][3]float64 `json:"kv_mib"` // MiB, cells, layers
	RS          []float64    `json:"rs_mib"`
	Compute     float64      `json:"compute_mib"`
	Output      float64      `json:"output_mib"`
}

// options returns the case's options. Its cases are of llama-server's kind.
func (c *goldenCase) options(t *testing.T) EstimateOptions {
	o := EstimateOptions{Slots: 1, FlashAttention: "on", NoRepack: true}
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	for _, word := range strings.Fields(c.Options) {
		name, value, _ := strings.Cut(word, "=")
		switch digits := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz_"); strings.TrimSuffix(name, digits) {
		case "ctx":
			o.Context = number(digits)
		case "fa":
			o.FlashAttention = map[string]string{"0": "off", "1": "on"}[digits]
		case "outputs":
			o.AllOutputs = value == "batch"
		case "kv":
			o.CacheTypeK, o.CacheTypeV = value, value
		case "seqs":
			o.Slots = number(digits)
		case "unified":
			o.Unified = true
		case "split":
		case "swa_full":
			o.FullWindow = true
		case "ubatch":
			o.BatchTokens = number(digits)
		default:
			t.Fatalf("the options %q are new", c.Options)
		}
	}
	return o
}

// file returns the header of a model of that shape.
func (c *goldenCase) file() []byte {
	g := newGGUF(c.Arch).set("tokenizer.ggml.model", "no_vocab").set(c.Arch+".vocab_size", uint32(c.Vocab))
	for key, value := range c.Keys {
		key = c.Arch + "." + key
		switch v := value.(type) {
		case float64:
			if v == math.Trunc(v) {
				g.set(key, uint32(v))
			} else {
				g.set(key, float32(v))
			}
		case []any:
			if _, bools := v[0].(bool); bools {
				list := make([]bool, len(v))
				for i := range v {
					list[i] = v[i].(bool)
				}
				g.set(key, list)
				continue
			}
			list := make([]int32, len(v))
			for i := range v {
				list[i] = int32(v[i].(float64))
			}
			g.set(key, list)
		case bool:
			g.set(key, v)
		case string:
			g.set(key, v)
		}
	}
	return g.tensor("t", 1, 8).bytes()
}

func (e *Estimation) named(names ...string) (mib float64) {
	for _, t := range e.Terms {
		for _, name := range names {
			if t.Name == name {
				mib += float64(t.Bytes) / (1 << 20)
			}
		}
	}
	return mib
}

// The cases are recorded elsewhere; see TestEstimate_ByHand for some of our own.
func TestEstimate_RecordedCases_CacheExactAndComputeBounded(t *testing.T) {
	b, err := os.ReadFile(filepath.FromSlash("../../shared/field/footprint/golden.json"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the recorded cases are not here")
	}
	must(t, err)
	var cases []goldenCase
	must(t, json.Unmarshal(b, &cases))
	dir := t.TempDir()
	lowest, highest := math.Inf(1), 0.0
	for _, c := range cases {
		path := filepath.Join(dir, c.Model+".gguf")
		if _, err := os.Stat(path); err != nil {
			must(t, os.WriteFile(path, c.file(), 0o644))
		}
		e, err := Estimate(path, c.options(t))
		if err != nil {
			t.Errorf("%s %s: %v", c.Model, c.Options, err)
			continue
		}
		kv, rs := 0.0, 0.0
		for _, x := range c.KV {
			kv += x[0]
		}
		for _, x := range c.RS {
			rs += x
		}
		near := func(what string, got, want, per float64) {
			if math.Abs(got-want) > 0.011+per*want {
				t.Errorf("%s %s: %s is %.2f MiB, want %.2f", c.Model, c.Options, what, got, want)
			}
		}
		near("cache", e.named("KV cache", "windowed KV cache", "indexer cache"), kv, 1e-5)
		near("state", e.named("recurrent state"), rs, 0)
		near("output", e.named("output buffer"), c.Output, 0)
		ratio := e.named("compute buffer") / c.Compute
		lowest, highest = min(lowest, ratio), max(highest, ratio)
		if ratio < 0.97 || ratio > 1.5 {
			t.Errorf("%s %s: the compute buffer is taken for %.2f MiB of %.2f", c.Model, c.Options, e.named("compute buffer"), c.Compute)
		}
	}
	t.Logf("%d cases; the compute buffer is taken for %.3f to %.3f of what it is", len(cases), lowest, highest)
}
