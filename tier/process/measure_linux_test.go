package process

import (
	"encoding/json"
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
	if takes, seen := r.Forecast(&m); takes < peak-peak/100 || seen < peak-peak/100 || seen > peak {
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
	seen := func(engine string, size, peak tier.Bytes, quantisation string) *measure {
		return &measure{Engine: engine, Path: quantisation + size.String(), Size: size, Quantisation: quantisation, Steady: peak, Peak: peak, Starts: 1}
	}
	ms := measures{list: []*measure{
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

// An estimate counts until the model was measured, and is raised by what the engine took
// with others, never lowered.
func TestForecast_Estimated_UntilMeasured(t *testing.T) {
	engine := fake{}.engine()
	engine.Runtime = 3 * tier.GiB
	m, err := New(Options{Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if takes, seen := m.Forecast(&tier.Model{Name: "m", Path: "m", Size: tier.GiB}); takes != 4*tier.GiB || seen != 0 {
		t.Errorf("%v, %v", takes, seen)
	}
	for _, c := range []struct {
		name                 string
		peak, expected, want tier.Bytes // of another model, and what this one is then taken to need
		quantisation         string
	}{
		{"took twice of it", 4 * tier.GiB, 2 * tier.GiB, 6 * tier.GiB, "Q8_0"},
		{"took less", tier.GiB, 2 * tier.GiB, 3 * tier.GiB, "Q8_0"},
		{"was not estimated", 4 * tier.GiB, 0, 3 * tier.GiB, "Q8_0"},
		{"another quantisation", 4 * tier.GiB, 2 * tier.GiB, 3 * tier.GiB, "Q4_0"},
	} {
		ms := measures{list: []*measure{{Path: "other", Size: tier.GiB, Quantisation: c.quantisation, Expected: c.expected, Steady: c.peak, Peak: c.peak, Starts: 1}}}
		if takes, seen := ms.forecast(&measure{Path: "m", Size: tier.GiB, Quantisation: "Q8_0", Expected: 3 * tier.GiB}); takes != c.want || seen != 0 {
			t.Errorf("the other %s: %v, %v; want %v", c.name, takes, seen, c.want)
		}
	}
	for served, want := range map[int]tier.Bytes{1: 3 * tier.GiB, provenServed: tier.GiB + tier.GiB/20} {
		ms := measures{list: []*measure{{Path: "m", Size: tier.GiB / 2, Peak: tier.GiB, Served: served}}}
		if takes, seen := ms.forecast(&measure{Path: "m", Size: tier.GiB / 2, Expected: 3 * tier.GiB}); takes != want || seen != tier.GiB {
			t.Errorf("after it served %d times: %v, %v; want %v", served, takes, seen, want)
		}
	}
}

// What was seen of a start that was called off is a part of what the engine takes, and
// tells nothing of other models.
func TestForecast_OtherModelNeverBecameReady_TellsNothing(t *testing.T) {
	ms := measures{list: []*measure{{Path: "m", Size: 4 * tier.GiB, Peak: tier.GiB / 2}}}
	if takes, _ := ms.forecast(&measure{Path: "new", Size: 4 * tier.GiB}); takes != 4*tier.GiB+unknownRuntime(4*tier.GiB) {
		t.Errorf("4 GiB are expected to take %v", takes)
	}
}

// What was seen once is reserved at once; less than was assumed is believed only when
// it was seen several times.
func TestForecast_OwnPeak_UpAtOnceAndDownLater(t *testing.T) {
	for served, want := range map[int]tier.Bytes{1: tier.GiB + unknownRuntime(tier.GiB), provenServed: tier.GiB + 1 + tier.GiB/20} {
		ms := measures{list: []*measure{{Path: "m", Size: tier.GiB, Peak: tier.GiB + 1, Served: served}}}
		if takes, seen := ms.forecast(&measure{Path: "m", Size: tier.GiB}); takes != want || seen != tier.GiB+1 {
			t.Errorf("after it served %d times: %v, %v; want %v", served, takes, seen, want)
		}
	}
	ms := measures{list: []*measure{{Path: "m", Size: tier.GiB, Peak: 4 * tier.GiB, Starts: 1}}}
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
			if err := ms.learn(ms.of(measure{Engine: "e", Path: "m", Size: 1}), 1, false, time.Second); err != nil {
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
		ms.of(measure{Size: tier.Bytes(i)})
	}
	if n := len(ms.list); n != maxMeasures || ms.list[0].Size != maxMeasures+9 || ms.list[n-1].Size != 10 {
		t.Errorf("%d are kept, from %v to %v", n, ms.list[0].Size, ms.list[n-1].Size)
	}
}

func TestMeasures_FileHasMoreThanTheyHold_TheLatestAreLoaded(t *testing.T) {
	var all []measure
	for i := range maxMeasures + 10 {
		all = append(all, measure{Size: tier.Bytes(i), At: time.Unix(int64(i), 0)})
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), measuresFile)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if list := saved(t, file); len(list) != maxMeasures || list[0].Size != maxMeasures+9 {
		t.Errorf("%d are loaded, the first of %v", len(list), list[0].Size)
	}
}

// saved returns the measures that a file holds.
func saved(t *testing.T, file string) []*measure {
	t.Helper()
	ms := measures{file: file}
	if err := ms.load(); err != nil {
		t.Fatal(err)
	}
	return ms.list
}

func TestMeasures_PeakCreepsUp_FileFollows(t *testing.T) {
	ms := measures{file: filepath.Join(t.TempDir(), measuresFile)}
	x := ms.of(measure{Engine: "e", Path: "m", Size: 1})
	takes := tier.GiB
	for range 200 {
		takes += takes / 200
		if err := ms.learn(x, takes, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := saved(t, ms.file); len(got) != 1 || got[0].Peak < takes-takes/50 {
		t.Errorf("it took up to %v, and the file says %v", takes, got[0].Peak)
	}
}

// Two models of one file and engine are one measure: none undoes what the other was seen
// to take, and what both take is written once.
func TestMeasures_TwoModelsOfOneFile_LearnTogether(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine(), StateDir: dir})
	a := modelOf(t, "a", 1<<20)
	b := a
	b.Name = "b"
	r.move(a, tier.Storage, tier.RAM)
	r.move(b, tier.Storage, tier.RAM)
	r.get("a", "/eat") // 64 MiB
	_, peak, _ := r.Footprint("a")
	r.Footprint("b")
	file := filepath.Join(dir, measuresFile)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "a"} {
		if _, p, _ := r.Footprint(name); p < peak {
			t.Errorf("%s took up to %v, the same engine with the same file %v", name, p, peak)
		}
	}
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := saved(t, file); !os.SameFile(before, after) || len(got) != 1 || got[0].Starts != 2 || got[0].Peak < 64<<20 {
		t.Errorf("written again: %v; %+v", !os.SameFile(before, after), got)
	}
}

// An engine that exits is seen without memory for a moment, and maps nothing any more.
func TestLearn_EngineHasJustExited_NothingIsLearned(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	r.move(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	c, _ := r.engineOf("m")
	was := r.learnedOf(r.slots["m"])
	r.learn(r.slots["m"], c, &sight{weights: 1 << 20}, time.Second)
	if now := r.learnedOf(r.slots["m"]); now != was || was.Copies || was.Starts != 1 {
		t.Errorf("%+v, before %+v", now, was)
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

// A frozen engine that is thawed again and again was seen to serve as often.
func TestForecast_ThawedSeveralTimes_TheAssumptionIsGivenUp(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 4<<20)
	r.move(m, tier.Storage, tier.RAM)
	for range provenServed {
		takes, seen := r.Forecast(&m)
		if takes <= 2*seen {
			t.Errorf("it is expected to take %v, and was seen to take %v", takes, seen)
		}
		r.move(m, tier.RAM, tier.Swap)
		r.move(m, tier.Swap, tier.RAM)
	}
	if takes, seen := r.Forecast(&m); takes > seen+seen/10 {
		t.Errorf("after it served %d times it is expected to take %v, and took %v", provenServed, takes, seen)
	}
}
