package safety

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

// recorded is the machine of the contract's recording with little memory.
func recorded(available tier.Bytes) (Promise, tier.Memory) {
	p := Promise{Limits: tier.DefaultLimits(), FileBacked: true}
	p.Free = tier.Footprint{tier.Swap: 10 * tier.GiB, tier.RAM: 5 * tier.GiB}
	return p, tier.Memory{Available: available}
}

func TestAdmit_BeyondTheRAMLimit_RecordedWording(t *testing.T) {
	p, m := recorded(64 * tier.GiB)
	p.Limits.RAM = 10 * tier.GiB
	p.Free[tier.RAM] = 10*tier.GiB - gb(6.3)
	err := Admit(p, m, &tier.Model{Name: "gpt-j-6b"}, tier.Footprint{tier.RAM: 6 * tier.GiB})
	if err == nil || err.Error() != "RAM limit exceeded: 12.3GB > 10.0GB" {
		t.Errorf("error is %v", err)
	}
	if !errors.Is(err, tier.ErrNoCapacity) || errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("6 GB would fit 10 GB if others left: %v", tier.Code(err))
	}
	e, _ := errors.AsType[*tier.CapacityError](err)
	if e.Model != "gpt-j-6b" || e.Tier != tier.RAM || e.Need != 6*tier.GiB || e.Free != p.Free[tier.RAM] || e.Limit != 10*tier.GiB {
		t.Errorf("%+v", e)
	}
}

func TestAdmit_BeyondTheLimitItself_TooLargeInRecordedWording(t *testing.T) {
	p, m := recorded(64 * tier.GiB)
	p.Limits.RAM, p.Free[tier.RAM] = 5*tier.GiB, 5*tier.GiB-gb(6.3) // an account that is overdrawn
	err := Admit(p, m, nil, tier.Footprint{tier.RAM: 6 * tier.GiB})
	if !errors.Is(err, tier.ErrTooLarge) || err.Error() != "RAM limit exceeded: 11.0GB > 5.0GB" {
		t.Errorf("error is %v", err)
	}
	err = Admit(p, m, nil, tier.Footprint{tier.Swap: 11 * tier.GiB})
	if !errors.Is(err, tier.ErrTooLarge) || err.Error() != "Swap limit exceeded: 11.0GB > 10.0GB" {
		t.Errorf("error is %v", err)
	}
	// Too large comes before whatever is the matter just now.
	m.Pressure.Level = tier.PressureHigh
	if err := Admit(p, m, nil, tier.Footprint{tier.Swap: 11 * tier.GiB}); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("error is %v", err)
	}
}

func TestAdmit_BeyondTheSwapLimit_RecordedWording(t *testing.T) {
	p, m := recorded(64 * tier.GiB)
	p.Free[tier.Swap] = 4 * tier.GiB
	err := Admit(p, m, nil, tier.Footprint{tier.Swap: 6*tier.GiB + gb(0.5)})
	if err == nil || err.Error() != "Swap limit exceeded: 12.5GB > 10.0GB" || !errors.Is(err, tier.ErrNoCapacity) {
		t.Errorf("error is %v", err)
	}
}

func TestAdmit_BeyondMemory_RecordedWording(t *testing.T) {
	p, m := recorded(gb(1.5))
	p.Limits.RAM, p.Free[tier.RAM] = 20*tier.GiB, 20*tier.GiB
	err := Admit(p, m, nil, tier.Footprint{tier.RAM: 6 * tier.GiB})
	if err == nil || err.Error() != "Insufficient RAM: need 6.0GB, have 0.5GB" || !errors.Is(err, tier.ErrNoCapacity) {
		t.Errorf("error is %v", err)
	}
	// A negative amount reads as 0.
	p.Unseen = 10 * tier.GiB
	if err := Admit(p, m, nil, tier.Footprint{tier.RAM: 6 * tier.GiB}); err == nil || err.Error() != "Insufficient RAM: need 6.0GB, have 0.0GB" {
		t.Errorf("error is %v", err)
	}
}

