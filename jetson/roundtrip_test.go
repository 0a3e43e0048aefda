package jetson

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

// dialect is one of the ways in which releases print a Reading. The zero dialect is
// that of the newest release.
type dialect struct {
	lowerCPU bool   // "cpu [", as L4T R28 and older
	shared   bool   // "[1%,2%]@1734": one frequency for all cores, where they have one
	bare     bool   // rails without "mW", before JetPack 5
	bracket  bool   // "7%@[114]" for an engine without clusters
	blanks   string // between items
	// next returns which of n lists of items goes on. nil: the first.
	next func(n int) int
}

// print is the inverse of Parse, but for Unknown, which it does not print.
func (d dialect) print(r Reading) string {
	var head []string
	if !r.Time.IsZero() {
		head = append(head, r.Time.Format("01-02-2006 15:04:05"))
	}
	ram := "RAM " + share(r.RAMUsed, r.RAMTotal)
	if r.LargestFreeBlock != 0 {
		ram += fmt.Sprintf(" (lfb %dx%s)", r.LargestFreeBlocks, size(r.LargestFreeBlock))
	}
	head = append(head, ram)
	if r.HasSwap {
		head = append(head, fmt.Sprintf("SWAP %s (cached %s)", share(r.SwapUsed, r.SwapTotal), size(r.SwapCached)))
	}
	if m, ok := r.IRAM.Get(); ok {
		head = append(head, fmt.Sprintf("IRAM %s(lfb %s)", share(m.Used, m.Total), size(m.LargestFreeBlock)))
	}
	if len(r.CPUs) > 0 {
		head = append(head, d.cores(r.CPUs))
	}
	var engines, temperatures, rails, others []string
	for _, e := range r.Engines {
		engines = append(engines, e.Name+" "+d.engine(e))
	}
	for _, t := range r.Temperatures {
		text := t.Name + "@" + celsius(t.Now)
		if highest, ok := t.Max.Get(); ok {
			text += "/" + celsius(highest)
		}
		temperatures = append(temperatures, text)
	}
	unit := "mW"
	if d.bare {
		unit = ""
	}
	for _, rail := range r.Rails {
		text := fmt.Sprintf("%s %d%s/%d%s", rail.Name, rail.Now, unit, rail.Average, unit)
		if peak, ok := rail.Peak.Get(); ok {
			text += fmt.Sprintf("/%d%s", peak, unit)
		}
		rails = append(rails, text)
	}
	if m, ok := r.MTS.Get(); ok {
		others = append(others, fmt.Sprintf("MTS fg %d%% bg %d%%", m.Foreground, m.Background))
	}
	if f, ok := r.EDPLimit.Get(); ok {
		others = append(others, fmt.Sprintf("EDP limit %d", f/MHz))
	}
	items := head
	lists := [][]string{engines, others, temperatures, rails}
	for {
		lists = slices.DeleteFunc(lists, func(l []string) bool { return len(l) == 0 })
		if len(lists) == 0 {
			return strings.Join(items, " "+d.blanks)
		}
		i := 0
		if d.next != nil {
			i = d.next(len(lists))
		}
		items = append(items, lists[i][0])
		lists[i] = lists[i][1:]
	}
}

func (d dialect) cores(cpus []CPU) string {
	word, suffix := "CPU", ""
	if d.lowerCPU {
		word = "cpu"
	}
	on := slices.DeleteFunc(slices.Clone(cpus), CPU.Off)
	same := len(on) > 0 && on[0].Freq.Known && !slices.ContainsFunc(on, func(c CPU) bool { return c.Freq != on[0].Freq })
	if d.shared && same {
		suffix = fmt.Sprint("@", int64(on[0].Freq.Value/MHz))
	}
	var texts []string
	for _, c := range cpus {
		text := "off"
		if load, ok := c.Load.Get(); ok {
			text = fmt.Sprint(load, "%")
		}
		if f, ok := c.Freq.Get(); ok && suffix == "" {
			text += fmt.Sprint("@", int64(f/MHz))
		}
		texts = append(texts, text)
	}
	return word + " [" + strings.Join(texts, ",") + "]" + suffix
}

