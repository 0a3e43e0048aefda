package jetson

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

func TestDetect_EachBoard_FindsWhatItIs(t *testing.T) {
	for name, c := range map[string]struct {
		fixture fixture
		family  Family
		soc     string
		release string
		jetpack string
		power   PowerMode
		disk    tier.Bytes // of swap
		zram    tier.Bytes
		root    Storage
		limits  tier.Limits
	}{
		"Orin Nano 8 GB": {
			fixture: fixtureOrinNano8, family: OrinNano, soc: "tegra234", release: "R36.4.7", jetpack: "6",
			power: PowerMode{1, "25W"}, zram: 6 * 635 * mib,
			root:   Storage{Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 10 * tier.GiB, Reserved: 1 * tier.GiB, MaxModel: 10*tier.GiB + tier.GiB/2},
		},
		"Orin Nano 4 GB": {
			fixture: fixtureOrinNano4, family: OrinNano, soc: "tegra234", release: "R36.5.0", jetpack: "6",
			power: PowerMode{0, "10W"}, disk: 8192 * mib,
			root:   Storage{Kind: NVMe, Disk: "nvme0n1", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 1792 * mib, Swap: 3584 * mib, Reserved: 512 * mib, MaxModel: 3584*mib + 3584*mib/20},
		},
		"Orin NX": {
			fixture: fixtureOrinNX, family: OrinNX, soc: "tegra234", release: "R36.4.4", jetpack: "6",
			power: PowerMode{0, "MAXN"}, zram: 8 * 978 * mib,
			root:   Storage{Kind: NVMe, Disk: "nvme0n1", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 11776 * mib, Swap: 23552 * mib, Reserved: 2 * tier.GiB, MaxModel: 23552*mib + 23552*mib/20},
		},
		"AGX Orin": {
			fixture: fixtureAGXOrin, family: AGXOrin, soc: "tegra234", release: "R36.4.4", jetpack: "6",
			power: PowerMode{2, "MODE_30W"}, zram: 12 * 2618 * mib,
			root:   Storage{Kind: EMMC, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 55808 * mib, Swap: 109 * tier.GiB, Reserved: 4 * tier.GiB, MaxModel: 109*tier.GiB + 109*tier.GiB/20},
		},
		"Xavier NX": {
			fixture: fixtureXavierNX, family: XavierNX, soc: "tegra194", release: "R35.6.0", jetpack: "5",
			power: PowerMode{8, "MODE_20W_6CORE"}, zram: 6 * 571 * mib,
			root: Storage{Kind: USB, Disk: "sda", Mount: "/", FileSystem: "ext4"},
			// Its system sees but 6.7 GiB of the 8.
			limits: tier.Limits{RAM: 4608 * mib, Swap: 9 * tier.GiB, Reserved: 1 * tier.GiB, MaxModel: 9*tier.GiB + 9*tier.GiB/20},
		},
		"Thor": {
			fixture: fixtureThor, family: Thor, soc: "tegra264", release: "R39.2.0", jetpack: "7",
			power: PowerMode{1, "120W"}, disk: 2048 * mib,
			root:   Storage{Kind: NVMe, Disk: "nvme0n1", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 117248 * mib, Swap: 229 * tier.GiB, Reserved: 4 * tier.GiB, MaxModel: 229*tier.GiB + 229*tier.GiB/20},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.fixture.detect(t)
			if b.Family != c.family || b.SoC != c.soc || b.Model != c.fixture.model {
				t.Errorf("%v, %s, %q", b.Family, b.SoC, b.Model)
			}
			if got := b.Release.String(); got != c.release || b.Release.JetPack() != c.jetpack {
				t.Errorf("release %s, JetPack %s", got, b.Release.JetPack())
			}
			if b.Memory != tier.Bytes(c.fixture.memory)*mib {
				t.Errorf("memory %v", b.Memory)
			}
			if b.Power != c.power || b.Desktop != c.fixture.desktop {
				t.Errorf("power %v, desktop %v", b.Power, b.Desktop)
			}
			if disk, zram := b.SwapOn(); disk != c.disk || zram != c.zram {
				t.Errorf("swap on disk %v, zram %v", disk, zram)
			}
			if diff := cmp.Diff(c.root, b.Root); diff != "" {
				t.Errorf("root (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.limits, b.Limits()); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
			if err := b.Limits().Validate(); err != nil {
				t.Error(err)
			}
			if len(b.Faults) > 0 {
				t.Errorf("faults: %q", b.Faults)
			}
		})
	}
}

func TestDetect_NoJetson_SaysSo(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a PC":          {"proc/meminfo": "MemTotal: 1 kB\n"},
		"another board": {"proc/device-tree/compatible": "raspberrypi,5-model-b\x00brcm,bcm2712\x00", "proc/device-tree/model": "Raspberry Pi 5\x00"},
		"nothing":       {},
	} {
		root := t.TempDir()
		writeTree(t, root, files)
		if b, err := DetectIn(Options{Root: root}); b != nil || !errors.Is(err, ErrNotJetson) {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
	if _, err := os.Stat("/proc/device-tree/compatible"); err != nil {
		if _, err := Detect(); !errors.Is(err, ErrNotJetson) {
			t.Errorf("this machine: %v", err)
		}
	}
}

func TestDetect_NoProc_DeviceTreeOfSys(t *testing.T) {
	root := t.TempDir()
	writeTree(t, root, map[string]string{
		"sys/firmware/devicetree/base/compatible": "nvidia,p3768-0000+p3767-0005\x00nvidia,tegra234\x00",
		"sys/firmware/devicetree/base/model":      "NVIDIA Jetson Orin Nano Developer Kit\x00",
	})
	b, err := DetectIn(Options{Root: root})
	if err != nil || b.Family != OrinNano || b.Model == "" {
		t.Errorf("%+v, %v", b, err)
	}
}

// Most containers have the device tree and few other files.
func TestDetect_MostFilesMissing_TellsWhatIsNotKnown(t *testing.T) {
	root := t.TempDir()
	writeTree(t, root, map[string]string{
		"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\x00nvidia,tegra234\x00",
		"proc/device-tree/model":      "NVIDIA Jetson Orin Nano Developer Kit\x00",
	})
	b, err := DetectIn(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if b.Family != OrinNano || !b.Release.IsZero() || b.Power.Name != "" || b.LockLimit.Known || b.Root.Kind != UnknownStorage {
		t.Errorf("%+v", b)
	}
	if b.Limits() != tier.DefaultLimits() {
		t.Errorf("limits %+v", b.Limits())
	}
	told := strings.Join(b.Faults, "\n")
	for _, what := range []string{"release", "memory", "power mode", "swap", "root device", "lock limit"} {
		if !strings.Contains(told, what) {
			t.Errorf("nothing about the %s in:\n%s", what, told)
		}
	}
	if advice := b.Advise(""); len(advice) != 0 {
		t.Errorf("advice about what is not known: %v", advice)
	}
}

func TestDetect_DamagedFiles_NoPanicAndTold(t *testing.T) {
	for _, junk := range []string{"", "\x00", "\xff\xfe garbage\n\n", "R", "< POWER_MODEL ID=x NAME= >", strings.Repeat("9", 100), "pmode:99999999999999999999", "a b c d e\n1 2"} {
		files := fixtureOrinNano8.tree()
		for _, name := range []string{"etc/nv_tegra_release", "etc/nvpmodel.conf", "var/lib/nvpmodel/status", "proc/meminfo", "proc/swaps", "proc/1/mountinfo", "proc/1/limits", "proc/device-tree/model", "sys/class/thermal/cooling_device1/cur_state", "sys/class/hwmon/hwmon3/oc3_event_cnt", "sys/block/zram0/mm_stat"} {
			files[name] = junk
		}
		root := t.TempDir()
		writeTree(t, root, files)
		b, err := DetectIn(Options{Root: root})
		if err != nil {
			t.Fatalf("%q: %v", junk, err)
		}
		if b.Limits() != tier.DefaultLimits() || len(b.Faults) < 3 {
			t.Errorf("%q: limits %+v, faults %q", junk, b.Limits(), b.Faults)
		}
		b.Advise("/ssd")
		b.slow.look()
	}
}

func TestFamilyOf_NoPartNumber_LongerNamesFirst(t *testing.T) {
	for model, want := range map[string]Family{
		"NVIDIA Jetson Orin Nano Developer Kit":     OrinNano,
		"NVIDIA Jetson Nano Developer Kit":          Nano,
		"NVIDIA Orin NX Developer Kit":              OrinNX,
		"NVIDIA Orin Jetson-Small":                  UnknownFamily,
		"Jetson-AGX":                                UnknownFamily,
		"NVIDIA Jetson Xavier NX Developer Kit":     XavierNX,
		"quill (Jetson TX2)":                        TX2,
		"jetson_tx1":                                UnknownFamily,
		"NVIDIA Jetson AGX Thor Developer Kit":      Thor,
		"NVIDIA Jetson AGX Orin Developer Kit":      AGXOrin,
		"NVIDIA Jetson AGX Xavier Industrial":       AGXXavier,
		"NVIDIA Tegra with a name that is not told": UnknownFamily,
	} {
		if got := familyOf("", model, "tegra234"); got != want {
			t.Errorf("%q: %v, want %v", model, got, want)
		}
	}
	if got := familyOf("", "a carrier of one's own", "tegra264"); got != Thor {
		t.Errorf("by chip: %v", got)
	}
	if got := UnknownFamily.String(); got != "Tegra board" {
		t.Errorf("unknown family: %q", got)
	}
}

func TestParseRelease(t *testing.T) {
	for line, want := range map[string]string{
		"# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic": "R36.4.7",
		"# R28 (release), REVISION: 2.0, GCID: 10567845, BOARD: t186ref": "R28.2.0",
		"R32 (release), REVISION: 7.1":                                   "R32.7.1",
		"#R39 (release),REVISION:2.0":                                    "R39.2.0",
	} {
		got, err := ParseRelease(line)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "#", "R", "# R36", "# R36 (release)", "# R (release), REVISION: 1", "# 36 (release), REVISION: 4", "# R36 (release), REVISION: a", "# R-3 (release), REVISION: 1", "# R36 (release), REVISION:", "# R99999999999999999999 (release), REVISION: 1"} {
		if got, err := ParseRelease(line); !errors.Is(err, tier.ErrInvalid) || !got.IsZero() {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
}

func TestRelease_JetPack_MajorVersion(t *testing.T) {
	for r, want := range map[Release]string{
		{40, "1.0"}: "7", {38, "2.0"}: "7", {36, "4.7"}: "6", {35, "4.1"}: "5", {34, "1.1"}: "5", {32, "7.1"}: "4", {31, "1.0"}: "4", {28, "2.0"}: "", {}: "",
	} {
		if got := r.JetPack(); got != want {
			t.Errorf("%v: %q, want %q", r, got, want)
		}
	}
}

func FuzzParseRelease(f *testing.F) {
	f.Add("# R36 (release), REVISION: 4.7, GCID: 42132812")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseRelease(line)
		if err == nil && (r.Major <= 0 || r.Revision == "") {
			t.Errorf("%q: %+v", line, r)
		}
	})
}

func TestDetect_RootWithPatternCharacters_TakenAsItIs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a[b]*")
	writeTree(t, root, fixtureOrinNano8.tree())
	b, err := DetectIn(Options{Root: root})
	if err != nil || len(b.slow.heat) != 2 || !b.NVMe {
		t.Errorf("%+v, %v", b, err)
	}
}

// The MemTotal of an 8 GB Orin Nano differs by release.
func TestLimitsFor_OrinNano8GB_SeedFiguresUnderEveryRelease(t *testing.T) {
	for _, seen := range []tier.Bytes{7337, 7546, 7607, 7620, 7852, 8192} {
		if got := LimitsFor(seen * mib); got != tier.DefaultLimits() {
			t.Errorf("%d MB: %+v", seen, got)
		}
	}
}

func TestLimitsFor_OtherBoards_ByTheStatedRule(t *testing.T) {
	for _, c := range []struct {
		seen          tier.Bytes // MiB, as printed by tegrastats
		ram, reserved tier.Bytes // MiB
	}{
		{3964, 1792, 512},      // Nano, and about an Orin Nano 4 GB
		{6450, 4352, 1024},     // Orin Nano with old firmware
		{6851, 4608, 1024},     // Xavier NX, JetPack 5
		{15388, 11776, 2048},   // Orin NX 16 GB
		{30536, 25088, 4096},   // AGX Orin 32 GB
		{62841, 55808, 4096},   // AGX Orin 64 GB
		{125772, 117248, 4096}, // Thor
		{24402, 19200, 4096},   // a DRIVE-class Orin
		{1024, 256, 512},       // less than any board has
		{1, 256, 512},          //
	} {
		got := LimitsFor(c.seen * mib)
		if got.RAM != c.ram*mib || got.Reserved != c.reserved*mib || got.Swap != 2*got.RAM || got.MaxModel != got.Swap+got.Swap/20 {
			t.Errorf("%d MB: ram %v (%d), reserved %v, swap %v, max model %v", c.seen, got.RAM, got.RAM/mib, got.Reserved, got.Swap, got.MaxModel)
		}
	}
	for _, seen := range []tier.Bytes{0, -1, tier.None} {
		if LimitsFor(seen) != tier.DefaultLimits() {
			t.Errorf("%d: %+v", seen, LimitsFor(seen))
		}
	}
}

func TestLimitsFor_AnyMemory_ValidAndWithinIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := tier.Bytes(rapid.Int64().Draw(t, "seen"))
		l := LimitsFor(seen)
		if err := l.Validate(); err != nil {
			t.Fatal(err)
		}
		if seen >= 2*tier.GiB && l.RAM.Plus(l.Reserved) > seen-tier.GiB+256*mib {
			t.Fatalf("%v seen: ram %v and %v reserved leave nothing to the system", seen, l.RAM, l.Reserved)
		}
	})
}

