package jetson

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

const mib = tier.MiB

func pct(n int) Opt[Percent] { return Some(Percent(n)) }
func mhz(n int) Opt[Hertz]   { return Some(Hertz(n) * MHz) }

// ownLines are made-up lines that follow the grammar of each kind of board and
// release.
func ownLines(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/tegrastats.txt")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func mustParse(t testing.TB, line string) Reading {
	t.Helper()
	r, err := Parse(line)
	if err != nil {
		t.Fatalf("Parse(%q): %v", line, err)
	}
	return r
}

func TestParse_WholeLine_EveryFieldWithItsUnit(t *testing.T) {
	got := mustParse(t, "09-14-2026 19:30:00 RAM 2044/7546MB (lfb 9x512kB) SWAP 31/2048MB (cached 1MB) IRAM 4/252kB(lfb 244kB) "+
		"CPU [5%@1728,off,0%] EMC_FREQ 15%@3199 GR3D_FREQ 93%@[1011,918] VIC off OFA @9 APE 200 PVA0_FREQ [4%,11%]@704 NVENC_LOAD 7% "+
		"MTS fg 1% bg 9% EDP limit 1734 cpu@52.5C/53.25C CV0@-256C VDD_IN 12103mW/8420mW/12630mW CPU 311/312")
	want := Reading{
		Time:    time.Date(2026, 9, 14, 19, 30, 0, 0, time.Local),
		RAMUsed: 2044 * mib, RAMTotal: 7546 * mib,
		LargestFreeBlock: 512 * tier.KiB, LargestFreeBlocks: 9,
		HasSwap: true, SwapUsed: 31 * mib, SwapTotal: 2048 * mib, SwapCached: 1 * mib,
		IRAM: Some(IRAM{Used: 4 * tier.KiB, Total: 252 * tier.KiB, LargestFreeBlock: 244 * tier.KiB}),
		CPUs: []CPU{{Load: pct(5), Freq: mhz(1728)}, {}, {Load: pct(0)}},
		Engines: []Engine{
			{Name: "EMC_FREQ", Load: pct(15), Freq: mhz(3199)},
			{Name: "GR3D_FREQ", Load: pct(93), Freq: mhz(1011), Clusters: []Cluster{{Freq: mhz(1011)}, {Freq: mhz(918)}}},
			{Name: "VIC", Off: true},
			{Name: "OFA", Freq: mhz(9)},
			{Name: "APE", Freq: mhz(200)},
			{Name: "PVA0_FREQ", Load: pct(11), Freq: mhz(704), Clusters: []Cluster{{Load: pct(4)}, {Load: pct(11)}}},
			{Name: "NVENC_LOAD", Load: pct(7)},
		},
		MTS:      Some(MTS{Foreground: 1, Background: 9}),
		EDPLimit: mhz(1734),
		Temperatures: []Temperature{
			{Name: "cpu", Now: 52.5, Max: Some(Celsius(53.25))},
			{Name: "CV0", Now: -256},
		},
		Rails: []Rail{
			{Name: "VDD_IN", Now: 12103, Average: 8420, Peak: Some(Milliwatts(12630))},
			{Name: "CPU", Now: 311, Average: 312},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
}

// Other parsers have read "512kB" as 512 bytes, or refused the line.
func TestParse_FreeBlock_UnitFollowed(t *testing.T) {
	for text, want := range map[string]tier.Bytes{
		"4MB": 4 * mib, "2MB": 2 * mib, "1MB": mib, "512kB": 512 * tier.KiB, "256kB": 256 * tier.KiB,
		"128kB": 128 * tier.KiB, "64kB": 64 * tier.KiB, "32kB": 32 * tier.KiB, "4kB": 4 * tier.KiB,
	} {
		r := mustParse(t, "RAM 1/2MB (lfb 721x"+text+") CPU [1%@2]")
		if r.LargestFreeBlock != want || r.LargestFreeBlocks != 721 {
			t.Errorf("lfb 721x%s: %d of %v", text, r.LargestFreeBlocks, r.LargestFreeBlock)
		}
	}
}

func TestParse_WhatTheLineLeavesOut_IsAbsentNotZero(t *testing.T) {
	r := mustParse(t, "RAM 2417/6660MB (lfb 620x4MB) cpu [0%@1996,0%@2035]")
	want := Reading{
		RAMUsed: 2417 * mib, RAMTotal: 6660 * mib, LargestFreeBlock: 4 * mib, LargestFreeBlocks: 620,
		CPUs: []CPU{{Load: pct(0), Freq: mhz(1996)}, {Load: pct(0), Freq: mhz(2035)}},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	if r.GPULoad().Known || r.EMCLoad().Known || r.Power().Known || r.HasSwap || !r.Time.IsZero() {
		t.Errorf("absent figures read as there: %+v", r)
	}
	if _, ok := r.Hottest(); ok {
		t.Error("a line without sensors has a hottest one")
	}
	swap := mustParse(t, "RAM 1/2MB (lfb 1x4MB) SWAP 0/0MB (cached 0MB) CPU [0%@1]")
	if !swap.HasSwap {
		t.Error("a SWAP of zero reads as none")
	}
}

// On one line of an AGX Xavier, "CPU [..]" is the cores, "CPU 311/311" a rail and
// "CPU@38C" a sensor; GPU, SOC and CV have several meanings as well.
func TestParse_NameOfSeveralThings_TellsThemApart(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) CPU [2%@1190,off] GPU@37.5C CPU@38C GPU 12/9 CPU 322/318 SOC 940/936 CV 0/0")
	if len(r.CPUs) != 2 || len(r.Temperatures) != 2 || len(r.Rails) != 4 || len(r.Engines) != 0 || len(r.Unknown) != 0 {
		t.Fatalf("%d cores, %v, %v, %v, unknown %q", len(r.CPUs), r.Temperatures, r.Rails, r.Engines, r.Unknown)
	}
	if r.Rails[1] != (Rail{Name: "CPU", Now: 322, Average: 318}) || r.Temperatures[1].Name != "CPU" {
		t.Errorf("CPU: rail %v, sensor %v", r.Rails[1], r.Temperatures[1])
	}
}

func TestParse_SameNameTwice_KeepsBoth(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) CPU [0%@1] acpitz@34.8C acpitz@34.8C acpitz@35C NC 0mW/0mW VDDQ 7mW/7mW NC 1mW/1mW NVDEC off NVDEC off")
	if len(r.Temperatures) != 3 || len(r.Rails) != 3 || len(r.Engines) != 2 || r.Rails[2].Now != 1 {
		t.Errorf("%v %v %v", r.Temperatures, r.Rails, r.Engines)
	}
}

func TestParse_SensorThatIsNone_IsNotLive(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) CPU [0%@1] CV0@-256C PMIC@100C GPU@-5.5C tj@41C Tboard@29C")
	var live []string
	for _, s := range r.Temperatures {
		if s.Live() {
			live = append(live, s.Name)
		}
	}
	if got := strings.Join(live, " "); got != "GPU tj Tboard" {
		t.Errorf("live sensors: %s", got)
	}
	if hot, _ := r.Hottest(); hot.Name != "tj" {
		t.Errorf("hottest is %v", hot)
	}
}

