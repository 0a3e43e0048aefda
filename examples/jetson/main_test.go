package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

const made = "../../jetson/testdata/tegrastats.txt"

func TestReplay_OneLineForEachReading(t *testing.T) {
	var out strings.Builder
	if err := replay(&out, made); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	source, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(text, "  power "), strings.Count(string(source), "\n"); got != want {
		t.Errorf("%d readings shown of %d", got, want)
	}
	for _, want := range []string{"7.4 GiB seen by the system", "ram 5.0 GiB, swap 10.0 GiB, reserved 1.0 GiB", "gpu 96 %  power 13.8 W  swap 0.6/3.7  gpu 63.1 °C  lfb 902 x 32.0 KiB", "gpu not known"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the output", want)
		}
	}
}

func TestReplay_NoLines_Error(t *testing.T) {
	for _, path := range []string{"main.go", "none"} {
		if err := replay(os.Stdout, path); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestPrintNotes_SameNoteTwice_ToldOnce(t *testing.T) {
	var out strings.Builder
	var before tier.Notes
	for _, notes := range []tier.Notes{"one", "one", "one\ntwo", "", "one"} {
		printNotes(&out, notes, before)
		before = notes
	}
	text := out.String()
	if strings.Count(text, "one") != 2 || strings.Count(text, "two") != 1 {
		t.Errorf("output %q", text)
	}
}

func TestReport_Board_SaysWhatItIsAndWouldSet(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\x00nvidia,tegra234\x00",
		"proc/device-tree/model":      "NVIDIA Jetson Orin Nano Developer Kit\x00",
		"etc/nv_tegra_release":        "# R36 (release), REVISION: 5.0, GCID: 1\n",
		"proc/meminfo":                "MemTotal: 7790592 kB\nMemAvailable: 6000000 kB\n",
		"proc/swaps":                  "Filename Type Size Used Priority\n/dev/zram0 partition 650240 0 5\n",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	board, err := jetson.DetectIn(jetson.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	report(&out, board, "")
	for _, want := range []string{"Jetson Orin Nano (NVIDIA", "R36.5.0, JetPack 6", "635.0 MiB zram", "ram 5.0 GiB", "The power mode is not known", "1. Turn zram off.", "$ sudo systemctl disable nvzramconfig"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}
