package core

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

func TestMoveEnded_ModelTakesMoreThanDeclared_IsChargedAndItsPeakSetAsideNextTime(t *testing.T) {
	b := newBench(t, 20, 20, tier.Model{Name: "a", Size: 4, Runtime: 1}, sized("b", 10)).wholes()
	b.join("a")
	b.step()
	if got := b.c.ledger.Reserved()[tier.RAM]; got != 5 {
		t.Fatalf("%v are set aside for 5 that are declared", got)
	}
	b.taking(8, 11)
	e := b.entry("a")
	if charged, free := b.ram(); charged != 8 || free != 12 || e.Charge()[tier.RAM] != 8 || e.Overdraft() != 0 || e.Model.Runtime != 4 || e.Declared() != 1 {
		t.Fatalf("it takes 8: %v charged, %v free, runtime %v of %v", charged, free, e.Model.Runtime, e.Declared())
	}
	if v := b.c.View(b.now); v.Footprint(0)[tier.RAM] != 8 {
		t.Errorf("placements are told that it takes %v", v.Footprint(0))
	}
	b.release("a")
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: e, To: tier.Storage}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.taking(0, 11)
	b.load("b")
	b.join("a")
	b.step()
	if b.started[0].Model.Name != "b" {
		t.Fatalf("%v: the peak does not fit beside b", b.log)
	}
	b.taking(0, 10)
	if got := b.c.ledger.Reserved()[tier.RAM]; got != 11 {
		t.Fatalf("%v are set aside for a load that was seen to take 11", got)
	}
	b.taking(7, 11)
	if charged, free := b.ram(); charged != 8 || free != 12 {
		t.Errorf("%v charged, %v free after the second load", charged, free)
	}
}

func TestMoveEnded_ModelTakesMoreThanThereIsRoomFor_WhatIsFreeFalls(t *testing.T) {
	b := newBench(t, 10, 20, sized("a", 4), sized("b", 4), sized("c", 2)).wholes()
	b.load("a")
	b.join("b")
	b.step()
	b.taking(9, 9) // declared 4
	e := b.entry("b")
	if charged, free := b.ram(); charged != 10 || free != 0 || e.Charge()[tier.RAM] != 6 || e.Overdraft() != 3 {
		t.Fatalf("%v charged, %v free, b %v and %v not", charged, free, e.Charge(), e.Overdraft())
	}
	// What a gives back goes to b first, and not to c, which wanted it.
	w := b.join("c")
	b.step()
	if len(b.started) != 1 || b.started[0].Model.Name != "a" {
		t.Fatalf("%v", b.log)
	}
	b.taking(0, 0)
	if charged, free := b.ram(); e.Charge()[tier.RAM] != 9 || e.Overdraft() != 0 || charged != 9 || free+b.c.ledger.Reserved()[tier.RAM] != 1 {
		t.Errorf("b is charged %v and not %v; %v charged, %v free", e.Charge(), e.Overdraft(), charged, free)
	}
	if len(b.started) != 0 {
		t.Errorf("c does not fit beside b: %v", b.log)
	}
	b.release("b")
	b.step()
	if b.taking(0, 9); len(b.started) != 1 || b.started[0].Model.Name != "c" {
		t.Errorf("b has left: %v, refused: %v", b.log, b.refused[w])
	}
}

func TestObserved_ModelGrowsUnderItsLease_IsChargedWhereItIs(t *testing.T) {
	b := newBench(t, 10, 20, sized("a", 4), sized("b", 4)).wholes()
	b.load("b")
	b.join("a")
	b.step()
	b.taking(4, 4)
	e := b.entry("a")
	for _, c := range []struct{ takes, charged, over tier.Bytes }{{3, 4, 0}, {5, 5, 0}, {8, 6, 2}, {4, 6, 2}} {
		b.c.Observed(e, Seen{Taken: c.takes, Peak: c.takes})
		b.step()
		if e.Charge()[tier.RAM] != c.charged || e.Overdraft() != c.over {
			t.Errorf("it takes %v: %v charged, %v not", c.takes, e.Charge(), e.Overdraft())
		}
	}
	b.c.Reclaim([]tier.Step{{Move: tier.Move{Model: b.entry("b").Model, To: tier.Storage}}}, b.view(), b.c.Epoch())
	b.step()
	b.taking(0, 0)
	if e.Charge()[tier.RAM] != 8 || e.Overdraft() != 0 {
		t.Errorf("b has left: %v charged, %v not", e.Charge(), e.Overdraft())
	}
}

