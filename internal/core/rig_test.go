package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// fakeGate is a gate without other goroutines.
type fakeGate struct {
	open, watched bool
	leases        int
	uses          uint64
	timed         bool
	ended         time.Time
}

func (g *fakeGate) Open()         { g.open = true }
func (g *fakeGate) Close() int    { g.open = false; return g.leases }
func (g *fakeGate) Leases() int   { return g.leases }
func (g *fakeGate) Grant()        { g.leases++; g.uses++ }
func (g *fakeGate) Watch(on bool) { g.watched = on }
func (g *fakeGate) Uses() uint64  { return g.uses }
func (g *fakeGate) Time(on bool)  { g.timed = on }

func (g *fakeGate) Ended() time.Time { return g.ended }

// reporter is a *testing.T or a *rapid.T.
type reporter interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// bench drives a core by hand: it carries out moves when told to and records the
// core's actions.
type bench struct {
	t       reporter
	c       *Core
	now     time.Time
	memory  tier.Memory // what a reading shows
	plan    func(*tier.View, *tier.Need) tier.Plan
	started []*Move
	granted []*Waiter
	refused map[*Waiter]error
	ended   map[*Order]error
	limits  []LimitsDone
	cancels []*Move
	urged   []*Move
	evicted int
	log     []string
	drop    Drop // of the last move
}

// add puts models into the library, in storage.
func (b *bench) add(models ...tier.Model) {
	b.t.Helper()
	if err := b.c.Add(models, slices.Repeat([]Traits{all}, len(models)), false); err != nil {
		b.t.Fatal(err)
	}
}

// traits sets the traits of all models.
func (b *bench) traits(t Traits) {
	t.FileBacked, t.Observed = true, true
	for _, e := range b.c.entries {
		e.traits = t
	}
}

// toRAM is a simple placement: idle models leave for storage in order until the
// wanted one fits.
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

// step calls Step until there are no actions.
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
		if wake.IsZero() || wake.After(b.now) { // what is left undone may wait for long
			more, _ := b.c.Step(b.now)
			for _, a := range more {
				if _, reads := a.(Read); !reads {
					b.t.Fatalf("called again at the same instant, Step has more to do: %T %+v", a, a)
				}
			}
		}
		for _, a := range actions {
			switch a := a.(type) {
			case Start:
				b.started = append(b.started, a.Move)
				b.drop = a.Drop
				b.log = append(b.log, fmt.Sprintf("%s %v→%v keep %d", a.Move.Model.Name, a.Move.From, a.Move.To, a.Move.Keep))
			case Cancel:
				b.cancels = append(b.cancels, a.Move)
			case Urge:
				b.urged = append(b.urged, a.Move)
			case Evicted:
				b.evicted++
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
				b.c.Reading(b.memory, nil, nil, b.now)
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
	b.end(e)
	b.c.Released(e)
}

// end ends a lease. The core hears of it only by way of the gate.
func (b *bench) end(e *Entry) {
	g := e.Gate.(*fakeGate)
	if g.leases--; g.timed {
		g.ended = b.now
	}
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

func newBench(t reporter, ram, swap tier.Bytes, models ...tier.Model) *bench {
	b := &bench{t: t, now: time.Unix(1_700_000_000, 0), memory: tier.Memory{Available: tier.Unlimited}, refused: map[*Waiter]error{}, ended: map[*Order]error{}}
	b.c = New(tier.Limits{RAM: ram, Swap: swap, Reserved: 1, MaxModel: tier.Unlimited}, Options{
		Protection: tier.Protection{Fairness: time.Second, Grace: 50 * time.Millisecond},
		Loads:      1, Fresh: 100 * time.Millisecond, Stale: 5 * time.Second, StallAfter: time.Hour, StuckAfter: 10 * time.Second,
		FileBacked: true, NewGate: func(*Entry) Gate { return &fakeGate{} },
		Room: func(p Promise) tier.Footprint { return p.Free },
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

// all are the traits of the most capable mover.
var all = Traits{Divisible: true, Leaves: true, InPlace: true, FileBacked: true, Observed: true}

func sized(name string, size tier.Bytes) tier.Model { return tier.Model{Name: name, Size: size} }

// other returns a model of that name with other weights and capabilities.
func other(name string, size tier.Bytes) *tier.Model {
	m := sized(name, size)
	m.Capabilities = []string{"vision"}
	return &m
}

// seen is the outcome of a move that succeeded with that many bytes present.
func seen(present tier.Bytes) Outcome {
	out := Outcome{Observed: true}
	out.Present = present
	return out
}

// wholes makes all models indivisible and served from ram only, as engines are.
func (b *bench) wholes() *bench {
	b.traits(Traits{})
	return b
}

// taking ends the oldest move; its model is observed to take that much.
func (b *bench) taking(now, peak tier.Bytes) {
	b.t.Helper()
	b.finish(Outcome{Seen: Seen{Taken: now, Peak: peak}})
	b.step()
}

func (b *bench) ram() (charged, free tier.Bytes) {
	return b.c.ledger.Charged()[tier.RAM], b.c.Promise().Free[tier.RAM]
}

// view is the picture of now.
func (b *bench) view() *tier.View {
	v := b.c.View(b.now)
	return &v
}
