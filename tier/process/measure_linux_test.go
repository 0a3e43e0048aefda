package process

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestForecast_NothingMeasured_AFloorAndAnEighth(t *testing.T) {
	m, err := New(Options{Engine: fake{}.engine()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if takes, seen := m.Forecast(&tier.Model{Name: "m", Path: "m", Size: 8 << 30}); takes != 9<<30+256<<20 || seen != 0 {
		t.Errorf("%v, %v", takes, seen)
	}
}

// A restart begins with what was measured before it.
func TestForecast_AfterARestart_WhatTheEngineTookIsKnown(t *testing.T) {
	const eats = 512 << 20
	dir := t.TempDir()
	opts := Options{Engine: fake{Eat: eats}.engine(), StateDir: dir}
	m := modelOf(t, "m", 8<<20)
	begin := func() *rig { // a rig's token would make another engine of it each time
		mover, err := newMover(newSystem(), opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { mover.Close() })
		return &rig{Mover: mover, t: t}
	}
	r := begin()
	r.move(m, tier.Storage, tier.RAM)
	_, peak, _ := r.Footprint("m")
	if e := r.engine("m"); e.Starts != 1 || e.Start <= 0 || peak < eats {
		t.Errorf("it took %v: %+v", peak, e)
	}
	r.Close()

	r = begin()
	if takes, seen := r.Forecast(&m); takes < peak || seen != peak {
		t.Errorf("it is expected to take %v (seen: %v), and took %v", takes, seen, peak)
	}
	other := m
	other.Path += ".other"
	if takes, seen := r.Forecast(&other); takes != m.Size+unknownRuntime(m.Size) || seen != 0 {
		t.Errorf("another model is expected to take %v, %v", takes, seen)
	}
	r.move(m, tier.Storage, tier.RAM)
	if e := r.engine("m"); e.Starts != 2 {
		t.Errorf("it was started %d times", e.Starts)
	}
}

func TestForecast_OtherModelsOfTheEngine_TellByTheByteAndQuantisation(t *testing.T) {
	seen := func(engine string, size, peak tier.Bytes, quantisation string) measure {
		return measure{Engine: engine, Path: quantisation + size.String(), Size: size, Quantisation: quantisation, Steady: peak, Peak: peak, Starts: 1}
	}
	ms := measures{list: []measure{
		seen("a", tier.GiB, 2*tier.GiB, "Q8_0"), seen("a", tier.GiB, tier.GiB+tier.GiB/8, "Q3_K"),
		seen("a", tier.MiB, tier.GiB, "Q8_0"), seen("b", tier.GiB, 3*tier.GiB, "Q8_0"),
	}}
	for _, c := range []struct {
		engine, quantisation string
		size, want           tier.Bytes
	}{
		{"a", "Q8_0", 2 * tier.GiB, 4 * tier.GiB},
		{"a", "Q3_K", 2 * tier.GiB, 2*tier.GiB + tier.GiB/4},
		{"a", "Q4_0", 2 * tier.GiB, 2*tier.GiB + unknownRuntime(2*tier.GiB)},
		{"b", "Q8_0", 2 * tier.GiB, 6 * tier.GiB},
		{"a", "Q8_0", tier.MiB * 2, tier.MiB*2 + unknownRuntime(tier.MiB*2)},
	} {
		if takes, seen := ms.forecast(&measure{Engine: c.engine, Path: "new", Size: c.size, Quantisation: c.quantisation}); takes != c.want || seen != 0 {
			t.Errorf("%+v: %v, %v", c, takes, seen)
		}
	}
}

// What was seen once is reserved at once; less than was assumed is believed only when
// it was seen several times.
func TestForecast_OwnPeak_UpAtOnceAndDownLater(t *testing.T) {
	for starts, want := range map[int]tier.Bytes{1: tier.GiB + unknownRuntime(tier.GiB), provenStarts: tier.GiB + 1 + tier.GiB/20} {
		ms := measures{list: []measure{{Path: "m", Size: tier.GiB, Peak: tier.GiB + 1, Starts: starts}}}
		if takes, seen := ms.forecast(&measure{Path: "m", Size: tier.GiB}); takes != want || seen != tier.GiB+1 {
			t.Errorf("after %d starts: %v, %v; want %v", starts, takes, seen, want)
		}
	}
	ms := measures{list: []measure{{Path: "m", Size: tier.GiB, Peak: 4 * tier.GiB, Starts: 1}}}
	if takes, _ := ms.forecast(&measure{Path: "m", Size: tier.GiB}); takes != 4*tier.GiB {
		t.Errorf("%v", takes)
	}
}

func TestMeasures_FileDamagedOrOutOfBounds_StartsEmptyAndIsReplaced(t *testing.T) {
	for name, content := range map[string]string{
		"NoJSON": "[{", "Negative": `[{"path":"m","size":-1}]`, "PeakBelowSteady": `[{"steady":2,"peak":1}]`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, measuresFile)
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			ms := measures{file: file}
			if err := ms.load(); (err != nil) != (name == "NoJSON") || len(ms.list) != 0 {
				t.Errorf("%v, %v", ms.list, err)
			}
			if err := ms.keep(measure{Path: "m", Size: 1, Steady: 1, Peak: 1, Starts: 1}); err != nil {
				t.Fatal(err)
			}
			again := measures{file: file}
			if err := again.load(); err != nil || len(again.list) != 1 {
				t.Errorf("%v, %v", again.list, err)
			}
		})
	}
	ms := measures{file: t.TempDir()} // a folder
	if err := ms.load(); err == nil {
		t.Error("a folder was read")
	}
}

func TestMeasures_MoreThanTheyHold_TheOldestGo(t *testing.T) {
	var ms measures
	for i := range maxMeasures + 10 {
		ms.keep(measure{Size: tier.Bytes(i), At: time.Unix(int64(i), 0)})
	}
	if n := len(ms.list); n != maxMeasures || ms.list[0].Size != maxMeasures+9 || ms.list[n-1].Size != 10 {
		t.Errorf("%d are kept, from %v to %v", n, ms.list[0].Size, ms.list[n-1].Size)
	}
}

func TestEngineID_ProgramReplaced_IsAnother(t *testing.T) {
	program := filepath.Join(t.TempDir(), "engine")
	write := func(text string) string {
		if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return engineID(&Engine{Command: []string{program, "{port}"}})
	}
	first := write("one")
	if write("other") == first {
		t.Error("a new version is taken for the old one")
	}
	if engineID(&Engine{Command: []string{program, "--no-mmap", "{port}"}}) == engineID(&Engine{Command: []string{program, "{port}"}}) {
		t.Error("another way to load is taken for the same")
	}
}
