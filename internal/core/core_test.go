package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// fakeGate is a gate without other goroutines.
type fakeGate struct {
	open, watched bool
	leases        int
	uses          uint64
}

func (g *fakeGate) Open()         { g.open = true }
func (g *fakeGate) Close() int    { g.open = false; return g.leases }
func (g *fakeGate) Leases() int   { return g.leases }
func (g *fakeGate) Grant()        { g.leases++; g.uses++ }
func (g *fakeGate) Watch(on bool) { g.watched = on }
func (g *fakeGate) Uses() uint64  { return g.uses }

// reporter is a *testing.T or a *rapid.T.
type reporter interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// bench drives a core by hand: it carries moves out when told to, and keeps what
// the core said.
type bench struct {
	t       reporter
	c       *Core
	now     time.Time
	plan    func(*tier.View, *tier.Need) tier.Plan
	started []*Move
	granted []*Waiter
	refused map[*Waiter]error
	ended   map[*Order]error
	limits  []LimitsDone
	cancels []*Move
	log     []string
}

func newBench(t reporter, ram, swap tier.Bytes, models ...tier.Model) *bench {
	b := &bench{t: t, now: time.Unix(1_700_000_000, 0), refused: map[*Waiter]error{}, ended: map[*Order]error{}}
	b.c = New(tier.Limits{RAM: ram, Swap: swap, Reserved: 1, MaxModel: tier.Unlimited}, Options{
		Protection: tier.Protection{Fairness: time.Second, Grace: 50 * time.Millisecond},
		Loads:      1, Fresh: 100 * time.Millisecond, Stale: 5 * time.Second, StallAfter: time.Hour, StuckAfter: 10 * time.Second,
		FileBacked: true,
		Room:       func(p Promise) tier.Footprint { return p.Free },
		Admit: func(p Promise, m *tier.Model, need tier.Footprint, _ bool) error {
			if need.Within(p.Free) {
				return nil
			}
			return &tier.CapacityError{Model: m.Name, Tier: tier.RAM, Need: need[tier.RAM], Free: p.Free[tier.RAM]}
		},
	})
	b.add(models...)
	b.plan = b.toRAM
	return b
}

// all is what the most able of movers says of a model.
var all = Traits{Divisible: true, Leaves: true, InPlace: true}

func newGate(*Entry) Gate { return &fakeGate{} }

// add puts models into the library, in storage.
func (b *bench) add(models ...tier.Model) {
	b.t.Helper()
	if err := b.c.Add(models, slices.Repeat([]Traits{all}, len(models)), newGate, false); err != nil {
		b.t.Fatal(err)
	}
}

// traits has all models be like that.
func (b *bench) traits(t Traits) {
	for _, e := range b.c.entries {
		e.traits = t
	}
}

// toRAM is the plainest placement: idle models leave for storage in order until
// the wanted one fits.
func (b *bench) toRAM(v *tier.View, need *tier.Need) tier.Plan {
	if need == nil {
		return tier.Plan{}
	}
	room, want := v.Room, need.Room
	if need.Model != tier.NoModel {
		want = v.Library.At(need.Model).Footprint(tier.RAM, 0, true).Beyond(v.Footprint(need.Model)).Plus(need.Room)
	}
	var p tier.Plan
	for i := range v.States {
		if want.Within(room) {
			break
		}
		if i != need.Model && (v.Evictable(i) || need.Patient && v.Drainable(i)) {
			room = room.Plus(v.Footprint(i))
			p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(i), To: tier.Storage}})
		}
	}
	if !want.Within(room) {
		return tier.Plan{Err: &tier.CapacityError{Need: want[tier.RAM], Free: room[tier.RAM]}}
	}
	if need.Model != tier.NoModel {
		p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.RAM}})
	}
	return p
}

// step lets the core go on until it has nothing to say.
func (b *bench) step() time.Time {
	b.t.Helper()
	for {
		actions, wake := b.c.Step(b.now)
		if err := b.c.Check(); err != nil {
			b.t.Fatal(err)
		}
		if len(actions) == 0 {
			return wake
		}
		for _, a := range actions {
			switch a := a.(type) {
			case Start:
				b.started = append(b.started, a.Move)
				b.log = append(b.log, fmt.Sprintf("%s %v→%v keep %d", a.Move.Model.Name, a.Move.From, a.Move.To, a.Move.Keep))
			case Cancel:
				b.cancels = append(b.cancels, a.Move)
			case Granted:
				b.granted = append(b.granted, a.Waiter)
			case Refused:
				b.refused[a.Waiter] = a.Err
			case OrderDone:
				b.ended[a.Order] = a.Err
			case LimitsDone:
				b.limits = append(b.limits, a)
			case Ask:
				need := &a.Question.Need
				if a.Question.Idle {
					need = nil
				}
				b.c.Planned(a.Question, b.plan(&a.Question.View, need), nil, b.now)
			case Read:
				b.c.Reading(tier.Memory{Available: tier.Unlimited}, nil, nil, b.now)
			}
		}
	}
}