func TestMoveEnded_EngineAtRestHasMoreMemoryThanWeights_IsChargedUntilItIsGone(t *testing.T) {
	b := newBench(t, 20, 20, sized("a", 4)).wholes()
	b.load("a")
	e := b.entry("a")
	b.c.Observed(e, Seen{Taken: 10, Peak: 10})
	b.step()
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: e, To: tier.Swap}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{Observed: true, Seen: Seen{Present: 4, Taken: 7, Peak: 10}})
	b.step()
	if charged, _ := b.ram(); charged != 7 || e.Residue() != 3 {
		t.Fatalf("of 7 bytes at rest %v are charged, %v beyond the weights", charged, e.Residue())
	}
	b.c.Observed(e, Seen{Present: 4, Taken: 9})
	if b.step(); e.Charge()[tier.RAM] != 9 || !slices.Contains(b.c.Residues(), e) {
		t.Errorf("it has grown to 9: %v charged", e.Charge())
	}
	b.c.Observed(e, Seen{Present: 4, Taken: 4})
	if b.step(); e.Charge()[tier.RAM] != 4 || len(b.c.Residues()) != 0 {
		t.Errorf("4 are left: %v charged", e.Charge())
	}
}

func TestJoin_PeakBeyondTheLimit_IsRefusedForGoodAndSaysWhy(t *testing.T) {
	b := newBench(t, 10, 20, sized("a", 4)).wholes()
	b.join("a")
	b.step()
	b.finish(Outcome{Err: errors.New("killed"), Seen: Seen{Peak: 12}})
	b.step()
	w := b.join("a")
	b.step()
	err := b.refused[w]
	if !errors.Is(err, tier.ErrTooLarge) || !strings.Contains(err.Error(), "was seen to take 12 B, 4 B are declared") {
		t.Fatalf("%v", err)
	}
	n := b.c.ledger.Limits()
	n.RAM = 12
	if err := b.c.SetLimits(n); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.now = b.now.Add(time.Minute) // the load that failed has cooled down
	b.join("a")
	if b.step(); len(b.started) != 1 || b.c.ledger.Reserved()[tier.RAM] != 12 {
		t.Errorf("with the limit raised: %v, %v set aside", b.log, b.c.ledger.Reserved())
	}
}

