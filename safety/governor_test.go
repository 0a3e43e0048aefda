package safety

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

// board is an idle 8 GiB board with the default limits.
func board() (tier.Memory, Promise) {
	return tier.Memory{Total: 8 * tier.GiB, Available: 6 * tier.GiB}, Promise{Limits: tier.DefaultLimits()}
}

func pressed10(some, full float64, level tier.PressureLevel) tier.Pressure {
	return tier.Pressure{HasPSI: true, Some10: some, Full10: full, Level: level}
}

func TestGovernor_Level_RisesAtOnceAndFallsStepByStep(t *testing.T) {
	var g Governor
	m, p := board()
	at := time.Unix(0, 0)
	for _, s := range []struct {
		after time.Duration
		seen  tier.PressureLevel
		want  tier.PressureLevel
	}{
		{0, tier.PressureLow, tier.PressureLow},
		{time.Second, tier.PressureHigh, tier.PressureHigh},
		{9 * time.Second, tier.PressureLow, tier.PressureHigh},
		{1 * time.Second, tier.PressureLow, tier.PressureMedium},
		{9 * time.Second, tier.PressureLow, tier.PressureMedium},
		{1 * time.Second, tier.PressureLow, tier.PressureLow},
		{1 * time.Second, tier.PressureMedium, tier.PressureMedium},
		{9 * time.Second, tier.PressureMedium, tier.PressureMedium},
		{9 * time.Second, tier.PressureLow, tier.PressureMedium},
		{0, tier.PressureMedium, tier.PressureMedium}, // the calm starts over
		{9 * time.Second, tier.PressureLow, tier.PressureMedium},
		{1 * time.Second, tier.PressureLow, tier.PressureLow},
		{1 * time.Second, 200, tier.PressureHigh}, // no such level
		{-time.Hour, tier.PressureLow, tier.PressureHigh},
	} {
		at = at.Add(s.after)
		m.Pressure.Level = s.seen
		before := g.level
		var d Decision
		g, d = g.Observe(at, m, p)
		if d.Level != s.want || d.Admit != (s.want < tier.PressureHigh) || d.Changed != (before != s.want) {
			t.Fatalf("at %v, %v seen: %+v, want %v", at.Unix(), s.seen, d, s.want)
		}
		if d.Changed && !strings.Contains(d.Why, s.want.String()) {
			t.Errorf("why is %q", d.Why)
		}
	}
}

func TestGovernor_HighPressure_GivesBackASixteenthEveryTenSeconds(t *testing.T) {
	var g Governor
	var d Decision
	m, p := board()
	at := time.Unix(0, 0)
	m.Pressure = pressed10(40, 10, tier.PressureHigh)
	var asked []int
	for second := range 31 {
		g, d = g.Observe(at.Add(time.Duration(second)*time.Second), m, p)
		if d.GiveBack > 0 {
			asked = append(asked, second)
			if d.GiveBack != tier.GiB/2 || !strings.Contains(d.Why, "40.0%") {
				t.Errorf("%+v", d)
			}
		}
	}
	if len(asked) != 4 || asked[1] != 10 || asked[3] != 30 {
		t.Errorf("asked in seconds %v", asked)
	}
}

func TestGovernor_HighPressureFallsByHalf_WaitsForItToFallFurther(t *testing.T) {
	var g Governor
	var d Decision
	m, p := board()
	at := time.Unix(0, 0)
	observe := func(after time.Duration, some, full float64) tier.Bytes {
		at = at.Add(after)
		m.Pressure = pressed10(some, full, tier.PressureHigh)
		g, d = g.Observe(at, m, p)
		return d.GiveBack
	}
	if observe(0, 80, 40) == 0 {
		t.Fatal("nothing asked for")
	}
	if got := observe(10*time.Second, 35, 15); got != 0 {
		t.Errorf("it falls, and %v more were asked for", got)
	}
	if got := observe(10*time.Second, 30, 14); got == 0 {
		t.Error("it stays high, and nothing was asked for")
	}
}

func TestGovernor_HighPressureBeginsAgain_AsksAtOnceThoughItIsLowerThanBefore(t *testing.T) {
	var g Governor
	var d Decision
	m, p := board()
	m.Pressure = pressed10(80, 0, tier.PressureHigh)
	g, _ = g.Observe(time.Unix(0, 0), m, p)
	m.Pressure = pressed10(1, 0, tier.PressureLow)
	g, _ = g.Observe(time.Unix(60, 0), m, p)
	m.Pressure = pressed10(25, 0, tier.PressureHigh)
	if _, d = g.Observe(time.Unix(61, 0), m, p); d.GiveBack == 0 {
		t.Errorf("%+v", d)
	}
}

func TestGovernor_PressureComesAndGoes_NoMoreThanAStepInTenSeconds(t *testing.T) {
	var g Governor
	var d Decision
	m, p := board()
	steps := 0
	for second := range 100 {
		m.Pressure = pressed10(0, 0, tier.PressureLow)
		if second%2 == 0 {
			m.Pressure = pressed10(25, 0, tier.PressureHigh)
		}
		g, d = g.Observe(time.Unix(int64(second), 0), m, p)
		if d.GiveBack > 0 {
			steps++
		}
		if !d.Changed != (second > 0) {
			t.Fatalf("second %d: %+v", second, d)
		}
	}
	if steps != 10 {
		t.Errorf("%d steps in 100 s", steps)
	}
}

