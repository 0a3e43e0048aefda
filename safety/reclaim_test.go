package safety

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
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

func TestGovernor_ReserveLacksMoreThanCanBeCounted_AsksForAllOfIt(t *testing.T) {
	m, p := board()
	p.Limits.Reserved, p.Unseen = tier.Unlimited, tier.Unlimited
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.GiveBack != tier.Unlimited {
		t.Errorf("%+v", d)
	}
}

// Its bytes are kept free, so that models give way for others that take them; that they
// are not taken yet is no pressure.
func TestGovernor_RoomOfAnOutsider_IsKeptFreeAndIsNoPressure(t *testing.T) {
	m, p := board()
	m.Pressure.Stalled = tier.PressureHigh
	p.Outside = 5 * tier.GiB
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.GiveBack > 0 || d.Level > tier.PressureLow {
		t.Errorf("all is kept free: %+v", d)
	}
	m.Available -= tier.GiB / 2
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.GiveBack != tier.GiB/2+tier.GiB/8 || d.Level > tier.PressureLow {
		t.Errorf("half a GiB of it is not free any more: %+v", d)
	}
	p.Outside -= tier.GiB / 2
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.GiveBack > 0 {
		t.Errorf("it is the outsider that has it: %+v", d)
	}
}

// Weights that come back at a change of model stall the tasks that wait for them.
func TestGovernor_OwnLoadsRead_WhatTheyStalledIsNoPressure(t *testing.T) {
	for _, c := range []struct {
		name    string
		loaded  tier.Bytes // a second
		refault tier.Bytes // a second
		reading bool
		short   bool
		want    tier.PressureLevel
	}{
		{"loads read it", 300 * tier.MiB, 300 * tier.MiB, true, false, tier.PressureLow},
		{"loads read it for the first time", 300 * tier.MiB, 0, true, false, tier.PressureLow},
		{"no loads", 0, 300 * tier.MiB, true, false, tier.PressureHigh},
		{"more is read again than loads read", 300 * tier.MiB, 400 * tier.MiB, true, false, tier.PressureHigh},
		{"a sign that reading does not give", 300 * tier.MiB, 300 * tier.MiB, false, false, tier.PressureHigh},
		{"the reserve is not whole", 300 * tier.MiB, 300 * tier.MiB, true, true, tier.PressureHigh},
	} {
		var g Governor
		var d Decision
		m, p := board()
		if c.short {
			m.Available = tier.GiB - 1
		}
		m.Pressure = tier.Pressure{HasPSI: true, Some10: 60, Full10: 50, Refault: c.refault, Level: tier.PressureHigh, Stalled: tier.PressureHigh, Reading: c.reading}
		at := time.Unix(0, 0)
		for range 60 {
			at, p.Loaded = at.Add(time.Second), p.Loaded+c.loaded
			g, d = g.Observe(at, m, p)
		}
		if d.Level != c.want || d.Admit != (c.want < tier.PressureHigh) {
			t.Errorf("%s: %+v, want %v", c.name, d, c.want)
		}
	}
}

func TestGovernor_OwnLoadsEnded_ExplainAsLongAsTheAverageRemembers(t *testing.T) {
	var g Governor
	var d Decision
	m, p := board()
	at := time.Unix(0, 0)
	g, _ = g.Observe(at, m, p)
	p.Loaded = tier.GiB
	m.Pressure = tier.Pressure{HasPSI: true, Some10: 60, Full10: 50, Level: tier.PressureHigh, Stalled: tier.PressureHigh, Reading: true}
	var high int
	for second := 1; second < 90; second++ {
		if g, d = g.Observe(at.Add(time.Duration(second)*time.Second), m, p); d.Level == tier.PressureHigh {
			high = second
			break
		}
	}
	if high < 35 || high > 50 {
		t.Errorf("what stalls %d s after the load counts first", high)
	}
}

// Tasks that stall somewhere on the machine count once memory is short here.
func TestGovernor_ReserveIsNotWhole_StallsCount(t *testing.T) {
	m, p := board()
	m.Pressure = tier.Pressure{HasPSI: true, Some10: 90, Full10: 80, Stalled: tier.PressureHigh}
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.Level != tier.PressureLow || !d.Admit || d.GiveBack > 0 {
		t.Errorf("a neighbour at a limit of its own: %+v", d)
	}
	m.Available = tier.GiB - 1
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.Level != tier.PressureHigh || d.Admit || d.GiveBack == 0 {
		t.Errorf("the machine is eaten: %+v", d)
	}
	// What is dirty comes back, and what others map the kernel takes by itself: no
	// model has to leave for either.
	m.Dirty, m.Mapped = 1, tier.GiB-1
	if _, d := (Governor{}).Observe(time.Unix(0, 0), m, p); d.Level != tier.PressureLow || d.GiveBack > 0 {
		t.Errorf("dirty and mapped pages: %+v", d)
	}
}