func (d dialect) engine(e Engine) string {
	if e.Off {
		return "off"
	}
	var loads, freqs []string
	for _, c := range e.Clusters {
		if load, ok := c.Load.Get(); ok {
			loads = append(loads, fmt.Sprint(load, "%"))
		}
		if f, ok := c.Freq.Get(); ok {
			freqs = append(freqs, fmt.Sprint(int64(f/MHz)))
		}
	}
	text := ""
	if len(loads) > 0 {
		text = "[" + strings.Join(loads, ",") + "]"
	} else if load, ok := e.Load.Get(); ok {
		text = fmt.Sprint(load, "%")
	}
	f, ok := e.Freq.Get()
	switch {
	case len(freqs) > 0:
		text += "@[" + strings.Join(freqs, ",") + "]"
	case ok && d.bracket:
		text += fmt.Sprintf("@[%d]", f/MHz)
	case ok:
		text += fmt.Sprintf("@%d", f/MHz)
	}
	return text
}

func celsius(c Celsius) string { return strconv.FormatFloat(float64(c), 'f', -1, 64) + "C" }

// share returns "used/total" in the largest unit in which both are whole.
func share(used, total tier.Bytes) string {
	u, name := wholeUnit(used | total)
	return fmt.Sprintf("%d/%d%s", used/u, total/u, name)
}

func size(n tier.Bytes) string {
	u, name := wholeUnit(n)
	return fmt.Sprintf("%d%s", n/u, name)
}

func wholeUnit(n tier.Bytes) (tier.Bytes, string) {
	switch {
	case n%tier.MiB == 0:
		return tier.MiB, "MB"
	case n%tier.KiB == 0:
		return tier.KiB, "kB"
	}
	return 1, "B"
}

func genOpt[T any](g *rapid.Generator[T]) *rapid.Generator[Opt[T]] {
	return rapid.Custom(func(t *rapid.T) Opt[T] {
		if rapid.Bool().Draw(t, "known") {
			return Some(g.Draw(t, "value"))
		}
		return Opt[T]{}
	})
}

var (
	genName    = rapid.StringMatching(`[A-Za-z][A-Za-z0-9_]{0,15}`)
	genPercent = rapid.Custom(func(t *rapid.T) Percent { return Percent(rapid.IntRange(0, 100).Draw(t, "percent")) })
	genHertz   = rapid.Custom(func(t *rapid.T) Hertz { return Hertz(rapid.IntRange(0, 5000).Draw(t, "MHz")) * MHz })
	genPower   = rapid.Custom(func(t *rapid.T) Milliwatts { return Milliwatts(rapid.IntRange(-50, 130_000).Draw(t, "mW")) })
	genCelsius = rapid.Custom(func(t *rapid.T) Celsius {
		return Celsius(rapid.IntRange(-256_000, 120_000).Draw(t, "m°C")) / 1000
	})
)

func genBytes(limit int) *rapid.Generator[tier.Bytes] {
	return rapid.Custom(func(t *rapid.T) tier.Bytes {
		unit := rapid.SampledFrom([]tier.Bytes{tier.KiB, tier.MiB}).Draw(t, "unit")
		return tier.Bytes(rapid.IntRange(0, limit).Draw(t, "size")) * unit
	})
}

