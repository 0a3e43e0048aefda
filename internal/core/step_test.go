package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestStep_RequestForAModelInStorage_ReservesBeforeItStartsAndGrantsInTheSameStep(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	w := b.join("a")
	b.step()
	if got := b.c.ledger.Reserved()[tier.RAM]; len(b.started) != 1 || got != 6 {
		t.Fatalf("started %d moves with %v reserved", len(b.started), got)
	}
	b.finish(Outcome{})
	if b.step(); len(b.granted) != 1 || b.granted[0] != w || b.entry("a").Gate.Leases() != 1 || len(w.Moved) == 0 {
		t.Fatalf("granted %v", b.granted)
	}
}

func TestStep_VictimTakenIntoUseAfterThePlan_IsRescuedAndPlannedAround(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6), sized("b", 4), sized("c", 6))
	b.load("a", "b")
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan {
		p := b.toRAM(v, need)
		if b.entry("a").Gate.Leases() == 0 {
			b.entry("a").Gate.Grant() // between the view and the step
		}
		return p
	}
	b.join("c")
	b.step()
	if len(b.started) != 0 || !b.entry("a").Gate.(*fakeGate).open {
		t.Fatalf("log %v; a's gate open: %v", b.log, b.entry("a").Gate.(*fakeGate).open)
	}
	b.release("a")
	b.plan = b.toRAM
	b.step()
	if got := b.started[0]; got.Model.Name != "a" {
		t.Errorf("the first move is of %s", got.Model.Name)
	}
}

func TestStep_OnlyBusyVictims_DrainOnceFairnessHasPassed(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6), sized("b", 6))
	b.load("a")
	b.entry("a").Gate.Grant()
	w := b.join("b")
	wake := b.step()
	if !b.entry("a").Gate.(*fakeGate).open || !b.entry("a").Gate.(*fakeGate).watched {
		t.Fatal("a is closed too early, or its gate does not tell when leases end")
	}
	if want := w.Since.Add(time.Second); !wake.Equal(want) {
		t.Fatalf("wakes at %v, want %v", wake, want)
	}
	b.now = wake
	b.step()
	if b.entry("a").Gate.(*fakeGate).open || len(b.started) != 0 {
		t.Fatal("a does not drain, or leaves under its lease")
	}
	again := b.join("a") // has to wait: a and b never fit both
	b.step()
	b.release("a")
	b.step()
	for range 2 { // a out, b in
		b.finish(Outcome{})
		b.step()
	}
	if !slices.Equal(b.granted[1:], []*Waiter{w}) {
		t.Fatalf("granted %d", len(b.granted))
	}
	b.release("b")
	b.step()
	b.now = b.now.Add(time.Minute)
	b.step()
	for len(b.started) > 0 {
		b.finish(Outcome{})
		b.step()
	}
	if b.granted[len(b.granted)-1] != again {
		t.Error("a's own request is not served")
	}
}

func TestStep_DisjointVictims_LeaveAtTheSameTime(t *testing.T) {
	b := newBench(t, 12, 0, sized("a", 6), sized("b", 6), sized("c", 6), sized("d", 6))
	b.load("a", "b")
	b.join("c")
	b.join("d")
	b.step()
	var out []string
	for _, m := range b.started {
		out = append(out, m.Model.Name)
	}
	if !slices.Equal(out, []string{"a", "b"}) {
		t.Errorf("leaving: %v, want a and b at once", out)
	}
}

