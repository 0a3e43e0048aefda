package selector

import (
	"fmt"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// check is every rule that the index of a snapshot keeps.
func (st *snapshot) check() error {
	if len(st.entries) != st.library.Len() || len(st.bySize) != len(st.entries) {
		return fmt.Errorf("%d entries, %d by size, %d models", len(st.entries), len(st.bySize), st.library.Len())
	}
	for i, en := range st.entries {
		if m := st.library.At(i); en.size != m.Size || en.need != m.Size+m.Runtime || en.home != m.Home {
			return fmt.Errorf("entry %d is not of model %s: %+v", i, m.Name, en)
		}
	}
	for k := 1; k < len(st.bySize); k++ {
		a, b := st.bySize[k-1], st.bySize[k]
		if en := st.entries[b.model]; b.size != en.size || b.home != en.home || a.size > b.size || a.size == b.size && a.model >= b.model {
			return fmt.Errorf("model %d stands at the wrong place by size", b.model)
		}
	}
	return nil
}

func TestSnapshot_LibraryAfterLibrary_IndexedLikeNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lib := drawLibrary(t)
		var st *snapshot
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			last := st
			st = newSnapshot(viewOf(lib), last)
			for _, s := range []*snapshot{st, last} {
				if s == nil {
					continue
				}
				if err := s.check(); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				switch rapid.IntRange(0, 2).Draw(t, "change") {
				case 0:
					if lib.Len() > 1 {
						lib = lib.Without(lib.At(rapid.IntRange(0, lib.Len()-1).Draw(t, "which")).Name)
					}
				case 1:
					lib = lib.With(drawModel(t, lib.At(rapid.IntRange(0, lib.Len()-1).Draw(t, "which")).Name))
				default:
					lib = lib.With(drawModel(t, fmt.Sprint("new", step)))
				}
			}
		}
	})
}

// What the index of one library goes over to the next by is not shared by two that
// follow it.
func TestSnapshot_TwoFromOne_DoNotShareWhatGrows(t *testing.T) {
	with := func(lib *tier.Library, name string, size tier.Bytes) *tier.Library {
		return lib.With(tier.Model{Name: name, Size: size, Home: tier.RAM})
	}
	lib := newLibrary(t, recordedModels()...)
	last := newSnapshot(viewOf(lib), nil)
	one := newSnapshot(viewOf(with(lib, "small", 1)), last)
	two := newSnapshot(viewOf(with(lib, "large", 8*tier.GiB)), last)
	for _, st := range []*snapshot{last, one, two} {
		if err := st.check(); err != nil {
			t.Error(err)
		}
	}
}
