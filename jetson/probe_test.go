package jetson

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

// probeOf returns a probe of the fixture whose tegrastats is on the stage.
func probeOf(t *testing.T, files map[string]string, s *stage) *Probe {
	t.Helper()
	root := t.TempDir()
	writeTree(t, root, files)
	b, err := DetectIn(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	b.stats = s.tegrastats(TegrastatsConfig{})
	return b.Probe()
}

func mustMemory(t *testing.T, p *Probe) tier.Memory {
	t.Helper()
	m, err := p.Memory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// note returns the note with the words; "" if there is none.
func note(m tier.Memory, words string) string {
	for _, n := range m.Notes.All() {
		if strings.Contains(n, words) {
			return n
		}
	}
	return ""
}

func TestProbe_WithProcfs_BytesFromThereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := fixtureOrinNano8.tree()
		files["proc/swaps"] += "/ssd/swapfile file 8388608 1048576 -2\n"
		p := probeOf(t, files, &stage{play: steady})
		defer p.Close()
		began := time.Now()
		m := mustMemory(t, p)
		if time.Since(began) != 0 {
			t.Errorf("it waited %v", time.Since(began))
		}
		if !m.At.Equal(began) || note(m, "not known") == "" {
			t.Errorf("At %v, notes %q", m.At, m.Notes)
		}
		m.At, m.Notes = time.Time{}, ""
		want := tier.Memory{
			Total: 7620 * mib, Available: 5800 * mib, Source: "host",
			SwapTotal: 8 * tier.GiB, SwapFree: 7 * tier.GiB,
			CompressedSwapTotal: 3810 * mib, CompressedSwapFree: 3750 * mib,
		}
		if diff := cmp.Diff(want, m); diff != "" {
			t.Errorf("memory (-want +got):\n%s", diff)
		}
	})
}

// total 7620, used 1273: 7620 − 1273 − 512 − 304.8.
func TestProbe_WithoutProcfs_EstimatedFromTheNextLine(t *testing.T) {
	for _, gone := range []string{"no meminfo", "no MemAvailable"} {
		synctest.Test(t, func(t *testing.T) {
			files := fixtureOrinNano8.tree()
			if gone == "no meminfo" {
				delete(files, "proc/meminfo")
			} else {
				files["proc/meminfo"] = "MemTotal: 7802880 kB\nMemFree: 1 kB\n"
			}
			s := &stage{play: func(_ int, say func(string) bool) {
				for used := 1273; ; used += 1000 {
					time.Sleep(2 * time.Second)
					if !say(fmt.Sprintf("RAM %d/7620MB (lfb 1x4MB) SWAP 286/3810MB (cached 1MB)\n", used)) {
						return
					}
				}
			}}
			p := probeOf(t, files, s)
			defer p.Close()
			m := mustMemory(t, p)
			want := tier.Memory{
				At: m.At, Total: 7620 * mib, Available: 7620*mib - 1273*mib - 512*mib - 7620*mib/25, Source: "tegrastats",
				CompressedSwapTotal: 3810 * mib, CompressedSwapFree: (3810 - 286) * mib, Notes: m.Notes,
			}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Errorf("memory (-want +got):\n%s", diff)
			}
			if note(m, "estimated") == "" {
				t.Errorf("notes %q", m.Notes)
			}
			began := time.Now()
			if again := mustMemory(t, p); again.Available != m.Available-1000*mib || again.At.Before(began) {
				t.Errorf("the second reading is of %v before, %v", began.Sub(again.At), again.Available)
			}
		})
	}
}

func TestEstimate_MemoryNearlyGone_NeverNegative(t *testing.T) {
	m := estimate(Sample{Reading: mustParse(t, "RAM 15093/15656MB (lfb 1x2MB) SWAP 3618/7828MB (cached 4MB)")})
	if m.Available != 0 {
		t.Errorf("available %v", m.Available)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
	big := estimate(Sample{Reading: mustParse(t, "RAM 17842/125772MB (lfb 79x4MB)")})
	if want := (125772-17842)*mib - 125772*mib/16 - 125772*mib/25; big.Available != want {
		t.Errorf("Thor: %v, want %v", big.Available, want)
	}
}

func TestProbe_NeitherProcfsNorTegrastats_ErrorSaysBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := fixtureOrinNano8.tree()
		delete(files, "proc/meminfo")
		p := probeOf(t, files, &stage{play: func(int, func(string) bool) {}})
		defer p.Close()
		began := time.Now()
		m, err := p.Memory(t.Context())
		if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrNoReading) || !strings.Contains(err.Error(), "tegrastats ended") {
			t.Errorf("%+v, %v", m, err)
		}
		if took := time.Since(began); took != 8*time.Second {
			t.Errorf("it took %v to find out", took)
		}
	})
}

