package selector

import (
	"cmp"
	"slices"
	"weak"

	"github.com/modeltier/modeltier/tier"
)

// snapshot is what is known of one library in one slice of states, whoever asks:
// which models are resident, and which cannot be served at all. It is made when
// either has changed, and is not changed afterwards.
type snapshot struct {
	library *tier.Library
	limits  tier.Limits
	// states identifies the slice by its first element. A View may not be kept after a
	// Select, so the pointer is weak; nothing else ever compares equal to it.
	states  weak.Pointer[tier.State]
	count   int
	entries []entry // in the order of the library
	bySize  []sized // ascending
	// resident are the models that need no new memory, out those that cannot be served
	// whatever memory there is; both ascending, and disjoint.
	resident, out []int32
	// inFlight is the bytes that are being read for others: loads on one device are
	// serial.
	inFlight tier.Bytes
	rankings *rankcache
}

// entry is what most steps need of a model, close together in memory.
type entry struct {
	size tier.Bytes
	need tier.Bytes // size and runtime
	home tier.Tier
}

type sized struct {
	size  tier.Bytes
	model int32
	home  tier.Tier
}

// snapshotOf returns the snapshot of v, whose library is not empty.
func (p *Policies) snapshotOf(v *tier.View) *snapshot {
	last := p.snapshot.Load()
	if last != nil && last.library == v.Library && last.limits == v.Limits &&
		last.count == len(v.States) && last.states.Value() == &v.States[0] {
		return last
	}
	st := newSnapshot(v, last)
	p.snapshot.Store(st)
	return st
}

// newSnapshot takes time in proportion to the library. It keeps of the last one
// what still holds.
func newSnapshot(v *tier.View, last *snapshot) *snapshot {
	st := &snapshot{library: v.Library, limits: v.Limits, states: weak.Make(&v.States[0]), count: len(v.States)}
	if last != nil && last.library == v.Library {
		st.entries, st.bySize = last.entries, last.bySize
	} else {
		st.index(last)
	}
	for i := range st.entries {
		s, en := &v.States[i], &st.entries[i]
		if s.Moving && s.To > s.Tier {
			gone, _ := missing(en.size, s)
			st.inFlight = st.inFlight.Plus(gone)
		}
		switch {
		case stuck(s) || tooLarge(v, en.size, en.need, s):
			st.out = append(st.out, int32(i))
		case resident(s):
			st.resident = append(st.resident, int32(i))
		}
	}
	if last != nil && last.library == v.Library && slices.Equal(last.out, st.out) {
		st.rankings = last.rankings
	} else {
		st.rankings = new(rankcache)
	}
	return st
}

// index fills entries and bySize. It sorts the order of the last library, adapted
// to models that were appended or removed: what is nearly sorted is sorted in linear
// time, and renewing 10 000 models may take a millisecond.
func (st *snapshot) index(last *snapshot) {
	n := st.library.Len()
	st.entries, st.bySize = make([]entry, n), make([]sized, 0, n)
	for i, m := range st.library.All() {
		st.entries[i] = entry{size: max(m.Size, 0), need: m.Size.Plus(m.Runtime), home: m.Home}
		if !m.Home.Valid() {
			st.entries[i].home = tier.Storage
		}
	}
	add := func(i int) {
		st.bySize = append(st.bySize, sized{st.entries[i].size, int32(i), st.entries[i].home})
	}
	known := 0
	if last != nil {
		known = min(n, len(last.entries))
		removed, first := len(last.entries)-known, 0 // taken to have been neighbours
		for removed > 0 && first < known && st.entries[first].size == last.entries[first].size {
			first++
		}
		for _, s := range last.bySize {
			if m := int(s.model); m >= first+removed {
				add(m - removed)
			} else if m < first || removed == 0 {
				add(m)
			}
		}
	}
	for i := known; i < n; i++ {
		add(i)
	}
	slices.SortFunc(st.bySize, func(a, b sized) int {
		if a.size != b.size {
			return cmp.Compare(a.size, b.size)
		}
		return cmp.Compare(a.model, b.model)
	})
}

// within returns the models that memory allows.
func (st *snapshot) within(v *tier.View, c ceilings) []int32 {
	var list []int32
	out := st.out
	for i := range st.entries {
		en := &st.entries[i]
		switch {
		case len(out) > 0 && int(out[0]) == i:
			out = out[1:]
		case en.size <= c[en.home] || resident(&v.States[i]):
			list = append(list, int32(i))
		}
	}
	return list
}

// missing returns how many bytes of weights are not present in memory, and the tier
// that they have to come from. A move under way counts as its colder end: what
// leaves may be gone, and what comes is not there yet.
func missing(size tier.Bytes, s *tier.State) (gone tier.Bytes, from tier.Tier) {
	from = s.Tier
	if s.Moving {
		from = min(from, s.To)
	}
	switch from {
	case tier.RAM:
		return 0, from
	case tier.Swap:
		return size - min(max(s.Kept, 0), size), from
	}
	return size, from
}