func TestReading_LoadThatTellsNothing_IsNotKnown(t *testing.T) {
	for _, c := range []struct {
		items    string
		gpu, emc Opt[Percent]
	}{
		{"EMC_FREQ 0% GR3D_FREQ 0%", Opt[Percent]{}, Opt[Percent]{}},                 // JetPack 4 and 5 without root
		{"EMC_FREQ 0% GR3D_FREQ 0% GR3D2_FREQ 0%@0", Opt[Percent]{}, Opt[Percent]{}}, //
		{"EMC_FREQ 2%@1600 GR3D_FREQ 0%@1109", pct(0), pct(2)},                       // with root
		{"GR3D_FREQ 0%", pct(0), Opt[Percent]{}},                                     // JetPack 6 without root
		{"GR3D_FREQ 91%", pct(91), Opt[Percent]{}},                                   //
		{"EMC_FREQ 0%@3199 GR3D_FREQ 0%@[1300,1300]", pct(0), pct(0)},                // AGX Orin
		{"EMC_FREQ 6%@3200 GR3D_FREQ @[314,314,314]", Opt[Percent]{}, pct(6)},        // Thor
		{"EMC_FREQ @3199 GR3D_FREQ 97%@1274", pct(97), Opt[Percent]{}},               // DRIVE
		{"EMC 1%@1600 GR3D 39%@76", pct(39), pct(1)},                                 // R28 and older
		{"cpu@60.406C VDD_GPU 37528mW/37528mW", Opt[Percent]{}, Opt[Percent]{}},      // Thor without root
		{"EMC_FREQ 0% GR3D_FREQ 12%", pct(12), Opt[Percent]{}},                       // what is above zero was measured
		{"EMC_FREQ off GR3D_FREQ off", Opt[Percent]{}, Opt[Percent]{}},               //
		{"GR3D_FREQ 7%@76 EMC_FREQ 5%", pct(7), Opt[Percent]{}},                      // in any order
		{"VIC 12%@115 NVENC off NVDEC 716 APE 200", Opt[Percent]{}, Opt[Percent]{}},  //
		{"GR3D_PCI 3%@1290", Opt[Percent]{}, Opt[Percent]{}},                         // a second GPU, not this one
		{"EMC_FREQ 999%@1 GR3D_FREQ 100%@1", pct(100), pct(999)},                     // what is printed is kept
		{"GR3D_FREQ 5%@[0,0]", pct(5), Opt[Percent]{}},                               //
		{"GR3D2_FREQ 97%@1274", Opt[Percent]{}, Opt[Percent]{}},                      //
		{"EMC_FREQ 0%@665 GR3D_FREQ @[0,0,0]", Opt[Percent]{}, pct(0)},               //
		{"GR3D_FREQ 33% cpu@52.25C", pct(33), Opt[Percent]{}},                        //
		{"EMC_FREQ 0% GR3D_FREQ 0%@114", pct(0), Opt[Percent]{}},                     //
		{"EMC_FREQ 16%@102 GR3D_FREQ 0%@140 MTS fg 0% bg 0%", pct(0), pct(16)},       //
		{"MTS fg 1% bg 8% GR3D_FREQ 0%@140", pct(0), Opt[Percent]{}},                 //
		{"EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25", pct(0), pct(0)},                   //
	} {
		r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) CPU [0%@1] "+c.items)
		if got := r.GPULoad(); got != c.gpu {
			t.Errorf("%s: GPU %v, want %v", c.items, got, c.gpu)
		}
		if got := r.EMCLoad(); got != c.emc {
			t.Errorf("%s: EMC %v, want %v", c.items, got, c.emc)
		}
	}
}

