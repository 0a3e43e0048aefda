package jetson

import (
	stdcmp "cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

// captured returns a file of real captures, which are not part of the project.
func captured(t testing.TB, name string) []string {
	t.Helper()
	lines, err := readCapture(name)
	if err != nil {
		t.Skipf("the captures are not here: %v", err)
	}
	return lines
}

func readCapture(name string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join("../../shared/field/jetson", name))
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), err
}

// eachLine runs a test on the project's own lines, and on the captures if they are
// here.
func eachLine(t *testing.T, test func(t *testing.T, line string)) {
	for source, lines := range map[string]func(testing.TB) []string{
		"own":      ownLines,
		"captured": func(t testing.TB) []string { return captured(t, "tegrastats_lines.txt") },
	} {
		t.Run(source, func(t *testing.T) {
			for i, line := range lines(t) {
				t.Run(fmt.Sprint("line", i+1), func(t *testing.T) { test(t, line) })
			}
		})
	}
}

func TestParse_Lines_NothingUnknownAndPrintsBack(t *testing.T) {
	eachLine(t, checkPrintsBack)
}

func TestParse_Lines_OneAllocation(t *testing.T) {
	eachLine(t, func(t *testing.T, line string) {
		if n := testing.AllocsPerRun(10, func() { Parse(line) }); n > 1 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestParse_Lines_AgreeWithPatterns(t *testing.T) {
	eachLine(t, checkPatterns)
}

// The patterns find each kind of item at any place, and so make other mistakes than
// the parser.
var (
	patternRAM   = regexp.MustCompile(`RAM (\d+)/(\d+)MB \(lfb (\d+)x(\d+)([kM])B\)`)
	patternSwap  = regexp.MustCompile(`SWAP (\d+)/(\d+)MB \(cached (\d+)MB\)`)
	patternCores = regexp.MustCompile(`[cC][pP][uU] \[([^\]]*)\]`)
	patternTemp  = regexp.MustCompile(`(\w+)@(-?[\d.]+)C(?:/(-?[\d.]+)C)?(?: |$)`)
	patternRail  = regexp.MustCompile(`(\w+) +(\d+)(?:mW)?/(\d+)(?:mW)?(?:/(\d+)mW)?(?: |$)`)
	patternLoad  = regexp.MustCompile(`(\w+) +(\d+)%`)
	patternOff   = regexp.MustCompile(`(\w+) +off(?: |$)`)
	patternTime  = regexp.MustCompile(`^(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) `)
)

func checkPatterns(t *testing.T, line string) {
	whole := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	r := mustParse(t, line)
	ram := patternRAM.FindStringSubmatch(line)
	unit := map[string]tier.Bytes{"k": tier.KiB, "M": tier.MiB}[ram[5]]
	if r.RAMUsed != tier.Bytes(whole(ram[1]))*mib || r.RAMTotal != tier.Bytes(whole(ram[2]))*mib ||
		int64(r.LargestFreeBlocks) != whole(ram[3]) || r.LargestFreeBlock != tier.Bytes(whole(ram[4]))*unit {
		t.Errorf("RAM %v of %v, lfb %d of %v", r.RAMUsed, r.RAMTotal, r.LargestFreeBlocks, r.LargestFreeBlock)
	}
	swap := patternSwap.FindStringSubmatch(line)
	if (swap != nil) != r.HasSwap {
		t.Errorf("HasSwap %v", r.HasSwap)
	}
	if swap != nil && (r.SwapUsed != tier.Bytes(whole(swap[1]))*mib || r.SwapTotal != tier.Bytes(whole(swap[2]))*mib || r.SwapCached != tier.Bytes(whole(swap[3]))*mib) {
		t.Errorf("SWAP %v of %v, cached %v", r.SwapUsed, r.SwapTotal, r.SwapCached)
	}
	stamp := patternTime.FindStringSubmatch(line)
	if (stamp == nil) != r.Time.IsZero() || stamp != nil && r.Time.Format("01-02-2006 15:04:05") != stamp[1] {
		t.Errorf("time %v", r.Time)
	}
	cores := strings.Split(patternCores.FindStringSubmatch(line)[1], ",")
	if len(cores) != len(r.CPUs) {
		t.Fatalf("%d cores of %d", len(r.CPUs), len(cores))
	}
	for k, core := range cores {
		if r.CPUs[k].Off() != (core == "off") || !r.CPUs[k].Off() && !strings.HasPrefix(core, fmt.Sprint(r.CPUs[k].Load.Value, "%")) {
			t.Errorf("core %d: %+v of %s", k, r.CPUs[k], core)
		}
	}
	temps := patternTemp.FindAllStringSubmatch(line, -1)
	if len(temps) != len(r.Temperatures) {
		t.Fatalf("%d temperatures of %d", len(r.Temperatures), len(temps))
	}
	for k, m := range temps {
		now, _ := strconv.ParseFloat(m[2], 64)
		highest, _ := strconv.ParseFloat(m[3], 64) // 0 without one
		want := Temperature{Name: m[1], Now: Celsius(now), Max: Opt[Celsius]{Value: Celsius(highest), Known: m[3] != ""}}
		if got := r.Temperatures[k]; got != want {
			t.Errorf("temperature %+v of %q", got, m[0])
		}
	}
	_, items, _ := strings.Cut(line, "]")
	rails := patternRail.FindAllStringSubmatch(items, -1)
	if len(rails) != len(r.Rails) {
		t.Fatalf("%d rails of %d", len(r.Rails), len(rails))
	}
	for k, m := range rails {
		want := Rail{Name: m[1], Now: Milliwatts(whole(m[2])), Average: Milliwatts(whole(m[3]))}
		if m[4] != "" {
			want.Peak = Some(Milliwatts(whole(m[4])))
		}
		if got := r.Rails[k]; got != want {
			t.Errorf("rail %+v of %q", got, m[0])
		}
	}
	for _, m := range patternLoad.FindAllStringSubmatch(items, -1) {
		if m[1] == "fg" || m[1] == "bg" {
			continue
		}
		if e, ok := r.Engine(m[1]); !ok || int64(e.Load.Value) != whole(m[2]) || !e.Load.Known {
			t.Errorf("engine %+v of %q", e, m[0])
		}
	}
	for _, m := range patternOff.FindAllStringSubmatch(items, -1) {
		if e, ok := r.Engine(m[1]); !ok || !e.Off || e.Load.Known || e.Freq.Known {
			t.Errorf("engine %+v of %q", e, m[0])
		}
	}
}

// ownMeminfo is made up: 7620 MiB, of which tegrastats counts 1405 as used (without
// free, buffers and cached), and tmpfs and reserves keep 250 more from being
// available.
const ownMeminfo = `MemTotal:        7802880 kB
MemFree:         4096000 kB
MemAvailable:    6108160 kB
Buffers:           51200 kB
Cached:          2216960 kB
Shmem:            174080 kB
SwapTotal:       3901440 kB
SwapFree:        3901440 kB
CmaTotal:         262144 kB
HugePages_Total:       0
`

func TestReadMemory_Meminfo_FiguresAndEstimateAgree(t *testing.T) {
	for name, c := range map[string]struct {
		text             string // "": captured
		total, available tier.Bytes
		line             func(t *testing.T) string // printed at about that time; nil: none
	}{
		"own": {ownMeminfo, 7802880 * tier.KiB, 6108160 * tier.KiB, func(*testing.T) string {
			return "RAM 1405/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729]"
		}},
		"meminfo_orin_nano_8gb_r36.txt": {"", 7802736 * tier.KiB, 6245596 * tier.KiB, func(t *testing.T) string {
			return captured(t, "tegrastats_lines.txt")[71]
		}},
		"meminfo_tx2_8gb_r32.txt": {"", 8038788 * tier.KiB, 5642288 * tier.KiB, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if c.text == "" {
				c.text = strings.Join(captured(t, name), "\n") + "\n"
			}
			root := t.TempDir()
			writeTree(t, root, map[string]string{"proc/meminfo": c.text})
			m, err := (ownBytes{proc: filepath.Join(root, "proc")}).Memory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			m.At, m.Notes = m.At.Truncate(0), ""
			if diff := cmp.Diff(tier.Memory{At: m.At, Total: c.total, Available: c.available, Source: "host"}, m); diff != "" {
				t.Errorf("memory (-want +got):\n%s", diff)
			}
			if c.line == nil {
				return
			}
			// The estimate keeps a margin of 512 MiB, is not above procfs, and is close to it.
			e := estimate(Sample{Reading: mustParse(t, c.line(t))})
			if off := m.Available - 512*mib - e.Available; off < 0 || off > 100*mib {
				t.Errorf("procfs %v, tegrastats %v", m.Available, e.Available)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	lines := ownLines(b)
	for name, line := range map[string]string{"orin-nano": lines[0], "orin-nano-r39-root": lines[3], "agx-orin-root": lines[6], "thor-root": lines[7]} {
		b.Run(name, func(b *testing.B) { benchmarkParse(b, line) })
	}
}

// BenchmarkParse_Captures takes the captures in turn, and the longest of them (a
// Thor's) alone.
func BenchmarkParse_Captures(b *testing.B) {
	lines := captured(b, "tegrastats_lines.txt")
	b.Run("all", func(b *testing.B) { benchmarkParse(b, lines...) })
	b.Run("longest", func(b *testing.B) {
		benchmarkParse(b, slices.MaxFunc(lines, func(a, b string) int { return stdcmp.Compare(len(a), len(b)) }))
	})
}

func benchmarkParse(b *testing.B, lines ...string) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := Parse(lines[i%len(lines)]); err != nil {
			b.Fatal(err)
		}
	}
}
