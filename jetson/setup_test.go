package jetson

import (
	"strings"
	"testing"
)

func FuzzPowerModes(f *testing.F) {
	f.Add(fixtureOrinNano8.tree()["etc/nvpmodel.conf"], "pmode:0001 fmode:quiet")
	f.Fuzz(func(t *testing.T, conf, status string) {
		modes := parsePowerModes(conf)
		for _, m := range modes {
			if m.Name == "" {
				t.Errorf("a mode without a name in %q", conf)
			}
		}
		highestPower(modes)
		firstNumber(statusPattern, status)
		firstNumber(defaultPattern, conf)
	})
}

// The ID of a mode differs between firmwares.
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

func TestHighestPower_GoesByName(t *testing.T) {
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
		if got, ok := highestPower(modes); got.Name != want || ok != (want != "") {
			t.Errorf("%q: %v, %v", names, got, ok)
		}
	}
}

func TestSwaps_Zram_ToldFromDisk(t *testing.T) {
	b := fixtureOrinNano8.detect(t)
	if len(b.Swaps) != 6 || !b.Swaps[0].Zram || b.Swaps[0].Used != 10*mib {
		t.Errorf("%+v", b.Swaps)
	}
}

func TestAdvise_EachBoard_WhatItsOwnerCouldChange(t *testing.T) {
	for name, c := range map[string]struct {
		fixture fixture
		models  string
		want    string
	}{
		"Orin Nano 8 GB, all wrong": {fixtureOrinNano8, "", "Update to L4T R36.5|Boot without the desktop.|Turn zram off. ...|Put a swap file|Move the models to|Use power mode MAXN_SUPER|Raise the limit of"},
		"its models on NVMe":        {fixtureOrinNano8, "/ssd/models", "Update to L4T R36.5|Boot without the desktop.|Turn zram off. ...|Put a swap file|Use power mode MAXN_SUPER|Raise the limit of"},
		"Orin Nano 4 GB, all well":  {fixtureOrinNano4, "", ""},
		"its models on a NAS":       {fixtureOrinNano4, "/mnt/nas/models", "Keep the models on"},
		"Orin NX with zram":         {fixtureOrinNX, "", "Turn zram off. ...|Put a swap file"},
		"AGX Orin on eMMC":          {fixtureAGXOrin, "", "Turn zram off. ...|Add an NVMe disk|Use power mode MAXN"},
		"Xavier NX on USB":          {fixtureXavierNX, "", "Boot without the desktop.|Turn zram off. ...|Add an NVMe disk|Raise the limit of"},
		"Thor":                      {fixtureThor, "", "Use power mode MAXN"},
	} {
		advice := c.fixture.detect(t).Advise(c.models)
		var got []string
		for _, a := range advice {
			words := append(strings.Fields(a.What), "...")
			got = append(got, strings.Join(words[:4], " "))
			if a.Why == "" || !strings.HasSuffix(a.Why, ".") {
				t.Errorf("%s: %q has no reason", name, a.What)
			}
		}
		if got := strings.Join(got, "|"); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

// The ID comes from this board's nvpmodel.conf.
func TestAdvise_PowerMode_CommandHasThisBoardsID(t *testing.T) {
	for _, a := range fixtureOrinNano8.detect(t).Advise("") {
		if strings.HasPrefix(a.What, "Use power mode") {
			if a.Command != "sudo nvpmodel -m 2" || !strings.Contains(a.What, "instead of 25W") {
				t.Errorf("%+v", a)
			}
			return
		}
	}
	t.Error("no advice about the power mode")
}

func TestAdvise_OldFirmware_OnlyWhereMemoryIsMissing(t *testing.T) {
	for memory, want := range map[int]bool{6450: true, 7337: false, 7620: false, 3470: false} {
		f := fixtureOrinNano8
		f.memory = memory
		got := strings.Contains(f.detect(t).Advise("")[0].What, "firmware")
		if got != want {
			t.Errorf("%d MB seen: advice about firmware %v", memory, got)
		}
	}
}