func TestReading_Power_OfTheModuleOnly(t *testing.T) {
	for items, want := range map[string]Opt[Milliwatts]{
		"VDD_SOC 5/5 VDD_IN 1840/1850":                     Some(Milliwatts(1840)),
		"POM_5V_IN 1388/1300 POM_5V_GPU 1/1":               Some(Milliwatts(1388)),
		"VIN_SYS_5V0 5040mW/5040mW VIN 16802mW/9mW/9000mW": Some(Milliwatts(16802)),
		"VDD_GPU_SOC 3205mW/3205mW VIN_SYS_5V0 1mW/1mW":    {},
		"VDD_IN 0mW/0mW":                                   Some(Milliwatts(0)),
	} {
		r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) "+items)
		if got := r.Power(); got != want {
			t.Errorf("%s: %v, want %v", items, got, want)
		}
	}
}

func TestParse_MTS_ForegroundAndBackgroundDiffer(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) CPU [0%@1] MTS fg 3% bg 8%")
	if r.MTS != Some(MTS{Foreground: 3, Background: 8}) {
		t.Errorf("MTS %v", r.MTS)
	}
}

func TestParse_OneFigureInBrackets_LikeOneWithout(t *testing.T) {
	with := mustParse(t, "RAM 1/2MB CPU [0%@1] GR3D_FREQ 63%@[621] PVA0_FREQ [7%]@704")
	without := mustParse(t, "RAM 1/2MB CPU [0%@1] GR3D_FREQ 63%@621 PVA0_FREQ 7%@704")
	if diff := cmp.Diff(without, with); diff != "" {
		t.Errorf("(-without +with):\n%s", diff)
	}
}

func TestParse_CommonFrequency_GoesToEveryCoreThatIsOn(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) cpu [17%,off,65%@999]@1734")
	want := []CPU{{Load: pct(17), Freq: mhz(1734)}, {}, {Load: pct(65), Freq: mhz(999)}}
	if diff := cmp.Diff(want, r.CPUs); diff != "" {
		t.Errorf("cores (-want +got):\n%s", diff)
	}
}