// What an outsider has yet to take is not promised; what it has taken is not available
// any more, and is not taken off once more.
func TestAdmit_RoomOfAnOutsider_CountedOnce(t *testing.T) {
	p, m := recorded(6 * tier.GiB)
	for _, taken := range []tier.Bytes{0, 1 * tier.GiB, 3 * tier.GiB} {
		p.Outside, m.Available = 3*tier.GiB-taken, 6*tier.GiB-taken
		if room := Room(p, m)[tier.RAM]; room != 2*tier.GiB {
			t.Errorf("with %v taken there is room of %v", taken, room)
		}
		if err := Admit(p, m, nil, tier.Footprint{tier.RAM: 2 * tier.GiB}); err != nil {
			t.Errorf("with %v taken: %v", taken, err)
		}
		if err := Admit(p, m, nil, tier.Footprint{tier.RAM: 2*tier.GiB + 1}); !errors.Is(err, tier.ErrNoCapacity) || errors.Is(err, tier.ErrTooLarge) {
			t.Errorf("with %v taken: %v", taken, err)
		}
	}
}

func TestAdmit_BeyondTheWholeMachine_TooLarge(t *testing.T) {
	p, m := recorded(6 * tier.GiB)
	m.Total = gb(7.4)
	p.Limits.RAM, p.Free[tier.RAM] = 20*tier.GiB, 20*tier.GiB
	err := Admit(p, m, nil, tier.Footprint{tier.RAM: 7 * tier.GiB})
	if !errors.Is(err, tier.ErrTooLarge) || err.Error() != "Insufficient RAM: need 7.0GB, have 5.0GB" {
		t.Errorf("error is %v", err)
	}
	if err := Admit(p, m, nil, tier.Footprint{tier.RAM: 6 * tier.GiB}); !errors.Is(err, tier.ErrNoCapacity) {
		t.Errorf("error is %v", err)
	}
}

func TestAdmit_ExactlyWhatThereIs_Fits(t *testing.T) {
	p, m := recorded(gb(1.5))
	for _, need := range []tier.Footprint{{tier.RAM: tier.GiB / 2}, {tier.Swap: 10 * tier.GiB}, {}} {
		if err := Admit(p, m, nil, need); err != nil {
			t.Errorf("%v: %v", need, err)
		}
	}
	if err := Admit(p, m, nil, tier.Footprint{tier.RAM: tier.GiB/2 + 1}); err == nil {
		t.Error("one byte more fits, too")
	}
}

func TestAdmit_OwnPagesThatTheProbeCountsAsFree_DoNotCount(t *testing.T) {
	p, m := recorded(6 * tier.GiB)
	p.Reclaimable = 3 * tier.GiB
	if err := Admit(p, m, nil, tier.Footprint{tier.RAM: 2*tier.GiB + 1}); err == nil {
		t.Error("admitted into pages of our own models")
	}
	if err := Admit(p, m, nil, tier.Footprint{tier.RAM: 2 * tier.GiB}); err != nil {
		t.Error(err)
	}
}

func TestAdmit_FilePagesThatAreMapped_TakenOffOnceWhereTheyAreOurOwn(t *testing.T) {
	p, m := recorded(6 * tier.GiB)
	m.Mapped = 3 * tier.GiB
	for _, p.Reclaimable = range []tier.Bytes{0, 2 * tier.GiB, 3 * tier.GiB} {
		if room := Room(p, m); room[tier.RAM] != 2*tier.GiB {
			t.Errorf("%v of our own: room %v", p.Reclaimable, room)
		}
	}
	p.Reclaimable = 4 * tier.GiB
	if room := Room(p, m); room[tier.RAM] != 1*tier.GiB {
		t.Errorf("room %v", room)
	}
	// What a model in swap has mapped is there to be taken.
	p.Reclaimable, p.Mapped = 0, 2*tier.GiB
	if room := Room(p, m); room[tier.RAM] != 4*tier.GiB {
		t.Errorf("with 2 GiB mapped for a model in swap: room %v", room)
	}
}