// A load that is promised and has not come yet leaves the reserve whole for now: stalls of
// the machine are those of others.
func TestGovernor_ReserveIsOnlyPromised_StallsOfOthersDoNotCount(t *testing.T) {
	m := tier.Memory{Total: 2400 * tier.MiB, Available: 2300 * tier.MiB}
	m.Pressure = tier.Pressure{HasPSI: true, Some10: 90, Full10: 80, Stalled: tier.PressureHigh}
	p := Promise{Limits: tier.Limits{RAM: 2 * tier.GiB, Reserved: tier.GiB}, Unseen: 1400 * tier.MiB}
	_, d := Governor{}.Observe(time.Now(), m, p)
	if d.Level != tier.PressureLow || d.GiveBack == 0 {
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
			case d.GiveBack < 0 || d.GiveBack > max(m.Total/reclaimShare, lack+p.Limits.Reserved/slackShare):
				t.Fatalf("gives back %v", d.GiveBack)
			case lack > 0 && d.GiveBack+p.Leaving < lack:
				t.Fatalf("%v lack, %v are asked for and %v leave", lack, d.GiveBack, p.Leaving)
			case lack == 0 && d.GiveBack > 0 && (m.Pressure.Level < tier.PressureHigh || !lastStep.IsZero() && at.Sub(lastStep) < reclaimEvery):
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

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type held struct {
	size  tier.Bytes
	state tier.State
	pin   bool
}

func viewOf(t testing.TB, swap tier.Bytes, models ...held) *tier.View {
	t.Helper()
	v := &tier.View{Now: noon, Limits: tier.DefaultLimits(), Protection: tier.Protection{}.OrDefault(), Room: tier.Footprint{tier.Swap: swap}}
	var all []tier.Model
	for i, h := range models {
		all = append(all, tier.Model{Name: fmt.Sprint("m", i), Size: h.size, Pinned: h.pin})
		v.States = append(v.States, h.state)
	}
	var err error
	if v.Library, err = tier.NewLibrary(all); err != nil {
		t.Fatal(err)
	}
	return v
}

// said is what one step does.
type said struct {
	Model string
	To    tier.Tier
	Keep  tier.Bytes
}

func say(steps []tier.Step) []said {
	var out []said
	for _, s := range steps {
		out = append(out, said{s.Model.Name, s.To, s.Keep})
	}
	return out
}

func old(s tier.State) tier.State { s.Since = noon.Add(-time.Hour); return s }

func TestReclaim_FrozenEngines_AreTakenLastAndStopped(t *testing.T) {
	const g = tier.GiB
	v := viewOf(t, 10*g,
		held{size: g, state: old(tier.State{Tier: tier.Swap, Kept: g / 4})},
		held{size: g, state: old(tier.State{Tier: tier.RAM})},
		held{size: g, state: old(tier.State{Tier: tier.Swap})}, // nothing of it is in memory
	)
	steps, given := Reclaim(v, 5*g/4, nil)
	if diff := gocmp.Diff([]said{{"m1", tier.Swap, 0}, {"m0", tier.Storage, 0}}, say(steps)); diff != "" || given != 5*g/4 {
		t.Errorf("gives %v (-want +got):\n%s", given, diff)
	}
}

func TestReclaim_CheapestFirst_KeptBytesThenIdleThenFresh(t *testing.T) {
	const g = tier.GiB
	v := viewOf(t, 10*g,
		held{size: g, state: tier.State{Tier: tier.RAM, Since: noon.Add(-time.Second)}},                         // 0 only just loaded
		held{size: g, state: old(tier.State{Tier: tier.RAM, LastUse: noon.Add(-time.Minute)})},                  // 1
		held{size: g, state: old(tier.State{Tier: tier.RAM, LastUse: noon.Add(-time.Hour)})},                    // 2 longest unused
		held{size: 2 * g, state: old(tier.State{Tier: tier.Swap, Kept: g / 2, Divisible: true})},                // 3
		held{size: 2 * g, state: old(tier.State{Tier: tier.Swap, Divisible: true})},                             // 4 nothing present
		held{size: g, state: old(tier.State{Tier: tier.RAM, Leases: 1})},                                        // 5
		held{size: g, state: old(tier.State{Tier: tier.RAM, Waiters: 1})},                                       // 6
		held{size: g, state: old(tier.State{Tier: tier.RAM}), pin: true},                                        // 7
		held{size: g, state: old(tier.State{Tier: tier.RAM, Moving: true, To: tier.Swap})},                      // 8
		held{size: g, state: old(tier.State{Tier: tier.RAM, Stuck: true})},                                      // 9
		held{size: g, state: old(tier.State{Tier: tier.Storage})},                                               // 10
		held{size: 2 * g, state: old(tier.State{Tier: tier.Swap, Kept: g / 2, Divisible: true, LastUse: noon})}, // 11
	)
	steps, given := Reclaim(v, 100*g, nil)
	want := []said{
		{"m3", tier.Swap, 0}, {"m11", tier.Swap, 0},
		{"m2", tier.Swap, 0}, {"m1", tier.Swap, 0},
		{"m0", tier.Swap, 0},
	}
	if diff := gocmp.Diff(want, say(steps)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if given != 4*g {
		t.Errorf("given %v", given)
	}
	for _, s := range steps {
		if s.Why == "" || s.Reason != tier.ReasonPressure {
			t.Errorf("%s: reason %q, %q", s.Model.Name, s.Reason, s.Why)
		}
	}
}

func TestReclaim_MinResidency_AsTheViewHasIt(t *testing.T) {
	for residency, first := range map[time.Duration]string{30 * time.Second: "m1", 90 * time.Second: "m0", 0: "m0"} {
		v := viewOf(t, 10*tier.GiB,
			held{size: tier.GiB, state: tier.State{Tier: tier.RAM, Since: noon.Add(-20 * time.Second), LastUse: noon.Add(-time.Hour)}},
			held{size: tier.GiB, state: tier.State{Tier: tier.RAM, Since: noon.Add(-time.Minute), LastUse: noon}},
		)
		v.Protection.MinResidency = residency
		if steps, _ := Reclaim(v, tier.GiB, nil); len(steps) != 1 || steps[0].Model.Name != first {
			t.Errorf("a minimum residency of %v: %v, want %s", residency, say(steps), first)
		}
	}
}

func TestReclaim_Divisible_GivesNoMoreThanAsked(t *testing.T) {
	v := viewOf(t, 10*tier.GiB,
		held{size: 4 * tier.GiB, state: old(tier.State{Tier: tier.RAM, Divisible: true})},
		held{size: 4 * tier.GiB, state: old(tier.State{Tier: tier.Swap, Kept: tier.GiB, Divisible: true})},
	)
	steps, given := Reclaim(v, 3*tier.GiB, nil)
	want := []said{{"m1", tier.Swap, 0}, {"m0", tier.Swap, 2 * tier.GiB}}
	if diff := gocmp.Diff(want, say(steps)); diff != "" || given != 3*tier.GiB {
		t.Errorf("given %v (-want +got):\n%s", given, diff)
	}
	// What is less than a page of memory gives nothing back.
	for asked, gives := range map[tier.Bytes]tier.Bytes{tier.MiB: tier.MiB, tier.MiB + 1: tier.MiB + 64*tier.KiB, 1000: 64 * tier.KiB, tier.Unlimited: 5 * tier.GiB} {
		steps, given = Reclaim(v, asked, nil)
		if given != gives || steps[0].Model.Name != "m1" || steps[0].Keep != max(tier.GiB-gives, 0) {
			t.Errorf("asked for %d, it gives %v: %v", asked, given, say(steps))
		}
	}
}

func TestReclaim_SwapIsFull_ToStorage(t *testing.T) {
	v := viewOf(t, tier.GiB,
		held{size: tier.GiB, state: old(tier.State{Tier: tier.RAM, LastUse: noon.Add(-time.Hour)})},
		held{size: tier.GiB, state: old(tier.State{Tier: tier.RAM})}, // never used: first
	)
	steps, given := Reclaim(v, 2*tier.GiB, nil)
	want := []said{{"m1", tier.Swap, 0}, {"m0", tier.Storage, 0}}
	if diff := gocmp.Diff(want, say(steps)); diff != "" || given != 2*tier.GiB {
		t.Errorf("given %v (-want +got):\n%s", given, diff)
	}
}

func TestReclaim_NothingAskedOrNothingIdle_NoSteps(t *testing.T) {
	v := viewOf(t, tier.GiB, held{size: tier.GiB, state: old(tier.State{Tier: tier.RAM})})
	if steps, given := Reclaim(v, 0, nil); steps != nil || given != 0 {
		t.Errorf("%v %v", steps, given)
	}
	v.States[0].Leases = 1
	if steps, given := Reclaim(v, tier.GiB, nil); steps != nil || given != 0 {
		t.Errorf("%v %v", steps, given)
	}
}

func TestReclaim_CallersOrder_Followed(t *testing.T) {
	v := viewOf(t, 10*tier.GiB,
		held{size: 1 * tier.GiB, state: old(tier.State{Tier: tier.RAM})},
		held{size: 3 * tier.GiB, state: old(tier.State{Tier: tier.RAM})},
		held{size: 2 * tier.GiB, state: old(tier.State{Tier: tier.RAM})},
	)
	largest := func(a, b int) int { return -cmp.Compare(v.Library.At(a).Size, v.Library.At(b).Size) }
	steps, _ := Reclaim(v, 100*tier.GiB, largest)
	want := []said{{"m1", tier.Swap, 0}, {"m2", tier.Swap, 0}, {"m0", tier.Swap, 0}}
	if diff := gocmp.Diff(want, say(steps)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReclaim_AnyView_AccountsComeOutAndNoModelInUseIsNamed(t *testing.T) {
	const part = 10 * tier.KiB // of a page
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "models")
		v := &tier.View{Now: noon, Protection: tier.Protection{}.OrDefault(), Room: tier.Footprint{tier.Swap: part * tier.Bytes(rapid.Int64Range(0, 5000).Draw(t, "swap"))}}
		var models []tier.Model
		for i := range n {
			size := part * tier.Bytes(rapid.Int64Range(1, 1000).Draw(t, "size"))
			models = append(models, tier.Model{Name: fmt.Sprint("m", i), Size: size, Runtime: part * tier.Bytes(rapid.Int64Range(0, 50).Draw(t, "runtime")), Pinned: rapid.Bool().Draw(t, "pinned")})
			v.States = append(v.States, tier.State{
				Tier: tier.Tier(rapid.IntRange(0, 2).Draw(t, "tier")), Moving: rapid.IntRange(0, 5).Draw(t, "moving") == 0,
				Divisible: rapid.Bool().Draw(t, "divisible"), Leases: int32(rapid.IntRange(0, 1).Draw(t, "leases")),
				Kept:  tier.Bytes(rapid.Int64Range(0, int64(size)).Draw(t, "kept")),
				Since: noon.Add(-time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "since"))),
			})
		}
		var err error
		if v.Library, err = tier.NewLibrary(models); err != nil {
			t.Fatal(err)
		}
		bytes := part * tier.Bytes(rapid.Int64Range(0, 6000).Draw(t, "bytes"))
		steps, given := Reclaim(v, bytes, nil)

		var freed, grown tier.Bytes
		named := map[string]bool{}
		for _, s := range steps {
			i, _ := v.Library.Find(s.Model.Name)
			if named[s.Model.Name] || !v.Evictable(i) || s.From != v.States[i].Tier || s.Keep < 0 {
				t.Fatalf("%+v", s)
			}
			named[s.Model.Name] = true
			before := v.Footprint(i)
			after := s.Model.Footprint(s.To, s.Keep, false)
			if after[tier.RAM] >= before[tier.RAM] {
				t.Fatalf("%+v frees nothing", s)
			}
			freed += before[tier.RAM] - after[tier.RAM]
			grown += max(after[tier.Swap]-before[tier.Swap], 0)
		}
		switch {
		case grown > v.Room[tier.Swap]:
			t.Fatalf("swap grows by %v, has room for %v", grown, v.Room[tier.Swap])
		case given > freed:
			t.Fatalf("says %v, frees %v", given, freed)
		case given < bytes && len(named) < count(v):
			t.Fatalf("gives %v of %v though %d of %d were named", given, bytes, len(named), count(v))
		}
	})
}

// count is the number of models that have bytes to give.
func count(v *tier.View) int {
	n := 0
	for i, s := range v.States {
		if v.Evictable(i) && (s.Tier == tier.RAM || s.Kept > 0) {
			n++
		}
	}
	return n
}