// genReading makes readings that Parse can return.
var genReading = rapid.Custom(func(t *rapid.T) Reading {
	var r Reading
	if rapid.Bool().Draw(t, "stamped") {
		r.Time = time.Unix(rapid.Int64Range(86400, 4e9).Draw(t, "unix"), 0)
		// The hour that a change of clocks repeats has two times: take one.
		r.Time = time.Date(r.Time.Year(), r.Time.Month(), r.Time.Day(), r.Time.Hour(), r.Time.Minute(), r.Time.Second(), 0, time.Local)
	}
	r.RAMUsed = genBytes(1<<17).Draw(t, "used")
	r.RAMTotal = r.RAMUsed + genBytes(1<<17).Draw(t, "free") + tier.KiB
	if rapid.Bool().Draw(t, "lfb") {
		r.LargestFreeBlock = tier.KiB << rapid.IntRange(2, 12).Draw(t, "order")
		r.LargestFreeBlocks = rapid.IntRange(0, 1<<20).Draw(t, "blocks")
	}
	if r.HasSwap = rapid.Bool().Draw(t, "swap"); r.HasSwap {
		r.SwapUsed = genBytes(1<<15).Draw(t, "swapped")
		r.SwapTotal = r.SwapUsed + genBytes(1<<15).Draw(t, "swap free")
		r.SwapCached = genBytes(1<<10).Draw(t, "cached")
	}
	if rapid.Bool().Draw(t, "iram") {
		r.IRAM = Some(IRAM{Used: tier.KiB, Total: 252 * tier.KiB, LargestFreeBlock: genBytes(251).Draw(t, "iram block")})
	}
	cpu := rapid.Custom(func(t *rapid.T) CPU {
		c := CPU{Load: genOpt(genPercent).Draw(t, "load")}
		if !c.Off() {
			c.Freq = genOpt(genHertz).Draw(t, "freq")
		}
		return c
	})
	if n := rapid.IntRange(0, 20).Draw(t, "cores"); n > 0 {
		r.CPUs = rapid.SliceOfN(cpu, n, n).Draw(t, "cpus")
		if rapid.Bool().Draw(t, "one frequency") {
			for i := range r.CPUs {
				if !r.CPUs[i].Off() {
					r.CPUs[i].Freq = Some(1734 * MHz)
				}
			}
		}
	}
	engine := rapid.Custom(func(t *rapid.T) Engine {
		e := Engine{Name: genName.Draw(t, "engine")}
		switch rapid.IntRange(0, 5).Draw(t, "form") {
		case 0:
			e.Off = true
		case 1:
			e.Load = Some(genPercent.Draw(t, "load"))
		case 2:
			e.Freq = Some(genHertz.Draw(t, "freq"))
		case 3:
			e.Load, e.Freq = Some(genPercent.Draw(t, "load")), Some(genHertz.Draw(t, "freq"))
		case 4:
			e.Load = genOpt(genPercent).Draw(t, "load")
			e.Freq = Some(Hertz(0))
			for range rapid.IntRange(2, 9).Draw(t, "clusters") {
				c := Cluster{Freq: Some(genHertz.Draw(t, "freq"))}
				e.Freq.Value = max(e.Freq.Value, c.Freq.Value)
				e.Clusters = append(e.Clusters, c)
			}
		case 5:
			e.Load = Some(Percent(0))
			e.Freq = genOpt(genHertz).Draw(t, "freq")
			for range rapid.IntRange(2, 9).Draw(t, "clusters") {
				c := Cluster{Load: Some(genPercent.Draw(t, "load"))}
				e.Load.Value = max(e.Load.Value, c.Load.Value)
				e.Clusters = append(e.Clusters, c)
			}
		}
		return e
	})
	// An engine or a rail cannot have a name that opens another kind of item.
	reserved := func(name string) bool { return strings.Contains(" RAM SWAP IRAM MTS EDP ", " "+name+" ") }
	r.Engines = nonEmpty(rapid.SliceOfN(engine.Filter(func(e Engine) bool {
		return !reserved(e.Name) && !strings.EqualFold(e.Name, "cpu")
	}), 0, 20).Draw(t, "engines"))
	r.MTS = genOpt(rapid.Custom(func(t *rapid.T) MTS {
		return MTS{Foreground: genPercent.Draw(t, "fg"), Background: genPercent.Draw(t, "bg")}
	})).Draw(t, "mts")
	r.EDPLimit = genOpt(genHertz).Draw(t, "edp")
	r.Temperatures = nonEmpty(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Temperature {
		return Temperature{Name: genName.Draw(t, "sensor"), Now: genCelsius.Draw(t, "now"), Max: genOpt(genCelsius).Draw(t, "max")}
	}), 0, 15).Draw(t, "temperatures"))
	r.Rails = nonEmpty(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rail {
		return Rail{Name: genName.Filter(func(s string) bool { return !reserved(s) }).Draw(t, "rail"), Now: genPower.Draw(t, "now"), Average: genPower.Draw(t, "average"), Peak: genOpt(genPower).Draw(t, "peak")}
	}), 0, 15).Draw(t, "rails"))
	return r
})

