package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

// outside asks for room.
func (b *bench) outside(id string, bytes tier.Bytes, lifetime time.Duration) *Waiter {
	w := &Waiter{Outsider: &Outsider{ID: id, Bytes: bytes, For: lifetime}, Since: b.now, Claim: func() bool { return true }}
	b.c.JoinOutsider(w, b.now)
	b.step()
	return w
}

// given asks for room that must be given at once.
func (b *bench) given(id string, bytes tier.Bytes) *Outsider {
	b.t.Helper()
	w := b.outside(id, bytes, 0)
	if !slices.Contains(b.granted, w) {
		b.t.Fatalf("%s has no room: %v", id, b.refused[w])
	}
	return w.Outsider
}

// read has the core read that much available memory.
func (b *bench) read(available tier.Bytes) {
	b.memory.Available = available
	b.c.Reading(b.memory, nil, nil, b.now)
	b.step()
}

func (b *bench) wantUntaken(want tier.Bytes) {
	b.t.Helper()
	if got := b.c.Promise().Outside; got != want {
		b.t.Fatalf("%d are not taken, want %d", got, want)
	}
}

func TestOutsider_ModelHasTheRoom_LeavesBeforeItIsGiven(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6), sized("b", 3))
	b.load("a", "b")
	w := b.outside("o", 4, 0)
	if len(b.granted) > 2 || len(b.started) != 1 {
		t.Fatalf("%d granted, log %q", len(b.granted), b.log)
	}
	b.finish(Outcome{})
	if b.step(); !slices.Contains(b.granted, w) {
		t.Fatalf("not given: %v", b.refused[w])
	}
	if charged, free := b.ram(); charged != 7 || free != 3 {
		t.Errorf("%d charged, %d free", charged, free)
	}
	b.c.TakeBack(w.Outsider, nil, b.now)
	if b.step(); b.c.TakeBack(w.Outsider, nil, b.now) {
		t.Error("taken back twice")
	}
	if charged, _ := b.ram(); charged != 3 {
		t.Errorf("%d charged afterwards", charged)
	}
}

// What its victims leave is the outsider's, though another could use it.
func TestOutsider_VictimsLeaveOneByOne_OthersDoNotGetTheirRoom(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 5), sized("b", 5), sized("c", 4))
	b.load("a", "b")
	w := b.outside("o", 10, 0)
	b.finish(Outcome{})
	b.step()
	c := b.join("c")
	b.step()
	for len(b.started) > 0 {
		b.finish(Outcome{})
		b.step()
	}
	if !slices.Contains(b.granted, w) || !errors.Is(b.refused[c], tier.ErrNoCapacity) {
		t.Errorf("the outsider got %v, the other %v; log %q", b.refused[w], b.refused[c], b.log)
	}
}

func TestOutsider_TimeIsUp_RoomIsTakenBackThen(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6))
	b.outside("o", 8, time.Minute)
	if wake := b.step(); !wake.Equal(b.now.Add(time.Minute)) {
		t.Errorf("wakes at %v", wake)
	}
	b.now = b.now.Add(time.Minute)
	actions, _ := b.c.Step(b.now)
	if len(actions) == 0 || actions[0].(RoomEnded).Err != ErrExpired {
		t.Errorf("%v", actions)
	}
	if charged, _ := b.ram(); charged != 0 {
		t.Errorf("%d charged", charged)
	}
}

func TestOutsider_LeavesWhileItWaits_NothingIsHeld(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6), sized("b", 6))
	b.load("a")
	w := b.outside("o", 6, 0)
	b.c.Leave(w)
	b.step()
	b.finish(Outcome{})
	if b.step(); len(b.c.Outsiders()) > 0 || !b.c.ledger.Charged().IsZero() {
		t.Errorf("%v", b.c.Outsiders())
	}
}

