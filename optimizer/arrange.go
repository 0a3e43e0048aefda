package optimizer

import (
	"cmp"
	"math"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// place is where the bytes of a model are, or should be.
type place struct {
	tier tier.Tier
	// ram and swap are the weights present in memory and the weights held in swap.
	// The rest is in storage. In Swap there is such a rest only for items that leave.
	ram, swap tier.Bytes
	// serving: the model is to be leased there, which takes its Runtime bytes.
	serving bool
}

// held is the part of the weights that is in either memory tier.
func (p place) held() tier.Bytes { return p.ram + p.swap }

// sameMove reports whether p and q are the same to a Mover.
func (p place) sameMove(q place) bool {
	return p.tier == q.tier && p.ram == q.ram && p.swap == q.swap
}

// item is one model that a plan may move.
type item struct {
	index     int32
	wanted    bool
	divisible bool // it can be present in part
	leaves    bool // a part of it can be left in storage
	inPlace   bool // it can be served from swap
	swapOnly  bool // the search has decided that it is not in ram
	model     *tier.Model
	from, to  place
	cached    float64 // share of what it has below ram that is in the page cache
	// rate is the requests a second expected for it; hinted: hints contribute to it.
	// saveHot and saveWarm are the seconds of waiting that a byte of it saves at a
	// request in ram instead of swap, and in swap instead of storage.
	rate              float64
	hinted            bool
	saveHot, saveWarm float64
	// hot and warm are what a byte is worth in ram and in swap: the seconds saved,
	// for each second of time.
	hot, warm float64
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

// maxBytes bounds every amount on a board, such as the room that an unlimited
// account leaves, and the sum of what its items charge. Sums of a few of them fit
// in 63 bits, so that no arithmetic on a board overflows.
const maxBytes tier.Bytes = 1 << 58

// bounded returns f with every amount brought between -maxBytes and maxBytes.
func bounded(f tier.Footprint) tier.Footprint {
	for a, n := range f {
		f[a] = min(max(n, -maxBytes), maxBytes)
	}
	return f
}

// board is the part of a View that one plan works on: the models that it may
// move, and the room that they share. Models under lease, in a move, pinned or
// stuck are not on it, and the room that they hold is not in its capacity.
type board struct {
	view *tier.View
	// items are the movable models in memory, and the wanted one.
	items []item
	// wanted is the place of the wanted model in items, or tier.NoModel; to is the
	// tier that it is wanted in, Storage if the plan is free to choose.
	wanted int
	to     tier.Tier
	// room is what is free now, capacity what would be if every item left.
	room, capacity tier.Footprint
	charged        tier.Bytes // by all items together
}

// set lays out the board for a need. A nil need, or one for room alone, wants no
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

// add puts model i on the board. A model that is not wanted and so large that sums
// could overflow stays where it is.
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
	if below := m.Size - it.from.ram; below > 0 {
		it.cached = min(float64(max(s.Cached, 0))/float64(below), 1)
	}
	it.to = it.from
	wanted := b.wanted == len(b.items)
	total := b.charged.Plus(m.Size).Plus(m.Runtime)
	if total > maxBytes && !wanted {
		return
	}
	b.charged = min(total, maxBytes)
	b.capacity = b.capacity.Plus(it.charge(it.from))
	b.items = append(b.items, it)
	if it.from.serving && !wanted {
		// Its Runtime bytes are free only once it moves, which is not certain.
		b.capacity[tier.RAM] -= m.Runtime
	}
}

// arranger decides where every model on a board should be. Its slices are scratch
// that lives from plan to plan.
type arranger struct {
	board
	hot   []int32 // items by the worth of a byte in ram, highest first
	cold  []int32 // items by the worth of a byte in swap, lowest first
	quota []tier.Bytes
	// maxRAM and maxSwap are what the items may take: the capacity, less what the
	// wanted model needs beyond its weights and what is to stay free.
	maxRAM, maxSwap tier.Bytes
}

// greedy sets the place of every item so that the wanted model can be served and
// all of them fit, at little loss of worth: the bytes that are worth least leave
// memory, and of what stays the bytes that are worth most are in ram. Only the
// wanted model gains bytes, except that bytes go up into free ram rather than
// out. spare is room to leave free in swap. It reports whether it found a way.
func (a *arranger) greedy(spare tier.Bytes) bool {
	a.sort()
	a.maxRAM, a.maxSwap = a.capacity[tier.RAM], a.capacity[tier.Swap]-spare
	if a.wanted >= 0 && a.board.to != tier.Swap {
		a.maxRAM -= a.items[a.wanted].model.Runtime
	}
	if a.maxRAM < 0 || a.maxSwap < 0 {
		return false
	}
	a.claim()
	over := a.excess()
	const exactRounds = 8 // later ones double what they cut, so that it ends
	for round := 0; ; round++ {
		for range round - exactRounds {
			over = min(2*over, 4*maxBytes)
		}
		if !a.cut(over, true) {
			return false
		}
		var ok bool
		if over, ok = a.fill(a.maxRAM, a.maxSwap); !ok {
			return false
		}
		if over <= 0 {
			return true
		}
	}
}

// claim is what the item is to have in memory if there is room: the bytes that it
// has there, and all bytes of the wanted one.
func (it *item) claim() tier.Bytes {
	if it.wanted {
		return it.model.Size
	}
	return it.from.held()
}

// claim gives every item the quota that it claims.
func (a *arranger) claim() {
	a.quota = a.quota[:0]
	for i := range a.items {
		a.quota = append(a.quota, a.items[i].claim())
	}
}

// excess is by how much the quotas are more than there is.
func (a *arranger) excess() tier.Bytes {
	over := -(a.maxRAM + a.maxSwap)
	for _, q := range a.quota {
		over += q
	}
	return over
}

// worth is what the items are worth where they are to be.
func (a *arranger) worth() (sum float64) {
	for i := range a.items {
		it := &a.items[i]
		sum += it.hot*float64(it.to.ram) + it.warm*float64(it.to.held())
	}
	return sum
}

// sort orders the items by worth. Ties go by index, so that equal views give
// equal plans.
func (a *arranger) sort() {
	a.hot, a.cold = a.hot[:0], a.cold[:0]
	for i := range a.items {
		a.hot = append(a.hot, int32(i))
		a.cold = append(a.cold, int32(i))
	}
	slices.SortFunc(a.hot, func(i, j int32) int {
		return cmp.Or(cmp.Compare(a.items[j].hot, a.items[i].hot), cmp.Compare(i, j))
	})
	slices.SortFunc(a.cold, func(i, j int32) int {
		return cmp.Or(cmp.Compare(a.items[i].warm, a.items[j].warm), cmp.Compare(i, j))
	})
}

// servableInPlace reports whether the wanted model may be served while a part of
// it, or all of it, is left in storage.
func (a *arranger) servableInPlace(it *item) bool {
	return it.leaves && it.inPlace && a.to == tier.Storage
}

// cut takes over bytes off the quotas, the bytes that are worth least first. With
// whole, models that cannot be cut may go. It reports whether that was enough.
func (a *arranger) cut(over tier.Bytes, whole bool) bool {
	for _, i := range a.cold {
		if over <= 0 {
			break
		}
		it := &a.items[i]
		if it.wanted && !a.servableInPlace(it) || !it.leaves && !whole {
			continue
		}
		give := a.quota[i]
		if it.leaves {
			give = min(give, over)
		}
		a.quota[i] -= give
		over -= give
	}
	return over <= 0
}

// fill gives ram and swap to the quotas, and returns how much of them was left
// over. It reports false if the wanted model cannot be placed.
func (a *arranger) fill(ram, swap tier.Bytes) (over tier.Bytes, ok bool) {
	if a.wanted >= 0 {
		it := &a.items[a.wanted]
		if it.to = a.inSwap(it); a.to == tier.RAM || !it.inPlace && a.to == tier.Storage {
			it.to = place{tier: tier.RAM, ram: it.model.Size}
			if ram -= it.to.ram; ram < 0 {
				return 0, false
			}
		}
	}
	for _, i := range a.hot {
		it := &a.items[i]
		if it.wanted && it.to.tier == tier.RAM {
			continue
		}
		ram -= a.present(i, ram, swap)
	}
	for k := len(a.cold) - 1; k >= 0; k-- {
		i := a.cold[k]
		it := &a.items[i]
		if it.to.tier != tier.Swap {
			continue
		}
		rest := a.quota[i] - it.to.ram
		it.to.swap = min(rest, max(swap, 0))
		if !it.divisible && it.to.swap < rest {
			it.to.swap = 0
		}
		rest -= it.to.swap
		swap -= it.to.swap
		if up := min(rest, ram); up > 0 && it.divisible {
			it.to.ram += up
			ram -= up
			rest -= up
		}
		switch {
		case rest > 0 && it.leaves && (!it.wanted || a.servableInPlace(it)):
			a.quota[i] -= rest
		case rest > 0:
			over += rest
		}
		if it.to.held() == 0 && !it.wanted && it.model.Size > 0 {
			it.to = place{}
		}
	}
	return over, true
}

// inSwap is an empty place in swap; the wanted model is served there, unless the
// need is to have it in that tier and no more.
func (a *arranger) inSwap(it *item) place {
	return place{tier: tier.Swap, serving: it.wanted && a.to == tier.Storage}
}

// present places as much of item i in ram as may be there, and returns what that
// takes of ram.
func (a *arranger) present(i int32, ram, swap tier.Bytes) tier.Bytes {
	it := &a.items[i]
	size, takes, limit := it.model.Size, it.model.Size, it.from.ram
	switch {
	case it.wanted && a.to == tier.Swap:
		limit = max(size-swap, 0)
	case it.wanted:
		limit = size // its Runtime is set aside already
	default:
		takes += it.model.Runtime
	}
	if a.quota[i] == 0 && size > 0 {
		it.to = place{}
		if it.wanted {
			it.to = a.inSwap(it)
		}
		return 0
	}
	if it.swapOnly {
		it.to = a.inSwap(it)
		return 0
	}
	if a.quota[i] == size && limit == size && takes <= ram && (it.wanted && a.to != tier.Swap || !it.wanted && it.from.tier == tier.RAM) {
		it.to = place{tier: tier.RAM, ram: size}
		return takes
	}
	it.to = a.inSwap(it)
	if it.divisible {
		it.to.ram = min(limit, a.quota[i], max(ram, 0))
	}
	return it.to.ram
}

// finite replaces a value that went out of range, which would spoil an order.
func finite(x float64) float64 {
	if math.IsNaN(x) || x < 0 {
		return 0
	}
	return min(x, math.MaxFloat64/4)
}