// Two models change places with one byte to spare: each hop has just the room that
// the one before it freed.
func TestStep_ModelsThatPassEachOtherInParts_DoSoInThePlansOrder(t *testing.T) {
	b := newBench(t, 10, 5, sized("a", 8), sized("b", 6))
	hop := func(name string, to tier.Tier, keep tier.Bytes) tier.Step {
		return tier.Step{Move: tier.Move{Model: b.entry(name).Model, To: to, Keep: keep}}
	}
	b.load("a")
	b.plan = func(*tier.View, *tier.Need) tier.Plan { return tier.Plan{Steps: []tier.Step{hop("b", tier.Swap, 2)}} }
	b.load("b")
	plans := 0
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		plans++
		var p tier.Plan
		for n := tier.Bytes(1); n < 4; n++ {
			p.Steps = append(p.Steps, hop("a", tier.Swap, 8-n), hop("b", tier.Swap, 2+n))
		}
		p.Steps = append(p.Steps, hop("a", tier.Swap, 4), hop("b", tier.RAM, 0))
		return p
	}
	b.log = nil
	b.join("b")
	for b.step(); len(b.started) > 0; b.step() {
		b.finish(Outcome{})
	}
	want := []string{
		"a ram→swap keep 7", "b swap→swap keep 3", "a swap→swap keep 6", "b swap→swap keep 4",
		"a swap→swap keep 5", "b swap→swap keep 5", "a swap→swap keep 4", "b swap→ram keep 0",
	}
	if !slices.Equal(b.log, want) || plans != 1 || len(b.granted) != 3 || b.entry("b").Tier() != tier.RAM {
		t.Fatalf("%d plans, %d grants, b in %v:\n%q\nwant\n%q", plans, len(b.granted), b.entry("b").Tier(), b.log, want)
	}
}

// If a step finds no room its model stays where it is, unless the step was to make
// room: only then does the model go to storage.
func TestPlanned_IdleStepUpThatFindsNoRoom_LeavesItsModelWhereItIs(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 8), sized("b", 6))
	b.load("a")
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: b.entry("b").Model, To: tier.Swap, Keep: 1}}}}
	}
	b.load("b")
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: b.entry("b").Model, To: tier.Swap, Keep: 4}}}}
	}
	b.c.AskIdle(false, b.now)
	for b.step(); len(b.started) > 0; b.step() {
		b.finish(Outcome{})
	}
	if e := b.entry("b"); e.Tier() != tier.Swap || e.Kept() != 1 {
		t.Fatalf("b is in %v, %d bytes present", e.Tier(), e.Kept())
	}
}

// A step is void if its model has left further than the step takes it: to carry it
// out would map the model again.
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

func TestPlanned_PlanThatCannotBe_IsRefusedAfterSomeAttempts(t *testing.T) {
	for name, p := range map[string]func(v *tier.View) tier.Plan{
		"nothing": func(*tier.View) tier.Plan { return tier.Plan{} },
		"unknown": func(*tier.View) tier.Plan { return tier.Plan{Steps: []tier.Step{{Move: tier.Move{To: tier.RAM}}}} },
		"beyond limits": func(v *tier.View) tier.Plan {
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(0), To: tier.RAM}}}}
		},
		"keeps more": func(v *tier.View) tier.Plan {
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: *v.Library.At(0), To: tier.Swap, Keep: 99}}}}
		},
	} {
		b := newBench(t, 5, 0, sized("a", 6))
		b.plan = func(v *tier.View, _ *tier.Need) tier.Plan { return p(v) }
		w := b.join("a")
		b.step()
		if err := b.refused[w]; !errors.Is(err, tier.ErrNoCapacity) && !errors.Is(err, tier.ErrInvalid) && !errors.Is(err, tier.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
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

func TestSetLimits_BelowWhatIsLeased_IsRefusedAndChangesNothing(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step()
	old := b.c.ledger.Limits()
	n := old
	n.RAM = 5
	if err := b.c.SetLimits(n); err != nil {
		t.Fatal(err)
	}
	b.step()
	if len(b.limits) != 1 || !errors.Is(b.limits[0].Err, tier.ErrLimits) || b.c.ledger.Limits() != old {
		t.Fatalf("%+v", b.limits)
	}
	b.release("a")
	b.step()
	if err := b.c.SetLimits(n); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{})
	if b.step(); len(b.limits) != 2 || b.limits[1].Err != nil || b.c.ledger.Limits() != n {
		t.Errorf("%+v", b.limits)
	}
}

// The last step of a plan waits without a claim on its model, which may become
// another meanwhile: the step speaks of the model that it was.
func TestStep_ModelReplacedBeforeItsStepBegins_NewOneIsNotMoved(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 10), sized("b", 6), sized("c", 2))
	b.load("a")
	to := func(name string, t tier.Tier) tier.Step {
		return tier.Step{Move: tier.Move{Model: b.entry(name).Model, To: t}}
	}
	b.plan = func(*tier.View, *tier.Need) tier.Plan {
		return tier.Plan{Steps: []tier.Step{to("a", tier.Storage), to("b", tier.RAM), to("c", tier.RAM)}}
	}
	b.c.AskIdle(false, b.now)
	b.step() // a leaves, b waits for its room and c for b
	b.c.Replace(b.entry("c"), other("c", 3), all, b.now)
	for b.step(); len(b.started) > 0; b.step() {
		b.finish(Outcome{})
	}
	if e := b.entry("c"); e.Model.Size != 3 || e.Tier() != tier.Storage {
		t.Errorf("c of %v is in %v, want the new c in storage", e.Model.Size, e.Tier())
	}
}

