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

// fieldFile reads a file of the captures, which are not part of the project.
func fieldFile(t testing.TB, name string) []string {
	t.Helper()
	lines, err := readField(name)
	if err != nil {
		t.Skipf("the captured files are not here: %v", err)
	}
	return lines
}

func readField(name string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join("../../shared/field/jetson", name))
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), err
}

func TestParse_Captures_NothingUnknownAndPrintsBack(t *testing.T) {
	for i, line := range fieldFile(t, "tegrastats_lines.txt") {
		r, err := Parse(line)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		if len(r.Unknown) > 0 {
			t.Errorf("line %d: unknown %q", i+1, r.Unknown)
		}
		if diff := cmp.Diff(r, mustParse(t, r.String())); diff != "" {
			t.Errorf("line %d prints as\n%q, which differs (-first +again):\n%s", i+1, r, diff)
		}
		if n := testing.AllocsPerRun(10, func() { Parse(line) }); n > 4 {
			t.Errorf("line %d: %v allocations", i+1, n)
		}
	}
}

// BenchmarkParse_Captures takes the captures in turn, and the longest of them (a
// Thor's) by itself.
func BenchmarkParse_Captures(b *testing.B) {
	lines := fieldFile(b, "tegrastats_lines.txt")
	longest := slices.MaxFunc(lines, func(a, b string) int { return stdcmp.Compare(len(a), len(b)) })
	for name, lines := range map[string][]string{"all": lines, "longest": {longest}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := Parse(lines[i%len(lines)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The oracle reads each kind of item with a pattern of its own, in whatever place
// it finds it, and so makes other mistakes than the parser.
var (
	oracleRAM   = regexp.MustCompile(`RAM (\d+)/(\d+)MB \(lfb (\d+)x(\d+)([kM])B\)`)
	oracleSwap  = regexp.MustCompile(`SWAP (\d+)/(\d+)MB \(cached (\d+)MB\)`)
	oracleCores = regexp.MustCompile(`[cC][pP][uU] \[([^\]]*)\]`)
	oracleTemp  = regexp.MustCompile(`(\w+)@(-?[\d.]+)C(?:/(-?[\d.]+)C)?(?: |$)`)
	oracleRail  = regexp.MustCompile(`(\w+) +(\d+)(?:mW)?/(\d+)(?:mW)?(?:/(\d+)mW)?(?: |$)`)
	oracleLoad  = regexp.MustCompile(`(\w+) +(\d+)%`)
	oracleOff   = regexp.MustCompile(`(\w+) +off(?: |$)`)
	oracleTime  = regexp.MustCompile(`^(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) `)
)

func TestParse_Captures_AgreeWithPatterns(t *testing.T) {
	whole := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, line := range fieldFile(t, "tegrastats_lines.txt") {
		t.Run(fmt.Sprint("line", i+1), func(t *testing.T) {
			r := mustParse(t, line)
			ram := oracleRAM.FindStringSubmatch(line)
			unit := map[string]tier.Bytes{"k": tier.KiB, "M": tier.MiB}[ram[5]]
			if r.RAMUsed != tier.Bytes(whole(ram[1]))*mib || r.RAMTotal != tier.Bytes(whole(ram[2]))*mib ||
				int64(r.LargestFreeBlocks) != whole(ram[3]) || r.LargestFreeBlock != tier.Bytes(whole(ram[4]))*unit {
				t.Errorf("RAM %v of %v, lfb %d of %v", r.RAMUsed, r.RAMTotal, r.LargestFreeBlocks, r.LargestFreeBlock)
			}
			swap := oracleSwap.FindStringSubmatch(line)
			if (swap != nil) != r.HasSwap {
				t.Errorf("HasSwap %v", r.HasSwap)
			}
			if swap != nil && (r.SwapUsed != tier.Bytes(whole(swap[1]))*mib || r.SwapTotal != tier.Bytes(whole(swap[2]))*mib || r.SwapCached != tier.Bytes(whole(swap[3]))*mib) {
				t.Errorf("SWAP %v of %v, cached %v", r.SwapUsed, r.SwapTotal, r.SwapCached)
			}
			stamp := oracleTime.FindStringSubmatch(line)
			if (stamp == nil) != r.Time.IsZero() || stamp != nil && r.Time.Format("01-02-2006 15:04:05") != stamp[1] {
				t.Errorf("time %v", r.Time)
			}
			cores := strings.Split(oracleCores.FindStringSubmatch(line)[1], ",")
			if len(cores) != len(r.CPUs) {
				t.Fatalf("%d cores of %d", len(r.CPUs), len(cores))
			}
			for k, core := range cores {
				if r.CPUs[k].Off() != (core == "off") || !r.CPUs[k].Off() && !strings.HasPrefix(core, fmt.Sprint(r.CPUs[k].Load.Value, "%")) {
					t.Errorf("core %d: %+v of %s", k, r.CPUs[k], core)
				}
			}
			temps := oracleTemp.FindAllStringSubmatch(line, -1)
			if len(temps) != len(r.Temperatures) {
				t.Fatalf("%d temperatures of %d", len(r.Temperatures), len(temps))
			}
			for k, m := range temps {
				now, _ := strconv.ParseFloat(m[2], 64)
				got := r.Temperatures[k]
				if got.Name != m[1] || got.Now != Celsius(now) || got.Max.Known != (m[3] != "") {
					t.Errorf("temperature %+v of %q", got, m[0])
				}
				if m[3] != "" {
					if highest, _ := strconv.ParseFloat(m[3], 64); got.Max.Value != Celsius(highest) {
						t.Errorf("temperature %+v of %q", got, m[0])
					}
				}
			}
			_, items, _ := strings.Cut(line, "]")
			rails := oracleRail.FindAllStringSubmatch(items, -1)
			if len(rails) != len(r.Rails) {
				t.Fatalf("%d rails of %d", len(r.Rails), len(rails))
			}
			for k, m := range rails {
				got := r.Rails[k]
				if got.Name != m[1] || int64(got.Now) != whole(m[2]) || int64(got.Average) != whole(m[3]) || got.Peak.Known != (m[4] != "") {
					t.Errorf("rail %+v of %q", got, m[0])
				}
				if m[4] != "" && int64(got.Peak.Value) != whole(m[4]) {
					t.Errorf("rail %+v of %q", got, m[0])
				}
			}
			for _, m := range oracleLoad.FindAllStringSubmatch(items, -1) {
				if m[1] == "fg" || m[1] == "bg" {
					continue
				}
				if e, ok := r.Engine(m[1]); !ok || int64(e.Load.Value) != whole(m[2]) || !e.Load.Known {
					t.Errorf("engine %+v of %q", e, m[0])
				}
			}
			for _, m := range oracleOff.FindAllStringSubmatch(items, -1) {
				if e, ok := r.Engine(m[1]); !ok || !e.Off || e.Load.Known || e.Freq.Known {
					t.Errorf("engine %+v of %q", e, m[0])
				}
			}
		})
	}
}

// In the run into the kernel's kill, swap fills while used memory goes on rising.
func TestParse_CapturedOOM_SwapFillsWhileRAMRises(t *testing.T) {
	lines := fieldFile(t, "tegrastats_lines.txt")
	if len(lines) < 79 {
		t.Skip("the captures are others")
	}
	first, last, after := mustParse(t, lines[72]), mustParse(t, lines[77]), mustParse(t, lines[78])
	if last.SwapUsed-first.SwapUsed < 4000*mib || last.RAMUsed <= first.RAMUsed || last.RAMUsed-after.RAMUsed < 10000*mib {
		t.Errorf("swap %v to %v, RAM %v to %v to %v", first.SwapUsed, last.SwapUsed, first.RAMUsed, last.RAMUsed, after.RAMUsed)
	}
}

func TestGuess_Captures_NamesTheBoard(t *testing.T) {
	lines, sources := fieldFile(t, "tegrastats_lines.txt"), fieldFile(t, "tegrastats_sources.tsv")
	if len(sources) != len(lines)+1 {
		t.Skip("the list of sources does not go with the lines")
	}
	told := 0
	for i, line := range lines {
		board := strings.Split(sources[i+1], "\t")[2]
		got := Guess(mustParse(t, line))
		if got == UnknownFamily {
			continue
		}
		told++
		if short := strings.TrimPrefix(string(got), "Jetson "); !strings.HasPrefix(board, short) {
			t.Errorf("line %d: %v, is of %s", i+1, got, board)
		}
	}
	if told < len(lines)*6/7 {
		t.Errorf("%d of %d lines told", told, len(lines))
	}
}

func TestReadMemory_CapturedMeminfo_FiguresAndFallbackAgree(t *testing.T) {
	for name, c := range map[string]struct {
		total, available tier.Bytes
		line             int // printed a second later, or 0
	}{
		"meminfo_orin_nano_8gb_r36.txt": {7802736 * tier.KiB, 6245596 * tier.KiB, 72},
		"meminfo_tx2_8gb_r32.txt":       {8038788 * tier.KiB, 5642288 * tier.KiB, 0},
	} {
		root := t.TempDir()
		writeTree(t, root, map[string]string{"proc/meminfo": strings.Join(fieldFile(t, name), "\n") + "\n"})
		m, err := (ownBytes{proc: filepath.Join(root, "proc")}).Memory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Total != c.total || m.Available != c.available || m.Source != "host" || m.Pressure.HasPSI {
			t.Errorf("%s: %+v", name, m)
		}
		if c.line == 0 {
			continue
		}
		// What tegrastats tells must not be more than what procfs tells, less the
		// margin that the estimate keeps, and not far from it.
		e := estimate(Sample{Reading: mustParse(t, fieldFile(t, "tegrastats_lines.txt")[c.line-1])})
		if off := m.Available - 512*mib - e.Available; off < 0 || off > 100*mib {
			t.Errorf("%s: procfs %v, tegrastats %v", name, m.Available, e.Available)
		}
	}
}