// The oracle knows what every model really takes. Engines take any amount at any
// time, and still no byte is promised that is not there.
func TestStep_EnginesTakeWhatTheyLike_NothingIsPromisedTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 30
		var models []tier.Model
		for i := range 5 {
			models = append(models, tier.Model{
				Name: string(rune('a' + i)), Size: tier.Bytes(rapid.IntRange(1, 8).Draw(t, "size")), Runtime: tier.Bytes(rapid.IntRange(0, 3).Draw(t, "runtime")),
			})
		}
		b := newBench(t, limit, 40, models...)
		if rapid.Bool().Draw(t, "whole") {
			b.wholes()
		}
		truth := make(map[*Entry]tier.Bytes) // what was last observed of each at rest
		unpaid := func() (over tier.Bytes) {
			charged := b.c.ledger.Charged()[tier.RAM]
			var taken tier.Bytes
			for _, e := range b.c.entries {
				taken += max(truth[e], e.Charge()[tier.RAM])
			}
			return max(taken-charged, 0)
		}
		admit := b.c.opt.Admit
		b.c.opt.Admit = func(p Promise, m *tier.Model, need tier.Footprint, background bool) error {
			ledger := b.c.Ledger()
			if own := p.Free[tier.RAM] - max(ledger.Free()[tier.RAM]-unpaid(), 0); own > ledger.Reserved()[tier.RAM] {
				t.Fatalf("%v are offered to %s: %v free by the ledger, %v taken and not charged", p.Free[tier.RAM], m.Name, ledger.Free()[tier.RAM], unpaid())
			}
			return admit(p, m, need, background)
		}
		draw := func(e *Entry) Seen {
			now := tier.Bytes(rapid.IntRange(0, 2*limit).Draw(t, "takes"))
			return Seen{
				Present: min(now, e.Model.Size), Taken: now,
				Peak: max(now, tier.Bytes(rapid.IntRange(0, limit).Draw(t, "peak"))),
			}
		}
		// took records what the core has to charge or to show as overdraft.
		took := func(e *Entry, s Seen) {
			if truth[e] = max(s.Taken, 0); e.tier == tier.RAM {
				truth[e] = e.Model.Size + e.Model.Runtime // which never falls
				if s.Taken > truth[e] {
					t.Fatalf("%s takes %v, the core knows of %v", e.Model.Name, s.Taken, truth[e])
				}
			}
		}
		settled := func() {
			b.step()
			for _, e := range b.c.entries {
				if e.move == nil && e.Charge()[tier.RAM]+e.Overdraft() < truth[e] {
					t.Fatalf("%s takes %v: %v charged, %v not", e.Model.Name, truth[e], e.Charge(), e.Overdraft())
				}
			}
			if over, free := b.c.Overdraft(), b.c.ledger.Free()[tier.RAM]; over > 0 && free > 0 {
				t.Fatalf("%v are owed and %v free", over, free)
			}
		}
		pick := func() *Entry { return b.entry(rapid.SampledFrom(models).Draw(t, "model").Name) }
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { settled() },
			"join": func(*rapid.T) {
				b.join(pick().Model.Name)
			},
			"release": func(*rapid.T) {
				if e := pick(); e.Gate.Leases() > 0 {
					b.release(e.Model.Name)
				}
			},
			"move": func(t *rapid.T) {
				b.c.MoveTo(&Order{Kind: MoveTier, Entry: pick(), To: tier.Tier(rapid.IntRange(0, 2).Draw(t, "to"))}, b.now)
			},
			"shed": func(*rapid.T) {
				b.c.Reclaim([]tier.Step{{Move: tier.Move{Model: pick().Model, To: tier.Storage}}}, b.view(), b.c.Epoch())
			},
			"look": func(*rapid.T) {
				if e := pick(); e.move == nil {
					s := draw(e)
					b.c.Observed(e, s)
					took(e, s)
				}
			},
			"end": func(t *rapid.T) {
				if len(b.started) == 0 {
					return
				}
				m := b.started[0]
				if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
					lost := rapid.Bool().Draw(t, "lost")
					b.finish(Outcome{Lost: lost, Err: &tier.MoveError{Model: m.Model.Name, Lost: lost, Err: errors.New("no")}})
					if lost {
						truth[m.Entry] = 0
					}
					return
				}
				s := draw(m.Entry)
				out := Outcome{Observed: rapid.Bool().Draw(t, "observed"), Seen: s}
				if m.From == tier.Storage && rapid.IntRange(0, 4).Draw(t, "verified") == 0 {
					out.Unverified, out.Again = errors.New("damaged"), rapid.Bool().Draw(t, "again")
				}
				b.finish(out)
				took(m.Entry, s)
			},
			"quarantine": func(*rapid.T) {
				why := &tier.DigestError{}
				if rapid.Bool().Draw(t, "ends") {
					why = nil
				}
				b.c.Quarantine(pick(), why)
			},
			"limits": func(t *rapid.T) {
				n := b.c.ledger.Limits()
				n.RAM = tier.Bytes(rapid.IntRange(limit/2, 2*limit).Draw(t, "limit"))
				b.c.SetLimits(n)
			},
			"time": func(*rapid.T) { b.now = b.now.Add(time.Second) },
		})
		for range 100 { // every request is answered in the end
			settled()
			for _, e := range b.c.entries {
				for e.Gate.Leases() > 0 {
					b.release(e.Model.Name)
				}
			}
			if len(b.started) > 0 {
				e := b.finish(Outcome{}).Entry
				truth[e] = 0
			} else if b.c.quiet() {
				break
			}
			b.now = b.now.Add(20 * time.Second)
			for _, e := range b.c.Residues() {
				b.c.Observed(e, Seen{Present: min(truth[e], e.Model.Size), Taken: truth[e]})
			}
		}
		settled()
		if !b.c.quiet() {
			t.Fatalf("it does not come to rest: %d demands, %d plans, %d moves", len(b.c.demands), len(b.c.plans), len(b.c.Moves()))
		}
	})
}