// Nothing but the end of the unload lets the request go on: no byte is given back.
func TestStep_UnloadAwaitedByARequestFails_RequestGoesOn(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6), sized("b", 6))
	b.load("a")
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Storage}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	w := b.join("b")
	b.step() // it waits for the room that the move may make
	b.finish(Outcome{Err: errors.New("it cannot be unloaded")})
	for b.step(); len(b.started) > 0; b.step() {
		b.finish(Outcome{})
	}
	if b.granted[len(b.granted)-1] != w {
		t.Errorf("the request is not served: %v", b.refused[w])
	}
}

// The load's own request has left, so that nothing but the move's state tells.
func TestStep_RoomIsHeldByAMoveThatGetsStuck_RequestIsRefused(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 8), sized("b", 8))
	first := b.join("a")
	b.step()
	b.c.Leave(first)
	w := b.join("b")
	for wake := b.step(); !wake.IsZero() && b.refused[w] == nil; wake = b.step() {
		b.now = wake
	}
	if !errors.Is(b.refused[w], tier.ErrNoCapacity) || !b.entry("a").Stuck() {
		t.Errorf("the request got %v, a is stuck: %v", b.refused[w], b.entry("a").Stuck())
	}
}

func TestGrant_TwoRequestsForOneModel_BothAreServed(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.join("a")
	b.join("a")
	b.step()
	b.finish(Outcome{})
	if b.step(); len(b.granted) != 2 {
		t.Errorf("%d of 2 requests are served", len(b.granted))
	}
}

// Nothing else happens that would have Step called again.
func TestStep_CannotBeServedInPlaceAfterFairness_AskedForInTheSameStep(t *testing.T) {
	b := newBench(t, 10, 10, tier.Model{Name: "a", Size: 6, Runtime: 2}, sized("v", 4))
	b.join("v")
	b.step()
	b.finish(Outcome{}) // v is in use from now on
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Swap}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{})
	b.now = b.now.Add(time.Second)
	b.join("a")
	asked := func() (q *Question) {
		actions, _ := b.c.Step(b.now)
		for _, a := range actions {
			if ask, ok := a.(Ask); ok {
				q = ask.Question
			}
		}
		return q
	}
	b.c.Planned(asked(), tier.Plan{}, nil, b.now) // serve it where it is
	asked()                                       // for which memory has to be read
	b.now = b.now.Add(2 * time.Second)
	b.c.opt.Admit = func(Promise, *tier.Model, tier.Footprint, bool) error { return &tier.CapacityError{} }
	b.c.Reading(b.memory, nil, nil, b.now)
	b.c.watching = true // as it is while another request is blocked
	if q := asked(); q == nil || !q.Need.Patient {
		t.Errorf("not asked for: %+v", q)
	}
}

