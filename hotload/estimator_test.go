package hotload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestEstimator_FileUnchanged_IsNotReadAgain(t *testing.T) {
	k := keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "context_length": 512}
	path := planted(t, shaped("llama", 10, k))
	var r Estimator
	first, err := r.Estimate(path, EstimateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.Stat(path)
	must(t, err)
	k["block_count"] = 4
	write := func(at time.Time) {
		must(t, os.WriteFile(path, shaped("llama", 10, k).bytes(), 0o644))
		must(t, os.Chtimes(path, at, at))
	}
	write(stat.ModTime()) // as if nothing had happened
	if again, err := r.Estimate(path, EstimateOptions{}); err != nil || again.Runtime() != first.Runtime() {
		t.Errorf("it was read again: %v, %v", &again, err)
	}
	if other, err := r.Estimate(path, EstimateOptions{Slots: 1}); err != nil || other.Runtime() == first.Runtime() {
		t.Errorf("for one slot: %v, %v", &other, err)
	}
	write(stat.ModTime().Add(time.Second))
	if again, err := r.Estimate(path, EstimateOptions{}); err != nil || again.Runtime() <= first.Runtime() {
		t.Errorf("it was not read again: %v, %v", &again, err)
	}
	must(t, os.Remove(path))
	if _, err := r.Estimate(path, EstimateOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a file that is gone: %v", err)
	}
}

func TestEstimator_Set_EachOfItsFilesAndTheirFolderCounts(t *testing.T) {
	dir := t.TempDir()
	first := shaped("llama", 1000, keys{"block_count": 2, "embedding_length": 64, "attention.head_count": 1, "context_length": 512})
	second := newGGUF("").tensor("blk.1.ffn_up.weight", 2, 64, 64)
	for i, g := range []*ggufFile{first, second} {
		g.set("split.no", uint16(i)).set("split.count", uint16(2))
	}
	plant(t, dir, map[string]string{"m-00001-of-00002.gguf": string(first.bytes()), "m-00002-of-00002.gguf": string(second.bytes())})
	entry, other := filepath.Join(dir, "m-00001-of-00002.gguf"), filepath.Join(dir, "m-00002-of-00002.gguf")
	for _, parts := range [][]string{nil, {other}} {
		var r Estimator
		before, err := r.Estimate(entry, EstimateOptions{}, parts...)
		must(t, err)
		stat, err := os.Stat(other)
		must(t, err)
		write := func(content []byte, at time.Time) {
			must(t, os.WriteFile(other, content, 0o644))
			must(t, os.Chtimes(other, at, at))
		}
		write(make([]byte, stat.Size()), stat.ModTime()) // as if nothing had happened
		if again, err := r.Estimate(entry, EstimateOptions{}, parts...); err != nil || again.Runtime() != before.Runtime() {
			t.Errorf("the other shard was read again: %v, %v", &again, err)
		}
		write(make([]byte, stat.Size()), stat.ModTime().Add(time.Second))
		if again, err := r.Estimate(entry, EstimateOptions{}, parts...); err == nil {
			t.Errorf("the other shard was not read again: %v", &again)
		}
		write(second.bytes(), stat.ModTime())
		if again, err := r.Estimate(entry, EstimateOptions{}, parts...); err != nil || again.Runtime() != before.Runtime() {
			t.Errorf("with the other shard back: %v, %v", &again, err)
		}
	}
	var r Estimator
	before, err := r.Estimate(entry, EstimateOptions{})
	must(t, err)
	plant(t, dir, map[string]string{"mmproj-m.gguf": projector()})
	must(t, os.Chtimes(dir, time.Time{}, time.Now().Add(time.Second))) // clocks of file systems tick
	if again, err := r.Estimate(entry, EstimateOptions{}); err != nil || again.Size <= before.Size {
		t.Errorf("a projector that came was not seen: %v, %v", &again, err)
	}
}

func TestLlamaFlags_WhatMatters_IsTaken(t *testing.T) {
	for _, c := range []struct {
		flags string
		want  EstimateOptions
	}{
		{"", EstimateOptions{}},
		{"-m x.gguf --port 8080 -c 8192 -np 2 -t 4", EstimateOptions{Context: 8192, Slots: 2}},
		{"--ctx-size=8192 --parallel=2 --ubatch-size 1024", EstimateOptions{Context: 8192, Slots: 2, BatchTokens: 1024}},
		{"-np -1 -c 0", EstimateOptions{}},
		{"-ctk q8_0 --cache-type-v q4_0 -kvu --swa-full", EstimateOptions{CacheTypeK: "q8_0", CacheTypeV: "q4_0", Unified: true, FullWindow: true}},
		{"-fa off -c 1", EstimateOptions{FlashAttention: "off", Context: 1}},
		{"-fa -c 1", EstimateOptions{Context: 1}}, // as it was once
		{"--flash-attn 1", EstimateOptions{FlashAttention: "on"}},
		{"--no-mmap --no-repack -libs /l", EstimateOptions{NoMmap: true, NoRepack: true, Libraries: "/l"}},
		{"--load-mode dio", EstimateOptions{NoMmap: true}},
		{"--load-mode mmap+mlock", EstimateOptions{}},
		{"c 5 np", EstimateOptions{}},
	} {
		if got, err := (EstimateOptions{}).LlamaFlags(strings.Fields(c.flags)); err != nil || got != c.want {
			t.Errorf("%q: %+v, %v; want %+v", c.flags, got, err, c.want)
		}
	}
	for _, flags := range []string{"-c many", "-np", "-c="} {
		_, err := (EstimateOptions{}).LlamaFlags(strings.Fields(flags))
		if fault, ok := errors.AsType[*tier.InvalidError](err); !ok || fault.Field != strings.TrimSuffix(strings.Fields(flags)[0], "=") {
			t.Errorf("%q: %v", flags, err)
		}
	}
}
