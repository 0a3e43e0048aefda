package llama_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
)

// split cuts a GGUF file into shards, as llama.cpp's gguf-split does, and returns their
// paths. The file is one that we have written.
func split(t *testing.T, whole, dir string, shards int) (paths []string) {
	t.Helper()
	const alignment = 32
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	at := 4
	u32 := func() uint32 { at += 4; return binary.LittleEndian.Uint32(b[at-4:]) }
	u64 := func() uint64 { at += 8; return binary.LittleEndian.Uint64(b[at-8:]) }
	text := func() { n := u64(); at += int(n) }
	widths := map[uint32]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
	value := func(kind uint32) {
		if kind == 8 {
			text()
		} else {
			at += widths[kind]
		}
	}
	u32() // the version
	tensors, pairs := int(u64()), u64()
	metadata := at
	for range pairs {
		text()
		if kind := u32(); kind == 9 {
			kind, n := u32(), u64()
			for range n {
				value(kind)
			}
		} else {
			value(kind)
		}
	}
	meta := b[metadata:at]
	heads, offsets := make([][]byte, tensors), make([]uint64, tensors+1)
	for i := range tensors {
		begin := at
		text()
		at += 8 * int(u32())
		u32() // the type
		heads[i] = b[begin:at]
		offsets[i] = u64()
	}
	data := b[(at+alignment-1)/alignment*alignment:]
	offsets[tensors] = uint64(len(data))

	pair := func(out *bytes.Buffer, key string, kind uint32, value any) {
		binary.Write(out, binary.LittleEndian, uint64(len(key)))
		out.WriteString(key)
		binary.Write(out, binary.LittleEndian, kind)
		binary.Write(out, binary.LittleEndian, value)
	}
	for no := range shards {
		from, to := tensors*no/shards, tensors*(no+1)/shards
		var out bytes.Buffer
		out.WriteString("GGUF")
		binary.Write(&out, binary.LittleEndian, uint32(3))
		binary.Write(&out, binary.LittleEndian, uint64(to-from))
		count := uint64(3)
		if no == 0 {
			count += pairs
		}
		binary.Write(&out, binary.LittleEndian, count)
		if no == 0 {
			out.Write(meta)
		}
		pair(&out, "split.no", 2, uint16(no))
		pair(&out, "split.count", 2, uint16(shards))
		pair(&out, "split.tensors.count", 5, int32(tensors))
		for i := from; i < to; i++ {
			out.Write(heads[i])
			binary.Write(&out, binary.LittleEndian, offsets[i]-offsets[from])
		}
		out.Write(make([]byte, -out.Len()&(alignment-1)))
		out.Write(data[offsets[from]:offsets[to]])
		path := filepath.Join(dir, fmt.Sprintf("x-%05d-of-%05d.gguf", no+1, shards))
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func TestLoad_SplitModelOfWhichAnyShardIsNamed_AnswersAsTheWhole(t *testing.T) {
	l := llamatest.Open(t)
	whole := llamatest.File(t, small)
	paths := split(t, whole, t.TempDir(), 3)
	answer := func(path string) string {
		m, err := l.Load(t.Context(), path, llama.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		return decode(t, m, 8)
	}
	want := answer(whole)
	for _, named := range append(paths, filepath.Dir(paths[0])) {
		models, errs := hotload.Gather([]tier.Model{{Name: "x", Path: named}}, "")
		if errs[0] != nil || len(models[0].Parts) != 2 {
			t.Fatalf("%s: %+v, %v", named, models[0], errs[0])
		}
		if got := answer(models[0].Path); got != want {
			t.Errorf("%s answers %q, the whole %q", named, got, want)
		}
	}
	if _, err := l.Load(t.Context(), paths[1], llama.Options{}); err == nil {
		t.Error("llama.cpp takes a later shard: the entry may be any")
	}
}
