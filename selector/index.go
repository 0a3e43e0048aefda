package selector

import (
	"cmp"
	"hash/maphash"
	"maps"
	"math/bits"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// index is what every ranking of one library is made from. It is never changed.
type index struct {
	lib *tier.Library
	// entries are the models in the order of the library.
	entries []entry
	// sets are the distinct lists of capabilities: far fewer than models, so a
	// request is matched against each of them once. interned finds them by hash; one
	// whose place is taken stands under the next number.
	sets     []capabilitySet
	interned map[uint64]int32
	// users is how many models have a set: sets outlive their last model for a while.
	users []int32
	// bySize are the models by home tier, in ascending order of size.
	bySize [tier.Count][]int32
}

// entry is what ranking needs of a model.
type entry struct {
	size  tier.Bytes
	need  tier.Bytes // size and runtime
	worth float64    // GB: the declared quality, else the size
	model int32      // its place in the library
	set   int32      // its place in index.sets
	home  tier.Tier
}

// capabilitySet is a list of capabilities that one or more models declare.
type capabilitySet struct {
	declared []string
	names    []string // what they go by, sorted, each once
	has      []string // those and all that they imply, sorted
}

// newIndex takes time in proportion to the library. was is the index of the
// library before, or nil: a model whose list of capabilities is the same slice
// as before, as it is after a hot load for all models but one, is known without
// looking at it again.
func newIndex(lib *tier.Library, tax *taxonomy, seed maphash.Seed, was *index) *index {
	x := &index{lib: lib, entries: make([]entry, lib.Len())}
	if was != nil {
		x.sets, x.interned = slices.Clip(was.sets), was.interned
	}
	known := len(x.sets) // of them stand in the map that was
	x.users = make([]int32, known)
	shift := 0 // models that left moved those behind them up
	var fresh []int32
	var place []int32 // of the models before; -1: gone, or of another size or home
	if was != nil {
		place = make([]int32, len(was.entries))
		for i := range place {
			place[i] = -1
		}
	}
	for i := range x.entries {
		m, en := lib.At(i), &x.entries[i]
		*en = entry{size: max(m.Size, 0), need: m.Size.Plus(m.Runtime), worth: m.Quality, model: int32(i), set: -1, home: m.Home}
		if !(en.worth > 0) {
			en.worth = en.size.GB()
		}
		if !en.home.Valid() {
			en.home = tier.Storage
		}
		for s := shift; was != nil && s <= shift+1 && i+s < len(was.entries); s++ {
			if sameSlice(m.Capabilities, was.lib.At(i+s).Capabilities) {
				en.set, shift = was.entries[i+s].set, s
				break
			}
		}
		if en.set >= 0 && was.entries[i+shift].size == en.size && was.entries[i+shift].home == en.home {
			place[i+shift] = int32(i)
		} else {
			fresh = append(fresh, int32(i))
		}
		if en.set < 0 {
			en.set = x.intern(m.Capabilities, tax, seed, len(x.sets) == known)
		}
		x.users[en.set]++
	}
	x.dropUnused(seed)
	if was == nil || len(fresh) > 8+len(x.entries)/16 {
		x.sort()
	} else {
		x.merge(was, place, fresh)
	}
	return x
}

// merge fills bySize from the order before and the few models that are fresh.
func (x *index) merge(was *index, place, fresh []int32) {
	before := func(a, b int32) int {
		return cmp.Or(cmp.Compare(x.entries[a].size, x.entries[b].size), cmp.Compare(a, b))
	}
	slices.SortFunc(fresh, before)
	for t := range x.bySize {
		list := make([]int32, 0, len(was.bySize[t])+len(fresh))
		rest := fresh
		next := func() bool { // drops the fresh models of other homes
			for len(rest) > 0 && x.entries[rest[0]].home != tier.Tier(t) {
				rest = rest[1:]
			}
			return len(rest) > 0
		}
		for _, old := range was.bySize[t] {
			i := place[old]
			if i < 0 {
				continue
			}
			for next() && before(rest[0], i) < 0 {
				list = append(list, rest[0])
				rest = rest[1:]
			}
			list = append(list, i)
		}
		for next() {
			list = append(list, rest[0])
			rest = rest[1:]
		}
		x.bySize[t] = list
	}
}

// intern returns the place of the set of those capabilities. shared says that the
// map is still that of the index before.
func (x *index) intern(declared []string, tax *taxonomy, seed maphash.Seed, shared bool) int32 {
	h := hashStrings(seed, 0, declared)
	for ; ; h++ {
		s, ok := x.interned[h]
		if !ok {
			break
		}
		if slices.Equal(x.sets[s].declared, declared) {
			return s
		}
	}
	switch {
	case x.interned == nil:
		x.interned = make(map[uint64]int32)
	case shared:
		x.interned = maps.Clone(x.interned)
	}
	s := int32(len(x.sets))
	x.interned[h] = s
	x.sets = append(x.sets, newCapabilitySet(declared, tax))
	x.users = append(x.users, 0)
	return s
}

// dropUnused forgets the sets that no model has any more once they are the
// larger part, so that an index does not grow with the history of its libraries.
func (x *index) dropUnused(seed maphash.Seed) {
	kept := 0
	for _, n := range x.users {
		if n > 0 {
			kept++
		}
	}
	if 2*kept >= len(x.sets) {
		return
	}
	sets, users := x.sets, x.users
	x.sets, x.users, x.interned = make([]capabilitySet, 0, kept), make([]int32, 0, kept), make(map[uint64]int32, kept)
	place := make([]int32, len(sets))
	for s, n := range users {
		if n == 0 {
			continue
		}
		h := hashStrings(seed, 0, sets[s].declared)
		for _, taken := x.interned[h]; taken; _, taken = x.interned[h] {
			h++
		}
		place[s] = int32(len(x.sets))
		x.interned[h] = place[s]
		x.sets, x.users = append(x.sets, sets[s]), append(x.users, n)
	}
	for i := range x.entries {
		x.entries[i].set = place[x.entries[i].set]
	}
}

// sort fills bySize from nothing, by a radix sort: comparing would take most of the
// millisecond that renewing 10 000 models may take.
func (x *index) sort() {
	const digit = 11 // bits
	type key struct {
		size  tier.Bytes
		model int32
	}
	var all tier.Bytes
	var count [tier.Count]int
	from, to := make([]key, len(x.entries)), make([]key, len(x.entries))
	for i := range x.entries {
		en := &x.entries[i]
		from[i] = key{en.size, int32(i)}
		all |= en.size
		count[en.home]++
	}
	for shift := 0; all>>shift != 0; shift += digit {
		var start [1 << digit]int32
		for i := range from {
			start[from[i].size>>shift&(1<<digit-1)]++
		}
		at := int32(0)
		for d, n := range start {
			start[d] = at
			at += n
		}
		for i := range from {
			d := from[i].size >> shift & (1<<digit - 1)
			to[start[d]] = from[i]
			start[d]++
		}
		from, to = to, from
	}
	for t := range x.bySize {
		x.bySize[t] = make([]int32, 0, count[t])
	}
	for _, k := range from {
		t := x.entries[k.model].home
		x.bySize[t] = append(x.bySize[t], k.model)
	}
}

// sameSlice reports whether a and b are one slice, and not only equal.
func sameSlice(a, b []string) bool {
	return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
}

func newCapabilitySet(declared []string, tax *taxonomy) capabilitySet {
	s := capabilitySet{declared: declared}
	for _, d := range declared {
		name := tax.name(d)
		s.names = append(s.names, name)
		s.has = append(append(s.has, name), tax.implied[name]...)
	}
	slices.Sort(s.names)
	slices.Sort(s.has)
	s.names, s.has = slices.Compact(s.names), slices.Compact(s.has)
	return s
}

// points is how a set of capabilities meets a request. Two words that are copied
// as one: with a third, each copy stalls, and ranking takes three times as long.
type points struct {
	shared int32 // required capabilities that it names itself; negative: it lacks one
	liked  int32 // preferences that it has, beyond those
}

func (p points) able() bool { return p.shared >= 0 }

// match compares the set with required and preferred names, each of them once.
func (s *capabilitySet) match(required, preferred []string) points {
	var p points
	for _, r := range required {
		if !holds(s.has, r) {
			return points{shared: -1}
		}
		if holds(s.names, r) {
			p.shared++
		}
	}
	for _, r := range preferred {
		if holds(s.has, r) {
			p.liked++
		}
	}
	return p
}

// holds reports whether the sorted list holds the name. Most lists are so short
// that looking at all is quickest.
func holds(list []string, name string) bool {
	if len(list) <= 16 {
		return slices.Contains(list, name)
	}
	_, ok := slices.BinarySearch(list, name)
	return ok
}

// hashStrings mixes the hash of every string of list into h.
func hashStrings(seed maphash.Seed, h uint64, list []string) uint64 {
	for _, s := range list {
		h = mix(h, maphash.String(seed, s))
	}
	return mix(h, uint64(len(list)))
}

// mix folds x into h, so that order counts.
func mix(h, x uint64) uint64 {
	return bits.RotateLeft64(h^x, 23) * 0x9e3779b97f4a7c15
}
