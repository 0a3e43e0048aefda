package core

import (
	"errors"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func TestMoveEnded_BytesStillSeenAfterAnUnload_StayChargedUntilTheyAreGone(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.load("a")
	o := &Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Storage}
	if err := b.c.MoveTo(o, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{Observed: true, Seen: Seen{Present: 2}})
	b.step()
	if e := b.entry("a"); e.Tier() != tier.Storage || e.Residue() != 2 || b.c.ledger.Charged()[tier.RAM] != 2 {
		t.Fatalf("in %v with %v left, %v charged", e.Tier(), e.Residue(), b.c.ledger.Charged())
	}
	b.c.Observed(b.entry("a"), Seen{})
	if b.step(); b.c.ledger.Charged()[tier.RAM] != 0 {
		t.Errorf("%v are charged though nothing is there", b.c.ledger.Charged())
	}
}

func TestMoveEnded_KeptBytes_AreWhatWasSeen(t *testing.T) {
	for present, want := range map[tier.Bytes]tier.Bytes{0: 2, 2: 2, 3: 3, 6: 6, 99: 6} {
		b := newBench(t, 10, 10, sized("a", 6))
		b.load("a")
		b.plan = func(v *tier.View, _ *tier.Need) tier.Plan {
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(0), To: tier.Swap, Keep: 2}}}}
		}
		b.c.AskIdle(false, b.now)
		b.step()
		b.finish(Outcome{Observed: true, Seen: Seen{Present: present}})
		b.step()
		if e := b.entry("a"); e.Kept() != want || e.Charge() != (tier.Footprint{tier.RAM: want, tier.Swap: 6 - want}) {
			t.Errorf("%d present: %v kept, %v charged", present, e.Kept(), e.Charge())
		}
	}
}

func TestMoveEnded_PartLeftInStorage_IsChargedNowhere(t *testing.T) {
	for present, want := range map[tier.Bytes]struct{ kept, left tier.Bytes }{0: {2, 3}, 2: {2, 3}, 4: {4, 2}, 6: {6, 0}} {
		b := newBench(t, 10, 1, sized("a", 6)) // swap has room for no more than is to be there
		b.load("a")
		b.plan = func(v *tier.View, _ *tier.Need) tier.Plan {
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(0), To: tier.Swap, Keep: 2, Leave: 3}}}}
		}
		b.c.AskIdle(false, b.now)
		b.step()
		b.finish(Outcome{Observed: true, Seen: Seen{Present: present}})
		b.step()
		e := b.entry("a")
		if charge := (tier.Footprint{tier.RAM: want.kept, tier.Swap: 6 - want.kept - want.left}); e.Tier() != tier.Swap || e.Kept() != want.kept || e.Left() != want.left || e.Charge() != charge {
			t.Errorf("%d present: in %v, %v kept, %v left, %v charged", present, e.Tier(), e.Kept(), e.Left(), e.Charge())
		}
	}
}

func TestMoveEnded_LostModel_IsInStorageWithNothingCharged(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.load("a")
	o := &Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Swap}
	if err := b.c.MoveTo(o, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{Lost: true, Err: &tier.MoveError{Lost: true, Err: errors.New("crashed")}})
	b.step()
	if e := b.entry("a"); e.Tier() != tier.Storage || !b.c.ledger.Charged().IsZero() || b.ended[o] == nil {
		t.Errorf("in %v, %v charged, order: %v", e.Tier(), b.c.ledger.Charged(), b.ended[o])
	}
}

func TestMoveEnded_FailedLoadLeavesBytesBehind_TheyStayChargedUntilTheyAreGone(t *testing.T) {
	for present, want := range map[tier.Bytes]tier.Bytes{0: 0, 4: 4, 99: 6} {
		b := newBench(t, 10, 10, sized("a", 6), sized("b", 8))
		b.join("a")
		b.step()
		b.finish(Outcome{Err: errors.New("bad weights"), Observed: true, Seen: Seen{Present: present}})
		b.step()
		e := b.entry("a")
		if e.Tier() != tier.Storage || e.Charge() != (tier.Footprint{tier.RAM: want}) || e.Residue() != want {
			t.Errorf("%d present: in %v, %v charged, %v left over", present, e.Tier(), e.Charge(), e.Residue())
		}
		w := b.join("b") // needs what is left over
		b.step()
		if len(b.started) > 0 != (want <= 2) {
			t.Errorf("%d present: %d loads began beside it", present, len(b.started))
		}
		b.c.Observed(e, Seen{})
		b.step()
		if !e.Charge().IsZero() || len(b.started) == 0 || b.refused[w] != nil {
			t.Errorf("%d were present and are gone: %v charged, %d loads, %v", present, e.Charge(), len(b.started), b.refused[w])
		}
	}
}

// The runtime bytes of a lease from swap were to come from kept weights. While those
// are still present there is no room for the runtime bytes.
func TestMoveEnded_KeptBytesStayWhereTheRuntimeWasToBe_NoLeaseUntilTheyAreGone(t *testing.T) {
	a := sized("a", 6)
	a.Runtime = 2
	b := newBench(t, 4, 10, a)
	keep := tier.Bytes(4)
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: a, To: tier.Swap, Keep: keep}}}}
	}
	b.c.Join(&Waiter{Entry: b.entry("a"), Since: b.now, Claim: func() bool { return false }}, b.now)
	keep = 2
	b.step()
	b.finish(seen(2))
	b.step()
	keep = 4
	b.c.AskIdle(false, b.now)
	b.step()
	b.finish(seen(4))
	b.step()
	if f := b.entry("a").Charge(); f[tier.RAM] != 4 {
		t.Fatalf("charged %v", f)
	}

	keep = 2
	b.join("a")
	b.step()
	b.finish(seen(4))
	if b.step(); len(b.granted) != 0 || b.entry("a").Charge()[tier.RAM] != 4 {
		t.Errorf("%d leases, charged %v, want none while all 4 bytes of ram are weights", len(b.granted), b.entry("a").Charge())
	}
	for range maxTries {
		if len(b.started) > 0 {
			b.finish(seen(2))
		}
		b.step()
	}
	if len(b.granted) != 1 || b.entry("a").Charge()[tier.RAM] != 4 {
		t.Errorf("%d leases, charged %v, want one on 2 bytes of weights and 2 to run", len(b.granted), b.entry("a").Charge())
	}
}

