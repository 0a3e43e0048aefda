package core

import (
	"errors"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

var errCrash = errors.New("crashed")

// other is a model of that name with other weights and capabilities.
func other(name string, size tier.Bytes) *tier.Model {
	m := sized(name, size)
	m.Capabilities = []string{"vision"}
	return &m
}

// waysToLeave are those in which model a goes though nobody made room by it.
var waysToLeave = map[string]func(b *bench){
	"lost":     func(b *bench) { b.c.Crash(b.entry("a"), errCrash, b.now) },
	"replaced": func(b *bench) { b.c.Replace(b.entry("a"), other("a", 3), all, b.now) },
}

// The loop may hear of the end of a load and of a loss, or of another
// configuration, before it has granted anything.
func TestLeaving_InTheBatchOfItsLoadsEnd_NoLeaseOnWhatLeaves(t *testing.T) {
	for how, leave := range waysToLeave {
		t.Run(how, func(t *testing.T) {
			b := newBench(t, 10, 10, sized("a", 6))
			b.join("a")
			b.step()
			b.finish(Outcome{})
			leave(b)
			b.step()
			if len(b.granted) > 0 {
				t.Fatal("a lease was granted on what leaves")
			}
			for range 4 {
				if len(b.started) > 0 {
					b.finish(Outcome{})
				}
				b.step()
			}
			if len(b.granted) != 1 || b.entry("a").Tier() != tier.RAM {
				t.Errorf("%d leases, a in %v; want one once it is loaded anew", len(b.granted), b.entry("a").Tier())
			}
		})
	}
}

func TestLeaving_UnloadFails_GateStaysClosedAndItIsTriedAgain(t *testing.T) {
	for how, leave := range waysToLeave {
		t.Run(how, func(t *testing.T) {
			b := newBench(t, 10, 10, sized("a", 6))
			b.load("a")
			leave(b)
			b.step()
			for range 3 {
				b.finish(Outcome{Err: errors.New("kill: EPERM")})
				b.step()
				if b.entry("a").Gate.(*fakeGate).open {
					t.Fatal("leases can be taken on what leaves")
				}
				if len(b.started) > 0 {
					t.Fatal("it is tried again in the same moment")
				}
				if _, wake := b.c.Step(b.now); wake.IsZero() {
					t.Fatal("nothing wakes the loop for it")
				}
				b.now = b.now.Add(backOffFirst)
				b.step()
			}
			b.finish(Outcome{})
			b.step()
			if e := b.entry("a"); e.Tier() != tier.Storage {
				t.Errorf("it is in %v", e.Tier())
			}
		})
	}
}

// It drains for another model, is lost, and the other is not wanted any more.
func TestLeaving_LostWhileItDrainsForAnother_NotServedWhenThatIsCalledOff(t *testing.T) {
	b := newBench(t, 10, 0, sized("e", 6), sized("x", 6))
	b.load("e")
	b.entry("e").Gate.Grant()
	w := b.join("x")
	b.step()
	b.now = b.now.Add(2 * time.Second)
	b.step() // drains e
	b.join("e")
	b.step()
	b.c.Crash(b.entry("e"), errCrash, b.now)
	b.step()
	n := len(b.granted)
	b.c.Leave(w)
	b.step()
	if len(b.granted) > n {
		t.Error("a lease was granted on a model that is lost")
	}
}

// A demotion that had to wait, of a model that is lost meanwhile, has nothing left
// to do; to carry it out would read the weights.
func TestLeaving_LostBeforeItsDemotion_IsNotLoadedToMakeRoom(t *testing.T) {
	b := newBench(t, 14, 10, sized("e", 4), sized("x", 10), sized("v", 6), sized("u", 6))
	b.load("v", "e")
	to := func(name string, size tier.Bytes, t tier.Tier) tier.Step {
		return tier.Step{Move: tier.Move{Model: sized(name, size), To: t}}
	}
	b.plan = func(*tier.View, *tier.Need) tier.Plan { return tier.Plan{Steps: []tier.Step{to("u", 6, tier.Swap)}} }
	w := b.join("u")
	b.step()
	b.c.Leave(w)
	b.finish(Outcome{})
	b.step()
	b.started = nil
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{to("u", 6, tier.Storage), to("v", 6, tier.Swap), to("e", 4, tier.Swap), to("x", 10, tier.RAM)}}
	}
	b.join("x")
	b.step()
	b.c.Crash(b.entry("e"), errCrash, b.now)
	b.step()
	u, e := b.started[0], b.started[1]
	b.started = nil
	b.c.MoveEnded(e, Outcome{}, b.now)
	b.step()
	b.c.MoveEnded(u, Outcome{}, b.now)
	b.step()
	for _, m := range b.started {
		if m.Entry == b.entry("e") {
			t.Errorf("to make room, %s goes from %v to %v", m.Model.Name, m.From, m.To)
		}
	}
}

