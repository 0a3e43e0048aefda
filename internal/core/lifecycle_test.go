package core

import (
	"errors"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

var errCrash = errors.New("crashed")

// waysToLeave unload model a for other reasons than room.
var waysToLeave = map[string]func(b *bench){
	"crashed":  func(b *bench) { b.c.Crash(b.entry("a"), errCrash, b.now) },
	"replaced": func(b *bench) { b.c.Replace(b.entry("a"), other("a", 3), all, b.now) },
}

// The loop may hear of the end of a load together with a crash or another
// configuration, before it has granted a lease.
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
				t.Errorf("%d leases, a in %v; want one once it is loaded again", len(b.granted), b.entry("a").Tier())
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

// The model drains for another, crashes, and then no request waits for the other.
func TestLeaving_CrashWhileItDrainsForAnother_NotServedWhenThatIsCalledOff(t *testing.T) {
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
		t.Error("a lease was granted on a model that crashed")
	}
}

// If a model crashes while its demotion waits, the demotion is void; to carry it out
// would read the weights.
func TestLeaving_CrashBeforeItsDemotion_IsNotLoadedToMakeRoom(t *testing.T) {
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

func TestCrash_SoonAfterEachLoad_BacksOff(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	crash := errors.New("it crashed")
	lose := func() {
		t.Helper()
		b.load("a")
		for range 2 { // it may be reported twice
			b.c.Crash(b.entry("a"), crash, b.now)
		}
		b.step()
		b.finish(Outcome{})
		b.step()
	}
	for range crashesForgiven {
		lose()
	}
	lose()
	for i := range 2 { // 1 s, then 2
		w := b.join("a")
		b.step()
		busy, ok := errors.AsType[*tier.BusyError](b.refused[w])
		if want := backOffFirst << i; !ok || busy.RetryAfter != want || !errors.Is(busy, crash) {
			t.Fatalf("%v, want to be told to come back in %v", b.refused[w], want)
		}
		b.now = b.now.Add(busy.RetryAfter)
		lose()
	}
	b.now = b.now.Add(backOffMax)
	b.load("a")
	b.now = b.now.Add(crashSoon) // it ran for long enough
	b.c.Crash(b.entry("a"), crash, b.now)
	b.step()
	b.finish(Outcome{})
	b.step()
	b.load("a")
}

// The residue of a removed model is not room for a new one of its name.
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

// What was observed of a model does not apply to its replacement.
func TestReplace_ModelThatTookMoreThanDeclared_TheNewOneStartsFromItsOwnDeclaration(t *testing.T) {
	b := newBench(t, 20, 20, tier.Model{Name: "a", Size: 4, Runtime: 1}).wholes()
	b.join("a")
	b.step()
	b.taking(8, 11)
	b.release("a")
	e := b.entry("a")
	b.c.Replace(e, &tier.Model{Name: "a", Size: 2, Runtime: 1}, all, b.now)
	b.step()
	b.taking(0, 11)
	b.join("a")
	b.step()
	if got := b.c.ledger.Reserved()[tier.RAM]; got != 3 || e.Declared() != 1 || e.Model.Size != 2 {
		t.Errorf("%v are set aside for %v, of which %v are declared beside the weights", got, e.Model.Size, e.Declared())
	}
	if err := b.c.Check(); err != nil {
		t.Error(err)
	}
}

// If a model is reconfigured while its hot load waits for room, the job ends and the
// configured model stays.
func TestReplace_HotLoadWaitsForRoom_JobEndsAndTheNewOneStays(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6))
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step() // a is leased: there is no room for b
	b.add(sized("b", 6))
	load := &Order{Kind: HotLoad, Entry: b.entry("b"), To: tier.RAM}
	b.c.Load(load, b.now)
	b.step()
	b.c.Replace(b.entry("b"), other("b", 3), all, b.now)
	b.step()
	b.step()
	if err, ended := b.ended[load]; !ended || err == nil {
		t.Errorf("the hot load ended: %v, with %v; want an error", ended, err)
	}
	if e, there := b.c.Find("b"); !there || e.Model.Size != 3 {
		t.Errorf("b is there: %v", there)
	}
}