// The client leaves and the placement answers before the core is called again; the room
// came free meanwhile, without the plan.
func TestOutsider_LeavesWhileThePlacementThinks_AnswerIsDropped(t *testing.T) {
	leave := tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: sized("a", 6), From: tier.RAM, To: tier.Storage}}}}
	for name, answer := range map[string]tier.Plan{"its plan is done already": leave, "it needs no plan": {}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 10, 0, sized("a", 6), sized("b", 3))
			b.load("a", "b")
			w := &Waiter{Outsider: &Outsider{ID: "o", Bytes: 4}, Since: b.now, Claim: func() bool { return false }}
			b.c.Reading(b.memory, nil, nil, b.now)
			b.c.JoinOutsider(w, b.now)
			q := asked(t, b)
			q.demand.overtaken = maxTries // else an empty answer is asked for again
			if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Storage}, b.now); err != nil {
				t.Fatal(err)
			}
			b.step()
			b.finish(Outcome{})
			b.step()
			b.c.Reading(b.memory, nil, nil, b.now)
			b.c.Leave(w)
			b.c.Planned(q, answer, nil, b.now)
			if b.step(); len(b.c.demands) > 0 || len(b.c.outsiders) > 0 || len(b.refused) > 0 {
				t.Errorf("%d demands, %d outsiders, %d refused", len(b.c.demands), len(b.c.outsiders), len(b.refused))
			}
		})
	}
}

// asked is the question that a step asks, which is left open.
func asked(t *testing.T, b *bench) *Question {
	t.Helper()
	actions, _ := b.c.Step(b.now)
	for _, a := range actions {
		if ask, ok := a.(Ask); ok {
			return ask.Question
		}
	}
	t.Fatalf("nothing is asked: %v", actions)
	return nil
}

// Nor is a model sent away for an outsider that has left.
func TestOutsider_LeavesWhileThePlacementThinks_NoModelGivesWay(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6), sized("b", 3))
	b.load("a", "b")
	w := &Waiter{Outsider: &Outsider{ID: "o", Bytes: 4}, Since: b.now, Claim: func() bool { return false }}
	b.c.Reading(b.memory, nil, nil, b.now)
	b.c.JoinOutsider(w, b.now)
	q := asked(t, b)
	b.c.Leave(w)
	b.c.Planned(q, b.plan(&q.View, &q.Need), nil, b.now)
	if b.step(); len(b.started) > 0 || len(b.c.demands) > 0 {
		t.Errorf("%d moves, %d demands", len(b.started), len(b.c.demands))
	}
}

func TestOutsider_LeavesBeforeAllHaveGivenWay_ThoseThatDidComeHome(t *testing.T) {
	home := sized("a", 6)
	home.Home = tier.RAM
	b := newBench(t, 12, 0, home, sized("b", 6))
	b.load("a", "b")
	b.entry("b").Gate.Grant()
	w := b.outside("o", 10, 0)
	b.now = b.now.Add(time.Second)
	b.step()
	b.finish(Outcome{})
	b.step() // b drains
	b.c.Leave(w)
	b.step()
	b.finish(Outcome{})
	if b.step(); b.entry("a").Tier() != tier.RAM {
		t.Errorf("a is in %v; log %q", b.entry("a").Tier(), b.log)
	}
}

func TestOutsider_LeavesWhileAModelGivesWay_ModelComesHome(t *testing.T) {
	for name, leave := range map[string]func(*bench, *Waiter){
		"the client leaves": func(b *bench, w *Waiter) { b.c.Leave(w) },
		"its time is up":    func(b *bench, w *Waiter) { b.now = w.Deadline },
	} {
		t.Run(name, func(t *testing.T) {
			home := sized("a", 6)
			home.Home = tier.RAM
			b := newBench(t, 12, 0, home)
			b.load("a")
			w := b.outside("o", 10, 0)
			w.Deadline = b.now.Add(time.Minute)
			leave(b, w)
			b.step()
			b.finish(Outcome{})
			b.step()
			if b.entry("a").Tier() != tier.Storage || len(b.started) != 1 {
				t.Fatalf("it gave way, and goes on its way home: log %q", b.log)
			}
			b.finish(Outcome{})
			if b.step(); b.entry("a").Tier() != tier.RAM {
				t.Errorf("a is in %v; log %q", b.entry("a").Tier(), b.log)
			}
		})
	}
}

