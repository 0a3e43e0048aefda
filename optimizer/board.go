package optimizer

import (
	"github.com/modeltier/modeltier/tier"
)

// place is where a model's bytes are, or should be.
type place struct {
	tier tier.Tier
	// ram and swap are the weights present in memory and the weights held in swap.
	// The rest is in storage; there is such a rest only in storage itself, and in
	// swap where the contract allows it.
	ram, swap tier.Bytes
	// serving: it is to be leased there, which takes its Runtime bytes.
	serving bool
}

// held is the part of the weights that is in either memory tier.
func (p place) held() tier.Bytes { return p.ram + p.swap }

// item is one model that a plan may move.
type item struct {
	index     int32
	wanted    bool
	divisible bool // it can be present in part
	leaves    bool // a part of it can be left in storage
	inPlace   bool // it can be served from swap
	swapOnly  bool // it is decided that it is not in ram
	model     *tier.Model
	from, to  place
	// rate is the requests a second that are expected for it, hinted says that
	// hints have a part in that. saveHot and saveWarm are the seconds of waiting
	// that a byte of it saves at a request in ram instead of swap, and in swap
	// instead of storage.
	rate              float64
	hinted            bool
	saveHot, saveWarm float64
	// hot and warm are what a byte is worth: the same, for each second of time.
	hot, warm float64
	// expected is the waiting that an improvement of its place is to save, by the
	// odds that its next request comes in time.
	expected float64
}

// seconds is the waiting that the model's bytes at p save at its next request.
func (it *item) seconds(p place) float64 {
	return it.saveHot*float64(p.ram) + it.saveWarm*float64(p.held())
}

// charge returns what the model charges at p.
func (it *item) charge(p place) tier.Footprint {
	f := tier.Footprint{tier.Swap: p.swap, tier.RAM: p.ram}
	if p.tier == tier.RAM || p.serving {
		f[tier.RAM] = f[tier.RAM].Plus(it.model.Runtime)
	}
	return f
}

// stays reports whether p and q are the same to a mover.
func stays(p, q place) bool {
	return p.tier == q.tier && p.ram == q.ram && p.swap == q.swap
}

// maxBytes bounds every amount on a board, such as the room that an unlimited
// account leaves, and the sum of what its items charge. Sums of a few of them fit
// in 63 bits, so that no arithmetic on a board can overflow.
const maxBytes tier.Bytes = 1 << 58

// bounded returns f with every amount brought between -maxBytes and maxBytes.
func bounded(f tier.Footprint) tier.Footprint {
	for a, n := range f {
		f[a] = min(max(n, -maxBytes), maxBytes)
	}
	return f
}

// board is the part of a View that one plan plays on: the models that it may
// move, and the room that they share. Models under lease, in a move, pinned or
// stuck are not on it, and the room that they hold is not in its capacity.
type board struct {
	view *tier.View
	// items are the movable models in memory, and the wanted one.
	items []item
	// wanted is the wanted model's place in items, or -1; to is the tier that it
	// is wanted in, Storage where the plan is free to choose.
	wanted int
	to     tier.Tier
	// room is what is free now, capacity what would be if every item left.
	room, capacity tier.Footprint
	charged        tier.Bytes // by all items together
}

// set lays out the board for a need; a nil need, or one for room alone, wants no
// model. With drainable, models under lease may be moved as well.
func (b *board) set(v *tier.View, need *tier.Need, drainable bool) {
	*b = board{view: v, items: b.items[:0], wanted: tier.NoModel, room: bounded(v.Room)}
	want := tier.NoModel
	if need != nil {
		want = need.Model
		b.to = need.To
		b.room = b.room.Minus(bounded(need.Room))
	}
	b.capacity = b.room
	for i := range v.States {
		if i == want {
			b.wanted = len(b.items)
			b.add(i)
			b.items[b.wanted].wanted = true
		} else if v.States[i].Tier != tier.Storage && (v.Evictable(i) || drainable && v.Drainable(i)) {
			b.add(i)
		}
	}
}

// add puts model i on the board. A model so large that sums could overflow is
// left where it is.
func (b *board) add(i int) {
	s := &b.view.States[i]
	m := b.view.Library.At(i)
	it := item{
		index: int32(i), divisible: s.Divisible, leaves: s.Divisible && s.Leaves, inPlace: s.InPlace,
		model: m,
		from:  place{tier: s.Tier},
	}
	switch s.Tier {
	case tier.RAM:
		it.from.ram = m.Size
	case tier.Swap:
		it.from.ram, it.from.serving = s.Kept, s.Serving
		it.from.swap = m.Size - s.Kept - s.Left
	}
	it.to = it.from
	total := b.charged.Plus(m.Size).Plus(m.Runtime)
	if total > maxBytes && b.wanted != len(b.items) {
		return
	}
	b.charged = min(total, maxBytes)
	b.capacity = b.capacity.Plus(it.charge(it.from))
	b.items = append(b.items, it)
	if it.from.serving && len(b.items)-1 != b.wanted {
		// Its Runtime bytes are free only once it moves, which is not certain.
		b.capacity[tier.RAM] -= m.Runtime
	}
}