func TestParse_ItemNotKnown_UnknownAndTheRestRead(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) CPU [1%@2] @@ FUTURE(x) NVX 7%@[1;2] gpu@hot cpu@4C/ VDD_IN 5mW/ VDD_SOC 5/6/7/8 tj@41.5C 12 MTS fg 1% MTS EDP limit EDP EDP limit9 MTS fg1%")
	want := []string{"@@", "FUTURE(x)", "NVX", "7%@[1;2]", "gpu@hot", "cpu@4C/", "VDD_IN", "5mW/", "VDD_SOC", "5/6/7/8", "12", "MTS fg 1% MTS", "EDP limit EDP", "EDP limit9", "MTS fg1%"}
	if diff := cmp.Diff(want, r.Unknown); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
	if len(r.Temperatures) != 1 || r.Temperatures[0].Now != 41.5 || len(r.Rails)+len(r.Engines) != 0 {
		t.Errorf("known items: %v %v %v", r.Temperatures, r.Rails, r.Engines)
	}
}

func TestParse_UnknownItemAtTheEnd_WithoutTheBlanksAfterIt(t *testing.T) {
	for _, item := range []string{"MTS", "EDP", "MTS fg", "EDP limit", "VDD_IN", "x("} {
		if r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) "+item+" \t\r"); len(r.Unknown) != 1 || r.Unknown[0] != item {
			t.Errorf("%s: unknown %q", item, r.Unknown)
		}
	}
}

// An unknown form of the cores loses the cores, not the line.
func TestParse_CoresInAnotherForm_UnknownAndTheRestRead(t *testing.T) {
	for _, cores := range []string{
		"CPU []", "CPU [1]", "CPU [of]", "CPU [1%@729]x", "cpu [1%,2%]@", "cpu [0%,off]@-1", "CPU [5%@-1]",
		"CPU [5%@2201MHz,  5%@2201MHz]", "CPU [5%@729,]", "CPU [5.5%@729]", "CPU [8/8]", "CPU [1%@729,1000%@729]",
	} {
		r := mustParse(t, "RAM 1/2MB (lfb 1x4MB) "+cores+" GR3D_FREQ 7% tj@41.5C VDD_IN 5/6")
		if diff := cmp.Diff([]string{cores}, r.Unknown); diff != "" || r.CPUs != nil {
			t.Errorf("%s: %d cores, unknown (-want +got):\n%s", cores, len(r.CPUs), diff)
		}
		if len(r.Engines) != 1 || len(r.Temperatures) != 1 || len(r.Rails) != 1 {
			t.Errorf("%s: the rest reads %v %v %v", cores, r.Engines, r.Temperatures, r.Rails)
		}
	}
}