// A reading that is older than a charge does not show it.
func TestReading_OlderThanACharge_ChargeStaysUnseen(t *testing.T) {
	b := newBench(t, 10, 20, tier.Model{Name: "a", Size: 4})
	b.load("a")
	if got := b.c.unseen[tier.RAM]; got != 4 {
		t.Fatalf("%d unseen after a load", got)
	}
	for _, c := range []struct {
		age  time.Duration
		want tier.Bytes
	}{{time.Second, 4}, {0, 0}} {
		b.c.Reading(tier.Memory{At: b.now.Add(-c.age), Available: tier.Unlimited}, nil, nil, b.now)
		if got := b.c.unseen[tier.RAM]; got != c.want {
			t.Errorf("a look %v before: %d unseen, want %d", c.age, got, c.want)
		}
	}
}

// Kept bytes are locked in ram. A reading from before counts them as available still.
func TestReading_OlderThanALock_LockedBytesStayUnseen(t *testing.T) {
	b := newBench(t, 10, 20, tier.Model{Name: "a", Size: 4})
	b.entry("a").Reclaimable = 3
	b.join("a")
	b.step()
	b.finish(Outcome{Observed: true, Seen: Seen{Present: 4}})
	b.step()
	if got := b.c.unseen[tier.RAM]; got != 7 {
		t.Errorf("%d unseen, want 4 charged and 3 locked", got)
	}
	b.c.Reading(tier.Memory{At: b.now, Available: tier.Unlimited}, nil, nil, b.now)
	if got := b.c.unseen[tier.RAM]; got != 0 {
		t.Errorf("%d unseen after a reading", got)
	}
}

// Bytes that were to be gone and are seen a moment longer are waited for.
func TestSetLimits_ResidueOfWhatLeftIsSeenForAMoment_NotRefused(t *testing.T) {
	for _, stays := range []bool{false, true} {
		b := newBench(t, 10, 10, sized("a", 8))
		b.load("a")
		n := b.c.Limits()
		n.RAM = 3
		if err := b.c.SetLimits(n); err != nil {
			t.Fatal(err)
		}
		b.step()
		b.finish(Outcome{Observed: true, Seen: Seen{Present: 4}})
		wake := b.step()
		if len(b.limits) != 0 || wake.IsZero() {
			t.Fatalf("ended at once: %+v, wake %v", b.limits, wake)
		}
		if stays {
			b.now = wake
		} else {
			b.c.Observed(b.entry("a"), Seen{})
		}
		b.step()
		if len(b.limits) != 1 || (b.limits[0].Err != nil) != stays {
			t.Errorf("residue stays %v: %+v", stays, b.limits)
		}
	}
}

// What a move tells of a model that is served from swap may be more than is charged.
func TestMoveEnded_ServedFromSwapTakesMoreThanDeclared_IsCharged(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 4))
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.Swap}}}}
	}
	b.join("a")
	b.step()
	told := all
	told.Seen = 7
	b.finish(Outcome{Traits: &told})
	b.step()
	if charged, _ := b.ram(); charged != 3 || b.c.Overdraft() != 0 {
		t.Errorf("%v are charged, %v could not be, want the 3 beyond its weights", charged, b.c.Overdraft())
	}
}

func TestHeldBy_LackOfRAM_NamesOutsidersAndOtherLacksDoNot(t *testing.T) {
	outsider := []tier.Holder{{Reservation: "r-1", Bytes: tier.GiB}}
	for _, c := range []struct {
		lack  tier.CapacityError
		named bool
	}{
		{tier.CapacityError{Tier: tier.RAM}, true},
		{tier.CapacityError{}, true},
		{tier.CapacityError{Account: tier.Account(tier.RAM), Tier: tier.Swap}, true},
		{tier.CapacityError{Tier: tier.Swap}, false},
		{tier.CapacityError{Account: tier.Account(tier.Swap)}, false},
		{tier.CapacityError{Account: tier.FurtherAccount, Tier: tier.RAM}, false},
		{tier.CapacityError{Tier: tier.RAM, Never: true}, false},
	} {
		lack := c.lack
		if told := HeldBy(&lack, outsider).(*tier.CapacityError); (len(told.Holders) > 0) != c.named || len(lack.Holders) > 0 {
			t.Errorf("%+v: told as held by %v", c.lack, told.Holders)
		}
	}
}
