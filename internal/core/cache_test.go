package core

import (
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// cachedBench is a machine with 100 bytes of memory and models of 30 that leave their
// pages in the page cache.
func cachedBench(t *testing.T, available tier.Bytes, names ...string) *bench {
	var models []tier.Model
	for _, name := range names {
		models = append(models, sized(name, 30))
	}
	b := newBench(t, 40, 1000, models...).wholes()
	b.c.opt.Room = func(p Promise) tier.Footprint {
		p.Free[tier.RAM] = min(p.Free[tier.RAM], max(p.Memory.Available-p.Unseen, 0))
		return p.Free
	}
	b.memory.Available = available
	b.c.Reading(b.memory, nil, nil, b.now)
	return b
}

// loadAndCache loads models one after the other; each makes the one before leave.
func (b *bench) loadAndCache(names ...string) {
	for i, name := range names {
		b.now = b.now.Add(time.Second)
		b.join(name)
		b.step()
		if i > 0 {
			out := Outcome{Observed: true}
			out.Cached, out.CachedTold = 30, true
			b.finish(out)
			b.step()
		}
		b.finish(Outcome{Observed: true, Seen: Seen{Present: 30}})
		b.step()
		b.release(name)
		b.now = b.now.Add(time.Minute)
		b.step()
	}
}

// drops returns what the load of a model has dropped first.
func (b *bench) drops(name string) (d Drop) {
	b.join(name)
	for range 2 {
		b.drop = Drop{}
		b.step()
		if len(b.started) > 0 && b.started[0].To == tier.RAM {
			return b.drop
		}
		out := Outcome{Observed: true}
		out.Cached, out.CachedTold = 30, true
		b.finish(out)
	}
	b.t.Fatal("it is not loaded")
	return d
}

func namesOf(entries []*Entry) (names []string) {
	for _, e := range entries {
		names = append(names, e.Model.Name)
	}
	return names
}

func TestDrop_MemoryToSpare_NothingIsDropped(t *testing.T) {
	b := cachedBench(t, 1000, "a", "b", "c", "d")
	b.loadAndCache("a", "b", "c")
	if got := b.entry("a").Cached(); got != 30 {
		t.Errorf("%d of a are cached", got)
	}
	if d := b.drops("d"); d.Bytes != 0 || d.From != nil {
		t.Errorf("%+v", d)
	}
	v := b.c.View(b.now)
	if i, _ := v.Library.Find("a"); v.States[i].Cached != 30 {
		t.Errorf("a view says that %d are cached", v.States[i].Cached)
	}
}

// Of 100 bytes that are available, 90 are cached when d is loaded: 10 are free, and 20
// of the least recently used model's go.
func TestDrop_RoomNeeded_JustAsMuchAndOldestFirst(t *testing.T) {
	b := cachedBench(t, 1000, "a", "b", "c", "d")
	b.loadAndCache("a", "b", "c")
	b.memory.Available = 100
	b.c.Reading(b.memory, nil, nil, b.now)
	d := b.drops("d")
	if names := namesOf(d.From); d.Bytes != 20 || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("%d of %v", d.Bytes, names)
	}
	if a := b.entry("a"); a.Cached() != 10 {
		t.Errorf("another load would count on %d of a again", a.Cached())
	}
	b.c.ObservedCached(b.entry("a"), 7)
	if got := b.entry("a").Cached(); got != 7 {
		t.Errorf("after it was observed, it has %d", got)
	}
}

// The pages of the model that is loaded are the room that it needs.
func TestDrop_OwnPages_StayAndAreNotRead(t *testing.T) {
	b := cachedBench(t, 1000, "a", "b", "c")
	b.loadAndCache("a", "b", "c")
	b.memory.Available = 90 // all of it is cached, once c has left
	b.c.Reading(b.memory, nil, nil, b.now)
	d := b.drops("a")
	if names := namesOf(d.From); d.Bytes != 0 && slices.Contains(names, "a") {
		t.Errorf("%d of %v", d.Bytes, names)
	}
	if m := b.started[0]; m.Reads() != 0 || m.Bytes() != 30 {
		t.Errorf("it reads %d of %d", m.Reads(), m.Bytes())
	}
	b.finish(seen(30))
	b.step()
	if got := b.entry("a").Cached(); got != 0 {
		t.Errorf("in ram, %d of it count as cached", got)
	}
}

// In a container, file pages that others map are not promised. Those that a frozen
// engine of ours maps are.
func TestPromise_CachedPages_MayBeMappedByUs(t *testing.T) {
	b := cachedBench(t, 1000, "a", "b", "c")
	b.loadAndCache("a", "b", "c")
	if p := b.c.Promise(); p.Mapped != 60 {
		t.Errorf("%d may be mapped by ours", p.Mapped)
	}
}

