package hotload

import (
	"os"
	"path/filepath"
	"testing"
)

// One tensor of each kind that matters, and how many thousandths of it are copied.
func TestEstimate_Copies_ByProcessorAndQuantisation(t *testing.T) {
	const q4_0, q8_0, q4_k, q6_k, bf16 = 2, 8, 12, 14, 30
	for _, c := range []struct {
		name                       string
		tensor                     string
		kind                       uint32
		shape                      []uint64
		amx, avx512, avx2, arm, no uint64
	}{
		{"Q4_0", "blk.0.ffn_up.weight", q4_0, []uint64{256, 64}, 1000, 1000, 1000, 1000, 0},
		{"Q8_0", "blk.0.ffn_up.weight", q8_0, []uint64{256, 64}, 1118, 0, 0, 1000, 0},
		{"Q4_K", "blk.0.ffn_up.weight", q4_k, []uint64{256, 64}, 1028, 1000, 1000, 1000, 0},
		{"Q6_K", "blk.0.ffn_up.weight", q6_k, []uint64{256, 64}, 1000, 0, 0, 1000, 0},
		{"BF16", "blk.0.ffn_up.weight", bf16, []uint64{256, 64}, 0, 0, 0, 0, 0},
		{"rows too few for AMX", "blk.0.attn_k.weight", q4_k, []uint64{256, 8}, 1000, 1000, 1000, 1000, 0},
		{"rows too few for AMX, of a kind that nothing else takes", "blk.0.attn_k.weight", q8_0, []uint64{256, 8}, 0, 0, 0, 1000, 0},
		{"rows too few", "blk.0.attn_k.weight", q4_k, []uint64{256, 12}, 0, 0, 0, 0, 0},
		{"experts", "blk.0.ffn_up_exps.weight", q4_k, []uint64{256, 64, 4}, 1000, 1000, 1000, 1000, 0},
		{"experts of a kind that AMX alone takes", "blk.0.ffn_up_exps.weight", q6_k, []uint64{256, 64, 4}, 0, 0, 0, 1000, 0},
		{"tokens, which are the output too", "token_embd.weight", q4_k, []uint64{256, 64}, 1028, 1000, 1000, 1000, 0},
		{"rows that are looked up", "per_layer_token_embd.weight", q4_k, []uint64{256, 64}, 0, 0, 0, 0, 0},
		{"bias", "blk.0.attn_k.bias", q4_k, []uint64{256, 64}, 0, 0, 0, 0, 0},
		{"vector", "blk.0.attn_norm.weight", q4_k, []uint64{256}, 0, 0, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			tally := newWeightTally()
			shape := [ggufMaxDimensions]uint64{1, 1, 1, 1}
			copy(shape[:], c.shape)
			tally.add(c.tensor, c.kind, shape, 1_000_000)
			for p, want := range map[Processor]uint64{ProcessorAMX: c.amx, ProcessorAVX512: c.avx512, ProcessorAVX2: c.avx2, ProcessorARM: c.arm, ProcessorPlain: c.no} {
				if got := tally.copied(p); uint64(got) != 1000*want {
					t.Errorf("%s: %d of 1 000 000 bytes are copied, want %d", p, got, 1000*want)
				}
			}
		})
	}
	tied := newWeightTally()
	tied.add("token_embd.weight", q4_k, [ggufMaxDimensions]uint64{256, 64, 1, 1}, 1000)
	tied.add("output.weight", q6_k, [ggufMaxDimensions]uint64{256, 64, 1, 1}, 10)
	if got := tied.copied(ProcessorAMX); got != 10 {
		t.Errorf("%d bytes are copied of tokens that have an output beside them", got)
	}
}

func TestProcessor_Libraries_TheBestThatRuns(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
		p     Processor
		want  Processor
	}{
		{"all", []string{"sapphirerapids", "zen4", "haswell", "x64"}, ProcessorAMX, ProcessorAMX},
		{"without AMX", []string{"zen4", "haswell", "x64"}, ProcessorAMX, ProcessorAVX512},
		{"more than it can", []string{"sapphirerapids", "haswell", "x64"}, ProcessorAVX512, ProcessorAVX2},
		{"plain", []string{"x64"}, ProcessorAVX512, ProcessorPlain},
		{"no variants", nil, ProcessorAVX2, ProcessorAVX2},
		{"ARM", []string{"armv8.0_1", "armv8.2_2"}, ProcessorARM, ProcessorARM},
		{"another's", []string{"sapphirerapids"}, ProcessorARM, ProcessorPlain},
	} {
		dir := t.TempDir()
		plant(t, dir, map[string]string{"libggml-base.so": "x", "libggml.so": "x"})
		for _, f := range c.files {
			must(t, os.WriteFile(filepath.Join(dir, "libggml-cpu-"+f+".so"), nil, 0o644))
		}
		if got, err := c.p.usedBy(dir); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
