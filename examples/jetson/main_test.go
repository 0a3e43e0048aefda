package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

const made = "../../jetson/testdata/tegrastats.txt"

// output runs f with a file for its output, as a shell's redirection would.
func output(t *testing.T, f func(out *os.File) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := f(out); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReplay_NotATerminal_OnePlainLineForEachReading(t *testing.T) {
	text := output(t, func(out *os.File) error { return run(t.Context(), out, options{replay: made}) })
	source, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(text, "  power "), strings.Count(string(source), "\n"); got != want {
		t.Errorf("%d readings shown of %d", got, want)
	}
	if strings.Contains(text, "\x1b") {
		t.Error("control characters in plain output")
	}
	for _, want := range []string{"Jetson Orin Nano by its sensors", "ram 5.0 GiB, swap 10.0 GiB, reserved 1.0 GiB", "gpu 96 %  power 13.8 W  gpu 63.1 °C  lfb 902 x 32.0 KiB", "gpu not known"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the output", want)
		}
	}
}

func TestReplay_Terminal_DrawsOverTheReadingBefore(t *testing.T) {
	text := output(t, func(out *os.File) error {
		v := newView(out, "")
		v.terminal = true
		return replay(t.Context(), v, options{replay: made, lines: 2, interval: 1})
	})
	if strings.Count(text, "\x1b[5A") != 1 || strings.Count(text, "memory ") != 2 {
		t.Errorf("output %q", text)
	}
}

func TestReplay_NoLines_Error(t *testing.T) {
	for _, path := range []string{"main.go", "none"} {
		if err := run(t.Context(), os.Stdout, options{replay: path}); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestView_Notes_ToldOnceEach(t *testing.T) {
	text := output(t, func(out *os.File) error {
		v := newView(out, "")
		for _, notes := range []tier.Notes{"one", "one", "one\ntwo", "", "one"} {
			v.show(t.Context(), jetson.Reading{RAMTotal: tier.GiB}, &tier.Memory{Notes: notes})
		}
		return nil
	})
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
	for _, want := range []string{"Jetson Orin Nano (NVIDIA", "R36.5.0, JetPack 6.2.2", "635.0 MiB zram", "ram 5.0 GiB", "The power mode is not known", "1. Turn zram off.", "$ sudo systemctl disable nvzramconfig"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestFetchTiers_Server_ALineForEachTier(t *testing.T) {
	t.Setenv("MODELTIER_TOKEN", "secret")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("authorization %q", got)
		}
		if body, _ := io.ReadAll(r.Body); string(body) != `{"tier_status": true}` {
			t.Errorf("asked %q", body)
		}
		io.WriteString(w, `{"status":"success","tiers":{"ram":{"used_gb":3.3,"limit_gb":5.0,"models":2},"swap":{"used_gb":0,"limit_gb":10.0,"models":0}}}`)
	}))
	defer server.Close()
	got := fetchTiers(t.Context(), server.URL)
	if len(got) != 2 || !strings.Contains(got[0], "3.3 of 5.0 GiB, 2 models") {
		t.Errorf("%q", got)
	}
	server.Close()
	if got := fetchTiers(t.Context(), server.URL); len(got) != 1 {
		t.Errorf("no server: %q", got)
	}
	if got := fetchTiers(t.Context(), ""); got != nil {
		t.Errorf("none asked for: %q", got)
	}
}