func TestAdmit_CompressedSwap_IsNoRoom(t *testing.T) {
	p, m := recorded(2 * tier.GiB)
	p.FileBacked = false
	m.CompressedSwapTotal, m.CompressedSwapFree = 8*tier.GiB, 8*tier.GiB
	if room := Room(p, m); room[tier.Swap] != tier.GiB || room[tier.RAM] != tier.GiB {
		t.Errorf("room %v", room)
	}
	err := Admit(p, m, nil, tier.Footprint{tier.Swap: 2 * tier.GiB})
	if err == nil || err.Error() != "Insufficient capacity: need 2.0GB, have 1.0GB" || !errors.Is(err, tier.ErrNoCapacity) {
		t.Errorf("error is %v", err)
	}
	m.SwapTotal, m.SwapFree = tier.GiB, tier.GiB
	if err := Admit(p, m, nil, tier.Footprint{tier.Swap: 2 * tier.GiB}); err != nil {
		t.Errorf("swap on disk does not count: %v", err)
	}
	// Nor is swap on disk room for ram.
	if err := Admit(p, m, nil, tier.Footprint{tier.RAM: tier.GiB + 1}); err == nil {
		t.Error("swap counts as ram")
	}
}

func TestAdmit_SwapWithoutFiles_SharesMemoryWithRAM(t *testing.T) {
	p, m := recorded(4 * tier.GiB)
	p.FileBacked = false
	need := tier.Footprint{tier.RAM: 2 * tier.GiB, tier.Swap: 2 * tier.GiB}
	if !need.Within(Room(p, m)) {
		t.Fatal("each for itself fits")
	}
	if err := Admit(p, m, nil, need); err == nil {
		t.Error("3 GiB were promised twice")
	}
	m.SwapFree = tier.GiB
	if err := Admit(p, m, nil, need); err != nil {
		t.Error(err)
	}
}

