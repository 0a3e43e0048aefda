package core

import (
	"errors"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// An answer speaks of models as they were when it was asked for.
func TestPlanned_ModelReplacedWhileItWasAsked_AskedAgain(t *testing.T) {
	b := newBench(t, 10, 10, sized("b", 8))
	w := b.join("b")
	actions, _ := b.c.Step(b.now)
	var q *Question
	for _, a := range actions {
		if ask, ok := a.(Ask); ok {
			q = ask.Question
		}
	}
	if q == nil {
		t.Fatal("nothing is asked")
	}
	b.c.Replace(b.entry("b"), other("b", 3), all, b.now)
	b.c.Step(b.now)
	b.c.Planned(q, tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: sized("b", 8), To: tier.RAM}}}}, nil, b.now)
	b.step()
	if b.refused[w] != nil || len(b.started) != 1 || b.started[0].Model.Size != 3 {
		t.Errorf("refused: %v, moves %v; want the new one loaded", b.refused[w], b.log)
	}
}

// A refusal that goes by a reading of before is no refusal.
func TestPlanned_RefusedByAReadingOfBefore_AskedAgain(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 8), sized("b", 8))
	b.load("a")
	w := b.join("b")
	actions, _ := b.c.Step(b.now)
	q := actions[len(actions)-1].(Ask).Question
	b.c.Reading(tier.Memory{Available: tier.Unlimited}, nil, nil, b.now)
	b.c.Planned(q, tier.Plan{Err: &tier.CapacityError{Need: 8}}, nil, b.now)
	b.step()
	if b.refused[w] != nil || len(b.started) != 1 {
		t.Errorf("refused: %v, moves %v; want a to leave", b.refused[w], b.log)
	}
}

// A model of whose predecessor bytes are still seen, and whose load found less
// memory than was promised, waits beside another. Neither try of one may be the
// other's reason to try again at once.
func TestServe_AttemptsThatChangeNothing_AreSpacedOut(t *testing.T) {
	b := newBench(t, 40, 20, sized("b", 25), sized("p", 14), sized("m", 30))
	b.load("b")
	b.c.Replace(b.entry("b"), nil, Traits{}, b.now)
	b.step()
	b.finish(Outcome{Observed: true, Seen: Seen{Present: 25}})
	b.step()
	b.add(tier.Model{Name: "b", Size: 10, Runtime: 3})
	b.load("p")
	b.entry("p").Gate.Grant() // in use
	b.entry("b").shortUntil = b.now.Add(time.Minute)
	asked := 0
	plain := b.plan
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan { asked++; return plain(v, need) }
	b.join("b")
	b.join("m")
	for range 100 { // a second
		b.step()
		b.now = b.now.Add(10 * time.Millisecond)
	}
	if asked > 200 {
		t.Errorf("the placement was asked %d times in a second", asked)
	}
}

// Whatever its attempts before came to, a model in use gives no more leases from the
// instant on at which another has waited for as long as fairness asks.
func TestServe_ManyAttemptsBeforeFairnessEnds_DrainsAtThatInstant(t *testing.T) {
	for name, last := range map[string]struct {
		at    time.Duration
		taken bool // between the last plan and its first step
	}{
		"the pause after the last would outlast it": {at: 980 * time.Millisecond},
		"the last plan names what is in use again":  {at: 950 * time.Millisecond, taken: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 10, 0, sized("a", 6), sized("b", 6))
			b.load("a")
			gate := b.entry("a").Gate.(*fakeGate)
			gate.Grant()
			gate.Grant()
			w := b.join("b")
			b.step()
			next := func(at time.Duration) { // a lease ends, and another begins
				b.now = w.Since.Add(at)
				b.release("a")
				gate.Grant()
				b.step()
			}
			for range 40 {
				next(100 * time.Millisecond)
			}
			b.now = w.Since.Add(last.at)
			if last.taken {
				gate.leases = 0
				b.plan = func(v *tier.View, need *tier.Need) tier.Plan {
					p := b.toRAM(v, need)
					gate.leases = 2
					return p
				}
			}
			b.c.Released(b.entry("a"))
			wake := b.step()
			b.plan = b.toRAM
			if bound := w.Since.Add(time.Second); wake.After(bound) {
				t.Fatalf("it rests until %v after fairness", wake.Sub(bound))
			}
			if !gate.open {
				t.Fatal("a drains too early")
			}
			next(time.Second)
			if gate.open {
				t.Error("a still gives leases")
			}
		})
	}
}

// Whatever happens, a Step does a bounded amount of work.
func TestStep_PlansThatAlwaysBreak_ReturnsAndEndsInTheEnd(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 4), sized("b", 4), sized("c", 4))
	b.load("a")
	b.entry("a").Gate.Grant()
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan { // names what is in use, every time
		if need == nil {
			return tier.Plan{}
		}
		return tier.Plan{Steps: []tier.Step{
			{Move: tier.Move{Model: sized("a", 4), To: tier.Storage}}, {Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.RAM}},
		}}
	}
	waiters := []*Waiter{b.join("b"), b.join("c")}
	for _, w := range waiters {
		w.Deadline = b.now.Add(5 * time.Minute)
	}
	for range 301 {
		b.step()
		b.now = b.now.Add(time.Second)
	}
	b.step()
	for _, w := range waiters {
		if err := b.refused[w]; !errors.Is(err, tier.ErrNoCapacity) && !errors.Is(err, tier.ErrBusy) {
			t.Errorf("%s: refused with %v", w.Entry.Model.Name, err)
		}
	}
}

