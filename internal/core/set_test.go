package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// joinSet adds a request for several models at once.
func (b *bench) joinSet(names ...string) *Waiter {
	w := &Waiter{Since: b.now, Claim: func() bool { return true }}
	for _, name := range names {
		w.Set = append(w.Set, b.entry(name))
	}
	b.c.JoinSet(w, b.now)
	b.step()
	return w
}

// arrives ends the move of that model.
func (b *bench) arrives(name string) {
	b.t.Helper()
	i := slices.IndexFunc(b.started, func(m *Move) bool { return m.Model.Name == name })
	if i < 0 {
		b.t.Fatalf("no move of %s runs: %q", name, b.log)
	}
	m := b.started[i]
	b.started = slices.Delete(b.started, i, i+1)
	b.c.MoveEnded(m, Outcome{}, b.now)
	b.step()
}

func TestSet_ModelsInStorage_AllRoomIsSetAsideAndAllAreGrantedInOneStep(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 4), sized("b", 5), sized("c", 2))
	b.wholes().c.opt.Loads = 1
	w := b.joinSet("b", "a", "b")
	if got := b.c.used(tier.Account(tier.RAM)); got != 9 || len(b.started) != 1 {
		t.Fatalf("%d set aside, %d moves run", got, len(b.started))
	}
	b.finish(Outcome{})
	if b.step(); len(b.granted) > 0 || b.entry("a").Gate.Leases()+b.entry("b").Gate.Leases() > 0 {
		t.Fatal("leased before all are there")
	}
	b.finish(Outcome{})
	if b.step(); !slices.Equal(b.granted, []*Waiter{w}) || b.entry("a").Gate.Leases() != 1 || b.entry("b").Gate.Leases() != 2 {
		t.Fatalf("granted %d, leases on a %d, on b %d", len(b.granted), b.entry("a").Gate.Leases(), b.entry("b").Gate.Leases())
	}
	if charged, free := b.ram(); charged != 9 || free != 1 || len(w.Moved) != 2 {
		t.Errorf("%d charged, %d free, %d moved", charged, free, len(w.Moved))
	}
}

// Nothing of a set is loaded as long as a part of its room is in use.
func TestSet_RoomForAPart_NothingIsLoadedBeforeAllHaveRoom(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 3), sized("b", 6), sized("c", 6)).wholes()
	b.load("c")
	b.entry("c").Gate.Grant()
	b.log = nil
	b.joinSet("a", "b")
	b.now = b.now.Add(2 * time.Second)
	b.step() // c drains
	b.wantLog()
	b.release("c")
	b.step()
	b.wantLog("c ram→storage keep 0")
	b.arrives("c")
	if got := b.c.used(tier.Account(tier.RAM)); got != 9 {
		t.Errorf("%d set aside", got)
	}
}

// What is there of a set whose others are on their way stays, though one waits that may
// drain whatever is in use.
func TestSet_HalfLoaded_PatientOtherDoesNotTakeItAway(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 4), sized("b", 5), sized("c", 5)).wholes()
	set := b.joinSet("a", "b")
	b.arrives("a")
	c := b.join("c")
	b.step()
	b.now = b.now.Add(2 * time.Second)
	b.step()
	if b.entry("a").Tier() != tier.RAM || b.entry("a").phase != resting {
		t.Fatalf("a is in %v, %v", b.entry("a").Tier(), b.entry("a").phase)
	}
	b.arrives("b")
	if !slices.Equal(b.granted, []*Waiter{set}) {
		t.Fatalf("granted %d", len(b.granted))
	}
	b.release("a")
	b.release("b")
	for b.step(); len(b.started) > 0; b.step() {
		b.finish(Outcome{})
	}
	if !slices.Contains(b.granted, c) {
		t.Error("c is not served")
	}
}