func TestProbe_ContextEndsWhileItWaits_ItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := fixtureOrinNano8.tree()
		delete(files, "proc/meminfo")
		p := probeOf(t, files, &stage{play: steady})
		defer p.Close()
		hurry := errors.New("in a hurry")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(hurry) })
		if _, err := p.Memory(ctx); !errors.Is(err, hurry) {
			t.Errorf("%v", err)
		}
	})
}

// A Manager gives a probe a second, also on a board without /proc/meminfo.
func TestProbe_WithoutProcfs_FirstReadingWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := fixtureOrinNano8.tree()
		delete(files, "proc/meminfo")
		root := t.TempDir()
		writeTree(t, root, files)
		b, err := DetectIn(Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		every := b.stats.cfg.Interval
		b.stats.cfg.Path = "tegrastats"
		b.stats.start = (&stage{play: func(_ int, say func(string) bool) {
			for ok := true; ok; ok = say("RAM 1273/7620MB (lfb 1x4MB)\n") {
				time.Sleep(every + 10*time.Millisecond)
			}
		}}).start
		p := b.Probe()
		defer p.Close()
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			m, err := p.Memory(ctx)
			cancel()
			if err != nil || !m.At.After(began) {
				t.Errorf("%v after %v: %v", m.At.Sub(began), time.Since(began), err)
			}
		}
	})
}

// With a line every 2 s and a second for each answer, the first call fails and the
// others use the previous line, with a note.
func TestProbe_WithoutProcfsAndLinesTooRare_LastLineWithItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := fixtureOrinNano8.tree()
		delete(files, "proc/meminfo")
		p := probeOf(t, files, &stage{play: func(n int, say func(string) bool) {
			time.Sleep(2 * time.Second)
			say("RAM 1273/7620MB (lfb 1x4MB)\n")
			time.Sleep(10 * time.Second) // and no other
		}})
		defer p.Close()
		look := func() (tier.Memory, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			m, err := p.Memory(ctx)
			if ctx.Err() != nil {
				t.Error("the context ended before the answer")
			}
			return m, err
		}
		if _, err := look(); !errors.Is(err, ErrNoReading) || !strings.Contains(err.Error(), "the first line comes 2s after the start") {
			t.Errorf("at first: %v", err)
		}
		time.Sleep(1500 * time.Millisecond) // 250 ms after the line
		began := time.Now()
		m, err := look()
		if err != nil || time.Since(began) != 0 || began.Sub(m.At) != 250*time.Millisecond || note(m, "is 300ms old") == "" {
			t.Errorf("between lines, after %v: of %v before, %v, %q", time.Since(began), began.Sub(m.At), err, m.Notes)
		}
		time.Sleep(1500 * time.Millisecond) // the next is due and does not come
		if m, err := look(); err != nil || note(m, "is 2.5s old") == "" {
			t.Errorf("a late line: %v, %q", err, m.Notes)
		}
		time.Sleep(5500 * time.Millisecond) // 8 s make it stale
		if m, err := look(); !errors.Is(err, ErrStale) {
			t.Errorf("a stale line: %+v, %v", m, err)
		}
	})
}

// inner is a probe with a fixed answer. It counts its closing.
type inner struct {
	m      tier.Memory
	err    error
	closed int
}

func (i *inner) Memory(context.Context) (tier.Memory, error) { return i.m, i.err }
func (i *inner) PartStatus() any                             { return "inner" }
func (i *inner) Close() error                                { i.closed++; return nil }

func TestProbe_OverAnother_AddsNotesAndLeavesItsFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &inner{m: tier.Memory{Total: 2 * tier.GiB, Available: tier.GiB, Source: "/a/cgroup", Notes: "a note of its own"}}
		p := probeOf(t, fixtureOrinNano8.tree(), &stage{play: steady})
		if !p.Over(in) || p.Over(&inner{}) {
			t.Error("Over works other than once")
		}
		m := mustMemory(t, p)
		if m.Available != tier.GiB || m.Source != "/a/cgroup" || !strings.HasPrefix(string(m.Notes), "a note of its own\n") {
			t.Errorf("%+v", m)
		}
		// Its own failure is not hidden behind an estimate that knows no containers.
		for _, in.err = range []error{errors.New("cgroup went away"), fs.ErrNotExist} {
			if _, err := p.Memory(t.Context()); !errors.Is(err, in.err) {
				t.Errorf("%v, want %v", err, in.err)
			}
		}
		p.Close()
		p.Close()
		if in.closed != 1 {
			t.Errorf("closed %d times", in.closed)
		}
		if _, err := p.Memory(t.Context()); !errors.Is(err, tier.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if _, err := p.Reading(); !errors.Is(err, tier.ErrClosed) {
			t.Errorf("Reading after Close: %v", err)
		}
		if p.Over(&inner{}) {
			t.Error("Over after Close")
		}
	})
}

