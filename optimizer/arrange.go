package optimizer

import (
	"cmp"
	"math"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// arranger finds where every model on a board should be. Its slices are scratch
// that lives from plan to plan.
type arranger struct {
	board
	hot   []int32 // items by the worth of a byte in ram, most first
	cold  []int32 // items by the worth of a byte in swap, least first
	quota []tier.Bytes
	// ramMost and swapMost are what the items may take: the capacity, less what the
	// wanted model needs beyond its weights and what is to stay free.
	ramMost, swapMost tier.Bytes
}

// greedy sets every item's place so that the wanted model can be served and all
// of them fit, at little loss of worth: the bytes that are worth least leave
// memory, and of what stays the bytes that are worth most are in ram. Nothing but
// the wanted model gains bytes, except that bytes go up into free ram rather
// than out. spare is room to leave free in swap. It reports whether there is a
// way.
func (a *arranger) greedy(spare tier.Bytes) bool {
	a.sort()
	a.ramMost, a.swapMost = a.capacity[tier.RAM], a.capacity[tier.Swap]-spare
	if a.wanted >= 0 && a.board.to != tier.Swap {
		a.ramMost -= a.items[a.wanted].model.Runtime
	}
	if a.ramMost < 0 || a.swapMost < 0 {
		return false
	}
	a.claim()
	over := -a.ramMost.Plus(a.swapMost)
	for _, q := range a.quota {
		over = over.Plus(q)
	}
	const exactRounds = 8 // further ones double what they cut, so that it ends
	for round := 0; ; round++ {
		for range round - exactRounds {
			over = min(2*over, 4*maxBytes)
		}
		if !a.cut(over, round < exactRounds) {
			return false
		}
		var ok bool
		if over, ok = a.fill(a.ramMost, a.swapMost); !ok {
			return false
		}
		if over <= 0 {
			return true
		}
	}
}

// claim gives every item the quota of the bytes that it has in memory, and the
// wanted one that of all its bytes.
func (a *arranger) claim() {
	a.quota = a.quota[:0]
	for i := range a.items {
		it := &a.items[i]
		q := it.from.held()
		if it.wanted {
			q = it.model.Size
		}
		a.quota = append(a.quota, q)
	}
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

// streams reports whether the wanted model may be served with a part of it, or
// all of it, left in storage.
func (a *arranger) streams(it *item) bool {
	return it.leaves && it.inPlace && a.to == tier.Storage
}

// cut takes over bytes off the quotas, the bytes that are worth least first.
// Where only whole models can go, it takes back at the end what was more than
// needed, most worth first.
func (a *arranger) cut(over tier.Bytes, takeBack bool) bool {
	if over <= 0 {
		return true
	}
	last := -1
	for k, i := range a.cold {
		it := &a.items[i]
		if it.wanted && !a.streams(it) {
			continue
		}
		give := a.quota[i]
		if it.leaves {
			give = min(give, over)
		}
		a.quota[i] -= give
		if over -= give; over <= 0 {
			last = k
			break
		}
	}
	for k := last; k >= 0 && over < 0 && takeBack; k-- {
		i := a.cold[k]
		if it := &a.items[i]; !it.wanted && a.quota[i] == 0 && it.from.held() > 0 && it.from.held() <= -over {
			a.quota[i] = it.from.held()
			over += a.quota[i]
		}
	}
	return last >= 0
}

// fill gives ram and swap to the quotas, and returns how much of them was left
// over. It reports false where the wanted model cannot be placed.
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
		case rest > 0 && it.leaves && (!it.wanted || a.streams(it)):
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

// present places item i in ram, as much of it as may be there, and returns what
// that takes of ram.
func (a *arranger) present(i int32, ram, swap tier.Bytes) tier.Bytes {
	it := &a.items[i]
	size, takes, most := it.model.Size, it.model.Size, it.from.ram
	switch {
	case it.wanted && a.to == tier.Swap:
		most = max(size-swap, 0)
	case it.wanted:
		most = size // its runtime is set aside already
	default:
		takes = takes.Plus(it.model.Runtime)
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
	if a.quota[i] == size && most == size && takes <= ram && (it.wanted && a.to != tier.Swap || !it.wanted && it.from.tier == tier.RAM) {
		it.to = place{tier: tier.RAM, ram: size}
		return takes
	}
	it.to = a.inSwap(it)
	if it.divisible {
		it.to.ram = min(most, a.quota[i], max(ram, 0))
	}
	return it.to.ram
}

// finite keeps a rate that went out of range from spoiling an order.
func finite(x float64) float64 {
	if math.IsNaN(x) || x < 0 {
		return 0
	}
	return min(x, math.MaxFloat64/4)
}
