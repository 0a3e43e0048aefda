package jetson

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

// The seed figures are for the 8 GB Orin Nano, whatever its release shows of it.
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

func TestLoading_EveryKind_OneModelAtATime(t *testing.T) {
	for k := UnknownStorage; k <= SATA+1; k++ {
		l := k.Loading()
		if l.Models != 1 || l.Readers < 1 || l.Rate < 1_000_000 {
			t.Errorf("%v: %+v", k, l)
		}
		if l.Rate > NVMe.Loading().Rate {
			t.Errorf("%v is faster than NVMe", k)
		}
	}
	if NVMe.String() != "NVMe" || (SATA+1).String() != "unknown storage" {
		t.Error("names")
	}
}

// The table of the page for owners is what the rule gives.
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