func TestGovernor_ReserveLacks_AsksForItAndALittleMoreOnce(t *testing.T) {
	var g Governor
	m, p := board()
	m.Available = tier.GiB - 100*tier.MiB
	g, d := g.Observe(time.Unix(0, 0), m, p)
	if want := 100*tier.MiB + 128*tier.MiB; d.GiveBack != want || !d.Admit || d.Background {
		t.Fatalf("%+v, want %v", d, want)
	}
	if !strings.Contains(d.Why, "100.0 MiB") {
		t.Errorf("why is %q", d.Why)
	}
	p.Leaving = d.GiveBack
	g, d = g.Observe(time.Unix(1, 0), m, p)
	if d.GiveBack != 0 || d.Why != "" {
		t.Errorf("asked twice: %+v", d)
	}
	m.Available -= 50 * tier.MiB
	if g, d = g.Observe(time.Unix(2, 0), m, p); d.GiveBack != 50*tier.MiB {
		t.Errorf("asked for %v of what was taken since", d.GiveBack)
	}
	// They are gone and seen; background moves wait a while all the same.
	p.Leaving, m.Available = 0, 2*tier.GiB
	if g, d = g.Observe(time.Unix(11, 0), m, p); d.GiveBack != 0 || d.Background {
		t.Errorf("%+v", d)
	}
	if _, d = g.Observe(time.Unix(12, 0), m, p); !d.Background {
		t.Errorf("%+v", d)
	}
}

func TestGovernor_ReserveIsWhole_NothingAskedAndBackgroundRuns(t *testing.T) {
	m, p := board()
	m.Available = tier.GiB
	_, d := Governor{}.Observe(time.Unix(0, 0), m, p)
	if d != (Decision{Admit: true, Background: true}) {
		t.Errorf("%+v", d)
	}
	m.Pressure.Level = tier.PressureMedium
	if _, d = (Governor{}).Observe(time.Unix(0, 0), m, p); !d.Admit || d.Background || d.GiveBack != 0 {
		t.Errorf("medium: %+v", d)
	}
}

func TestGovernor_AnyReadings_BoundedAndOrderly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Governor
		at := time.Unix(0, 0)
		lastStep, lastFall := time.Time{}, time.Time{}
		lastSeen := map[tier.PressureLevel]time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "readings") {
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(15*time.Second)).Draw(t, "after")))
			m, p := board()
			m.Available = tier.Bytes(rapid.Int64Range(0, int64(m.Total)).Draw(t, "available"))
			p.Leaving = tier.Bytes(rapid.Int64Range(0, int64(2*tier.GiB)).Draw(t, "leaving"))
			m.Pressure = pressed10(rapid.Float64Range(0, 100).Draw(t, "some"), rapid.Float64Range(0, 100).Draw(t, "full"),
				tier.PressureLevel(rapid.IntRange(0, 2).Draw(t, "level")))
			before := g.level
			next, d := g.Observe(at, m, p)
			if again, d2 := g.Observe(at, m, p); again != next || d2 != d {
				t.Fatal("the same reading gives another decision")
			}
			g = next
			for l := tier.PressureLow; l <= m.Pressure.Level; l++ {
				lastSeen[l] = at
			}
			lack := max(p.Limits.Reserved-m.Available, 0)
			switch {
			case d.Level < m.Pressure.Level:
				t.Fatalf("%v seen, %v believed", m.Pressure.Level, d.Level)
			case d.Level < before && (at.Sub(lastSeen[before]) < calmFor || d.Level != before-1 || at.Sub(lastFall) < calmFor):
				t.Fatalf("fell from %v to %v after %v", before, d.Level, at.Sub(lastSeen[before]))
			case d.GiveBack < 0 || d.GiveBack > max(m.Total/shedShare, lack+p.Limits.Reserved/slackShare):
				t.Fatalf("gives back %v", d.GiveBack)
			case lack > 0 && d.GiveBack+p.Leaving < lack:
				t.Fatalf("%v lack, %v are asked for and %v leave", lack, d.GiveBack, p.Leaving)
			case lack == 0 && d.GiveBack > 0 && (m.Pressure.Level < tier.PressureHigh || !lastStep.IsZero() && at.Sub(lastStep) < shedEvery):
				t.Fatalf("gives back %v, %v after the last step at level %v", d.GiveBack, at.Sub(lastStep), m.Pressure.Level)
			case (d.GiveBack > 0 || d.Level > tier.PressureLow) && d.Background:
				t.Fatal("background moves fill what is emptied")
			case (d.Why != "") != (d.Changed || d.GiveBack > 0):
				t.Fatalf("%+v", d)
			}
			if d.Level < before {
				lastFall = at
			}
			if lack == 0 && d.GiveBack > 0 {
				lastStep = at
			}
		}
	})
}