func TestOutsiders_TooMany_OneMoreIsBusy(t *testing.T) {
	b := newBench(t, maxOutsiders+1, 0)
	for i := range maxOutsiders {
		b.given(fmt.Sprint(i), 1)
	}
	if w := b.outside("one more", 1, 0); !errors.Is(b.refused[w], tier.ErrBusy) {
		t.Errorf("%v", b.refused[w])
	}
}

// A load in flight may explain that less is available.
func TestUntaken_FallThatALoadMayExplain_DoesNotCountUntilItHasEnded(t *testing.T) {
	b := newBench(t, 100, 0, sized("a", 10))
	b.read(60)
	b.given("o", 20)
	b.join("a")
	b.step()
	b.read(50)
	b.wantUntaken(20)
	b.read(40)
	b.wantUntaken(10) // 10 at most are of the load
	b.finish(Outcome{})
	b.step()
	b.read(35)
	b.wantUntaken(5)
}

func TestUntaken_ModelLeaves_WhatItGivesBackIsNoFall(t *testing.T) {
	b := newBench(t, 100, 0, sized("a", 10))
	b.load("a")
	b.read(50)
	b.given("o", 20)
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry("a"), To: tier.Storage}, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{})
	b.read(50) // read before it had gone, told afterwards
	b.wantUntaken(20)
	b.read(60)
	b.wantUntaken(20)
	b.read(45)
	b.wantUntaken(5)
}

// What it takes is reckoned from a reading that shows what its victims left.
func TestUntaken_ModelGaveWayForIt_CountedOnce(t *testing.T) {
	b := newBench(t, 15, 0, sized("a", 10))
	b.load("a")
	b.read(50)
	w := b.outside("o", 10, 0)
	b.memory.Available = 60
	b.finish(Outcome{})
	if b.step(); !slices.Contains(b.granted, w) {
		t.Fatalf("not given: %v", b.refused[w])
	}
	b.wantUntaken(10)
	b.read(50)
	b.wantUntaken(0)
}

func TestUntaken_OthersGiveMemoryBack_CountsAsTheOutsiders(t *testing.T) {
	b := newBench(t, 100, 0)
	b.read(60)
	b.given("o", 20)
	b.read(40)
	b.wantUntaken(0)
	b.read(47)
	b.wantUntaken(7)
	b.read(90)
	b.wantUntaken(20)
	b.read(10)
	b.wantUntaken(0)
}

// A reading older than the last one says nothing.
func TestUntaken_ReadingIsOlderThanTheLast_IsLeftAsItWas(t *testing.T) {
	b := newBench(t, 100, 0)
	b.read(60)
	b.given("o", 20)
	b.memory.At = b.now.Add(-time.Second)
	b.read(40)
	b.wantUntaken(20)
}

// The game has taken all of its memory; a second outsider comes and goes.
func TestUntaken_SecondOutsiderComesAndGoes_FirstIsCountedOnceStill(t *testing.T) {
	for name, takes := range map[string]tier.Bytes{"it took all": 10, "it took nothing": 0} {
		b := newBench(t, 100, 0)
		b.read(60)
		b.given("game", 20)
		b.read(40)
		o := b.given("o", 10)
		b.wantUntaken(10)
		b.read(40 - takes)
		b.wantUntaken(10 - takes)
		b.c.TakeBack(o, nil, b.now)
		b.wantUntaken(0)
		b.read(40)
		if b.wantUntaken(0); t.Failed() {
			t.Fatal(name)
		}
	}
}

// send has a model go where its owner says.
func (b *bench) send(name string, to tier.Tier) {
	b.t.Helper()
	if err := b.c.MoveTo(&Order{Kind: MoveTier, Entry: b.entry(name), To: to}, b.now); err != nil {
		b.t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{})
}