func TestDropCached_UpToWhatIsAskedFor(t *testing.T) {
	b := cachedBench(t, 1000, "a", "b", "c")
	b.loadAndCache("a", "b", "c")
	if d := b.c.DropCached(40); d.Bytes != 40 || len(d.From) != 2 {
		t.Errorf("%+v", d)
	}
	if d := b.c.DropCached(40); d.Bytes != 20 {
		t.Errorf("%d are dropped of 20", d.Bytes)
	}
	if d := b.c.DropCached(40); d.Bytes != 0 || d.From != nil {
		t.Errorf("%+v", d)
	}
}

// What the mover expects is charged from the first load on; what was measured also
// where the owner declared less.
func TestForecast_ChargedFromTheFirstLoadOn(t *testing.T) {
	for _, c := range []struct {
		name     string
		declared tier.Bytes
		seen     tier.Bytes
		want     tier.Bytes // runtime
	}{
		{"Undeclared", 0, 0, 20}, {"UndeclaredSeen", 0, 60, 30}, {"Declared", 5, 0, 5},
		{"DeclaredSeen", 5, 60, 30}, {"DeclaredMore", 50, 60, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 100, 100)
			m := sized("a", 30)
			m.Runtime = c.declared
			traits := []Traits{{Takes: 50, Seen: c.seen}}
			if err := b.c.Add([]tier.Model{m}, traits, false); err != nil {
				t.Fatal(err)
			}
			b.load("a")
			if charged, _ := b.ram(); charged != 30+c.want {
				t.Errorf("%d are charged, want %d", charged, 30+c.want)
			}
			if e := b.entry("a"); e.Declared() != c.declared {
				t.Errorf("%d are said to be declared", e.Declared())
			}
		})
	}
}

// An assumption takes the whole limit rather than refuse a model that may fit.
func TestForecast_AssumedBeyondTheLimit_TakesTheLimit(t *testing.T) {
	for seen, want := range map[tier.Bytes]tier.Bytes{0: 100, 120: 0} {
		b := newBench(t, 100, 100)
		if err := b.c.Add([]tier.Model{sized("a", 90)}, []Traits{{Takes: 150, Seen: seen}}, false); err != nil {
			t.Fatal(err)
		}
		w := b.join("a")
		b.step()
		if len(b.started) > 0 {
			b.finish(Outcome{})
			b.step()
		}
		if charged, _ := b.ram(); charged != want || (b.refused[w] != nil) != (seen > 0) {
			t.Errorf("seen: %v; %d are charged, %v", seen, charged, b.refused[w])
		}
	}
}

// After several loads the mover may know that less is enough.
func TestForecast_FallsOnceTheModelHasLeft(t *testing.T) {
	b := newBench(t, 100, 100)
	if err := b.c.Add([]tier.Model{sized("a", 30)}, []Traits{{Takes: 50}}, false); err != nil {
		t.Fatal(err)
	}
	b.load("a")
	o := &Order{Entry: b.entry("a"), To: tier.Storage}
	if err := b.c.MoveTo(o, b.now); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.finish(Outcome{Traits: &Traits{Takes: 35, Seen: 35}})
	b.step()
	b.load("a")
	if charged, _ := b.ram(); charged != 35 {
		t.Errorf("%d are charged", charged)
	}
}

// What is assumed follows the limit, and what the machine has beyond the reserve: a lower
// one does not refuse the model for good, nor does it stay low when that rises again.
func TestForecast_LimitsOrMemoryChange_AssumptionFollows(t *testing.T) {
	b := newBench(t, 100, 100)
	if err := b.c.Add([]tier.Model{sized("a", 30)}, []Traits{{Takes: 90}}, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ limit, total, want tier.Bytes }{{50, 0, 50}, {100, 0, 90}, {100, 61, 60}, {100, 101, 90}} {
		if n := b.c.Limits(); n.RAM != c.limit {
			n.RAM = c.limit
			if err := b.c.SetLimits(n); err != nil {
				t.Fatal(err)
			}
		}
		b.step()
		b.memory.Total = c.total
		b.c.Reading(b.memory, nil, nil, b.now)
		b.step()
		b.load("a")
		if charged, _ := b.ram(); charged != c.want {
			t.Errorf("limit %d, %d of memory: %d are charged, want %d", c.limit, c.total, charged, c.want)
		}
		if err := b.c.MoveTo(&Order{Entry: b.entry("a"), To: tier.Storage}, b.now); err != nil {
			t.Fatal(err)
		}
		b.step()
		b.finish(Outcome{})
		b.step()
	}
}

// A load that is called off before its turn has read nothing, and was not looked at.
func TestMoveEnded_CalledOffInTheQueue_WhatIsCachedStays(t *testing.T) {
	b := newBench(t, 100, 100, sized("a", 30), sized("b", 30))
	b.c.ObservedCached(b.entry("b"), 20)
	b.join("a")
	w := b.join("b")
	b.step()
	m := b.entry("b").move
	if m == nil || m.Started() {
		t.Fatal("its load does not wait for its turn")
	}
	b.c.Leave(w)
	b.c.CancelMove(m, errCalledOff, b.now)
	b.step()
	if got := b.entry("b").Cached(); b.entry("b").move != nil || got != 20 {
		t.Errorf("%d are said to be cached", got)
	}
}