// One that has waited for longer than Fairness goes first, though it cannot be planned for
// while something is on the move: no model leaves for a younger one. One that has room
// without that goes on.
func TestBehind_OlderFindsNoRoomYet_NoModelLeavesForAYoungerOne(t *testing.T) {
	for _, older := range []string{"a model", "a set"} {
		t.Run(older, func(t *testing.T) {
			b := newBench(t, 12, 0, sized("a", 5), sized("b", 5), sized("c", 5), sized("tiny", 2), sized("whole", 12), sized("x", 6), sized("y", 6)).wholes()
			b.c.opt.Loads = 9
			b.load("b")
			b.join("a")
			b.step() // a is loading
			var first *Waiter
			if older == "a model" {
				first = b.join("whole")
				b.step()
			} else {
				first = b.joinSet("x", "y")
			}
			b.now = b.now.Add(2 * time.Second)
			b.step()
			b.log = nil
			first.demand.notBefore = b.now.Add(attemptPause) // though it has tried often
			b.join("c")
			tiny := b.join("tiny")
			b.step()
			b.wantLog("tiny storage→ram keep 0")
			b.arrives("tiny")
			b.now = b.now.Add(attemptPause)
			b.arrives("a")
			b.release("a")
			b.release("tiny")
			for b.step(); !slices.Contains(b.granted, first); b.step() {
				b.finish(Outcome{})
			}
			if !slices.Contains(b.granted, tiny) || b.entry("c").Tier() != tier.Storage {
				t.Errorf("c is in %v", b.entry("c").Tier())
			}
		})
	}
}

// A set that does not fit in ram has its largest models in swap, if they can be served
// there, and their runtime bytes are charged when all are granted.
func TestSet_LargerThanRAM_LargestIsServedInPlace(t *testing.T) {
	large := sized("large", 8)
	large.Runtime = 2
	b := newBench(t, 10, 10, sized("a", 6), large)
	w := b.joinSet("a", "large")
	for ; len(b.started) > 0; b.step() {
		b.finish(Outcome{})
	}
	if !slices.Contains(b.granted, w) || b.entry("a").Tier() != tier.RAM || b.entry("large").Tier() != tier.Swap || !b.entry("large").serving {
		t.Fatalf("a in %v, large in %v: %v", b.entry("a").Tier(), b.entry("large").Tier(), b.refused[w])
	}
	if charged, _ := b.ram(); charged != 8 {
		t.Errorf("%d charged", charged)
	}
	b.release("a")
	b.release("large")
	b.step()
	if charged, _ := b.ram(); charged != 6 {
		t.Errorf("%d charged when nothing is leased", charged)
	}
	// From where they are: the runtime bytes are charged again.
	if again := b.joinSet("large", "a"); !slices.Contains(b.granted, again) {
		t.Errorf("not served from where they are: %v, log %q", b.refused[again], b.log)
	}
}

func TestSet_CannotCoexist_TooLarge(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6), sized("b", 5)).wholes()
	w := b.joinSet("a", "b")
	ce, ok := errors.AsType[*tier.CapacityError](b.refused[w])
	if !ok || !ce.Never || ce.Need != 11 || ce.Limit != 10 || len(b.c.demands) > 0 {
		t.Errorf("%+v", b.refused[w])
	}
}

func TestSet_TooManyWait_Busy(t *testing.T) {
	var models []tier.Model
	for i := range maxSets + 2 {
		models = append(models, sized(fmt.Sprint(i), 1))
	}
	b := newBench(t, 1000, 0, models...).wholes()
	b.plan = func(*tier.View, *tier.Need) tier.Plan { return tier.Plan{Err: tier.ErrNoCapacity} }
	b.load0("0")
	b.c.opt.MaxQueueModel = 2
	for i := range maxSets {
		if w := b.joinSet("0", fmt.Sprint(i+1)); b.refused[w] != nil {
			t.Fatalf("set %d: %v", i, b.refused[w])
		}
	}
	if w := b.joinSet("0", fmt.Sprint(maxSets+1)); !errors.Is(b.refused[w], tier.ErrBusy) {
		t.Errorf("one set more: %v", b.refused[w])
	}
	if w := b.joinSet("1", "0"); b.refused[w] != nil { // one that is waited for
		t.Errorf("the same set: %v", b.refused[w])
	}
	if w := b.joinSet("0", "1"); !errors.Is(b.refused[w], tier.ErrBusy) {
		t.Errorf("a third for the same set: %v", b.refused[w])
	}
}

// load0 has a load of the model run, and its lease held: others may wait for that.
func (b *bench) load0(name string) {
	plan := b.plan
	b.plan = b.toRAM
	b.join(name)
	b.step()
	b.plan = plan
}
