package policies

import (
	"iter"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Found is where one request found the bytes of its model.
type Found struct {
	RAM, Swap, Storage tier.Bytes
	// Moved is the bytes that came to ram or swap at this request.
	Moved tier.Bytes
}

// Wait returns the seconds that the request waited, at that many seconds for each
// byte found in ram, swap and storage.
func (f *Found) Wait(ram, swap, storage float64) float64 {
	return ram*float64(f.RAM) + swap*float64(f.Swap) + storage*float64(f.Storage)
}

// resident is a model with bytes in memory.
type resident struct {
	model     int32
	next      int // the place of its next request
	ram, swap tier.Bytes
}

// Belady yields for each request where it found its model, with that many bytes of
// ram and swap. who are the requests in order, each an index of sizes; negative
// sizes count as none. It takes O(models in memory) for a request.
func Belady(sizes []tier.Bytes, who []int32, ram, swap tier.Bytes) iter.Seq[Found] {
	next := nextUses(len(sizes), who)
	return func(yield func(Found) bool) {
		var in []resident // soonest first
		for k, model := range who {
			at := slices.IndexFunc(in, func(r resident) bool { return r.model == model })
			r := resident{model: model}
			if at >= 0 {
				r = in[at]
				in = slices.Delete(in, at, at+1)
			}
			size := max(sizes[model], 0)
			found := Found{RAM: r.ram, Swap: r.swap, Storage: size - r.ram - r.swap}
			r.next = next[k]
			at, _ = slices.BinarySearchFunc(in, r.next, func(r resident, next int) int { return r.next - next })
			in = slices.Insert(in, at, r)
			in, found.Moved = arrange(in, model, size, ram, swap)
			if !yield(found) {
				return
			}
		}
	}
}

// arrange places the bytes of the models in memory, soonest highest, and drops the
// models that have none left. All bytes of the wanted model are available.
func arrange(in []resident, wanted int32, size, ram, swap tier.Bytes) (left []resident, moved tier.Bytes) {
	left = in[:0]
	for _, r := range in {
		up, below := r.ram, r.swap
		if r.model == wanted {
			up, below = size, 0
		}
		x := min(up, ram)
		y := min(below+up-x, swap)
		ram, swap = ram-x, swap-y
		moved += max(x-r.ram, 0) + max(y-r.swap, 0)
		if r.ram, r.swap = x, y; x+y > 0 {
			left = append(left, r)
		}
	}
	return left, moved
}

// nextUses returns for each request the place of the next one for the same model.
// Models that are never asked for again come last, each at a place of its own.
func nextUses(models int, who []int32) []int {
	soonest := make([]int, models)
	for i := range soonest {
		soonest[i] = len(who) + i
	}
	next := make([]int, len(who))
	for k := len(who) - 1; k >= 0; k-- {
		next[k] = soonest[who[k]]
		soonest[who[k]] = k
	}
	return next
}