// What was charged and never taken does not come back when the models leave.
func TestUntaken_ModelsThatTookLessThanTheirChargeLeave_OutsiderHasTakenNothing(t *testing.T) {
	b := newBench(t, 1000, 0, sized("a", 100), sized("b", 100), sized("c", 100))
	b.load("a", "b", "c")
	available := tier.Bytes(500)
	b.read(available) // each takes 80
	b.given("o", 50)
	for _, name := range []string{"a", "b", "c"} {
		b.send(name, tier.Storage)
		b.read(available) // read before it had gone, told afterwards
		available += 80
		b.read(available)
		b.wantUntaken(50)
	}
	b.read(available - 30)
	b.wantUntaken(20)
}

// Models that come and go do not have its memory kept free a second time, nor count for it.
func TestUntaken_ModelsThatTakeLessThanTheirChargeTakeTurns_StaysAsItWas(t *testing.T) {
	for taken, want := range map[tier.Bytes]tier.Bytes{50: 0, 20: 30} {
		b := newBench(t, 1000, 0, sized("a", 100), sized("b", 100))
		b.load("a")
		b.read(500) // a takes 70, b is to take 90
		b.given("o", 50)
		b.read(500 - taken)
		for range 5 {
			for _, one := range []struct {
				goes, comes string
				left        tier.Bytes
			}{{"a", "b", 480}, {"b", "a", 500}} {
				b.send(one.goes, tier.Storage)
				b.send(one.comes, tier.RAM)
				b.read(one.left - taken)
				b.read(one.left - taken)
				b.wantUntaken(want)
			}
		}
	}
}

// The judgement of pressure goes by the reading that it is for.
func TestPressurePromise_OutsiderHasTakenItsRoom_NotCountedTwice(t *testing.T) {
	b := newBench(t, 100, 0)
	b.read(60)
	b.given("o", 20)
	now := b.memory
	now.Available = 45
	if p := b.c.PressurePromise(&now, 0); p.Outside != 5 {
		t.Errorf("%d are not taken", p.Outside)
	}
	b.wantUntaken(20) // until the reading is told
}