func TestParse_NoFreeBlock_IsNoDamage(t *testing.T) {
	r := mustParse(t, "RAM 1/2MB (lfb 0x0MB) CPU [1%@2]")
	if r.LargestFreeBlock != 0 || r.LargestFreeBlocks != 0 || len(r.CPUs) != 1 || len(r.Unknown) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestParse_OrderAndSpacing_DoNotMatter(t *testing.T) {
	want := mustParse(t, "RAM 5/9MB (lfb 3x4MB) SWAP 1/2MB (cached 0MB) CPU [3%@729,off] GR3D_FREQ 1% gpu@47.812C VDD_IN 3205mW/3205mW")
	for _, line := range []string{
		"  RAM 5/9MB (lfb 3x4MB)    SWAP 1/2MB (cached 0MB)\tCPU [3%@729,off] GR3D_FREQ    1%      gpu@47.812C VDD_IN     3205mW/3205mW  \r\n",
		"gpu@47.812C VDD_IN 3205/3205mW GR3D_FREQ 1% CPU [3%@729, off] SWAP 1/2MB (cached 0MB) RAM 5/9MB (lfb 3x4MB)",
		"RAM 5/9MB(lfb 3x4MB) SWAP 1/2MB(cached 0MB) CPU  [ 3%@729 ,off ] GR3D_FREQ 1% gpu@47.812C VDD_IN 3205mW/3205",
	} {
		if diff := cmp.Diff(want, mustParse(t, line)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestParse_DamagedHead_ErrorNamesTheField(t *testing.T) {
	for line, field := range map[string]string{
		"":                                         "RAM",
		"Failed to open /sys/x":                    "RAM",
		"SWAP 1/2MB (cached 0MB)":                  "RAM",
		"RAM":                                      "RAM",
		"RAM 877/7620":                             "RAM",
		"RAM 877/76":                               "RAM",
		"RAM 9/7MB":                                "RAM",
		"RAM 0/0MB":                                "RAM",
		"RAM -1/7MB":                               "RAM",
		"RAM 1/99999999999999999MB":                "RAM",
		"RAM 1/4000000000000000GB":                 "RAM",
		"RAM 1/2MB RAM 1/2MB":                      "RAM",
		"RAM 1/2MB (lfb":                           "lfb",
		"RAM 1/2MB (lfb 1x":                        "lfb",
		"RAM 1/2MB (lfb 1x4":                       "lfb",
		"RAM 1/2MB (lfb 1x4MB":                     "lfb",
		"RAM 1/2MB (lfb 1x0MB)":                    "lfb",
		"RAM 1/2MB (lfb x4MB)":                     "lfb",
		"RAM 1/2MB (lfb 9999999999x4MB)":           "lfb",
		"RAM 1/2MB (cached 1x4MB)":                 "lfb",
		"RAM 1/2MB (lfb 1x4MB) SWAP":               "SWAP",
		"RAM 1/2MB (lfb 1x4MB) SWAP 1/2MB":         "SWAP",
		"RAM 1/2MB (lfb 1x4MB) SWAP 1/2MB (cached": "SWAP",
		"RAM 1/2MB (lfb 1x4MB) SWAP 3/2MB (cached 0MB)":             "SWAP",
		"RAM 1/2MB SWAP 0/0MB (cached 0MB) SWAP 0/0MB (cached 0MB)": "SWAP",
		"RAM 1/2MB (lfb 1x4MB) IRAM 0/252kB":                        "IRAM",
		"RAM 1/2MB IRAM 0/1kB(lfb 1kB) IRAM 0/1kB(lfb 1kB)":         "IRAM",
		"RAM 1/2MB (lfb 1x4MB) CPU [":                               "CPU",
		"RAM 1/2MB (lfb 1x4MB) CPU [1%@7":                           "CPU",
		"RAM 1/2MB (lfb 1x4MB) CPU [1%@729,":                        "CPU",
		"RAM 1/2MB (lfb 1x4MB) CPU [1%@729] CPU [1%@729]":           "CPU",
		"13-01-2026 00:00:00 RAM 1/2MB":                             "time",
		"02-30-2026 00:00:00 RAM 1/2MB":                             "time",
		"02-29-2100 00:00:00 RAM 1/2MB":                             "time",
		"12-01-2026 24:00:00 RAM 1/2MB":                             "time",
		"12-01-2026 00:00:0 RAM 1/2MB":                              "time",
		"12-01-2026 RAM 1/2MB":                                      "time",
		"12-01-20x6 00:00:00 RAM 1/2MB":                             "time",
	} {
		_, err := Parse(line)
		var invalid *tier.InvalidError
		if !errors.As(err, &invalid) || !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%q: error %v", line, err)
			continue
		}
		if invalid.Field != "tegrastats "+field {
			t.Errorf("%q: field %q, want %s", line, invalid.Field, field)
		}
	}
}

func TestParse_HugeLine_ErrorStaysShort(t *testing.T) {
	_, err := Parse("RAM " + strings.Repeat("9", 1<<20))
	if err == nil || len(err.Error()) > 300 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func TestParse_LeapDay_Read(t *testing.T) {
	r := mustParse(t, "02-29-2028 23:59:59 RAM 1/2MB")
	if want := time.Date(2028, 2, 29, 23, 59, 59, 0, time.Local); !r.Time.Equal(want) {
		t.Errorf("%v, want %v", r.Time, want)
	}
}

// A line may be cut anywhere when tegrastats is killed. What is read of it is the start
// of what the whole line has, except for the last word: its figure may have lost digits,
// and "VDD_IN 43" of a rail reads as a frequency.
func TestParse_CutLine_NeverInventsItems(t *testing.T) {
	for _, line := range ownLines(t) {
		whole := mustParse(t, line)
		for i := range line {
			r, err := Parse(line[:i])
			if err != nil {
				continue
			}
			if r.RAMTotal != whole.RAMTotal || r.RAMUsed != whole.RAMUsed ||
				len(r.CPUs) > len(whole.CPUs) || len(r.Engines) > len(whole.Engines)+1 ||
				len(r.Temperatures) > len(whole.Temperatures) || len(r.Rails) > len(whole.Rails) {
				t.Errorf("cut after %d: %v\nwhole: %v", i, r, whole)
			}
			for k, c := range r.CPUs {
				if c.Load != whole.CPUs[k].Load && k < len(r.CPUs)-1 {
					t.Errorf("cut after %d: core %d reads %v, is %v", i, k, c, whole.CPUs[k])
				}
			}
		}
	}
}