func (b *bench) entry(name string) *Entry {
	e, ok := b.c.Find(name)
	if !ok {
		b.t.Fatalf("%s is not known", name)
	}
	return e
}

func (b *bench) join(name string) *Waiter {
	w := &Waiter{Entry: b.entry(name), Since: b.now, Claim: func() bool { return true }}
	b.c.Join(w, b.now)
	return w
}

// finish ends the oldest move that runs.
func (b *bench) finish(out Outcome) *Move {
	b.t.Helper()
	if len(b.started) == 0 {
		b.t.Fatal("no move runs")
	}
	m := b.started[0]
	b.started = b.started[1:]
	b.c.MoveEnded(m, out, b.now)
	return m
}

func (b *bench) release(name string) {
	e := b.entry(name)
	e.Gate.(*fakeGate).leases--
	b.c.Released(e)
}

// load brings a model to ram and leaves it idle.
func (b *bench) load(names ...string) {
	b.t.Helper()
	for _, name := range names {
		b.join(name)
		b.step()
		b.finish(Outcome{})
		b.step()
		b.release(name)
		b.step()
	}
}

func sized(name string, size tier.Bytes) tier.Model { return tier.Model{Name: name, Size: size} }

func TestStep_RequestForAModelInStorage_ReservesBeforeItStartsAndGrantsInTheSameStep(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	w := b.join("a")
	b.step()
	if got := b.c.ledger.Reserved()[tier.RAM]; len(b.started) != 1 || got != 6 {
		t.Fatalf("started %d moves with %v reserved", len(b.started), got)
	}
	b.finish(Outcome{})
	if b.step(); len(b.granted) != 1 || b.granted[0] != w || b.entry("a").Gate.Leases() != 1 || !w.Moved {
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
		t.Fatal("a is closed before its time, or nobody tells when it is free")
	}
	if want := w.Since.Add(time.Second); !wake.Equal(want) {
		t.Fatalf("wakes at %v, want %v", wake, want)
	}
	b.now = wake
	b.step()
	if b.entry("a").Gate.(*fakeGate).open || len(b.started) != 0 {
		t.Fatal("a does not drain, or leaves under its lease")
	}
	again := b.join("a") // has to wait now: never both
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
		t.Error("a's own waiter was forgotten")
	}
}

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

func TestStep_MoveThatNobodyWaitsFor_IsCalledOffForOneWhoDoes(t *testing.T) {
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

// Two models change places in tiers with one byte to spare: each hop has just the
// room that the one before it made.
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

// A step that cannot have its room leaves its model where it is, unless it was to
// make room: only then is storage the next best place.
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

func TestPlanned_PlanThatCannotBe_IsRefusedAfterSomeAttempts(t *testing.T) {
	for name, p := range map[string]func(v *tier.View) tier.Plan{
		"nothing": func(*tier.View) tier.Plan { return tier.Plan{} },
		"nobody":  func(*tier.View) tier.Plan { return tier.Plan{Steps: []tier.Step{{Move: tier.Move{To: tier.RAM}}}} },
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

func TestLose_SoonAfterEachLoad_IsLeftAloneForAWhile(t *testing.T) {
	b := newBench(t, 10, 10, sized("a", 6))
	crash := errors.New("it crashed")
	lose := func() {
		t.Helper()
		b.load("a")
		for range 2 { // it may be told twice
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
	b.now = b.now.Add(crashSoon) // it has lived
	b.c.Crash(b.entry("a"), crash, b.now)
	b.step()
	b.finish(Outcome{})
	b.step()
	b.load("a")
}

// A move home that was called off comes back while somebody waits for its model.
func TestHome_CalledOffAndAskedForMeanwhile_IsNotMovedUnderALease(t *testing.T) {
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
	for len(b.c.running) > 0 && len(b.granted) == 0 {
		b.c.MoveEnded(b.c.running[0], Outcome{}, b.now)
		b.step()
	}
	if len(b.granted) == 0 {
		t.Fatal("nobody was served")
	}
	if e.move != nil && e.Gate.Leases() > 0 {
		t.Errorf("it moves from %v to %v under a lease", e.move.From, e.move.To)
	}
}

// A probe that goes by an older look does not show what was charged since.
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

// seen is a move that went well, with that many bytes present after it.
func seen(present tier.Bytes) Outcome {
	out := Outcome{Observed: true}
	out.Present = present
	return out
}

// The bytes that a lease from swap runs on were to come from weights that are kept.
// As long as those are seen to be there, there is nothing to run on.
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

// view is the picture of now.
func (b *bench) view() *tier.View {
	v := b.c.View(b.now)
	return &v
}