func TestMoveEnded_ModelOfARemovedOnesName_WhatThatLeftStaysCharged(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 4))
	b.load("a")
	if err := b.c.Drop(&Order{Kind: Remove, Entry: b.entry("a")}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(seen(4)) // not a byte has gone
	b.step()
	b.add(sized("a", 1))
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Swap}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(seen(3)) // a byte of what was left is gone
	b.step()
	if l := b.c.Ledger(); l.Charged()[tier.RAM] != 3 {
		t.Errorf("%v is charged, want the 3 that are present", l.Charged())
	}
}

func TestMoveEnded_ItsRequestsHaveLeft_RuntimeBytesAreGivenBack(t *testing.T) {
	m := sized("a", 6)
	m.Runtime = 3
	b := newBench(t, 10, 10, m)
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: m, To: tier.Swap}}}}
	}
	w := b.join("a")
	b.step()
	b.c.Leave(w)
	b.step()
	b.finish(Outcome{})
	b.step()
	if got := b.c.ledger.Charged()[tier.RAM]; got != 0 {
		t.Errorf("idle in swap, and %d bytes of ram are charged", int64(got))
	}
}

func TestMove_WithoutWaiters_IsCalledOffForARequest(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6), sized("b", 6))
	b.entry("a").Model.Home = tier.RAM
	b.c.bringHomeLater(b.entry("a"))
	b.step()
	b.join("b")
	b.step()
	if len(b.cancels) != 1 || b.cancels[0].Model.Name != "a" {
		t.Fatalf("cancelled %d moves", len(b.cancels))
	}
	b.finish(Outcome{Err: errCalledOff})
	b.step()
	b.finish(Outcome{})
	if b.step(); len(b.granted) != 1 {
		t.Errorf("b is not served: %v", b.log)
	}
}

// A homeward move that was called off ends while a request waits for its model.
func TestMove_HomewardCalledOffAndAskedForMeanwhile_IsNotMovedUnderALease(t *testing.T) {
	b := newBench(t, 10, 20, tier.Model{Name: "a", Size: 4}, tier.Model{Name: "b", Size: 8})
	e := b.entry("a")
	e.Model.Home = tier.RAM
	b.c.bringHomeLater(e)
	b.step()
	plain := b.plan
	b.plan = func(v *tier.View, n *tier.Need) tier.Plan {
		if n != nil && n.Model >= 0 && v.Library.At(n.Model).Name == "a" { // served where it is
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(n.Model), To: tier.Swap}}}}
		}
		return plain(v, n)
	}
	other := b.join("b")
	b.step() // b needs the room: a's move home is called off
	b.c.Leave(other)
	b.join("a")
	b.step()
	home := b.started[0]
	b.c.MoveEnded(home, Outcome{Err: &tier.MoveError{Model: "a", From: home.From, To: home.To, Err: errCalledOff}, CalledOff: true}, b.now)
	b.step()
	for len(b.c.moves) > 0 && len(b.granted) == 0 {
		b.c.MoveEnded(b.c.moves[0], Outcome{}, b.now)
		b.step()
	}
	if len(b.granted) == 0 {
		t.Fatal("no request was served")
	}
	if e.move != nil && e.Gate.Leases() > 0 {
		t.Errorf("it moves from %v to %v under a lease", e.move.From, e.move.To)
	}
}

// It is on its way to swap, and its mover does not listen.
func TestCancelOrder_MoveGoesOnToAnotherTier_HotLoadEndsThere(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 4))
	b.plan = func(v *tier.View, n *tier.Need) tier.Plan {
		if n == nil {
			return tier.Plan{}
		}
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(n.Model), To: tier.Swap}}}}
	}
	o := &Order{Kind: HotLoad, Entry: b.entry("a"), To: tier.RAM}
	b.c.Load(o, b.now)
	b.step()
	cause := errors.New("changed my mind")
	b.c.CancelOrder(o, cause, b.now)
	b.plan = b.toRAM
	b.step()
	b.finish(seen(0))
	b.step()
	if err := b.ended[o]; !errors.Is(err, cause) {
		t.Errorf("the order ended with %v, want %v", err, cause)
	}
	if b.finish(seen(0)); len(b.started) != 0 {
		t.Errorf("it moves on: %v", b.log)
	}
	b.step()
	if _, known := b.c.Find("a"); known {
		t.Error("it is in the library still")
	}
}

// The part that it had in memory does not make a promotion a demotion.
func TestPlanned_IdlePromotionOfAModelPartlyInMemory_IsNoEviction(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	to := func(to tier.Tier, keep tier.Bytes) {
		b.plan = func(*tier.View, *tier.Need) tier.Plan {
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: b.entry("a").Model, To: to, Keep: keep}}}}
		}
		b.c.AskIdle(true, b.now)
	}
	to(tier.Swap, 3)
	b.step()
	b.finish(Outcome{})
	b.step()
	to(tier.RAM, 0)
	b.step()
	if m := b.finish(Outcome{}); m.Down() || b.evicted != 0 {
		t.Errorf("from %v to %v: down %v, %d evictions", m.From, m.To, m.Down(), b.evicted)
	}
}