func TestAdmit_Pressure_StopsWhatTakesMemory(t *testing.T) {
	some := tier.Footprint{tier.RAM: 1}
	for _, c := range []struct {
		level      tier.PressureLevel
		background bool
		need       tier.Footprint
		files      bool
		refused    bool
	}{
		{tier.PressureLow, true, some, true, false},
		{tier.PressureMedium, false, some, true, false},
		{tier.PressureMedium, true, some, true, true},
		{tier.PressureHigh, false, some, true, true},
		{tier.PressureHigh, true, some, true, true},
		{tier.PressureHigh, false, tier.Footprint{}, true, false},
		{tier.PressureHigh, false, tier.Footprint{tier.Swap: 1}, true, false},
		{tier.PressureHigh, false, tier.Footprint{tier.Swap: 1}, false, true},
	} {
		p, m := recorded(8 * tier.GiB)
		p.Background, p.FileBacked = c.background, c.files
		m.Pressure = tier.Pressure{HasPSI: true, Some10: 23.5, Full10: 7.25, Level: c.level}
		err := Admit(p, m, &tier.Model{Name: "a"}, c.need)
		if (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, tier.ErrNoCapacity) || !strings.Contains(err.Error(), "23.5%") || !strings.Contains(err.Error(), c.level.String()) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestFigures_WithoutPSI_RatesOrTheSystemsWord(t *testing.T) {
	if got := figures(tier.Pressure{SwapOut: 9 * tier.MiB, Stalls: 3, Level: tier.PressureHigh}); !strings.Contains(got, "9.0 MiB/s swapped out") {
		t.Error(got)
	}
	if got := figures(tier.Pressure{Level: tier.PressureHigh}); !strings.Contains(got, "system") {
		t.Error(got)
	}
}

func TestRoomAndAdmit_AnyNumbers_AsPlainArithmeticSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.OneOf(
			rapid.Int64Range(0, 1<<34), rapid.Int64Range(-1<<34, 1<<34),
			rapid.SampledFrom([]int64{-1 << 63, -1, 0, 1, 1<<63 - 1, 1 << 62}),
			rapid.Int64(),
		)
		draw := func(name string) tier.Bytes { return tier.Bytes(amount.Draw(t, name)) }
		p := Promise{
			Limits:      tier.Limits{RAM: draw("limit ram"), Swap: draw("limit swap"), Reserved: draw("reserved")},
			Free:        tier.Footprint{tier.Swap: draw("free swap"), tier.RAM: draw("free ram")},
			Unseen:      draw("unseen"),
			Outside:     draw("outside"),
			Reclaimable: draw("reclaimable"),
			Mapped:      draw("mapped for us"),
			FileBacked:  rapid.Bool().Draw(t, "file backed"),
		}
		m := tier.Memory{
			Total: draw("total"), Available: draw("available"), Mapped: draw("mapped"), SwapFree: draw("swap free"),
			CompressedSwapTotal: draw("compressed"), CompressedSwapFree: draw("compressed free"),
		}
		need := tier.Footprint{tier.Swap: draw("need swap"), tier.RAM: draw("need ram")}

		whole := func(b tier.Bytes) *big.Int { return big.NewInt(max(int64(b), 0)) } // never below zero
		add := func(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }
		sub := func(a, b *big.Int) *big.Int { return new(big.Int).Sub(a, b) }
		least := func(a, b *big.Int) *big.Int {
			if a.Cmp(b) < 0 {
				return a
			}
			return b
		}
		zero, cap63 := big.NewInt(0), big.NewInt(1<<63-1)

		others := sub(whole(m.Mapped), whole(max(p.Mapped, p.Reclaimable)))
		if others.Sign() < 0 {
			others = zero
		}
		memory := sub(sub(sub(sub(whole(m.Available), whole(p.Reclaimable)), others), whole(p.Unseen)), add(whole(p.Outside), whole(p.Limits.Reserved)))
		if memory.Sign() < 0 {
			memory = zero
		}
		both := add(memory, whole(m.SwapFree))
		ram := least(whole(p.Free[tier.RAM]), memory)
		swap := whole(p.Free[tier.Swap])
		if !p.FileBacked {
			swap = least(least(swap, both), cap63)
		}
		got := Room(p, m)
		if big.NewInt(int64(got[tier.RAM])).Cmp(ram) != 0 || big.NewInt(int64(got[tier.Swap])).Cmp(swap) != 0 || got[tier.Storage] != 0 {
			t.Fatalf("room %v, want ram %v swap %v", got, ram, swap)
		}

		needRAM, needSwap := whole(need[tier.RAM]), whole(need[tier.Swap])
		fits := needRAM.Cmp(ram) <= 0 && needSwap.Cmp(whole(p.Free[tier.Swap])) <= 0 &&
			needRAM.Cmp(whole(p.Limits.RAM)) <= 0 && needSwap.Cmp(whole(p.Limits.Swap)) <= 0
		if !p.FileBacked {
			// Sums beyond 63 bits are cut off on both sides.
			fits = fits && least(add(needRAM, needSwap), cap63).Cmp(least(both, cap63)) <= 0
		}
		if beyond := sub(whole(m.Total), whole(p.Limits.Reserved)); m.Total > 0 && needRAM.Sign() > 0 && needRAM.Cmp(beyond) > 0 {
			fits = false
		}
		err := Admit(p, m, nil, need)
		if (err == nil) != fits {
			t.Fatalf("admit says %v, arithmetic says it fits: %v", err, fits)
		}
		if err == nil {
			return
		}
		e, ok := errors.AsType[*tier.CapacityError](err)
		if !ok || e.Need < 0 || e.Free < 0 || e.Reason == "" {
			t.Fatalf("%+v", err)
		}
		p.Free = tier.Footprint{tier.Swap: p.Limits.Of(tier.Swap), tier.RAM: p.Limits.Of(tier.RAM)}
		p.Unseen, p.Outside, p.Reclaimable, m.Mapped = 0, 0, 0, 0
		if m.Available = m.Total; errors.Is(err, tier.ErrTooLarge) && Admit(p, m, nil, need) == nil {
			t.Fatalf("%v, but it fits when everything has left", err)
		}
	})
}

func TestAdmit_Success_AllocatesNothing(t *testing.T) {
	p, m := recorded(4 * tier.GiB)
	model := &tier.Model{Name: "a"}
	if n := testing.AllocsPerRun(100, func() {
		if Admit(p, m, model, tier.Footprint{tier.RAM: tier.GiB}) != nil {
			t.Fatal("refused")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// gb is a number of GB as the wire contract has them.
func gb(n float64) tier.Bytes {
	b, err := tier.FromGB(n)
	if err != nil {
		panic(err)
	}
	return b
}

func BenchmarkAdmit(b *testing.B) {
	p, m := recorded(4 * tier.GiB)
	model := &tier.Model{Name: "a"}
	b.ReportAllocs()
	for b.Loop() {
		if err := Admit(p, m, model, tier.Footprint{tier.RAM: tier.GiB}); err != nil {
			b.Fatal(err)
		}
	}
}
