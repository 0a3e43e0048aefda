package jetson

import (
	"strings"
	"testing"
)

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

// The ID of the advised mode is the one that this board's file gives it.
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