// The table of docs/jetson.md follows from LimitsFor.
func TestLimitsFor_DocumentedTable_IsTheRule(t *testing.T) {
	page, err := os.ReadFile("../docs/jetson.md")
	if err != nil {
		t.Fatal(err)
	}
	gib := func(b tier.Bytes) string { return strconv.FormatFloat(b.GB(), 'f', -1, 64) + " GiB" }
	for board, seen := range map[string]tier.Bytes{
		"Nano, Orin Nano 4 GB": 3964, "Orin Nano 8 GB": 7620, "Xavier NX 8 GB, JetPack 5": 6851,
		"Orin NX 16 GB": 15656, "AGX Orin 64 GB": 62841, "Thor 128 GB": 125811,
	} {
		l := LimitsFor(seen * mib)
		found := false
		for line := range strings.Lines(strings.ReplaceAll(string(page), "**", "")) {
			if strings.HasPrefix(line, "| "+board+" |") {
				found = strings.HasSuffix(strings.TrimSpace(line), "| "+gib(l.RAM)+" | "+gib(l.Swap)+" | "+gib(l.Reserved)+" |")
			}
		}
		if !found {
			t.Errorf("%s: the page does not say %s, %s, %s", board, gib(l.RAM), gib(l.Swap), gib(l.Reserved))
		}
	}
}