// The same for one that was in swap when the plan was made, and was to keep less
// there: to carry that out would map it again.
func TestPlanned_LeftFurtherThanItsStep_IsNotBroughtBackToMakeRoom(t *testing.T) {
	b := newBench(t, 14, 10, sized("x", 10), sized("v", 6))
	b.load("v")
	to := func(name string, size tier.Bytes, t tier.Tier, keep tier.Bytes) tier.Step {
		return tier.Step{Move: tier.Move{Model: sized(name, size), To: t, Keep: keep}}
	}
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{to("v", 6, tier.Swap, 3)}}
	}
	b.c.AskIdle(false, b.now)
	b.step()
	b.finish(Outcome{})
	b.step()
	b.started = nil
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{to("v", 6, tier.Storage, 0), to("v", 6, tier.Swap, 1), to("x", 10, tier.RAM, 0)}}
	}
	b.join("x")
	b.step()
	b.finish(Outcome{})
	b.step()
	for _, m := range b.started {
		if m.Entry == b.entry("v") && m.To > m.From {
			t.Errorf("to make room, %s goes from %v to %v", m.Model.Name, m.From, m.To)
		}
	}
	if e := b.entry("v"); e.Tier() != tier.Storage {
		t.Errorf("v is in %v", e.Tier())
	}
}

func TestMoveEnded_WhoeverItWasToServeHasLeft_RuntimeBytesAreGivenBack(t *testing.T) {
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

func TestPlanned_ChangesNothing_AskedAFewTimesOnly(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6), sized("v", 2))
	b.join("a")
	asks := 0
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		asks++
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: sized("v", 2), To: tier.Storage}}}}
	}
	for range 3 * maxTries {
		b.step()
	}
	if len(b.refused) != 1 || asks > 2*maxTries {
		t.Errorf("asked %d times, %d refused; want an end after %d tries", asks, len(b.refused), maxTries)
	}
}

// Under high pressure a placement may take longer than a reading is fresh.
func TestPlanned_SlowPlacementUnderHighPressure_HasAnEnd(t *testing.T) {
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

// A stuck move is nothing to hope for.
func TestLoad_OnlyAStuckMoveHoldsTheRoom_HotLoadEnds(t *testing.T) {
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

// A mover that does not say what is present any more does not keep a hot load, which
// has no deadline, waiting for bytes to go.
func TestLoad_NobodySeesWhatWasLeftGo_HotLoadEnds(t *testing.T) {
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

// What a removed model has left is not room for a new one of its name.
func TestAdd_NameOfARemovedModelThatIsStillSeen_BothAreCharged(t *testing.T) {
	b := newBench(t, 20, 10, sized("a", 6))
	b.load("a")
	if err := b.c.Drop(&Order{Kind: Remove, Entry: b.entry("a")}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(seen(4))
	b.step()
	b.add(sized("a", 5))
	b.join("a")
	b.step()
	b.finish(seen(9))
	b.step()
	if got := b.c.ledger.Charged()[tier.RAM]; got != 9 {
		t.Errorf("9 bytes are seen, %d are charged", int64(got))
	}
}

// An engine whose stop fails at once is not asked to stop over and over.
func TestThin_UnloadFails_NotTriedAgainAtOnce(t *testing.T) {
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