func nonEmpty[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func TestParse_PrintedInAnyDialect_TheSameReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genReading.Draw(t, "reading")
		flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
		line := dialect{
			lowerCPU: flag("lower"), shared: flag("shared"), bare: flag("bare"), bracket: flag("bracket"),
			blanks: rapid.SampledFrom([]string{"", " ", "\t  "}).Draw(t, "blanks"),
			next:   func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "next") },
		}.print(want)
		got, err := Parse(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", line, diff)
		}
	})
}

// checkPrintsBack checks that a line has nothing unknown and reads as its print
// does.
func checkPrintsBack(t *testing.T, line string) {
	t.Helper()
	r := mustParse(t, line)
	if len(r.Unknown) > 0 {
		t.Errorf("%q: unknown %q", line, r.Unknown)
	}
	again := dialect{}.print(r)
	if diff := cmp.Diff(r, mustParse(t, again)); diff != "" {
		t.Errorf("%q prints as\n%q, which differs (-first +again):\n%s", line, again, diff)
	}
}

func TestParse_AnyText_NoPanic(t *testing.T) {
	words := []string{"RAM", "1/2MB", "(lfb", "1x4MB)", "SWAP", "(cached", "0MB)", "CPU", "cpu", "[1%@2,off]", "[", "]", "@", "@3", "MTS", "fg", "1%", "bg", "EDP", "limit", "gpu@4C", "@[1,2]", "5%@[", "1,", "VDD", "1mW/2mW", "off", "\x00", "é", "12-01-2026", "00:00:00", "IRAM", "0/252kB(lfb", "252kB)"}
	rapid.Check(t, func(t *rapid.T) {
		sep := rapid.SampledFrom([]string{" ", "", "  "}).Draw(t, "sep")
		checkParse(t, strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 25).Draw(t, "words"), sep))
	})
}

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// checkParse checks what Parse promises for any text.
func checkParse(t failer, line string) {
	t.Helper()
	r, err := Parse(line)
	if err != nil {
		return
	}
	if n := len(r.CPUs) + len(r.Engines) + len(r.Temperatures) + len(r.Rails) + len(r.Unknown); n > len(line) {
		t.Fatalf("%d items of %d bytes", n, len(line))
	}
	if r.RAMUsed < 0 || r.RAMUsed > r.RAMTotal || r.SwapUsed < 0 || r.SwapUsed > r.SwapTotal || r.LargestFreeBlocks < 0 || r.LargestFreeBlock < 0 {
		t.Fatalf("impossible figures: %+v", r)
	}
	r.Unknown = nil
	printed := dialect{}.print(r)
	again, err := Parse(printed)
	if err != nil {
		t.Fatalf("%q prints as %q, which is refused: %v", line, printed, err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		t.Fatalf("%q prints as %q, which differs (-first +again):\n%s", line, printed, diff)
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range ownLines(f) {
		f.Add(line)
	}
	seeds, _ := readCapture("tegrastats_lines.txt") // none where they are not
	for _, line := range seeds {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) { checkParse(t, line) })
}