// As long as other programs neither take nor give memory, models take no more later than
// when they come, and outsiders give none back while models come and go, no less is kept
// free than outsiders may still take and moves still bring; with one outsider, while
// nothing moves and models take what they are charged, its part of that is exact.
func TestUntaken_Anything_NeverLessThanIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const total = 1000
		b := newBench(t, 300, 0, sized("a", 40), sized("b", 70), sized("c", 100))
		takes := map[*Outsider]tier.Bytes{}
		spared := map[string]tier.Bytes{} // of what the models are charged
		spares := rapid.Bool().Draw(t, "models take less")
		if spares {
			for _, e := range b.c.entries {
				spared[e.Model.Name] = tier.Bytes(rapid.Int64Range(0, int64(e.Model.Size)).Draw(t, "spared by "+e.Model.Name))
			}
		}
		exact := !spares      // one outsider at a time so far, which took nothing while models moved
		var coming tier.Bytes // that moves have not brought yet
		look := func() {
			free := tier.Bytes(total)
			coming = 0
			for _, n := range takes {
				free -= n
			}
			for _, e := range b.c.entries {
				least, most := e.charge[tier.RAM], e.charge[tier.RAM]
				if m := e.move; m != nil {
					most += m.Held()[tier.RAM]
					if m.Down() {
						least = 0
					}
				}
				present := tier.Bytes(rapid.Int64Range(int64(least), int64(most)).Draw(t, "present of "+e.Model.Name))
				if coming += most - max(present, e.charge[tier.RAM]); e.move == nil {
					present = most
				}
				present = max(present-spared[e.Model.Name], 0)
				free -= present
			}
			b.memory.Available = free
		}
		truth := func() (untaken tier.Bytes) {
			for _, o := range b.c.outsiders {
				untaken += o.Bytes - takes[o]
			}
			return untaken
		}
		read := func() {
			look()
			b.c.Reading(b.memory, nil, nil, b.now)
		}
		rested := func() bool {
			g := &b.c.takings
			return len(b.c.moves) == 0 && g.gone == 0 && g.came == 0
		}
		step := func() {
			look()
			b.step()
		}
		pick := func() *Outsider {
			if len(b.c.outsiders) == 0 {
				return nil
			}
			return b.c.outsiders[rapid.IntRange(0, len(b.c.outsiders)-1).Draw(t, "who")]
		}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"read": func(t *rapid.T) {
				read()
				b.step()
				p := b.c.Promise()
				if want := truth(); p.Outside+p.Unseen < want+coming {
					t.Fatalf("%d of the room are not taken and %d are coming, %d and %d are reckoned with", want, coming, p.Outside, p.Unseen)
				}
				exact = exact || !spares && len(b.c.outsiders) == 0 && len(b.c.demands) == 0
			},
			"read twice, at rest": func(t *rapid.T) {
				if len(b.c.moves) > 0 {
					return
				}
				read()
				read()
				if got, want := b.c.Promise().Outside, truth(); exact && got != want {
					t.Fatalf("%d of the room are not taken, %d are reckoned with", want, got)
				}
			},
			"reserve": func(t *rapid.T) {
				look()
				n++
				lifetime := rapid.SampledFrom([]time.Duration{0, 0, 5 * time.Second}).Draw(t, "lifetime")
				if spares {
					lifetime = 0 // it would end while models move
				}
				alone := len(b.c.moves) == 0 && len(b.c.outsiders) == 0
				b.outside(fmt.Sprint(n), tier.Bytes(rapid.IntRange(1, 200).Draw(t, "bytes")), lifetime)
				exact = exact && alone && len(b.c.outsiders) == 1
			},
			"take": func(t *rapid.T) {
				if o := pick(); o != nil {
					least := tier.Bytes(0)
					if !rested() {
						least, exact = takes[o], false
					}
					takes[o] = tier.Bytes(rapid.Int64Range(int64(least), int64(o.Bytes)).Draw(t, "takes"))
					if least == 0 {
						read()
					}
				}
			},
			"release": func(t *rapid.T) {
				if o := pick(); o != nil && (!spares || rested()) {
					delete(takes, o)
					b.c.TakeBack(o, nil, b.now)
					if spares {
						read()
					}
					step()
				}
			},
			"join": func(t *rapid.T) {
				b.join(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "model"))
				step()
			},
			"leases end": func(*rapid.T) {
				for _, e := range b.c.entries {
					for e.Gate.Leases() > 0 {
						b.release(e.Model.Name)
					}
				}
				step()
			},
			"move ends": func(t *rapid.T) {
				if len(b.started) > 0 {
					out := Outcome{}
					if rapid.IntRange(0, 4).Draw(t, "fails") == 4 {
						out.Err = errors.New("the disk said no")
					}
					b.finish(out)
					step()
				}
			},
			"time passes": func(t *rapid.T) {
				b.now = b.now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 20 * time.Second}).Draw(t, "for"))
				for o := range takes { // those whose time is up have freed their memory
					if !o.Until.IsZero() && !b.now.Before(o.Until) {
						delete(takes, o)
					}
				}
				step()
			},
		})
		for len(b.c.outsiders) > 0 {
			b.c.TakeBack(b.c.outsiders[0], nil, b.now)
		}
		if err := b.c.Check(); err != nil {
			t.Fatal(err)
		}
		var models tier.Footprint
		for e := range b.c.charged {
			models = models.Plus(e.charge)
		}
		if got := b.c.ledger.Charged(); got != models || b.c.Promise().Outside != 0 {
			t.Fatalf("with no outsider %v are charged, %v of it to models, and %v kept free", got, models, b.c.Promise().Outside)
		}
	})
}
