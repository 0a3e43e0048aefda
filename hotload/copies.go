package hotload

import (
	"os"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/cpu"

	"github.com/modeltier/modeltier/tier"
)

// Processor is a kind of processor, as far as llama.cpp's copies of weights depend on it.
type Processor string

const (
	// ThisProcessor: that of this machine.
	ThisProcessor Processor = ""
	ProcessorAMX  Processor = "amx" // Sapphire Rapids and later
	// ProcessorAVX512, without AMX: Ice Lake, Zen 4.
	ProcessorAVX512 Processor = "avx512"
	ProcessorAVX2   Processor = "avx2" // Haswell, Zen 2 and 3
	ProcessorARM    Processor = "arm"  // 64 bits, with dot products
	// ProcessorPlain is any other: llama.cpp copies nothing.
	ProcessorPlain Processor = "plain"
)

// processors are all, the most able of a kind first.
var processors = []Processor{ProcessorAMX, ProcessorAVX512, ProcessorAVX2, ProcessorARM, ProcessorPlain}

// thisProcessor returns that of this machine.
func thisProcessor() Processor {
	switch x86, arm := cpu.X86, cpu.ARM64; {
	case x86.HasAMXTile && x86.HasAMXInt8:
		return ProcessorAMX
	case x86.HasAVX512F && x86.HasAVX512BW && x86.HasAVX512DQ && x86.HasAVX512VL && x86.HasAVX512CD:
		return ProcessorAVX512
	case x86.HasAVX2:
		return ProcessorAVX2
	case arm.HasASIMDDP, runtime.GOOS == "darwin" && runtime.GOARCH == "arm64":
		return ProcessorARM
	}
	return ProcessorPlain
}

// variants are the processors that the libraries of llama.cpp are built for, by their
// names: libggml-cpu-NAME.so. Source: the variants in ggml's src/CMakeLists.txt.
var variants = map[string]Processor{
	"sapphirerapids": ProcessorAMX,
	"zen4":           ProcessorAVX512, "icelake": ProcessorAVX512, "skylakex": ProcessorAVX512,
	"cannonlake": ProcessorAVX512, "cascadelake": ProcessorAVX512, "cooperlake": ProcessorAVX512,
	"alderlake": ProcessorAVX2, "haswell": ProcessorAVX2,
	"ivybridge": ProcessorPlain, "sandybridge": ProcessorPlain, "piledriver": ProcessorPlain,
	"sse42": ProcessorPlain, "x64": ProcessorPlain, "armv8.0_1": ProcessorPlain,
}

var variantName = regexp.MustCompile(`ggml-cpu-([A-Za-z0-9._]+)\.(?:so|dll|dylib)$`)

// usedBy returns the processor as which llama.cpp runs with the libraries in a folder: it
// takes the best that the processor can run, of those that are there. A folder without
// variants has one library, which was built for this processor as far as is known here.
func (p Processor) usedBy(libraries string) (Processor, error) {
	if libraries == "" {
		return p, nil
	}
	entries, err := os.ReadDir(libraries)
	if err != nil {
		return p, &tier.InvalidError{Field: "Libraries", Value: libraries, Rule: "must be a folder that can be read: " + err.Error()}
	}
	best, found := ProcessorPlain, false
	for _, e := range entries {
		name := variantName.FindStringSubmatch(e.Name())
		if name == nil {
			continue
		}
		found = true
		kind, known := variants[name[1]]
		if !known && (strings.HasPrefix(name[1], "arm") || strings.HasPrefix(name[1], "apple")) {
			kind, known = ProcessorARM, true
		}
		runs := kind == p || p != ProcessorARM && kind != ProcessorARM && rankOf(kind) >= rankOf(p)
		if known && runs && rankOf(kind) < rankOf(best) {
			best = kind
		}
	}
	if !found {
		return p, nil
	}
	return best, nil
}

func rankOf(p Processor) int {
	for i, q := range processors {
		if p == q {
			return i
		}
	}
	return len(processors)
}