func TestProbe_FragmentedAndHot_SaidInNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: func(n int, say func(string) bool) {
			for _, line := range []string{
				"RAM 5/8MB (lfb 721x32kB) tj@61C PMIC@100C\n",
				"RAM 5/8MB (lfb 1x1MB) tj@96.5C gpu@94C\n",
				"RAM 5/8MB (lfb 1x4MB) tj@41C\n",
			} {
				time.Sleep(2 * time.Second)
				say(line)
			}
			time.Sleep(10 * time.Second)
		}}
		p := probeOf(t, fixtureOrinNano8.tree(), s)
		defer p.Close()
		mustMemory(t, p)
		time.Sleep(3 * time.Second)
		if m := mustMemory(t, p); !strings.Contains(note(m, "fragmented"), "32.0 KiB (721 of them)") || note(m, "hot") != "" {
			t.Errorf("fragmented: %q", m.Notes)
		}
		sample, err := p.Reading()
		if err != nil || sample.Age() != time.Second || sample.Reading.LargestFreeBlocks != 721 {
			t.Errorf("reading %+v, %v", sample, err)
		}
		time.Sleep(2 * time.Second)
		if m := mustMemory(t, p); note(m, "fragmented") != "" || !strings.Contains(note(m, "hot"), "tj is at 96 °C") {
			t.Errorf("hot: %q", m.Notes)
		}
		time.Sleep(2 * time.Second)
		if m := mustMemory(t, p); note(m, "hot") != "" || note(m, "fragmented") != "" || note(m, "out of date") != "" {
			t.Errorf("calm: %q", m.Notes)
		}
		time.Sleep(8 * time.Second)
		if m := mustMemory(t, p); note(m, "out of date") == "" || m.Available != 5800*mib {
			t.Errorf("stale: %q", m.Notes)
		}
		if _, err := p.Reading(); !errors.Is(err, ErrStale) {
			t.Errorf("stale reading: %v", err)
		}
	})
}

func TestProbe_Throttled_SaidWhenItHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := fixtureOrinNano8.plant(t)
		b, err := DetectIn(Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		b.stats = (&stage{play: steady}).tegrastats(TegrastatsConfig{})
		p := b.Probe()
		defer p.Close()
		// What happened before the first look, and a fan that turns, are no news.
		if m := mustMemory(t, p); note(m, "throttled") != "" {
			t.Errorf("at first: %q", m.Notes)
		}
		set := func(name, text string) {
			if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(name)), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		set("sys/class/thermal/cooling_device2/cur_state", "1\n")
		set("sys/class/hwmon/hwmon3/oc3_event_cnt", "20\n")
		m := mustMemory(t, p)
		if !strings.Contains(note(m, "heat"), "gpu") || !strings.Contains(note(m, "power 5 times"), "peak current") {
			t.Errorf("throttled: %q", m.Notes)
		}
		if m := mustMemory(t, p); note(m, "heat") == "" || note(m, "for power") != "" {
			t.Errorf("still hot, no new event: %q", m.Notes)
		}
		set("sys/class/hwmon/hwmon3/oc3_event_cnt", "1\n") // a counter that starts again
		set("sys/class/thermal/cooling_device2/cur_state", "garbage")
		if m := mustMemory(t, p); note(m, "throttled") != "" {
			t.Errorf("at the end: %q", m.Notes)
		}
	})
}

func TestProbe_TwoOfOneBoard_OneTegrastats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fixtureOrinNano8.detect(t)
		s := &stage{play: steady}
		b.stats = s.tegrastats(TegrastatsConfig{})
		one, two := b.Probe(), b.Probe()
		view := b.Tegrastats().Open()
		mustMemory(t, one)
		mustMemory(t, two)
		time.Sleep(3 * time.Second)
		if starts, _, _ := s.seen(); len(starts) != 1 {
			t.Errorf("%d tegrastats", len(starts))
		}
		one.Close()
		view.Close()
		if _, running, _ := s.seen(); running != 1 {
			t.Error("the second probe lost its tegrastats")
		}
		two.Close()
		if _, running, _ := s.seen(); running != 0 {
			t.Error("tegrastats outlives its readers")
		}
	})
}

