package jetson

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeTree writes files below root. A text that begins with "-> " is a symbolic
// link to the rest of it.
func writeTree(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(filepath.FromSlash(to), path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fixture is a made-up board: its files follow the documents of each board.
type fixture struct {
	model      string
	compatible []string
	release    string // of /etc/nv_tegra_release
	memory     int    // MiB
	available  int    // MiB
	zrams      int
	zram       int // MiB each
	swapFile   int // MiB
	root       string
	fs         string
	modes      []string // by ID; "-" is an ID without a mode
	mode       string   // of /var/lib/nvpmodel/status
	desktop    bool
	lock       string // bytes, or "unlimited"
	extra      map[string]string
}

var (
	fixtureOrinNano8 = fixture{
		model:      "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
		compatible: []string{"nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"},
		release:    "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, DATE: Thu Sep 18 22:54:44 UTC 2025",
		memory:     7620, available: 5800, zrams: 6, zram: 635,
		root: "sd", fs: "ext4",
		modes: []string{"15W", "25W", "MAXN_SUPER", "7W"}, mode: "pmode:0001",
		desktop: true, lock: "8388608",
		extra: map[string]string{
			"sys/class/nvme/nvme0/model":                            "Disk\n",
			"sys/class/thermal/cooling_device0/type":                "pwm-fan\n",
			"sys/class/thermal/cooling_device0/cur_state":           "3\n",
			"sys/class/thermal/cooling_device1/type":                "cpu-throttle-alert\n",
			"sys/class/thermal/cooling_device1/cur_state":           "0\n",
			"sys/class/thermal/cooling_device2/type":                "gpu-throttle-alert\n",
			"sys/class/thermal/cooling_device2/cur_state":           "0\n",
			"sys/class/hwmon/hwmon3/name":                           "soctherm_oc\n",
			"sys/class/hwmon/hwmon3/oc1_event_cnt":                  "0\n",
			"sys/class/hwmon/hwmon3/oc2_event_cnt":                  "7\n",
			"sys/class/hwmon/hwmon3/oc3_event_cnt":                  "15\n",
			"sys/block/zram0/mm_stat":                               "209715200 183500800 188743680 0 188743680 1 0 0 0\n",
			"sys/devices/platform/nvme/nvme0n1/size":                "1\n",
			"sys/devices/platform/nvme/nvme0n1/nvme0n1p1/partition": "1\n",
			"sys/dev/block/259:1":                                   "-> ../../devices/platform/nvme/nvme0n1/nvme0n1p1",
		},
	}
	fixtureOrinNano4 = fixture{
		model:      "NVIDIA Jetson Orin Nano Developer Kit",
		compatible: []string{"nvidia,p3768-0000+p3767-0004", "nvidia,p3767-0004", "nvidia,tegra234"},
		release:    "# R36 (release), REVISION: 5.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x",
		memory:     3470, available: 2300,
		root: "nvme", fs: "ext4", swapFile: 8192,
		modes: []string{"10W", "7W_AI", "7W_CPU"}, mode: "pmode:0000",
		lock: "unlimited",
	}
	fixtureOrinNX = fixture{
		model:      "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
		compatible: []string{"nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"},
		release:    "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: x",
		memory:     15656, available: 13000, zrams: 8, zram: 978,
		root: "nvme", fs: "ext4",
		modes: []string{"MAXN", "10W", "15W", "25W"}, mode: "pmode:0000",
		lock: "unlimited",
	}
	fixtureAGXOrin = fixture{
		model:      "NVIDIA Jetson AGX Orin Developer Kit",
		compatible: []string{"nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"},
		release:    "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: x",
		memory:     62841, available: 58000, zrams: 12, zram: 2618,
		root: "emmc", fs: "ext4",
		modes: []string{"MAXN", "MODE_15W", "MODE_30W", "MODE_50W"}, mode: "pmode:0002",
		lock: "unlimited",
	}
	fixtureXavierNX = fixture{
		model:      "NVIDIA Jetson Xavier NX Developer Kit",
		compatible: []string{"nvidia,p3509-0000+p3668-0000", "nvidia,p3668-0000", "nvidia,tegra194"},
		release:    "# R35 (release), REVISION: 6.0, GCID: 37391689, BOARD: t186ref, EABI: aarch64, DATE: x",
		memory:     6851, available: 5600, zrams: 6, zram: 571,
		root: "usb", fs: "ext4",
		modes: []string{"MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_15W_6CORE", "MODE_10W_2CORE", "MODE_10W_4CORE", "-", "-", "-", "MODE_20W_6CORE"}, mode: "pmode:0008",
		desktop: true, lock: "65536",
	}
	fixtureThor = fixture{
		model:      "NVIDIA Jetson AGX Thor Developer Kit",
		compatible: []string{"nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"},
		release:    "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x",
		memory:     125811, available: 118000, swapFile: 2048,
		root: "nvme", fs: "ext4",
		modes: []string{"MAXN", "120W"}, mode: "pmode:0001",
		lock: "unlimited",
	}
)

// tree returns the files of the fixture.
func (f fixture) tree() map[string]string {
	files := map[string]string{
		"proc/device-tree/model":      f.model + "\x00",
		"proc/device-tree/compatible": strings.Join(f.compatible, "\x00") + "\x00",
		"etc/nv_tegra_release":        f.release + "\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
		"proc/meminfo": fmt.Sprintf("MemTotal:       %d kB\nMemFree:        %d kB\nMemAvailable:   %d kB\n",
			f.memory<<10, f.available<<9, f.available<<10),
		"proc/1/limits": fmt.Sprintf("%-26s%-21s%-21s%-10s\n%-26s%-21s%-21s%-10s\n",
			"Limit", "Soft Limit", "Hard Limit", "Units", "Max locked memory", f.lock, f.lock, "bytes"),
		"proc/self":                         "-> 1",
		"var/lib/nvpmodel/status":           f.mode + "\n",
		"etc/systemd/system/.keep":          "",
		"lib/systemd/system/default.target": "-> graphical.target",
		"sys/class/block/.keep":             "",
	}
	target := "multi-user.target"
	if f.desktop {
		target = "graphical.target"
	}
	files["etc/systemd/system/default.target"] = "-> /lib/systemd/system/" + target

	var conf strings.Builder
	conf.WriteString("# made for a test\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/x\n")
	for id, name := range f.modes {
		if name != "-" {
			fmt.Fprintf(&conf, "< POWER_MODEL ID=%d NAME=%s >\nCPU_ONLINE CORE_0 1\n", id, name)
		}
	}
	conf.WriteString("< PM_CONFIG DEFAULT=0 >\n")
	files["etc/nvpmodel.conf"] = conf.String()

	var swaps strings.Builder
	swaps.WriteString("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
	for i := range f.zrams {
		fmt.Fprintf(&swaps, "/dev/zram%d partition\t%d\t\t%d\t\t5\n", i, f.zram<<10, 10<<10)
	}
	if f.swapFile > 0 {
		fmt.Fprintf(&swaps, "/ssd/swapfile file\t%d\t\t%d\t\t-2\n", f.swapFile<<10, 100<<10)
	}
	files["proc/swaps"] = swaps.String()

	// The disk of the root, where the kernel would put it.
	dir, source, number := "", "", "8:1"
	switch f.root {
	case "nvme":
		dir, source, number = "devices/platform/bus@0/14160000.pcie/pci0004:00/nvme/nvme0/nvme0n1/nvme0n1p1", "/dev/nvme0n1p1", "259:1"
		files["sys/class/nvme/nvme0/model"] = "Disk\n"
	case "sd", "emmc":
		dir, source, number = "devices/platform/bus@0/3400000.mmc/mmc_host/mmc0/mmc0:1/block/mmcblk0/mmcblk0p1", "/dev/mmcblk0p1", "179:1"
		files["sys/"+filepath.Dir(dir)+"/device/type"] = map[string]string{"sd": "SD\n", "emmc": "MMC\n"}[f.root]
	case "usb":
		dir, source = "devices/platform/3610000.xhci/usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda/sda1", "/dev/sda1"
	}
	files["sys/"+dir+"/partition"] = "1\n"
	files["sys/dev/block/"+number] = "-> ../../" + dir
	files["proc/1/mountinfo"] = fmt.Sprintf("21 1 %s / / rw,relatime shared:1 - %s %s rw\n"+
		"22 21 0:20 / /proc rw shared:2 - proc proc rw\n"+
		"30 21 259:1 / /ssd rw,relatime shared:9 - ext4 /dev/nvme0n1p1 rw\n"+
		"31 21 0:44 / /mnt/nas rw shared:10 - nfs4 nas:/models rw\n", number, f.fs, source)

	maps.Copy(files, f.extra)
	return files
}

// plant writes the fixture into a new folder and returns it.
func (f fixture) plant(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	writeTree(t, root, f.tree())
	return root
}

func (f fixture) detect(t testing.TB) *Board {
	t.Helper()
	b, err := DetectIn(Options{Root: f.plant(t)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
