package safety

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type held struct {
	size  tier.Bytes
	state tier.State
	pin   bool
}

func viewOf(t testing.TB, swap tier.Bytes, models ...held) *tier.View {
	t.Helper()
	v := &tier.View{Now: noon, Limits: tier.DefaultLimits(), Room: tier.Footprint{tier.Swap: swap}}
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

func TestShed_FrozenEngines_AreTakenLastAndStopped(t *testing.T) {
	const g = tier.GiB
	v := viewOf(t, 10*g,
		held{size: g, state: old(tier.State{Tier: tier.Swap, Kept: g / 4})},
		held{size: g, state: old(tier.State{Tier: tier.RAM})},
		held{size: g, state: old(tier.State{Tier: tier.Swap})}, // nothing of it is in memory
	)
	steps, given := Shed(v, 5*g/4, nil)
	if diff := gocmp.Diff([]said{{"m1", tier.Swap, 0}, {"m0", tier.Storage, 0}}, say(steps)); diff != "" || given != 5*g/4 {
		t.Errorf("gives %v (-want +got):\n%s", given, diff)
	}
}

func TestShed_CheapestFirst_KeptBytesThenIdleThenFresh(t *testing.T) {
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
	steps, given := Shed(v, 100*g, nil)
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
		if s.Why == "" {
			t.Errorf("%s: no reason", s.Model.Name)
		}
	}
}

func TestShed_Divisible_GivesNoMoreThanAsked(t *testing.T) {
	v := viewOf(t, 10*tier.GiB,
		held{size: 4 * tier.GiB, state: old(tier.State{Tier: tier.RAM, Divisible: true})},
		held{size: 4 * tier.GiB, state: old(tier.State{Tier: tier.Swap, Kept: tier.GiB, Divisible: true})},
	)
	steps, given := Shed(v, 3*tier.GiB, nil)
	want := []said{{"m1", tier.Swap, 0}, {"m0", tier.Swap, 2 * tier.GiB}}
	if diff := gocmp.Diff(want, say(steps)); diff != "" || given != 3*tier.GiB {
		t.Errorf("given %v (-want +got):\n%s", given, diff)
	}
	// What is less than a page of memory gives nothing back.
	for asked, gives := range map[tier.Bytes]tier.Bytes{tier.MiB: tier.MiB, tier.MiB + 1: tier.MiB + 64*tier.KiB, 1000: 64 * tier.KiB, tier.Unlimited: 5 * tier.GiB} {
		steps, given = Shed(v, asked, nil)
		if given != gives || steps[0].Model.Name != "m1" || steps[0].Keep != max(tier.GiB-gives, 0) {
			t.Errorf("asked for %d, it gives %v: %v", asked, given, say(steps))
		}
	}
}

func TestShed_SwapIsFull_ToStorage(t *testing.T) {
	v := viewOf(t, tier.GiB,
		held{size: tier.GiB, state: old(tier.State{Tier: tier.RAM, LastUse: noon.Add(-time.Hour)})},
		held{size: tier.GiB, state: old(tier.State{Tier: tier.RAM})}, // never used: first
	)
	steps, given := Shed(v, 2*tier.GiB, nil)
	want := []said{{"m1", tier.Swap, 0}, {"m0", tier.Storage, 0}}
	if diff := gocmp.Diff(want, say(steps)); diff != "" || given != 2*tier.GiB {
		t.Errorf("given %v (-want +got):\n%s", given, diff)
	}
}

func TestShed_NothingAskedOrNothingIdle_NoSteps(t *testing.T) {
	v := viewOf(t, tier.GiB, held{size: tier.GiB, state: old(tier.State{Tier: tier.RAM})})
	if steps, given := Shed(v, 0, nil); steps != nil || given != 0 {
		t.Errorf("%v %v", steps, given)
	}
	v.States[0].Leases = 1
	if steps, given := Shed(v, tier.GiB, nil); steps != nil || given != 0 {
		t.Errorf("%v %v", steps, given)
	}
}

func TestShed_CallersOrder_Followed(t *testing.T) {
	v := viewOf(t, 10*tier.GiB,
		held{size: 1 * tier.GiB, state: old(tier.State{Tier: tier.RAM})},
		held{size: 3 * tier.GiB, state: old(tier.State{Tier: tier.RAM})},
		held{size: 2 * tier.GiB, state: old(tier.State{Tier: tier.RAM})},
	)
	largest := func(a, b int) int { return -cmp.Compare(v.Library.At(a).Size, v.Library.At(b).Size) }
	steps, _ := Shed(v, 100*tier.GiB, largest)
	want := []said{{"m1", tier.Swap, 0}, {"m2", tier.Swap, 0}, {"m0", tier.Swap, 0}}
	if diff := gocmp.Diff(want, say(steps)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestShed_AnyView_AccountsComeOutAndNobodyInUseIsNamed(t *testing.T) {
	const part = 10 * tier.KiB // of a page
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "models")
		v := &tier.View{Now: noon, Room: tier.Footprint{tier.Swap: part * tier.Bytes(rapid.Int64Range(0, 5000).Draw(t, "swap"))}}
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
		steps, given := Shed(v, bytes, nil)

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

func TestHolders_LargestFirst_WithWhatHoldsThem(t *testing.T) {
	v := viewOf(t, tier.GiB,
		held{size: 1 * tier.GiB, state: tier.State{Tier: tier.RAM, Leases: 2}},
		held{size: 3 * tier.GiB, state: tier.State{Tier: tier.Swap, Kept: 2 * tier.GiB, Moving: true, To: tier.RAM}},
		held{size: 1 * tier.GiB, state: tier.State{Tier: tier.Storage}},
		held{size: 4 * tier.GiB, state: tier.State{Tier: tier.RAM, Stuck: true}, pin: true},
	)
	want := []tier.Holder{
		{Model: "m3", Bytes: 4 * tier.GiB, Pinned: true, Stuck: true},
		{Model: "m1", Bytes: 2 * tier.GiB, Moving: true},
		{Model: "m0", Bytes: 1 * tier.GiB, Leases: 2},
	}
	if diff := gocmp.Diff(want, Holders(v, tier.RAM)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = []tier.Holder{{Model: "m1", Bytes: 1 * tier.GiB, Moving: true}}
	if diff := gocmp.Diff(want, Holders(v, tier.Swap)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
