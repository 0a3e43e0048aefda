package core

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// keeping returns the model with that KeepAlive.
func keeping(m tier.Model, d time.Duration) tier.Model { m.KeepAlive = d; return m }

// pass lets time pass: whenever the core wants to look again, it does.
func (b *bench) pass(d time.Duration) (looks int) {
	b.t.Helper()
	end := b.now.Add(d)
	for wake := b.step(); !wake.IsZero() && !wake.After(end); wake = b.step() {
		b.now = wake
		looks++
	}
	b.now = end
	b.step()
	if err := b.c.CheckIdle(b.now); err != nil {
		b.t.Fatal(err)
	}
	return looks
}

func (b *bench) wantLog(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.log, want) {
		b.t.Fatalf("moves %q, want %q", b.log, want)
	}
}

func TestKeepAlive_LeaseEndsUnheard_LeavesInTime(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), time.Minute))
	e := b.entry("a")
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.pass(150 * time.Second)
	b.end(e) // the core is not told
	if looks := b.pass(time.Minute - 1); looks > 3 {
		t.Errorf("it looked %d times within a minute", looks)
	}
	b.wantLog("a storage→ram keep 0")
	b.pass(1)
	b.wantLog("a storage→ram keep 0", "a ram→swap keep 0")
	if e.Gate.(*fakeGate).open || e.Gate.(*fakeGate).watched {
		t.Error("its gate is open, or tells of each lease")
	}
	b.finish(Outcome{})
	if wake := b.step(); !wake.IsZero() {
		t.Errorf("the core wants to look again at %v", wake)
	}
}

// Requests of many wishes for one model would else have all of the library described.
func TestWish_Another_LeavesEarlierAndChangesNoView(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), time.Hour))
	b.load("a")
	e := b.entry("a")
	b.c.Changed()
	for _, wish := range []time.Duration{2 * time.Hour, 0, -1, time.Minute} {
		b.c.Wish(e, wish, b.now)
		b.step()
		if b.c.Changed() {
			t.Errorf("a view is another by a wish for %v", wish)
		}
	}
	b.pass(time.Minute - 1)
	b.wantLog("a storage→ram keep 0")
	b.pass(1)
	b.wantLog("a storage→ram keep 0", "a ram→swap keep 0")
}

// Telling costs the requests that pass: only a model that leaves at once is worth it.
func TestKeepAlive_ModelsWithoutIt_AreNotTimed(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 2), time.Minute), keeping(sized("b", 2), tier.AtOnce), sized("c", 2))
	b.load("a", "c")
	b.join("b")
	b.step()
	b.finish(Outcome{})
	b.step()
	for name, want := range map[string][2]bool{"a": {true, false}, "b": {true, true}, "c": {false, false}} {
		if g := b.entry(name).Gate.(*fakeGate); g.timed != want[0] || g.watched != want[1] {
			t.Errorf("%s: timed %v, watched %v, want %v", name, g.timed, g.watched, want)
		}
	}
	b.c.Wish(b.entry("b"), -1, b.now)
	b.step()
	if g := b.entry("b").Gate.(*fakeGate); g.timed || g.watched {
		t.Error("b is timed or watched though it never leaves by idleness")
	}
}

func TestKeepAlive_ADemandIsBlockedMeanwhile_TheGateGoesOnTelling(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), tier.AtOnce), sized("b", 8)).wholes()
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step()
	w := b.join("b")
	b.step()
	b.c.Leave(w)
	b.step()
	if !b.entry("a").Gate.(*fakeGate).watched {
		t.Fatal("its gate does not tell any more")
	}
	b.release("a")
	b.step()
	b.wantLog("a storage→ram keep 0", "a ram→swap keep 0")
}

func TestKeepAlive_MoveIsCalledOff_IsTriedAgainAndLeavesNoMark(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), time.Minute))
	b.load("a")
	b.pass(time.Minute)
	b.c.CancelMove(b.started[0], errors.New("its job was cancelled"), b.now)
	b.step()
	b.finish(Outcome{Err: errors.New("its job was cancelled")})
	b.step()
	if e := b.entry("a"); e.sent || !e.Gate.(*fakeGate).open {
		t.Errorf("sent away %v, open %v", e.sent, e.Gate.(*fakeGate).open)
	}
	b.pass(backOffFirst)
	b.wantLog("a storage→ram keep 0", "a ram→swap keep 0", "a ram→swap keep 0")
}

