package selector

import (
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// check is every rule that an index keeps.
func (x *index) check(tax *taxonomy, seed maphash.Seed) error {
	users := make([]int32, len(x.sets))
	for i := range x.entries {
		en, m := &x.entries[i], x.lib.At(i)
		if int(en.model) != i || en.size != m.Size || en.need != m.Size+m.Runtime || en.home != m.Home {
			return fmt.Errorf("entry %d is not of model %s: %+v", i, m.Name, *en)
		}
		if !slices.Equal(x.sets[en.set].declared, m.Capabilities) {
			return fmt.Errorf("model %s has the set of %v", m.Name, x.sets[en.set].declared)
		}
		users[en.set]++
	}
	if !slices.Equal(users, x.users) {
		return fmt.Errorf("users of the sets are %v, not %v", users, x.users)
	}
	for i := range x.sets {
		y := index{sets: x.sets, interned: x.interned}
		if s := y.intern(x.sets[i].declared, tax, seed, true); int(s) != i {
			return fmt.Errorf("set %d is found at %d", i, s)
		}
	}
	if len(x.interned) != len(x.sets) {
		return fmt.Errorf("%d sets, %d are interned", len(x.sets), len(x.interned))
	}
	n := 0
	for home, list := range x.bySize {
		n += len(list)
		for k, i := range list {
			en := &x.entries[i]
			if int(en.home) != home || k > 0 && (x.entries[list[k-1]].size > en.size || x.entries[list[k-1]].size == en.size && list[k-1] >= i) {
				return fmt.Errorf("model %d stands at the wrong place by size", i)
			}
		}
	}
	if n != len(x.entries) {
		return fmt.Errorf("%d models by size, there are %d", n, len(x.entries))
	}
	return nil
}

func TestIndex_LibraryAfterLibrary_RenewedLikeNew(t *testing.T) {
	tax, _ := DefaultTaxonomy().compile()
	seed := maphash.MakeSeed()
	rapid.Check(t, func(t *rapid.T) {
		lib := drawLibrary(t)
		var x *index
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			before := x
			x = newIndex(lib, &tax, seed, x)
			for _, y := range []*index{x, before} {
				if y == nil {
					continue
				}
				if err := y.check(&tax, seed); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			if rapid.Bool().Draw(t, "remove") && lib.Len() > 0 {
				lib = lib.Without(lib.At(rapid.IntRange(0, lib.Len()-1).Draw(t, "which")).Name)
			} else {
				lib = lib.With(drawModel(t, fmt.Sprint("new", step)))
			}
		}
	})
}

func TestIndex_TwoFromOne_DoNotShareWhatGrows(t *testing.T) {
	tax, _ := DefaultTaxonomy().compile()
	seed := maphash.MakeSeed()
	with := func(lib *tier.Library, capability string) *tier.Library {
		return lib.With(tier.Model{Name: capability, Size: 1, Capabilities: []string{capability}})
	}
	lib := newLibrary(t, recordedModels()...)
	was := newIndex(with(lib, "0"), &tax, seed, newIndex(lib, &tax, seed, nil)) // its slices have room to grow
	one := newIndex(with(was.lib, "1"), &tax, seed, was)
	two := newIndex(with(was.lib, "2"), &tax, seed, was)
	for _, x := range []*index{was, one, two} {
		if err := x.check(&tax, seed); err != nil {
			t.Error(err)
		}
	}
}

func TestIndex_CapabilitiesComeAndGo_AreForgotten(t *testing.T) {
	tax, _ := DefaultTaxonomy().compile()
	seed := maphash.MakeSeed()
	base := newLibrary(t, recordedModels()...)
	x := newIndex(base, &tax, seed, nil)
	for i := range 1000 {
		x = newIndex(base.With(tier.Model{Name: "guest", Size: 1, Capabilities: []string{fmt.Sprint("c", i)}}), &tax, seed, x)
	}
	if len(x.sets) > 2*(base.Len()+1) {
		t.Errorf("%d sets are kept for %d models", len(x.sets), base.Len()+1)
	}
	if err := x.check(&tax, seed); err != nil {
		t.Error(err)
	}
}