// copying is what llama.cpp makes of a kind of weights on a processor: bytes of the copy,
// in thousandths of the original's; 0: none. Measured with the libraries sapphirerapids,
// icelake, haswell and x64 of llama.cpp 0.5.0; those of ARM are read in
// ggml-cpu/repack.cpp. Experts, which are in tensors of three dimensions, are another
// matter on AMX only.
type copying struct{ amx, amxExperts, avx512, avx2, arm uint64 }

var copyings = map[string]copying{
	"Q4_0":   {1000, 1000, 1000, 1000, 1000},
	"Q8_0":   {1118, 0, 0, 0, 1000},
	"Q4_1":   {1000, 0, 0, 0, 0},
	"Q4_K":   {1028, 1000, 1000, 1000, 1000},
	"Q5_K":   {1023, 0, 0, 0, 1000},
	"Q6_K":   {1000, 0, 0, 0, 1000},
	"Q2_K":   {1000, 1000, 1000, 0, 0},
	"IQ4_NL": {1000, 1000, 1000, 1000, 1000},
	"MXFP4":  {1000, 1000, 1000, 1000, 1000},
	"IQ4_XS": {1015, 0, 0, 0, 0},
	"F16":    {1000, 0, 0, 0, 0},
}

// of returns the thousandths on a processor. The rows of a repacked tensor are a multiple
// of 8, those of one for AMX of 32.
func (c copying) of(p Processor, w weightClass) uint64 {
	switch {
	case !w.eights:
		return 0
	case p == ProcessorAMX && w.experts, p == ProcessorAMX && !w.thirtyTwos:
		return c.amxExperts
	case p == ProcessorAMX:
		return c.amx
	case p == ProcessorAVX512:
		return c.avx512
	case p == ProcessorAVX2:
		return c.avx2
	case p == ProcessorARM:
		return c.arm
	}
	return 0
}

// weightTally is the weights of a model by what decides whether they are copied.
type weightTally struct {
	bytes  map[weightClass]uint64
	embeds map[weightClass]uint64 // the table of tokens, which is copied only if it is the output too
	output bool                   // there is an output of its own
}

func newWeightTally() *weightTally {
	return &weightTally{bytes: make(map[weightClass]uint64), embeds: make(map[weightClass]uint64)}
}

type weightClass struct {
	kind                        uint32 // the number in ggmlTypes
	experts, eights, thirtyTwos bool
}

// lookups are tensors whose rows are looked up, and never multiplied with.
var lookups = map[string]bool{"per_layer_token_embd.weight": true, "position_embd.weight": true, "token_types.weight": true}

func (t *weightTally) add(name string, kind uint32, shape [ggufMaxDimensions]uint64, bytes uint64) {
	t.output = t.output || name == "output.weight"
	if shape[1] <= 1 || lookups[name] || !strings.HasSuffix(name, ".weight") {
		return
	}
	c := weightClass{kind: kind, experts: shape[2] > 1, eights: shape[1]%8 == 0, thirtyTwos: shape[1]%32 == 0}
	if name == "token_embd.weight" {
		t.embeds[c] += bytes
	} else {
		t.bytes[c] += bytes // a sum of bytes that a file has
	}
}

// join adds the weights of another file.
func (t *weightTally) join(u *weightTally) {
	t.output = t.output || u.output
	for class, n := range u.bytes {
		t.bytes[class] += n
	}
	for class, n := range u.embeds {
		t.embeds[class] += n
	}
}

// copied returns the bytes of the copies that llama.cpp makes on a processor.
func (t *weightTally) copied(p Processor) (sum tier.Bytes) {
	all := []map[weightClass]uint64{t.bytes, t.embeds}
	if t.output {
		all = all[:1]
	}
	for _, bytes := range all {
		for class, n := range bytes {
			part := copyings[ggmlTypeOf(class.kind).name].of(p, class)
			sum = sum.Plus(times(n/1000, part)).Plus(times(n%1000, part) / 1000)
		}
	}
	return sum
}
