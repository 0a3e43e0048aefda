package core

import (
	"errors"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestMoveTo_HotLoadUnderWay_IsRefused(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6))
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step() // a is leased: there is no room for b
	b.add(tier.Model{Name: "b", Size: 6, Home: tier.RAM})
	load := &Order{Kind: HotLoad, Entry: b.entry("b"), To: tier.RAM}
	b.c.Load(load, b.now)
	b.step()
	move := &Order{Kind: MoveTier, Entry: b.entry("b"), To: tier.Storage}
	if err := b.c.MoveTo(move, b.now); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("a move of what is not in the library yet: %v, want ErrInUse", err)
	}
	b.c.CancelOrder(load, errors.New("changed my mind"), b.now)
	b.step()
	if _, there := b.c.Find("b"); there || b.ended[load] == nil {
		t.Errorf("the load ended with %v, and b is there: %v", b.ended[load], there)
	}
}

// A stuck move will not free its room.
func TestHotLoad_OnlyAStuckMoveHoldsTheRoom_Ends(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 8), sized("h", 8))
	b.join("a")
	b.step()
	m := b.started[0]
	b.c.CancelMove(m, errors.New("stalled"), b.now)
	b.now = b.now.Add(time.Minute)
	b.step()
	o := &Order{Kind: HotLoad, Entry: b.entry("h"), To: tier.RAM}
	b.c.Load(o, b.now)
	for range 10 {
		b.step()
		b.now = b.now.Add(time.Minute)
	}
	if _, ended := b.ended[o]; !ended {
		t.Error("the hot load has not ended after ten minutes")
	}
}

// If a mover no longer reports present bytes, a hot load, which has no deadline, does
// not wait for residue to go.
func TestHotLoad_ResidueIsNeverSeenToGo_Ends(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 8), sized("h", 8))
	b.join("a")
	b.step()
	b.finish(Outcome{Err: errors.New("bad weights"), Observed: true, Seen: Seen{Present: 8}})
	b.step()
	o := &Order{Kind: HotLoad, Entry: b.entry("h"), To: tier.RAM}
	b.c.Load(o, b.now)
	for until := b.now.Add(time.Minute); b.now.Before(until); {
		wake := b.step()
		if b.ended[o] != nil {
			break
		}
		if wake.IsZero() {
			break
		}
		b.now = wake
	}
	if b.ended[o] == nil {
		t.Error("the hot load waits for good")
	}
}

// newGivenUp is a bench with a model whose hot load was given up before its mover
// returned.
func newGivenUp(t *testing.T) (*bench, *Entry) {
	h := sized("h", 6)
	h.Capabilities = []string{"text-generation"}
	b := newBench(t, 10, 10, h)
	b.c.Load(&Order{Kind: HotLoad, Entry: b.entry("h"), To: tier.RAM}, b.now)
	b.step()
	m := b.started[0]
	b.started = nil
	b.c.CancelMove(m, errors.New("stalled"), b.now)
	b.now = b.now.Add(time.Minute)
	b.step()
	b.c.MoveEnded(m, Outcome{}, b.now)
	return b, b.entry("h")
}

// The mover returned late with a model that is not wanted any more, and at first its
// unload fails.
func TestHotLoadGivenUp_UnloadFails_TriedAgainEachSecondAndServesNoRequest(t *testing.T) {
	b, h := newGivenUp(t)
	if len(h.Model.Capabilities) > 0 {
		t.Errorf("requests for %v are still led to it", h.Model.Capabilities)
	}
	for range 5 {
		b.step()
		b.finish(Outcome{Err: errors.New("it cannot be unloaded")})
		if wake := b.step(); !wake.Equal(b.now.Add(time.Second)) || len(b.started) > 0 {
			t.Fatalf("it is looked at again at %v, now is %v; %d moves run", wake, b.now, len(b.started))
		}
		w := b.join("h")
		b.step()
		if h.Gate.(*fakeGate).open || !errors.Is(b.refused[w], tier.ErrNotFound) {
			t.Fatalf("it is still served: gate open %v, the request got %v", h.Gate.(*fakeGate).open, b.refused[w])
		}
		b.now = b.now.Add(time.Second)
	}
	b.step()
	b.finish(Outcome{})
	b.step()
	if _, ok := b.c.Find("h"); ok {
		t.Error("it is still in the library")
	}
}

func TestHotLoadGivenUp_ConfiguredBeforeItIsOut_BecomesTheConfiguredOne(t *testing.T) {
	for _, when := range []string{"while it leaves", "when it could not leave"} {
		t.Run(when, func(t *testing.T) {
			b, h := newGivenUp(t)
			b.step()
			next := sized("h", 3)
			if when == "while it leaves" {
				b.c.Replace(h, &next, all, b.now)
				b.step()
			} else {
				b.finish(Outcome{Err: errors.New("it cannot be unloaded")})
				b.step()
				b.c.Replace(h, &next, all, b.now)
				b.step()
			}
			b.finish(Outcome{})
			b.step()
			if e, ok := b.c.Find("h"); !ok || e.Model.Size != 3 || !e.Owned() {
				t.Errorf("known %v, %+v", ok, e)
			}
		})
	}
}

func TestMoveTo_ModelLeased_IsInUseAndStays(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.load("a")
	e := b.entry("a")
	e.Gate.Grant()
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: e, To: tier.Storage}, b.now); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	if b.step(); len(b.started) > 0 || !e.Gate.(*fakeGate).open {
		t.Errorf("moves under a lease: %d, gate open: %v", len(b.started), e.Gate.(*fakeGate).open)
	}
}

// Where it waits for the bytes of what it was, and where its unload has failed.
func TestDrop_ModelIsBeingReplaced_IsRefusedAndNotSaidToHaveSucceeded(t *testing.T) {
	for name, out := range map[string]Outcome{"bytes still seen": seen(4), "unload failed": {Err: errors.New("device busy")}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 10, 10, sized("a", 4))
			b.load("a")
			e := b.entry("a")
			b.c.Replace(e, other("a", 3), all, b.now)
			b.step()
			b.finish(out)
			b.step()
			o := &Order{Kind: Remove, Entry: e}
			if err := b.c.Drop(o, b.now); !errors.Is(err, tier.ErrInUse) {
				t.Errorf("Drop: %v, want ErrInUse", err)
			}
			b.step()
			if _, ended := b.ended[o]; ended {
				t.Error("the removal ended, and the model stays")
			}
		})
	}
}

// A plan that was asked for before the owner sent a model down does not bring it back.
func TestMoveTo_DownWhileItIsPlannedUp_StaysUntilItsOwnerHasItPlanned(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 4))
	send := func(to tier.Tier) {
		t.Helper()
		if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("a"), To: to}, b.now); err != nil {
			t.Fatal(err)
		}
	}
	finish := func() {
		t.Helper()
		for b.step(); len(b.started) > 0; b.step() {
			b.finish(Outcome{})
		}
	}
	b.load("a")
	send(tier.Swap)
	finish()
	b.entry("a").sent = false // a request came since
	sent := false
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		if !sent { // while it thinks
			sent = true
			send(tier.Storage)
		}
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: b.entry("a").Model, To: tier.RAM}}}}
	}
	b.c.AskIdle(false, b.now)
	finish()
	b.c.AskIdle(false, b.now)
	finish()
	if e := b.entry("a"); e.tier != tier.Storage {
		t.Errorf("it is in %v: %q", e.tier, b.log)
	}
	b.c.AskIdle(true, b.now)
	finish()
	if e := b.entry("a"); e.tier != tier.RAM {
		t.Errorf("its owner had all planned, and it is in %v", e.tier)
	}
}
