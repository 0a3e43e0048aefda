package jetson

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
			fixture: fixtureOrinNano8, family: OrinNano, soc: "tegra234", release: "R36.4.7", jetpack: "6.2.1",
			power: PowerMode{1, "25W"}, zram: 6 * 635 * mib,
			root:   Storage{Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 10 * tier.GiB, Reserved: 1 * tier.GiB, MaxModel: 10*tier.GiB + tier.GiB/2},
		},
		"Orin Nano 4 GB": {
			fixture: fixtureOrinNano4, family: OrinNano, soc: "tegra234", release: "R36.5.0", jetpack: "6.2.2",
			power: PowerMode{0, "10W"}, disk: 8192 * mib,
			root:   Storage{Kind: NVMe, Disk: "nvme0n1", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 1792 * mib, Swap: 3584 * mib, Reserved: 512 * mib, MaxModel: 3584*mib + 3584*mib/20},
		},
		"Orin NX": {
			fixture: fixtureOrinNX, family: OrinNX, soc: "tegra234", release: "R36.4.4", jetpack: "6.2.1",
			power: PowerMode{0, "MAXN"}, zram: 8 * 978 * mib,
			root:   Storage{Kind: NVMe, Disk: "nvme0n1", Mount: "/", FileSystem: "ext4"},
			limits: tier.Limits{RAM: 11776 * mib, Swap: 23552 * mib, Reserved: 2 * tier.GiB, MaxModel: 23552*mib + 23552*mib/20},
		},
		"AGX Orin": {
			fixture: fixtureAGXOrin, family: AGXOrin, soc: "tegra234", release: "R36.4.4", jetpack: "6.2.1",
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
			fixture: fixtureThor, family: Thor, soc: "tegra264", release: "R39.2.0", jetpack: "7.2",
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

// A container shows the device tree and hardly anything else.
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
		b.slow.read()
	}
}

func TestFamilyOf_WithoutPartNumber_GoesByTheName(t *testing.T) {
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

func TestRelease_JetPack_ToTheDigitOnlyWhereKnown(t *testing.T) {
	for r, want := range map[Release]string{
		{36, "4.7"}: "6.2.1", {36, "5.0"}: "6.2.2", {36, "5"}: "6.2.2", {36, "3.0"}: "6",
		{38, "4.0"}: "7.1", {38, "2.0"}: "7", {39, "2.0"}: "7.2", {40, "1.0"}: "7",
		{35, "4.1"}: "5", {34, "1.1"}: "5", {32, "7.1"}: "4", {31, "1.0"}: "4", {28, "2.0"}: "", {}: "",
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
		r.JetPack()
	})
}

func FuzzPowerModes(f *testing.F) {
	f.Add(fixtureOrinNano8.tree()["etc/nvpmodel.conf"], "pmode:0001 fmode:quiet")
	f.Fuzz(func(t *testing.T, conf, status string) {
		modes, _ := parsePowerModes(conf)
		for _, m := range modes {
			if m.Name == "" {
				t.Errorf("a mode without a name in %q", conf)
			}
		}
		most(modes)
		parsePowerStatus(status)
	})
}

// The IDs of one and the same mode differ between firmwares.
func TestReadPower_WithoutStatus_DefaultOfTheConfiguration(t *testing.T) {
	files := fixtureOrinNano8.tree()
	delete(files, "var/lib/nvpmodel/status")
	files["etc/nvpmodel.conf"] = strings.Replace(files["etc/nvpmodel.conf"], "DEFAULT=0", "DEFAULT=2", 1)
	root := t.TempDir()
	writeTree(t, root, files)
	b, err := DetectIn(Options{Root: root})
	if err != nil || b.Power.Name != "MAXN_SUPER" {
		t.Errorf("%v, %v", b.Power, err)
	}
}

func TestMost_OfModes_GoesByName(t *testing.T) {
	for names, want := range map[string]string{
		"15W 25W MAXN_SUPER 7W": "MAXN_SUPER",
		"MAXN 10W 15W 25W":      "MAXN",
		"15W 7W":                "15W",
		"10W 7W_AI 7W_CPU":      "10W",
		"MODE_15W_2CORE MODE_20W_6CORE MODE_10W_DESK": "MODE_20W_6CORE",
		"120W MAXN": "MAXN",
		"FAST SLOW": "",
		"":          "",
	} {
		var modes []PowerMode
		for id, name := range strings.Fields(names) {
			modes = append(modes, PowerMode{ID: id, Name: name})
		}
		if got, ok := most(modes); got.Name != want || ok != (want != "") {
			t.Errorf("%q: %v, %v", names, got, ok)
		}
	}
}

func TestStorageOf_Path_GoesByItsMount(t *testing.T) {
	b := fixtureOrinNano8.detect(t)
	for path, want := range map[string]Storage{
		"/":               {Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
		"/home/a/models":  {Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
		"/ssd":            {Kind: NVMe, Disk: "nvme0n1", Mount: "/ssd", FileSystem: "ext4"},
		"/ssd/models/":    {Kind: NVMe, Disk: "nvme0n1", Mount: "/ssd", FileSystem: "ext4"},
		"/ssdx":           {Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
		"/mnt/nas/models": {Mount: "/mnt/nas", FileSystem: "nfs4"},
	} {
		got, err := b.StorageOf(path)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// An encrypted root is a device mapper over a partition; btrfs has a number of
// its own and names a device as its source.
func TestStorageOf_LayeredDevice_FindsTheDisk(t *testing.T) {
	f := fixtureOrinNX
	files := f.tree()
	files["proc/1/mountinfo"] = "21 1 253:0 / / rw shared:1 - ext4 /dev/mapper/root rw\n" +
		"22 21 0:50 / /data rw shared:2 - btrfs /dev/nvme0n1p1 rw\n"
	files["sys/devices/virtual/block/dm-0/slaves/nvme0n1p1"] = "-> ../../../../platform/bus@0/14160000.pcie/pci0004:00/nvme/nvme0/nvme0n1/nvme0n1p1"
	files["sys/dev/block/253:0"] = "-> ../../devices/virtual/block/dm-0"
	files["sys/class/block/nvme0n1p1"] = "-> ../../devices/platform/bus@0/14160000.pcie/pci0004:00/nvme/nvme0/nvme0n1/nvme0n1p1"
	root := t.TempDir()
	writeTree(t, root, files)
	b, err := DetectIn(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/data"} {
		if s, err := b.StorageOf(path); err != nil || s.Kind != NVMe || s.Disk != "nvme0n1" {
			t.Errorf("%s: %+v, %v", path, s, err)
		}
	}
}

func TestSwaps_Zram_WithTheMemoryItHolds(t *testing.T) {
	b := fixtureOrinNano8.detect(t)
	if len(b.Swaps) != 6 || !b.Swaps[0].Zram || b.Swaps[0].Priority != 5 || b.Swaps[0].Used != 10*mib || b.Swaps[0].Held != 180*mib {
		t.Errorf("%+v", b.Swaps)
	}
}

func TestDetect_RootWithPatternCharacters_TakenAsItIs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a[b]*")
	writeTree(t, root, fixtureOrinNano8.tree())
	b, err := DetectIn(Options{Root: root})
	if err != nil || len(b.slow.heat) != 2 || !b.NVMe {
		t.Errorf("%+v, %v", b, err)
	}
}
