package jetson

import (
	"encoding"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

var _ encoding.TextAppender = Reading{}

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

func genBytes(most int) *rapid.Generator[tier.Bytes] {
	return rapid.Custom(func(t *rapid.T) tier.Bytes {
		unit := rapid.SampledFrom([]tier.Bytes{tier.KiB, tier.MiB}).Draw(t, "unit")
		return tier.Bytes(rapid.IntRange(0, most).Draw(t, "size")) * unit
	})
}

// genReading makes readings such as Parse can make.
var genReading = rapid.Custom(func(t *rapid.T) Reading {
	var r Reading
	if rapid.Bool().Draw(t, "stamped") {
		r.Time = time.Unix(rapid.Int64Range(86400, 4e9).Draw(t, "unix"), 0)
		// An hour that is there twice a year cannot be told from its twin.
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
	// A name that opens another kind of item cannot be an engine's or a rail's.
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

func TestReading_PrintedAndParsed_IsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genReading.Draw(t, "reading")
		got, err := Parse(want.String())
		if err != nil {
			t.Fatalf("%q: %v", want, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", want, diff)
		}
	})
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

// checkParse holds what Parse promises of any text.
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
	again, err := Parse(r.String())
	if err != nil {
		t.Fatalf("%q prints as %q, which is refused: %v", line, r, err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		t.Fatalf("%q prints as %q, which differs (-first +again):\n%s", line, r, diff)
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range ownLines(f) {
		f.Add(line)
	}
	if captured, err := readField("tegrastats_lines.txt"); err == nil {
		for _, line := range captured {
			f.Add(line)
		}
	}
	f.Fuzz(func(t *testing.T, line string) { checkParse(t, line) })
}
