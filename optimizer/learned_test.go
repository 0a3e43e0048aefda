package optimizer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// gigabytes is a library of models of 1 GB.
func gigabytes(t testing.TB, n int) *tier.Library {
	t.Helper()
	models := make([]tier.Model, n)
	for i := range models {
		models[i] = tier.Model{Name: fmt.Sprint("m", i), Path: "m", Size: 1e9}
	}
	lib, err := tier.NewLibrary(models)
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

// viewOf is a view of a machine that holds the first models in ram, the next in
// swap, and no more.
func viewOf(lib *tier.Library, ram, swap int) *tier.View {
	v := &tier.View{
		Now: noon, Library: lib, States: make([]tier.State, lib.Len()),
		Limits: tier.Limits{RAM: tier.Bytes(ram) * 1e9, Swap: tier.Bytes(swap) * 1e9, MaxModel: tier.Unlimited},
	}
	for i := range v.States {
		v.States[i] = tier.State{Divisible: true, Leaves: true, InPlace: true}
		switch {
		case i < ram:
			v.States[i].Tier = tier.RAM
		case i < ram+swap:
			v.States[i].Tier = tier.Swap
		}
		v.Charged = v.Charged.Plus(v.Footprint(i))
	}
	v.Room = tier.Footprint{tier.Swap: v.Limits.Swap, tier.RAM: v.Limits.RAM}.Minus(v.Charged)
	return v
}

// used tells a placement of requests for those models, one a minute until noon.
func used(l *Learned, models ...int) {
	for k, i := range models {
		l.Accessed([]tier.Access{{Model: fmt.Sprint("m", i), At: noon.Add(time.Duration(k-len(models)) * time.Minute)}})
	}
}

// Run with -race.
func TestLearned_AllMethodsAtOnce_DoNotRace(t *testing.T) {
	lib := gigabytes(t, 12)
	l := New()
	state, err := l.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, call := range []func(k int){
		func(k int) { l.Plan(viewOf(lib, 3, 4), &tier.Need{Model: k % 12, Waiters: 1}) },
		func(k int) { l.Plan(viewOf(lib, 3, 4), nil) },
		func(k int) { l.Worth(viewOf(lib, 3, 4)) },
		func(k int) { used(l, k%12, (k+1)%12) },
		func(k int) {
			l.Moved([]tier.Moved{{Move: tier.Move{Model: *lib.At(k % 12), To: tier.RAM}, Bytes: 1e9, Took: time.Second}})
		},
		func(k int) { l.Hint(fmt.Sprint("m", k%12), 0.5, time.Minute, noon) },
		func(k int) { l.Predict(lib.At(k%12), tier.Storage, tier.RAM, 1e9) },
		func(k int) { l.Usage(fmt.Sprint("m", k%12), noon) },
		func(k int) { l.Insight() },
		func(k int) { l.PartStatus() },
		func(k int) { l.MarshalBinary() },
		func(k int) {
			if k == 10 {
				l.UnmarshalBinary(state)
			}
		},
	} {
		all.Go(func() {
			for k := range 50 {
				call(k)
			}
		})
	}
	all.Wait()
}

func TestPartStatus_WhileAPlanTakesLong_TellsWhatWasKnownBefore(t *testing.T) {
	l := New()
	l.Plan(viewOf(gigabytes(t, 4), 1, 1), nil)
	used(l, 0, 1, 0, 2)
	l.mu.Lock() // as a plan does
	defer l.mu.Unlock()
	told := make(chan any, 1)
	go func() { told <- l.PartStatus() }()
	select {
	case status := <-told:
		if got, ok := status.(Insight); !ok || got.Requests != 4 {
			t.Errorf("%+v, want 4 requests", status)
		}
		if _, err := json.Marshal(status); err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("waited for the plan")
	}
}

func TestPlan_EveryStep_SaysWhyByAStableWord(t *testing.T) {
	lib := gigabytes(t, 8)
	l := New()
	v := viewOf(lib, 2, 2)
	l.Plan(v, nil)
	used(l, 0, 1, 7, 0, 1, 7, 7, 7, 0, 7)
	plan := l.Plan(v, &tier.Need{Model: 6, Waiters: 1})
	if plan.Err != nil {
		t.Fatal(plan.Err)
	}
	reasons := func(plan tier.Plan) map[tier.Reason]bool {
		got := map[tier.Reason]bool{}
		for _, s := range plan.Steps {
			got[s.Reason] = true
			if s.Why == "" {
				t.Errorf("%s: no details", s.Model.Name)
			}
		}
		return got
	}
	for _, s := range plan.Steps {
		if want := s.Model.Name == "m6"; (s.Reason == tier.ReasonDemand) != want || !want && s.Reason != tier.ReasonRoom {
			t.Errorf("%s from %v to %v: %q, while m6 is wanted", s.Model.Name, s.From, s.To, s.Reason)
		}
	}
	if got := reasons(plan); !got[tier.ReasonDemand] || !got[tier.ReasonRoom] {
		t.Errorf("reasons %v, want demand and room", got)
	}
	// m7 is asked for most and is in storage; m3 never was and is in swap.
	if got := reasons(l.Plan(v, nil)); !got[tier.ReasonPrefetch] || !got[tier.ReasonRebalance] || len(got) != 2 {
		t.Errorf("reasons %v while no request waits, want prefetch and rebalance", got)
	}
	if got := reasons(new(LRU).Plan(v, &tier.Need{Model: 6, Waiters: 1})); !got[tier.ReasonDemand] || !got[tier.ReasonRoom] {
		t.Errorf("reasons %v of LRU, want demand and room", got)
	}
}

// A model whose pages are cached is there at once when it is asked for: idle reading is
// for those that are not.
func TestPlan_ModelIsCached_AnotherIsPrefetched(t *testing.T) {
	fetched := func(cached tier.Bytes) (names []string) {
		l := New()
		v := viewOf(gigabytes(t, 6), 2, 2)
		l.Plan(v, nil)
		used(l, 0, 4, 5, 4, 5, 4, 5, 4, 5, 4)
		v.States[4].Cached = cached
		for _, s := range l.Plan(v, nil).Steps {
			if s.To == tier.RAM {
				names = append(names, s.Model.Name)
			}
		}
		return names
	}
	if got := fetched(0); len(got) == 0 || got[0] == "m5" && len(got) == 1 {
		t.Fatalf("without cached pages it brings %q to ram", got)
	}
	if got := fetched(1e9); len(got) != 1 || got[0] != "m5" {
		t.Errorf("though m4 is cached it brings %q to ram", got)
	}
}

func TestHint_ModelReplacedByAnother_IsForgotten(t *testing.T) {
	view := func(name string) *tier.View {
		lib, err := tier.NewLibrary([]tier.Model{{Name: name, Size: 1e9}})
		if err != nil {
			t.Fatal(err)
		}
		v := viewOf(lib, 0, 0)
		v.Room = tier.Footprint{tier.Swap: 4e9, tier.RAM: 4e9}
		return v
	}
	l := New()
	announced, other := view("announced"), view("other")
	l.Plan(announced, nil)
	l.Hint("announced", 1, time.Hour, noon)
	if plan := l.Plan(announced, nil); len(plan.Steps) == 0 {
		t.Fatal("a model that was announced is not prefetched")
	}
	if plan := l.Plan(other, nil); len(plan.Steps) > 0 {
		t.Errorf("a model is prefetched by the hint for one that is gone: %q", plan.Steps[0].Why)
	}
}

// The first hints of a program come before the first plan.
func TestHint_BeforeTheFirstView_CountsIfThereIsSuchAModel(t *testing.T) {
	l := New()
	for k := range 2 * maxHints {
		l.Hint(fmt.Sprint("nowhere", k), 1, time.Hour, noon)
	}
	if n := len(l.learner.est.uses); n > maxHints {
		t.Errorf("%d models are remembered that were never seen", n)
	}
	l = New()
	l.Hint("m1", 1, time.Hour, noon)
	v := viewOf(gigabytes(t, 3), 0, 0)
	v.Room = tier.Footprint{tier.Swap: 4e9, tier.RAM: 4e9}
	if plan := l.Plan(v, nil); len(plan.Steps) == 0 || plan.Steps[0].Model.Name != "m1" {
		t.Errorf("%+v", plan.Steps)
	}
}

func TestUnmarshalBinary_AnEarlierState_GoesOnAsBefore(t *testing.T) {
	lib := gigabytes(t, 8)
	l := New()
	v := viewOf(lib, 2, 2)
	l.Plan(v, nil)
	used(l, 0, 1, 7, 0, 1, 7, 7, 5, 0, 7)
	l.Hint("m3", 1, time.Minute, noon.Add(-2*time.Minute))
	l.Moved([]tier.Moved{{Move: tier.Move{Model: *lib.At(1), To: tier.RAM}, Bytes: 1e9, Took: 3 * time.Second}})
	l.Plan(v, nil) // the hint ran out
	state, err := l.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	other := New()
	if err := other.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	if again, err := other.MarshalBinary(); err != nil || !reflect.DeepEqual(again, state) {
		t.Errorf("what was taken in is not what comes out again: %v", err)
	}
	for _, need := range []*tier.Need{nil, {Model: 6, Waiters: 1}} {
		if a, b := l.Plan(v, need), other.Plan(v, need); !reflect.DeepEqual(a, b) {
			t.Errorf("need %v: plans differ: %v and %v", need, a.Steps, b.Steps)
		}
	}
	if a, b := l.Insight(), other.Insight(); a != b {
		t.Errorf("insight %+v, %+v after the restart", a, b)
	}
}

func TestUnmarshalBinary_WhatItCannotRead_IsRefusedAndChangesNothing(t *testing.T) {
	l := New()
	l.Plan(viewOf(gigabytes(t, 4), 1, 1), nil)
	used(l, 0, 1, 2)
	state, err := l.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte(nil), state...)
	broken[len(broken)/2] ^= 1
	older := append([]byte("mtl2"), state[4:len(state)-4]...)
	older = binary.LittleEndian.AppendUint32(older, crc32.ChecksumIEEE(older))
	for name, data := range map[string][]byte{
		"nothing": nil, "an older version": older, "half": state[:len(state)/2], "a flipped bit": broken,
	} {
		if err := l.UnmarshalBinary(data); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := l.MarshalBinary(); err != nil || !reflect.DeepEqual(again, state) {
		t.Errorf("something changed: %v", err)
	}
}

// What is in the page cache is not read, but an engine takes as long to start: of two
// frozen ones, the one that is due later is stopped.
func TestPlan_FrozenEngineIsCached_ItsStartIsWorthAsMuch(t *testing.T) {
	lib := gigabytes(t, 3)
	l := New()
	for range 3 {
		for i := range 2 {
			l.Moved([]tier.Moved{
				{Move: tier.Move{Model: *lib.At(i), To: tier.RAM}, Bytes: 1e9, Took: 6 * time.Second, Read: time.Second},
				{Move: tier.Move{Model: *lib.At(i), From: tier.Swap, To: tier.RAM}, Bytes: 1e9, Took: time.Second},
			})
		}
	}
	used(l, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0) // m1 is due
	v := viewOf(lib, 0, 2)
	for i := range v.States {
		v.States[i] = tier.State{Tier: v.States[i].Tier}
	}
	for _, cached := range []tier.Bytes{0, 1e9} {
		v.States[1].Cached = cached
		p := l.Plan(v, &tier.Need{Model: 2, To: tier.Swap})
		if p.Err != nil || len(p.Steps) == 0 || p.Steps[0].Model.Name != "m0" {
			t.Errorf("%d cached: %+v, want m0 to leave first", cached, p)
		}
	}
}

func TestAccessed_ManyUsesAtOnce_AllCountAndFewTeach(t *testing.T) {
	lib := gigabytes(t, 8)
	var uses []tier.Access
	for k := range 10 * maxLessons {
		uses = append(uses, tier.Access{Model: fmt.Sprint("m", k*k%7), At: noon.Add(time.Duration(k) * time.Millisecond)})
	}
	each, atOnce := New(), New()
	for _, l := range []*Learned{each, atOnce} {
		l.Plan(viewOf(lib, 2, 2), nil) // it knows the library
	}
	for _, a := range uses {
		each.Accessed([]tier.Access{a})
	}
	atOnce.Accessed(uses)
	for _, m := range lib.All() {
		want, _ := each.Usage(m.Name, noon.Add(time.Minute))
		if got, _ := atOnce.Usage(m.Name, noon.Add(time.Minute)); got != want {
			t.Errorf("told at once it knows %+v, want %+v", got, want)
		}
	}
	// The first of them has no lesson to go by.
	if n := atOnce.learner.est.asked; n > maxLessons-1 || n < 0.9*maxLessons {
		t.Errorf("%.1f uses taught in what order models are asked for, want %d", n, maxLessons-1)
	}
}