func TestKeepAlive_WhileItDrainsOrARequestWaits_NothingHappens(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), time.Minute), sized("b", 8)).wholes()
	b.load("a")
	b.pass(50 * time.Second)
	b.join("b") // a has to leave for it
	b.step()
	b.pass(time.Minute)
	b.wantLog("a storage→ram keep 0", "a ram→storage keep 0")
	if b.evicted != 1 {
		t.Errorf("%d evictions, want the one for b", b.evicted)
	}
}

func TestKeepAlive_InTheQueueForItsHome_StaysAway(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), time.Minute))
	e := b.entry("a")
	e.Model.Home = tier.RAM
	b.c.opt.StandbyFor = time.Minute
	b.load("a")
	b.pass(time.Minute)
	b.finish(Outcome{})
	b.step()
	b.c.background = false // pressure: nothing comes home
	b.c.bringHomeLater(e)
	b.pass(time.Minute)
	b.finish(Outcome{})
	b.c.background = true
	b.pass(time.Hour)
	b.wantLog("a storage→ram keep 0", "a ram→swap keep 0", "a swap→storage keep 0")
}

// A request that comes while a model is brought home has asked for it.
func TestKeepAlive_AtOnce_ARequestJoinsItsWayHome_LeavesAfterThat(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), tier.AtOnce))
	e := b.entry("a")
	e.Model.Home = tier.RAM
	b.c.bringHomeLater(e)
	b.step()
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step()
	b.release("a")
	b.step()
	b.wantLog("a storage→ram keep 0", "a ram→swap keep 0")
}

// Requests that differ in their KeepAlive come at any rate: they change nothing for
// those who wait for room.
func TestKeepAlive_OtherWishes_BlockedDemandIsNotPlannedAgain(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 8), sized("b", 8), sized("c", 1)).wholes()
	b.load("c")
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step()
	asked, plan := 0, b.plan
	b.plan = func(v *tier.View, need *tier.Need) tier.Plan { asked++; return plan(v, need) }
	b.join("b")
	b.step()
	before := asked
	for i := range 10 {
		b.c.Wish(b.entry("c"), time.Hour+time.Duration(i%2), b.now)
		b.step()
	}
	if asked != before {
		t.Errorf("the placement was asked %d times more", asked-before)
	}
	b.c.Wish(b.entry("c"), tier.AtOnce, b.now)
	b.step()
	if got := b.log[len(b.log)-1]; got != "c ram→swap keep 0" {
		t.Errorf("the last move is %q", got)
	}
}

// No idle time in ram is none in swap: that is StandbyFor's.
func TestStandbyFor_NoKeepAliveForAll_LeavesSwap(t *testing.T) {
	for _, keep := range []time.Duration{0, -1} {
		b := newBench(t, 10, 10)
		b.c.opt.KeepAlive, b.c.opt.StandbyFor, b.c.keepAlives = keep, time.Minute, true
		b.add(sized("a", 4))
		b.load("a")
		if err := b.c.MoveTo(&Order{Entry: b.entry("a"), To: tier.Swap}, b.now); err != nil {
			t.Fatal(err)
		}
		b.step()
		b.finish(Outcome{})
		b.pass(time.Minute)
		b.wantLog("a storage→ram keep 0", "a ram→swap keep 0", "a swap→storage keep 0")
	}
}

// It leaves in the background, where it gives way to others, until a request waits for
// the end of that.
func TestKeepAlive_ARequestComesAsItLeaves_TheMoveIsUrged(t *testing.T) {
	b := newBench(t, 10, 10, keeping(sized("a", 4), time.Minute))
	b.load("a")
	b.pass(time.Minute)
	m := b.started[0]
	if !m.Background() {
		t.Error("it leaves in the foreground though no request waits")
	}
	b.join("a")
	b.step()
	if m.Background() || len(b.urged) != 1 || b.urged[0] != m {
		t.Errorf("background %v, %d moves urged", m.Background(), len(b.urged))
	}
}