func stepOf(name string, size tier.Bytes, t tier.Tier, keep tier.Bytes) tier.Step {
	return tier.Step{Move: tier.Move{Model: sized(name, size), From: tier.RAM, To: t, Keep: keep}}
}

func TestPlanned_VictimHasLeftFurtherMeanwhile_IsNotLoadedToMakeRoom(t *testing.T) {
	b := newBench(t, 14, 10, sized("x", 10), sized("v", 6))
	b.load("v")
	var q *Question
	b.c.Join(&Waiter{Entry: b.entry("x"), Since: b.now, Claim: func() bool { return true }}, b.now)
	as, _ := b.c.Step(b.now)
	for _, a := range as {
		if k, ok := a.(Ask); ok {
			q = k.Question
		}
	}
	if q == nil {
		as, _ = b.c.Step(b.now)
		t.Fatalf("not asked: %v", as)
	}
	// meanwhile its owner sends v to storage
	o := &Order{Kind: MoveTier, Entry: b.entry("v"), To: tier.Storage}
	if err := b.c.MoveTo(o, b.now); err != nil {
		t.Fatal(err)
	}
	b.started = nil
	b.step()
	b.finish(Outcome{})
	b.step()
	if b.entry("v").Tier() != tier.Storage {
		t.Fatal("v not in storage")
	}
	b.c.Planned(q, tier.Plan{Steps: []tier.Step{stepOf("v", 6, tier.Swap, 0), {Move: tier.Move{Model: sized("x", 10), To: tier.RAM}}}}, nil, b.now)
	b.started = nil
	b.step()
	for _, m := range b.started {
		if m.Entry == b.entry("v") && m.To > m.From {
			t.Errorf("to make room, v goes from %v to %v", m.From, m.To)
		}
	}
}

func TestReclaim_ModelGaveMoreMeanwhile_NothingIsReadBack(t *testing.T) {
	b := newBench(t, 30, 30, sized("x", 10), sized("v", 6))
	b.load("v")
	since, was := b.c.Epoch(), b.view()
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{stepOf("v", 6, tier.Swap, 1)}}
	}
	b.c.AskIdle(true, b.now)
	b.step()
	b.finish(Outcome{})
	b.step()
	b.started = nil
	// the reclaim was reckoned while v was whole in ram: give back 2 of 6
	b.c.Reclaim([]tier.Step{stepOf("v", 6, tier.Swap, 4)}, was, since)
	b.step()
	for _, m := range b.started {
		t.Errorf("to give memory back, v goes from %v keep 1 to %v keep %v", m.From, m.To, m.Keep)
	}
}

func TestStep_HoldOfTheVictimEnds_TriedAgain(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6), sized("b", 6))
	b.c.opt.Protection.Fairness = time.Minute
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan { return b.toRAM(v, need) }
	b.join("a")
	b.step()
	b.now = b.now.Add(10 * time.Second) // the load takes 10 s
	b.finish(Outcome{})
	b.step()
	b.release("a")
	b.step()
	// another use, through the gate
	g := b.entry("a").Gate.(*fakeGate)
	g.uses++
	b.c.Used(b.entry("a"), b.now, b.now)
	b.now = b.now.Add(10 * time.Millisecond)
	w := b.join("b")
	b.step()
	came := b.now
	for i := 0; i < 20000 && len(b.started) == 0 && b.refused[w] == nil; i++ {
		wake := b.step()
		if len(b.started) > 0 {
			break
		}
		if wake.IsZero() {
			t.Fatal("no wake")
		}
		b.now = wake
	}
	if b.now.Sub(came) > time.Second {
		t.Error("late")
	}
}

func TestReading_PressureFallsABit_BlockedDemandIsTriedAgain(t *testing.T) {
	b := newBench(t, 20, 10, sized("a", 6), sized("b", 6))
	b.traits(Traits{})
	b.c.opt.Protection.Fairness = time.Minute
	room := b.c.opt.Room
	high := func() bool { return b.c.memory.Pressure.Level >= tier.PressureHigh }
	b.c.opt.Room = func(p Promise) tier.Footprint {
		if high() {
			return tier.Footprint{}
		}
		return room(p)
	}
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step() // a is leased
	read := func(l tier.PressureLevel) {
		m := tier.Memory{Available: 100}
		m.Pressure.Level = l
		b.c.Reading(m, nil, nil, b.now)
		b.c.Press(l == tier.PressureLow, nil, b.now)
	}
	read(tier.PressureHigh)
	read(tier.PressureHigh)
	b.step()
	b.started = nil
	b.join("b")
	b.step()
	b.now = b.now.Add(50 * time.Millisecond)
	read(tier.PressureMedium)
	b.step()
	if len(b.started) == 0 {
		t.Errorf("pressure fell and b was not tried again")
	}
}