func TestProbe_PartStatus_TellsBoardTegrastatsAndLastLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: func(_ int, say func(string) bool) {
			time.Sleep(2 * time.Second)
			say("RAM 5/8MB (lfb 721x32kB) GR3D_FREQ 96% tj@61.5C VDD_IN 13840mW/9021mW\n")
			time.Sleep(8 * time.Second)
		}}
		p := probeOf(t, fixtureOrinNano8.tree(), s)
		told := func() ProbeStatus {
			t.Helper()
			var out ProbeStatus
			text, err := json.Marshal(p.PartStatus())
			if err == nil {
				err = json.Unmarshal(text, &out)
			}
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		synctest.Wait()
		if diff := cmp.Diff(ProbeStatus{Board: "Jetson Orin Nano", Failure: ErrNoReading.Error()}, told()); diff != "" {
			t.Errorf("before the first use (-want +got):\n%s", diff)
		}
		p.Over(&inner{m: tier.Memory{Total: 3}})
		mustMemory(t, p)
		time.Sleep(3 * time.Second)
		mustMemory(t, p)
		got := told()
		if time.Since(got.LastLine) != time.Second || len(got.Notes) != 1 {
			t.Errorf("last line %v, notes %q", got.LastLine, got.Notes)
		}
		got.LastLine, got.Notes = time.Time{}, nil
		gpu, power, hottest := Percent(96), Milliwatts(13840), Celsius(61.5)
		want := ProbeStatus{
			Board: "Jetson Orin Nano", Readers: 1, Starts: 1, Lines: 1, GPU: &gpu, Power: &power, Hottest: &hottest,
			LargestFreeBlock: 32 * tier.KiB, Bytes: "inner",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("with a line (-want +got):\n%s", diff)
		}
		if p.PartStatus().(ProbeStatus).Notes[0] = "changed"; p.PartStatus().(ProbeStatus).Notes[0] == "changed" {
			t.Error("the status is not a copy")
		}
		time.Sleep(7500 * time.Millisecond)
		if got := told(); got.GPU != nil || got.LastLine.IsZero() || !strings.Contains(got.Failure, "stale") {
			t.Errorf("stale: %+v", got)
		}
		p.Close()
		if got := told(); got.Readers != 0 || got.Lines != 1 {
			t.Errorf("closed: %+v", got)
		}
	})
}

// For the race detector.
func TestProbe_PartStatus_WhileEverythingElseRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := probeOf(t, fixtureOrinNano8.tree(), &stage{play: steady})
		var group sync.WaitGroup
		for _, do := range []func(){
			func() { p.PartStatus() },
			func() { _, _ = p.Memory(t.Context()) },
			func() { _, _ = p.Reading() },
			func() { p.Over(&inner{m: tier.Memory{Total: 3}}) },
		} {
			group.Go(func() {
				for range 50 {
					do()
					time.Sleep(time.Second)
				}
			})
		}
		group.Wait()
		p.Close()
		p.PartStatus()
	})
}

func TestReadMemory_NumbersThatOverflow_AreAnErrorOrSaturate(t *testing.T) {
	const sane = "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n"
	const swaps = "Filename Type Size Used Priority\n"
	for _, c := range []struct {
		meminfo, swaps string
		refused        bool
	}{
		{sane, swaps + "/a file 9223372036854775807 0 -2\n/b file 9223372036854775807 9223372036854775807 -3\n", false},
		{sane, swaps + "/dev/zram0 partition 9007199254740991 1 5\n/dev/zram1 partition 9007199254740991 0 5\n", false},
		{"MemTotal: 18014398509481985 kB\nMemAvailable: 4000000 kB\n", swaps, true},
		{"MemTotal: 8000000 kB\nMemAvailable: 18014398509481985 kB\n", swaps, true},
	} {
		proc := t.TempDir()
		for name, text := range map[string]string{"meminfo": c.meminfo, "swaps": c.swaps} {
			if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m, err := readMemory(proc)
		if refused := errors.Is(err, tier.ErrInvalid); refused != c.refused || !refused && err != nil {
			t.Errorf("%q: %v", c.meminfo, err)
		}
		if err := m.Validate(); err != nil {
			t.Errorf("%q: %v", c.swaps, err)
		}
	}
}