func TestStep_PlanGivesUpAClaim_OverdraftIsChargedInTheSameStep(t *testing.T) {
	b := newBench(t, 6, 10, sized("a", 6), sized("v", 4), sized("c", 7))
	b.join("a")
	actions, _ := b.c.Step(b.now)
	q := actions[0].(Ask).Question
	b.c.Planned(q, tier.Plan{Steps: []tier.Step{
		{Move: tier.Move{Model: b.entry("v").Model, To: tier.RAM}}, // memory has to be read before
		{Move: tier.Move{Model: b.entry("a").Model, To: tier.RAM}}, // all of it is set aside for this
	}}, nil, b.now)
	b.c.Step(b.now)
	b.c.Observed(b.entry("c"), Seen{Taken: 7})
	b.c.Step(b.now)
	if over, free := b.c.Overdraft(), b.c.ledger.Free()[tier.RAM]; over != 1 || free != 0 {
		t.Errorf("%v are owed and %v free, want 1 and none", over, free)
	}
}

// Idle planning ends some hours after the last request, and asks for less than one
// wake-up a second before.
func TestStep_AtRest_AsksToBeWokenSeldomThenNotAtAll(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	b.c.opt.OptimizeEvery = 30 * time.Second
	b.c.Used(b.entry("a"), b.now, b.now)
	b.load("a")
	began, wakes := b.now, 0
	for wake := b.step(); !wake.IsZero() && wakes < 10_000; wake = b.step() {
		b.now = wake
		wakes++
	}
	if rested := b.now.Sub(began); wakes == 0 || wakes >= 10_000 || rested < idleTooLong || time.Duration(wakes)*time.Second > rested {
		t.Errorf("woken %d times in %v", wakes, rested)
	}
}

// A turn is what the Manager's loop does for one event: Step, and View if anything
// has changed. It is to take 1 ms at most.
func BenchmarkLoop_TurnAt1000Models(b *testing.B) {
	const models, resident = 1000, 200
	for _, event := range []string{"join", "answer", "move end", "reading", "release"} {
		b.Run(event, func(b *testing.B) {
			library := make([]tier.Model, models)
			for i := range library {
				library[i] = sized(fmt.Sprint(i), 10)
			}
			c := newBench(b, 10*resident, 10*models, library...)
			for i := range resident {
				c.load(library[i].Name)
			}
			var turns []time.Duration
			var answers []func() // of parts, to be told in the next turn
			turn := func(of string, happens func()) {
				began := time.Now()
				happens()
				actions, _ := c.c.Step(c.now)
				if c.c.Changed() {
					c.c.View(c.now)
				}
				if took := time.Since(began); of == event {
					turns = append(turns, took)
				}
				for _, a := range actions {
					switch a := a.(type) {
					case Start:
						c.started = append(c.started, a.Move)
					case Ask:
						p := c.plan(&a.Question.View, &a.Question.Need)
						answers = append(answers, func() { c.c.Planned(a.Question, p, nil, c.now) })
					case Read:
						answers = append(answers, func() { c.c.Reading(c.memory, nil, nil, c.now) })
					}
				}
			}
			next := library[resident].Name
			b.ReportAllocs()
			for b.Loop() { // next comes, for which another leaves, which comes next
				c.now = c.now.Add(time.Minute)
				turn("reading", func() { c.c.Reading(c.memory, nil, nil, c.now) })
				turn("join", func() { c.join(next) })
				left := ""
				for len(answers) > 0 || len(c.started) > 0 {
					if len(answers) > 0 {
						answer := answers[0]
						answers = answers[1:]
						turn("answer", answer)
						continue
					}
					turn("move end", func() {
						if m := c.finish(Outcome{}); m.To == tier.Storage {
							left = m.Model.Name
						}
					})
				}
				if c.entry(next).Gate.Leases() != 1 || left == "" {
					b.Fatalf("%s is not served, or none left for it: %q", next, left)
				}
				turn("release", func() { c.release(next) })
				next = left
			}
			slices.Sort(turns)
			b.ReportMetric(float64(turns[len(turns)/2]), "p50-ns/turn")
			b.ReportMetric(float64(turns[len(turns)*99/100]), "p99-ns/turn")
		})
	}
}
