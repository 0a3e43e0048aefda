package core

import (
	"errors"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Under high pressure a placement may take longer than a reading is fresh.
func TestPressure_SlowPlacement_HasAnEnd(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6))
	b.traits(Traits{Divisible: true, Leaves: true})
	b.c.opt.Admit = func(_ Promise, m *tier.Model, _ tier.Footprint, _ bool) error {
		return &tier.CapacityError{Model: m.Name, Reason: "pressure is high"}
	}
	pressed := tier.Memory{Available: tier.Unlimited, Pressure: tier.Pressure{Level: tier.PressureHigh}}
	b.c.Reading(pressed, nil, nil, b.now)
	b.join("a")
	for asks := 0; asks < 100; {
		actions, _ := b.c.Step(b.now)
		if len(actions) == 0 {
			t.Fatal("it waits though nothing can change")
		}
		for _, a := range actions {
			switch a := a.(type) {
			case Ask:
				asks++
				p := b.plan(&a.Question.View, &a.Question.Need)
				b.now = b.now.Add(150 * time.Millisecond)
				b.c.Planned(a.Question, p, nil, b.now)
			case Read:
				b.c.Reading(pressed, nil, nil, b.now)
			case Refused:
				return
			}
		}
	}
	t.Error("the placement is asked without end")
}

// Another process may map the pages. To ask for them again and again would keep the
// core busy and requests waiting in vain.
func TestReclaim_ModelThatGaveNothing_GoesToStorage(t *testing.T) {
	for stays, want := range map[tier.Bytes]tier.Tier{6: tier.Storage, 4: tier.Swap} {
		b := newBench(t, 10, 10, sized("a", 6))
		b.load("a")
		shed := func(keep, present tier.Bytes) {
			b.c.Reclaim([]tier.Step{{Move: tier.Move{Model: sized("a", 6), To: tier.Swap, Keep: keep}}}, b.view(), b.c.Epoch())
			b.step()
			b.finish(Outcome{Observed: true, Seen: Seen{Present: present}})
			b.step()
		}
		shed(6, 6)
		shed(2, stays)
		shed(1, 0)
		if e := b.entry("a"); e.Tier() != want {
			t.Errorf("%d of 6 bytes stayed, and then it went to %v, want %v", stays, e.Tier(), want)
		}
	}
}

// An engine whose stop fails at once backs off.
func TestStopOneFrozen_UnloadFails_NotTriedAgainAtOnce(t *testing.T) {
	b := newBench(t, 10, 10, sized("f", 6), sized("x", 8))
	b.traits(Traits{Leaves: true, InPlace: true})
	b.load("f")
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("f"), To: tier.Swap}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(seen(6))
	b.step()
	b.plan = func(*tier.View, *tier.Need) tier.Plan { return tier.Plan{Err: &tier.CapacityError{}} }
	b.join("x")
	tried := 0
	for b.step(); len(b.started) > 0 && tried < 100; b.step() {
		tried++
		b.finish(Outcome{Err: errors.New("cannot stop")})
	}
	if tried != 1 {
		t.Errorf("%d unloads in one moment, want 1", tried)
	}
}

// What leaves, or is kept for the load that it just had, makes room soon: a frozen
// engine is stopped for its few bytes only if that was not enough.
func TestStopOneFrozen_OthersMakeRoomSoon_FrozenStaysMeanwhile(t *testing.T) {
	b := newBench(t, 14, 20, sized("f", 6), sized("r", 6), sized("x", 8))
	b.traits(Traits{Leaves: true, InPlace: true})
	toSwap := func(name string) {
		t.Helper()
		if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry(name), To: tier.Swap}, b.now); err != nil {
			t.Fatal(err)
		}
		b.step()
	}
	b.load("f")
	toSwap("f")
	b.finish(seen(2))
	b.step()
	b.load("r")
	toSwap("r")
	b.plan = func(*tier.View, *tier.Need) tier.Plan { return tier.Plan{Err: &tier.CapacityError{}} }
	b.join("x")
	if b.step(); b.entry("f").move != nil {
		t.Error("a frozen engine is stopped while a model leaves")
	}
	b.finish(seen(0)) // r's
	if b.step(); b.entry("f").move == nil {
		t.Error("nothing leaves any more, and the frozen engine stays")
	}
}

// Where all that are frozen are waited for, one leaves for who goes first.
func TestStopOneFrozen_TheOnlyOneIsWaitedFor_LeavesAllTheSame(t *testing.T) {
	b := newBench(t, 10, 10, sized("f", 6), sized("x", 8))
	b.traits(Traits{})
	b.load("f")
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("f"), To: tier.Swap}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(seen(6))
	b.step()
	b.plan = func(*tier.View, *tier.Need) tier.Plan { return tier.Plan{Err: &tier.CapacityError{}} }
	b.join("x")
	b.now = b.now.Add(time.Millisecond)
	b.join("f")
	b.step()
	if mv := b.entry("f").move; mv == nil || mv.To != tier.Storage || b.entry("f").Waiters() != 1 || b.entry("x").Waiters() != 1 {
		t.Errorf("the frozen engine moves by %+v, %d wait for it, and %d for the one that goes first", mv, b.entry("f").Waiters(), b.entry("x").Waiters())
	}
}

// The residue of a removed model of the same name is not the new model's charge. If
// it counted, a load would be planned that its move then refuses, again and again.
func TestServeUnderPressure_ResidueOfAnotherOfItsName_IsNotTheModelsOwn(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.load("a")
	if err := b.c.Drop(&Order{Kind: Remove, Entry: b.entry("a")}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(seen(6))
	b.step()
	b.add(tier.Model{Name: "a", Size: 4, Runtime: 6})
	b.memory.Pressure.Level = tier.PressureHigh
	b.c.Reading(b.memory, nil, nil, b.now)
	asked, inVain := 0, 0
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		asked++
		inVain = max(inVain, b.entry("a").demand.tries)
		return tier.Plan{Err: &tier.CapacityError{}}
	}
	b.join("a")
	if b.step(); asked == 0 || inVain > 0 {
		t.Errorf("the placement was asked %d times, after %d plans that came to nothing", asked, inVain)
	}
}

// Pages that are mapped for our models are not another's: all of a model that moves,
// is served in place or is in ram as pages of its file.
func TestPromise_Mapped_IsTheMostThatOurModelsMap(t *testing.T) {
	b := newBench(t, 20, 20, sized("a", 6), sized("b", 5))
	b.traits(all)
	want := func(when string, bytes tier.Bytes) {
		t.Helper()
		if got := b.c.Promise().Mapped; got != bytes {
			t.Errorf("%s: %v, want %v", when, got, bytes)
		}
	}
	want("in storage", 0)
	b.join("a")
	b.step()
	want("while a loads", 6)
	b.finish(Outcome{Observed: true, Seen: Seen{Present: 6, Reclaimable: 2}})
	b.step()
	want("with a in ram, seen before all of it was there", 6)
	b.release("a")
	b.c.Reclaim([]tier.Step{{Move: tier.Move{Model: sized("a", 6), To: tier.Swap, Keep: 1}}}, b.view(), b.c.Epoch())
	b.step()
	b.now = b.now.Add(time.Second)
	b.finish(Outcome{Observed: true, Seen: Seen{Present: 1, Reclaimable: 1}})
	want("with a in swap", 1)
	b.entry("a").LastUse = b.now.Add(time.Second)
	want("once a was served there", 6)
}
